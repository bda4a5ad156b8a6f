from __future__ import annotations

import copy
import gc
import itertools
import math
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adam, AdamW, Optimizer, SparseAdam

from ignite_act.collect import UpdateCollector
from ignite_act.collect.passes import is_sample
from ignite_act.stats import change, largest
from ignite_act.stats.weights import equal_rows
from ignite_act.testing import FunctionalMLP, ResidualCNN, Transformer, batches, global_hooks

pytestmark = pytest.mark.usefixtures("loops")

LAYERS = ["fc1", "fc2", "fc3"]
OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter]], Optimizer]] = {
    "sgd": lambda p: SGD(p, lr=0.1),
    "momentum": lambda p: SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "decay": lambda p: SGD(p, lr=0.1, weight_decay=0.1),
    "maximize": lambda p: SGD(p, lr=0.1, maximize=True),
    "adam": lambda p: Adam(p, lr=0.01),
    "foreach": lambda p: Adam(p, lr=0.01, foreach=True),
    "adamw": lambda p: AdamW(p, lr=0.01, weight_decay=0.5),
}


def seeded(make: Callable[[], nn.Module] = FunctionalMLP) -> Any:
    torch.manual_seed(0)
    return make()


def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def train(model: nn.Module, optimizer: Optimizer, data: Iterable[Any], *, before: bool = True) -> None:
    for batch in data:
        if before:
            optimizer.zero_grad()
        loss_of(model, batch).backward()
        optimizer.step()
        if not before:
            optimizer.zero_grad()


class Twin:
    """Compares the weights before and after every step by hand."""

    def __init__(self, model: FunctionalMLP) -> None:
        self.weights = {name: getattr(model, name).weight for name in LAYERS}
        self.ratios: dict[str, list[float]] = {name: [] for name in LAYERS}
        self.steps = 0

    def step(self, optimizer: Optimizer) -> None:
        before = {name: weight.detach().double().clone() for name, weight in self.weights.items()}
        optimizer.step()
        self.steps += 1
        if is_sample(self.steps):
            for name, weight in self.weights.items():
                moved = (weight.detach().double() - before[name]).abs().mean()
                self.ratios[name].append((moved / before[name].abs().mean()).item())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_ratios_equal_their_twin(optimizer: str) -> None:
    """Of the steps looked at, the 1st, 2nd, 4th and 16th, the ratio is mean(|change|) / mean(|weight before|)."""
    model = seeded()
    own, twin = OPTIMIZERS[optimizer](model.parameters()), Twin(model)
    start = {name: getattr(model, name).weight.abs().mean().item() for name in LAYERS}
    with UpdateCollector(model) as collector:
        for batch in batches(20):
            own.zero_grad()
            loss_of(model, batch).backward()
            twin.step(own)
        rows = collector.finish()
    assert list(rows) == LAYERS
    for name, row in rows.items():
        ratios = twin.ratios[name]
        assert row["steps"] == len(ratios) == 4
        assert row["ratio"] == pytest.approx(sum(ratios) / 4, rel=1e-4)
        assert row["first_ratio"] == pytest.approx(ratios[0], rel=1e-4)
        assert row["weight_start"] == pytest.approx(start[name], rel=1e-6)
        assert row["weight"] == pytest.approx(getattr(model, name).weight.abs().mean().item(), rel=1e-6)
        assert row["learning_rate"] == own.param_groups[0]["lr"]
        assert (row["present"], row["nonzero"], row["missing"], row["moved"]) == (20, True, 0, True)
        assert (row["trainable"], row["owned"], row["stepped"], row["partial"]) == (True, True, True, False)
        assert (row["against"] > 0) == (optimizer == "maximize")


def test_known_weights_give_exact_numbers() -> None:
    """One step of SGD with known gradients."""
    model = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        model.weight[:] = torch.tensor([[2.0, -2.0], [4.0, 0.0]])
    optimizer = SGD(model.parameters(), lr=0.5)
    with UpdateCollector(model) as collector:
        model.weight.grad = torch.tensor([[1.0, -1.0], [0.0, 2.0]])
        optimizer.step()
        rows = collector.finish()
    assert rows == {
        "weight": {
            "ratio": 0.25, "first_ratio": 0.25, "steps": 1, "weight_start": 2.0, "weight": 2.0,
            "missing": 0, "present": 1, "nonzero": True, "moved": True, "uncleared": 0, "cleared": 0, "against": 0,
            "equal_rows": 0.0, "equal_rows_start": 0.0, "nonfinite": 0, "trainable": True, "owned": True,
            "stepped": True, "learning_rate": 0.5, "gradient_left": True, "partial": False, "registered": True,
        }
    }  # fmt: skip


