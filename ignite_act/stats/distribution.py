"""The distribution of a stream of numbers: moments, extremes, zeros, saturation, histogram."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypedDict

import torch
from torch import Tensor

from ignite_act.activations import Interval
from ignite_act.stats.base import Statistic, accumulator_dtype
from ignite_act.stats.histogram import FloatHistogram


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

    Sums are kept in float64 about the mean of the first batch, so that a mean of 1e4 with a deviation of 1 loses
    nothing. NaN and infinite values are counted and kept out of everything else but the shares, whose denominator is
    the count of all values.

    Args:
        dtype: type of the values; all but float64 are measured as float32.
        device: where the state lives.
    """

    _state = ("count", "shift", "sums", "low", "high", "tallies")

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
            self.low = torch.full((), top, dtype=self.dtype, device=device)
            self.high = torch.full((), -top, dtype=self.dtype, device=device)
            self.tallies = torch.zeros(2, dtype=torch.int64, device=device)  # values other than zero, saturated ones

    def update(self, values: Tensor, *, saturated: tuple[Tensor, tuple[Interval, ...]] | None = None) -> None:
        """Adds values of any shape.

        Args:
            values: floating-point numbers.
            saturated: the pre-activation and the intervals of it in which the function is saturated.
        """
        if values.numel() == 0:
            return
        values = values.detach().to(self.dtype)
        centred = values.to(self.sums.dtype, copy=True)
        if self.count == 0:
            self.shift = _finite_mean(centred)
        centred = centred.sub_(self.shift).nan_to_num_(0.0, 0.0, 0.0).reshape(-1)
        self.sums = self.sums + torch.stack([centred.sum(), torch.dot(centred, centred)])

        top = torch.finfo(self.dtype).max
        finite = torch.nan_to_num(values, top, top, top)
        self.low = torch.minimum(self.low, finite.amin())
        finite = torch.nan_to_num(values, -top, -top, -top, out=finite)
        self.high = torch.maximum(self.high, finite.amax())
        nonzero = finite.sign_().abs_().sum(dtype=self.sums.dtype).long()
        inside = torch.zeros_like(nonzero)
        if saturated is not None:
            inside = sum((count_inside(saturated[0].detach(), interval) for interval in saturated[1]), inside)
        self.tallies = self.tallies + torch.stack([nonzero, inside])
        self.histogram.update(values)
        self.count += values.numel()

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
        self.low = torch.minimum(self.low, other.low.to(device))
        self.high = torch.maximum(self.high, other.high.to(device))
        self.tallies = self.tallies + other.tallies.to(device)
        self.count += other.count

    def compute(self) -> DistributionNumbers:
        """The numbers so far; NaN where there is no finite value."""
        nonfinite = int(self.histogram.nonfinite)
        finite = self.count - nonfinite
        total, squares = self.sums.tolist()
        low, high = float(self.low), float(self.high)
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


def count_inside(values: Tensor, interval: Interval) -> Tensor:
    """How many values lie in a closed interval: ``()``, int64."""
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
