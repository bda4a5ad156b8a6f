"""The trainings on other things than images and text in the exam half of the real part of the zoo."""

from __future__ import annotations

from zoo import (
    exam_other_agents,
    exam_other_density,
    exam_other_graphs,
    exam_other_series,
    exam_other_sets,
    exam_other_tables,
)
from zoo.base import Case

CASES: tuple[Case, ...] = (
    *exam_other_series.CASES,
    *exam_other_graphs.CASES,
    *exam_other_agents.CASES,
    *exam_other_density.CASES,
    *exam_other_tables.CASES,
    *exam_other_sets.CASES,
)
