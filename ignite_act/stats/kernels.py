"""Loops that read float32 numbers on the CPU once, compiled by numba where it is installed (the extra ``fast``).

PyTorch's operations compute the same: each of them passes over the numbers again and writes what the next one reads,
which is what watching costs on a CPU. The functions are plain Python, so that tests can run them as they stand.

Numba makes 64 bits of the result of every operation on 32-bit integers, which the processor computes more slowly, so
each result is cast back.
"""

from __future__ import annotations

import functools
import importlib
import logging
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

logger = logging.getLogger(__name__)

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Counts = NDArray[np.int64]
_BLOCK = 4096  # values: they stay in the first-level cache while they are read several times


class Kernels(NamedTuple):
    """The compiled loops."""

    add_magnitude: Callable[[Floats, int, int, Doubles, Doubles, NDArray[np.int64], Counts], None]
    add_change: Callable[[Floats, Floats, Floats, Doubles], None]
    distribution: Callable[[Floats, float, int, Doubles, Floats, Counts, Counts], None]
    count_inside: Callable[[Floats, float, float], int]
    count_inside_units: Callable[[Floats, float, float, Counts], None]
    mark_off_flat: Callable[[Floats, Floats, Floats], int]
    mark_varying: Callable[[Floats, Floats, Floats], None]


@functools.cache
def compiled() -> Kernels | None:
    """The loops, or None where numba is missing or does not work."""
    try:
        numba: Any = importlib.import_module("numba")
        if numba.config.DISABLE_JIT:
            return None  # the loops would run as plain Python

        def compile_(loop: Callable[..., Any], *signature: str) -> Any:
            # The order of a sum may change (as in torch.sum); what is NaN or infinite may not.
            options = {"nogil": True, "cache": True, "fastmath": {"reassoc", "nsz", "contract"}}
            return numba.njit(list(signature), **options)(loop)

        return Kernels(
            compile_(add_magnitude, "(f4[::1], i8, i8, f8[::1], f8[::1], i8[:,::1], i8[::1])"),
            compile_(add_change, "(f4[::1], f4[::1], f4[::1], f8[::1])"),
            compile_(distribution, "(f4[::1], f8, i8, f8[::1], f4[::1], i8[::1], i8[::1])"),
            compile_(count_inside, "(f4[::1], f4, f4)"),
            compile_(count_inside_units, "(f4[:,:,::1], f4, f4, i8[::1])"),
            compile_(mark_off_flat, "(f4[:,:,::1], f4[:,::1], f4[::1])"),
            compile_(mark_varying, "(f4[:,:,::1], f4[::1], f4[::1])"),
        )
    except ImportError:
        return None
    except Exception:  # a numba that does not fit this machine: training never dies of its diagnostics
        logger.warning("numba does not work here; measuring without it is slower, not different", exc_info=True)
        return None


def on_host(tensor: Tensor) -> bool:
    """Whether a tensor is in the CPU's memory. On a GPU every operation is a launch: few are better."""
    return tensor.is_cpu


def fit(tensor: Tensor) -> bool:
    """Whether the loops can read a tensor: float32 on the CPU, strided, no subclass with a life of its own."""
    return (
        tensor.dtype is torch.float32
        and tensor.is_cpu
        and (type(tensor) is Tensor or type(tensor) is nn.Parameter)
        and tensor.layout is torch.strided
        and not tensor.is_neg()
    )


def in_memory_order(tensor: Tensor) -> Floats:
    """The numbers of a tensor in the order in which they lie in memory: ``(n,)``, a view where there are no gaps."""
    return (tensor.detach() if tensor.requires_grad else tensor).numpy().ravel("K")


def by_unit(tensor: Tensor, unit_dim: int) -> Floats:
    """The numbers as ``(before, units, after)``, a view if they lie in memory in that order or with the units last."""
    numbers = tensor.detach().numpy()
    unit = unit_dim % numbers.ndim if numbers.ndim else 0
    if not numbers.flags.c_contiguous:
        numbers, unit = np.moveaxis(numbers, unit, -1), numbers.ndim - 1
    shape = numbers.shape
    return np.ascontiguousarray(numbers.reshape(math.prod(shape[:unit]), shape[unit] if shape else 1, -1))