def test_a_changed_learning_rate_is_the_last_one_looked_at() -> None:
    """A scheduler's rate is that of the last step looked at; parameter groups have their own."""
    model = seeded()
    others = [*model.fc2.parameters(), *model.fc3.parameters()]
    optimizer = SGD([{"params": model.fc1.parameters()}, {"params": others, "lr": 1.0}], lr=0.5)
    with UpdateCollector(model) as collector:
        for number, batch in enumerate(batches(5), 1):
            optimizer.param_groups[0]["lr"] = 0.5 / number
            train(model, optimizer, [batch])
        rows = collector.finish()
    assert [rows[name]["learning_rate"] for name in LAYERS] == [0.5 / 4, 1.0, 1.0]


def test_gradients_that_are_missing_zero_or_present() -> None:
    """All steps count: those without a gradient, those with one, and whether any was other than 0."""
    model = seeded()
    optimizer = SGD(model.parameters(), lr=0.1)
    with UpdateCollector(model) as collector:
        for x, y in batches(5):
            optimizer.zero_grad()
            hidden = F.relu(model.fc1(x)).detach()
            F.cross_entropy(model.fc3(F.relu(model.fc2(hidden) * 0)), y).backward()
            optimizer.step()
        rows = collector.finish()
    counts = {name: (row["missing"], row["present"], row["nonzero"], row["moved"]) for name, row in rows.items()}
    assert counts["fc1"] == (5, 0, False, False)
    assert counts["fc2"] == (0, 5, False, False)
    assert counts["fc3"] == (0, 5, False, False)
    assert rows["fc1"]["ratio"] is rows["fc1"]["first_ratio"] is None
    assert rows["fc2"]["ratio"] == 0.0
    assert rows["fc1"]["weight_start"] is None


def test_frozen_layers_are_told_from_those_that_nobody_owns() -> None:
    """A frozen layer is not trainable; a layer outside of the optimizer gets gradients but is not owned."""
    model = seeded()
    model.fc1.requires_grad_(False)
    optimizer = SGD(model.fc3.parameters(), lr=0.1)
    with UpdateCollector(model) as collector:
        train(model, optimizer, batches(4))
        rows = collector.finish()
    shown = {name: (row["trainable"], row["owned"], row["stepped"], row["present"]) for name, row in rows.items()}
    assert shown == {"fc1": (False, False, True, 0), "fc2": (True, False, True, 4), "fc3": (True, True, True, 4)}
    assert rows["fc2"]["ratio"] is None
    assert rows["fc2"]["learning_rate"] is None
    assert rows["fc2"]["gradient_left"]


def test_without_a_step_of_an_optimizer_of_the_model_nothing_stepped() -> None:
    """Gradients alone, or steps of somebody else's optimizer, are no step; a step on a bias alone is one."""
    model, other = seeded(), nn.Linear(4, 3)
    with UpdateCollector(model) as collector:
        loss_of(model, batches(1)[0]).backward()
        assert not any(row["stepped"] or row["owned"] for row in collector.finish().values())
        train(other, SGD(other.parameters(), lr=0.1), batches(2))
        assert not any(row["stepped"] for row in collector.finish().values())
        train(model, SGD([model.fc1.bias], lr=0.1), batches(2))
        rows = collector.finish()
    assert all(row["stepped"] and not row["owned"] for row in rows.values())


