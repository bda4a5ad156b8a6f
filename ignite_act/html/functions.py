"""The activation functions themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ignite_act.activations import make_activation
from ignite_act.html.figure import Figure, Panel, Trace, literal, rounded
from ignite_act.html.styles import Style
from ignite_act.variants import parse_activation

_REACH = 5.0
_POINTS = 501


def activation_figure(acts: Mapping[str, str], looks: Mapping[str, Style]) -> Figure:
    """The functions and their derivatives.

    Args:
        acts: name of a variant -> its activation.
        looks: name of a variant -> its style.
    """
    reach = max([_REACH, *(1.3 * end for act in acts.values() for end in _flat_ends(act))])
    z = torch.linspace(-reach, reach, _POINTS, dtype=torch.float64)
    sampled = {name: sample(act, z) for name, act in acts.items()}
    parts = (("function", "f(z)"), ("derivative", "f'(z)"))
    panels = [
        Panel(
            title,
            [curve(looks[name], z.tolist(), values[part]) for name, values in sampled.items()],
            curve_layout(label),
        )
        for part, (title, label) in enumerate(parts)
    ]
    caption = (
        "The functions with the parameters used, and their derivatives, which scale the gradient on its way back: "
        "where the derivative is zero or small, nothing is learned. Learned and random parameters have their initial "
        "and mean values."
    )
    return Figure("The activation functions", caption, panels)


def sample(act: str, z: torch.Tensor) -> tuple[list[float], list[float]]:
    """The function and its derivative at some pre-activations, float64 of shape ``(n,)``."""
    entry, parameters = parse_activation(act)
    module = make_activation(entry.name, **parameters).double().eval()
    with torch.enable_grad():
        points = z.detach().clone().requires_grad_()
        values = module(points)
        (slopes,) = torch.autograd.grad(values.sum(), points)
    return values.tolist(), slopes.tolist()


def _flat_ends(act: str) -> list[float]:
    """How far from zero the finite ends of the flat pieces lie, so that the axis shows them."""
    entry, parameters = parse_activation(act)
    return [abs(end) for piece in entry.flat_intervals(parameters) or () for end in piece if math.isfinite(end)]


def curve(style: Style, z: Sequence[float], values: Sequence[float]) -> Trace:
    """The line of a function or a derivative."""
    return {
        "x": rounded(z),
        "y": rounded(values),
        "name": literal(style.name),
        "meta": style.number,
        "mode": "lines+markers",
        "line": style.line(),
        "marker": style.marker(),
    }


def curve_layout(label: str) -> dict[str, Any]:
    """The axes of such lines; the label is that of the y axis."""
    hover = {"hoverformat": ".2f", "unifiedhovertitle": {"text": "z = %{x}"}}
    return {
        "xaxis": {"title": {"text": "pre-activation z"}, **hover},
        "yaxis": {"title": {"text": label}, "hoverformat": ".3g"},
    }
