"""Layers without a gradient: those that are meant to be idle, and those that are cut off from the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from ignite_act import EpochRecorder
from ignite_act.report import Finding

TRUTH = torch.randn(8, 3, generator=torch.Generator().manual_seed(7))
LossOf = Callable[[Any, Tensor, Tensor, int], Tensor]


def data(n: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(x, (x @ TRUTH).argmax(1)) for x in torch.randn(n, 32, 8, generator=generator)]


def seeded(make: Callable[[], Any]) -> Any:
    torch.manual_seed(0)
    return make()


def found(
    model: nn.Module,
    loss_of: LossOf,
    *,
    optimizers: Iterable[Optimizer] = (),
    epochs: int = 3,
    to_none: bool = True,
) -> list[Finding]:
    """What is said of gradients after a few epochs."""
    several = list(optimizers) or [Adam([p for p in model.parameters() if p.requires_grad], 1e-2)]
    number = 0
    with EpochRecorder(model) as recorder:
        for epoch in range(1, epochs + 1):
            for x, y in data(8):
                for own in several:
                    own.zero_grad(set_to_none=to_none)
                loss = loss_of(model, x, y, number)
                loss.backward()
                for own in several:
                    own.step()
                recorder.record_loss(loss)
                number += 1
            report = recorder.finish(epoch=epoch)
    return [f for f in report.findings if f.kind in ("no_gradient", "never_updated")]


def severe(findings: list[Finding]) -> list[tuple[str, str, list[str]]]:
    return [(f.severity, f.kind, list(f.evidence["layers"])) for f in findings if f.severity != "info"]


class Parts(nn.Module):
    """A trunk, a head, and a part that is called and may not be used."""

    def __init__(self, inputs: int = 8) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(inputs, 32), nn.Linear(32, 16)
        self.head, self.more = nn.Linear(16, 3), nn.Linear(16, 16)

    def trunk(self, x: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(x))))


class Pooled(Parts):
    """Returns what a pooler makes as well, which comes last (BertModel) or before the head."""

    def __init__(self, early: bool = False) -> None:
        super().__init__()
        self.early = early

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.trunk(x)
        if self.early:
            pooled = torch.tanh(self.more(h))
            return self.head(h), pooled
        return self.head(h), torch.tanh(self.more(h))


class Auxiliary(Parts):
    """Projects an intermediate state, halfway, for a loss that is not always there."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = F.relu(self.first(x))
        side = self.more(h[:, :16])
        return self.head(F.relu(self.second(h))), side


class TwoInputs(Parts):
    def __init__(self) -> None:
        super().__init__()
        self.side = nn.Linear(5, 16)

    def forward(self, x: Tensor, extra: Tensor) -> Tensor:
        return self.head(self.trunk(x) + self.side(extra))


def first(model: Any, x: Tensor, y: Tensor, number: int) -> Tensor:
    return F.cross_entropy(model(x)[0], y)


def sometimes(model: Any, x: Tensor, y: Tensor, number: int) -> Tensor:
    z, side = model(x)
    return F.cross_entropy(z, y) + (0.1 * side.square().mean() if number % 2 else 0.0)


def in_the_first_epoch(model: Any, x: Tensor, y: Tensor, number: int) -> Tensor:
    z, side = model(x)
    return F.cross_entropy(z, y) + (0.1 * side.square().mean() if number < 8 else 0.0)


def weighed_by_zero(model: Any, x: Tensor, y: Tensor, number: int) -> Tensor:
    z, side = model(x)
    return F.cross_entropy(z, y) + 0.0 * side.square().mean()


def zeros_given(model: Any, x: Tensor, y: Tensor, number: int) -> Tensor:
    return F.cross_entropy(model(x, torch.zeros(len(x), 5)), y)


def with_satisfied_margin(model: Any, x: Tensor, y: Tensor, number: int) -> Tensor:
    z, side = model(x)
    return F.cross_entropy(z, y) + F.relu(0.1 - 1.0 - side.square().mean())


IDLE: dict[str, tuple[Callable[[], nn.Module], LossOf]] = {
    "pooler": (Pooled, first),
    "pooler before the head": (lambda: Pooled(early=True), first),
    "pooler of weight 0": (Pooled, weighed_by_zero),
    "auxiliary head in every second step": (Auxiliary, sometimes),
    "auxiliary head in the first epoch": (Pooled, in_the_first_epoch),
    "second input of zeros": (TwoInputs, zeros_given),
    "satisfied margin": (Pooled, with_satisfied_margin),
}


@pytest.mark.few(4)
@pytest.mark.parametrize("to_none", [True, False])
@pytest.mark.parametrize("name", IDLE)
def test_what_is_idle_is_no_error_while_the_rest_learns(name: str, to_none: bool) -> None:
    """Unused heads, inputs of zeros and satisfied losses are worth an info at most, or a warning; never an error."""
    make, loss_of = IDLE[name]
    findings = found(seeded(make), loss_of, to_none=to_none)
    assert not [f for f in findings if f.severity == "error"]
    used = {"first", "second", "head"}
    assert not [f for f in findings if used & set(f.evidence["layers"])]
    if name.startswith("pooler") or "margin" in name:
        assert [(f.severity, f.evidence["layers"]) for f in findings] == [("info", ["more"])]


