from __future__ import annotations

import contextlib
import copy
import gc
import logging
import math
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from ignite.engine import Engine, Events
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.checkpoint import checkpoint

from ignite_act import Diagnostics
from ignite_act.collect import SignalCollector
from ignite_act.collect.passes import ModelCall, PassCollector
from ignite_act.testing import (
    FunctionalMLP,
    ResidualCNN,
    Transformer,
    TupleLSTM,
    batches,
    global_hooks,
    make_evaluator,
    make_trainer,
)

pytestmark = pytest.mark.usefixtures("loops")


def seeded(make: Callable[[], nn.Module] = FunctionalMLP) -> Any:
    torch.manual_seed(0)
    return make()


class Pair(nn.Module):
    """One linear layer, called twice, and one that is called now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.rare, self.again = nn.Linear(4, 4), nn.Linear(4, 4), False

    def forward(self, x: Tensor) -> Tensor:
        x = self.shared(3 * self.shared(x))
        return self.rare(x) if self.again else x


class Fragile(nn.Module):
    """Raises in the middle of its forward where it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.fail = nn.Linear(4, 4), nn.Linear(4, 4), False

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.fail:
            raise RuntimeError("boom")
        return self.second(x)


def twin(calls: dict[str, list[Tensor]]) -> dict[str, dict[str, Any]]:
    """The definitions, of all tensors that a layer has put out."""
    rows = {}
    for name, values in calls.items():
        sizes = [value.detach().double().abs() for value in values]
        sound = [size for size in sizes if size.isfinite().all()]
        rows[name] = {
            "first_max_abs": sizes[0].max().item(),
            "mean_abs": sum(size.mean().item() for size in sound) / len(sound),
            "max_abs": max(size.max().item() for size in sound),
            "calls": len(sizes),
            "nonfinite": len(sizes) - len(sound),
        }
    return rows


def check(rows: dict[str, Any], calls: dict[str, list[Tensor]], rel: float = 1e-6) -> None:
    expected = twin(calls)
    assert list(rows) == list(expected)
    for name, row in expected.items():
        for key, value in row.items():
            assert rows[name][key] == pytest.approx(value, rel=rel), (name, key)


def test_every_number_equals_its_twin() -> None:
    """Input, layers in the order of their calls, output: mean and largest absolute values over all forwards."""
    model = seeded()
    calls: dict[str, list[Tensor]] = {name: [] for name in ("input", "fc1", "fc2", "fc3", "output")}
    with SignalCollector(model) as collector:
        for x, _ in batches(40):
            model(x)
        rows = collector.finish()
    for x, _ in batches(40):
        first = model.fc1(x)
        second = model.fc2(F.relu(first))
        third = model.fc3(F.relu(second))
        for name, value in zip(calls, (x, first, second, third, third), strict=True):
            calls[name].append(value)
    check(rows, calls)
    assert not any(row["partial"] for row in rows.values())


def test_the_largest_value_may_be_negative() -> None:
    """The sign does not count, and the input is described by mean and population deviation besides."""
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad(), SignalCollector(model) as collector:
        model.weight[:] = torch.tensor([[1.0, 2.0]])
        model(torch.tensor([[1.0, -5.0], [3.0, 1.0]]))
        rows = collector.finish()
    assert rows == {
        "input": {
            "first_max_abs": 5.0, "mean_abs": 2.5, "max_abs": 5.0, "calls": 1, "nonfinite": 0,
            "first_nonfinite_iteration": None, "backward": None, "origin": None, "mean": 0.0, "std": 3.0,
            "continuous": True, "others": {}, "partial": False,
        },
        "Linear": {
            "first_max_abs": 9.0, "mean_abs": 7.0, "max_abs": 9.0, "calls": 1, "nonfinite": 0,
            "first_nonfinite_iteration": None, "backward": None, "origin": None, "partial": False,
        },
        "output": {
            "first_max_abs": 9.0, "mean_abs": 7.0, "max_abs": 9.0, "calls": 1, "nonfinite": 0,
            "first_nonfinite_iteration": None, "backward": None, "origin": None, "partial": False,
        },
    }  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_types_are_measured_as_they_are(dtype: torch.dtype) -> None:
    """The numbers are those of the values in their own type."""
    model = nn.Sequential(nn.Linear(4, 5)).to(dtype)
    x = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    with SignalCollector(model) as collector:
        y = model(x)
        rows = collector.finish()
    check(rows, {"input": [x], "0": [y], "output": [y]})


