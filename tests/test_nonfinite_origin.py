"""The first NaN is found where it arises, with its iteration, and nothing is concluded from what follows."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from ignite.engine import Engine, Events
from ignite.handlers import TerminateOnNan
from torch import Tensor, nn

from ignite_act import Diagnostics, EpochReport, Finding
from ignite_act.collect import SignalCollector
from ignite_act.findings import judge
from ignite_act.stats import kernels

NAN = float("nan")
FOUR = [(torch.randn(16, 8, generator=torch.Generator().manual_seed(i)), torch.arange(16) % 3) for i in range(4)]


class NegativeLog(nn.Module):
    """A logarithm of negative numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.log(-x.abs() - 1)


class Net(nn.Module):
    """Three layers, and a place of which every forward up to a certain one is sound."""

    def __init__(self, place: str, at: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc1, self.relu, self.log = nn.Linear(8, 8), nn.ReLU(), NegativeLog()
        self.norm, self.fc2, self.fc3 = nn.BatchNorm1d(8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.place, self.at, self.forwards = place, at, 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += 1
        place = self.place if self.forwards == self.at else ""
        x = self.relu(self.fc1(torch.log(-x.abs()) if place == "before fc1" else x))
        x = self.log(x) if place == "module" else torch.log(-x - 1) if place == "call" else x
        x = self.norm(x)
        with torch.no_grad():
            if place == "weight":
                self.fc2.weight[0, 0] = NAN
            if place == "bias":
                self.fc3.bias[0] = NAN
        x = self.fc3(F.relu(self.fc2(x)))
        return self.log(x) if place == "last module" else x * NAN if place == "last call" else x


PLACES: dict[str, tuple[str | None, str]] = {
    "input": ("fc1", "is in the input"),
    "before fc1": (None, "arises before fc1"),
    "module": ("log", "is in the activation"),
    "call": (None, "arises between fc1 and norm"),
    "weight": ("fc2", "is in the weight"),
    "bias": ("fc3", "is in the weight"),
    "last module": ("log", "is in the activation"),
    "last call": (None, "arises between fc3 and the model's output"),
    "loss": (None, "is in the loss"),
    "gradient": ("fc1", "is in the gradient"),
}


def trained(place: str, at: int, *, terminate: bool) -> tuple[EpochReport, ...]:
    """The reports of three epochs of four steps, in one of which something is NaN."""
    model = Net(place, at)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)

    def step(engine: Engine, batch: tuple[Tensor, Tensor]) -> float:
        now = engine.state.iteration == at
        optimizer.zero_grad()
        loss = F.cross_entropy(model(batch[0] * NAN if place == "input" and now else batch[0]), batch[1])
        if place == "gradient" and now:
            model.fc1.weight.register_hook(lambda gradient: gradient * NAN)
        (loss * NAN if place == "loss" and now else loss).backward()
        optimizer.step()
        return loss.item() if place != "loss" or not now else NAN

    trainer = Engine(step)
    trainer.logger.disabled = True
    if terminate:
        handler = TerminateOnNan()
        handler.logger.disabled = True
        trainer.add_event_handler(Events.ITERATION_COMPLETED, handler)
    reports: list[EpochReport] = []
    with Diagnostics(model, sinks=[_Kept(reports)]).attach(trainer):
        trainer.run(FOUR, max_epochs=3)
    return tuple(reports)


class _Kept:
    def __init__(self, reports: list[EpochReport]) -> None:
        self._reports = reports

    def write(self, report: EpochReport) -> None:
        self._reports.append(report)

    def close(self) -> None: ...


def only(findings: tuple[Finding, ...]) -> Finding:
    (finding,) = findings
    return finding


@pytest.mark.parametrize("compiled", [False, True], ids=["torch", "compiled"])
@pytest.mark.parametrize("terminate", [False, True], ids=["goes on", "terminated"])
@pytest.mark.parametrize("at", [1, 6])
@pytest.mark.parametrize("place", PLACES)
def test_the_place_is_named(
    monkeypatch: pytest.MonkeyPatch, place: str, at: int, terminate: bool, compiled: bool
) -> None:
    """With its iteration, in a first and in a later window, whether or not the run is ended by it."""
    if not compiled:
        monkeypatch.setattr(kernels, "compiled", lambda: None)
    reports = trained(place, at, terminate=terminate)
    finding = only(judge([EpochReport.from_dict(json.loads(json.dumps(own.to_dict()))) for own in reports]))
    layer, words = PLACES[place]
    assert (finding.kind, finding.severity, finding.layer) == ("nonfinite", "error", layer)
    assert finding.evidence["quantity"] == f"the first NaN or infinity {words}; its iteration"
    assert finding.evidence["iteration"] == at


def test_where_it_cannot_be_looked_at_the_layer_is_named_that_shows_it() -> None:
    """On a GPU the host does not know at the call that a number is NaN; the weights of the last window do say a bit."""
    reports = trained("module", 6, terminate=True)
    for report in reports:
        for row in report.signal.values():
            row["origin"] = None
    finding = only(judge(reports))
    assert (finding.layer, finding.evidence["place"]) == ("fc2", "activation")


def test_what_was_found_before_a_nan_stays() -> None:
    """Numbers from before it count, those after it do not."""
    sound, nan = trained("", 0, terminate=False), trained("weight", 9, terminate=False)
    before = {own.kind for own in judge(sound[:2])}
    assert {own.kind for own in judge(nan)} == {"nonfinite", *before}


def test_origins_survive_a_stored_window_and_several_processes() -> None:
    """The first process that saw one tells where it was."""
    states = []
    for place in ("", "module", "weight"):
        model = Net(place, 1)
        with SignalCollector(model) as collector:
            model(FOUR[0][0])
            states.append((collector.state_dict(), collector.shared_state()))
    with SignalCollector(model) as whole:
        whole.unite([shared for _, shared in states])
        united = whole.finish()
    alone = SignalCollector(model)
    alone.load_state_dict(states[1][0])
    with alone:
        resumed = alone.finish()
    twin = {"weight": False, "module": "log", "behind": "", "ahead": ""}
    assert united["fc2"]["origin"] == resumed["fc2"]["origin"] == twin
    assert united["fc1"]["origin"] is None


@pytest.mark.parametrize("call", [lambda x: torch.log(-x - 1), NegativeLog()], ids=["function", "module"])
def test_a_nan_between_two_layers(call: Callable[[Tensor], Tensor]) -> None:
    """A function has no name: the layers around it are told."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 2)
            self.between = call

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.between(self.first(x).relu()))

    model, unnamed = Two(), {"module": "", "behind": "first", "ahead": "second"}
    with SignalCollector(model) as collector:
        model(torch.randn(3, 4))
        origin = collector.finish()["second"]["origin"]
    named = {"module": "between", "behind": "", "ahead": ""}
    assert origin == {"weight": False} | (named if isinstance(call, nn.Module) else unnamed)


def test_a_mask_of_infinities_is_no_broken_weight() -> None:
    """A causal mask is a buffer of minus infinity, and belongs to a layer that is sound."""

    class Masked(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 4)
            self.register_buffer("mask", torch.full((4, 4), -torch.inf).triu(1))

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) @ (self.mask + 1).softmax(-1)

    model = nn.Sequential(nn.Linear(4, 4), NegativeLog(), Masked())
    with SignalCollector(model) as collector:
        model(torch.randn(4, 4))
        origin = collector.finish()["2"]["origin"]
    assert origin == {"weight": False, "module": "1", "behind": "", "ahead": ""}
