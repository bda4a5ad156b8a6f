"""The findings of a run as it goes on: since when each stands, and when it was over."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping
from typing import Any

from ignite_act.findings.history import History
from ignite_act.findings.judging import judge
from ignite_act.findings.order import in_order
from ignite_act.findings.thresholds import Thresholds
from ignite_act.report import EpochReport, Finding

logger = logging.getLogger(__name__)

_FIRST, _LAST = 4, 12
Identity = tuple[str, str | None]


class Journal:
    """Judges every report together with those before it.

    Of a long run the first reports, the last ones and the one with the best validation loss are kept, without their
    histograms, so that memory does not grow.

    Args:
        thresholds: what counts as a finding.
    """

    def __init__(self, thresholds: Thresholds | None = None) -> None:
        self.thresholds = thresholds or Thresholds()
        self._reports: list[EpochReport] = []
        self._standing: dict[Identity, Finding] = {}
        self._cleared: dict[Identity, Finding] = {}
        self.failed: dict[str, str] = {}
        """Rules that have failed, with the reason of the first failure."""

    def add(self, report: EpochReport) -> tuple[Finding, ...]:
        """The findings after one more report; those that it cleared come last."""
        self._reports = _thinned([*self._reports, _slim(report)])
        return self._compare(judge(self._reports, thresholds=self.thresholds, owner=self), report.epoch)

    def amend(self, report: EpochReport) -> None:
        """Replaces the last report by one that knows more."""
        self._reports[-1:] = [_slim(report)]

    def end(self) -> tuple[Finding, ...]:
        """The findings once the run is over."""
        if not self._reports:
            return ()
        return self._compare(
            judge(self._reports, thresholds=self.thresholds, ended=True, owner=self), self._reports[-1].epoch
        )

    def give_up(self, what: str, reason: str) -> None:
        """Notes that a rule failed; the log says it once."""
        if what not in self.failed:
            self.failed[what] = reason
            logger.warning("%s failed: %s", what, reason)

    @property
    def all(self) -> tuple[Finding, ...]:
        """Everything that was found in the run: what stands, then what is over."""
        return (*self._standing.values(), *self._cleared.values())

    def _compare(self, found: tuple[Finding, ...], epoch: int) -> tuple[Finding, ...]:
        """Joins what was found now with what was known."""
        now: dict[Identity, Finding] = {}
        for finding in found:
            key = finding.kind, finding.layer
            known = self._standing.get(key)
            since = min(finding.since_epoch, known.since_epoch) if known is not None else finding.since_epoch
            now.setdefault(key, dataclasses.replace(finding, since_epoch=since))
        if History(self._reports, self.thresholds).stalled:  # a cause is not over while its harm lasts
            lasting = {key: own for key, own in self._standing.items() if own.severity == "error" and key not in now}
            now = {(own.kind, own.layer): own for own in in_order([*now.values(), *lasting.values()])}
        over = {
            key: dataclasses.replace(finding, cleared_epoch=epoch)
            for key, finding in self._standing.items()
            if key not in now
        }
        self._cleared = {key: item for key, item in {**self._cleared, **over}.items() if key not in now}
        self._standing = now
        just_over = [item for item in self._cleared.values() if item.cleared_epoch == epoch]
        return (*now.values(), *just_over)

    def state_dict(self) -> dict[str, Any]:
        """Plain types only."""
        return {
            "reports": [report.to_dict() for report in self._reports],
            "standing": [finding.to_dict() for finding in self._standing.values()],
            "cleared": [finding.to_dict() for finding in self._cleared.values()],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from `state_dict`."""
        self._reports = [EpochReport.from_dict(report) for report in state["reports"]]
        for name in ("standing", "cleared"):
            findings = map(Finding.from_dict, state[name])
            setattr(self, f"_{name}", {(finding.kind, finding.layer): finding for finding in findings})


def _slim(report: EpochReport) -> EpochReport:
    """What the rules read of a report: no histograms, no lists of units, nothing that depends on the clock."""
    activations = {
        site: {key: value for key, value in row.items() if key not in ("edges", "counts")}
        for site, row in report.activations.items()
    }
    dead = {
        site: {key: value for key, value in row.items() if key != "indices"}
        for site, row in report.dead_neurons.items()
    }
    return dataclasses.replace(report, activations=activations, dead_neurons=dead, findings=(), cost=0.0)


def _thinned(reports: list[EpochReport]) -> list[EpochReport]:
    if len(reports) <= _FIRST + _LAST + 1:
        return reports
    best = min(reports[_FIRST:-_LAST], key=_validation_loss)
    return [*reports[:_FIRST], best, *reports[-_LAST:]]


def _validation_loss(report: EpochReport) -> float:
    loss = report.scores.get("loss", {}).get("validation", math.inf)
    return loss if math.isfinite(loss) else math.inf
