"""The half of the zoo on which thresholds may be tuned."""

from __future__ import annotations

from zoo import tuned_healthy, tuned_inside, tuned_outside
from zoo.base import Case

CASES: tuple[Case, ...] = (*tuned_healthy.CASES, *tuned_inside.CASES, *tuned_outside.CASES)
