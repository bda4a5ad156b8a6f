"""The part of the zoo that nothing was tuned on."""

from __future__ import annotations

from zoo import unseen_course, unseen_healthy, unseen_outputs, unseen_signals, unseen_updates
from zoo.base import Case

CASES: tuple[Case, ...] = (
    *unseen_healthy.CASES,
    *unseen_signals.CASES,
    *unseen_updates.CASES,
    *unseen_outputs.CASES,
    *unseen_course.CASES,
)
