"""Distributions of the activations, epoch by epoch."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ignite_act.html.figure import Figure, Panel, Trace, literal, rounded
from ignite_act.html.history import Histories, History, Reports, finite
from ignite_act.html.styles import Style

Array = NDArray[np.float64]

_OCTAVES = 6
"""Over how many octaves the bins get narrower towards zero."""
_EVEN_BINS = 60
"""Of histograms that are fine enough everywhere."""
_OUTSIDE = 0.005
"""Share of a variant's values that may lie beyond the axis at each end."""
_FARTHEST = 5
"""An axis reaches at most so many times as far as the middle one of the variants does."""
_MARGIN = 0.02
"""Of the axis beyond the curves, as a share."""
_HEIGHT = 0.9
"""Of a row's peak; rows are 1 apart."""
_FEW = 5e-4
"""A smaller share of zeros is not worth a word."""


class Histogram:
    """A site in one epoch of one run, exact zeros apart from the other values.

    Args:
        row: of `EpochReport.activations`, with at least one finite value.

    Attributes:
        zeros: share of the values that are exactly zero.
    """

    def __init__(self, row: Mapping[str, Any]) -> None:
        self.edges: Array = np.asarray(row["edges"], float)
        counts: Array = np.asarray(row["counts"], float)
        total = float(counts.sum())
        zeros = round((finite(row.get("zero_fraction")) or 0.0) * total)
        for place in self._around_zero():
            taken = min(zeros, counts[place])
            counts[place] -= taken
            zeros -= taken
        self.zeros = 1 - float(counts.sum()) / total
        self.below: Array = np.concatenate([[0.0], counts.cumsum()]) / total

    def _around_zero(self) -> list[int]:
        """The bins that may hold zeros: one that begins at or below zero first, one that ends at zero second."""
        place = int(np.searchsorted(self.edges, 0.0, side="right")) - 1
        return [
            index for index in (place, place - 1) if 0 <= index < len(self.edges) - 1 and self.edges[index + 1] >= 0
        ]

    def shares(self, grid: Array) -> Array:
        """Share of all values in each bin of a grid; what lies in one bin of the histogram is spread evenly over it."""
        return np.diff(np.interp(grid, self.edges, self.below))

    def span(self) -> tuple[float, float] | None:
        """Where the values that are not zero lie, all but the outermost ones; None if all are zero."""
        if not self.below[-1]:
            return None
        low, high = np.interp(np.array([_OUTSIDE, 1 - _OUTSIDE]) * self.below[-1], self.below, self.edges)
        return float(low), float(high)


Frame = Sequence[Histogram]
"""One epoch of a variant: a histogram a run."""


@dataclass(frozen=True)
class _Moving:
    """A variant at one site.

    Attributes:
        style: how it is drawn.
        frames: one for each position of the slider.
    """

    style: Style
    frames: Sequence[Frame]

    def span(self) -> tuple[float, float] | None:
        """Where its values lie, over all epochs and runs."""
        spans = [span for frame in self.frames for histogram in frame if (span := histogram.span()) is not None]
        return (min(low for low, _ in spans), max(high for _, high in spans)) if spans else None

    def rows(self, grid: Array, base: float) -> list[list[dict[str, Any]]]:
        """For each frame what it changes of the traces of `_row_traces`."""
        return [[{"y": _ridge(frame, grid, base)}, {"text": [_label(self.style.name, frame)]}] for frame in self.frames]


def distribution_figure(histories: Histories) -> Figure | None:
    """One drawing a site, all moved by one slider over the epochs."""
    runs = (run for history in histories.variants for run in history.counted)
    sites = dict.fromkeys(site for run in runs for report in run for site in report.activations)
    moving = {site: _at_site(site, histories) for site in sites}
    panels = [_panel(site, variants, _grid) for site, variants in moving.items() if variants]
    if not panels:
        return None
    return Figure(
        "Distributions of the activations", _CAPTION, panels, [str(position) for position in histories.positions]
    )


def still_panel(site: str, rows: Mapping[Style, Mapping[str, Any]]) -> Panel:
    """The drawing of a site at one moment, evenly binned.

    Args:
        site: its name.
        rows: variant -> a row of `ActivationStats.result` in full, with a finite value.
    """
    return _panel(site, [_Moving(style, [[Histogram(row)]]) for style, row in rows.items()], _even_grid)


_CAPTION = (
    "Each row is a variant: the density of the outputs of its activation function in the measured steps of an epoch, "
    "the mean over the seeds. Rows are scaled to their own peak: heights compare within a row, places and "
    "widths between rows. Exact zeros, a spike without a width, are not in the curve but in words. The axis is the "
    "same in all epochs and leaves out the outermost 0.5 % at each end, more where one variant would make the others "
    "vanish. A run that stopped earlier stays at its last epoch."
)