@pytest.mark.parametrize("exact", [False, True])
def test_a_solved_task_has_no_gradient_left(exact: bool) -> None:
    """A hinge loss that reaches 0 stops all gradients: the network has learned, and nothing is wrong."""
    model = seeded(lambda: nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 1)))

    def loss_of(model: Any, x: Tensor, y: Tensor, number: int) -> Tensor:
        sign = torch.where(x[:, 0] > 0, 1.0, -1.0)
        far = x[:, 0].abs() > 0.8
        hinge = F.relu(0.2 - sign * model(x)[:, 0])[far]
        return hinge.mean() if not exact or number < 32 else 0.0 * hinge.mean()

    assert not [f for f in found(model, loss_of, epochs=8) if f.severity == "error"]


def test_a_frozen_backbone_is_worth_knowing() -> None:
    """Frozen layers are an info, whether the optimizer owns them or not."""
    for owned in (True, False):
        model = seeded(
            lambda: nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 3))
        )
        for part in (model[0], model[2]):
            part.requires_grad_(False)
        own = model.parameters() if owned else model[4].parameters()
        findings = found(model, lambda m, x, y, n: F.cross_entropy(m(x), y), optimizers=[Adam(own, 1e-2)])
        assert [(f.severity, f.evidence["layers"]) for f in findings] == [("info", ["0", "2"])]


def test_layers_that_are_never_called_are_worth_knowing() -> None:
    """A part of the model that no forward calls is an info."""

    class Never(Parts):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.trunk(x))

    findings = found(seeded(Never), lambda m, x, y, n: F.cross_entropy(m(x), y))
    assert [(f.severity, f.evidence["layers"]) for f in findings] == [("info", ["more"])]


# What is cut off.


class Cut(nn.Module):
    """Five layers, with something in between."""

    def __init__(self, between: Callable[[Tensor], Tensor], place: int = 2) -> None:
        super().__init__()
        sizes = (8, 32, 16, 16, 16)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, (*sizes[1:], 3), strict=True))
        self.between, self.place = between, place

    def forward(self, x: Tensor) -> Tensor:
        for index, layer in enumerate(self.layers):
            x = self.between(x) if index == self.place else x
            x = layer(x)
            x = F.relu(x) if index < 4 else x
        return x


def copied(x: Tensor) -> Tensor:
    return torch.tensor(x.tolist())


def without(x: Tensor) -> Tensor:
    with torch.no_grad():
        return x * 1.0


CUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "detach": lambda x: x.detach(),
    "data": lambda x: x.data,
    "numpy": lambda x: torch.from_numpy(x.detach().numpy().copy()),
    "item": copied,
    "no_grad": without,
    "round": lambda x: x.round(),
    "comparison": lambda x: (x > 0.1).float(),
    "zero": lambda x: 0.0 * x + 1.0,
}


def plain(model: Any, x: Tensor, y: Tensor, number: int) -> Tensor:
    return F.cross_entropy(model(x), y)


@pytest.mark.few(3)
@pytest.mark.parametrize("name", CUTS)
def test_what_cuts_the_first_layers_off_is_found(name: str) -> None:
    """The layers before the cut are named, the last of them first, by a warning while the rest learns, or an error."""
    findings = found(seeded(lambda: Cut(CUTS[name])), plain, epochs=2)
    (finding,) = (f for f in findings if f.kind == "no_gradient")
    assert (finding.layer, finding.evidence["layers"]) == ("layers.1", ["layers.0", "layers.1"])
    if name not in ("round", "zero"):  # whose gradients are there, and 0
        assert finding.severity in ("info", "warning", "error")  # the layers behind the cut may learn


@pytest.mark.few(2)
@pytest.mark.parametrize("name", ["detach", "no_grad", "zero"])
@pytest.mark.parametrize("place", [1, 4])
def test_a_cut_is_an_error_where_nothing_is_learned(name: str, place: int) -> None:
    """What still learns gets a constant: the network stalls, and the cut is why."""
    model = seeded(lambda: Cut(lambda x: 1.0 + 0.0 * CUTS[name](x), place))
    findings = found(model, plain)
    cut = [(f.severity, f.evidence["layers"]) for f in findings if f.kind == "no_gradient"]
    assert cut == [("error", [f"layers.{index}" for index in range(place)])]


def test_a_cut_before_a_second_optimizer_is_found() -> None:
    """Each part has an optimizer: the zeros of one are not hidden by the steps of the other."""
    for cut in ("detach", "zero", "round"):
        model = seeded(lambda cut=cut: Cut(CUTS[cut]))
        early, late = model.layers[:2], model.layers[2:]
        for order in (1, -1):
            optimizers = [SGD(late.parameters(), 0.1), SGD(early.parameters(), 0.1)][::order]
            findings = found(model, plain, epochs=2, optimizers=optimizers, to_none=cut != "detach")
            assert [f.evidence["layers"] for f in findings if f.kind == "no_gradient"] == [["layers.0", "layers.1"]]


def test_everything_cut_off_is_an_error() -> None:
    """Where no weight has a gradient but a bias does, nothing is learned, and an error says so."""
    model = seeded(lambda: nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)))
    shift = nn.Parameter(torch.zeros(3))
    optimizers = [SGD([*model.parameters(), shift], 0.1)]
    findings = found(model, lambda m, x, y, n: F.cross_entropy(m(x).detach() + shift, y), optimizers=optimizers)
    assert severe(findings) == [("error", "no_gradient", ["0", "2"])]
