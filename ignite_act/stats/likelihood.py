"""What the gradients at the outputs of a few steps say about the loss, and through it about the targets.

`stats.guesses` tells which likelihood a gradient comes from, `stats.targets` what it says of each row. Here the rows
are added up, and what is certain is told: rows that the loss ignores are left out, weights of classes count as the loss
counts them, and where the weights follow the confidence of the network (a focal loss, a temperature), or the targets
cannot be told, the loss is not known.

A mean squared error has the gradient 2 (z - t) / n: its targets follow from it without a guess, and what the loss would
be, by which it is recognised.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ignite_act.stats.guesses import FITS, GUESSES, TINY, Guess, fits, sign_of, zero_sum
from ignite_act.stats.targets import Rows, by_class, mean_losses, read, soften

__all__ = ["FITS", "GUESSES", "MOST", "NAMES", "Guess", "Likelihood", "as_rows", "entropy", "fits"]

NAMES = (
    "loss_applies", "maximised", "constant_loss", "first_loss", "mean_loss", "accuracy", "majority",
    "entropy_within", "blocked",
    "squared_loss", "target_variance", "target_variance_maximised", "beyond",
)  # fmt: skip
MOST = 1 << 18
"""Values of an output that are looked at."""
_EXACT = 1e-3
"""Mean squared relative deviation from a guess, or between weights, that is rounding (of bfloat16, say)."""
_SOFT = 3e-4
"""The same for targets with a floor, which have more freedom."""
_MIXED = 0.02
"""Part of a target that other classes than the largest have, beyond the floor, above which there is no single class."""
_SHARED = 1e-3
"""Label smoothing below which there is none."""
_DOUBT = 0.05
"""Share of rows of which it is not known whether the loss ignores them; above it, nothing is concluded."""
_RELATED = 0.05
"""Share of the variance of the weights that the confidence of the network may explain by chance."""
_ENOUGH = 100
_LEVER = 0.05
"""Variance of the logarithm of the errors within a class by which losses of one unit are told apart."""
_NORMAL = 5e-3
"""How far the weights may be from adding up to 1, as they do in a weighted mean, as a logarithm ..."""
_MEAN = 0.02
"""... and the same where it decides whether rows that are sure count."""


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
class Likelihood:
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
    moments: Tensor | float = 0.0  # (2, 2, 4, 4) of 1, confidence, its square, and the weight relative to its class
    spreads: Tensor | float = 0.0  # (2, 2, 5) see `_spreads`
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
    within: Tensor | float = 0.0  # (2, 2) entropy of the classes within a step
    blocked: Tensor | float = 0.0  # share of the outputs that are 0 and are pushed below

    def update(self, z: Tensor, g: Tensor, elements: int, reach: tuple[float, float]) -> None:
        """Takes in one step.

        Args:
            z, g: outputs and their gradient, ``(rows, units)``.
            elements: values of the whole output, of which there may be more rows.
            reach: lowest and highest output that there can be.
        """
        rows = read(z, g)
        number = max(elements // self.units, 1)
        scale = number / max(len(z), 1)
        seen = rows.there.sum()
        self.firsts += not self.steps
        self.steps += 1
        self.heard = self.heard + (seen > 0)
        self.rows = self.rows + seen
        self.off_zero_sum = self.off_zero_sum + zero_sum(g) * (seen > 0)
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
            self._soften(z, g, rows, scale)

    def _update_squared(self, z: Tensor, g: Tensor, elements: int, reach: tuple[float, float]) -> None:
        """Values that have no gradient have no target, except for zeros that a ReLU met."""
        known = (g != 0) | (z == 0)
        half = elements / 2 * known.float().mean()
        targets = torch.stack([z - g * half, z + g * half])
        number = known.sum()
        squared = (g * half).square().sum() / number
        low, high = reach
        slack = 1e-2 * (
            torch.where(known, targets[0], -math.inf).amax() - torch.where(known, targets[0], math.inf).amin()
        )
        outside = ((targets[0] < low - slack) | (targets[0] > high + slack)) & known
        if self.steps == 1:
            self.first_squared = squared
        self.beyond = self.beyond + outside.sum() / number.clamp(min=1)
        targets = torch.where(known, targets, 0.0).double()
        self.sums = self.sums + torch.stack([targets.sum(1), targets.square().sum(1)], 1)
        self.samples = self.samples + known.sum(0)

    def _count(self, rows: Rows, scale: float) -> None:
        def classes_of(values: Tensor) -> Tensor:
            return by_class(values, rows.target, max(self.units, 2))

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
        self.counts = self.counts + classes_of(there)[0]
        self.sures = self.sures + classes_of(among & ~there)
        self.doubts = self.doubts + torch.where(counted | (off < _MEAN), 0, rows.sure.sum(2)) * heard
        mean = (rows.weight * among).sum(2) / (among & (rows.weight > 0)).sum(2).clamp(min=1)
        self.weighted = self.weighted + classes_of(rows.weight * among) / mean.clamp(min=TINY).unsqueeze(2)
        self.right = self.right + (rows.right & among).sum(2)
        self.within = self.within + _within(classes_of(among))
        self.misfit = self.misfit + (rows.misfit * rows.clear).sum(2) / rows.clear.sum(2).clamp(min=1)
        self.off_mean = self.off_mean + torch.where(heard, torch.minimum(off, off_with), 0.0)
        self._relate(rows, classes_of)

    def _relate(self, rows: Rows, classes_of: Callable[[Tensor], Tensor]) -> None:
        """How the weights differ within classes, and whether they go with the confidence of the network."""
        keep = rows.clear.float()
        number = keep.sum(2)
        log = torch.where(rows.clear, rows.weight.clamp(min=TINY).log(), 0.0)
        overall = (log - (log.sum(2) / number.clamp(min=1)).unsqueeze(2)) * keep
        of_class = classes_of(keep)

        def centred(values: Tensor) -> Tensor:
            means = classes_of(values * keep) / of_class.clamp(min=1)
            return (values - means.gather(2, rows.target.expand(2, -1, -1))) * keep

        own, lever = centred(log), centred((1 - rows.confidence).clamp(min=TINY).log())
        freedom = number - (of_class > 0).sum(2)
        spreads = [overall.square().sum(2), number - 1, own.square().sum(2), freedom, lever.square().sum(2)]
        self.spreads = self.spreads + torch.stack(spreads, 2).clamp(min=0)
        x = rows.confidence
        columns = torch.stack([keep, x * keep, x.square() * keep, own], 3).double()
        self.moments = self.moments + columns.mT @ columns

    def _soften(self, z: Tensor, g: Tensor, rows: Rows, scale: float) -> None:
        found = soften(z, g, rows.there, scale)
        numbers = torch.stack([found.misfit, found.floor, found.mixed, found.loss], 1)
        targets = found.targets
        largest = targets.argmax(2)
        right = ((z.argmax(1) == largest) & rows.there).sum(1)
        counts = torch.zeros(2, self.units, device=z.device)
        counts = counts.scatter_add_(1, largest, rows.there.float().expand(2, -1))
        if self.steps == 1:
            self.soft_first = numbers[:, 3]
        self.soft = self.soft + torch.where(rows.there.any(), numbers, 0.0)
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
        on_host = Likelihood(**self.state_dict())
        result |= {"loss_applies": "unknown", "blocked": float(on_host.blocked) / self.steps}
        result |= on_host._squared() | on_host._likelihood()
        return {name: None if isinstance(value, float) and not math.isfinite(value) else value
                for name, value in result.items()}  # fmt: skip

    def _squared(self) -> dict[str, Any]:
        means, squares = (_tensor(self.sums) / _tensor(self.samples).clamp(min=1)).unbind(1)
        seen = _tensor(self.samples) > 0
        variances = (squares - means.square()).clamp(min=0)[:, seen].mean(1).tolist()
        return {
            "squared_loss": float(self.first_squared) / self.firsts,
            "target_variance": variances[0],
            "target_variance_maximised": variances[1],
            "beyond": float(self.beyond) / self.steps,
        }

    def _likelihood(self) -> dict[str, Any]:
        heard = max(float(self.heard), 1.0)
        rows, together, *scales = (_tensor(self.fits) / heard).nan_to_num(0.0)
        best = int(rows.amax(1).argmax())
        guess, kind = GUESSES[best], best % 2
        sign, clear = sign_of(together[best], *(scale[best] for scale in scales))
        of_two = not bool((_tensor(self.counts)[sign] > 0).all())  # a gradient of one sign fits many losses
        absolute = not (self.units > 1 and best < 2) and float(self.spread) / self.steps < 1e-4
        zero_sum = self.units > 1 and float(self.off_zero_sum) / heard < 1e-3
        fitting = float(rows[best].max()) >= FITS
        soft = self._soft_sign(heard) if zero_sum and self.units > 2 and (not fitting or best == 0) else None
        if soft is not None:
            return {"loss_applies": "softmax"} | self._of_soft(soft, heard)
        if not fitting and self.units == 1:
            weighted = [(kind, side) for kind in (0, 1) for side in (0, 1) if self._by_class_only(kind, side)]
            if len(weighted) == 1:
                (kind, sign), clear, fitting = weighted[0], True, True
                guess = GUESSES[2 + kind]
        if not fitting or (self.units == 1 and of_two) or absolute:
            return {"loss_applies": "softmax"} if zero_sum else {}
        result: dict[str, Any] = {"loss_applies": "nothing" if guess in ("nll", "bce") else guess}
        result["maximised"] = bool(sign) if clear else None
        if self.units > 1 and guess in ("sigmoid", "bce"):
            return result  # each unit has a target of its own
        return result | self._of_classes(kind, sign, clear, heard)

    def _of_classes(self, kind: int, sign: int, clear: bool, heard: float) -> dict[str, Any]:
        """Of rows with one class each."""
        result: dict[str, Any] = {}
        counts, doubts = _tensor(self.counts) + _tensor(self.sures)[kind], _tensor(self.doubts)[kind]
        seen = counts.sum(1).clamp(min=1)
        exact = bool((_tensor(self.misfit)[kind] / heard)[sign] < _EXACT)
        if not exact or float(doubts[sign]) > _DOUBT * float(seen[sign] + doubts[sign]):
            return result
        if self._weights_known(kind, sign, heard):
            entropies = [entropy(item) for item in _tensor(self.weighted)[kind]]
            if clear or abs(entropies[0] - entropies[1]) < 0.05 * entropies[0]:
                result["constant_loss"] = entropies[sign]
            means = (
                ("mean_loss", _tensor(self.losses) / heard),
                ("first_loss", _tensor(self.first_losses) / self.firsts),
            )
            for name, values in means:
                either = values[kind].tolist()
                if clear or abs(either[0] - either[1]) < 0.05 * abs(either[0]):
                    result[name] = either[sign]
        if clear:
            result["accuracy"] = float(_tensor(self.right)[kind, sign] / seen[sign])
            result["majority"] = float(counts[sign].max() / seen[sign])
            result["entropy_within"] = float(_tensor(self.within)[kind, sign]) / heard
        return result

    def _weights_known(self, kind: int, sign: int, heard: float) -> bool:
        """Whether the weights of the rows are those of a mean, of classes, or unrelated to the network."""
        whole, freedom, own, within, lever = _tensor(self.spreads)[kind, sign].tolist()
        if float(_tensor(self.off_mean)[kind, sign]) / heard < _NORMAL:
            return True
        if self.units == 1 and kind == 1 and lever < _LEVER * within:
            return False  # close to a half, a squared error of probabilities has the same direction
        if (freedom > 0 and whole < _EXACT * freedom) or (within >= 8 and own < _EXACT * within):
            return True
        moments = _tensor(self.moments)[kind, sign]
        if float(moments[0, 0]) < _ENOUGH:
            return False
        inner = moments[:3, :3] + 1e-9 * moments[0, 0] * torch.eye(3, dtype=moments.dtype)
        explained = moments[3, :3] @ torch.linalg.solve(inner, moments[:3, 3])
        return bool(explained < _RELATED * moments[3, 3])

    def _by_class_only(self, kind: int, sign: int) -> bool:
        """Whether weights of two classes explain a gradient of one unit, whose confidences differ enough to tell."""
        _, _, own, within, lever = _tensor(self.spreads)[kind, sign].tolist()
        return within >= 8 and own < _EXACT * within and lever > _LEVER * within

    def _soft_sign(self, heard: float) -> int | None:
        """The sign by which all targets have the same floor; None if by neither, or one class does as well."""
        misfits, floors, mixed, _ = (_tensor(self.soft) / heard).T.tolist()
        hard = (_tensor(self.misfit)[0] / heard).nan_to_num(math.inf).tolist()
        sign = int(misfits[1] < misfits[0])
        better = misfits[sign] < _SOFT and misfits[1 - sign] > 10 * misfits[sign]
        shared = mixed[sign] > _MIXED or floors[sign] * self.units > _SHARED
        return sign if better and shared and min(hard) > max(10 * misfits[sign], 1e-6) else None

    def _of_soft(self, sign: int, heard: float) -> dict[str, Any]:
        """Of targets with label smoothing, or mixed with one another, which have no single class."""
        _, _, mixed, mean = (_tensor(self.soft)[sign] / heard).tolist()
        sums, squares = _tensor(self.soft_sums)[sign].double()
        rows = float(self.rows)
        shares, square = (sums / rows).clamp(min=0), squares / rows
        bias = ((square - shares.square()).clamp(min=0) / (2 * rows * shares.clamp(min=1e-12))).sum()
        result = {
            "maximised": bool(sign),
            "constant_loss": float(torch.special.entr(shares).sum() + bias),
            "mean_loss": mean,
            "first_loss": float(_tensor(self.soft_first)[sign]) / self.firsts,
        }
        if mixed < _MIXED:
            counts = _tensor(self.soft_counts)[sign]
            result["accuracy"] = float(_tensor(self.soft_right)[sign]) / rows
            result["majority"] = float(counts.max()) / rows
            result["entropy_within"] = float(_tensor(self.soft_within)[sign]) / heard
        return result


def _tensor(value: Tensor | float) -> Tensor:
    return torch.as_tensor(value)


def _within(counts: Tensor) -> Tensor:
    """Entropy of the classes behind counts ``(..., classes)``."""
    return torch.special.entr(counts / counts.sum(-1, keepdim=True).clamp(min=1)).sum(-1)


def entropy(counts: Tensor) -> float:
    """Entropy in nats of the classes behind counts ``(classes,)``, corrected for few samples (Miller 1955)."""
    seen = counts[counts > 0].double()
    total = seen.sum()
    shares = seen / total
    return float(-(shares * shares.log()).sum() + (len(seen) - 1) / (2 * total))
