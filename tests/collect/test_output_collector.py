from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.checkpoint import checkpoint

from ignite_act.collect import OutputCollector
from ignite_act.stats.likelihood import NAMES
from ignite_act.testing import FunctionalMLP, ResidualCNN, Transformer, TupleLSTM, batches, global_hooks

Loss = Callable[[Any, Tensor], Tensor]


class Normed(nn.Module):
    """Vectors of length 1."""

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1)


def mlp(*last: nn.Module, units: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, units), *last)


def watched(model: nn.Module, loss: Loss, data: list[Any], lr: float = 0.0) -> dict[str, Any]:
    optimizer = SGD(model.parameters(), lr=lr)
    with OutputCollector(model) as collector:
        for x, y in data:
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()
        rows = collector.finish()
    assert list(rows) == ["output"]
    return rows["output"]


def test_range_and_variation_equal_their_twin() -> None:
    """Of the forwards looked at, the 1st, 2nd, 4th and 16th: extremes, largest deviation of a unit, largest size."""
    model, data = mlp(), batches(20)
    row = watched(model, F.cross_entropy, data)
    kept = [model(data[number - 1][0]).detach() for number in (1, 2, 4, 16)]
    assert (row["units"], row["forwards"], row["backwards"], row["partial"]) == (3, 4, 4, False)
    assert row["min"] == min(z.min().item() for z in kept)
    assert row["max"] == max(z.max().item() for z in kept)
    assert row["scale"] == max(z.abs().max().item() for z in kept)
    assert row["variation"] == pytest.approx(max(z.double().std(0, correction=0).max().item() for z in kept), rel=1e-6)
    assert row["probabilities"] == 0.0


def test_a_constant_output_has_no_variation() -> None:
    """However large the constant; of a single sample the variation is not known."""
    model = mlp()
    nn.init.zeros_(model[2].weight)
    nn.init.constant_(model[2].bias, 7.0)
    row = watched(model, F.cross_entropy, batches(2))
    assert (row["variation"], row["scale"], row["min"]) == (0.0, 7.0, 7.0)
    assert math.isnan(watched(mlp(), F.cross_entropy, batches(1, size=1))["variation"])


@pytest.mark.parametrize("normed", [True, False])
def test_spread_and_norm_equal_their_twin(normed: bool) -> None:
    """Vectors of one length are told from others, and how far they point apart."""
    model, data = mlp(units=8), batches(2, size=32)
    wrapped = nn.Sequential(model, Normed()) if normed else model
    row = watched(wrapped, lambda z, y: z.square().sum(), data)
    with torch.no_grad():
        outputs = [wrapped(x) for x, _ in data]
    directions = [z / (z**2).sum(1, keepdim=True) ** 0.5 for z in outputs]
    twins = [((z - z.mean(0)) ** 2).sum(1).mean() for z in directions]
    assert row["spread"] == pytest.approx(float(max(twins)), rel=1e-4)
    assert row["unit_norm"] is normed


def test_values_behind_the_means_of_batch_norm() -> None:
    """Samples times pixels, the most of any forward; none in evaluation mode."""
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3), nn.BatchNorm1d(3))
    with OutputCollector(model) as collector:
        for size in (2, 6):
            model(torch.randn(size, 1, 4, 4)).sum().backward()
        assert collector.finish()["output"]["normed"] == {"1": 24, "4": 6}
        model[4].eval()
        model(torch.randn(5, 1, 4, 4)).sum().backward()
        assert collector.finish()["output"]["normed"] == {"1": 20}