def add_magnitude(
    x: Floats,
    row: int,
    iteration: int,
    totals: Doubles,
    maxima: Doubles,
    tallies: NDArray[np.int64],
    first_nonfinite: Counts,
) -> None:
    """Adds the mean and the maximum of the absolute values to a row of magnitudes.

    Args:
        x: the values.
        row: which of the rows.
        iteration: number of the step.
        totals: sums over steps of the means, ``(rows,)``; written to.
        maxima: ``(rows,)``; written to.
        tallies: finite and non-finite steps, ``(2, rows)``; written to.
        first_nonfinite: the first iteration with a value that is not finite, ``(rows,)``; written to.
    """
    bits = x.view(np.int32)
    total, top = 0.0, np.zeros(1, np.int32)
    for begin in range(0, x.size, _BLOCK):
        values, codes = x[begin : begin + _BLOCK], bits[begin : begin + _BLOCK]
        part, high = np.float32(0.0), np.int32(0)
        for i in range(values.size):
            part += abs(values[i])
            # Without the sign, floats are ordered as their bits are; NaN comes last.
            high = max(high, np.int32(codes[i] & np.int32(0x7FFFFFFF)))
        if part < np.float32(np.inf):
            total += np.float64(part)
        else:
            for i in range(values.size):
                total += abs(np.float64(values[i]))
        top[0] = max(top[0], high)
    if top[0] < np.int32(0x7F800000):
        totals[row] += total / x.size
        maxima[row] = max(maxima[row], np.float64(top.view(np.float32)[0]))
        tallies[0, row] += 1
    else:
        tallies[1, row] += 1
        first_nonfinite[row] = min(first_nonfinite[row], iteration)


def add_change(before: Floats, after: Floats, along: Floats, sums: Doubles) -> None:
    """Adds up \\|after - before\\|, \\|before\\| and (after - before) * along.

    Args:
        before, after, along: ``(n,)``.
        sums: ``(3,)``, written to.
    """
    for begin in range(0, before.size, _BLOCK):
        a, b, c = before[begin : begin + _BLOCK], after[begin : begin + _BLOCK], along[begin : begin + _BLOCK]
        moved = size = product = np.float32(0)
        for i in range(a.size):
            step = b[i] - a[i]
            moved += abs(step)
            size += abs(a[i])
            product += step * c[i]
        sums[0] += moved
        sums[1] += size
        sums[2] += product


def distribution(
    x: Floats, shift: float, drop: int, sums: Doubles, extremes: Floats, tallies: Counts, counts: Counts
) -> None:
    """Adds the values to the state of a distribution; what is not finite is only counted.

    Args:
        x: the values.
        shift: what is subtracted before summing.
        drop: bits of the mantissa that the histogram ignores.
        sums: of the finite values less the shift, and of their squares; written to.
        extremes: the smallest and the largest finite value; written to.
        tallies: the first one counts the values that are not zero; written to.
        counts: of ``bits >> drop``, the smallest code first; written to.
    """
    bits = x.view(np.int32)
    half = counts.size // 2
    infinity = np.int32(0x7F800000)
    ends = np.zeros(2, np.int32)
    bounds = ends.view(np.float32)
    for begin in range(0, x.size, _BLOCK):
        values, codes = x[begin : begin + _BLOCK], bits[begin : begin + _BLOCK]
        least, most, zeros = np.int32(0x7FFFFFFF), np.int32(-0x80000000), np.int32(0)
        for i in range(codes.size):  # flipped where it is negative, the bits are ordered as the floats are
            code = codes[i]
            key = np.int32(code ^ np.int32(np.int32(code >> np.int32(31)) & np.int32(0x7FFFFFFF)))
            least, most = min(least, key), max(most, key)
            zeros = np.int32(zeros + np.int32(np.int32(code & np.int32(0x7FFFFFFF)) == np.int32(0)))
        tallies[0] += values.size - zeros
        if most < infinity and least > ~infinity:
            total, squares = 0.0, 0.0
            for i in range(values.size):
                centred = np.float64(values[i]) - shift
                total += centred
                squares += centred * centred
            sums[0] += total
            sums[1] += squares
            ends[0] = least ^ ((least >> np.int32(31)) & np.int32(0x7FFFFFFF))
            ends[1] = most ^ ((most >> np.int32(31)) & np.int32(0x7FFFFFFF))
            extremes[0], extremes[1] = min(extremes[0], bounds[0]), max(extremes[1], bounds[1])
        else:
            for i in range(values.size):
                if (codes[i] & infinity) != infinity:
                    centred = np.float64(values[i]) - shift
                    sums[0] += centred
                    sums[1] += centred * centred
                    extremes[0], extremes[1] = min(extremes[0], values[i]), max(extremes[1], values[i])
        for i in range(codes.size):
            counts[(codes[i] >> drop) + half] += 1


