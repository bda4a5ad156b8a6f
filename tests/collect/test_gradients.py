from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from ignite_act.collect import GradientCollector
from ignite_act.testing import FunctionalMLP, LinearModel, ResidualCNN, SharedReLU, batches

pytestmark = pytest.mark.usefixtures("loops")

ROUND_OFF = 1e-6


def seeded(model: Callable[[], nn.Module] = FunctionalMLP) -> Any:
    torch.manual_seed(0)
    return model()


def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


class Twin:
    """Notes every weight's gradient by hand, and averages as the design says."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.steps: dict[str, list[tuple[float, float]]] = {}

    def names(self) -> list[tuple[str, nn.Parameter]]:
        return [(name.removesuffix(".weight"), parameter) for name, parameter in self.model.named_parameters()]

    def note(self) -> None:
        for name, parameter in self.names():
            if parameter.grad is not None and parameter.ndim > 1:
                size = parameter.grad.abs().double()
                self.steps.setdefault(name, []).append((size.mean().item(), size.max().item()))

    def check(self, rows: dict[str, dict[str, Any]]) -> None:
        assert list(rows) == [name for name, _ in self.names() if name in self.steps]
        for name, steps in self.steps.items():
            assert rows[name]["mean_abs"] == pytest.approx(sum(mean for mean, _ in steps) / len(steps), rel=ROUND_OFF)
            assert rows[name]["max_abs"] == pytest.approx(max(peak for _, peak in steps), rel=ROUND_OFF)
            assert rows[name]["steps"] == len(steps)


def test_known_weights_give_exact_numbers() -> None:
    """The mean absolute gradient of a weight is the mean over steps of mean(|g|), and max_abs the largest |g|."""
    model = nn.Linear(2, 1, bias=False)
    optimizer = SGD(model.parameters(), lr=0.0)
    with GradientCollector(model) as collector:
        for gradient in ([[1.0, -3.0]], [[0.0, 8.0]]):
            model.weight.grad = torch.tensor(gradient)
            optimizer.step()
        row = collector.finish()["weight"]
    assert row == {
        "mean_abs": 3.0,
        "max_abs": 8.0,
        "nonfinite": 0,
        "steps": 2,
        "first_nonfinite_iteration": None,
        "skipped_steps": 0,
        "partial": False,
    }


@pytest.mark.parametrize(
    "make", [lambda p: SGD(p, lr=0.1), lambda p: SGD(p, lr=0.1, momentum=0.9), lambda p: Adam(p, foreach=True)]
)
@pytest.mark.parametrize("zero", ["start", "end"])
def test_gradients_equal_their_twin(make: Callable[[Iterator[nn.Parameter]], Optimizer], zero: str) -> None:
    """The numbers are those of .grad right before each step, wherever the gradients are zeroed."""
    model = seeded()
    optimizer, twin = make(model.parameters()), Twin(model)
    with GradientCollector(model) as collector:
        for batch in batches(40):
            if zero == "start":
                optimizer.zero_grad()
            loss_of(model, batch).backward()
            twin.note()
            optimizer.step()
            if zero == "end":
                optimizer.zero_grad()
        rows = collector.finish()
    twin.check(rows)
    assert list(rows) == ["fc1", "fc2", "fc3"]


def test_accumulated_and_clipped_gradients_are_read_as_the_optimizer_uses_them() -> None:
    """Only optimizer steps count: two accumulated batches are one step, after the clipping."""
    model = seeded()
    optimizer, twin = SGD(model.parameters(), lr=0.1), Twin(model)
    with GradientCollector(model) as collector:
        for number, batch in enumerate(batches(6)):
            (loss_of(model, batch) / 2).backward()
            if number % 2:
                nn.utils.clip_grad_norm_(model.parameters(), 0.05)
                twin.note()
                optimizer.step()
                optimizer.zero_grad()
        rows = collector.finish()
    twin.check(rows)
    assert rows["fc1"]["steps"] == 3


def test_clipping_in_a_hook_of_the_optimizer_is_seen() -> None:
    """The users' own step hooks run before the gradients are read, once a step, also after a step that raised."""
    model = seeded()
    twin, optimizer = Twin(model), SGD(model.parameters(), lr=0.1)
    fail = [False]

    def clip(*_: Any) -> None:
        if fail[0]:
            raise ValueError("boom")
        nn.utils.clip_grad_norm_(model.parameters(), 0.05)
        twin.note()

    optimizer.register_step_pre_hook(clip)
    with GradientCollector(model) as collector:
        for number, batch in enumerate(batches()):
            optimizer.zero_grad()
            loss_of(model, batch).backward()
            fail[0] = number == 1
            with pytest.raises(ValueError, match="boom") if fail[0] else contextlib.nullcontext():
                optimizer.step()
        twin.check(collector.finish())
    assert len(optimizer._optimizer_step_pre_hooks) == 1


