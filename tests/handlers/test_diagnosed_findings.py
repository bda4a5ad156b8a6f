"""The findings of `Diagnostics`: where they are, what they are told of the training, and when."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from ignite.engine import Engine, Events
from ignite.metrics import Loss
from torch import Tensor, nn
from torch.optim import SGD

from ignite_act import Diagnostics, EpochReport
from ignite_act.findings import Finding, Thresholds
from ignite_act.sinks import JsonLinesSink, read_reports
from ignite_act.testing import Batch, FunctionalMLP, SharedReLU, batches, global_hooks, make_evaluator, make_trainer


class Notes:
    """Keeps what is told: reports and the end."""

    def __init__(self) -> None:
        self.reports: list[EpochReport] = []
        self.ends: list[EpochReport] = []

    def write(self, report: EpochReport) -> None:
        self.reports.append(report)

    def end(self, report: EpochReport) -> None:
        self.ends.append(report)


def learnable(n: int = 10) -> list[Batch]:
    """Batches whose targets a network can learn."""
    weight = torch.randn(4, 3, generator=torch.Generator().manual_seed(9))
    return [(x, (x @ weight).argmax(1)) for x, _ in batches(n, size=32)]


def setup(*, dead: bool = False, lr: float = 0.3) -> tuple[SharedReLU, Engine]:
    torch.manual_seed(0)
    model = SharedReLU(hidden=16)
    if dead:
        with torch.no_grad():
            model.layers[0].bias.fill_(-100.0)
    return model, make_trainer(model, SGD(model.parameters(), lr=lr))


def kinds(findings: Any) -> list[str]:
    return [finding.kind for finding in findings]


# The loss


def returning(output: Callable[[Tensor], Any]) -> tuple[nn.Module, Engine, list[float]]:
    """A trainer whose output is made of the loss, and the losses of its steps."""
    model, losses = setup()[0], []
    optimizer = SGD(model.parameters(), lr=0.1)

    def step(engine: Engine, batch: Batch) -> Any:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        return output(loss)

    return model, Engine(step), losses


OUTPUTS: dict[str, Callable[[Tensor], Any]] = {
    "number": lambda loss: loss.item(),
    "tensor": lambda loss: loss,
    "one element": lambda loss: loss.detach().reshape(1, 1),
    "dictionary": lambda loss: {"loss": loss, "y": None},
    "tuple": lambda loss: (loss.item(), "more"),
}


@pytest.mark.parametrize("output", OUTPUTS)
def test_the_loss_is_the_output_of_the_step(output: str) -> None:
    """Without a word, a number, a tensor, ``output["loss"]`` or the first of a tuple is the loss of each step."""
    model, trainer, losses = returning(OUTPUTS[output])
    diagnostics = Diagnostics(model).attach(trainer)
    trainer.run(learnable(7))
    assert diagnostics.report is not None
    loss = diagnostics.report.loss
    assert loss["course"] == losses
    assert (loss["steps"], loss["first"], loss["last"], loss["min"], loss["max"]) == (
        7, losses[0], losses[-1], min(losses), max(losses),
    )  # fmt: skip
    assert loss["mean"] == pytest.approx(math.fsum(losses) / 7, rel=1e-12)


def test_output_transform() -> None:
    """What it makes of the output is the loss; where it is None there is none, and the coverage says so."""
    model, trainer, losses = returning(lambda loss: {"objective": [loss.item()]})
    seen = Diagnostics(model, output_transform=lambda output: output["objective"][0]).attach(trainer)
    trainer.run(learnable())
    assert seen.report is not None
    assert seen.report.loss["course"] == losses
    seen.detach()
    unseen = Diagnostics(model, output_transform=lambda output: None).attach(trainer)
    trainer.run(learnable())
    assert unseen.report is not None
    assert unseen.report.loss == {}
    assert unseen.coverage["loss"].unseen == {"the loss of some steps": "output_transform returned None"}


@pytest.mark.parametrize(
    ("transform", "said"),
    [
        (lambda output: output["lost"], "output_transform failed: TypeError"),
        (lambda output: torch.ones(3), "it is not a single number: Tensor"),
        (lambda output: torch.tensor(1j), "it is not a single number: Tensor"),
        (lambda output: "low", "it is not a single number: str"),
        (lambda output: True, "it is not a single number: bool"),
    ],
)
def test_training_does_not_die_of_a_strange_loss(transform: Callable[[Any], Any], said: str) -> None:
    """A transform that fails or gives no number is said in the coverage; training and all else go on."""
    model, trainer = setup()
    notes = Notes()
    diagnostics = Diagnostics(model, output_transform=transform, sinks=[notes]).attach(trainer)
    trainer.run(learnable(40), max_epochs=2)
    assert [(report.epoch, report.loss) for report in notes.reports] == [(1, {}), (2, {})]
    assert said in diagnostics.coverage["loss"].unseen["the loss of some steps"]
    assert notes.reports[-1].gradients["layers.0"]["steps"] == 40


def test_a_loss_that_is_overwritten() -> None:
    """A tensor that the loop uses again holds another number later; the loss of the step is the one it had."""
    place = torch.zeros(())
    model, trainer, losses = returning(lambda loss: place.copy_(loss.detach()))
    diagnostics = Diagnostics(model).attach(trainer)
    trainer.run(learnable(6))
    assert diagnostics.report is not None
    assert diagnostics.report.loss["course"] == losses


def test_without_a_loss_less_is_said() -> None:
    """Where the loss is not known, what is found says so, and a healthy run has no finding."""
    for dead in (False, True):
        model, trainer = setup(dead=dead)
        diagnostics = Diagnostics(model, output_transform=lambda output: None).attach(trainer)
        trainer.run(learnable(), max_epochs=5)
        serious = [finding for finding in diagnostics.findings if finding.severity != "info"]
        assert kinds(serious[:1]) == (["dead_units"] if dead else [])


# Where findings are


def test_findings_are_in_the_report_the_state_and_the_handler() -> None:
    """At the end of an epoch the same findings are everywhere, for handlers that come later."""
    model, trainer = setup(dead=True)
    notes, seen = Notes(), []
    diagnostics = Diagnostics(model, sinks=[notes]).attach(trainer)
    assert (diagnostics.findings, diagnostics.all_findings) == ((), ())

    @trainer.on(Events.EPOCH_STARTED | Events.EPOCH_COMPLETED)
    def look(engine: Engine) -> None:
        seen.append(engine.state.findings)  # type: ignore[attr-defined]

    trainer.run(learnable(), max_epochs=2)
    first, second = notes.reports
    assert seen == [(), first.findings, first.findings, second.findings]
    assert kinds(first.findings)[:1] == ["dead_units"]
    assert diagnostics.findings == diagnostics.all_findings == trainer.state.findings  # type: ignore[attr-defined]
    assert diagnostics.findings == second.findings


def test_a_healthy_run_has_no_warning() -> None:
    """A network that learns has no finding worse than an information, in any epoch."""
    model, trainer = setup()
    notes = Notes()
    with Diagnostics(model, sinks=[notes]).attach(trainer):
        trainer.run(learnable(), max_epochs=6)
    found = [finding for report in notes.reports for finding in report.findings]
    assert [finding for finding in found if finding.severity != "info"] == []


def test_what_is_over() -> None:
    """A finding that is over is in the report of that epoch and in all_findings, not in findings nor in the state."""
    model, trainer = setup(dead=True)
    notes = Notes()
    diagnostics = Diagnostics(model, sinks=[notes]).attach(trainer)

    @trainer.on(Events.EPOCH_COMPLETED(once=2))
    def revive(engine: Engine) -> None:
        with torch.no_grad():
            model.layers[0].bias.zero_()

    trainer.run(learnable(), max_epochs=4)
    dead = ("dead_units", "layers.1")
    by_epoch = [
        {(finding.kind, finding.layer): finding.cleared_epoch for finding in report.findings}
        for report in notes.reports
    ]
    assert [found.get(dead, "none") for found in by_epoch] == [None, None, 3, "none"]
    standing, known = diagnostics.findings, diagnostics.all_findings
    assert dead not in [(finding.kind, finding.layer) for finding in standing]
    assert standing == trainer.state.findings  # type: ignore[attr-defined]
    assert known[: len(standing)] == standing
    assert [(item.since_epoch, item.cleared_epoch) for item in known if (item.kind, item.layer) == dead] == [(1, 3)]


def test_thresholds() -> None:
    """Other thresholds change what is a finding."""
    for thresholds, expected in ((None, []), (Thresholds(dead_info=0.0, dead_warning=0.0), ["dead_units"])):
        model, trainer = setup()
        with torch.no_grad():
            model.layers[0].bias[0] = -100.0
        diagnostics = Diagnostics(model, thresholds=thresholds).attach(trainer)
        trainer.run(learnable())
        found = [finding.kind for finding in diagnostics.findings if finding.layer == "layers.1"]
        assert found == expected


# The scores of an evaluator


def scored(model: nn.Module) -> Engine:
    evaluator = make_evaluator(model)
    Loss(F.cross_entropy).attach(evaluator, "loss")
    return evaluator


@pytest.mark.parametrize("before", [True, False])
def test_an_evaluator_before_or_after(before: bool) -> None:
    """Scores of an evaluator that runs before the handler are in the report of the epoch; those of one that runs
    after it come into the report then; both are known to the findings of the end."""
    model, trainer = setup()
    evaluator, notes, losses, later = scored(model), Notes(), [], []
    diagnostics = Diagnostics(model, sinks=[notes])

    def evaluate() -> None:
        losses.append(evaluator.run(learnable(2)).metrics["loss"])

    if before:
        trainer.add_event_handler(Events.EPOCH_COMPLETED, evaluate)
    diagnostics.attach(trainer, evaluator)
    if not before:
        trainer.add_event_handler(Events.EPOCH_COMPLETED, evaluate)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: later.append(diagnostics.report))
    trainer.run(learnable(), max_epochs=3)
    assert [report.scores for report in later] == [{"loss": {"validation": loss}} for loss in losses]
    written = [report.scores for report in notes.reports]
    assert written == ([report.scores for report in later] if before else [{}, {}, {}])
    state = diagnostics.state_dict()["journal"]["reports"]
    assert [report["scores"]["loss"]["validation"] for report in state] == losses


@pytest.mark.parametrize("before", [True, False])
def test_scores_that_are_stale(before: bool) -> None:
    """Scores of an earlier epoch are not this epoch's, nor are those of another run with the same number of epoch."""
    model, trainer = setup()
    evaluator, notes = scored(model), Notes()
    diagnostics = Diagnostics(model, sinks=[notes])
    every_other = Events.EPOCH_COMPLETED(every=2)
    if before:
        trainer.add_event_handler(every_other, lambda: evaluator.run(learnable(2)))
    diagnostics.attach(trainer, evaluator)
    if not before:
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run(learnable(2)))
    trainer.run(learnable(), max_epochs=3)
    trainer.state.max_epochs = None
    trainer.run(learnable(), max_epochs=1)
    trainer.run(learnable(), max_epochs=1)
    scores = [(report.epoch, "loss" in report.scores) for report in notes.reports]
    assert scores == [(1, False), (2, before), (3, False), (1, False), (1, False)]


