"""How the variants look: the same everywhere on a page, and told apart without colour, too."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#767676")
"""Okabe and Ito 2008, without yellow and black, which vanish on white and on black paper."""
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "triangle-down", "cross", "star")


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
            _DASHES[number // len(_COLORS) % len(_DASHES)],
            _SYMBOLS[number % len(_SYMBOLS)],
        )
        for number, name in enumerate(dict.fromkeys(names))
    }
