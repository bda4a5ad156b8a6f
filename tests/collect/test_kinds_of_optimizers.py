"""What a step is made of: closures, steps inside of steps, and two evaluations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import LBFGS, SGD, Adam, Optimizer

from ignite_act import EpochRecorder
from ignite_act.collect.passes import is_sample
from ignite_act.testing import FunctionalMLP

TRUTH = torch.randn(4, 3, generator=torch.Generator().manual_seed(7))
LAYERS = ("fc1", "fc2", "fc3")
STEPS = 6


def seeded(make: Callable[[], Any] = FunctionalMLP) -> Any:
    torch.manual_seed(0)
    return make()


def data(n: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(x, (x @ TRUTH).argmax(1)) for x in torch.randn(n, 32, 4, generator=generator)]


def parameters(optimizer: Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


class Wrapped(Optimizer):
    """An optimizer around another one of the same parameters."""

    def __init__(self, inner: Optimizer) -> None:
        super().__init__(parameters(inner), {})
        self.inner = inner
        self.param_groups = inner.param_groups


class Perturbed(Wrapped):
    """Sharpness-aware, with a closure (Foret et al. 2021)."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        own = parameters(self)
        kept = [p.clone() for p in own]
        ascend(own)
        self.zero_grad()
        torch.enable_grad()(closure)()
        for p, old in zip(own, kept, strict=True):
            p.copy_(old)
        self.inner.step()


@torch.no_grad()
def ascend(own: list[Tensor]) -> None:
    for p in own:
        p.add_(p.grad, alpha=0.3)


class LookAhead(Wrapped):
    """Goes half of the way back after every second step (Zhang et al. 2019)."""

    def __init__(self, inner: Optimizer) -> None:
        super().__init__(inner)
        self.slow = [p.detach().clone() for p in parameters(self)]
        self.count = 0

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.inner.step(closure)
        self.count += 1
        if self.count % 2 == 0:
            for slow, p in zip(self.slow, parameters(self), strict=True):
                slow.lerp_(p, 0.5)
                p.copy_(slow)


class Twice(Wrapped):
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.inner.step()
        self.inner.step()


class Parts(Optimizer):
    """One optimizer in front of others that have its parameters divided among them."""

    def __init__(self, *inner: Optimizer) -> None:
        super().__init__([p for own in inner for p in parameters(own)], {})
        self.inner = inner

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for own in self.inner:
            own.step()


def parts_of(model: Any) -> Parts:
    return Parts(SGD(model.fc1.parameters(), 0.1), Adam([*model.fc2.parameters(), *model.fc3.parameters()], 0.01))


Backward = Callable[[], Tensor]


def plain(optimizer: Optimizer, backward: Backward) -> None:
    backward()
    optimizer.step()


def by_closure(optimizer: Optimizer, backward: Backward) -> None:
    optimizer.step(backward)  # type: ignore[arg-type]


def sharp(optimizer: Optimizer, backward: Backward) -> None:
    backward()
    optimizer.step(backward)  # type: ignore[arg-type]


def sharp_by_hand(optimizer: Optimizer, backward: Backward) -> None:
    backward()
    own = parameters(optimizer)
    kept = [p.detach().clone() for p in own]
    ascend(own)
    backward()
    with torch.no_grad():
        for p, old in zip(own, kept, strict=True):
            p.copy_(old)
    optimizer.step()


SIMPLE: dict[str, tuple[Callable[[Any], Optimizer], Callable[[Optimizer, Backward], None]]] = {
    "plain": (lambda m: SGD(m.parameters(), 0.1), plain),
    "closure": (lambda m: Adam(m.parameters(), 0.01), by_closure),
    "LBFGS": (lambda m: LBFGS(m.parameters(), 0.05, max_iter=4), by_closure),
    "LBFGS with a search": (lambda m: LBFGS(m.parameters(), max_iter=3, line_search_fn="strong_wolfe"), by_closure),
    "sharpness": (lambda m: Perturbed(SGD(m.parameters(), 0.1)), sharp),
    "sharpness by hand": (lambda m: SGD(m.parameters(), 0.1), sharp_by_hand),
    "look ahead": (lambda m: LookAhead(SGD(m.parameters(), 0.1)), plain),
    "look ahead, closure": (lambda m: LookAhead(Adam(m.parameters(), 0.01)), by_closure),
    "look ahead of sharpness": (lambda m: LookAhead(Perturbed(SGD(m.parameters(), 0.1))), sharp),
    "twice": (lambda m: Twice(SGD(m.parameters(), 0.1)), plain),
    "twice of twice": (lambda m: Twice(Twice(SGD(m.parameters(), 0.05))), plain),
    "parts": (parts_of, plain),
}  # fmt: skip