def clearing(how: str, data: list[Any], steps: int = 1) -> dict[str, dict[str, Any]]:
    """A window whose gradients are cleared, or not, in one of many ways."""
    model = seeded()
    optimizer = SGD(model.parameters(), lr=0.01)
    with UpdateCollector(model) as collector:
        for number, batch in enumerate(data):
            if how in {"before backward", "before, to zeros"}:
                optimizer.zero_grad(set_to_none=how == "before backward")
            if how == "by hand":
                for parameter in model.parameters():
                    parameter.grad = None
            loss = loss_of(model, batch) / steps
            if how == "after forward":
                optimizer.zero_grad()
            loss.backward()
            if (number + 1) % steps == 0:
                optimizer.step()
                if how in {"after step", "after, to zeros"}:
                    optimizer.zero_grad(set_to_none=how == "after step")
                elif how == "model":
                    model.zero_grad()
        return collector.finish()


@pytest.mark.parametrize(
    "how",
    [
        "before backward", "before, to zeros", "after step", "after, to zeros", "after forward", "model",
        "by hand",
    ],
)  # fmt: skip
def test_cleared_gradients_are_cleared(how: str) -> None:
    """Wherever a loop clears: before the forward, before the backward, after the step, to None or to zeros."""
    rows = clearing(how, batches(20))
    assert {(row["cleared"], row["uncleared"]) for row in rows.values()} == {(4, 0)}


def test_uncleared_gradients_are_uncleared() -> None:
    """A loop that never clears shows at every step looked at but the first of all."""
    rows = clearing("never", batches(20))
    assert {(row["cleared"], row["uncleared"]) for row in rows.values()} == {(0, 4)}


@pytest.mark.parametrize(("how", "expected"), [("after step", (3, 0)), ("never", (0, 3))])
def test_accumulation_is_not_confused_with_forgetting(how: str, expected: tuple[int, int]) -> None:
    """Only what is left of the last step counts, not what earlier backwards of the same step have added."""
    rows = clearing(how, batches(40), steps=4)
    assert {(row["cleared"], row["uncleared"]) for row in rows.values()} == {expected}
    assert all(row["steps"] == 3 for row in rows.values())


def test_a_window_without_a_second_step_says_nothing_of_clearing() -> None:
    """One step tells nothing of what is left for the next."""
    rows = clearing("never", batches(1))
    assert {(row["cleared"], row["uncleared"]) for row in rows.values()} == {(0, 0)}