def test_a_mean_is_finite_wherever_every_value_is() -> None:
    """A sum beyond the range of float32 makes no forward non-finite."""
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False))
    with torch.no_grad(), SignalCollector(model) as collector:
        model[0].weight.fill_(1.0)
        model(torch.full((1, 1, 100, 100), 1e35))
        rows = collector.finish()
    assert rows["0"]["nonfinite"] == 0
    assert (rows["0"]["mean_abs"], rows["0"]["max_abs"]) == pytest.approx((1e35, 1e35), rel=1e-6)


def test_tokens_are_no_signal() -> None:
    """Whole numbers going in are no row of their own, but the layers that read them are."""
    model = seeded(Transformer)
    with SignalCollector(model) as collector:
        model(torch.randint(11, (3, 5)))
        rows = collector.finish()
    assert "input" not in rows
    assert next(iter(rows)) == "embedding"
    assert list(rows)[-1] == "output"
    assert rows["embedding"]["max_abs"] <= model.embedding.weight.abs().max().item()


def test_inputs_beside_the_data() -> None:
    """Their largest value in the first forward; masks are something else."""

    class Timed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 2)

        def forward(self, x: Tensor, time: Tensor, step: Tensor, mask: Tensor) -> Tensor:
            return self.layer(torch.cat([x, time[:, None]], 1) * mask)

    with SignalCollector(model := Timed()) as collector:
        for scale in (1000.0, 1.0):
            time = scale * torch.linspace(-1, 0.5, 8)
            model(torch.randn(8, 4), time, step=torch.arange(8), mask=torch.ones(8, 5) > 0).sum().backward()
        others = collector.finish()["input"]["others"]
    assert others == {"1": 1000.0, "step": 7.0}


def test_layers_are_modules_that_own_a_weight() -> None:
    """Convolutions, fused layers and the last layer are rows; norms, activations and containers are not."""
    for make, x, names in (
        (ResidualCNN, torch.randn(2, 1, 5, 5), ["stem", "block.conv1", "block.conv2", "head"]),
        (TupleLSTM, torch.randn(2, 5, 4), ["lstm", "head"]),
    ):
        model = seeded(make)
        with SignalCollector(model) as collector:
            model(x)
            assert list(collector.finish()) == ["input", *names, "output"]


def test_calls_of_a_shared_module_are_one_row() -> None:
    """A layer that is called twice in a forward has twice the calls, in one row."""
    model = seeded(Pair)
    calls: dict[str, list[Tensor]] = {"input": [], "shared": [], "output": []}
    with SignalCollector(model) as collector:
        for x, _ in batches(3):
            model(x)
        rows = collector.finish()
    for x, _ in batches(3):
        first = model.shared(x)
        second = model.shared(3 * first)
        calls["input"].append(x)
        calls["shared"] += [first, second]
        calls["output"].append(second)
    expected = twin(calls)
    expected["shared"]["first_max_abs"] = max(size.detach().abs().max().item() for size in calls["shared"][:2])
    for name, row in expected.items():
        assert {key: rows[name][key] for key in row} == pytest.approx(row, rel=1e-6)


def test_a_layer_that_is_called_later_joins() -> None:
    """A layer that the first forward has not called has 0 as its first value, and the numbers of its own calls."""
    model = seeded(Pair)
    with SignalCollector(model) as collector:
        for number, (x, _) in enumerate(batches(6)):
            model.again = number > 3
            model(x)
        rows = collector.finish()
    assert (rows["rare"]["calls"], rows["output"]["calls"]) == (2, 6)
    assert rows["rare"]["first_max_abs"] == 0.0
    assert rows["rare"]["max_abs"] > 0


