"""A part of the zoo with realistic models and trainings, each fault a copy of a healthy run with one mistake."""

from __future__ import annotations

from zoo import real_other, real_other_faults, real_other_own_faults, real_text, real_text_faults, real_vision
from zoo.base import Case

CASES: tuple[Case, ...] = (
    *real_text.CASES,
    *real_other.CASES,
    *real_vision.CASES,
    *real_text_faults.CASES,
    *real_other_faults.CASES,
    *real_other_own_faults.CASES,
)