class Gan(nn.Module):
    """Two networks that are trained against each other."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 4))
        self.discriminator = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, noise: Tensor) -> Tensor:
        return self.discriminator(self.generator(noise))


@pytest.mark.parametrize("clear", [True, False])
def test_two_optimizers_as_in_a_gan(clear: bool) -> None:
    """Each layer belongs to its optimizer's steps; what the other one's backward leaves is cleared in time, or not."""
    model = seeded(Gan)
    optimizers = [Adam(part.parameters(), lr=0.01) for part in (model.generator, model.discriminator)]
    with UpdateCollector(model) as collector:
        for number in range(12):
            noise = torch.randn(8, 2, generator=torch.Generator().manual_seed(number))
            for optimizer, sign in zip(optimizers, (1, -1), strict=True):
                if clear:
                    optimizer.zero_grad()
                (sign * model(noise)).mean().backward()
                optimizer.step()
        rows = collector.finish()
    assert list(rows) == ["generator.0", "generator.2", "discriminator.0", "discriminator.2"]
    for row in rows.values():
        assert (row["steps"], row["owned"], row["nonzero"]) == (3, True, True)
        assert row["present"] >= 12
        assert (row["uncleared"] == 0) == clear
        assert (row["cleared"] > 0) == clear


def test_lbfgs_is_one_step_however_often_its_closure_is_called() -> None:
    """The gradient is that after the first evaluation, the change that of the whole step."""
    model = seeded()
    optimizer = LBFGS(model.parameters(), lr=0.5, max_iter=4)
    twin = Twin(model)
    batch, calls = batches(1)[0], [0]

    def closure() -> Tensor:
        calls[0] += 1
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        return loss

    weights = [{name: w.detach().clone() for name, w in twin.weights.items()}]
    with UpdateCollector(model) as collector:
        for _ in range(3):
            optimizer.step(closure)
            weights.append({name: w.detach().clone() for name, w in twin.weights.items()})
        rows = collector.finish()
    assert calls[0] > 3
    for name, row in rows.items():
        changes = [(b[name] - a[name]).abs().mean() / a[name].abs().mean() for a, b in itertools.pairwise(weights)]
        assert (row["steps"], row["present"], row["uncleared"]) == (2, 3, 0)
        assert row["first_ratio"] == pytest.approx(changes[0].item(), rel=1e-4)
        assert row["ratio"] == pytest.approx(sum(changes[:2]).item() / 2, rel=1e-4)


def test_equal_rows_are_seen_at_the_start_and_at_the_end() -> None:
    """Units that were born equal are told from those that have become it."""
    model = seeded()
    with torch.no_grad():
        model.fc1.weight[:] = model.fc1.weight[0]
        model.fc2.weight[1] = model.fc2.weight[0]
    optimizer = SGD(model.parameters(), lr=0.0)
    with UpdateCollector(model) as collector:
        train(model, optimizer, batches(2))
        with torch.no_grad():
            model.fc2.weight[1] += 1.0
            model.fc3.weight[:] = 0.0
        rows = collector.finish()
    shown = {name: (row["equal_rows_start"], row["equal_rows"]) for name, row in rows.items()}
    assert shown["fc1"] == (1.0, 1.0)
    assert shown["fc2"] == (pytest.approx(2 / 6), 0.0)
    assert shown["fc3"] == (0.0, 1.0)


def test_the_units_of_an_embedding_are_its_columns() -> None:
    """Equal rows of a table are entries that are alike, which is no symmetry."""
    shares = {}
    for alike in ("rows", "columns"):
        model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5, bias=False))
        own = torch.arange(4.0) if alike == "rows" else torch.arange(5.0)[:, None]
        with torch.no_grad():
            for layer in model:
                layer.weight.copy_(own.expand(5, 4))
        with UpdateCollector(model) as collector:
            rows = collector.finish()
        shares[alike] = rows["0"]["equal_rows"], rows["1"]["equal_rows"]
    assert shares == {"rows": (0.0, 1.0), "columns": (1.0, 0.0)}


def twin_of_equal_rows(weight: Tensor) -> float:
    """Every row compared with every other."""
    rows = weight.flatten(1).double()
    equal = [any(i != j and torch.equal(rows[i], rows[j]) for j in range(len(rows))) for i in range(len(rows))]
    return sum(equal) / len(rows)


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
@pytest.mark.parametrize("shape", [(7, 5), (30, 200), (8, 3, 3, 3), (6, 1), (64, 2)])
def test_equal_rows_equal_their_twin(shape: tuple[int, ...], scale: float) -> None:
    """Whatever the shape, the order and the scale; rows that hold the same numbers in another order differ."""
    weight = scale * torch.randn(shape, generator=torch.Generator().manual_seed(3))
    assert equal_rows(weight).item() == 0.0 == twin_of_equal_rows(weight)
    weight[3], weight[4] = weight[0], weight[1]
    assert equal_rows(weight).item() == pytest.approx(twin_of_equal_rows(weight)) == pytest.approx(4 / len(weight))
    if weight[0].numel() > 1:
        weight[3] = weight[0].flatten().flip(0).view(weight[0].shape)
        weight[4] = -weight[1]
    else:
        weight[3], weight[4] = -weight[0], -weight[1]
    assert equal_rows(weight).item() == 0.0


def test_equal_rows_of_odd_weights() -> None:
    """One row equals no other; rounding does not matter; zeros are equal; what is not finite is no symmetry."""
    assert equal_rows(torch.ones(1, 5)).item() == 0.0
    row = torch.randn(50, generator=torch.Generator().manual_seed(0))
    assert equal_rows(torch.stack([row, row * (1 + 1e-7)])).item() == 1.0
    assert equal_rows(torch.zeros(4, 3)).item() == 1.0
    assert equal_rows(torch.ones(4, 3, dtype=torch.bfloat16)).item() == 1.0
    for bad in (math.nan, math.inf):
        weight = torch.ones(4, 3)
        weight[2, 1] = bad
        assert equal_rows(weight).item() == 0.0


def test_nothing_random_is_drawn() -> None:
    """Looking at rows leaves torch's random state as it is."""
    before = torch.get_rng_state()
    equal_rows(torch.randn(5, 123, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), before)


