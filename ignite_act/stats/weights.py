"""What can be said of one weight: which of its rows are equal, and whether it has changed."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from ignite_act.stats.magnitude import largest

_CLOSE = 1e-5
"""Rows are equal if their sums differ by less than this share of the largest."""
_MOST_ROWS = 1024
_WHOLE = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def equal_rows(weight: Tensor) -> Tensor:
    """Share of the rows (units, output channels) that equal another one but for rounding; 0 for a single row.

    Rows that are equal have equal sums of any kind, and rows that are not differ in one of three sums with any weights:
    the rows are never compared themselves.

    Args:
        weight: ``(units, ...)``; of a large one only the first rows are looked at.

    Returns:
        ``()``; 0 if there is a NaN or an infinity.
    """
    rows = weight.detach()[:_MOST_ROWS]
    rows = (torch.view_as_real(rows) if rows.is_complex() else rows).flatten(1).float()
    if len(rows) < 2:
        return torch.zeros((), device=weight.device)
    sums = rows @ _probes(rows.shape[1], rows.device)
    size = sums.abs().amax().clamp(min=torch.finfo(torch.float32).tiny)
    ordered = sums[sums[:, 0].argsort()]
    same = ((ordered[1:] - ordered[:-1]).abs() <= _CLOSE * size).all(1)
    never = same.new_zeros(1)
    equal = (torch.cat([same, never]) | torch.cat([never, same])).float().mean()
    return torch.where(torch.isfinite(size), equal, 0.0)


@functools.lru_cache(maxsize=64)
def _probes(length: int, device: torch.device) -> Tensor:
    """Three fixed vectors of random numbers, ``(length, 3)``; torch's random state stays as it is."""
    return torch.randn(length, 3, generator=torch.Generator().manual_seed(length)).to(device, non_blocking=True)


def fingerprint(weight: Tensor) -> Tensor:
    """A number that changes when any value changes: the sum of all values' bits, as ``()``, int64.

    Changes of several values could cancel exactly; with real updates they do not.

    Args:
        weight: of any shape and type.
    """
    values = weight.detach()
    values = torch.view_as_real(values) if values.is_complex() else values
    return values.view(_WHOLE[values.element_size()]).sum(dtype=torch.int64)


def peaks(tensors: Sequence[Tensor]) -> Tensor:
    """The largest absolute value of each tensor, ``(len(tensors),)``, float32; 0 for one without elements."""
    device = tensors[0].device
    return torch.stack([_peak(tensor).to(device, torch.float32, non_blocking=True) for tensor in tensors])


def _peak(tensor: Tensor) -> Tensor:
    if tensor.layout != torch.strided:
        tensor = tensor.coalesce().values() if tensor.layout == torch.sparse_coo else tensor.values()
    return largest(tensor) if tensor.numel() else torch.zeros((), device=tensor.device)
