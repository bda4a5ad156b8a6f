"""Ending a hopeless run early, with real engines."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import pytest
import torch
from ignite.engine import Engine, Events
from torch.optim import SGD

from ignite_act import Diagnostics, TerminateOnFinding
from ignite_act.findings import KINDS, Finding
from ignite_act.testing import Batch, SharedReLU, batches, make_trainer

Make = Callable[..., Finding]


def learnable(n: int = 20) -> list[Batch]:
    """Batches whose targets a network can learn."""
    weight = torch.randn(4, 3, generator=torch.Generator().manual_seed(9))
    return [(x, (x @ weight).argmax(1)) for x, _ in batches(n, size=32)]


def network(*, dead: bool) -> SharedReLU:
    torch.manual_seed(0)
    model = SharedReLU(hidden=16)
    if dead:
        with torch.no_grad():
            model.layers[0].bias.fill_(-100.0)
    return model


def epochs_of(model: SharedReLU, terminate: TerminateOnFinding, max_epochs: int = 8) -> int:
    """How many epochs a training makes."""
    trainer = make_trainer(model, SGD(model.parameters(), lr=0.3))
    with Diagnostics(model).attach(trainer):
        terminate.attach(trainer)
        trainer.run(learnable(), max_epochs=max_epochs)
    return trainer.state.epoch


def found_in(epochs: Mapping[int, list[Finding]]) -> Engine:
    """An engine in whose epochs some findings stand."""
    engine = Engine(lambda engine, batch: None)

    @engine.on(Events.EPOCH_COMPLETED)
    def find(engine: Engine) -> None:
        engine.state.findings = tuple(epochs.get(engine.state.epoch, ()))  # type: ignore[attr-defined]

    return engine


def stop_epoch(epochs: Mapping[int, list[Finding]], terminate: TerminateOnFinding) -> int:
    engine = found_in(epochs)
    assert terminate.attach(engine) is terminate
    engine.run([0], max_epochs=9)
    return engine.state.epoch


@pytest.mark.parametrize("patience", [1, 2, 4])
def test_a_dead_network_ends_early(patience: int, caplog: pytest.LogCaptureFixture) -> None:
    """Training ends in the epoch in which the error has stood for ``patience`` epochs; log and attribute say why."""
    terminate = TerminateOnFinding(patience=patience)
    assert terminate.finding is None
    with caplog.at_level(logging.WARNING, "ignite_act"):
        assert epochs_of(network(dead=True), terminate) == patience
    assert terminate.finding is not None
    assert (terminate.finding.kind, terminate.finding.layer) == ("dead_units", "layers.1")
    (said,) = [record.getMessage() for record in caplog.records if record.name == "ignite_act.handlers.terminate"]
    assert said == f"training ends in epoch {patience}: dead neurons in layers.1"


def test_a_healthy_network_trains_on() -> None:
    """Nothing ends the training of a network that learns."""
    terminate = TerminateOnFinding("warning", patience=1)
    assert epochs_of(network(dead=False), terminate) == 8
    assert terminate.finding is None


def test_only_some_kinds() -> None:
    """With ``kinds``, other findings do not count."""
    assert epochs_of(network(dead=True), TerminateOnFinding(kinds=["nonfinite", "exploding"]), 4) == 4
    chosen = TerminateOnFinding(kinds="no_gradient", patience=1)
    assert epochs_of(network(dead=True), chosen) == 2  # in the first epoch it may be a warm-up
    assert chosen.finding is not None
    assert chosen.finding.kind == "no_gradient"


@pytest.mark.parametrize(
    ("least", "severity", "stops"),
    [
        ("error", "error", True), ("error", "warning", False), ("error", "info", False), ("warning", "error", True),
        ("warning", "warning", True), ("warning", "info", False), ("info", "info", True),
    ],
)  # fmt: skip
def test_severity(least: str, severity: str, stops: bool, make_finding: Make) -> None:
    """Findings of that severity or a worse one count."""
    epochs = {epoch: [make_finding(severity=severity)] for epoch in range(1, 10)}
    assert stop_epoch(epochs, TerminateOnFinding(least)) == (2 if stops else 9)  # type: ignore[arg-type]


def test_patience_waits_for_the_same_finding(make_finding: Make) -> None:
    """A gap begins the count anew; another layer or another kind is another finding, other numbers are not."""
    one, other = make_finding(severity="error"), make_finding(severity="error", layer="layers.3")
    kind = make_finding("no_gradient", "error")
    assert stop_epoch({1: [one], 2: [one], 4: [one], 5: [one], 6: [one]}, TerminateOnFinding(patience=3)) == 6
    assert stop_epoch({1: [one], 2: [other], 3: [kind], 4: [one]}, TerminateOnFinding(patience=2)) == 9
    worse = make_finding(severity="error", evidence={"value": 1.0})
    assert stop_epoch({1: [one], 2: [other, worse]}, TerminateOnFinding(patience=2)) == 2


def test_the_first_of_those_that_stood_long_enough(make_finding: Make) -> None:
    """The cause, which comes first, is named, unless it has not stood long enough."""
    cause, consequence = make_finding(severity="error"), make_finding("no_gradient", "error", None)
    late = TerminateOnFinding()
    assert stop_epoch({1: [consequence], 2: [cause, consequence]}, late) == 2
    assert late.finding is consequence
    early = TerminateOnFinding()
    assert stop_epoch({1: [cause, consequence], 2: [cause, consequence]}, early) == 2
    assert early.finding is cause


def test_without_diagnostics_nothing_happens() -> None:
    """On an engine that nobody diagnoses, training goes on."""
    engine = Engine(lambda engine, batch: None)
    TerminateOnFinding("info", patience=1).attach(engine)
    engine.run([0], max_epochs=3)
    assert engine.state.epoch == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"severity": "fatal"}, "severity must be one of info, warning, error, got 'fatal'"),
        ({"kinds": ["dead_unit", "nan"]}, "unknown kinds dead_unit, nan .known: never_updated, "),
        ({"kinds": "dead"}, "unknown kinds dead "),
        ({"patience": 0}, "patience must be a whole number of at least 1, got 0"),
        ({"patience": 1.5}, "patience must be a whole number of at least 1, got 1.5"),
        ({"patience": True}, "patience must be a whole number of at least 1, got True"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], said: str) -> None:
    """What does not exist is refused with what there is."""
    with pytest.raises(ValueError, match=said):
        TerminateOnFinding(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_chosen(kind: str, make_finding: Make) -> None:
    """The identifiers of the kinds are what ``kinds`` takes."""
    epochs = {1: [make_finding(kind, "error", None)]}
    assert stop_epoch(epochs, TerminateOnFinding(kinds=[kind], patience=1)) == 1
