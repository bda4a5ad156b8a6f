"""One line an epoch."""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Callable

from rich.console import Console, Group
from tqdm import tqdm

from ignite_act.errors import printable
from ignite_act.report import EpochReport
from ignite_act.sinks import words
from ignite_act.sinks.tables import layers_table, sites_table


def _write_line(line: str) -> None:
    if sys.stdout is not None:
        tqdm.write(printable(line))


class ConsoleSink:
    """Writes one line an epoch: scores, gradient ratio first/last layer, dead neurons.

    A finding is told below the line of the epoch in which it appears: what is wrong, and unless it is a mere
    information what harm it does and what to try. It is told again only if it gets worse than it was, or comes back
    after it was cleared. What could not be measured is said when it first happens.

    Args:
        write: takes lines; by default ``tqdm.write``, which leaves progress bars whole.
        max_epochs: shown beside the epoch if it is known.
        tables: write a table of the layers and one of the activation sites below each line.
        unit: what a report is of.
    """

    def __init__(
        self,
        write: Callable[[str], object] | None = None,
        max_epochs: int | None = None,
        *,
        tables: bool = False,
        unit: str = "epoch",
    ) -> None:
        self._write = write or _write_line
        self._max_epochs = max_epochs
        self._tables = tables
        self._unit = unit
        self._said: set[tuple[str, str, str]] = set()
        self._found: dict[words.Identity, int] = {}

    def write(self, report: EpochReport) -> None:
        """Writes the line of one report."""
        self._write(epoch_line(report, self._max_epochs, self._unit))
        self._tell(report)
        for finding in report.findings:
            if finding.cleared_epoch == report.epoch:
                self._write(f"  {words.cleared(finding)}")
        if self._tables:
            if report.gradients:
                self._write(_as_text(layers_table("gradients", report.gradients)))
            if report.activations:
                self._write(_as_text(sites_table("activations", report.activations, report.dead_neurons)))
        for diagnostic, coverage in report.coverage.items():
            for name, reason in coverage["unseen"].items():
                if (diagnostic, name, reason) not in self._said:
                    self._said.add((diagnostic, name, reason))
                    self._write(f"{diagnostic.replace('_', ' ')}: {name} was not measured: {reason}")

    def end(self, report: EpochReport) -> None:
        """Tells of the findings that could only be made when the run was over."""
        self._tell(report)

    def _tell(self, report: EpochReport) -> None:
        """Writes what has not been said: findings that are new, are back, or are worse than they were."""
        for finding in report.findings:
            if finding.cleared_epoch is not None:
                self._found.pop(words.identity(finding), None)
        for finding in filter(words.is_standing, report.findings):
            known, now = self._found.get(words.identity(finding), -1), words.rank(finding.severity)
            if now > known:
                self._found[words.identity(finding)] = now
                self._write(f"  {words.headline(finding)}")
                for line in words.consequences(finding) if finding.severity != "info" else ():
                    self._write(f"    {line}")


def epoch_line(report: EpochReport, max_epochs: int | None = None, unit: str = "epoch") -> str:
    """The line of one report."""
    width = len(str(max_epochs or report.epoch))
    parts = [f"{unit} {report.epoch:>{width}}" + (f"/{max_epochs}" if max_epochs else "")]
    for name, splits in report.scores.items():
        parts.append(f"{name} " + " ".join(f"{_short(split)} {value:.4f}" for split, value in splits.items()))
    if not math.isnan(report.gradient_ratio):
        parts.append(f"gradient first/last {report.gradient_ratio:.2g}")
    if report.units:
        parts.append(f"dead neurons {report.dead}/{report.units}")
    nonfinite = [name for name, row in report.gradients.items() if row["nonfinite"]]
    if nonfinite:
        parts.append(f"non-finite gradients in {', '.join(nonfinite)}")
    if report.partial:
        parts.append("(partial)")
    return " | ".join(parts)


def _as_text(table: Group) -> str:
    text = io.StringIO()
    Console(file=text, width=110).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().rstrip().splitlines())


def _short(split: str) -> str:
    return {"validation": "val"}.get(split, split)
