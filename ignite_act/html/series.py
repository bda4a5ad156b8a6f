"""Numbers of several seeds -> the traces of one variant."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ignite_act.html.figure import Trace, literal, rounded
from ignite_act.html.history import History, Reports, finite
from ignite_act.html.styles import Style
from ignite_act.report import EpochReport

Read = Callable[[EpochReport], object]
Middle = Callable[[Iterable[float]], float]
Series = Mapping[int, float | None]
"""Epoch -> value."""


def traces(history: History, read: Read, middle: Middle = statistics.fmean) -> list[Trace]:
    """A quantity of a variant over the epochs.

    A line with the middle of the seeds and a band over all of them, up to the last epoch that all of them reached;
    after it each seed that went on as a thin line; the runs that do not count as thin dotted lines.

    Args:
        history: the variant.
        read: takes the quantity out of a report.
        middle: of the seeds of one epoch.
    """
    counted = [item for run in history.counted if (item := series(run, read))]
    left_out = [item for run in history.left_out if (item := series(run, read))]
    lines = [_thin(history.style, item, "dot") for item in left_out]
    if counted:
        common = min(max(item) for item in counted)
        tails = [{epoch: item[epoch] for epoch in item if epoch >= common} for item in counted if max(item) > common]
        lines += [_thin(history.style, tail, "solid") for tail in tails]
        lines += over_seeds(history.style, *at_epochs(counted, common), middle)
    return lines


def series(run: Reports, read: Read) -> Series:
    """Epoch -> value, up to the last finite value; NaN and missing ones in between are None."""
    values = {report.epoch: finite(read(report)) for report in run}
    last = max((epoch for epoch, value in values.items() if value is not None), default=0)
    return {epoch: value for epoch, value in values.items() if epoch <= last}


def at_epochs(runs: Sequence[Series], last: int) -> tuple[list[int], list[list[float] | None]]:
    """The epochs up to the last one with the values of all runs; None where a run has no value."""
    epochs = sorted({epoch for run in runs for epoch in run if epoch <= last})
    rows = [[run.get(epoch) for run in runs] for epoch in epochs]
    return epochs, [None if None in row else [value for value in row if value is not None] for row in rows]


def over_seeds(
    style: Style, x: Sequence[Any], rows: Sequence[list[float] | None], middle: Middle = statistics.fmean
) -> list[Trace]:
    """A line through the middle of each row, and a band from its lowest to its highest value."""
    line = {
        "x": list(x),
        "y": rounded(middle(row) if row else None for row in rows),
        "name": literal(style.name),
        "meta": style.number,
        "mode": "lines+markers",
        "line": style.line(),
        "marker": style.marker(),
    }
    return [*_bands(style, x, rows), line]


def _bands(style: Style, x: Sequence[Any], rows: Sequence[list[float] | None]) -> list[Trace]:
    there = [(at, min(row), max(row)) for at, row in zip(x, rows, strict=True) if row]
    if not any(low < high for _, low, high in there):
        return []
    at, low, high = (list(column) for column in zip(*there, strict=True))
    return [
        {
            "x": at + at[::-1],
            "y": rounded(high + low[::-1]),
            "meta": style.number,
            "mode": "lines",
            "fill": "toself",
            "fillcolor": style.faint(),
            "line": {"width": 0},
            "hoverinfo": "skip",
        }
    ]


def _thin(style: Style, values: Series, dash: str) -> Trace:
    return {
        "x": list(values),
        "y": rounded(values.values()),
        "meta": style.number,
        "mode": "lines",
        "line": {"color": style.color, "width": 1, "dash": dash},
        "hoverinfo": "skip",
    }
