"""The mean absolute value of a few tensors over many steps."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from ignite_act.internals import norm_of_each
from ignite_act.stats import kernels
from ignite_act.stats.base import Statistic, accumulator_dtype, on_device

ABSENT = -1.0
"""Stands for "no value in this step" where a magnitude, never negative, is expected."""

SCRATCH = 1 << 19
"""Elements of the buffer that `magnitude` works in: two megabytes."""

_DOUBLES = frozenset({torch.float64, torch.complex128})
_PLAIN: tuple[type[Tensor], ...] = (Tensor,)
"""Types that know every operation; a subclass may not."""
_AT_ONCE = 32
_NEVER = torch.iinfo(torch.int64).max


class MagnitudeNumbers(TypedDict):
    """What `Magnitude.compute` returns for one row: plain numbers."""

    mean_abs: float
    max_abs: float
    nonfinite: int
    steps: int
    first_nonfinite_iteration: int | None


class Magnitude(Statistic):
    """Per row (one tensor of the model): mean over steps of mean(\\|x\\|), the largest \\|x\\|, non-finite steps.

    Every step weighs the same, whatever the batch it came from. A step whose tensor holds a NaN or an infinity is
    counted, its iteration kept if it is the first, and left out of both numbers. All state is ``(rows,)``; steps are
    taken in by a few at a time, so that a step costs next to nothing.

    Args:
        rows: number of tensors followed.
        device: where the state lives.
    """

    _state: tuple[str, ...] = ("total", "maximum", "tallies", "first_nonfinite")
    _by_row: tuple[str, ...] = ("total", "maximum", "first_nonfinite")  # state whose first dimension is the row

    def __init__(self, rows: int, device: torch.device | str = "cpu") -> None:
        device = torch.device(device)
        self.rows = rows
        self._waiting: list[tuple[Tensor, Tensor, int]] = []
        self._arrays: tuple[Any, ...] | None = None  # the state as the compiled loops take it: views
        with torch.inference_mode(False):
            self.total = torch.zeros(rows, dtype=accumulator_dtype(device), device=device)
            self.maximum = torch.zeros(rows, dtype=accumulator_dtype(device), device=device)
            self.tallies = torch.zeros(2, rows, dtype=torch.int64, device=device)  # finite, non-finite steps
            self.first_nonfinite = torch.full((rows,), _NEVER, dtype=torch.int64, device=device)

    def update(self, means: Tensor, maxima: Tensor, iteration: int) -> None:
        """Adds one step.

        Args:
            means: mean(\\|x\\|) of each row, ``(rows,)``; negative where a row takes no part in this step.
            maxima: max(\\|x\\|) of each row, ``(rows,)``; NaN if there is one among the values.
            iteration: number of the step, kept where the first non-finite value appears.
        """
        self._waiting.append((means, maxima, iteration))
        if len(self._waiting) == _AT_ONCE:
            self._take_in()

    def read(self, tensors: Mapping[int, Tensor], iteration: int) -> bool:
        """Adds one step straight from the tensors if that can be done in one pass over them.

        Args:
            tensors: row -> values.
            iteration: see `update`.

        Returns:
            Whether it was done; otherwise `magnitude` and `update` have to do it.
        """
        if not all(map(kernels.fit, tensors.values())):
            return False
        return all(self.read_one(row, tensor, iteration) for row, tensor in tensors.items())

    def read_one(self, row: int, tensor: Tensor, iteration: int) -> bool:
        """`read` of one row."""
        loops = kernels.compiled()
        if loops is None or not self.total.is_cpu or not kernels.fit(tensor):
            return False
        if self._waiting:
            self._take_in()
        if self._arrays is None:
            self._arrays = tuple(getattr(self, name).numpy() for name in self._state)
        values = kernels.in_memory_order(tensor)
        if values.size:
            loops.add_magnitude(values, row, iteration, *self._arrays)
        return True

    def is_broken(self, row: int) -> bool | None:
        """Whether a step of a row was not finite; None where that cannot be said without waiting for the device."""
        if self._waiting or not self.total.is_cpu:
            return None
        tallies = self.tallies.numpy() if self._arrays is None else self._arrays[2]
        return bool(tallies[1, row])

    def peaks(self) -> Tensor:
        """The largest \\|x\\| of each row so far, NaN after a step that was not finite: a copy, ``(rows,)``."""
        self._take_in()
        return torch.where(self.tallies[1] > 0, math.nan, self.maximum)

    def merge(self, other: Magnitude) -> None:
        """Takes in the steps that another statistic of the same rows has seen."""
        self._take_in()
        other = other.settled()
        self._arrays = None
        device = self.total.device
        self.total = self.total + other.total.to(device)
        self.maximum = torch.maximum(self.maximum, other.maximum.to(device))
        self.tallies = self.tallies + other.tallies.to(device)
        self.first_nonfinite = torch.minimum(self.first_nonfinite, other.first_nonfinite.to(device))

    def rearranged(self, rows: Sequence[int | None]) -> Self:
        """The same numbers in other rows: where each comes from, None for a new one."""
        self._take_in()
        result = type(self)(len(rows), self.total.device)
        for row, old in enumerate(rows):
            if old is not None:
                result.tallies[:, row] = self.tallies[:, old]
                for name in self._by_row:
                    getattr(result, name)[row] = getattr(self, name)[old]
        return result

    def follow(self, device: torch.device) -> None:
        """See `Statistic.follow`."""
        self._take_in()
        self._arrays = None
        super().follow(device)

    def settled(self) -> Magnitude:
        """The same numbers with every step added to the sums."""
        self._take_in()
        return self

    def unite(self, others: Sequence[Magnitude]) -> None:
        """Becomes what several processes have seen of the same steps: means are averaged, steps are not added.

        Where processes hold different parts of a tensor, `ShardedMagnitude` does this.
        """
        for other in others:
            self.merge(other)
        if not others:
            return
        finite = torch.stack([other.tallies for other in others]).amax(0)
        self._arrays = None
        self.total = self.total * finite[0] / self.tallies[0].clamp(min=1)
        self.tallies = finite

    def compute(self) -> list[MagnitudeNumbers]:
        """One row of numbers a tensor; ``steps`` counts finite and non-finite ones; NaN where no step was finite."""
        self._take_in()
        finite, broken = self.tallies.tolist()
        return [
            {
                "mean_abs": total / n if n else math.nan,
                "max_abs": maximum if n else math.nan,
                "nonfinite": bad,
                "steps": n + bad,
                "first_nonfinite_iteration": first if first < _NEVER else None,
            }
            for total, maximum, n, bad, first in zip(
                self.total.tolist(), self.maximum.tolist(), finite, broken, self.first_nonfinite.tolist(), strict=True
            )
        ]

    def state_dict(self) -> dict[str, Any]:
        """The state as tensors (copies on the CPU) and plain numbers."""
        self._take_in()
        return super().state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` returned; what was there before is dropped."""
        self._waiting.clear()
        self._arrays = None
        super().load_state_dict(state)
        self.rows = len(self.total)

    def _take_in(self) -> None:
        """Adds the waiting steps to the state."""
        if not self._waiting:
            return
        means = torch.stack([mean for mean, _, _ in self._waiting])  # (steps, rows)
        maxima = torch.stack([peak for _, peak, _ in self._waiting])
        iterations = on_device([[number] for _, _, number in self._waiting], means.device)
        self._waiting.clear()
        self._arrays = None
        present = ~(means < 0)
        finite = present & torch.isfinite(means) & torch.isfinite(maxima)
        broken = present & ~finite
        self._add(torch.where(finite, means, 0.0), torch.where(finite, maxima, 0.0), finite, broken)
        self.tallies = self.tallies + torch.stack([finite.sum(0), broken.sum(0)])
        self.first_nonfinite = torch.minimum(self.first_nonfinite, torch.where(broken, iterations, _NEVER).amin(0))

    def _add(self, means: Tensor, maxima: Tensor, finite: Tensor, broken: Tensor) -> None:
        """Adds steps to sums and maxima; all are ``(steps, rows)``, values of steps that are not finite are 0."""
        self.total = self.total + means.sum(0, dtype=self.total.dtype)
        self.maximum = torch.maximum(self.maximum, maxima.amax(0))


