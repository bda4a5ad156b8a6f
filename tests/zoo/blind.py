"""Realistic models and trainings, written without knowledge of the rules: judged once before these saw them."""

from __future__ import annotations

from zoo import (
    blind_other,
    blind_other_agents,
    blind_other_density,
    blind_other_graphs,
    blind_text,
    blind_text_series,
    blind_text_tuned,
    blind_text_words,
    blind_vision,
    blind_vision_dense,
    blind_vision_pairs,
    blind_vision_seen,
)
from zoo.base import Case

CASES: tuple[Case, ...] = (
    *blind_text.CASES,
    *blind_text_words.CASES,
    *blind_text_series.CASES,
    *blind_text_tuned.CASES,
    *blind_other.CASES,
    *blind_other_agents.CASES,
    *blind_other_density.CASES,
    *blind_other_graphs.CASES,
    *blind_vision.CASES,
    *blind_vision_dense.CASES,
    *blind_vision_pairs.CASES,
    *blind_vision_seen.CASES,
)