def test_what_the_loss_tells_equals_its_twin() -> None:
    """Loss, score, classes and entropies of the steps looked at, from nothing but the gradient at the output."""
    model, data = mlp(), batches(20, size=64)
    row = watched(model, F.cross_entropy, data)
    kept = [data[number - 1] for number in (1, 2, 4, 16)]
    own = [F.cross_entropy(model(x), y).item() for x, y in kept]
    right = sum(int((model(x).argmax(1) == y).sum()) for x, y in kept)
    counts = torch.bincount(torch.cat([y for _, y in kept])).double()
    shares = counts / counts.sum()
    assert (row["loss_applies"], row["maximised"]) == ("softmax", False)
    assert row["first_loss"] == pytest.approx(own[0], rel=1e-5)
    assert row["mean_loss"] == pytest.approx(sum(own) / 4, rel=1e-5)
    assert row["accuracy"] == pytest.approx(right / 256, rel=1e-6)
    assert row["majority"] == pytest.approx(shares.max().item(), rel=1e-6)
    assert row["constant_loss"] == pytest.approx(torch.special.entr(shares).sum().item() + 2 / 512, rel=1e-5)


def one_hot(y: Tensor) -> Tensor:
    return F.one_hot(y, 3).float()


@pytest.mark.parametrize(
    ("last", "loss", "applies", "maximised", "function", "probabilities"),
    [
        ((), F.cross_entropy, "softmax", False, "", 0.0),
        ((), lambda z, y: -F.cross_entropy(z, y), "softmax", True, "", 0.0),
        ((), lambda z, y: F.cross_entropy(z, y, reduction="sum"), "softmax", False, "", 0.0),
        ((nn.Softmax(1),), F.cross_entropy, "softmax", False, "softmax", 1.0),
        ((nn.LogSoftmax(1),), F.nll_loss, "nothing", False, "log_softmax", 0.0),
        ((nn.Softmax(1),), F.nll_loss, "nothing", False, "softmax", 1.0),
        ((nn.Sigmoid(),), lambda p, y: F.binary_cross_entropy(p, one_hot(y)), "nothing", False, "sigmoid", 0.0),
        ((), lambda z, y: F.binary_cross_entropy_with_logits(z, one_hot(y)), "sigmoid", False, "", 0.0),
        ((), lambda z, y: -F.binary_cross_entropy_with_logits(z, one_hot(y)), "sigmoid", True, "", 0.0),
        ((), lambda z, y: F.mse_loss(z, one_hot(y) * 5), "unknown", None, "", 0.0),
        ((), lambda z, y: F.l1_loss(z, one_hot(y)), "unknown", None, "", 0.0),
        ((), lambda z, y: F.huber_loss(z, one_hot(y) * 5), "unknown", None, "", 0.0),
        ((nn.ReLU(),), F.cross_entropy, "softmax", False, "relu", 0.0),
    ],
)
def test_losses_are_recognised_at_the_output(
    last: tuple[nn.Module, ...], loss: Loss, applies: str, maximised: bool | None, function: str, probabilities: float
) -> None:
    """Each loss is told by its gradient, with what made the output."""
    row = watched(mlp(*last), loss, batches(4, size=64))
    assert (row["loss_applies"], row["maximised"]) == (applies, maximised)
    assert row["function"] == function
    assert row["probabilities"] == probabilities
    assert row["producer"] == ("3" if last else "2")


