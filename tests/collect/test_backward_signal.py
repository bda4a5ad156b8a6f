"""The backward signal equals a twin that keeps the gradients of all outputs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ignite_act.collect import SignalCollector
from ignite_act.collect.graphs import function_of


class Net(nn.Module):
    """Two layers, one of them called twice, a ReLU in place between them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.twice, self.relu = nn.Linear(4, 6), nn.Linear(6, 6), nn.ReLU(inplace=True)
        self.idle = nn.Linear(6, 2)

    def forward(self, x: Tensor, kept: list[tuple[str, Tensor]] | None = None) -> Tensor:
        outputs = kept if kept is not None else []
        for name in ("first", "twice", "twice"):
            x = getattr(self, name)(x)
            outputs.append((name, x))
            x = self.relu(x if kept is None else x.clone())
        self.idle(x)
        return x


def data(number: int) -> Tensor:
    return torch.randn(8, 4, generator=torch.Generator().manual_seed(number))


def twin(steps: int, factor: float = 1.0) -> dict[str, float]:
    """Norm of the gradient times root mean square of the output, by the definition, in double precision."""
    model, found = Net().double(), {}
    for number in range(1, steps + 1):
        kept: list[tuple[str, Tensor]] = []
        loss = factor * model(data(number).double(), kept).square().mean()
        gradients = torch.autograd.grad(loss, [output for _, output in kept])
        if number in (1, 2, 4, 16):
            for (name, output), gradient in zip(kept, gradients, strict=True):
                strength = gradient.square().sum().sqrt() * output.square().mean().sqrt()
                found.setdefault(name, []).append(strength.item())
    return {name: sum(values) / len(values) for name, values in found.items()}


def measured(steps: int, factor: float = 1.0) -> dict[str, float | None]:
    model = Net()
    with SignalCollector(model) as collector:
        for number in range(1, steps + 1):
            (factor * model(data(number)).square().mean()).backward()
        rows = collector.finish()
    return {name: rows[name]["backward"] for name in ("first", "twice", "idle")}


@pytest.mark.parametrize("steps", [1, 3, 5, 17])
def test_the_signal_equals_its_twin(steps: int) -> None:
    expected = {name: pytest.approx(value, rel=1e-4) for name, value in twin(steps).items()}
    assert measured(steps) == {**expected, "idle": None}


@pytest.mark.parametrize("kind", [nn.Linear, nn.Conv2d])
def test_it_stays_the_same_through_layers_of_any_scale(kind: Callable[..., nn.Module]) -> None:
    """A layer multiplied by a factor and the next one divided by it are the same function, and have the same signal."""

    def signal(factor: float) -> list[float]:
        torch.manual_seed(0)
        options = {} if kind is nn.Linear else {"kernel_size": 1}
        model = nn.Sequential(*(kind(5, 5, bias=False, **options) for _ in range(3)))
        with torch.no_grad():
            model[0].weight.mul_(factor)
            model[1].weight.div_(factor)
        x = torch.randn(4, 5) if kind is nn.Linear else torch.randn(4, 5, 3, 3)
        with SignalCollector(model) as collector:
            model(x).square().mean().backward()
            rows = collector.finish()
        return [rows[name]["backward"] for name in "012"]

    assert signal(1000.0) == pytest.approx(signal(1.0), rel=1e-4)


def test_calls_that_are_not_finite_are_left_out() -> None:
    model = Net()
    with SignalCollector(model) as collector:
        for number, factor in ((1, 1.0), (2, float("nan"))):
            (factor * model(data(number)).square().mean()).backward()
        assert collector.finish()["first"]["backward"] == pytest.approx(twin(1)["first"], rel=1e-4)


def test_what_is_computed_anew_is_not_known() -> None:
    inner = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    model = nn.Sequential(nn.Linear(4, 4), inner, nn.Linear(4, 2))
    forward = inner.forward
    inner.forward = lambda x: checkpoint(forward, x, use_reentrant=True)  # type: ignore[method-assign]
    with SignalCollector(model) as collector:
        model(torch.randn(3, 4)).sum().backward()
        rows = collector.finish()
    assert [rows[name]["backward"] is None for name in ("0", "1.0", "2")] == [False, True, False]


@pytest.mark.parametrize("restored", [False, True])
def test_windows_of_several_processes_are_brought_together(restored: bool) -> None:
    """The mean is over the calls of all of them, a layer that one of them did not call included; states go on."""
    model = Net()
    calls: dict[str, list[float]] = {}
    states = []
    for numbers in ((1,), (2, 3), ()):
        with SignalCollector(model) as collector:
            for number in numbers:
                for _ in range(2):
                    model(data(number)).square().mean().backward()
            states.append(collector.shared_state())
            looked_at = collector.state_dict()["backward"]
            rows = collector.finish()
        for name in ("first", "twice") if numbers else ():
            calls.setdefault(name, []).extend([rows[name]["backward"]] * int(looked_at[name][1]))
    whole = SignalCollector(model)
    with whole:
        whole.unite(states)
        if restored:
            stored = whole.state_dict()
            whole = SignalCollector(model)
            whole.start()
            whole.load_state_dict(stored)
        rows = whole.finish()
    assert {name: len(values) for name, values in calls.items()} == {"first": 5, "twice": 10}
    for name, values in calls.items():
        assert rows[name]["backward"] == pytest.approx(sum(values) / len(values), rel=1e-5)


def test_a_product_with_inputs_is_no_softmax() -> None:
    x, z = torch.randn(3, 4), torch.randn(3, 4, requires_grad=True)
    weights = F.softmax(z, -1)
    through = ("Mul",)
    assert function_of(0.5 * weights, through) == function_of(weights * 2, through) == "softmax"
    assert function_of(weights * x, through) is function_of(x * weights, through) is None
