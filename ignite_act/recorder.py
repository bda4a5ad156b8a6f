"""All diagnostics of a model, without any framework: a window at a time becomes a report."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import Self

from ignite_act import guard
from ignite_act.collect import (
    ActivationCollector,
    Collector,
    Coverage,
    DeadUnitCollector,
    GradientCollector,
    LossCollector,
    OutputCollector,
    SignalCollector,
    UpdateCollector,
)
from ignite_act.collect.base import finish_together
from ignite_act.collect.cost import Meter
from ignite_act.collect.loss import loss_of
from ignite_act.findings import Finding, Journal, Thresholds
from ignite_act.guard import guarded, harmless
from ignite_act.report import EpochReport, with_coarse_histogram

logger = logging.getLogger(__name__)

ACTIVATIONS_EVERY = 10
"""The activations' distribution is measured in one iteration of so many unless ``every`` says otherwise."""

DIAGNOSTICS = ("gradients", "activations", "dead_neurons")
"""What is measured for people; the other collectors are there for the findings."""


class EpochRecorder:
    """Gradients, activations and dead neurons of a model, with one `EpochReport` for each window.

    It works in a plain PyTorch loop; the handlers and the Lightning callback are covers over it:

        with EpochRecorder(model) as recorder:
            for epoch in range(epochs):
                ...                             # train as usual, with recorder.record_loss(loss) in every step
                report = recorder.finish()

    Forwards in evaluation mode do not count in a window that has some in training mode.

    Args:
        model: the model.
        optimizer: see `GradientStats`.
        every: measure gradients and activations in one step of so many; by default gradients in every step and
            activations in one of ten. Dead neurons are always exact.
        sync: bring the processes of a data-parallel run together at the end of each window; a collective call.
        thresholds: of the findings.

    Raises:
        TypeError: if the model is no module or an optimizer no optimizer.
        ValueError: if ``every`` is not a whole number of at least 1.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Iterable[Optimizer] | None = None,
        *,
        every: int | None = None,
        sync: bool = True,
        thresholds: Thresholds | None = None,
    ) -> None:
        self._loss = LossCollector(model)
        self.collectors: dict[str, Collector] = {
            "gradients": GradientCollector(model, optimizer, every=1 if every is None else every),
            "activations": ActivationCollector(model, every=ACTIVATIONS_EVERY if every is None else every),
            "dead_neurons": DeadUnitCollector(model),
            "updates": UpdateCollector(model),
            "signal": SignalCollector(model),
            "output": OutputCollector(model),
            "loss": self._loss,
        }
        """Diagnostic -> its collector, in the order of the report."""
        self._sync = sync
        self._journal = Journal(thresholds)
        self._report: EpochReport | None = None
        self._epoch = 0
        self._meter, self._earlier = Meter(), 0.0
        self._failed: dict[str, str] = {}
        self._restored = False

    @property
    def report(self) -> EpochReport | None:
        """The report of the last finished window; None before the first."""
        return self._report

    @property
    def coverage(self) -> dict[str, Coverage]:
        """Diagnostic -> what the last finished window saw and what not."""
        found = {name: collector.coverage for name, collector in self.collectors.items()}
        found["findings"] = Coverage((), {**self._journal.failed, **self._failed})
        return {name: coverage for name, coverage in found.items() if name in DIAGNOSTICS or coverage.unseen}

    @property
    def started(self) -> bool:
        """Whether a window is open."""
        return any(collector.started for collector in self.collectors.values())

    def start(self) -> None:
        """Begins a window; a window restored by `load_state_dict` goes on instead."""
        for collector in self.collectors.values():
            collector.start()
        self._restored = False
        self._meter, self._earlier = Meter(self._earlier), 0.0

    def pause(self) -> None:
        """Measures nothing until the next `start`; the hooks stay registered."""
        for collector in self.collectors.values():
            collector.pause()

    def record_loss(self, loss: Tensor | float) -> None:
        """Adds the training loss of a step; what happens to it is part of many findings."""
        with guarded(self._loss, "the loss of some steps"):
            number = loss_of(loss)
            if number is None:
                self.no_loss(f"it is not a single number: {type(loss).__name__}")
            else:
                self._loss.record(number)

    def no_loss(self, reason: str) -> None:
        """Notes why the loss of a step is not known."""
        self._loss.missing(reason)

    def finish(
        self,
        *,
        epoch: int | None = None,
        iteration: int = 0,
        scores: Mapping[str, Mapping[str, float]] | None = None,
        partial: bool = False,
        sync: bool = True,
    ) -> EpochReport:
        """The report of the window, and the beginning of the next one.

        Args:
            epoch: its number; by default one more than the last report's.
            iteration: number of the last iteration, where there is a notion of it.
            scores: metric -> split (``"train"``, ``"validation"``) -> value, for the report.
            partial: whether the window was cut short.
            sync: false where other processes will not make this call (after an exception).
        """
        epoch = self._epoch + 1 if epoch is None else epoch
        results = finish_together(list(self.collectors.values()), partial=partial, sync=sync and self._sync)
        rows = dict(zip(self.collectors, results, strict=True))
        report = EpochReport(epoch=epoch, iteration=iteration, partial=partial, scores=scores or {})
        with guarded(self, "the report"):
            report = dataclasses.replace(
                report,
                gradients=rows["gradients"],
                activations={name: with_coarse_histogram(row) for name, row in rows["activations"].items()},
                dead_neurons=rows["dead_neurons"],
                updates=rows["updates"],
                signal=rows["signal"],
                output=rows["output"].get("output", {}),
                loss=rows["loss"].get("loss", {}),
                coverage=self._plain_coverage(),
            )
        self._epoch = epoch
        with guarded(self, "the findings"):
            report = dataclasses.replace(report, findings=self._journal.add(report), coverage=self._plain_coverage())
        self._report = dataclasses.replace(report, cost=self._meter.share())
        self._meter = Meter()
        return self._report

    def written(self) -> None:
        """Counts the time since the last report as a cost of the next window: its sinks have been written."""
        self._earlier = self._meter.seconds()

    def _plain_coverage(self) -> dict[str, dict[str, Any]]:
        return {name: coverage.to_dict() for name, coverage in self.coverage.items()}

    def give_up(self, what: str, reason: str) -> None:
        """Notes that something failed that is no collector's; the log says it once."""
        if what not in self._failed:
            self._failed[what] = reason
            logger.warning("%s gives up %s: %s", type(self).__name__, what, reason)

    def renew(self) -> None:
        """Forgets the windows and findings so far: another training of the same model begins.

        What was restored by `load_state_dict` and not used yet is kept.
        """
        if self._restored:
            return
        for collector in self.collectors.values():
            collector.renew()
        self._journal = Journal(self._journal.thresholds)
        self._report = None
        self._epoch = 0

    @harmless("the scores of an epoch")
    def add_scores(self, scores: Mapping[str, Mapping[str, float]]) -> None:
        """Scores that became known after the report of their epoch; the findings of the next one take them in."""
        if self._report is not None:
            self._report = dataclasses.replace(self._report, scores=scores)
            self._journal.amend(self._report)

    def end(self) -> EpochReport | None:
        """Judges the run as a whole, once it is over: some findings can only be made then.

        Returns:
            The last report, with the findings that stand at the end; None before the first.
        """
        with guarded(self, "the findings"):
            findings = self._journal.end()  # also of a run restored after its last report
            if self._report is not None and findings != self._report.findings:
                self._report = dataclasses.replace(self._report, findings=findings)
        return self._report

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is wrong as far as is known now, causes before consequences."""
        return tuple(finding for finding in self.all_findings if finding.cleared_epoch is None)

    @property
    def all_findings(self) -> tuple[Finding, ...]:
        """What stands, and then what was found and is over by now."""
        return self._journal.all

    def stop(self) -> None:
        """Takes the hooks away; doing it twice is fine."""
        for collector in self.collectors.values():
            collector.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        guard.stop()
        self.stop()

    def state_dict(self) -> dict[str, Any]:
        """The windows so far: tensors and plain types only."""
        windows = {name: collector.state_dict() for name, collector in self.collectors.items()}
        return {**windows, "journal": self._journal.state_dict(), "epoch": self._epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on with the windows of `state_dict`."""
        for name, collector in self.collectors.items():
            collector.load_state_dict(state[name])
        self._journal.load_state_dict(state["journal"])
        self._epoch = int(state["epoch"])
        self._restored = True
