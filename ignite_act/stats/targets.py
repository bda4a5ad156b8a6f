"""What a gradient at the outputs tells of the targets, and of the weight that the loss gives to each row.

Cross-entropy has the gradient w (p - t) in a row with weight w. If one class is the target, the others tell the weight:
w is the sum of their gradients over the sum of their probabilities, and nothing is left over (`Rows.misfit`). A row
that the loss ignores has no gradient, and neither has a row that is right and so sure that its gradient underflows;
these two are told apart by their outputs, as far as they can be (`Rows.sure`).

With label smoothing or mixup (Szegedy et al. 2016; Zhang et al. 2018) the gradient is w (p - t) with other targets t.
Of most classes the target is the same, so a straight line through the gradients of one of them in each row, over their
probabilities, tells w and that floor (`soften`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ignite_act.stats.guesses import TINY, classes_of

_HALF = 6e-8
"""Smallest gradient of a float16."""
_GRAIN = 6e-8
"""Distance from 1 to the next smaller float32."""


@dataclass(frozen=True)
class Rows:
    """Each row by two guesses (softmax and nll, or sigmoid and bce) and two signs: ``(2, 2, rows)``.

    Attributes:
        there: ``(rows,)``, whether the row has a gradient.
        weight: that the loss gives to the row; of a gradient that is mostly rounding, and of rows that are sure, the
            mean weight of their class.
        loss: what the row would lose.
        target: ``(2, rows)``, its class by either sign.
        right: whether that is the predicted class.
        confidence: probability of its class.
        misfit: mean squared relative deviation from what the guess and one class explain.
        uneven: the same of what a guess of equal probabilities of the other classes does not explain.
        sure: rows without a gradient that may be right and sure.
        clear: rows whose weight is more than rounding.
    """

    there: Tensor
    weight: Tensor
    loss: Tensor
    target: Tensor
    right: Tensor
    confidence: Tensor
    misfit: Tensor
    uneven: Tensor
    sure: Tensor
    clear: Tensor


def mean_losses(rows: Rows, among: Tensor) -> Tensor:
    """Mean loss by guess and sign ``(2, 2)``, each row with its weight, among some rows; NaN without any."""
    weight = rows.weight * among
    return (torch.where(weight > 0, rows.loss, 0.0) * weight).sum(2) / weight.sum(2)


def read(z: Tensor, g: Tensor) -> Rows:
    """Reads each row by itself.

    Args:
        z, g: outputs and their gradient, ``(rows, units)``.
    """
    sizes = g.abs().amax(1)
    there = sizes > 0
    signed = torch.stack([g, -g])
    row = (_of_classes if z.shape[1] > 1 else _of_one_unit)(z, signed)
    numbers = torch.stack([item for pair in row[1:] for item in pair]).nan_to_num()
    weight, loss, right, confidence, misfit, uneven, rest, grain = numbers.unflatten(0, (-1, 2))
    target = row[0][0]
    smallest = torch.where((g.half().float() == g).all(), _HALF, TINY)
    clear = there & (weight * rest > 256 * smallest) & (rest > 256 * grain)
    own = torch.where(clear, weight, 0.0)
    usual = own.sum(2, keepdim=True) / clear.sum(2, keepdim=True).clamp(min=1)
    vanishes = (torch.where(usual > 0, usual, 1 / len(z)) * rest < smallest) | (rest < grain)
    sure = ~there & vanishes
    number, total = by_class([clear, own], target, max(z.shape[1], 2))
    of_class = torch.where(number > 0, total / number.clamp(min=1), usual)
    filled = of_class.gather(2, target.expand(2, -1, -1)) * (there & (weight > 0) | sure)
    nonfinite = z.amax().isnan() | ~sizes.amax().isfinite()
    loss = torch.where(nonfinite, torch.nan, loss)
    weight = torch.where(clear, weight, filled)
    return Rows(there, weight, loss, target, right > 0, confidence, misfit, uneven, sure, clear)


def by_class(values: Sequence[Tensor], target: Tensor, classes: int) -> Tensor:
    """Sums ``(len(values), 2, 2, classes)`` of values ``(2, 2, rows)`` over the rows of each class.

    Args:
        target: ``(2, rows)``, the class of each row by either sign.
    """
    every = torch.stack([item.float() for item in values])
    total = torch.zeros(*every.shape[:3], classes, device=every.device)
    return total.scatter_add_(3, target.expand_as(every), every)


def _of_classes(z: Tensor, g: Tensor) -> Sequence[Sequence[Tensor]]:
    """Target, then weight, loss, right, confidence, misfit, uneven, probability of the others, grain."""
    p = torch.softmax(z, 1)
    y = classes_of(p, g)
    at = y.unsqueeze(2)
    right = (z.argmax(1) == y).to(z.dtype)
    log_p = torch.log_softmax(z, 1).expand_as(g).gather(2, at)[:, :, 0]
    p = p.expand_as(g).scatter(2, at, 0.0)
    rest = p.sum(2)
    weight = g.scatter(2, at, 0.0).sum(2) / rest.clamp(min=TINY)
    left = (g / weight.unsqueeze(2) - p).square() / p.clamp(min=1e-30)
    misfit = left.scatter(2, at, 0.0).sum(2) / rest.clamp(min=TINY)
    mean = rest / max(g.shape[2] - 1, 1)
    uneven = (p - mean.unsqueeze(2)).square().scatter(2, at, 0.0).sum(2) / (mean * rest).clamp(min=TINY)
    push = g.clamp(max=0)
    pushed = -push.sum(2)
    own = z.expand_as(g).gather(2, at)[:, :, 0]
    none, one = torch.zeros_like(rest), torch.ones_like(rest)
    return (
        (y,),
        (weight, pushed),
        (-log_p, (push * z.clamp(min=torch.finfo(z.dtype).min)).sum(2) / pushed),
        (right, right),
        (log_p.exp(), own.exp()),
        (misfit, none),
        (uneven, one),
        (rest, one * torch.inf),  # the gradient of a log-probability does not underflow
        (none, none),
    )


def _of_one_unit(z: Tensor, g: Tensor) -> Sequence[Sequence[Tensor]]:
    """The same; the targets are 0 and 1."""
    z, g = z[:, 0], g[:, :, 0]
    y = torch.where(g != 0, g < 0, z > 0)  # a row that is sure and right has no gradient, of probabilities 0 and 1, too
    away = torch.where(y, -z, z)  # how far the logit is on the wrong side
    p = torch.where(y, z, 1 - z).clamp(0, 1)
    none = torch.zeros_like(p)
    rest = torch.sigmoid(-z.abs()), torch.minimum(z, 1 - z).clamp(min=0)
    grain = torch.where(z > 0, _GRAIN, 0.0)  # sigmoid(z) - 1 is rounded, sigmoid(z) is not
    return (
        (y.long(),),
        (g.abs() / torch.sigmoid(away), g.abs() * p),
        (F.softplus(away), -p.log().clamp(min=-100)),
        (((z > 0) == y).to(z.dtype), ((z > 0.5) == y).to(z.dtype)),
        (torch.sigmoid(-away), p),
        (none, none),
        (none, none),
        (rest[0].expand_as(p), rest[1].expand_as(p)),
        (grain.expand_as(p), none),
    )


@dataclass(frozen=True)
class Soft:
    """Targets that are shared by several classes, by sign.

    Attributes:
        targets: ``(2, rows, units)``; rows without a gradient have none.
        numbers: ``(2, 4)``: mean squared deviation of the classes that a row is not of from the floor, relative to
            their probabilities, infinite if there are no such targets; the floor, which is their target; mean of what
            the largest target lacks to be the only one above the floor; mean loss of the rows with a gradient.
    """

    targets: Tensor
    numbers: Tensor


def soften(z: Tensor, g: Tensor, level: Tensor, there: Tensor, scale: float) -> Soft:
    """The targets if all rows have the same weight and most classes of a row the same target.

    The weight is that of a mean over the rows, or it follows from a straight line; whichever leaves less over.

    Args:
        z, g: outputs and their gradient, ``(rows, units)``, of at least three units.
        level: ``(rows,)``, the logarithm of the sum of the outputs' exponentials.
        there: ``(rows,)``, whether the row has a gradient.
        scale: rows of the whole output, of which there may be more, over these.
    """
    signed, p, units = torch.stack([g, -g]), torch.softmax(z, 1), z.shape[1]
    seen = there.sum().clamp(min=1)
    share = there / seen

    def mean(values: Tensor) -> Tensor:
        return (values * share).sum(-1)

    points = _of_no_row(p, signed)
    x, y = points
    centred = points - mean(points).unsqueeze(3)
    spread, product = mean(centred[0] * centred)  # (lines, 2)
    slopes = torch.cat([(seen * scale).expand(1, 2), spread / product])  # (1 + lines, 2)
    floors = mean(x[-1] - slopes.unsqueeze(2) * y[-1])
    targets = p - slopes[:, :, None, None] * signed
    largest, outside = targets.topk(2, 3)
    outside = outside[:, :, :, : 1 if units == 3 else 2]
    inside = torch.stack([p.expand_as(targets), targets - floors[:, :, None, None]])
    size, off = mean(inside.scatter(4, outside.expand(2, -1, -1, -1, -1), 0.0).square().sum(4))
    small = 1e-4 * floors.square()
    size[:1] += small[:1]
    top = 1 - (units - 1) * floors
    spilled = floors * units
    largest = largest[:, :, :, 0]
    above = mean(largest > top.unsqueeze(2) + 0.02)
    possible = (slopes > 0) & (spilled > -1e-3) & (spilled < 0.35) & (above < 1e-3)
    possible[1:] &= spread > torch.maximum(0.05 * mean(x.square()), small[1:])
    misfit = torch.where(possible, off / size.clamp(min=TINY), torch.inf)
    best = torch.cat([misfit[:1] / 2, misfit[1:]]).argmin(0, keepdim=True)  # (1, 2); a mean, if it does as well
    wanted = targets.gather(0, best[:, :, None, None].expand(1, 2, *z.shape))[0]
    lowest = torch.finfo(z.dtype).min  # a class that is masked has no target
    loss = mean(level - (wanted * z.clamp(min=lowest)).sum(2))
    mixed = top - mean(largest)
    numbers = torch.stack([misfit, floors, mixed], 2).gather(0, best.unsqueeze(2).expand(-1, -1, 3))[0]
    return Soft(wanted * there.unsqueeze(1), torch.cat([numbers, loss.unsqueeze(1)], 1))


def _of_no_row(p: Tensor, g: Tensor) -> Tensor:
    """Probability and gradient ``(2, lines, 2, rows)`` of a class that most likely is no target of its row.

    It is pushed down most among those that are not predicted; a row of two classes may predict both of them.
    """
    predicted = p.topk(min(2, p.shape[1] - 2), 1).indices.expand(len(g), -1, -1)
    free = [g.scatter(2, predicted[:, :, : last + 1], -torch.inf).argmax(2) for last in range(predicted.shape[2])]
    at = torch.stack(free, 2)
    return torch.stack([p.expand_as(g).gather(2, at), g.gather(2, at)]).permute(0, 3, 1, 2)
