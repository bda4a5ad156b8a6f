"""Weights that a model uses and does not know of, as those of layers in a plain list."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from ignite.engine import Engine
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import SGD

from ignite_act import Diagnostics
from ignite_act.report import Finding

NAME = "unregistered 16x16"


class Net(nn.Module):
    """A network whose hidden layer is in a plain list, or in a `ModuleList`."""

    def __init__(self, registered: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(4, 16), nn.Linear(16, 2)
        self.hidden: list[nn.Module] | nn.ModuleList = [nn.Linear(16, 16)]
        if registered:
            self.hidden = nn.ModuleList(self.hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        for layer in self.hidden:
            x = F.relu(layer(x))
        return self.last(x)


def train(model: nn.Module, optimizer: SGD, forward=None, epochs: int = 2) -> Diagnostics:
    """Learns whether a number is positive."""
    generator = torch.Generator().manual_seed(0)

    def step(engine: Engine, batch: object) -> float:
        x = torch.randn(32, 4, generator=generator)
        optimizer.zero_grad()
        loss = F.cross_entropy((forward or model)(x), (x[:, 0] > 0).long())
        loss.backward()
        optimizer.step()
        return loss.item()

    trainer = Engine(step)
    diagnostics = Diagnostics(model, every=1).attach(trainer)
    trainer.run(range(30), max_epochs=epochs)
    return diagnostics


def never_updated(diagnostics: Diagnostics) -> Finding | None:
    return next((finding for finding in diagnostics.findings if finding.kind == "never_updated"), None)


def test_a_layer_in_a_plain_list_is_never_updated() -> None:
    """It is named by its shape in every window, and the advice says how to register it."""
    model = Net()
    diagnostics = train(model, SGD(model.parameters(), 0.1))
    finding = never_updated(diagnostics)
    assert (finding.layer, finding.since_epoch) == (NAME, 1)
    assert "nn.ModuleList" in finding.advice[0]
    row = diagnostics.report.updates[NAME]
    assert (row["registered"], row["owned"], row["moved"], row["present"]) == (False, False, False, 30)
    assert all(own["registered"] for name, own in diagnostics.report.updates.items() if name != NAME)


def test_a_layer_that_an_optimizer_knows_is_trained() -> None:
    """Whoever gives it to the optimizer knows what he does."""
    model = Net()
    diagnostics = train(model, SGD([*model.parameters(), *model.hidden[0].parameters()], 0.1))
    assert never_updated(diagnostics) is None
    assert diagnostics.report.updates[NAME]["moved"]


def test_registered_layers_are_what_they_were() -> None:
    """Nothing is added where everything is registered."""
    model = Net(registered=True)
    diagnostics = train(model, SGD(model.parameters(), 0.1))
    assert list(diagnostics.report.updates) == ["first", "last", "hidden.0"]


def test_what_lies_before_the_input_is_another_model() -> None:
    """An encoder whose features go into the watched model is not part of it."""
    encoder, model = nn.Linear(4, 4), Net(registered=True)
    diagnostics = train(model, SGD([*model.parameters(), *encoder.parameters()], 0.1), lambda x: model(encoder(x)))
    assert list(diagnostics.report.updates) == ["first", "last", "hidden.0"]


@pytest.mark.parametrize("registered", [True, False])
def test_a_teacher_that_gets_no_gradient_is_none(registered: bool) -> None:
    """Weights that are used without a gradient, or given by `functional_call`, are not missed."""

    class Taught(Net):
        def __init__(self) -> None:
            super().__init__(registered=True)
            self.teacher = [copy.deepcopy(self.first)]

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                self.teacher[0](x)
            if registered:
                return super().forward(x)
            weights = {name: weight.detach().clone().requires_grad_() for name, weight in self.named_parameters()}
            return super().forward(x) + functional_call(Net(registered=True), weights, (x,)).mul(0.0)

    model = Taught()
    assert never_updated(train(model, SGD(model.parameters(), 0.1))) is None