def test_an_evaluator_that_runs_in_the_middle_of_an_epoch() -> None:
    """Its scores are of that epoch."""
    model, trainer = setup()
    evaluator, notes = scored(model), Notes()
    Diagnostics(model, sinks=[notes]).attach(trainer, evaluator)
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=13), lambda: evaluator.run(learnable(2)))
    trainer.run(learnable(), max_epochs=3)
    assert ["loss" in report.scores for report in notes.reports] == [False, True, False]
    assert notes.reports[1].scores["loss"]["validation"] == evaluator.state.metrics["loss"]


# The end


def test_the_end_brings_a_plateau() -> None:
    """When the run is over, what only then can be found is in the report, the state and the sinks, not before."""
    model, trainer = setup(dead=True)
    notes = Notes()
    diagnostics = Diagnostics(model, sinks=[notes]).attach(trainer)
    trainer.run(learnable(), max_epochs=4)
    assert all("plateau" not in kinds(report.findings) for report in notes.reports)
    (last,) = notes.ends
    assert last is diagnostics.report
    assert last.epoch == 4
    assert "plateau" in kinds(last.findings)
    assert last.findings == diagnostics.findings == trainer.state.findings  # type: ignore[attr-defined]
    assert kinds(last.findings)[0] == "dead_units"