def test_layers_made_in_the_middle_of_a_window_join() -> None:
    """More layers than there were when the window began have their rows in the next window."""
    model = nn.Sequential(nn.Linear(4, 4))
    with SignalCollector(model) as collector:
        model(torch.ones(1, 4))
        for _ in range(6):
            model.append(nn.Linear(4, 4))
        model(torch.ones(1, 4))
        assert collector.finish()["output"]["calls"] == 2
        model(torch.ones(1, 4))
        rows = collector.finish()
    assert list(rows) == ["input", *map(str, range(7)), "output"]
    assert all(row["calls"] == 1 and row["max_abs"] > 0 for row in rows.values())


def test_lazy_layers_are_seen_from_the_next_window_on() -> None:
    """A layer whose weight is made by its first call is one afterwards."""
    model = nn.Sequential(nn.LazyLinear(3))
    with SignalCollector(model) as collector:
        model(torch.ones(2, 4))
        collector.finish()
        model(torch.ones(2, 4))
        assert "0" in collector.finish()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_first_nonfinite_forward_is_located(bad: float) -> None:
    """A layer that puts out a NaN or an infinity is counted and located, those before it are not, and both go on."""
    model = seeded()
    with SignalCollector(model) as collector:
        for iteration, (x, _) in enumerate(batches(5), 11):
            collector.clock = lambda now=iteration: now  # type: ignore[misc]
            with torch.no_grad():
                model.fc2.bias[0] = bad if iteration in (13, 14) else 0.0
            model(x)
        rows = collector.finish()
    shown = {name: (row["calls"], row["nonfinite"], row["first_nonfinite_iteration"]) for name, row in rows.items()}
    sound, broken = (5, 0, None), (5, 2, 13)
    assert shown["input"] == shown["fc1"] == sound
    assert shown["fc2"] == broken
    if bad != -math.inf:  # ReLU cuts that off
        assert shown["fc3"] == shown["output"] == broken
    assert all(math.isfinite(row["max_abs"]) for row in rows.values())


def test_without_a_clock_forwards_are_counted() -> None:
    """In a plain loop the first non-finite iteration is the number of the forward in the window."""
    model = seeded()
    with SignalCollector(model) as collector:
        for _ in range(2):
            for number, (x, _) in enumerate(batches(4), 1):
                model(x * math.nan if number == 3 else x)
            assert collector.finish()["fc1"]["first_nonfinite_iteration"] == 3


def test_an_exception_in_the_middle_of_a_forward() -> None:
    """What was computed before it is in the window, at its iteration, and the next forwards are measured as always."""
    model = seeded(Fragile)
    x = torch.ones(2, 4)
    with SignalCollector(model) as collector:
        for iteration in range(5, 9):
            collector.clock = lambda now=iteration: now  # type: ignore[misc]
            model.fail = iteration == 7
            with contextlib.suppress(RuntimeError):
                model(x * (math.nan if iteration == 7 else 1.0))
        rows = collector.finish()
        assert (rows["first"]["calls"], rows["second"]["calls"], rows["output"]["calls"]) == (4, 3, 3)
        assert (rows["first"]["nonfinite"], rows["first"]["first_nonfinite_iteration"]) == (1, 7)
        model.fail = True
        with pytest.raises(RuntimeError, match="boom"):
            model(x)
        rows = collector.finish(partial=True)
    assert list(rows) == ["first"]
    assert (rows["first"]["calls"], rows["first"]["partial"]) == (1, True)


def test_a_part_that_is_called_after_a_forward_has_failed() -> None:
    """The forward that was broken off is over: what comes next has its own iteration."""
    model = seeded(Fragile)
    with SignalCollector(model) as collector:
        collector.clock = lambda: 4
        model.fail = True
        with pytest.raises(RuntimeError, match="boom"):
            model(torch.ones(2, 4))
        collector.clock = lambda: 5
        model.second(torch.full((2, 4), math.nan))
        rows = collector.finish()
    assert rows["second"]["first_nonfinite_iteration"] == 5