def test_nonfinite_weights_are_counted() -> None:
    """NaN and infinite weights, though no ratio can be given; the row is there all the same."""
    model = seeded()
    with torch.no_grad():
        model.fc2.weight[0, :2] = torch.tensor([math.nan, math.inf])
    with UpdateCollector(model) as collector:
        assert [row["nonfinite"] for row in collector.finish().values()] == [0, 2, 0]
        train(model, SGD(model.parameters(), lr=0.1), batches(1))
        row = collector.finish()["fc2"]
    assert row["nonfinite"] == int((~torch.isfinite(model.fc2.weight)).sum()) > 2
    assert (row["ratio"], row["steps"]) == (None, 1)


def test_a_weight_of_zero_has_no_ratio() -> None:
    """There is nothing to compare the change with."""
    model = seeded()
    nn.init.zeros_(model.fc3.weight)
    with UpdateCollector(model) as collector:
        train(model, SGD(model.parameters(), lr=0.1), batches(1))
        row = collector.finish()["fc3"]
    assert row["ratio"] is None
    assert (row["steps"], row["weight_start"]) == (1, 0.0)
    assert row["weight"] > 0


def test_what_is_left_at_the_end_of_the_window() -> None:
    """Whether there is a gradient when the window ends."""
    for before in (True, False):
        model = seeded()
        with UpdateCollector(model) as collector:
            train(model, SGD(model.parameters(), lr=0.1), batches(2), before=before)
            assert {row["gradient_left"] for row in collector.finish().values()} == {before}


def test_a_step_that_the_scaler_skips_is_none() -> None:
    """Nothing was done to the weights, so nothing is counted."""
    model = seeded()
    optimizer = SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    with UpdateCollector(model) as collector:
        for number, batch in enumerate(batches(4)):
            optimizer.zero_grad()
            scaler.scale(loss_of(model, batch) * (math.inf if number == 1 else 1.0)).backward()
            scaler.step(optimizer)
            scaler.update()
        rows = collector.finish()
    assert {(row["steps"], row["present"], row["uncleared"]) for row in rows.values()} == {(2, 3, 0)}


def test_sparse_gradients() -> None:
    """A sparse gradient is there or zero like another, and its rows move."""
    model = nn.Sequential(nn.Embedding(20, 4, sparse=True))
    optimizer = SparseAdam(model.parameters(), lr=0.01)
    with UpdateCollector(model) as collector:
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.tensor([1, 2, 2])).sum().backward()
            optimizer.step()
        row = collector.finish()["0"]
    assert (row["present"], row["nonzero"], row["missing"], row["steps"]) == (4, True, 0, 3)
    assert row["ratio"] > 0


def test_layers_are_weights_of_two_or_more_axes() -> None:
    """Convolutions, embeddings, attention; no biases, no norms; a shared weight once."""
    with UpdateCollector(model := seeded(ResidualCNN)) as collector:
        assert list(collector.finish()) == ["stem", "block.conv1", "block.conv2", "head"]
    model = seeded(Transformer)
    with UpdateCollector(model) as collector:
        names = list(collector.finish())
    assert names[0] == "embedding"
    assert "encoder.layers.0.self_attn.in_proj_weight" in names
    assert not any("norm" in name or "bias" in name for name in names)
    tied = nn.ModuleDict({"table": nn.Embedding(5, 4), "head": nn.Linear(4, 5, bias=False)})
    tied["head"].weight = tied["table"].weight
    with UpdateCollector(tied) as collector:
        assert list(collector.finish()) == ["table"]


def test_lazy_layers_have_a_row_from_the_next_window_on() -> None:
    """A weight that is not made yet is no layer."""
    model = nn.Sequential(nn.LazyLinear(3))
    with UpdateCollector(model) as collector:
        model(torch.ones(2, 4))
        assert collector.finish() == {}
        assert list(collector.finish()) == ["0"]


def test_every_window_begins_anew() -> None:
    """The first step of each window is looked at, against the weights of that window."""
    model = seeded()
    optimizer = SGD(model.parameters(), lr=0.1)
    with UpdateCollector(model) as collector:
        for _ in range(2):
            start = model.fc2.weight.abs().mean().item()
            train(model, optimizer, batches(3))
            row = collector.finish()["fc2"]
            assert (row["steps"], row["cleared"]) == (2, 2)
            assert row["weight_start"] == pytest.approx(start)