def magnitude(tensors: Sequence[Tensor | None], sizes: Tensor, scratch: Tensor) -> tuple[Tensor, Tensor]:
    """mean(\\|x\\|) and max(\\|x\\|) of each tensor, without leaving the device.

    Complex numbers count with their modulus; of a sparse tensor the entries that are not stored are zeros.

    Args:
        tensors: at least one that is not None.
        sizes: number of elements of each, ``(len(tensors),)``, on the device of the result.
        scratch: float32, one dimension: on the CPU absolute values are written here, a piece of a tensor at a time, and
            read again while they are in the cache.

    Returns:
        Two tensors ``(len(tensors),)``, negative for None and for tensors without elements.
    """
    wide = torch.float64 if any(x is not None and x.dtype in _DOUBLES for x in tensors) else torch.float32
    absent = torch.full((), ABSENT, dtype=wide, device=sizes.device)
    numbers = [(absent, absent)] * len(tensors)
    others: dict[int, Tensor] = {}
    for place, tensor in enumerate(tensors):
        if tensor is not None and tensor.layout != torch.strided:
            tensor = tensor.coalesce().values() if tensor.layout == torch.sparse_coo else tensor.values()
            tensor = tensor if tensor.numel() else tensor.new_zeros(1)
        if tensor is None or tensor.numel() == 0:
            continue
        if kernels.on_host(tensor) and _fits(tensor, scratch):
            numbers[place] = _by_pieces(tensor.view(-1), scratch)
        else:
            others[place] = tensor
    for place, pair in zip(others, totals_and_maxima(list(others.values())), strict=True):
        numbers[place] = pair
    totals, maxima = (stacked(column, sizes.device) for column in zip(*numbers, strict=True))
    return totals / sizes, maxima


