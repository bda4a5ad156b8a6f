"""The course of a number over a window: few values, however many there were."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypedDict

import torch
from torch import Tensor

from ignite_act.stats.base import Statistic, accumulator_dtype, on_device

SEGMENTS = 32
"""Most values of a course."""
_WAITING = 32
_KEPT = 1024


class CourseNumbers(TypedDict):
    """What `Course.compute` returns: plain numbers."""

    steps: int
    first: float
    last: float
    mean: float
    min: float
    max: float
    nonfinite: int
    first_nonfinite_iteration: int | None
    course: list[float]


class Course(Statistic):
    """First, last, mean, extremes and the course of a stream of numbers.

    Non-finite ones are counted and left out of mean, extremes and course. The course is at most `SEGMENTS` means of
    equally many neighbours (the last one of what is left over); a segment without a finite value is NaN. What comes
    from a device stays there until `compute`.

    Args:
        device: where the state lives.
    """

    _state = ("width", "filled", "values", "numbers", "nonfinite", "first_nonfinite_iteration", "steps", "empty")

    def __init__(self, device: torch.device | str = "cpu") -> None:
        device = torch.device(device)
        wide = accumulator_dtype(device)
        self.width = 1  # numbers in each value ...
        self.filled = 0  # ... and in the last one so far
        self.values = torch.zeros(0, 2, dtype=wide, device=device)  # sum and number of the finite ones
        self.numbers = on_device([0.0, 0.0, math.inf, -math.inf], device, wide)
        self.nonfinite = torch.zeros((), dtype=torch.int64, device=device)
        self.first_nonfinite_iteration = torch.full((), torch.iinfo(torch.int64).max, device=device)
        self.steps = 0
        self.empty = True
        self._waiting: list[tuple[Tensor | float, int]] = []

    def update(self, value: Tensor | float, iteration: int) -> None:
        """Adds a number.

        Args:
            value: a number, or a tensor with one element.
            iteration: kept for the first that is not finite.
        """
        self._waiting.append((value, iteration))
        if len(self._waiting) == _WAITING:
            self._take_in()

    def follow(self, device: torch.device) -> None:
        """See `Statistic.follow`."""
        self._take_in()
        super().follow(device)

    def merge(self, other: Course) -> None:
        """Takes in the stream that came after this one (the course may be a little coarser than of the whole)."""
        self._take_in()
        other._take_in()
        if not other.steps:
            return
        device = self.values.device
        while self.width < other.width:
            self._halve()
        while other.width < self.width:
            other._halve()
        self.values, self.filled = torch.cat([self.values, other.values.to(device)]), other.filled
        self._join(other.numbers.to(device))
        self.nonfinite = self.nonfinite + other.nonfinite.to(device)
        first = torch.minimum(self.first_nonfinite_iteration, other.first_nonfinite_iteration.to(device))
        self.first_nonfinite_iteration = first
        self.steps += other.steps
        while len(self.values) > _KEPT:
            self._halve()

    def compute(self) -> CourseNumbers:
        """The numbers so far; NaN where there is no finite one."""
        self._take_in()
        first, last, low, high = self.numbers.tolist()
        values = self.values.cpu()
        total, finite = values.sum(0).tolist() if len(values) else (0.0, 0)
        while len(values) > SEGMENTS:
            values = _pairs(values)
        iteration = int(self.first_nonfinite_iteration)
        return {
            "steps": self.steps,
            "first": math.nan if self.empty else first,
            "last": math.nan if self.empty else last,
            "mean": total / finite if finite else math.nan,
            "min": low if finite else math.nan,
            "max": high if finite else math.nan,
            "nonfinite": int(self.nonfinite),
            "first_nonfinite_iteration": iteration if self.nonfinite else None,
            "course": (values[:, 0] / values[:, 1]).tolist(),
        }

    def state_dict(self) -> dict[str, object]:
        """The state as tensors (copies on the CPU) and plain numbers."""
        self._take_in()
        return super().state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` returned; what was there before is dropped."""
        self._waiting.clear()
        super().load_state_dict(state)

    @torch.no_grad()
    def _take_in(self) -> None:
        if not self._waiting:
            return
        wide, device = self.values.dtype, self.values.device
        given = [value for value, _ in self._waiting]
        if any(isinstance(value, Tensor) for value in given):
            tensors = (value if isinstance(value, Tensor) else on_device(value, device) for value in given)
            numbers = torch.stack([tensor.to(device, wide).reshape(()) for tensor in tensors])
        else:
            numbers = on_device(given, device, wide)
        iterations = on_device([iteration for _, iteration in self._waiting], device)
        self._waiting.clear()
        finite = torch.isfinite(numbers)
        clean = torch.where(finite, numbers, 0.0)
        self.steps += len(numbers)
        self.nonfinite = self.nonfinite + (~finite).sum()
        never = torch.iinfo(torch.int64).max
        earliest = torch.where(finite, never, iterations).amin()
        self.first_nonfinite_iteration = torch.minimum(self.first_nonfinite_iteration, earliest)
        low, high = torch.where(finite, numbers, math.inf).amin(), torch.where(finite, numbers, -math.inf).amax()
        self._join(torch.stack([numbers[0], numbers[-1], low, high]))
        self._append(torch.stack([clean, finite.to(wide)], 1))

    def _append(self, values: Tensor) -> None:
        if len(self.values) and self.filled < self.width:
            room = min(self.width - self.filled, len(values))
            head, values = values[:room], values[room:]
            self.values = torch.cat([self.values[:-1], self.values[-1:] + head.sum(0)])
            self.filled += room
        if not len(values):
            return
        self.filled = (len(values) - 1) % self.width + 1
        width = 1
        while width < self.width:
            values, width = _pairs(values), width * 2
        self.values = torch.cat([self.values, values])
        while len(self.values) > _KEPT:
            self._halve()

    def _halve(self) -> None:
        if len(self.values) and len(self.values) % 2 == 0:
            self.filled += self.width
        self.values, self.width = _pairs(self.values), self.width * 2

    def _join(self, later: Tensor) -> None:
        """Takes in first, last, lowest and highest of what came later."""
        mine = self.numbers
        first = later[0] if self.empty else mine[0]
        self.empty = False
        low, high = torch.minimum(mine[2], later[2]), torch.maximum(mine[3], later[3])
        self.numbers = torch.stack([first, later[1], low, high])


def _pairs(values: Tensor) -> Tensor:
    """Sums of neighbours; a last one without a neighbour stays alone."""
    if len(values) % 2:
        values = torch.cat([values, values.new_zeros(1, values.shape[1])])
    return values.view(-1, 2, values.shape[1]).sum(1)
