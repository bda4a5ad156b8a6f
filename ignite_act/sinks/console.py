"""One line an epoch."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

from rich.console import Console, Group
from tqdm import tqdm

from ignite_act.report import EpochReport
from ignite_act.sinks.tables import layers_table, sites_table


class ConsoleSink:
    """Writes one line an epoch: scores, gradient ratio first/last layer, dead neurons.

    What could not be measured is said when it first happens.

    Args:
        write: takes lines; by default ``tqdm.write``, which leaves progress bars whole.
        max_epochs: shown beside the epoch if it is known.
        tables: write a table of the layers and one of the activation sites below each line.
    """

    def __init__(
        self, write: Callable[[str], object] = tqdm.write, max_epochs: int | None = None, *, tables: bool = False
    ) -> None:
        self._write = write
        self._max_epochs = max_epochs
        self._tables = tables
        self._said: set[tuple[str, str, str]] = set()

    def write(self, report: EpochReport) -> None:
        """Writes the line of one report."""
        self._write(epoch_line(report, self._max_epochs))
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


def epoch_line(report: EpochReport, max_epochs: int | None = None) -> str:
    """The line of one report."""
    width = len(str(max_epochs or report.epoch))
    parts = [f"epoch {report.epoch:>{width}}" + (f"/{max_epochs}" if max_epochs else "")]
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