@pytest.mark.parametrize("skip_completed", [False, True])
@pytest.mark.parametrize("event", [Events.EPOCH_COMPLETED(once=3), Events.ITERATION_COMPLETED(once=33)])
def test_a_run_that_is_terminated_has_an_end(event: Events, skip_completed: bool) -> None:
    """`terminate` ends the run as its last epoch does: the sinks are told once, after the last report."""
    model, trainer = setup(dead=True)
    notes = Notes()
    Diagnostics(model, sinks=[notes]).attach(trainer)
    trainer.add_event_handler(event, lambda: trainer.terminate(skip_completed))
    trainer.run(learnable(), max_epochs=8)
    assert len(notes.ends) == 1
    assert notes.ends[0].epoch == notes.reports[-1].epoch
    assert "plateau" in kinds(notes.ends[0].findings)


def test_a_run_that_goes_on() -> None:
    """After its end a run may go on: what only the end could say is over, and comes again with the next end."""
    model, trainer = setup(dead=True)
    notes = Notes()
    diagnostics = Diagnostics(model, sinks=[notes]).attach(trainer)
    trainer.run(learnable(), max_epochs=4)
    trainer.run(learnable(), max_epochs=6)
    assert [report.epoch for report in notes.reports] == [1, 2, 3, 4, 5, 6]
    assert ["plateau" in kinds(report.findings) for report in notes.ends] == [True, True]
    assert kinds(diagnostics.findings).count("plateau") == 1