def _at_site(site: str, histories: Histories) -> list[_Moving]:
    """The variants that have the site."""
    every = [
        _Moving(history.style, [_frame(site, history, position) for position in histories.positions])
        for history in histories.variants
    ]
    return [moving for moving in every if any(moving.frames)]


def _frame(site: str, history: History, position: int) -> Frame:
    rows = (_row(site, run, position) for run in history.counted)
    return [Histogram(row) for row in rows if row is not None]


def _row(site: str, run: Reports, position: int) -> Mapping[str, Any] | None:
    """The run's last row up to an epoch."""
    rows = (report.activations.get(site) for report in reversed(run) if report.epoch <= position)
    row = next((row for row in rows if row is not None), None)
    return row if row is not None and sum(row.get("counts", ())) > 0 else None


def _ridge(frame: Frame, grid: Array, base: float) -> list[float | None]:
    """The density as steps from a base line; its peak is `_HEIGHT` above it."""
    if not frame:
        return [None] * (len(grid) + 2)
    density = np.mean([histogram.shares(grid) for histogram in frame], axis=0) / np.diff(grid)
    heights = _HEIGHT * density / (density.max() or 1.0)
    return [round(base + float(height), 3) for height in (0.0, *heights, heights[-1], 0.0)]


def _label(name: str, frame: Frame) -> str:
    zeros = statistics.fmean(histogram.zeros for histogram in frame) if frame else 0.0
    return literal(f"{name}, {100 * zeros:.3g} % zeros" if zeros > _FEW else name)


def _panel(site: str, variants: Sequence[_Moving], bins: Callable[[float, float], Array]) -> Panel:
    grid = bins(*_axis([span for moving in variants if (span := moving.span()) is not None]))
    bases = range(len(variants) - 1, -1, -1)
    rows = [moving.rows(grid, base) for moving, base in zip(variants, bases, strict=True)]
    frames = [[change for row in position for change in row] for position in zip(*rows, strict=True)]
    looks = [
        look for moving, base in zip(variants, bases, strict=True) for look in _row_traces(moving.style, grid, base)
    ]
    traces = [{**look, **change} for look, change in zip(looks, frames[-1], strict=True)]
    layout = {
        "hovermode": "closest",
        "margin": {"l": 14, "r": 14, "t": 0, "b": 42},
        "xaxis": {"title": {"text": "activation"}, "range": _with_margin(grid), "showgrid": True},
        "yaxis": {"range": [-0.05, len(variants)], "visible": False, "fixedrange": True},
    }
    return Panel(site, traces, layout, frames, rows=len(variants))


def _axis(spans: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """From the lowest to the highest value, but not so far that one variant makes all others vanish."""
    if not spans:
        return -1.0, 1.0
    limit = _FARTHEST * statistics.median(max(-low, high) for low, high in spans)
    low, high = max(min(low for low, _ in spans), -limit), min(max(high for _, high in spans), limit)
    return low, high


def _grid(low: float, high: float) -> Array:
    """Bins as reports have them: four per octave, narrower towards zero."""
    octaves = 2.0 ** (np.floor(np.log2(max(-low, high))) - np.arange(_OCTAVES))
    positive = np.outer(octaves, [1, 1.25, 1.5, 1.75]).ravel()
    points = np.concatenate([-positive, [0.0], positive])
    return np.unique(np.concatenate([[low, high], points[(points > low) & (points < high)]]))


def _even_grid(low: float, high: float) -> Array:
    return np.linspace(low, high, _EVEN_BINS + 1)


def _with_margin(grid: Array) -> list[float | None]:
    low, high = float(grid[0]), float(grid[-1])
    return rounded([low - _MARGIN * (high - low), high + _MARGIN * (high - low)])


def _row_traces(style: Style, grid: Array, base: float) -> list[Trace]:
    """The curve of a variant and its name at the right end of the row; what they show comes with the frames."""
    curve = {
        "x": rounded([grid[0], *grid, grid[-1]], 5),
        "name": literal(style.name),
        "meta": style.number,
        "mode": "lines",
        "line": {"color": style.color, "width": 1.5, "shape": "hv"},
        "fill": "toself",
        "fillcolor": style.faint(0.25),
        "hoverinfo": "x+name",
    }
    label = {
        "x": [float(grid[-1])],
        "y": [base + 0.5],
        "meta": style.number,
        "mode": "text",
        "textposition": "middle left",
        "hoverinfo": "skip",
    }
    return [curve, label]
