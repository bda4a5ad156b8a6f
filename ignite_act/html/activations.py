"""The page with the curves of every registered activation function."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from ignite_act import __version__
from ignite_act.activations import ACTIVATIONS, Activation, Interval, Intervals
from ignite_act.compare import Table
from ignite_act.errors import first_line
from ignite_act.html.figure import Figure, Panel
from ignite_act.html.functions import curve, curve_layout, sample
from ignite_act.html.page import write_page
from ignite_act.html.styles import Style, styles
from ignite_act.sinks.tables import intervals

_REACH = 5.0
_POINTS = 401
_BESIDE = 1e-9
"""How far from a kink the points beside it lie."""
_CAPTION = (
    "Each function with its default parameters and its derivative, which scales the gradient on its way back. Grey: "
    "the derivative is exactly zero there, and a unit that stays there on all samples is dead. Learned and random "
    "parameters have their initial and mean values. A jump is drawn as a vertical line."
)


def write_activations(path: Path) -> Path:
    """Writes one self-contained page with the registered functions.

    Returns:
        The path.

    Raises:
        UserError: if the file cannot be written.
    """
    looks = styles(["function", "derivative"])
    panels, rows, missing = [], [], []
    for name, entry in ACTIVATIONS.items():
        try:
            panels.append(activation_panel(entry, looks["function"], looks["derivative"]))
            rows.append(_words(entry))
        except Exception as error:  # a user's function may fail in any way, the others are shown
            missing.append((name, first_line(error)))
    headings = ("activation", "also called", "parameters", "slope 0 where", "saturated where", "")
    return write_page(
        path,
        "activations.html",
        title="Activation functions",
        summary=f"{len(panels)} functions that a network can be trained with: ignite-act run --act NAME",
        styles=looks,
        figure=Figure("Functions and derivatives", _CAPTION, panels),
        table=Table("The functions in words; saturated: slope below 5 % of the steepest", headings, tuple(rows)),
        missing=missing,
        version=__version__,
    )


def activation_panel(entry: Activation, function: Style, derivative: Style) -> Panel:
    """One function and its derivative, the flat pieces shaded.

    Raises:
        Exception: whatever a function raises that cannot be computed or differentiated on its own.
    """
    flat = entry.flat_intervals() or ()
    ends = [end for piece in flat for end in piece if math.isfinite(end)]
    reach = max([_REACH, *(1.3 * abs(end) for end in ends)])
    z = pre_activations(reach, ends)
    curves = zip((function, derivative), sample(entry.name, z), strict=True)
    traces = [curve(style, z.tolist(), values) for style, values in curves]
    axes = curve_layout("f(z), f'(z)")
    layout = {
        **axes,
        "xaxis": {**axes["xaxis"], "range": [-reach, reach]},
        "shapes": [_shade(piece, reach) for piece in flat],
    }
    return Panel(entry.name, traces, layout)


def pre_activations(reach: float, ends: list[float]) -> torch.Tensor:
    """Where curves are drawn: evenly, and on both sides of zero and of the ends of flat pieces, where they may jump.

    Returns:
        Increasing float64 numbers from ``-reach`` to ``reach``, ``(n,)``.
    """
    kinks = torch.tensor(sorted({0.0, *ends, *(-end for end in ends)}), dtype=torch.float64)
    evenly = torch.linspace(-reach, reach, _POINTS, dtype=torch.float64)
    return torch.cat([evenly, kinks - _BESIDE, kinks, kinks + _BESIDE]).unique()


def _shade(piece: Interval, reach: float) -> dict[str, Any]:
    low, high = max(piece[0], -reach), min(piece[1], reach)
    return {
        "type": "rect",
        "xref": "x",
        "yref": "paper",
        "x0": low,
        "x1": high,
        "y0": 0,
        "y1": 1,
        "fillcolor": "rgba(128,128,128,0.2)",
        "line": {"width": 0},
        "layer": "below",
    }


def _words(entry: Activation) -> tuple[str, ...]:
    parameters = (
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in entry.parameters.items()
    )
    flat, saturated = _places(entry.flat_intervals()), _places(entry.saturated_intervals())
    return entry.name, ", ".join(entry.aliases), ", ".join(parameters), flat, saturated, entry.description


def _places(pieces: Intervals | None) -> str:
    """Intervals of z in words that stay together in a line."""
    return ", ".join(intervals(pieces).replace(" ", "\N{NO-BREAK SPACE}").splitlines())