def totals_and_maxima(tensors: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """sum(\\|x\\|) and max(\\|x\\|) of each tensor as ``()``, NaN if there is one among the values.

    Those of one type on a GPU are read together, in two operations that add in float64 without a copy in it.

    Args:
        tensors: dense, with at least one element.
    """
    numbers: dict[int, tuple[Tensor, Tensor]] = {}
    together: dict[tuple[torch.device, torch.dtype], dict[int, Tensor]] = {}
    for place, tensor in enumerate(tensors):
        values = widened(tensor.detach() if tensor.requires_grad else tensor)
        if kernels.on_host(values) or type(values) not in _PLAIN or values.is_complex():
            absolute = values.abs()
            numbers[place] = absolute.sum(dtype=accumulator_dtype(values.device)), absolute.amax()
        else:
            together.setdefault((values.device, values.dtype), {})[place] = values
    for (device, _), alike in together.items():
        found = [norm_of_each(list(alike.values()), order, accumulator_dtype(device)) for order in (1.0, math.inf)]
        numbers |= zip(alike, zip(*found, strict=True), strict=True)
    return [numbers[place] for place in range(len(tensors))]


def _fits(tensor: Tensor, scratch: Tensor) -> bool:
    return tensor.dtype == scratch.dtype and tensor.is_contiguous() and tensor.device == scratch.device


def _by_pieces(values: Tensor, scratch: Tensor) -> tuple[Tensor, Tensor]:
    """Sum and maximum of the absolute values of a tensor ``(n,)`` on the CPU."""
    size = scratch.numel()
    if values.numel() <= size:
        absolute = torch.abs(values, out=scratch[: values.numel()])
        return _sum(absolute), absolute.amax()
    totals, maxima = zip(*(_by_pieces(piece, scratch) for piece in values.split(size)), strict=True)
    return torch.stack(totals).sum(dtype=accumulator_dtype(values.device)), torch.stack(maxima).amax()


def _sum(values: Tensor) -> Tensor:
    """The sum of float32 values on the CPU; in float64, which is slow there, only if float32 cannot hold it."""
    total = values.sum()
    return total if math.isfinite(total.numpy()) else values.sum(dtype=accumulator_dtype(values.device))


def stacked(numbers: Sequence[Tensor], device: torch.device) -> Tensor:
    """Numbers of any type and device as one tensor, of the widest type."""
    numbers = [number if number.device == device else number.to(device) for number in numbers]
    wide = functools.reduce(torch.promote_types, {number.dtype for number in numbers})
    return torch.stack([number if number.dtype == wide else number.to(wide) for number in numbers])


def widened(values: Tensor) -> Tensor:
    """Floating-point numbers of 8 bits as float32, since torch computes little with them; others as they are."""
    return values.float() if values.is_floating_point() and values.dtype.itemsize == 1 else values


def largest(values: Tensor) -> Tensor:
    """max(\\|x\\|) as ``()``, NaN if there is one among the values.

    Args:
        values: of any shape, at least one.
    """
    values = widened(values.detach())
    if values.is_complex():
        return values.abs().amax()
    low, high = torch.aminmax(values)
    return torch.maximum(-low, high)


def change(before: Tensor, after: Tensor, along: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """mean(\\|after - before\\|), mean(\\|before\\|) and the sum of (after - before) * along, each ``()``.

    Args:
        before, after: of the same shape, at least one element.
        along: of the same shape; None, or a layout other than strided, for 0.
    """
    if along is None or along.layout != torch.strided or along.is_complex():
        along = torch.zeros((), dtype=before.dtype, device=before.device).expand_as(before)
    together = (before, after, along)
    if all(kernels.fit(tensor) and tensor.is_contiguous() for tensor in together):
        loops = kernels.compiled()
        if loops is not None:
            sums = np.zeros(3)
            a, b, c = map(kernels.in_memory_order, together)
            loops.add_change(a, b, c, sums)
            moved, size, product = (torch.tensor(value) for value in sums)
            return moved / before.numel(), size / before.numel(), product
    before, after, along = map(widened, together)
    moved = after - before
    return moved.abs().mean(), before.abs().mean(), (moved * along).sum().real