@pytest.mark.few(16)
@pytest.mark.parametrize("cleared", ["before", "after", "to zero", "never"])
@pytest.mark.parametrize("name", SIMPLE)
def test_a_step_is_one_step(name: str, cleared: str) -> None:
    """Ratio, steps, gradients and clearing equal those of a twin that looks before and after the user's call."""
    make, run = SIMPLE[name]
    model = seeded()
    optimizer = make(model)
    ratios: list[float] = []
    with EpochRecorder(model) as recorder:
        for number, (x, y) in enumerate(data(STEPS), 1):

            def backward(x: Tensor = x, y: Tensor = y) -> Tensor:
                if cleared in ("before", "to zero"):  # in a closure: in each evaluation
                    optimizer.zero_grad(set_to_none=cleared == "before")
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                return loss

            before = model.fc1.weight.detach().double().clone()
            run(optimizer, backward)
            moved = (model.fc1.weight.detach().double() - before).abs().mean() / before.abs().mean()
            ratios += [moved.item()] if is_sample(number) else []
            if cleared == "after":
                optimizer.zero_grad()
        report = recorder.finish()
    row = report.updates["fc1"]
    assert (row["steps"], row["present"], row["missing"]) == (len(ratios), STEPS, 0)
    assert row["ratio"] == pytest.approx(sum(ratios) / len(ratios), rel=1e-4)
    kinds = [f.kind for f in report.findings if f.kind in ("uncleared_gradient", "never_updated", "no_gradient")]
    if cleared == "never" and name not in ("sharpness", "look ahead of sharpness"):  # which clear by themselves
        assert (row["cleared"], row["uncleared"] > 0) == (0, True)
        assert kinds == ["uncleared_gradient"]
    elif cleared != "never":
        assert (row["cleared"] > 0, row["uncleared"]) == (True, 0)
        assert kinds == []


def test_an_inner_loop_on_other_parameters_is_its_own() -> None:
    """Steps of other parameters inside of a step are steps of those parameters."""

    class Outer(Wrapped):
        other: Optimizer

        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            for _ in range(3):
                self.other.step()
            self.inner.step()

    model = seeded()
    optimizer = Outer(SGD([*model.fc1.parameters(), *model.fc2.parameters()], 0.1))
    optimizer.other = SGD(model.fc3.parameters(), 0.01)
    with EpochRecorder(model) as recorder:
        for x, y in data(STEPS):
            model.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        rows = recorder.finish().updates
    assert [rows[name]["present"] for name in LAYERS] == [STEPS, STEPS, 3 * STEPS]
    assert all(row["uncleared"] == 0 for row in rows.values())


def test_a_skipped_step_is_none() -> None:
    """A loss scaler that leaves a step out leaves it out of the counts; what was cleared stays cleared."""
    model = seeded()
    optimizer, scaler = SGD(model.parameters(), 0.1), torch.amp.GradScaler("cpu", init_scale=4.0)
    with EpochRecorder(model) as recorder:
        for number, (x, y) in enumerate(data(STEPS)):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y) * (float("inf") if number in (0, 3) else 1.0)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        report = recorder.finish()
    row = report.updates["fc1"]
    assert (row["present"], row["steps"], row["uncleared"], row["moved"]) == (STEPS - 2, 3, 0, True)
    assert report.gradients["fc1"]["skipped_steps"] == 2
    assert not [f for f in report.findings if f.kind in ("uncleared_gradient", "never_updated")]


@pytest.mark.parametrize("order", ["both before", "each before its backward", "forgotten"])
def test_two_optimizers_and_two_backward_calls_on_one_graph(order: str) -> None:
    """What an optimizer clears too late, or never, is told from what it clears in time."""
    model = seeded()
    optimizers = [SGD([*model.fc1.parameters(), *model.fc2.parameters()], 0.05), SGD(model.fc3.parameters(), 0.05)]
    with EpochRecorder(model) as recorder:
        for x, y in data(STEPS):
            if order == "both before":
                for own in optimizers:
                    own.zero_grad()
            z = model(x)
            losses = F.cross_entropy(z, y), 0.1 * z.square().mean()
            for loss, own in zip(losses, optimizers, strict=True):
                if order == "each before its backward":
                    own.zero_grad()
                elif order == "forgotten":
                    optimizers[0].zero_grad()
                loss.backward(retain_graph=True)
            for own in optimizers:
                own.step()
        report = recorder.finish()
    assert [report.updates[name]["present"] for name in LAYERS] == [STEPS] * 3
    left = [f.evidence["layers"] for f in report.findings if f.kind == "uncleared_gradient"]
    assert left == ([["fc3"]] if order == "forgotten" else [])
