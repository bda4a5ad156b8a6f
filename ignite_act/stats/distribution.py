"""The distribution of a stream of numbers: moments, extremes, zeros, saturation, histogram."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypedDict

import torch
from torch import Tensor

from ignite_act.activations import Interval
from ignite_act.stats import kernels
from ignite_act.stats.base import Statistic, accumulator_dtype, on_device
from ignite_act.stats.histogram import PIECE, FloatHistogram

_SAMPLE = 4096
"""Values whose mean the sums are kept about."""


class DistributionNumbers(TypedDict):
    """What `Distribution.compute` returns: plain numbers."""

    count: int
    mean: float
    std: float
    min: float
    max: float
    zero_fraction: float
    saturated_fraction: float
    nonfinite: int
    edges: list[float]
    counts: list[int]


class Distribution(Statistic):
    """Count, mean, population standard deviation, extremes, shares of zeros and of saturated values, histogram.

    Sums are kept in float64 about the mean of the first values, so that a mean of 1e4 with a deviation of 1 loses
    nothing. NaN and infinite values are counted and kept out of everything else but the shares, whose denominator is
    the count of all values.

    Args:
        dtype: type of the values; all but float64 are measured as float32.
        device: where the state lives.
    """

    _state = ("count", "shift", "sums", "extremes", "tallies")

    def __init__(self, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> None:
        device = torch.device(device)
        wide = accumulator_dtype(device)
        self.dtype = torch.float64 if dtype == torch.float64 and wide == torch.float64 else torch.float32
        top = torch.finfo(self.dtype).max
        with torch.inference_mode(False):
            self.histogram = FloatHistogram(self.dtype, device)
            self.count = 0
            self.shift = torch.zeros((), dtype=wide, device=device)
            self.sums = torch.zeros(2, dtype=wide, device=device)  # of the finite values and their squares, about shift
            self.extremes = on_device([top, -top], device, self.dtype)
            self.tallies = torch.zeros(2, dtype=torch.int64, device=device)  # values other than zero, saturated ones

    def update(self, values: Tensor, *, saturated: tuple[Tensor, tuple[Interval, ...]] | None = None) -> None:
        """Adds values of any shape.

        Args:
            values: floating-point numbers.
            saturated: the pre-activation and the intervals of it in which the function is saturated.
        """
        if values.numel() == 0:
            return
        flat = flattened(values.detach())
        if self._is_empty():
            self.shift = _finite_mean(flat[:_SAMPLE].to(self.sums.dtype))
        for piece in flat.split(PIECE):
            self._update(piece.to(self.dtype))
        pre_activation, intervals = saturated if saturated is not None else (values, ())
        for interval in intervals:
            self.tallies[1] += count_inside(pre_activation.detach(), interval)
        self.count += values.numel()

    def _is_empty(self) -> bool:
        """Whether there is no finite value yet, as far as that is known without waiting for a device."""
        if self.count == 0 or not self.extremes.is_cpu:
            return self.count == 0
        low, high = self.extremes.numpy()
        return bool(low > high)

    def _update(self, values: Tensor) -> None:
        """Adds at most `PIECE` values ``(n,)`` of the distribution's own type."""
        loops = kernels.compiled() if kernels.fit(values) else None
        if loops is not None:
            state = (self.sums.numpy(), self.extremes.numpy(), self.tallies.numpy(), self.histogram.counts.numpy())
            loops.distribution(values.numpy(), self.shift.numpy().item(), self.histogram.drop, *state)
            return
        # The shift has a dimension, so the difference is of its type, without a copy of the values in it.
        centred = torch.sub(values, self.shift.reshape(1)).nan_to_num_(0.0, 0.0, 0.0)
        self.sums += torch.stack([centred.sum(), torch.dot(centred, centred)])
        top = torch.finfo(self.dtype).max
        finite = torch.nan_to_num(values, top, top, top)
        low = finite.amin()
        high = torch.nan_to_num(values, -top, -top, -top, out=finite).amax()
        self.extremes = torch.stack([torch.minimum(self.extremes[0], low), torch.maximum(self.extremes[1], high)])
        self.tallies[0] += torch.linalg.vector_norm(values, 0).long()  # a float32 counts a piece exactly
        self.histogram.update(values)

    def merge(self, other: Distribution) -> None:
        """Takes in the stream that another distribution has seen (Chan, Golub and LeVeque 1979).

        Raises:
            ValueError: if the other one measures values of another type.
        """
        device = self.sums.device
        finite = other.count - other.histogram.nonfinite.to(device)
        self.histogram.merge(other.histogram)
        if other.count == 0:
            return
        if self.count == 0:
            self.shift = other.shift.to(device)
        total, squares = other.sums.to(device)
        step = other.shift.to(device) - self.shift
        moved = torch.stack([total + finite * step, squares + 2 * step * total + finite * step * step])
        self.sums = self.sums + moved
        low, high = other.extremes.to(device)
        self.extremes = torch.stack([torch.minimum(self.extremes[0], low), torch.maximum(self.extremes[1], high)])
        self.tallies = self.tallies + other.tallies.to(device)
        self.count += other.count

    def compute(self) -> DistributionNumbers:
        """The numbers so far; NaN where there is no finite value."""
        nonfinite = int(self.histogram.nonfinite)
        finite = self.count - nonfinite
        total, squares = self.sums.tolist()
        low, high = self.extremes.tolist()
        nonzero, saturated = self.tallies.tolist()
        if finite:
            offset = total / finite
            mean = float(self.shift) + offset
            std = 0.0 if low == high else math.sqrt(max(squares / finite - offset * offset, 0.0))
        else:
            mean = std = low = high = math.nan
        edges, counts = self.histogram.compute(low, high)
        return {
            "count": self.count,
            "mean": mean,
            "std": std,
            "min": low,
            "max": high,
            "zero_fraction": (self.count - nonzero) / self.count if self.count else math.nan,
            "saturated_fraction": saturated / self.count if self.count else math.nan,
            "nonfinite": nonfinite,
            "edges": edges,
            "counts": counts,
        }

    def state_dict(self) -> dict[str, Any]:
        """The state as tensors (copies on the CPU) and plain numbers."""
        return {**super().state_dict(), "double": self.dtype == torch.float64, **self.histogram.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` of a distribution of the same type returned."""
        super().load_state_dict(state)
        self.histogram.load_state_dict(state)

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Distribution:
        """A distribution on the CPU with the given state."""
        distribution = cls(torch.float64 if state["double"] else torch.float32)
        distribution.load_state_dict(state)
        return distribution


def flattened(values: Tensor) -> Tensor:
    """The values as ``(n,)``, a view where there are no gaps between them, be the channels last."""
    axes = sorted(range(values.ndim), key=values.stride, reverse=True)
    return values.permute(axes).reshape(-1).contiguous()


def count_inside(values: Tensor, interval: Interval) -> int | Tensor:
    """How many values lie in a closed interval: a number, or ``()``, int64."""
    loops = kernels.compiled() if kernels.fit(values) else None
    if loops is not None:
        return loops.count_inside(kernels.in_memory_order(values), *interval)
    return inside_interval(values, interval).sum()


def inside_interval(values: Tensor, interval: Interval) -> Tensor:
    """Whether each value lies in a closed interval; NaN lies in none."""
    low, high = interval
    if low == -math.inf:
        return values <= high
    if high == math.inf:
        return values >= low
    return (values >= low) & (values <= high)


def _finite_mean(values: Tensor) -> Tensor:
    """Mean of the finite values, 0 if there are none: ``()``."""
    finite = torch.isfinite(values)
    return torch.nan_to_num(values, 0.0, 0.0, 0.0).sum() / finite.sum().clamp(min=1)
