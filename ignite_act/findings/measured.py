"""How often the findings were right and how often false alarms, as `scripts/benchmark.py findings --save` counted."""

from __future__ import annotations

import json
from importlib import resources
from typing import NamedTuple


class Measured(NamedTuple):
    """What was counted of one kind.

    Attributes:
        runs: faulty runs of this kind.
        first: those of them of which an accepted kind came first.
        alarms: healthy runs with a warning or an error of this kind.
    """

    runs: int
    first: int
    alarms: int


class Measurement(NamedTuple):
    """What was counted, and on what.

    Attributes:
        command: counts them.
        when: they were counted: rules change, and what they were corrected on is no measure of them.
        healthy: how many healthy runs there were.
        kinds: by identifier.
    """

    command: str
    when: str
    healthy: int
    kinds: dict[str, Measured]


def measurement() -> Measurement:
    """The figures that belong to this version."""
    text = resources.files(__package__).joinpath("measured.json").read_text(encoding="utf-8")
    stored = json.loads(text)
    kinds = {kind: Measured(**numbers) for kind, numbers in stored["kinds"].items()}
    return Measurement(stored["command"], stored["when"], stored["healthy"], kinds)
