"""What a page draws: Plotly's traces and layout as plain types, with the words around them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Trace = Mapping[str, Any]


@dataclass(frozen=True)
class Panel:
    """One drawing.

    Attributes:
        title: the heading above it, plain text.
        traces: Plotly's; ``meta`` is the number of the variant that a trace belongs to, see `page.js`.
        layout: Plotly's, beyond the look that all drawings share.
        frames: for each position of the figure's slider what it changes of every trace; empty if nothing moves.
        scale: drawings of a figure with the same word have the same range on the y axis.
        rows: the drawing has so many rows and is high enough for them; 0 for an ordinary one.
    """

    title: str
    traces: Sequence[Trace]
    layout: Mapping[str, Any] = field(default_factory=dict)
    frames: Sequence[Sequence[Mapping[str, Any]]] = ()
    scale: str = ""
    rows: int = 0

    def plain(self) -> dict[str, Any]:
        """What the page's program reads."""
        return {
            "data": list(self.traces),
            "layout": dict(self.layout),
            "frames": list(self.frames),
            "scale": self.scale,
        }


@dataclass(frozen=True)
class Figure:
    """Drawings that belong together, side by side where there is room.

    Attributes:
        title: the heading.
        caption: what is shown, in which units.
        panels: the drawings.
        slider: for each position of the slider what it stands for; empty for no slider.
    """

    title: str
    caption: str
    panels: Sequence[Panel]
    slider: Sequence[str] = ()


def literal(text: object) -> str:
    """The text for a place where Plotly reads a kind of HTML: it shows what is given here."""
    return str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def rounded(values: Iterable[float | None], digits: int = 4) -> list[float | None]:
    """The values to a few significant digits, which is what a drawing shows; None for what is not finite."""
    return [float(f"{value:.{digits}g}") if value is not None and math.isfinite(value) else None for value in values]