@pytest.mark.parametrize("clip", [False, True])
def test_a_loss_scaler_is_looked_through(clip: bool) -> None:
    """Gradients are those of the unscaled loss; a step that the scaler skips is counted apart and not averaged."""
    model = seeded()
    plain = copy.deepcopy(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=2)
    optimizer, plain_optimizer, twin = SGD(model.parameters(), lr=0.1), SGD(plain.parameters(), lr=0.1), Twin(plain)
    with GradientCollector(model) as collector:
        for number, batch in enumerate(batches(6)):
            optimizer.zero_grad()
            plain_optimizer.zero_grad()
            loss = loss_of(model, batch) * (math.inf if number == 2 else 1.0)
            scaler.scale(loss).backward()
            if clip:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), 0.05)
            scaler.step(optimizer)
            scaler.update()
            if number != 2:
                loss_of(plain, batch).backward()
                if clip:
                    nn.utils.clip_grad_norm_(plain.parameters(), 0.05)
                twin.note()
                plain_optimizer.step()
        rows = collector.finish()
    twin.check(rows)
    assert {row["skipped_steps"] for row in rows.values()} == {1}
    assert {row["nonfinite"] for row in rows.values()} == {0}


def test_a_fused_optimizer_below_a_scaler_is_read_unscaled() -> None:
    """A fused optimizer is handed scaled gradients and the scale: the numbers are still those of the loss."""
    model = seeded()
    plain = copy.deepcopy(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    optimizer, plain_optimizer, twin = Adam(model.parameters(), fused=True), Adam(plain.parameters()), Twin(plain)
    with GradientCollector(model) as collector:
        for number, batch in enumerate(batches(4)):
            optimizer.zero_grad()
            plain_optimizer.zero_grad()
            scaler.scale(loss_of(model, batch) * (math.inf if number == 1 else 1.0)).backward()
            scaler.step(optimizer)
            scaler.update()
            if number != 1:
                loss_of(plain, batch).backward()
                twin.note()
                plain_optimizer.step()
        rows = collector.finish()
    assert {name: row["skipped_steps"] for name, row in rows.items()} == {"fc1": 1, "fc2": 1, "fc3": 1}
    for name, steps in twin.steps.items():
        assert rows[name]["steps"] == 3
        assert rows[name]["mean_abs"] == pytest.approx(sum(mean for mean, _ in steps) / 3, rel=1e-3)


def test_a_disabled_scaler_changes_nothing() -> None:
    """Steps through a scaler that is switched off are steps, not skips."""
    model = seeded()
    scaler, optimizer = torch.amp.GradScaler("cpu", enabled=False), SGD(model.parameters(), lr=0.1)
    with GradientCollector(model) as collector:
        loss_of(model, batches(1)[0]).backward()
        scaler.step(optimizer)
        row = collector.finish()["fc1"]
    assert (row["steps"], row["skipped_steps"]) == (1, 0)


def test_a_window_of_skipped_steps_alone_says_so() -> None:
    """Layers whose every step was skipped are rows with no mean, not silence."""
    model = seeded()
    scaler, optimizer = torch.amp.GradScaler("cpu"), SGD(model.parameters(), lr=0.1)
    with GradientCollector(model) as collector:
        scaler.scale(loss_of(model, batches(1)[0]) * math.nan).backward()
        scaler.step(optimizer)
        rows = collector.finish()
    assert {name: (row["steps"], row["skipped_steps"]) for name, row in rows.items()} == dict.fromkeys(
        ["fc1", "fc2", "fc3"], (0, 1)
    )
    assert math.isnan(rows["fc1"]["mean_abs"])


def two_optimizers(model: FunctionalMLP) -> tuple[Optimizer, Optimizer]:
    return SGD([*model.fc1.parameters(), *model.fc2.parameters()], lr=0.1), Adam(model.fc3.parameters())


def test_several_optimizers_are_followed() -> None:
    """Each layer is averaged over the steps of the optimizer that owns it."""
    model = seeded()
    often, seldom = two_optimizers(model)
    with GradientCollector(model) as collector:
        for number, batch in enumerate(batches(4)):
            loss_of(model, batch).backward()
            often.step()
            if number == 3:
                seldom.step()
            often.zero_grad()
        rows = collector.finish()
    assert {name: row["steps"] for name, row in rows.items()} == {"fc1": 4, "fc2": 4, "fc3": 1}


@pytest.mark.parametrize("several", [False, True])
def test_a_chosen_optimizer_is_followed_alone(several: bool) -> None:
    """With ``optimizer`` the steps of others do not count, and their layers are listed as unseen."""
    model = seeded()
    chosen, other = two_optimizers(model)
    with GradientCollector(model, [chosen] if several else chosen) as collector:
        loss_of(model, batches(1)[0]).backward()
        chosen.step()
        other.step()
        assert list(collector.finish()) == ["fc1", "fc2"]
    assert "fc3" in collector.coverage.unseen


def test_optimizers_of_other_models_do_not_count() -> None:
    """A step of an optimizer that owns nothing of the model is not seen."""
    model, other = seeded(), seeded()
    optimizer = SGD(other.parameters(), lr=0.1)
    with GradientCollector(model) as collector:
        loss_of(other, batches(1)[0]).backward()
        optimizer.step()
        assert collector.finish() == {}
    assert set(collector.coverage.unseen) == {"fc1", "fc2", "fc3"}
    assert "no torch.optim.Optimizer" in collector.coverage.unseen["fc1"]


@pytest.mark.parametrize("wrong", ["sgd", ["sgd"]])
def test_an_optimizer_must_be_one(wrong: Any) -> None:
    """Anything but optimizers is a clear error at once."""
    with pytest.raises(TypeError, match=r"must be a torch.optim.Optimizer, got str"):
        GradientCollector(seeded(), [wrong] if isinstance(wrong, str) else wrong)


class Awkward(nn.Module):
    """Frozen, tied, unused, sparse, complex, half-precision and zero-sized parameters in one model."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4, sparse=True)
        self.tied = nn.Linear(4, 7)
        self.echo = nn.Linear(4, 7)
        self.echo.weight = self.tied.weight
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.unused = nn.Linear(4, 4)
        self.phases = nn.Parameter(torch.randn(2, 2, dtype=torch.complex64))
        self.coarse = nn.Linear(4, 4).bfloat16()
        self.empty = nn.Parameter(torch.empty(0, 3))
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.frozen(self.embedding(tokens)) * self.scale
        x = x + self.coarse(x.bfloat16()).float() + self.phases.abs().sum() + self.empty.sum()
        return self.tied(x) + self.echo(x.tanh())


def test_awkward_parameters_equal_their_twin_or_are_listed() -> None:
    """Sparse, complex and half-precision gradients are measured, tied weights once; the rest is listed."""
    model = seeded(Awkward)
    optimizer = SGD(model.parameters(), lr=0.1)
    expected: dict[str, list[float]] = {}
    with GradientCollector(model) as collector:
        for seed in range(3):
            tokens = torch.randint(7, (5,), generator=torch.Generator().manual_seed(seed))
            optimizer.zero_grad()
            F.cross_entropy(model(tokens), tokens).backward()
            for name, parameter in model.named_parameters():
                if parameter.grad is not None and parameter.ndim > 1 and parameter.numel():
                    dense = parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad
                    expected.setdefault(name.removesuffix(".weight"), []).append(dense.abs().double().mean().item())
            optimizer.step()
        rows = collector.finish()
    assert {name: row["mean_abs"] for name, row in rows.items()} == {
        name: pytest.approx(sum(means) / 3, rel=1e-5) for name, means in expected.items()
    }
    assert set(rows) == {"embedding", "tied", "phases", "coarse"}
    assert set(collector.coverage.unseen) == {"frozen", "unused", "empty"}
    assert "frozen" in collector.coverage.unseen["frozen"]
    assert collector.coverage.seen == tuple(rows)


def test_a_layer_without_a_gradient_in_some_steps_is_averaged_over_the_others() -> None:
    """A step in which a weight has no gradient is no step of that layer."""
    model = LinearModel()
    optimizer = SGD(model.parameters(), lr=0.0)
    with GradientCollector(model) as collector:
        for number in range(4):
            model.fc1.weight.grad = torch.full_like(model.fc1.weight, 2.0)
            model.fc2.weight.grad = torch.full_like(model.fc2.weight, 6.0) if number == 1 else None
            optimizer.step()
        rows = collector.finish()
    assert {name: (row["mean_abs"], row["steps"]) for name, row in rows.items()} == {"fc1": (2.0, 4), "fc2": (6.0, 1)}


def test_nonfinite_gradients_are_counted_located_and_left_out() -> None:
    """A NaN in one layer spoils neither its mean nor the other layers, and its first iteration is kept."""
    model = LinearModel()
    optimizer = SGD(model.parameters(), lr=0.0)
    with GradientCollector(model) as collector:
        for value in (1.0, math.nan, 3.0, math.inf):
            model.fc1.weight.grad = torch.full_like(model.fc1.weight, 5.0)
            model.fc2.weight.grad = torch.full_like(model.fc2.weight, 1.0)
            model.fc2.weight.grad[0, 1] = value
            optimizer.step()
        rows = collector.finish()
    assert rows["fc1"]["mean_abs"] == 5.0
    assert (rows["fc1"]["nonfinite"], rows["fc1"]["first_nonfinite_iteration"]) == (0, None)
    assert rows["fc2"]["mean_abs"] == pytest.approx((1.0 + (11 + 3) / 12) / 2)
    assert (rows["fc2"]["nonfinite"], rows["fc2"]["steps"], rows["fc2"]["max_abs"]) == (2, 4, 3.0)
    assert rows["fc2"]["first_nonfinite_iteration"] == 2


@pytest.mark.parametrize("keyword", [False, True])
def test_a_closure_is_read_at_its_first_evaluation(keyword: bool) -> None:
    """LBFGS evaluates its closure many times in a step: the gradient is that of the first one, and the step is one."""
    model = seeded(LinearModel)
    x, y = batches(1)[0]
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=4)
    seen: list[float] = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        seen.append(model.fc1.weight.grad.abs().mean().item())
        return loss

    with GradientCollector(model) as collector:
        loss = optimizer.step(closure=closure) if keyword else optimizer.step(closure)
        row = collector.finish()["fc1"]
    assert len(seen) > 1
    assert isinstance(loss, Tensor)
    assert (row["steps"], row["mean_abs"]) == (1, pytest.approx(seen[0], rel=ROUND_OFF))


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (None, ["stem", "block.conv1", "block.conv2", "head"]),
        ("head", ["head"]),
        ("head.weight", ["head"]),
        ("head.bias", ["head.bias"]),
        ("*.bias", ["stem.bias", "block.bn1.bias", "block.bn2.bias", "head.bias"]),
        ("block.*", ["block.conv1", "block.conv2"]),
        (nn.Conv2d, ["stem", "block.conv1", "block.conv2"]),
        (nn.BatchNorm2d, ["block.bn1", "block.bn1.bias", "block.bn2", "block.bn2.bias"]),
        (["block.bn1", nn.Linear], ["block.bn1", "head"]),
        ("nothing", []),
    ],
)
def test_layers_are_selected_by_name_glob_and_type(layers: Any, expected: list[str]) -> None:
    """Weights of two or more dimensions by default; biases and norms when they are asked for."""
    model = seeded(ResidualCNN)
    optimizer = SGD(model.parameters(), lr=0.1)
    with GradientCollector(model, layers=layers) as collector:
        model(torch.randn(2, 1, 6, 6)).sum().backward()
        optimizer.step()
        assert list(collector.finish()) == expected


def test_every_reads_one_step_in_so_many_of_each_optimizer() -> None:
    """With every=2 the first, third and fifth step of each optimizer are read."""
    model = LinearModel()
    optimizers = SGD(model.fc1.parameters(), lr=0.0), SGD(model.fc2.parameters(), lr=0.0)
    with GradientCollector(model, every=2) as collector:
        for number in range(5):
            for layer, optimizer in zip((model.fc1, model.fc2), optimizers, strict=True):
                layer.weight.grad = torch.full_like(layer.weight, float(number))
                optimizer.step()
        rows = collector.finish()
    assert {name: (row["mean_abs"], row["steps"]) for name, row in rows.items()} == {"fc1": (2.0, 3), "fc2": (2.0, 3)}


@pytest.mark.parametrize("every", [1, 2, 3])
def test_a_window_resumed_in_its_middle_equals_the_uninterrupted_one(every: int, tmp_path: Any) -> None:
    """The state carries means, skips and the place in the sampling, through a file of plain types."""
    data = batches(7)

    def steps(model: nn.Module, part: list[tuple[Tensor, Tensor]], *, skip: bool = False) -> None:
        for batch in part:
            scaler, optimizer = torch.amp.GradScaler("cpu", init_scale=1.0), optimizers[model]
            optimizer.zero_grad()
            scaler.scale(loss_of(model, batch) * (math.inf if skip else 1.0)).backward()
            scaler.step(optimizer)

    model, again = seeded(SharedReLU), seeded(SharedReLU)
    optimizers = {m: SGD(m.parameters(), lr=0.0) for m in (model, again)}
    with GradientCollector(model, every=every) as whole:
        steps(model, data[:4])
        steps(model, data[:1], skip=True)
        torch.save(whole.state_dict(), tmp_path / "state.pt")
        steps(model, data[4:])
        steps(model, data[:1], skip=True)
        expected = whole.finish()
    resumed = GradientCollector(again, every=every)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    with resumed:
        steps(again, data[4:])
        steps(again, data[:1], skip=True)
        rows = resumed.finish()
    assert expected["layers.0"]["skipped_steps"] == 2
    for name, row in expected.items():
        assert rows[name] == {**row, "mean_abs": pytest.approx(row["mean_abs"], rel=1e-12)}


def test_a_state_of_another_model_is_refused() -> None:
    """Loading the state of a model with other layers says which ones."""
    model, other = LinearModel(), FunctionalMLP()
    state = GradientCollector(model).state_dict()
    with pytest.raises(ValueError, match="fc3"):
        GradientCollector(other).load_state_dict(state)


def test_two_collectors_see_the_same_skips_and_leave_the_scaler_as_it_was() -> None:
    """Collectors can overlap; with the last one the scaler's own `step` is back."""
    original = torch.amp.GradScaler.step
    model = seeded()
    scaler, optimizer = torch.amp.GradScaler("cpu"), SGD(model.parameters(), lr=0.1)
    first, second = GradientCollector(model), GradientCollector(model)
    with first:
        with second:
            scaler.scale(loss_of(model, batches(1)[0]) * math.nan).backward()
            scaler.step(optimizer)
            assert second.finish()["fc1"]["skipped_steps"] == 1
        assert first.finish()["fc1"]["skipped_steps"] == 1
        assert torch.amp.GradScaler.step is not original
    assert torch.amp.GradScaler.step is original
    first.stop()


def test_lazy_layers_are_measured_from_their_first_step() -> None:
    """A layer whose weight takes shape in the first forward is measured in the first window already."""
    model = nn.Sequential(nn.LazyLinear(3), nn.ReLU(), nn.LazyLinear(2))
    with GradientCollector(model) as collector:
        model(torch.randn(4, 5))
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        model(torch.randn(4, 5)).sum().backward()
        optimizer.step()
        assert {name: row["steps"] for name, row in collector.finish().items()} == {"0": 1, "2": 1}


def test_a_lazy_layer_that_takes_shape_late_moves_no_numbers() -> None:
    """A lazy layer used for the first time amid a window has its own row, and the others keep theirs."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"late": nn.LazyLinear(4), "first": nn.Linear(6, 8), "second": nn.Linear(8, 4)})
    optimizer, twin = SGD(model.parameters(), lr=0.1), Twin(model)
    with GradientCollector(model) as collector:
        for number in range(4):
            x = torch.randn(9, 6)
            optimizer.zero_grad()
            y = model["second"](model["first"](x).relu()) + (model["late"](x) if number > 1 else 0.0)
            y.pow(2).mean().backward()
            twin.note()
            optimizer.step()
        rows = collector.finish()
    twin.check(rows)
    assert {name: row["steps"] for name, row in rows.items()} == {"late": 2, "first": 4, "second": 4}
    assert not collector.coverage.unseen


@pytest.mark.parametrize(("change", "steps"), [("replaced", {"0": 4, "1": 4}), ("added", {"0": 4, "1": 4, "2": 3})])
def test_layers_that_come_amid_a_window_are_read(change: str, steps: dict[str, int]) -> None:
    """A layer that is replaced or added between two steps is measured from its first step on."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 4))
    optimizer, twin = SGD(model.parameters(), lr=0.1), Twin(model)
    with GradientCollector(model) as collector:
        for number in range(4):
            if number == 1 and change == "replaced":
                model[1] = nn.Linear(8, 4)
                optimizer.param_groups[0]["params"] = list(model.parameters())
            elif number == 1:
                model.append(nn.Linear(4, 2))
                optimizer.add_param_group({"params": model[2].parameters()})
            optimizer.zero_grad()
            model(torch.randn(9, 6)).sum().mul(1 + number).backward()
            twin.note()
            optimizer.step()
        rows = collector.finish()
    twin.check(rows)
    assert {name: row["steps"] for name, row in rows.items()} == steps


class Around(Optimizer):
    """An optimizer whose step is that of another one, and may fail after it."""

    def __init__(self, base: Optimizer) -> None:
        super().__init__(base.param_groups, {})
        self.base, self.fail = base, False

    def step(self, closure: Any = None) -> Any:
        self.base.step()
        if self.fail:
            raise ValueError("boom")


class SAM(Optimizer):
    """Sharpness-aware minimisation as it is usually written: two steps around an optimizer that shares its groups."""

    def __init__(self, parameters: Iterator[nn.Parameter]) -> None:
        super().__init__(parameters, {})
        self.base = SGD(self.param_groups, lr=0.1)
        self.param_groups = self.base.param_groups

    @torch.no_grad()
    def first_step(self) -> None:
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter]["old"] = parameter.clone()
            parameter.add_(parameter.grad)

    @torch.no_grad()
    def second_step(self) -> None:
        for parameter in self.param_groups[0]["params"]:
            parameter.copy_(self.state[parameter]["old"])
        self.base.step()

    def step(self, closure: Any = None) -> Any:
        self.first_step()
        with torch.enable_grad():
            closure()
        self.second_step()


