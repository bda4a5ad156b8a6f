"""Either the number is right, or the coverage says in one line that it is not known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from ignite.engine import Engine
from torch import Tensor, nn
from torch.func import functional_call

from ignite_act import Diagnostics
from ignite_act.testing import Batch, batches

DATA = batches(4)
Call = Callable[[Any, Tensor, Tensor], Any]


class Net(nn.Module):
    """Takes its input in every way."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Any = None, mask: Tensor | None = None, y: Tensor | None = None) -> Any:
        x = x["x"] if isinstance(x, dict) else torch.ones(8, 4) if x is None else x
        result = self.last(F.relu(self.first(x if mask is None else x * mask)))
        return result if y is None else {"loss": F.cross_entropy(result, y)}


def train(call: Call, *, returns: Callable[[Tensor], Any] = Tensor.item, **settings: Any) -> Diagnostics:
    """One epoch."""
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def step(engine: Engine, batch: Batch) -> Any:
        optimizer.zero_grad()
        output = call(model, *batch)
        loss = output["loss"] if isinstance(output, dict) else F.cross_entropy(output, batch[1])
        if loss.requires_grad:
            loss.backward()
        optimizer.step()
        return returns(loss)

    trainer = Engine(step)
    diagnostics = Diagnostics(model, optimizer, every=1, **settings).attach(trainer)
    trainer.run(DATA)
    for coverage in diagnostics.coverage.values():
        assert all(0 < len(reason) < 250 and "\n" not in reason for reason in coverage.unseen.values())
    return diagnostics


def unseen(diagnostics: Diagnostics, name: str) -> str:
    """All that the coverage of a diagnostic says."""
    coverage = diagnostics.coverage.get(name)
    return "; ".join(coverage.unseen.values()) if coverage is not None else ""


BY_POSITION: dict[str, Call] = {
    "keyword": lambda model, x, y: model(x=x),
    "position and keyword": lambda model, x, y: model(x, mask=torch.ones(4)),
    "keywords, a mask first": lambda model, x, y: model(mask=torch.ones(4), x=x),
    "dictionary": lambda model, x, y: model({"x": x}),
    "dictionary, numbers of the rows first": lambda model, x, y: model({"number": torch.arange(8), "x": x}),
    "dictionary, a mask first": lambda model, x, y: model({"mask": torch.ones(8, 4) > 0, "x": x}),
    "functional call": lambda model, x, y: functional_call(model, dict(model.named_parameters()), (x,)),
}


@pytest.mark.parametrize("how", BY_POSITION)
def test_however_the_input_goes_in(how: str) -> None:
    """The report is the one of ``model(x)``: input, layers, output, loss and findings."""
    expected, found = train(lambda model, x, y: model(x)).report, train(BY_POSITION[how]).report
    assert expected is not None
    assert found is not None
    for report in (found, expected):
        report.signal["input"].pop("others")  # a mask or a number besides
    assert found.signal == expected.signal
    assert "mean" in found.signal["input"]
    assert (found.output, found.loss, found.activations) == (expected.output, expected.loss, expected.activations)


NOT_SEEN: dict[str, tuple[Call, dict[str, str]]] = {
    "no tensor": (lambda model, x, y: model(), {"signal": "no tensor went into the model"}),
    "never called": (
        lambda model, x, y: torch.zeros(8, 3),
        {"signal": "no forward", "output": "no forward", "activations": "no forward", "gradients": "no gradient"},
    ),
    "parts": (
        lambda model, x, y: model.last(F.relu(model.first(x))),
        {"output": "no forward of the whole model", "activations": "no forward"},
    ),
    "one part": (lambda model, x, y: model.first(x)[:, :3], {"output": "no forward", "gradients": "no gradient"}),
    "no gradient": (lambda model, x, y: model(x).detach(), {"gradients": "no gradient"}),
    "its loss alone": (lambda model, x, y: model(x, y=y), {"output": "returns only its loss"}),
    "forward itself": (lambda model, x, y: model.forward(x), {"output": "no forward of the whole model"}),
    "its weights by hand": (
        lambda model, x, y: F.linear(x, model.last.weight @ model.first.weight),
        {"signal": "no forward", "output": "no forward", "activations": "no forward"},
    ),
}


@pytest.mark.parametrize("how", NOT_SEEN)
def test_what_was_not_seen_is_said(how: str) -> None:
    """What has no numbers has a reason."""
    call, said = NOT_SEEN[how]
    diagnostics = train(call)
    for name, words in said.items():
        assert words in unseen(diagnostics, name)


@pytest.mark.filterwarnings("ignore:Using `torch.compile")
def test_a_compiled_model() -> None:
    """Input, output, loss and gradients are known; of layers and activations it is said that they are compiled."""
    torch._dynamo.reset()
    diagnostics = train(lambda model, x, y: torch.compile(model, backend="eager")(x))
    report = diagnostics.report
    assert report is not None
    assert list(report.signal) == ["input", "output"]
    assert report.output
    assert list(report.gradients) == ["first", "last"]
    for name in ("activations", "dead_neurons", "signal"):
        assert "torch.compile" in unseen(diagnostics, name)


LOSSES: dict[str, tuple[Callable[[Tensor], Any], dict[str, Any], int, str]] = {
    "number": (Tensor.item, {}, 4, ""),
    "tensor": (lambda loss: loss, {}, 4, ""),
    "nothing": (lambda loss: None, {}, 0, "output_transform="),
    "another key": (lambda loss: {"batch_loss": loss.item()}, {}, 0, "output_transform="),
    "words": (lambda loss: "fine", {}, 0, "output_transform="),
    "found": (lambda loss: {"l": loss}, {"output_transform": lambda output: output["l"]}, 4, ""),
    "None found": (Tensor.item, {"output_transform": lambda output: None}, 0, "returned None"),
    "not found": (Tensor.item, {"output_transform": lambda output: output["l"]}, 0, "output_transform failed"),
    "a vector": (Tensor.item, {"output_transform": lambda output: torch.ones(3)}, 0, "not a single number"),
}


@pytest.mark.parametrize("how", LOSSES)
def test_a_loss_that_is_not_known(how: str) -> None:
    """The loss of every step is in the report, or the coverage says where it is missing."""
    returns, settings, steps, said = LOSSES[how]
    diagnostics = train(lambda model, x, y: model(x), returns=returns, **settings)
    assert diagnostics.report is not None
    assert diagnostics.report.loss.get("steps", 0) == steps
    assert said in unseen(diagnostics, "loss")
    assert bool(said) == bool(unseen(diagnostics, "loss"))
