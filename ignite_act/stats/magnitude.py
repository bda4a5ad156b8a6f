"""The mean absolute value of a few tensors over many steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import Tensor

from ignite_act.stats.base import Statistic, accumulator_dtype

ABSENT = -1.0
"""Stands for "no value in this step" where a magnitude, never negative, is expected."""


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
    counted, its iteration kept if it is the first, and left out of both numbers. All state is ``(rows,)``.

    Args:
        rows: number of tensors followed.
        device: where the state lives.
    """

    _state = ("total", "maximum", "tallies", "first_nonfinite")

    def __init__(self, rows: int, device: torch.device | str = "cpu") -> None:
        device = torch.device(device)
        with torch.inference_mode(False):
            self.total = torch.zeros(rows, dtype=accumulator_dtype(device), device=device)
            self.maximum = torch.zeros(rows, dtype=accumulator_dtype(device), device=device)
            self.tallies = torch.zeros(2, rows, dtype=torch.int64, device=device)  # finite, non-finite steps
            self.first_nonfinite = torch.full((rows,), -1, dtype=torch.int64, device=device)

    def update(self, means: Tensor, maxima: Tensor, iteration: int) -> None:
        """Adds one step.

        Args:
            means: mean(\\|x\\|) of each row, ``(rows,)``; `ABSENT` where a row takes no part in this step.
            maxima: max(\\|x\\|) of each row, ``(rows,)``; NaN if there is one among the values.
            iteration: number of the step, kept where the first non-finite value appears.
        """
        present = means != ABSENT
        finite = torch.isfinite(means) & torch.isfinite(maxima)
        broken = present & ~finite
        finite = present & finite
        self.total = self.total + torch.where(finite, means, 0.0)
        self.maximum = torch.maximum(self.maximum, torch.where(finite, maxima, 0.0))
        self.tallies = self.tallies + torch.stack([finite, broken])
        self.first_nonfinite = torch.where(broken & (self.first_nonfinite < 0), iteration, self.first_nonfinite)

    def merge(self, other: Magnitude) -> None:
        """Takes in the steps that another statistic of the same rows has seen."""
        device = self.total.device
        self.total = self.total + other.total.to(device)
        self.maximum = torch.maximum(self.maximum, other.maximum.to(device))
        self.tallies = self.tallies + other.tallies.to(device)
        first = torch.stack([self.first_nonfinite, other.first_nonfinite.to(device)])
        earliest = torch.where(first < 0, torch.iinfo(torch.int64).max, first).amin(0)
        self.first_nonfinite = torch.where((first < 0).all(0), -1, earliest)

    def compute(self) -> list[MagnitudeNumbers]:
        """One row of numbers a tensor; ``steps`` counts finite and non-finite ones; NaN where no step was finite."""
        finite, broken = self.tallies.tolist()
        return [
            {
                "mean_abs": total / n if n else math.nan,
                "max_abs": maximum if n else math.nan,
                "nonfinite": bad,
                "steps": n + bad,
                "first_nonfinite_iteration": first if first >= 0 else None,
            }
            for total, maximum, n, bad, first in zip(
                self.total.tolist(), self.maximum.tolist(), finite, broken, self.first_nonfinite.tolist(), strict=True
            )
        ]


def magnitude(tensors: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
    """mean(\\|x\\|) and max(\\|x\\|) of each tensor, both ``(len(tensors),)``, without leaving the device.

    ``None`` and tensors without elements give `ABSENT`. Complex numbers count with their modulus; of a sparse tensor
    the entries that are not stored are zeros.
    """
    device = next(tensor.device for tensor in tensors if tensor is not None)
    wide = torch.float64 if any(x is not None and x.dtype == torch.float64 for x in tensors) else torch.float32
    absent = torch.full((), ABSENT, dtype=wide, device=device)
    means, maxima = [], []
    for tensor in tensors:
        if tensor is None or tensor.numel() == 0:
            means.append(absent)
            maxima.append(absent)
            continue
        size = tensor.numel()
        if tensor.layout != torch.strided:
            tensor = tensor.coalesce().values() if tensor.layout == torch.sparse_coo else tensor.values()
            if tensor.numel() == 0:
                means.append(torch.zeros_like(absent))
                maxima.append(torch.zeros_like(absent))
                continue
        absolute = tensor.abs()
        means.append(absolute.sum(dtype=wide) / size)
        maxima.append(absolute.amax().to(wide))
    return torch.stack([mean.to(device) for mean in means]), torch.stack([peak.to(device) for peak in maxima])