@pytest.mark.parametrize("chosen", [False, True])
@pytest.mark.parametrize("form", ["step", "first_step and second_step"])
def test_sam_makes_one_step_at_a_time(form: str, chosen: bool) -> None:
    """Both uses of SAM count once a step, with the second gradient, which is the one that is used."""
    model = seeded()
    optimizer, twin = SAM(model.parameters()), Twin(model)

    def closure() -> None:
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        twin.note()

    with GradientCollector(model, optimizer if chosen else None) as collector:
        for batch in batches(3):
            optimizer.zero_grad()
            loss_of(model, batch).backward()
            if form == "step":
                optimizer.step(closure)
            else:
                optimizer.first_step()
                closure()
                optimizer.second_step()
        twin.check(collector.finish())
    assert not collector.coverage.unseen


def test_a_step_inside_a_step_counts_once() -> None:
    """The step of an optimizer within that of another one with the same parameters is one step."""
    model = LinearModel()
    optimizer = Around(SGD(model.parameters(), lr=0.0))
    with GradientCollector(model) as collector:
        for value in (1.0, 5.0):
            model.fc1.weight.grad = torch.full_like(model.fc1.weight, value)
            optimizer.step()
        row = collector.finish()["fc1"]
    assert (row["mean_abs"], row["steps"]) == (3.0, 2)


