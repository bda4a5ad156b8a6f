"""Extremes per unit: all that exact dead-unit counts need."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ignite_act.activations import Intervals
from ignite_act.stats.base import Statistic
from ignite_act.stats.distribution import inside_interval


class UnitLife(Statistic):
    """Which units have been off the flat pieces of their function at least once.

    Two running extremes per unit say it. ``peak`` is the largest value of a score that is positive exactly off the
    flat pieces; where the function is not known, ``peak`` and ``trough`` are the largest and the smallest output, and
    differ as soon as the output is not constant. Extremes are idempotent and merge exactly, so the answer is right
    for any split of the stream. NaN wins over every number: a unit that has produced NaN counts as alive.

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
        if flat is None:
            self.known = False
            self.peak = torch.maximum(self.peak, _reduce(torch.amax, values, unit_dim))
            self.trough = torch.minimum(self.trough, _reduce(torch.amin, values, unit_dim))
        elif not flat:
            self.never_flat = True
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


def outside_flat(values: Tensor, flat: Intervals) -> Tensor:
    """A score of the same shape and type that is positive (or NaN) exactly where a value lies off the flat pieces.

    For one piece that reaches down from ``a`` the score is ``value - a``, which costs nothing for ``a = 0``; the
    difference of two floating-point numbers is zero only if they are equal, so its sign is exact.
    """
    if len(flat) == 1 and flat[0][0] == -math.inf:
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
    if unit == 1:  # channels: the positions first, where the memory is contiguous
        return (
            extreme(extreme(values.flatten(2), 2), 0)
            if values.is_contiguous()
            else extreme(values, [0, *range(2, values.ndim)])
        )
    return extreme(values, [axis for axis in range(values.ndim) if axis != unit])
