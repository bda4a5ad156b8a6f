"""One line an epoch."""

from __future__ import annotations

import math
from collections.abc import Callable

from tqdm import tqdm

from ignite_act.report import EpochReport


class ConsoleSink:
    """Writes one line an epoch: scores, gradient ratio first/last layer, dead neurons.

    Args:
        write: takes a line; by default ``tqdm.write``, which leaves progress bars whole.
        max_epochs: shown beside the epoch if it is known.
    """

    def __init__(self, write: Callable[[str], object] = tqdm.write, max_epochs: int | None = None) -> None:
        self._write = write
        self._max_epochs = max_epochs

    def write(self, report: EpochReport) -> None:
        """Writes the line of one report."""
        self._write(epoch_line(report, self._max_epochs))


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


def _short(split: str) -> str:
    return {"validation": "val"}.get(split, split)