# State


def test_the_journal_is_in_the_state(tmp_path: Path) -> None:
    """A run resumed in another process from a file of plain types has the findings of the uninterrupted one."""

    def make() -> tuple[SharedReLU, Engine, Diagnostics, Notes]:
        model, trainer = setup(dead=True, lr=0.0)
        notes = Notes()
        return model, trainer, Diagnostics(model, sinks=[notes]).attach(trainer), notes

    def revive(model: SharedReLU) -> None:
        with torch.no_grad():
            model.layers[0].bias.zero_()

    model, trainer, whole, expected = make()
    path = tmp_path / "state.pt"
    trainer.add_event_handler(Events.EPOCH_COMPLETED(once=3), lambda: torch.save(whole.state_dict(), path))
    trainer.add_event_handler(Events.EPOCH_COMPLETED(once=4), lambda: revive(model))
    trainer.run(learnable(), max_epochs=6)
    assert "dead_units" in [finding.kind for finding in whole.all_findings if finding.cleared_epoch == 5]

    model, trainer, resumed, notes = make()
    resumed.load_state_dict(torch.load(path, weights_only=True))
    assert resumed.report is None
    assert resumed.findings == expected.reports[2].findings
    trainer.load_state_dict({"epoch": 3, "max_epochs": 6, "epoch_length": 10})
    trainer.add_event_handler(Events.EPOCH_COMPLETED(once=4), lambda: revive(model))
    trainer.add_event_handler(Events.STARTED, lambda: seen.append(resumed.findings))
    seen: list[tuple[Finding, ...]] = []
    trainer.run(learnable())
    assert [report.epoch for report in notes.reports] == [4, 5, 6]
    assert [report.findings for report in notes.reports] == [report.findings for report in expected.reports[3:]]
    assert notes.ends[0].findings == expected.ends[0].findings
    assert resumed.all_findings == whole.all_findings
    assert seen == [expected.reports[2].findings]


