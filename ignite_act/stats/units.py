"""Numbers per unit: extremes, which is all that exact dead-unit counts need, and how often a unit was saturated."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ignite_act.activations import Intervals
from ignite_act.stats import kernels
from ignite_act.stats.base import Statistic
from ignite_act.stats.distribution import inside_interval


class UnitLife(Statistic):
    """Which units have been off the flat pieces of their function at least once.

    Two running extremes per unit say it. ``peak`` is positive once a value has been off the flat pieces; where the
    function is not known, ``peak`` and ``trough`` are a large and a small output, and differ once the output has not
    been constant. Extremes are idempotent and merge exactly, so the answer is right for any split of the stream. A
    unit that has produced NaN counts as alive.

    Args:
        units: number of units.
        dtype: type of the values.
        device: where the state lives.
    """

    _state = ("units", "peak", "trough", "known", "never_flat")

    def __init__(self, units: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> None:
        self.units = units
        self.known = True
        self.never_flat = False
        self.complete = False
        """Whether no unit is left that may be dead: then there is nothing more to see."""
        with torch.inference_mode(False):
            self.peak = torch.full((units,), -math.inf, dtype=dtype, device=device)
            self.trough = torch.full((units,), math.inf, dtype=dtype, device=device)

    def update(self, values: Tensor, flat: Intervals | None, unit_dim: int) -> None:
        """Adds a batch.

        Args:
            values: numbers of any shape that lie in ``flat`` exactly where the derivative is zero; the outputs where
                ``flat`` is None.
            flat: closed intervals; ``()`` for a function without flat pieces, whose units are never dead; None for a
                function that is not known.
            unit_dim: axis of the units.
        """
        if values.numel() == 0:
            return
        if self.complete and values.ndim and values.shape[unit_dim] == self.units:
            return
        if flat is None:
            self.known = False
        elif not flat:
            self.never_flat = self.complete = True
            return
        loops = kernels.compiled() if kernels.fit(values) and kernels.fit(self.peak) else None
        if loops is None:
            self._update(values, flat, unit_dim)
            return
        numbers = kernels.by_unit(values, unit_dim)
        if numbers.shape[1] != self.units:
            raise ValueError(f"a statistic of {self.units} units was given {numbers.shape[1]}")
        if flat is None:
            loops.mark_varying(numbers, self.peak.numpy(), self.trough.numpy())
        else:
            self.complete = loops.mark_off_flat(numbers, _as_array(flat), self.peak.numpy()) == 0

    def _update(self, values: Tensor, flat: Intervals | None, unit_dim: int) -> None:
        if flat is None:
            self.peak = torch.maximum(self.peak, _reduce(torch.amax, values, unit_dim))
            self.trough = torch.minimum(self.trough, _reduce(torch.amin, values, unit_dim))
        else:
            score = outside_flat(values, flat)
            self.peak = torch.maximum(self.peak, _reduce(torch.amax, score, unit_dim))

    def merge(self, other: UnitLife) -> None:
        """Takes in the stream that another statistic of the same units has seen."""
        self.known = self.known and other.known
        self.never_flat = self.never_flat or other.never_flat
        self.peak = torch.maximum(self.peak, other.peak.to(self.peak.device))
        self.trough = torch.minimum(self.trough, other.trough.to(self.trough.device))

    def compute(self) -> list[int]:
        """The indices of the dead units, ascending."""
        if self.never_flat:
            return []
        dead = self.peak <= 0 if self.known else self.peak == self.trough
        return torch.nonzero(dead.cpu()).flatten().tolist()

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> UnitLife:
        """A statistic on the CPU with the given state."""
        life = cls(state["units"], state["peak"].dtype)
        life.load_state_dict(state)
        return life


class SaturatedUnits(Statistic):
    """How many samples of each unit were saturated.

    Args:
        units: number of units.
        device: where the state lives.
    """

    _state = ("units", "samples", "counts", "both_ends")

    def __init__(self, units: int, device: torch.device | str = "cpu") -> None:
        self.units = units
        self.samples = 0
        self.both_ends = False
        """Whether the function is saturated at both ends of its axis, as sigmoid and tanh are."""
        with torch.inference_mode(False):
            self.counts = torch.zeros(units, dtype=torch.int64, device=device)

    def update(self, values: Tensor, intervals: Intervals, unit_dim: int) -> None:
        """Adds a batch of pre-activations; a position of a feature map is a sample.

        Args:
            values: of any shape.
            intervals: disjoint, closed, in which the function is saturated.
            unit_dim: axis of the units.

        Raises:
            ValueError: if they are another number of units.
        """
        if values.numel() == 0:
            return
        units = values.shape[unit_dim] if values.ndim else 1
        if units != self.units:
            raise ValueError(f"a statistic of {self.units} units was given {units}")
        samples = values.numel() // units
        self.samples += samples
        ends = {end for interval in intervals for end in interval}
        self.both_ends = -math.inf in ends and math.inf in ends
        loops = kernels.compiled() if kernels.fit(values) else None
        if loops is not None:
            for interval in intervals:
                loops.count_inside_units(kernels.by_unit(values, unit_dim), *interval, self.counts.numpy())
        elif intervals:
            inside = functools.reduce(torch.logical_or, (inside_interval(values.detach(), own) for own in intervals))
            axes = [axis for axis in range(values.ndim) if axis != unit_dim % values.ndim]
            self.counts = self.counts + (inside.sum(axes) if axes else inside.reshape(-1))

    def merge(self, other: SaturatedUnits) -> None:
        """Takes in the samples that another statistic of the same units has seen."""
        self.samples += other.samples
        self.counts = self.counts + other.counts.to(self.counts.device)
        self.both_ends = self.both_ends or other.both_ends

    def compute(self) -> int:
        """How many units were saturated on more than 99 % of the samples."""
        return int((self.counts * 100 > 99 * self.samples).sum()) if self.samples else 0

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> SaturatedUnits:
        """A statistic on the CPU with the given state."""
        saturated = cls(state["units"])
        saturated.load_state_dict(state)
        return saturated


@functools.lru_cache
def _as_array(flat: Intervals) -> kernels.Floats:
    return np.array(flat, np.float32)


def outside_flat(values: Tensor, flat: Intervals) -> Tensor:
    """A score of the same shape and type that is positive (or NaN) exactly where a value lies off the flat pieces.

    For one piece that reaches down from ``a`` the score is ``value - a``, which costs nothing for ``a = 0``; the
    difference of two floating-point numbers is zero only if they are equal, so its sign is exact.
    """
    if len(flat) == 1 and flat[0][0] == -math.inf and flat[0][1] < math.inf:
        return values if flat[0][1] == 0 else values - flat[0][1]
    outside = torch.ones_like(values, dtype=torch.bool)
    for interval in flat:
        outside = outside & ~inside_interval(values, interval)
    return outside.to(values.dtype)


def _reduce(extreme: Callable[..., Tensor], values: Tensor, unit_dim: int) -> Tensor:
    """An extreme over every dimension but ``unit_dim``: ``(units,)``."""
    if values.ndim < 2:
        return values.reshape(-1)
    unit = unit_dim % values.ndim
    if unit == values.ndim - 1:
        if values.ndim == 2:
            return extreme(values, 0)
        return extreme(values.reshape(-1, values.shape[-1]), 0)
    if unit == 1 and values.is_contiguous() and kernels.on_host(values):  # channels: the positions first
        return extreme(extreme(values.flatten(2), 2), 0)
    return extreme(values, [axis for axis in range(values.ndim) if axis != unit])