def test_an_outer_step_that_raised_is_over() -> None:
    """After an outer optimizer's step has raised, the steps of the inner one alone count again."""
    model = LinearModel()
    inner = SGD(model.parameters(), lr=0.0)
    outer = Around(inner)
    with GradientCollector(model) as collector:
        for value in (1.0, 4.0, 7.0):
            model.fc1.weight.grad = torch.full_like(model.fc1.weight, value)
            outer.fail = value == 1.0
            with pytest.raises(ValueError, match="boom") if outer.fail else contextlib.nullcontext():
                (outer if outer.fail else inner).step()
        row = collector.finish()["fc1"]
    assert (row["mean_abs"], row["steps"]) == (4.0, 3)


def test_a_window_with_steps_of_other_optimizers_alone_names_them() -> None:
    """If only an optimizer that is not to be followed made steps, the reason says so, not that there were none."""
    model = seeded()
    chosen, other = two_optimizers(model)
    with GradientCollector(model, chosen) as collector:
        loss_of(model, batches(1)[0]).backward()
        other.step()
        assert collector.finish() == {}
    reason = "only Adam made steps, which was not to be followed"
    assert collector.coverage.unseen == dict.fromkeys(["fc1", "fc2", "fc3"], reason)


def test_a_lazily_negated_gradient_is_read() -> None:
    """A gradient that is the imaginary part of a conjugate, negative by a mere flag, counts like its values."""
    model = nn.Linear(3, 1, bias=False)
    optimizer = SGD(model.parameters(), lr=0.0)
    with GradientCollector(model) as collector:
        model.weight.grad = torch.tensor([[1 + 2j, 3 - 4j, 6j]]).conj().imag
        assert model.weight.grad.is_neg()
        optimizer.step()
        row = collector.finish()["weight"]
    assert (row["mean_abs"], row["max_abs"], row["steps"]) == (4.0, 6.0, 1)


