"""What people's loops do between two steps, and inside of one: a weight is updated or not, and a step is one step."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import SGD, Adam, Optimizer

from ignite_act import EpochRecorder
from ignite_act.report import EpochReport
from ignite_act.testing import FunctionalMLP

TRUTH = torch.randn(4, 3, generator=torch.Generator().manual_seed(7))
LAYERS = ("fc1", "fc2", "fc3")
Step = Callable[[int, Tensor, Tensor], Any]


def seeded(make: Callable[[], Any] = FunctionalMLP) -> Any:
    torch.manual_seed(0)
    return make()


def data(n: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(x, (x @ TRUTH).argmax(1)) for x in torch.randn(n, 32, 4, generator=generator)]


def watched(model: nn.Module, step: Step, n: int = 20) -> EpochReport:
    with EpochRecorder(model) as recorder:
        for number, (x, y) in enumerate(data(n)):
            loss = step(number, x, y)
            if loss is not None:
                recorder.record_loss(loss.detach())
        return recorder.finish()


def found(report: EpochReport, *kinds: str) -> list[tuple[str, str | None]]:
    kinds = kinds or ("never_updated", "no_gradient", "uncleared_gradient", "update_too_large")
    return [(f.kind, f.layer) for f in report.findings if f.kind in kinds and f.severity != "info"]


def minus_gradient(p: Tensor, lr: float = 0.1) -> Tensor:
    assert p.grad is not None
    return p.detach() - lr * p.grad


def by_no_grad(model: nn.Module) -> None:
    with torch.no_grad():
        for p in model.parameters():
            p -= 0.1 * p.grad


def by_data(model: nn.Module) -> None:
    for p in model.parameters():
        p.data = minus_gradient(p)


def by_data_in_place(model: nn.Module) -> None:
    for p in model.parameters():
        p.data.add_(p.grad, alpha=-0.1)


def by_copy(model: nn.Module) -> None:
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(minus_gradient(p))


def by_foreach(model: nn.Module) -> None:
    own = list(model.parameters())
    with torch.no_grad():
        torch._foreach_sub_(own, [0.1 * p.grad for p in own])


def by_state(model: nn.Module) -> None:
    model.load_state_dict({name: minus_gradient(p) for name, p in model.named_parameters()})


def by_worker(model: nn.Module) -> None:
    worker = threading.Thread(target=by_no_grad, args=(model,))
    worker.start()
    worker.join()


def by_vector(model: nn.Module) -> None:
    vector = torch.cat([minus_gradient(p).flatten() for p in model.parameters()])
    nn.utils.vector_to_parameters(vector, model.parameters())


BY_HAND = [by_no_grad, by_data, by_data_in_place, by_copy, by_foreach, by_state, by_worker, by_vector]


@pytest.mark.parametrize("update", BY_HAND)
def test_an_update_by_hand_is_an_update(update: Callable[[nn.Module], None]) -> None:
    """However the weights are changed, with an optimizer of something else in the loop or without: they moved."""
    model, beside = seeded(), nn.Linear(4, 3)
    other = update in BY_HAND[::2]
    optimizer = SGD([*beside.parameters(), model.fc1.bias] if other else beside.parameters(), 0.1)

    def step(number: int, x: Tensor, y: Tensor) -> Tensor:
        model.zero_grad()
        loss = F.cross_entropy(model(x) + beside(x), y)
        loss.backward()
        update(model)
        if other:
            optimizer.step()
        return loss

    report = watched(model, step, n=6)
    assert all(report.updates[name]["moved"] for name in LAYERS)
    assert not found(report)


def in_hooks(model: nn.Module) -> Step:
    """One optimizer for each parameter, inside of backward."""
    own = {p: Adam([p], 3e-3) for p in model.parameters()}

    def act(p: Tensor) -> None:
        own[p].step()
        own[p].zero_grad()

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(act)

    def step(number: int, x: Tensor, y: Tensor) -> Tensor:
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    return step


def with_masters(model: nn.Module) -> Step:
    masters = [p.detach().double().clone().requires_grad_() for p in model.parameters()]
    optimizer = Adam(masters, 3e-3)

    def step(number: int, x: Tensor, y: Tensor) -> Tensor:
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        for p, master in zip(model.parameters(), masters, strict=True):
            master.grad, p.grad = p.grad.double(), None
        optimizer.step()
        with torch.no_grad():
            for p, master in zip(model.parameters(), masters, strict=True):
                p.copy_(master)
        return loss

    return step


def with_average(model: nn.Module) -> Step:
    """The model that is watched is the average of another one, and is copied back into it now and then."""
    student = copy.deepcopy(model)
    optimizer = Adam(student.parameters(), 3e-3)

    def step(number: int, x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(student(x), y) + 0.1 * F.mse_loss(student(x), model(x))
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for own, other in zip(model.parameters(), student.parameters(), strict=True):
                own.lerp_(other, 0.1)
                if number % 4 == 3:
                    other.copy_(own)
        return loss

    return step


def with_functions(model: nn.Module) -> Step:
    """Weights in a dictionary; the model's own stay what they are, and have no gradient."""
    weights = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}

    def step(number: int, x: Tensor, y: Tensor) -> Tensor:
        loss = F.cross_entropy(functional_call(model, weights, (x,)), y)
        for name, gradient in zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True):
            weights[name] = (weights[name] - 0.1 * gradient).detach().requires_grad_()
        return loss

    return step


