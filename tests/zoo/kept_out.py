"""The part of the zoo that is kept out of all tuning until the end."""

from __future__ import annotations

from zoo import kept_out_course, kept_out_healthy, kept_out_inside, kept_out_outputs, kept_out_updates
from zoo.base import Case

CASES: tuple[Case, ...] = (
    *kept_out_healthy.CASES,
    *kept_out_inside.CASES,
    *kept_out_updates.CASES,
    *kept_out_outputs.CASES,
    *kept_out_course.CASES,
)