def test_scaling_and_clipping_change_nothing() -> None:
    """Below a loss scaler and with accumulation the loss is recognised as what it is."""
    model, scaler = mlp(), torch.amp.GradScaler("cpu")
    optimizer = SGD(model.parameters(), lr=0.1)
    with OutputCollector(model) as collector:
        for x, y in batches(4, size=64):
            optimizer.zero_grad()
            scaler.scale(F.cross_entropy(model(x), y) / 4).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
            scaler.step(optimizer)
            scaler.update()
        row = collector.finish()["output"]
    assert (row["loss_applies"], row["maximised"], row["backwards"]) == ("softmax", False, 3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types_are_read_too(dtype: torch.dtype) -> None:
    """The output's type does not matter."""
    data = [(x.to(dtype), y) for x, y in batches(4, size=64)]
    assert watched(mlp().to(dtype), F.cross_entropy, data)["loss_applies"] == "softmax"


def test_a_squared_error_tells_its_targets() -> None:
    """Loss of the first step, variance of the targets, and the share of those that a ReLU cannot reach."""
    data = [(x, x.sum(1, keepdim=True)) for x, _ in batches(4, size=64)]
    model = mlp(nn.ReLU(), units=1)
    row = watched(model, F.mse_loss, data)
    kept = torch.cat([y for _, y in (data[0], data[1], data[3])])
    assert row["loss_applies"] == "unknown"
    assert row["squared_loss"] == pytest.approx(F.mse_loss(model(data[0][0]), data[0][1]).item(), rel=1e-4)
    assert row["target_variance"] == pytest.approx(kept.double().var(correction=0).item(), rel=1e-3)
    assert row["beyond"] == pytest.approx((kept < 0).double().mean().item(), abs=0.05)
    assert row["blocked"] > 0


@pytest.mark.parametrize("loss", [F.cross_entropy, lambda z, y: F.cross_entropy(z, y, ignore_index=0)])
def test_classes_may_be_on_the_second_axis(loss: Loss) -> None:
    """Of a segmentation (N, C, H, W) the units are the channels; classes of positions may be on the last axis."""
    torch.manual_seed(0)
    model = nn.Conv2d(1, 5, 3, padding=1)
    data = [(torch.randn(8, 1, 6, 7), torch.randint(5, (8, 6, 7))) for _ in range(2)]
    row = watched(model, loss, data)
    assert (row["loss_applies"], row["units"]) == ("softmax", 5)
    by_position = nn.Linear(4, 5)
    data = [(torch.randn(8, 9, 4), torch.randint(5, (8, 9))) for _ in range(2)]
    row = watched(by_position, lambda z, y: loss(z.flatten(0, 1), y.flatten()), data)
    assert (row["loss_applies"], row["units"]) == ("softmax", 5)


def test_one_unit_without_an_axis() -> None:
    """An output (N,) is one unit."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))
    data = [(x, (x[:, 0] > 0.3).float()) for x, _ in batches(2, size=128)]
    row = watched(model, F.binary_cross_entropy_with_logits, data)
    assert (row["units"], row["loss_applies"]) == (1, "sigmoid")


@pytest.mark.parametrize(
    ("make", "data"),
    [
        (ResidualCNN, [(torch.randn(32, 1, 5, 5), torch.arange(32) % 3)]),
        (Transformer, [(torch.randint(11, (32, 5)), torch.arange(32) % 3)]),
        (TupleLSTM, [(torch.randn(32, 5, 4), torch.arange(32) % 3)]),
        (FunctionalMLP, batches(1, size=32)),
    ],
)
def test_the_architecture_does_not_matter(make: Callable[[], nn.Module], data: list[Any]) -> None:
    """CNN, transformer, RNN and functional calls: the same is seen at the output, which no activation made."""
    torch.manual_seed(0)
    row = watched(make(), F.cross_entropy, data)
    assert (row["loss_applies"], row["function"], row["units"]) == ("softmax", "", 3)
    assert row["hidden_softmax"] == ""  # that of the attention is none between layers


@pytest.mark.parametrize("wrap", [lambda z: {"logits": z}, lambda z: (z, "more"), lambda z: [z]])
def test_the_first_tensor_of_an_output_is_looked_at(wrap: Callable[[Tensor], Any]) -> None:
    """Dictionaries, tuples and lists of outputs."""

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = mlp()

        def forward(self, x: Tensor) -> Any:
            return wrap(self.body(x))

    def loss(output: Any, y: Tensor) -> Tensor:
        return F.cross_entropy(output["logits"] if isinstance(output, dict) else output[0], y)

    assert watched(Wrapped(), loss, batches(2, size=64))["loss_applies"] == "softmax"


def test_a_softmax_between_layers_is_found() -> None:
    """The module, or the function, that fed a layer with probabilities, also through a dropout and a norm."""
    torch.manual_seed(0)
    for between in ((nn.Softmax(1),), (nn.Softmax(1), nn.Dropout(0.1)), (nn.Softmax(1), nn.BatchNorm1d(8))):
        model = nn.Sequential(nn.Linear(4, 8), *between, nn.Linear(8, 3))
        assert watched(model, F.cross_entropy, batches(1))["hidden_softmax"] == "1"

    class Functional(FunctionalMLP):
        def forward(self, x: Tensor) -> Tensor:
            return self.fc3(torch.softmax(self.fc2(F.relu(self.fc1(x))), 1))

    assert watched(Functional(), F.cross_entropy, batches(1))["hidden_softmax"] == "softmax"


def test_functions_are_seen_through_changes_of_shape() -> None:
    """A view of an activation is its output; what is computed from it is not."""

    class Views(nn.Module):
        def __init__(self, after: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            self.body, self.after = mlp(), after

        def forward(self, x: Tensor) -> Tensor:
            return self.after(torch.sigmoid(self.body(x)))

    for after in (lambda p: p.unsqueeze(1).squeeze(1), lambda p: p[:, :2], lambda p: p.reshape(-1), lambda p: p.t()):
        assert watched(Views(after), lambda p, y: p.sum(), batches(1))["function"] == "sigmoid"
    for after in (lambda p: p * 2, lambda p: p + 1, lambda p: p.exp()):
        assert watched(Views(after), lambda p, y: p.sum(), batches(1))["function"] == ""


def test_an_output_that_is_overwritten_was_read_before() -> None:
    """A loop may write to the output in place before the backward."""

    def loss(z: Tensor, y: Tensor) -> Tensor:
        result = F.cross_entropy(z.clone(), y)
        with torch.no_grad():
            z.zero_()
        return result

    x, y = batches(1, size=64)[0]
    row = watched(mlp(), loss, [(x, y)])
    assert (row["loss_applies"], row["maximised"]) == ("softmax", False)
    assert row["first_loss"] == pytest.approx(F.cross_entropy(mlp()(x), y).item())


def test_without_a_backward_the_loss_is_not_known() -> None:
    """An evaluation has a range and a variation, and None for all that a gradient would tell."""
    model = mlp()
    with torch.no_grad(), OutputCollector(model) as collector:
        model(batches(1)[0][0])
        row = collector.finish()["output"]
        assert row["backwards"] == 0
        assert row["variation"] > 0
        assert all(row[name] is None for name in NAMES)
        assert collector.finish() == {}


@pytest.mark.parametrize("output", [torch.zeros(3, dtype=torch.int64), torch.zeros(0, 3), "text", None])
def test_outputs_that_cannot_be_read_have_no_row(output: Any) -> None:
    """Whole numbers, nothing at all, and what is no tensor."""

    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return output

    model = Odd()
    with OutputCollector(model) as collector:
        model(torch.ones(1))
        assert collector.finish() == {}
    assert not collector.coverage.unseen


def test_outputs_of_changing_shape() -> None:
    """The number of samples may change from step to step, and the number of units: then the last kind counts."""
    model = mlp()
    data = [*batches(1, size=64), *batches(1, size=7), *batches(1, size=1)]
    assert watched(model, F.cross_entropy, data)["forwards"] == 2

    class Growing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.units = mlp(units=9), 3

        def forward(self, x: Tensor) -> Tensor:
            self.units += 1
            return self.body(x)[:, : self.units]

    row = watched(Growing(), F.cross_entropy, batches(4, size=64))
    assert row["loss_applies"] == "softmax"


def test_an_evaluation_is_not_mixed_with_training() -> None:
    """Evaluations are left out of a window that has training forwards, before the first of them and after."""
    model = mlp()
    with OutputCollector(model) as collector:
        for x, y in batches(2):
            model.eval()
            with torch.no_grad():
                model(1e6 * x)
            model.train()
            F.cross_entropy(model(x), y).backward()
        row = collector.finish()["output"]
    kept = torch.cat([model(x) for x, _ in batches(2)])
    assert (row["forwards"], row["scale"]) == (2, kept.abs().max().item())


def test_two_outputs_before_one_backward() -> None:
    """Forwards that share a backward are looked at each by itself."""
    model = mlp()
    (x1, y1), (x2, y2) = batches(2, size=64)
    with OutputCollector(model) as collector:
        first, second = model(x1), model(x2)
        (F.cross_entropy(first, y1) + F.cross_entropy(second, y2)).backward()
        row = collector.finish()["output"]
    assert (row["forwards"], row["backwards"], row["loss_applies"]) == (2, 2, "softmax")


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_what_checkpointing_computes_again_is_no_forward(use_reentrant: bool) -> None:
    """Where the whole model is computed again during backward, its forwards are counted once."""
    model = mlp()
    with OutputCollector(model) as collector:
        for x, y in batches(4, size=64):
            z = checkpoint(model, x.requires_grad_(), use_reentrant=use_reentrant)
            F.cross_entropy(z, y).backward()
        row = collector.finish()["output"]
    assert row["forwards"] == 3  # the 1st, 2nd and 4th
    if not use_reentrant:
        assert (row["backwards"], row["loss_applies"]) == (3, "softmax")


def test_a_backward_after_the_window_does_no_harm() -> None:
    """Nor does one after the collector is gone, whose outputs it does not keep alive."""
    model = mlp()
    x, y = batches(1)[0]
    with OutputCollector(model) as collector:
        loss = F.cross_entropy(model(x), y)
        other = F.cross_entropy(model(x), y)
        output = model(x)
        gone = weakref.ref(output), weakref.ref(collector)
        collector.finish()
    loss.backward()
    del collector, output
    gc.collect()
    assert [own() for own in gone] == [None, None]
    other.backward()


def test_nothing_is_left_on_the_model() -> None:
    """Outside a window no hook is in place, and no module or parameter has one at any time."""
    before = global_hooks()
    model = mlp()
    with OutputCollector(model) as collector:
        F.cross_entropy(model(batches(1)[0][0]), batches(1)[0][1]).backward()
        assert not any(parameter._backward_hooks for parameter in model.parameters())
        assert not any(module._forward_hooks for module in model.modules())
    assert global_hooks() == before
    assert collector.finish()["output"]["backwards"] == 1


def test_a_window_restored_in_its_middle_equals_the_uninterrupted_one(tmp_path: Any) -> None:
    """The state, through a file of plain types, goes on with all numbers and with the sampling."""
    data = batches(6, size=64)
    expected = watched(mlp(nn.ReLU()), F.cross_entropy, data)
    model = mlp(nn.ReLU())
    with OutputCollector(model) as collector:
        for x, y in data[:3]:
            F.cross_entropy(model(x), y).backward()
        torch.save(collector.state_dict(), tmp_path / "state.pt")
    resumed = OutputCollector(model)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    with resumed:
        for x, y in data[3:]:
            F.cross_entropy(model(x), y).backward()
        row = resumed.finish()["output"]
    assert row.pop("producer") == expected.pop("producer")
    for name, value in expected.items():
        assert row[name] == (pytest.approx(value, rel=1e-6) if isinstance(value, float) else value), name


def test_processes_add_up() -> None:
    """United, targets and ranges are over the samples of all processes; one without a forward changes nothing."""
    model = mlp()
    data = batches(2, size=64)
    states, rows = [], []
    for part in ([], data[:1], data[1:]):
        with OutputCollector(model) as collector:
            for x, y in part:
                F.cross_entropy(model(x), y).backward()
            states.append(collector.shared_state())
            rows += collector.finish().values()
    collector.unite(states)
    row = collector.finish()["output"]
    assert (row["forwards"], row["backwards"], row["loss_applies"]) == (2, 2, "softmax")
    assert row["min"] == min(own["min"] for own in rows)
    assert row["max"] == max(own["max"] for own in rows)
    assert row["accuracy"] == pytest.approx(sum(own["accuracy"] for own in rows) / 2)
    for name in ("first_loss", "mean_loss", "squared_loss"):
        assert row[name] == pytest.approx(sum(own[name] for own in rows) / 2), name
