"""A histogram over the bits of floating-point numbers: no range to choose, nothing clipped away."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ignite_act.stats import kernels
from ignite_act.stats.base import Statistic

MANTISSA_BITS = 5
"""Bins per octave: 2**5, so a bin is at most 1/32 of its magnitude wide."""

PIECE = 1 << 24
"""Values that are read at once: int32 and float32 count them exactly, and their places fill 128 MB, not gigabytes."""

_SLOTS = 1 << 20
"""Counters on a GPU, which hold every bin several times: 4 MB."""


@dataclass(frozen=True)
class _Layout:
    """How one floating-point type is cut into bins: ``integer`` bits shifted right by ``shift``."""

    integer: torch.dtype
    shift: int
    half: int  # bins of one sign

    @classmethod
    def of(cls, integer: torch.dtype, exponent_bits: int, mantissa_bits: int) -> _Layout:
        return cls(integer, mantissa_bits - MANTISSA_BITS, 1 << (exponent_bits + MANTISSA_BITS))


_LAYOUTS = {
    torch.float32: _Layout.of(torch.int32, exponent_bits=8, mantissa_bits=23),
    torch.float64: _Layout.of(torch.int64, exponent_bits=11, mantissa_bits=52),
}


class FloatHistogram(Statistic):
    """Counts of values by sign, exponent and the top five bits of the mantissa.

    The bins are those of the number format itself: they cover every finite value, are at most 3.2 % of their
    magnitude wide, and are the same for every stream, so histograms merge exactly over steps, epochs and processes.
    NaN and infinities have bins of their own and are reported as `nonfinite`. Half precision counts as float32.

    Args:
        dtype: ``torch.float32`` or ``torch.float64``: the type of the values.
        device: where the counts live.
    """

    _state = ("counts",)

    def __init__(self, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> None:
        self._dtype = dtype
        self._layout = _LAYOUTS[dtype]
        with torch.inference_mode(False):
            self.counts = torch.zeros(2 * self._layout.half, dtype=torch.int64, device=device)
            self._one = torch.ones(1, dtype=torch.int64, device=device)
            # Where the code 0 is counted in each copy of the bins.
            self._zeros = torch.arange(self._layout.half, _SLOTS, 2 * self._layout.half, device=device)

    def update(self, values: Tensor) -> None:
        """Adds values of any shape, in the histogram's own floating-point type."""
        layout = self._layout
        for piece in values.reshape(-1).split(PIECE):
            codes = piece.view(layout.integer) >> layout.shift
            if kernels.on_host(piece):
                self.counts.scatter_add_(0, codes.long().add_(layout.half), self._one.expand(codes.numel()))
            else:
                self.counts += self._counted_apart(codes)

    def _counted_apart(self, codes: Tensor) -> Tensor:
        """How often each code occurs, ``(bins,)``, as a GPU counts quickly: neighbours never at the same address.

        It adds to one address at a time, and half of what a ReLU puts out is one number.
        """
        bins, copies = self.counts.numel(), len(self._zeros)
        whole = codes.numel() // copies * copies
        slots, one = codes.new_zeros(copies * bins), codes.new_ones(1)
        for part in (codes[:whole].view(-1, copies), codes[whole:].unsqueeze(0)):
            if part.numel():
                places = (part + self._zeros[: part.shape[1]]).view(-1)
                slots.scatter_add_(0, places, one.expand(places.numel()))
        return slots.view(copies, bins).sum(0, dtype=slots.dtype)

    @property
    def drop(self) -> int:
        """How many low bits of the mantissa the bins leave out: a value's bin is ``bits >> drop``."""
        return self._layout.shift

    def merge(self, other: FloatHistogram) -> None:
        """Adds the counts of another histogram of the same type.

        Raises:
            ValueError: if the other one is of another floating-point type.
        """
        if other._dtype != self._dtype:
            raise ValueError(f"cannot merge a histogram of {other._dtype} into one of {self._dtype}")
        self.counts += other.counts.to(self.counts.device)

    def compute(self, minimum: float = -math.inf, maximum: float = math.inf) -> tuple[list[float], list[int]]:
        """Edges (B + 1, increasing) and counts (B) from the lowest to the highest occupied bin.

        Neighbouring empty bins are joined into one. A bin of positive values holds its lower edge, a bin of negative
        values its upper edge.

        Args:
            minimum: the smallest value if it is known: it is the first edge if it lies inside the first bin.
            maximum: the largest value if it is known: it is the last edge if it lies inside the last bin.

        Returns:
            ``([], [])`` if there is no finite value.
        """
        counts = self._ascending()
        occupied = torch.nonzero(counts).flatten()
        if not len(occupied):
            return [], []
        first, last = int(occupied[0]), int(occupied[-1])
        counts = counts[first : last + 1]
        begins = counts > 0  # a bin begins where there are counts, and where a run of empty ones begins
        begins[1:] |= counts[:-1] > 0
        bounds = _bounds(self._dtype)[first : last + 2]
        edges = [edge + 0.0 for edge in (*bounds[:-1][begins].tolist(), float(bounds[-1]))]  # no -0.0
        if edges[0] < minimum < edges[1]:
            edges[0] = minimum
        if edges[-2] < maximum < edges[-1]:
            edges[-1] = maximum
        return edges, counts[begins].tolist()

    @property
    def nonfinite(self) -> Tensor:
        """How many values were NaN or infinite: ``()``, int64, on the histogram's device."""
        half, bins = self._layout.half, 1 << MANTISSA_BITS
        return self.counts[half - bins : half].sum() + self.counts[2 * half - bins :].sum()

    def _ascending(self) -> Tensor:
        """Counts of the finite bins in the order of their values."""
        half, finite = self._layout.half, self._layout.half - (1 << MANTISSA_BITS)
        counts = self.counts.cpu()
        # Two's complement: the negative floats come first, ordered by magnitude.
        return torch.cat([counts[:finite].flip(0), counts[half : half + finite]])


@functools.lru_cache
def _bounds(dtype: torch.dtype) -> Tensor:
    """The edges of the finite bins in the order of their values."""
    layout = _LAYOUTS[dtype]
    finite = layout.half - (1 << MANTISSA_BITS)
    codes = torch.arange(finite + 1, dtype=layout.integer) << layout.shift
    positive = codes.view(dtype)
    positive[-1] = torch.finfo(dtype).max
    return torch.cat([-positive.flip(0), positive[1:]])
