"""The runs of a variant, epoch by epoch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ignite_act.compare import Comparison, Variant
from ignite_act.errors import UserError
from ignite_act.html.styles import Style
from ignite_act.report import EpochReport
from ignite_act.runs.stored import StoredRun

MOST_POSITIONS = 40
"""How many epochs the slider stops at."""

Reports = Sequence[EpochReport]


@dataclass(frozen=True)
class History:
    """What the runs of a variant measured.

    Attributes:
        style: how the variant is drawn.
        variant: its place in the comparison.
        counted: the reports of the runs that the statistics are over, run by run.
        left_out: those of the runs that failed or did not start to learn while others did.
    """

    style: Style
    variant: Variant
    counted: Sequence[Reports]
    left_out: Sequence[Reports]


@dataclass(frozen=True)
class Histories:
    """The variants of a comparison, epoch by epoch.

    Attributes:
        variants: in the order of the comparison.
        positions: the epochs whose distributions are kept.
        unreadable: one line for each run whose reports cannot be read.
    """

    variants: Sequence[History]
    positions: Sequence[int]
    unreadable: Sequence[str]


def read_histories(comparison: Comparison, styles: Mapping[str, Style]) -> Histories:
    """The reports of all runs; distributions of the kept epochs only, because there may be many."""
    runs = [run for variant in comparison.variants for run in variant.runs]
    positions = spread(max((int(run.summary.get("epochs") or 0) for run in runs), default=0))
    unreadable: list[str] = []
    read = {run.directory: _read(run, positions, unreadable) for run in runs}
    variants = []
    for variant in comparison.variants:
        counted = {run.directory for run in variant.counted}
        variants.append(
            History(
                styles[variant.name],
                variant,
                [read[run.directory] for run in variant.runs if run.directory in counted and read[run.directory]],
                [read[run.directory] for run in variant.runs if run.directory not in counted and read[run.directory]],
            )
        )
    return Histories(variants, positions, unreadable)


def spread(epochs: int, most: int = MOST_POSITIONS) -> list[int]:
    """At most so many epochs, evenly spread, the first and the last among them."""
    if epochs <= most:
        return list(range(1, epochs + 1))
    return [1 + round(index * (epochs - 1) / (most - 1)) for index in range(most)]


def is_blind(history: History) -> bool:
    """Whether the runs were made without diagnostics: there are reports, and nothing of the inside is in them."""
    reports = [report for run in history.counted for report in run]
    return bool(reports) and not any(report.gradients or report.activations for report in reports)


def _read(run: StoredRun, positions: Collection[int], unreadable: list[str]) -> list[EpochReport]:
    """The reports of whole epochs; an epoch that was cut short cannot be compared with the others."""
    try:
        reports = [report for report in run.reports() if not report.partial]
    except UserError as error:
        unreadable.append(str(error))
        return []
    kept = {*positions, *(report.epoch for report in reports[-1:])}
    return [
        report if report.epoch in kept else dataclasses.replace(report, activations={}, coverage={})
        for report in reports
    ]


def finite(value: object) -> float | None:
    """The value if it is a finite number."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