def test_a_run_restored_after_its_last_epoch_has_an_end(tmp_path: Path) -> None:
    """What was saved before the end was judged is judged by `end`, though there is no report in this process."""
    model, trainer = setup(dead=True)
    states: list[dict[str, Any]] = []
    whole = Diagnostics(model).attach(trainer)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: states.append(whole.state_dict()))
    trainer.run(learnable(), max_epochs=4)
    other, _ = setup()
    restored = Diagnostics(other)
    restored.load_state_dict(states[-1])
    assert "plateau" not in kinds(restored.all_findings)
    restored.end()
    assert restored.findings == whole.findings
    assert "plateau" in kinds(restored.findings)


# Exceptions


class Refusing(FunctionalMLP):
    """Trains with a loss that refuses NaN, and breaks at some iteration."""

    def __init__(self, place: str, break_at: int) -> None:
        torch.manual_seed(0)
        super().__init__(hidden=16)
        self.place, self.break_at, self.broken = place, break_at, ""

    def trainer(self) -> Engine:
        optimizer = SGD(self.parameters(), lr=0.1)

        def step(engine: Engine, batch: Batch) -> float:
            self.broken = self.place if engine.state.iteration == self.break_at else ""
            x, y = batch
            if self.broken == "weight":
                with torch.no_grad():
                    self.fc2.weight[3, 2] = math.inf
            elif self.broken == "input":
                x = x / 0.0
            optimizer.zero_grad()
            loss = F.binary_cross_entropy(F.softmax(self(x), 1), F.one_hot(y, 3).float())
            loss.backward()
            optimizer.step()
            return loss.item()

        return Engine(step)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc2(F.relu(self.fc1(x)))
        return self.fc3(F.relu(torch.log(-x.abs()) if self.broken == "call" else x))


@pytest.mark.parametrize(("place", "layer"), [("input", "fc1"), ("call", None), ("weight", "fc2")])
@pytest.mark.parametrize("break_at", [1, 17])
def test_a_loss_that_refuses_nan(break_at: int, place: str, layer: str | None, tmp_path: Path) -> None:
    """When the step raises, the report and all sinks have the finding that names the first layer and the iteration."""
    model, notes = Refusing(place, break_at), Notes()
    trainer, diagnostics = model.trainer(), Diagnostics(model, sinks=[notes, JsonLinesSink(tmp_path / "epochs.jsonl")])
    with pytest.raises(RuntimeError, match="between 0 and 1"), diagnostics.attach(trainer):
        trainer.run(learnable(10), max_epochs=4)
    assert trainer.state.iteration == break_at
    epoch = 1 + (break_at - 1) // 10
    assert [report.epoch for report in notes.reports] == list(range(1, epoch + 1))
    last = notes.reports[-1]
    assert (last.partial, last.iteration, last is diagnostics.report) == (True, break_at, True)
    found = last.findings[0]
    assert (found.kind, found.severity, found.layer, found.since_epoch) == ("nonfinite", "error", layer, epoch)
    assert (found.evidence["iteration"], found.evidence["place"]) == (break_at, place)
    assert diagnostics.findings == trainer.state.findings == last.findings  # type: ignore[attr-defined]
    assert read_reports(tmp_path / "epochs.jsonl")[-1].findings == last.findings
    assert notes.ends == []
    assert global_hooks() == []


def test_a_loss_that_becomes_nan_and_does_not_raise() -> None:
    """The finding names the iteration of the first NaN, whatever comes after it."""
    model, trainer = setup()
    diagnostics = Diagnostics(model).attach(trainer)

    @trainer.on(Events.ITERATION_STARTED(once=14))
    def poison(engine: Engine) -> None:
        engine.state.batch[0][0, 0] = math.nan

    trainer.run(learnable(), max_epochs=3)
    first = diagnostics.findings[0]
    assert (first.kind, first.since_epoch, first.evidence["iteration"]) == ("nonfinite", 2, 14)
    assert first.evidence["place"] == "input"
