"""A part of the zoo that nothing was tuned on: ordinary runs, and the ways in which beginners break them."""

from __future__ import annotations

from zoo import fresh_healthy, fresh_inside, fresh_outside
from zoo.base import Case

CASES: tuple[Case, ...] = (*fresh_healthy.CASES, *fresh_inside.CASES, *fresh_outside.CASES)
