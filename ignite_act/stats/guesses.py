"""Which loss a gradient at the outputs comes from: the gradient of a likelihood gives it away, whatever its scale.

With logits z, softmax p and target t, cross-entropy has the gradient p - t; the negative log-likelihood of
log-probabilities has -t; binary cross-entropy has sigmoid(z) - t of logits and (z - t) / z(1 - z) of probabilities.
A loss that is maximised has the same with the other sign. So each guess is compared with the gradient by its cosine,
which no reduction, loss scaling or accumulation changes, and the right guess also tells the targets.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Guess = Literal["softmax", "nll", "sigmoid", "bce"]
GUESSES: tuple[Guess, ...] = ("softmax", "nll", "sigmoid", "bce")
FITS = 0.99
"""Smallest cosine at which a guess is taken to be right ..."""
CLEARLY = 0.02
"""... and by how much it must be ahead of the same loss with the other sign."""
TINY = torch.finfo(torch.float32).tiny
_SURE = 1e-3
"""Probability of all other classes below which 1 - p is mostly rounding."""


def fits(z: Tensor, g: Tensor) -> Tensor:
    """How well a gradient agrees with each guess.

    Args:
        z: outputs ``(rows, units)``.
        g: gradient of the loss with respect to them, same shape.

    Returns:
        ``(3, len(GUESSES), 2)``, the last axis for minimised and maximised: the cosine as the mean over the rows, which
        weights of the samples do not change (for guesses that work on rows); the cosine of all values together; and the
        logarithm of how many times larger the gradient is than that of the guess. 0 for a guess that cannot be.
    """
    size = g.abs().amax().clamp(min=TINY)
    signed = torch.stack([g, -g]) / size  # a squared gradient of 1e-30 would be 0
    there = (signed[0].abs().amax(1) > 1e-6).to(g.dtype)  # rows that are ignored or have no error have no direction
    softmax, given = _softmax(z, signed)
    guess = torch.stack([softmax, _nll(signed), *_of_units(z, signed)]) * there.unsqueeze(1)
    given = torch.stack([given, signed, signed, signed])
    largest = guess.abs().amax((2, 3), keepdim=True).clamp(min=TINY)
    guess = guess / largest
    dot, own, other = by_rows = torch.stack([guess * given, guess.square(), given.square()]).sum(4)
    by_row = (dot / (own * other).sqrt().clamp(min=1e-20) * there).sum(2) / there.sum().clamp(min=1)
    dot, own, other = by_rows.sum(3)
    together = dot / (own * other).sqrt().clamp(min=1e-20)
    scale = (other.clamp(min=1e-30) / own.clamp(min=1e-30)).log() / 2 + size.log() - largest[:, :, 0, 0].log()
    result = torch.stack([torch.cat([by_row[:2], together[2:]]), together, scale])
    if z.shape[1] == 1:
        result[:, :2] = 0.0
    return result


def zero_sum(g: Tensor) -> Tensor:
    """How far the rows of a gradient are from adding up to 0, from 0 to 1: a softmax behind the outputs makes it 0."""
    total = g.abs().sum()
    return torch.where(total > 0, g.sum(1).abs().sum() / total.clamp(min=TINY), 1.0)


def sign_of(cosines: Tensor, *scales: Tensor) -> tuple[int, bool]:
    """0 for minimised, 1 for maximised, and whether that is clear.

    Where the directions agree (two classes, or a network that is sure of two), the size of the gradient tells: of a
    mean over the rows it is that of the guess.

    Args:
        cosines: ``(2,)``, minimised and maximised.
        scales: ``(2,)`` each, logarithms of the gradient over the guess by what the mean may be over.
    """
    sign = int(cosines[1] > cosines[0])
    if abs(float(cosines[1] - cosines[0])) > CLEARLY:
        return sign, True
    sizes = [min(abs(float(scale[index])) for scale in scales) for index in (0, 1)]
    right = [size < math.log(2) for size in sizes]
    sign = int(sizes[1] < sizes[0])
    return sign, right[0] != right[1]


def classes_of(p: Tensor, g: Tensor) -> Tensor:
    """The class that each row of a gradient ``(2, rows, units)`` pushes up; the predicted one where it pushes none.

    A sure and right row has a gradient of 0 at its class once 1 - p is rounded, and the others may underflow.
    """
    low, lowest = g.min(-1)
    return torch.where(low < 0, lowest, p.argmax(-1))


def _softmax(z: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """The guess and the gradient; of rows that are sure, 1 - p at the class is taken from the other classes."""
    if z.shape[1] < 2:
        return torch.zeros_like(g), g
    p = torch.softmax(z, 1)
    at = classes_of(p, g).unsqueeze(-1)
    p = p.expand_as(g).scatter(-1, at, 0.0)  # so that no 1 - p is rounded
    rest = p.sum(-1, keepdim=True)
    own = g.gather(-1, at)
    given = g.scatter(-1, at, torch.where(rest < _SURE, own - g.sum(-1, keepdim=True), own))
    return p.scatter(-1, at, -rest), given


def _nll(g: Tensor) -> Tensor:
    """0 where the others are not alike, as they are without and with label smoothing, but not in a squared error."""
    if g.shape[-1] < 2:
        return torch.zeros_like(g)
    lowest, at = g.min(-1, keepdim=True)
    low, high = g.scatter(-1, at, math.inf).amin(-1, True), g.scatter(-1, at, -math.inf).amax(-1, True)
    top = lowest.abs()
    alike = (high <= 1e-6 * top) & (high - low <= 1e-3 * top)
    return torch.zeros_like(g).scatter(-1, at, -1.0) * alike


def _of_units(z: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """The guesses that each unit has a target of its own: of logits, and of probabilities."""
    target, there = (g < 0).to(z.dtype), g != 0
    inside = ((z >= 0) & (z <= 1)).all()
    return (torch.sigmoid(z) - target) * there, inside * (z - target) / (z * (1 - z)).clamp(min=1e-12) * there
