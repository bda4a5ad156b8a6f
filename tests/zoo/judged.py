"""Runs a case of the zoo with all diagnostics and holds what was found against what is known."""

from __future__ import annotations

import fnmatch
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from ignite.engine import Events

from ignite_act import Diagnostics
from ignite_act.report import EpochReport, Finding
from zoo.base import Case, Run


@dataclass(frozen=True)
class Outcome:
    """What the findings said of one run.

    Attributes:
        part, name, kind: the case's.
        seed: of the run.
        alarms: warnings and errors that were found at any time, in the order in which they came up.
        first: the finding that is put first: of the warnings and errors that stand at the end, else of those that were
            over by then, else of what does no harm; None without any.
        right: whether that is of the right kind; for a healthy run, whether there was no alarm.
        right_layer: whether it names a layer that is to blame; None where none is, or the kind is wrong already.
        error: what ended the training early; empty if nothing did.
        seconds: time of the run.
        cost: share of it that measuring and judging took, the mean over the epochs.
    """

    part: str
    name: str
    kind: str
    seed: int
    alarms: tuple[Finding, ...]
    first: Finding | None
    right: bool
    right_layer: bool | None
    error: str
    seconds: float
    cost: float


@dataclass
class _Told:
    """A sink that remembers every warning and error that it was told of."""

    alarms: dict[tuple[str, str | None], Finding] = field(default_factory=dict)
    costs: list[float] = field(default_factory=list)

    def write(self, report: EpochReport) -> None:
        self.costs.append(report.cost)
        self.end(report)

    def end(self, report: EpochReport) -> None:
        for finding in report.findings:
            if finding.severity != "info":
                self.alarms.setdefault((finding.kind, finding.layer), finding)


def judge_case(case: Case, seed: int, part: str = "") -> Outcome:
    """Trains one run of a case and judges it; an exception that ends the training is part of some."""
    torch.manual_seed(seed)
    run, told, error, begin = case.build(seed), _Told(), "", time.perf_counter()
    diagnostics = _attached(run, told)
    logging.disable(logging.ERROR)  # what Ignite says of a run that raises
    try:
        run.trainer.run(run.training, max_epochs=case.epochs)
    except Exception as problem:
        error = f"{type(problem).__name__}: {problem}"
    finally:
        logging.disable(logging.NOTSET)
    seconds = time.perf_counter() - begin
    alarms = tuple(told.alarms.values())
    first = _first(diagnostics.findings, alarms)
    right = not alarms if case.healthy else first is not None and first.kind in {case.kind, *case.accepted}
    layer = _is_blamed(first, case.layers) if right and case.layers and not case.healthy else None
    cost = sum(told.costs) / max(len(told.costs), 1)
    return Outcome(part, case.name, case.kind, seed, alarms, first, right, layer, error, seconds, cost)


def _attached(run: Run, told: _Told) -> Diagnostics:
    if run.evaluator is not None:
        run.trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: run.evaluator.run(run.validation))
    return Diagnostics(run.model, sinks=[told]).attach(run.trainer, run.evaluator)


def _first(standing: Iterable[Finding], alarms: Iterable[Finding]) -> Finding | None:
    serious = [finding for finding in standing if finding.severity != "info"]
    return next(iter([*serious, *alarms, *standing]), None)


def _is_blamed(finding: Finding | None, layers: Iterable[str]) -> bool:
    return finding is not None and any(fnmatch.fnmatchcase(str(finding.layer), layer) for layer in layers)
