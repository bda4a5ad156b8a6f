"""How the variants look: the same everywhere on a page, and told apart without colour, too."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#767676")
"""Okabe and Ito 2008, without yellow and black, which vanish on white and on black paper."""
_DASHES = {"solid": "", "dash": "6 3", "dot": "2 2", "dashdot": "6 2 2 2", "longdash": "10 3"}
"""Plotly's dashes, and SVG's for the same."""
_SYMBOLS = {
    "circle": "M-4 0A4 4 0 1 1 4 0A4 4 0 1 1 -4 0Z",
    "square": "M-3.5 -3.5H3.5V3.5H-3.5Z",
    "diamond": "M0 -5L5 0L0 5L-5 0Z",
    "triangle-up": "M0 -4.5L5 4H-5Z",
    "triangle-down": "M0 4.5L5 -4H-5Z",
    "cross": "M-1.5 -4.5H1.5V-1.5H4.5V1.5H1.5V4.5H-1.5V1.5H-4.5V-1.5H-1.5Z",
    "x": "M-4 -2L-2 -4L0 -2L2 -4L4 -2L2 0L4 2L2 4L0 2L-2 4L-4 2L-2 0Z",
    "hourglass": "M-4 -4.5H4L-4 4.5H4Z",
}
"""Plotly's markers, and outlines of the same."""


@dataclass(frozen=True)
class Style:
    """How a variant is drawn.

    Attributes:
        number: of the variant on the page, from 0; the switches know it by this.
        name: for people.
        color, dash, symbol: as Plotly calls them.
    """

    number: int
    name: str
    color: str
    dash: str
    symbol: str

    @property
    def pattern(self) -> str:
        """The dash as SVG has it."""
        return _DASHES[self.dash]

    @property
    def outline(self) -> str:
        """The marker as an SVG path about the origin."""
        return _SYMBOLS[self.symbol]

    def line(self, width: float = 2) -> dict[str, Any]:
        """The line of a trace."""
        return {"color": self.color, "dash": self.dash, "width": width}

    def marker(self) -> dict[str, Any]:
        """A few markers on the line."""
        return {"symbol": self.symbol, "size": 7, "color": self.color, "maxdisplayed": 8}

    def faint(self, opacity: float = 0.15) -> str:
        """The colour of a band."""
        red, green, blue = (int(self.color[i : i + 2], 16) for i in (1, 3, 5))
        return f"rgba({red},{green},{blue},{opacity})"


def styles(names: Iterable[str]) -> dict[str, Style]:
    """A style for each name, in the order of first appearance."""
    return {
        name: Style(
            number,
            name,
            _COLORS[number % len(_COLORS)],
            list(_DASHES)[number // len(_COLORS) % len(_DASHES)],
            list(_SYMBOLS)[number % len(_SYMBOLS)],
        )
        for number, name in enumerate(dict.fromkeys(names))
    }
