"""What the gradients at the outputs of a few steps say about the loss, and through it about the targets.

`stats.guesses` tells which likelihood a gradient comes from, `stats.targets` what it says of each row. Here the rows
are added up, and `stats.recognition` concludes.

A mean squared error has the gradient 2 (z - t) / n: its targets follow from it without a guess, and what the loss would
be, by which it is recognised.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ignite_act.stats.base import Statistic
from ignite_act.stats.guesses import FITS, GUESSES, TINY, Guess, fits, zero_sum
from ignite_act.stats.recognition import entropy, recognise
from ignite_act.stats.targets import Rows, by_class, mean_losses, read, soften

__all__ = ["ANYWHERE", "FITS", "GUESSES", "MOST", "NAMES", "Guess", "Likelihood", "as_rows", "entropy", "fits"]

NAMES = (
    "loss_applies", "maximised", "constant_loss", "first_loss", "mean_loss", "accuracy", "majority",
    "entropy_within", "entropy", "blocked", "rows",
    "squared_loss", "target_variance", "target_variance_maximised", "beyond", "linear_loss", "logarithms", "one_target",
)  # fmt: skip
MOST = 1 << 18
"""Values of an output that are looked at."""
ANYWHERE = (-math.inf, math.inf)
_MEAN = 0.02
"""How far the weights may be from adding up to 1, as a logarithm, where it decides whether rows that are sure count."""


def as_rows(output: Tensor, axis: int) -> Tensor:
    """``(rows, units)``, at most `MOST` values.

    Args:
        output: ``(N,)`` or more dimensions.
        axis: of the units.
    """
    rows = output.detach().unsqueeze(-1) if output.ndim < 2 else output.detach().movedim(axis, -1)
    rows = rows.reshape(-1, rows.shape[-1])
    return rows[: max(1, MOST // max(rows.shape[-1], 1))].float()


@dataclass
class Likelihood(Statistic):
    """What the gradients of a few steps say about the loss, and through it about the targets.

    Sums are over the steps that were looked at; all of them are tensors on the device of the outputs. Those of shape
    ``(2, 2, ...)`` are by guess (softmax and nll, or of one unit sigmoid and bce) and sign (minimised and maximised).
    """

    units: int
    steps: int = 0
    heard: Tensor | float = 0.0  # steps with a gradient
    fits: Tensor | float = 0.0  # see `fits`; the scale relative to a mean over all rows, and over those with a gradient
    off_zero_sum: Tensor | float = 0.0
    counts: Tensor | float = 0.0  # targets of each class (2, classes), by sign; rows without a gradient have none
    sures: Tensor | float = 0.0  # (2, 2, classes) of rows that are right and so sure that they have no gradient
    doubts: Tensor | float = 0.0  # (2, 2) rows that are sure or ignored
    weighted: Tensor | float = 0.0  # (2, 2, classes) targets, each with its weight relative to the mean of its step
    right: Tensor | float = 0.0  # (2, 2) predictions that agree with their targets
    rows: Tensor | float = 0.0
    losses: Tensor | float = 0.0  # (2, 2) mean loss of a step
    firsts: int = 0  # first steps: one of each process
    first_losses: Tensor | float = 0.0  # of the first step
    misfit: Tensor | float = 0.0  # (2, 2) see `targets.Rows`
    uneven: Tensor | float = 0.0  # (2, 2)
    moments: Tensor | float = 0.0  # (2, 2, 4, 4) of 1, confidence, its square, and the weight relative to its class
    spreads: Tensor | float = 0.0  # (2, 2, 5) see `_spreads`
    off_log: Tensor | float = 0.0  # how far the outputs are from log-probabilities
    off_mean: Tensor | float = 0.0  # (2, 2) how far the weights are from adding up to 1, as a logarithm
    soft: Tensor | float = 0.0  # (2, 4) misfit, floor, mixed and loss of targets with a floor, see `targets.Soft`
    soft_first: Tensor | float = 0.0  # (2,) their loss in the first step
    soft_sums: Tensor | float = 0.0  # (2, 2, classes) these targets and their squares
    soft_counts: Tensor | float = 0.0  # (2, classes) the largest of them
    soft_right: Tensor | float = 0.0
    soft_within: Tensor | float = 0.0
    first_squared: Tensor | float = 0.0  # loss of the first step if it is a mean squared error, whose targets are ...
    sums: Tensor | float = 0.0  # ... (2, 2, units), minimised and maximised: their sum and the sum of their squares
    samples: Tensor | float = 0.0  # of each unit
    beyond: Tensor | float = 0.0  # share of its targets that the outputs cannot reach
    spread: Tensor | float = 0.0  # of the sizes of a gradient, relative; 0 for absolute errors
    first_linear: Tensor | float = 0.0  # loss of the first step if it is a sum of outputs times constants
    apart: Tensor | float = 0.0  # variance within a step of targets of squared errors, over that of the outputs
    within: Tensor | float = 0.0  # (2, 2) entropy of the classes within a step
    blocked: Tensor | float = 0.0  # share of the outputs that are 0 and are pushed below

    def update(self, z: Tensor, g: Tensor, elements: int, reach: tuple[float, float]) -> None:
        """Takes in one step.

        Args:
            z, g: outputs and their gradient, ``(rows, units)``.
            elements: values of the whole output, of which there may be more rows.
            reach: lowest and highest output that there can be.
        """
        if isinstance(self.rows, Tensor) and self.rows.device != z.device:
            self.follow(z.device)
        before = dict(vars(self))
        try:
            self._take_in(z, g, elements, reach)
        except BaseException:  # Ctrl-C too: half a step says nothing of the loss
            vars(self).update(before)
            raise

    def _take_in(self, z: Tensor, g: Tensor, elements: int, reach: tuple[float, float]) -> None:
        rows = read(z, g)
        number = max(elements // self.units, 1)
        scale = number / max(len(z), 1)
        seen = rows.there.sum()
        self.firsts += not self.steps
        self.steps += 1
        self.heard = self.heard + (seen > 0)
        self.rows = self.rows + seen
        self.off_zero_sum = self.off_zero_sum + zero_sum(g) * (seen > 0)
        level = torch.logsumexp(z, 1)
        self.off_log = self.off_log + level.abs().mean()
        self.blocked = self.blocked + ((z == 0) & (g > 0)).float().mean()
        sizes = g.abs()
        smallest = torch.where(sizes > 0, sizes, math.inf).amin()
        self.spread = self.spread + (1 - smallest / sizes.amax().clamp(min=TINY)).clamp(min=0)
        fit = fits(z, g)
        means = fit[2:] + math.log(number), fit[2:] + (seen * scale).clamp(min=1).log()
        self.fits = self.fits + torch.cat([fit[:2], *means]) * (seen > 0)
        self._update_squared(z, g, elements, reach)
        self._count(rows, scale)
        if self.units > 2:
            self._soften(z, g, level, rows.there, scale)

    def _update_squared(self, z: Tensor, g: Tensor, elements: int, reach: tuple[float, float]) -> None:
        """Values that have no gradient have no target, except for zeros that a ReLU met."""
        known = (g != 0) | (z == 0)
        number = known.sum()
        error = g * (elements / 2 * number / max(z.numel(), 1))
        targets = torch.stack([z - error, z + error])
        if self.steps == 1:
            self.first_squared, self.first_linear = error.square().sum() / number, (z * g).sum()
        if self.units == 1 and len(z) > 2:
            self.apart = self.apart + targets[0].var() / z.var().clamp(min=TINY)
        if reach != ANYWHERE:
            self.beyond = self.beyond + _outside(targets[0], known, reach) / number.clamp(min=1)
        targets = torch.where(known, targets, 0.0).double()
        self.sums = self.sums + torch.stack([targets.sum(1), targets.square().sum(1)], 1)
        self.samples = self.samples + known.sum(0)

    def _count(self, rows: Rows, scale: float) -> None:
        there = rows.there.expand(2, 2, -1)
        heard = rows.there.any()
        without, sure = (rows.weight * there).sum(2), (rows.weight * rows.sure).sum(2)
        off, off_with = (without * scale).log().abs(), ((without + sure) * scale).log().abs()  # 0 in a mean
        counted = (off_with < _MEAN) & (off_with < off) & (sure > 0)
        among = there | rows.sure & counted.unsqueeze(2)
        loss = mean_losses(rows, among)
        if self.steps == 1:
            self.first_losses = loss
        self.losses = self.losses + torch.where(heard, loss, 0.0)
        weighted = rows.weight * among
        seen, known, weights = by_class([there, among, weighted], rows.target, max(self.units, 2))
        self.counts = self.counts + seen[0]
        self.sures = self.sures + (known - seen)
        self.doubts = self.doubts + torch.where(counted | (off < _MEAN), 0, rows.sure.sum(2)) * heard
        mean = weighted.sum(2) / (weighted > 0).sum(2).clamp(min=1)
        self.weighted = self.weighted + weights / mean.clamp(min=TINY).unsqueeze(2)
        self.right = self.right + (rows.right & among).sum(2)
        self.within = self.within + _within(known)
        self.off_mean = self.off_mean + torch.where(heard, torch.minimum(off, off_with), 0.0)
        self._relate(rows)

    def _relate(self, rows: Rows) -> None:
        """How the weights differ within classes, and whether they go with the confidence of the network."""
        keep, x = rows.clear.float(), rows.confidence
        log, lever = torch.stack([rows.weight, 1 - x]).clamp(min=TINY).log()
        values = torch.stack([log, lever, rows.misfit, rows.uneven, torch.ones_like(x), x, x.square()]) * keep
        sums = values[:5].sum(3)
        number = sums[4]
        most = number.clamp(min=1)
        self.misfit = self.misfit + sums[2] / most
        self.uneven = self.uneven + sums[3] / most
        of_class = by_class([values[0], values[1], keep], rows.target, max(self.units, 2))
        means = of_class[:2] / of_class[2].clamp(min=1)
        within = (values[:2] - means.gather(3, rows.target.expand_as(values[:2]))) * keep
        overall = (values[:1] - (sums[:1] / most).unsqueeze(3)) * keep
        spread, own, of_lever = torch.cat([overall, within]).square().sum(3)
        freedom = number - (of_class[2] > 0).sum(2)
        self.spreads = self.spreads + torch.stack([spread, number - 1, own, freedom, of_lever], 2).clamp(min=0)
        columns = torch.stack([keep, *values[5:], within[0]], 3).double()
        self.moments = self.moments + columns.mT @ columns

    def _soften(self, z: Tensor, g: Tensor, level: Tensor, there: Tensor, scale: float) -> None:
        found = soften(z, g, level, there, scale)
        targets, numbers = found.targets, found.numbers
        largest = targets.argmax(2)
        right = ((z.argmax(1) == largest) & there).sum(1)
        counts = torch.zeros(2, self.units, device=z.device)
        counts = counts.scatter_add_(1, largest, there.float().expand(2, -1))
        if self.steps == 1:
            self.soft_first = numbers[:, 3]
        self.soft = self.soft + torch.where(there.any(), numbers, 0.0)
        self.soft_sums = self.soft_sums + torch.stack([targets.sum(1), targets.square().sum(1)], 1)
        self.soft_counts = self.soft_counts + counts
        self.soft_right = self.soft_right + right
        self.soft_within = self.soft_within + _within(counts)

    def merge(self, other: Likelihood) -> None:
        """Takes in the steps of another process."""
        for name in vars(self):
            if name != "units":
                setattr(self, name, getattr(self, name) + getattr(other, name))

    def state_dict(self) -> dict[str, Any]:
        """Tensors (copies on the CPU) and plain numbers."""
        return {key: value.cpu().clone() if isinstance(value, Tensor) else value for key, value in vars(self).items()}

    def compute(self) -> dict[str, Any]:
        """What the loss is and what follows, in plain types; see `OutputCollector` for the names."""
        result: dict[str, Any] = dict.fromkeys(NAMES)
        if not self.steps:
            return result
        state = {name: torch.as_tensor(value, device="cpu") for name, value in vars(self).items()}
        result |= recognise(self.units, self.steps, self.firsts, state)
        return {name: None if isinstance(value, float) and not math.isfinite(value) else value
                for name, value in result.items()}  # fmt: skip


def _outside(targets: Tensor, known: Tensor, reach: tuple[float, float]) -> Tensor:
    """How many of the known targets are clearly out of reach: ``()``."""
    low, high = reach
    slack = 1e-2 * (torch.where(known, targets, -math.inf).amax() - torch.where(known, targets, math.inf).amin())
    return (((targets < low - slack) | (targets > high + slack)) & known).sum()


def _within(counts: Tensor) -> Tensor:
    """Entropy of the classes behind counts ``(..., classes)``."""
    return torch.special.entr(counts / counts.sum(-1, keepdim=True).clamp(min=1)).sum(-1)