class Unreadable(Tensor):
    """A gradient that an optimizer can use and nobody can measure."""

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in {torch.abs, Tensor.abs}:
            raise RuntimeError("boom")
        return super().__torch_function__(function, types, args, kwargs or {})


@pytest.mark.parametrize("readable", [0, 1])
def test_gradients_that_could_not_be_read_are_listed(readable: int) -> None:
    """A failure to read gradients is the reason in the coverage, also if other steps of the window were read."""
    model = LinearModel()
    optimizer = SGD(model.parameters(), lr=0.0)
    with GradientCollector(model) as collector:
        for number in range(2):
            gradient = torch.ones_like(model.fc1.weight)
            model.fc1.weight.grad = gradient if number < readable else gradient.as_subclass(Unreadable)
            optimizer.step()
        assert len(collector.finish()) == readable
    trouble = "reading its gradient failed: RuntimeError: boom"
    unused = "it had no gradient when an optimizer that owns it made a step, or no such optimizer did"
    names = {"some steps"} if readable else {"fc1", "some steps"}
    assert collector.coverage.unseen == {**dict.fromkeys(names, trouble), "fc2": unused}


@pytest.mark.parametrize("layers", ["0", nn.Linear, "?"])
def test_a_parametrised_layer_is_selected_by_its_own_name_and_type(layers: Any) -> None:
    """The parameters from which weight_norm makes a weight belong to the layer that has the weight."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 8)), nn.ReLU())
    optimizer, twin = SGD(model.parameters(), lr=0.1), Twin(model)
    with GradientCollector(model, layers=layers) as collector:
        model(torch.randn(3, 6)).sum().backward()
        twin.note()
        optimizer.step()
        rows = collector.finish()
    twin.check(rows)
    assert list(rows) == ["0.parametrizations.weight.original0", "0.parametrizations.weight.original1"]
    assert not collector.coverage.unseen


def test_a_resumed_window_goes_on_counting_its_steps() -> None:
    """Where there is no other clock, the first non-finite iteration is counted from the start of the window."""
    model = nn.Linear(3, 2)
    optimizer = SGD(model.parameters(), lr=0.0)

    def steps(*values: float) -> None:
        for value in values:
            model.weight.grad = torch.full_like(model.weight, value)
            optimizer.step()

    with GradientCollector(model) as collector:
        steps(1.0, 1.0, 1.0)
        state = collector.state_dict()
    resumed = GradientCollector(model)
    resumed.load_state_dict(state)
    with resumed:
        steps(1.0, math.nan)
        assert resumed.finish()["weight"]["first_nonfinite_iteration"] == 5


def test_clipping_in_a_global_hook_is_seen() -> None:
    """Step hooks for all optimizers run before the gradients are read, too, when they came after the collector."""
    model = seeded()
    optimizer, twin = SGD(model.parameters(), lr=0.1), Twin(model)

    def clip(*_: Any) -> None:
        nn.utils.clip_grad_norm_(model.parameters(), 0.05)
        twin.note()

    with GradientCollector(model) as collector:
        handle = register_optimizer_step_pre_hook(clip)
        try:
            for batch in batches():
                optimizer.zero_grad()
                loss_of(model, batch).backward()
                optimizer.step()
        finally:
            handle.remove()
        twin.check(collector.finish())
    assert not optimizer._optimizer_step_pre_hooks


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_narrow_default_type_does_not_narrow_the_sums(dtype: torch.dtype) -> None:
    """Below ``torch.set_default_dtype(torch.float16)`` a large layer's mean neither overflows nor loses digits."""
    torch.manual_seed(0)
    model = nn.Linear(300, 400, bias=False).to(dtype)
    optimizer, twin = SGD(model.parameters(), lr=0.0), Twin(model)
    model.weight.grad = torch.randn(400, 300).to(dtype)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with GradientCollector(model) as collector:
            twin.note()
            optimizer.step()
            rows = collector.finish()
    finally:
        torch.set_default_dtype(before)
    assert rows["weight"]["nonfinite"] == 0
    assert rows["weight"]["mean_abs"] == pytest.approx(twin.steps["weight"][0][0], rel=ROUND_OFF)
