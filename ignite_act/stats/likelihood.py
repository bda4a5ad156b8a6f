"""Which loss a gradient at the outputs comes from: the gradient of a likelihood gives it away, whatever its scale.

With logits z, softmax p and target t, cross-entropy has the gradient p - t; the negative log-likelihood of
log-probabilities has -t; binary cross-entropy has sigmoid(z) - t of logits and (z - t) / z(1 - z) of probabilities.
A loss that is maximised has the same with the other sign. So each guess is compared with the gradient by its cosine,
which no reduction, loss scaling or accumulation changes, and the right guess also tells the targets.

A mean squared error has the gradient 2 (z - t) / n: its targets follow from it without a guess, and what the loss would
be, by which it is recognised.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Guess = Literal["softmax", "nll", "sigmoid", "bce"]
GUESSES: tuple[Guess, ...] = ("softmax", "nll", "sigmoid", "bce")
FITS = 0.99
"""Smallest cosine at which a guess is taken to be right ..."""
CLEARLY = 0.02
"""... and by how much it must be ahead of the same loss with the other sign."""
NAMES = (
    "loss_applies", "maximised", "constant_loss", "first_loss", "mean_loss", "accuracy", "majority",
    "entropy_within", "blocked",
    "squared_loss", "target_variance", "target_variance_maximised", "beyond",
)  # fmt: skip
MOST = 1 << 18
"""Values of an output that are looked at."""


def as_rows(output: Tensor, axis: int) -> Tensor:
    """``(rows, units)``, at most `MOST` values.

    Args:
        output: ``(N,)`` or more dimensions.
        axis: of the units.
    """
    rows = output.detach().unsqueeze(-1) if output.ndim < 2 else output.detach().movedim(axis, -1)
    rows = rows.reshape(-1, rows.shape[-1])
    return rows[: max(1, MOST // max(rows.shape[-1], 1))].float()


def _softmax(z: Tensor, g: Tensor) -> Tensor:
    return torch.softmax(z, 1) - _one_hot(z, g)


def _nll(z: Tensor, g: Tensor) -> Tensor:
    """0 where the others are not alike, as they are without and with label smoothing, but not in a squared error."""
    target = _one_hot(z, g)
    low, high = g.masked_fill(target > 0, math.inf).amin(1), g.masked_fill(target > 0, -math.inf).amax(1)
    top = g.amin(1).abs()
    alike = (high <= 1e-6 * top) & (high - low <= 1e-3 * top)
    return -target * alike.unsqueeze(1)


def _one_hot(z: Tensor, g: Tensor) -> Tensor:
    return F.one_hot(g.argmin(1), z.shape[1]).to(z.dtype) if z.shape[1] > 1 else torch.zeros_like(z)


def _sigmoid(z: Tensor, g: Tensor) -> Tensor:
    return (torch.sigmoid(z) - (g < 0).to(z.dtype)) * (g != 0)


def _bce(z: Tensor, g: Tensor) -> Tensor:
    inside = ((z >= 0) & (z <= 1)).all()
    return inside * (z - (g < 0).to(z.dtype)) / (z * (1 - z)).clamp(min=1e-12) * (g != 0)


_GRADIENTS = (_softmax, _nll, _sigmoid, _bce)  # of the guesses, given the sign of the gradient


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
    size = g.abs().amax().clamp(min=torch.finfo(torch.float32).tiny)
    g = g / size  # a squared gradient of 1e-30 would be 0
    there = g.abs().amax(1) > 1e-6  # padding is ignored by many losses, and rows without an error have no direction
    columns = []
    for signed in (g, -g):
        column = []
        for index, gradient in enumerate(_GRADIENTS):
            guess = gradient(z, signed)
            together = F.cosine_similarity(guess.reshape(-1), signed.reshape(-1), 0, eps=1e-20)
            by_row = (F.cosine_similarity(guess, signed, 1, eps=1e-20) * there).sum() / there.sum().clamp(min=1)
            scale = (signed.norm() * size / guess.norm().clamp(min=1e-30)).clamp(min=1e-30).log()
            rows = z.shape[1] > 1 or index > 1
            column.append(torch.stack([by_row if index < 2 else together, together, scale]) * rows)
        columns.append(torch.stack(column, 1))
    return torch.stack(columns, 2)


def losses(z: Tensor, g: Tensor) -> Tensor:
    """What the loss would be by each guess, as a mean over the rows: ``(len(GUESSES), 2)``; see `fits`."""
    columns = []
    for signed in (g, -g):
        by_class = signed.argmin(1)
        binary = (signed < 0).to(z.dtype)
        values = (
            F.cross_entropy(z, by_class),
            F.nll_loss(z, by_class),
            F.binary_cross_entropy_with_logits(z, binary),
            F.binary_cross_entropy(z.clamp(0, 1).nan_to_num(0.5), binary),
        )
        columns.append(torch.stack(values))
    return torch.stack(columns, 1)


def zero_sum(g: Tensor) -> Tensor:
    """How far the rows of a gradient are from adding up to 0, from 0 to 1: a softmax behind the outputs makes it 0."""
    total = g.abs().sum()
    return torch.where(total > 0, g.sum(1).abs().sum() / total.clamp(min=torch.finfo(torch.float32).tiny), 1.0)


@dataclass
class Likelihood:
    """What the gradients of a few steps say about the loss, and through it about the targets.

    Sums are over the steps that were looked at; all of them are tensors on the device of the outputs.
    """

    units: int
    steps: int = 0
    fits: Tensor | float = 0.0  # see `fits`, the scale relative to a mean over the rows
    off_zero_sum: Tensor | float = 0.0
    counts: Tensor | float = 0.0  # targets of each class (2, classes), minimised and maximised
    right: Tensor | float = 0.0  # (2, 2) predictions that agree with them: sign; cut at 0 and at 0.5 for one unit
    rows: Tensor | float = 0.0
    losses: Tensor | float = 0.0  # see `losses`
    firsts: int = 0  # first steps: one of each process
    first_losses: Tensor | float = 0.0  # of the first step
    first_squared: Tensor | float = 0.0  # the same if it is a mean squared error, whose targets are then ...
    sums: Tensor | float = 0.0  # ... (2, 2, units), minimised and maximised: their sum and the sum of their squares
    samples: int = 0
    beyond: Tensor | float = 0.0  # share of its targets that the outputs cannot reach
    spread: Tensor | float = 0.0  # of the sizes of a gradient, relative; 0 for absolute errors
    within: Tensor | float = 0.0  # (2,) entropy of the classes within a step
    blocked: Tensor | float = 0.0  # share of the outputs that are 0 and are pushed below

    def update(self, z: Tensor, g: Tensor, elements: int, reach: tuple[float, float]) -> None:
        """Takes in one step.

        Args:
            z, g: outputs and their gradient, ``(rows, units)``.
            elements: values of the whole output, of which there may be more rows.
            reach: lowest and highest output that there can be.
        """
        loss = losses(z, g)
        targets = torch.stack([z - g * (elements / 2), z + g * (elements / 2)])
        low, high = reach
        slack = 1e-2 * (targets[0].amax() - targets[0].amin())
        if not self.steps:
            self.firsts, self.first_losses, self.first_squared = 1, loss, (z - targets[0]).square().mean()
        self.sums = self.sums + torch.stack([targets.double().sum(1), targets.double().square().sum(1)], 1)
        self.samples += len(z)
        self.steps += 1
        fit = fits(z, g)
        mean = math.log(max(elements // self.units, 1))
        self.fits = self.fits + torch.cat([fit[:2], fit[2:] + mean])
        self.losses = self.losses + loss
        self.off_zero_sum = self.off_zero_sum + zero_sum(g)
        self.beyond = self.beyond + ((targets[0] < low - slack) | (targets[0] > high + slack)).float().mean()
        self.blocked = self.blocked + ((z == 0) & (g > 0)).float().mean()
        sizes = g.abs()[g != 0]
        if len(sizes):
            self.spread = self.spread + 1 - sizes.amin() / sizes.amax()
        self._count(z, g)

    def _count(self, z: Tensor, g: Tensor) -> None:
        there = g.abs().amax(1) > 0
        counts, right, within = [], [], []
        for signed in (g, -g):
            if self.units > 1:
                targets, predicted = signed.argmin(1), (z.argmax(1),) * 2
            else:
                targets, predicted = (signed[:, 0] < 0).long(), ((z[:, 0] > 0).long(), (z[:, 0] > 0.5).long())
            counts.append(torch.zeros(max(self.units, 2), device=z.device).index_add_(0, targets, there.float()))
            shares = counts[-1] / counts[-1].sum().clamp(min=1)
            within.append(torch.special.entr(shares).sum())
            right.append(torch.stack([((item == targets) & there).sum() for item in predicted]))
        self.counts = self.counts + torch.stack(counts)
        self.right = self.right + torch.stack(right)
        self.within = self.within + torch.stack(within)
        self.rows = self.rows + there.sum()

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
        state = {name: torch.as_tensor(value).cpu() for name, value in vars(self).items()}
        result |= {"loss_applies": "unknown", "blocked": float(state["blocked"]) / self.steps}
        means, squares = (state["sums"] / max(self.samples, 1)).unbind(1)
        variances = (squares - means.square()).clamp(min=0).mean(1).tolist()
        result |= dict(zip(("target_variance", "target_variance_maximised"), variances, strict=True))
        result["squared_loss"] = float(state["first_squared"]) / self.firsts
        result["beyond"] = float(state["beyond"]) / self.steps
        rows, together, scales = (state["fits"] / self.steps).nan_to_num(0.0)
        best = int(rows.amax(1).argmax())
        sign, clear = _sign(together[best], scales[best])
        counts = state["counts"][sign]
        one_target = self.units == 1 and not bool((counts > 0).all())  # a gradient of one sign fits many losses
        several = self.units > 1 and GUESSES[best] in ("softmax", "nll")
        absolute = not several and float(state["spread"]) / self.steps < 1e-4
        if float(rows[best].max()) < FITS or one_target or absolute:
            if self.units > 1 and float(state["off_zero_sum"]) / self.steps < 1e-3:
                result["loss_applies"] = "softmax"
            return result
        guess = GUESSES[best]
        result["loss_applies"] = "nothing" if guess in ("nll", "bce") else guess
        result["maximised"] = bool(sign) if clear else None
        if self.units > 1 and guess in ("sigmoid", "bce"):
            return result  # each unit has a target of its own
        entropies = [entropy(item) for item in state["counts"]]
        if clear or abs(entropies[0] - entropies[1]) < 0.05 * entropies[0]:
            result["constant_loss"] = entropies[sign]
        for name, values in (
            ("mean_loss", state["losses"] / self.steps),
            ("first_loss", state["first_losses"] / self.firsts),
        ):
            either = values[best].tolist()
            if clear or abs(either[0] - either[1]) < 0.05 * abs(either[0]):
                result[name] = either[sign]
        if clear:
            seen = max(float(state["rows"]), 1.0)
            result["accuracy"] = float(state["right"][sign, int(guess == "bce")]) / seen
            result["majority"] = float(counts.max()) / seen
            result["entropy_within"] = float(state["within"][sign]) / self.steps
        return result


def _sign(cosines: Tensor, scales: Tensor) -> tuple[int, bool]:
    """0 for minimised, 1 for maximised, and whether that is clear.

    Where the directions agree (two classes, or a network that is sure of two), the size of the gradient tells: of a
    mean over the rows it is that of the guess.
    """
    sign = int(cosines[1] > cosines[0])
    if abs(float(cosines[1] - cosines[0])) > CLEARLY:
        return sign, True
    sizes = [abs(float(scale)) for scale in scales]
    right = [size < math.log(2) for size in sizes]
    sign = int(sizes[1] < sizes[0])
    return sign, right[0] != right[1]


def entropy(counts: Tensor) -> float:
    """Entropy in nats of the classes behind counts ``(classes,)``, corrected for few samples (Miller 1955)."""
    seen = counts[counts > 0].double()
    total = seen.sum()
    shares = seen / total
    return float(-(shares * shares.log()).sum() + (len(seen) - 1) / (2 * total))