def accumulating(model: nn.Module) -> Step:
    optimizer = Adam(model.parameters(), 3e-3)

    def step(number: int, x: Tensor, y: Tensor) -> Tensor:
        loss = F.cross_entropy(model(x), y) / 4
        loss.backward()
        if number % 4 == 3:
            optimizer.step()
            optimizer.zero_grad()
        return loss

    return step


def warming_up(model: nn.Module) -> Step:
    optimizer = Adam(model.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 10)

    def step(number: int, x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        schedule.step()
        return loss

    return step


OUT_OF_SIGHT = [in_hooks, with_masters, with_average, with_functions, accumulating, warming_up]


@pytest.mark.parametrize("make", OUT_OF_SIGHT)
def test_updates_out_of_sight_are_no_fault(make: Callable[[nn.Module], Step]) -> None:
    """Optimizers inside backward, of copies, of functions; steps that are rare or begin at 0: nothing to report."""
    model = seeded()
    assert not found(watched(model, make(model), n=24))


class Tasks(nn.Module):
    """Heads that are chosen from outside; residual blocks that may be left out."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.trunk, self.block = nn.Linear(4, 16), nn.Linear(16, 16)
        self.heads = nn.ModuleList(nn.Linear(16, 3) for _ in range(heads))

    def forward(self, x: Tensor, head: int = 0, deep: bool = True) -> Tensor:
        h = F.relu(self.trunk(x))
        h = h + F.relu(self.block(h)) if deep else h
        return self.heads[head](h)


SCHEDULES: dict[str, tuple[int, Callable[[int], tuple[int, bool]]]] = {
    "two tasks in turn": (2, lambda n: (n % 2, True)),
    "three": (3, lambda n: (n % 3, True)),
    "seven": (7, lambda n: (n % 7, True)),
    "one in every fifth step": (2, lambda n: (int(n % 5 == 4), True)),
    "one in the last step alone": (2, lambda n: (int(n == 20), True)),
    "one after the other": (2, lambda n: (int(n >= 11), True)),
    "stochastic depth": (1, lambda n: (0, n % 6 == 4)),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_layers_that_are_rarely_used_are_counted_in_all_steps(name: str) -> None:
    """A layer with a gradient in any step, seen closely or not, is no layer without one; counts equal a twin's."""
    heads, choose = SCHEDULES[name]
    model = seeded(lambda: Tasks(heads))
    optimizer = SGD(model.parameters(), 0.05)
    twin = {f"heads.{head}": 0 for head in range(heads)} | {"trunk": 0, "block": 0}

    def step(number: int, x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad(set_to_none=not name.startswith("t"))
        loss = F.cross_entropy(model(x, *choose(number)), y)
        loss.backward()
        for layer in twin:
            twin[layer] += model.get_submodule(layer).weight.grad is not None
        optimizer.step()
        return loss

    report = watched(model, step, n=21)
    assert not found(report)
    assert {layer: report.updates[layer]["present"] for layer in twin} == twin
    assert all(report.updates[layer]["missing"] == 21 - twin[layer] for layer in twin)
    assert all(report.updates[layer]["nonzero"] and report.updates[layer]["moved"] for layer in twin)


FORGOTTEN: dict[str, tuple[Callable[[Any], Optimizer], list[str]]] = {
    "no step": (lambda m: SGD(m.parameters(), 0.1), list(LAYERS)),
    "a layer": (lambda m: SGD([*m.fc1.parameters(), *m.fc3.parameters()], 0.1), ["fc2"]),
    "a weight": (lambda m: Adam([p for p in m.parameters() if p is not m.fc1.weight]), ["fc1"]),
    "no rate": (lambda m: SGD(m.parameters(), 0.0), list(LAYERS)),
    "no rate in a group": (lambda m: Adam([{"params": m.fc2.parameters(), "lr": 0.0},
                                           {"params": [*m.fc1.parameters(), *m.fc3.parameters()]}]), ["fc2"]),
    "a copy": (lambda m: Adam(copy.deepcopy(m).parameters()), list(LAYERS)),
    "frozen when it was made": (lambda m: Adam([p for p in m.parameters() if p.requires_grad]), ["fc1"]),
    "another model": (lambda m: Adam(nn.Linear(2, 2).parameters()), list(LAYERS)),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGOTTEN)
@pytest.mark.parametrize("after", [False, True])
def test_what_was_forgotten_is_found(name: str, after: bool) -> None:
    """A step, a layer, a rate, the right model, a weight that was frozen: the weights that stay are named."""
    make, layers = FORGOTTEN[name]
    model = seeded()
    model.fc1.weight.requires_grad_(not name.startswith("frozen"))
    optimizer = make(model)
    model.fc1.weight.requires_grad_(True)

    def step(number: int, x: Tensor, y: Tensor) -> Tensor:
        if not after:
            model.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        if name != "no step":
            optimizer.step()
        if after:
            model.zero_grad()
        return loss

    report = watched(model, step, n=6)
    never = [f for f in report.findings if f.kind == "never_updated"]
    assert [f.evidence["layers"] for f in never] == [layers]