@pytest.mark.parametrize("container", [nn.ModuleList, lambda parts: nn.ModuleDict({"0": parts[0], "1": parts[1]})])
def test_parts_that_are_called_by_themselves(container: Callable[[list[nn.Module]], nn.Module]) -> None:
    """Of models put together, as of a GAN, each call of a layer counts at its iteration, though nothing holds it."""
    first, second = nn.Linear(4, 4), nn.Linear(4, 2)
    model = container([first, second])
    x = torch.ones(2, 4)
    with SignalCollector(model) as collector:
        for iteration in range(21, 25):
            collector.clock = lambda now=iteration: now  # type: ignore[misc]
            y = first(x)
            if iteration > 22:
                second(y * math.nan)
        rows = collector.finish()
    assert (rows["0"]["calls"], rows["0"]["nonfinite"]) == (4, 0)
    assert (rows["1"]["calls"], rows["1"]["nonfinite"], rows["1"]["first_nonfinite_iteration"]) == (2, 2, 23)


def test_an_evaluation_is_not_mixed_with_training() -> None:
    """Forwards of a lower kind are left out of a window that has training forwards; alone they make one."""
    model = seeded()

    def evaluate() -> None:
        model.eval()
        with torch.no_grad():
            model(torch.full((2, 4), 1e3))
        model.train()

    with SignalCollector(model) as collector:
        evaluate()
        model(torch.ones(2, 4))
        evaluate()
        rows = collector.finish()
        assert (rows["input"]["calls"], rows["input"]["max_abs"], rows["input"]["mean"]) == (1, 1.0, 1.0)
        evaluate()
        assert collector.finish()["input"]["max_abs"] == 1e3


def test_an_evaluator_inside_the_engine_does_not_count() -> None:
    """Below an engine only the forwards of its own steps are measured, whatever mode an evaluation leaves."""
    model = seeded()
    trainer = make_trainer(model, SGD(model.parameters(), lr=0.0))
    evaluator = make_evaluator(model)

    @trainer.on(Events.ITERATION_COMPLETED)
    def evaluate(engine: Engine) -> None:
        evaluator.run([(1e3 * x, y) for x, y in batches(2)])
        model.train()
        model(torch.full((2, 4), 1e4))

    diagnostics = Diagnostics(model).attach(trainer)
    data = batches(4)
    trainer.run(data)
    assert diagnostics.report is not None
    row = diagnostics.report.signal["input"]
    assert (row["calls"], row["max_abs"]) == (4, max(x.abs().max().item() for x, _ in data))
    assert diagnostics.report.output["forwards"] == 3  # the 1st, 2nd and 4th


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_what_checkpointing_computes_again_is_no_call(use_reentrant: bool) -> None:
    """A recomputation during backward is no forward, of parts and of the whole model."""
    model = seeded()

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = model, nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(checkpoint(self.inner, x, use_reentrant=use_reentrant))

    outer = Outer()
    x = torch.randn(3, 4, requires_grad=True)
    with SignalCollector(outer) as parts, SignalCollector(model) as whole:
        outer(x).sum().backward()
        first, second = parts.finish(), whole.finish()
    assert [row["calls"] for row in first.values()] == [1] * 6
    assert [row["calls"] for row in second.values()] == [1] * 5


def test_nothing_is_left_on_the_model() -> None:
    """Outside a window no hook is in place, copies and pickles are those of the model, and nothing keeps it alive."""
    model = seeded()
    before = global_hooks()
    collector = SignalCollector(model)
    attributes = copy.copy(vars(model))
    assert global_hooks() == before
    with collector:
        assert len(global_hooks()) > len(before)
        model(batches(1)[0][0])
        assert vars(model) == attributes
        assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())
    assert global_hooks() == before
    collector.stop()
    assert collector.finish()["fc1"]["calls"] == 1
    copy.deepcopy(model)(batches(1)[0][0])
    gone = weakref.ref(model)
    del model, attributes
    gc.collect()
    assert gone() is None


def test_a_collector_that_is_thrown_away_takes_its_hooks_along() -> None:
    """Forgetting to stop leaves nothing behind."""
    model = seeded()
    before = global_hooks()
    collector = SignalCollector(model)
    collector.start()
    del collector
    model(batches(1)[0][0])
    del model
    gc.collect()
    assert global_hooks() == before