def count_inside(x: Floats, low: float, high: float) -> int:
    """How many values lie in a closed interval; NaN lies in none."""
    inside = 0
    for begin in range(0, x.size, _BLOCK):
        values = x[begin : begin + _BLOCK]
        part = np.int32(0)
        for i in range(values.size):
            part = np.int32(part + np.int32((values[i] >= low) & (values[i] <= high)))
        inside += part
    return inside


def count_inside_units(x: Floats, low: float, high: float, counts: Counts) -> None:
    """Adds to each unit's count how many of its values lie in a closed interval; NaN lies in none.

    Args:
        x: ``(before, units, after)``.
        low, high: the interval.
        counts: ``(units,)``, written to.
    """
    for i in range(x.shape[0]):
        if x.shape[2] == 1:
            for unit in range(x.shape[1]):
                counts[unit] += (x[i, unit, 0] >= low) & (x[i, unit, 0] <= high)
            continue
        for unit in range(x.shape[1]):
            part = np.int32(0)
            for j in range(x.shape[2]):
                part = np.int32(part + np.int32((x[i, unit, j] >= low) & (x[i, unit, j] <= high)))
            counts[unit] += part


def mark_off_flat(x: Floats, flats: Floats, peak: Floats) -> int:
    """Sets ``peak`` of a unit to 1 once one of its values lies outside all the intervals; NaN lies outside.

    A unit that is marked already is not read again, so that units that are alive cost nothing.

    Args:
        x: ``(before, units, after)``.
        flats: closed intervals ``(k, 2)``, at least one.
        peak: ``(units,)``, positive or NaN where a unit is marked; written to.

    Returns:
        How many units are not marked yet.
    """
    low, high = flats[0]
    suspects = np.empty(peak.size, np.int64)
    count = 0
    for unit in range(peak.size):
        if peak[unit] <= 0:
            suspects[count] = unit
            count += 1
    for i in range(x.shape[0]):
        kept = 0
        for k in range(count):
            unit = suspects[k]
            alive = False
            for j in range(x.shape[2]):
                value = x[i, unit, j]
                inside = (value >= low) & (value <= high)
                for n in range(1, flats.shape[0]):
                    inside |= (value >= flats[n, 0]) & (value <= flats[n, 1])
                if not inside:
                    alive = True
                    break
            if alive:
                peak[unit] = 1
            else:
                suspects[kept] = unit
                kept += 1
        count = kept
        if count == 0:
            break
    return count


def mark_varying(x: Floats, peak: Floats, trough: Floats) -> None:
    """Makes ``peak`` and ``trough`` of a unit differ once its values do; NaN makes both NaN.

    Args:
        x: ``(before, units, after)``.
        peak: ``(units,)``; ``-inf`` before the first value; written to.
        trough: ``(units,)``; ``inf`` before the first value; written to.
    """
    for unit in range(peak.size):
        empty = trough[unit] > peak[unit]
        if not empty and trough[unit] != peak[unit]:
            continue  # its values differ already
        first = other = x[0, unit, 0] if empty else peak[unit]
        for i in range(x.shape[0]):
            for j in range(x.shape[2]):
                value = x[i, unit, j]
                if value != first:
                    other = value
                    break
            if other != first:
                break
        if first != first or other != other:
            peak[unit] = trough[unit] = np.nan
        else:
            peak[unit], trough[unit] = max(first, other), min(first, other)
