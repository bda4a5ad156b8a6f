"""The other half of the realistic models and trainings, other ones, seen once before the rules were tuned on it."""

from __future__ import annotations

from zoo import (
    exam_other,
    exam_text,
    exam_vision,
    exam_vision_dense,
    exam_vision_faults,
    exam_vision_mistakes,
    exam_vision_pairs,
)
from zoo.base import Case

CASES: tuple[Case, ...] = (
    *exam_text.CASES,
    *exam_other.CASES,
    *exam_vision.CASES,
    *exam_vision_dense.CASES,
    *exam_vision_pairs.CASES,
    *exam_vision_faults.CASES,
    *exam_vision_mistakes.CASES,
)