def test_a_copy_and_another_model_do_not_count() -> None:
    """Only the watched model's forwards are in its rows."""
    model = seeded()
    twin_of_it, other = copy.deepcopy(model), seeded()
    with SignalCollector(model) as collector:
        for own in (twin_of_it, model, other):
            own(batches(1)[0][0])
        assert {row["calls"] for row in collector.finish().values()} == {1}


def test_a_failure_in_measuring_never_reaches_the_training(caplog: pytest.LogCaptureFixture) -> None:
    """Training goes on, the log says it once, the coverage says it."""

    class Broken(PassCollector):
        def after_model(self, call: ModelCall) -> None:
            raise RuntimeError("cannot measure")

        def _forget(self) -> None: ...
        def _numbers(self) -> dict[str, Any]:
            return {}

        def _state(self) -> dict[str, Any]:
            return {}

        def _load_state(self, state: Any) -> None: ...
        def _unite(self, states: Any) -> None: ...
        def _begin(self) -> None:
            super()._begin()

    model = seeded()
    with caplog.at_level(logging.WARNING, "ignite_act"), Broken(model) as collector:
        for x, _ in batches(3):
            model(x)
        collector.finish()
    assert [record.getMessage() for record in caplog.records] == [
        "Broken gives up some forwards: RuntimeError: cannot measure"
    ]
    assert "cannot measure" in collector.coverage.unseen["some forwards"]


def test_a_window_restored_in_its_middle_equals_the_uninterrupted_one(tmp_path: Any) -> None:
    """The state, through a file of plain types, goes on with all numbers, on another model of the same layers."""
    data = [x for x, _ in batches(6)]
    model, again = seeded(), seeded()
    with SignalCollector(model) as whole:
        for x in data:
            model(x)
        expected = whole.finish()
        for x in data[:4]:
            model(x)
        torch.save(whole.state_dict(), tmp_path / "state.pt")
    resumed = SignalCollector(again)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    with resumed:
        for x in data[4:]:
            again(x)
        rows = resumed.finish()
    assert list(rows) == list(expected)
    for name, row in expected.items():
        for key, value in row.items():
            assert rows[name][key] == (pytest.approx(value, rel=1e-12) if isinstance(value, float) else value), key


def test_an_empty_window_is_restored_too() -> None:
    """A window without a forward has no rows, before and after."""
    model = seeded()
    with SignalCollector(model) as collector:
        state = collector.state_dict()
        assert collector.finish() == {}
    resumed = SignalCollector(model)
    resumed.load_state_dict(state)
    with resumed:
        model(batches(1)[0][0])
        assert resumed.finish()["fc1"]["calls"] == 1


def test_processes_are_united_by_name() -> None:
    """Means are averaged, the largest values are over all, calls are not added."""
    model = seeded(Pair)
    states, rows = [], []
    for number, (x, _) in enumerate(batches(2)):
        model.again = number == 1
        with SignalCollector(model) as collector:
            model(x)
            states.append(collector.shared_state())
            rows.append(collector.finish())
    collector.unite(states)
    united = collector.finish()
    assert list(united) == ["input", "shared", "rare", "output"]
    for name in ("input", "shared", "output"):
        assert united[name]["mean_abs"] == pytest.approx((rows[0][name]["mean_abs"] + rows[1][name]["mean_abs"]) / 2)
        assert united[name]["max_abs"] == max(row[name]["max_abs"] for row in rows)
        assert united[name]["first_max_abs"] == pytest.approx(max(row[name]["first_max_abs"] for row in rows))
        assert united[name]["calls"] == rows[0][name]["calls"]
    assert united["rare"]["max_abs"] == united["rare"]["first_max_abs"] == rows[1]["rare"]["max_abs"]
    both = torch.cat([x for x, _ in batches(2)]).double()
    assert united["input"]["mean"] == pytest.approx(both.mean().item())
    assert united["input"]["std"] == pytest.approx(both.std(correction=0).item())
