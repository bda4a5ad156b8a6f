"""Distributions of the activations, epoch by epoch."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ignite_act.html.figure import Figure, Panel, Trace, literal, rounded
from ignite_act.html.history import Histories, History, Reports
from ignite_act.html.styles import Style

Array = NDArray[np.float64]

_OCTAVES = 8
"""Over how many octaves the bins get narrower towards zero."""
_OUTSIDE = 0.005
"""Share of a variant's values that may lie beyond the axis at each end."""
_FARTHEST = 5
"""An axis reaches at most so many times as far as the middle one of the variants does."""
_TALLEST = 4
"""A curve may be so many times as high as the middle one of the variants before it is cut."""


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
        zeros = (row["zero_fraction"] or 0.0) * total
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

    def densities(self, grid: Array) -> list[list[float | None]]:
        """For each frame the density in each bin of the grid, the mean over the runs."""
        return [_density(frame, grid) for frame in self.frames]

    def zeros(self) -> list[list[float | None]]:
        """For each frame the share of exact zeros, the mean over the runs."""
        return [[statistics.fmean(item.zeros for item in frame) if frame else None] for frame in self.frames]


def distribution_figure(histories: Histories) -> Figure | None:
    """One drawing a site, all moved by one slider over the epochs."""
    runs = (run for history in histories.variants for run in history.counted)
    sites = dict.fromkeys(site for run in runs for report in run for site in report.activations)
    moving = {site: _at_site(site, histories) for site in sites}
    panels = [_panel(site, variants) for site, variants in moving.items() if variants]
    if not panels:
        return None
    return Figure(
        "Distributions of the activations", _CAPTION, panels, [str(position) for position in histories.positions]
    )


_CAPTION = (
    "Density of the outputs of an activation function, for the samples of an epoch: the area under a curve is the "
    "share of outputs that are not exactly zero, and the points on the right are the share of those that are. Mean "
    "over the seeds; a run that stopped earlier stays at its last epoch. The axes are the same in all epochs; they "
    "leave out the outermost 0.5 % of the values and cut off peaks that would flatten everything else."
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
    return row if row is not None and sum(row["counts"]) > 0 else None


def _density(frame: Frame, grid: Array) -> list[float | None]:
    if not frame:
        return [None] * len(grid)
    density = np.mean([histogram.shares(grid) for histogram in frame], axis=0) / np.diff(grid)
    return rounded([*density, density[-1]], 3)  # a step needs its right end, too


def _panel(site: str, variants: Sequence[_Moving]) -> Panel:
    grid = _grid(*_axis([span for moving in variants if (span := moving.span()) is not None]))
    densities = [moving.densities(grid) for moving in variants]
    zeros = [moving.zeros() for moving in variants]
    traces = [_curve(moving.style, grid, frames[-1]) for moving, frames in zip(variants, densities, strict=True)]
    layout = {
        "hovermode": "closest",
        "xaxis": {"title": {"text": "activation"}, "range": [grid[0], grid[-1]]},
        "yaxis": {"title": {"text": "density"}, "range": [0, _top(densities)]},
    }
    if any(share for frames in zeros for (share,) in frames):
        traces += [_point(moving.style, frames[-1]) for moving, frames in zip(variants, zeros, strict=True)]
        densities += zeros
        layout = _with_zeros(layout, len(variants))
    frames = [list(frame) for frame in zip(*densities, strict=True)]
    return Panel(site, traces, layout, frames)


def _axis(spans: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """From the lowest to the highest value, but not so far that one variant makes all others vanish."""
    if not spans:
        return -1.0, 1.0
    limit = _FARTHEST * statistics.median(max(-low, high) for low, high in spans)
    low, high = max(min(low for low, _ in spans), -limit), min(max(high for _, high in spans), limit)
    return low, high


def _grid(low: float, high: float) -> Array:
    """Bins as reports have them: four per octave, narrower towards zero."""
    largest = np.floor(np.log2(max(-low, high)))
    octaves = 2.0 ** (largest - np.arange(_OCTAVES + 1))
    positive = np.outer(octaves, [1, 1.25, 1.5, 1.75]).ravel()
    points = np.concatenate([-positive, [0.0], positive])
    return np.unique(np.concatenate([[low, high], points[(points > low) & (points < high)]]))


def _top(densities: Iterable[Sequence[Sequence[float | None]]]) -> float:
    peaks = [max((value or 0 for frame in frames for value in frame), default=0) for frames in densities]
    return 1.05 * min(max(peaks), _TALLEST * statistics.median(peaks)) or 1.0


def _curve(style: Style, grid: Array, density: Sequence[float | None]) -> Trace:
    return {
        "x": rounded(grid, 5),
        "y": list(density),
        "name": literal(style.name),
        "meta": style.number,
        "mode": "lines",
        "line": {**style.line(), "shape": "hv"},
        "fill": "tozeroy",
        "fillcolor": style.faint(0.07),
    }


def _point(style: Style, share: Sequence[float | None]) -> Trace:
    return {
        "x": [style.number],
        "y": list(share),
        "name": literal(style.name),
        "meta": style.number,
        "mode": "markers",
        "marker": {**style.marker(), "size": 9},
        "xaxis": "x2",
        "yaxis": "y2",
        "cliponaxis": False,
    }


def _with_zeros(layout: Mapping[str, Any], variants: int) -> dict[str, Any]:
    """A narrow second plot on the right."""
    return {
        **layout,
        "xaxis": {**layout["xaxis"], "domain": [0, 0.78]},
        "xaxis2": {"domain": [0.84, 1], "showticklabels": False, "title": {"text": "exactly 0"}, "showgrid": False,
                   "zeroline": False},
        "yaxis2": {"anchor": "x2", "side": "right", "range": [0, 1], "tickformat": ".0%"},
    }  # fmt: skip
