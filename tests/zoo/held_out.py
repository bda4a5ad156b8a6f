"""The half of the zoo that is kept out of all tuning."""

from __future__ import annotations

from zoo import held_out_healthy, held_out_outcomes, held_out_signals, held_out_updates
from zoo.base import Case

CASES: tuple[Case, ...] = (
    *held_out_healthy.CASES,
    *held_out_signals.CASES,
    *held_out_updates.CASES,
    *held_out_outcomes.CASES,
)