def test_a_window_restored_in_its_middle_keeps_what_was_seen(tmp_path: Any) -> None:
    """Through a file of plain types: nothing is lost if it ends there, and what comes later is added."""
    model = seeded()
    optimizer = Adam(model.parameters(), lr=0.01)
    with UpdateCollector(model) as collector:
        train(model, optimizer, batches(5))
        torch.save(collector.state_dict(), tmp_path / "state.pt")
        expected = collector.finish()
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed = UpdateCollector(model)
    resumed.load_state_dict(state)
    with resumed:
        assert resumed.finish() == expected
    resumed = UpdateCollector(model)
    resumed.load_state_dict(state)
    with resumed:
        train(model, optimizer, batches(2, seed=1))
        rows = resumed.finish()
    for name, row in rows.items():
        assert row["first_ratio"] == expected[name]["first_ratio"]
        assert row["weight_start"] == expected[name]["weight_start"]
        assert (row["steps"], row["present"]) == (expected[name]["steps"] + 2, expected[name]["present"] + 2)
        assert row["cleared"] == expected[name]["cleared"] + 1


def test_the_state_of_the_first_process_counts() -> None:
    """Steps are the same everywhere after the all-reduce."""
    model = seeded()
    optimizer = SGD(model.parameters(), lr=0.1)
    states = []
    with UpdateCollector(model) as collector:
        for seed in range(2):
            train(model, optimizer, batches(2, seed=seed))
            states.append(collector.shared_state())
            if not seed:
                expected = collector.finish()
        collector.unite(states)
        rows = collector.finish()
    for name, row in rows.items():
        assert {key: row[key] for key in ("ratio", "steps", "present")} == {
            key: expected[name][key] for key in ("ratio", "steps", "present")
        }


def test_nothing_is_left_behind() -> None:
    """No hooks outside a window, no attributes on parameters or optimizers, and nothing keeps them alive."""
    before = global_hooks()
    model = seeded()
    optimizer = SGD(model.parameters(), lr=0.1)
    attributes, state = set(vars(optimizer)), copy.deepcopy(optimizer.state_dict())
    collector = UpdateCollector(model)
    with collector:
        train(model, optimizer, batches(5))
        assert len(global_hooks()) > len(before)
    assert global_hooks() == before
    assert set(vars(optimizer)) == attributes
    assert optimizer.state_dict()["param_groups"] == state["param_groups"]
    assert not any(parameter._backward_hooks for parameter in model.parameters())
    gone = weakref.ref(model), weakref.ref(optimizer)
    del model, optimizer
    gc.collect()
    assert [own() for own in gone] == [None, None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layout", ["plain", "transposed", "scalar", "channels last"])
def test_a_change_equals_its_twin(layout: str, dtype: torch.dtype) -> None:
    """mean(|after - before|), mean(|before|) and the sum of the change along a tensor, whatever type and layout."""
    generator = torch.Generator().manual_seed(0)
    shape = {"plain": (70, 130), "transposed": (7, 5), "scalar": (), "channels last": (2, 3, 4, 5)}[layout]
    before, after, along = (torch.randn(shape, generator=generator).to(dtype) for _ in range(3))
    if layout == "transposed":
        before, after, along = before.t(), after.t(), along.t()
    elif layout == "channels last":
        after = after.to(memory_format=torch.channels_last)
    moved = after - before
    expected = [
        moved.double().abs().mean().item(), before.double().abs().mean().item(), (moved * along).double().sum().item()
    ]  # fmt: skip
    rel = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.02}[dtype]
    assert [float(value) for value in change(before, after, along)] == pytest.approx(expected, rel=rel, abs=rel)
    assert [float(value) for value in change(before, after, None)] == pytest.approx([*expected[:2], 0.0], rel=rel)
    assert float(change(before, before, along)[0]) == 0.0


def test_the_largest_absolute_value() -> None:
    """Of either sign, of complex numbers their modulus, NaN if there is one."""
    assert largest(torch.tensor([1.0, -4.0])).item() == 4.0
    assert largest(torch.tensor([[3.0 + 4.0j]])).item() == 5.0
    assert largest(torch.tensor([1.0, math.nan])).isnan()
    assert largest(torch.tensor([0.0, -0.0])).item() == 0.0
