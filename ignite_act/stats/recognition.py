"""What the loss is, from what the gradients of some steps added up to; on the host.

What is certain is told: rows that the loss ignores are left out, weights of classes count as the loss counts them, and
where the weights follow the confidence of the network (a focal loss, a temperature), or the targets cannot be told, the
loss is not known.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ignite_act.stats.guesses import FITS, GUESSES, sign_of

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
_PART = 0.05
"""Part of a variance that is left over if a guess explains it ..."""
_ROUNDING = 1e-10
"""... and what is rounding of float32 however little there is to explain."""
_LEVER = 0.05
"""Variance of the logarithm of the errors within a class by which losses of one unit are told apart."""
_LEAST = 1e-5
"""The same where what is left over is a thousandth of it: probabilities that are taken for logits differ little."""
_NORMAL = 5e-3
"""How far the weights may be from adding up to 1, as they do in a weighted mean, as a logarithm."""
_SAME = 1e-6
"""Variance of the targets within a step over that of the outputs below which all samples have the same target."""
_LOG = 0.01
"""Largest logarithm of the sum of probabilities, whose logarithms the outputs are."""


def recognise(units: int, steps: int, firsts: int, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """What is known of the loss, by the names of `OutputCollector`; the rest is left out.

    Args:
        units: of the output.
        steps: that were looked at, at least one.
        firsts: first steps, one of each process.
        state: of `Likelihood`, on the CPU.
    """
    known = _Known(units, steps, firsts, state)
    start = {
        "loss_applies": "unknown",
        "blocked": float(state["blocked"]) / steps,
        "rows": float(state["rows"]) / steps,
    }
    return start | known.squared() | known.likelihood()


@dataclass(frozen=True)
class _Known:
    units: int
    steps: int
    firsts: int
    state: Mapping[str, Tensor]

    def mean(self, name: str) -> Tensor:
        """Over the steps with a gradient."""
        return self.state[name] / self.state["heard"].clamp(min=1)

    def squared(self) -> dict[str, Any]:
        """What a mean squared error would be, and its targets."""
        means, squares = (self.state["sums"] / self.state["samples"].clamp(min=1)).unbind(1)
        seen = self.state["samples"] > 0
        variances = (squares - means.square()).clamp(min=0)[:, seen].mean(1).tolist()
        return {
            "squared_loss": float(self.state["first_squared"]) / self.firsts,
            "target_variance": variances[0],
            "target_variance_maximised": variances[1],
            "beyond": float(self.state["beyond"]) / self.steps,
            "linear_loss": float(self.state["first_linear"]) / self.firsts,
            "logarithms": self._of_logs,
            "one_target": self.units == 1 and 0 < float(self.state["apart"]) / self.steps < _SAME,
        }

    def likelihood(self) -> dict[str, Any]:
        """Which likelihood it is, whether it is maximised, and its numbers."""
        rows, together, *scales = self.mean("fits").nan_to_num(0.0)
        best = int(rows.amax(1).argmax())
        guess, kind = GUESSES[best], best % 2
        fitting = float(rows[best].max()) >= FITS
        zero_sum = self.units > 1 and float(self.mean("off_zero_sum")) < 1e-3
        soft = self._soft_sign() if zero_sum and self.units > 2 and (not fitting or best == 0) else None
        if soft is not None:
            return {"loss_applies": "softmax"} | self._of_soft(soft)
        sign, clear = sign_of(together[best], *(scale[best] for scale in scales))
        if not fitting and self.units == 1 and len(weighted := self._weighted()) == 1:
            (kind, sign), clear, fitting = weighted[0], True, True
            guess = GUESSES[2 + kind]
        of_two = not bool((self.state["counts"][sign] > 0).all())  # a gradient of one sign fits many losses
        absolute = not (self.units > 1 and best < 2) and float(self.state["spread"]) / self.steps < 1e-4
        if not fitting or (self.units == 1 and of_two) or absolute:
            return {"loss_applies": "softmax"} if zero_sum else {}
        several = self.units > 1 and guess in ("sigmoid", "bce")  # each unit has a target of its own
        if not several:
            sign, clear = self._checked(kind, sign, clear, rows[best])
        result = {
            "loss_applies": "nothing" if guess in ("nll", "bce") else guess,
            "maximised": bool(sign) if clear else None,
        }
        return result if several else result | self._of_classes(kind, sign, clear)

    def _checked(self, kind: int, sign: int, clear: bool, cosines: Tensor) -> tuple[int, bool]:
        """The sign by which one class explains each row; where both do, weights that nothing explains leave it open.

        A robust loss, whose gradient fades in rows that are sure and wrong, looks as if the predictions were pushed
        down.
        """
        if self.units > 1 and kind == 1:
            return sign, clear  # the only class with a gradient
        exact = [self._exact(kind, 0), self._exact(kind, 1)]
        if self.units > 2 and exact[0] != exact[1] and float(cosines[exact.index(True)]) >= FITS:
            return exact.index(True), True
        if self.units > 2:
            return sign, clear and (sign == 0 or (exact[1] and self._weights_known(kind, 1)))
        spreads = self.state["spreads"][kind].tolist()
        own, other = (
            max(spreads[side][2] / spreads[side][3], _ROUNDING) if spreads[side][3] else math.inf
            for side in (sign, 1 - sign)
        )
        normal, other_normal = self._normal(kind, sign), self._normal(kind, 1 - sign)
        if sign == 0:
            return sign, clear and not (other < own / 10 or (other_normal and not normal))
        known = own < other / 10 or (normal and not other_normal)
        return sign, clear and known and self._weights_known(kind, sign)

    def _normal(self, kind: int, sign: int) -> bool:
        """Whether the weights add up to 1."""
        return float(self.mean("off_mean")[kind, sign]) < _NORMAL

    def _exact(self, kind: int, sign: int) -> bool:
        """Whether one class explains each row, much better than equal probabilities of the others do."""
        misfit, uneven = float(self.mean("misfit")[kind, sign]), float(self.mean("uneven")[kind, sign])
        return misfit < _EXACT and (misfit < max(_PART * uneven, _ROUNDING) or self._normal(kind, sign))

    def _of_classes(self, kind: int, sign: int, clear: bool) -> dict[str, Any]:
        """Of rows with one class each."""
        result: dict[str, Any] = {}
        counts, doubts = self.state["counts"] + self.state["sures"][kind], self.state["doubts"][kind]
        seen = counts.sum(1).clamp(min=1)
        if not self._exact(kind, sign) or float(doubts[sign]) > _DOUBT * float(seen[sign] + doubts[sign]):
            return result
        known = self._weights_known(kind, sign)
        if known:
            entropies = [entropy(item) for item in self.state["weighted"][kind]]
            level = self.units == 1 or kind == 0 or self._of_logs  # else a sum of outputs has no best constant
            if level and (clear or abs(entropies[0] - entropies[1]) < 0.05 * entropies[0]):
                result["constant_loss"] = entropies[sign]
            for name, values in (
                ("mean_loss", self.mean("losses")),
                ("first_loss", self.state["first_losses"] / self.firsts),
            ):
                either = values[kind].tolist()
                if clear or abs(either[0] - either[1]) < 0.05 * abs(either[0]):
                    result[name] = either[sign]
        if clear and (known or self.units > 2):  # of two classes, smoothed targets push sure rows back
            result["accuracy"] = float(self.state["right"][kind, sign] / seen[sign])
            result["majority"] = float(counts[sign].max() / seen[sign])
            result["entropy_within"] = float(self.mean("within")[kind, sign])
            result["entropy"] = entropy(counts[sign])
        return result

    def _weights_known(self, kind: int, sign: int) -> bool:
        """Whether the weights of the rows are those of a mean, of classes, or unrelated to the network."""
        whole, freedom, own, within, lever = self.state["spreads"][kind, sign].tolist()
        if self._normal(kind, sign) and own <= _EXACT * within:
            return True
        if self.units > 1 and kind == 1 and not self._of_logs:
            return False  # a logarithm of probabilities that are alike has the same direction
        if self.units <= 2 and lever < _LEVER * within:
            return False  # close to a half, a squared error of probabilities has the same direction
        if freedom > 0 and whole < min(_EXACT * freedom, max(_PART * lever, _ROUNDING * freedom)):
            return True
        if within >= 8 and own < min(_EXACT * within, max(_PART * lever, _ROUNDING * within)):
            return True
        moments = self.state["moments"][kind, sign]
        if float(moments[0, 0]) < _ENOUGH:
            return False
        inner = moments[:3, :3] + 1e-9 * moments[0, 0] * torch.eye(3, dtype=moments.dtype)
        explained = moments[3, :3] @ torch.linalg.solve(inner, moments[:3, 3])
        return bool(explained < _RELATED * moments[3, 3])

    @property
    def _of_logs(self) -> bool:
        return float(self.state["off_log"]) / self.steps < _LOG

    def _weighted(self) -> list[tuple[int, int]]:
        """Where weights of two classes explain a gradient of one unit, whose confidences differ enough to tell."""
        found = []
        for kind, sign in itertools.product((0, 1), (0, 1)):
            _, _, own, within, lever = self.state["spreads"][kind, sign].tolist()
            clear = own < _EXACT * within and lever > _LEVER * within
            if within >= 8 and (clear or (own < _EXACT * lever and lever > _LEAST * within)):
                found.append((kind, sign))
        return found

    def _soft_sign(self) -> int | None:
        """The sign by which all targets have the same floor; None if by neither, or one class does as well."""
        misfits, floors, mixed, _ = self.mean("soft").T.tolist()
        hard = self.mean("misfit")[0].nan_to_num(math.inf).tolist()
        sign = int(misfits[1] < misfits[0])
        better = misfits[sign] < _SOFT and misfits[1 - sign] > 10 * misfits[sign]
        shared = mixed[sign] > _MIXED or floors[sign] * self.units > _SHARED
        return sign if better and shared and min(hard) > max(10 * misfits[sign], 1e-6) else None

    def _of_soft(self, sign: int) -> dict[str, Any]:
        """Of targets with label smoothing, or mixed with one another, which have no single class."""
        _, _, mixed, mean = self.mean("soft")[sign].tolist()
        sums, squares = self.state["soft_sums"][sign].double()
        rows = float(self.state["rows"])
        shares, square = (sums / rows).clamp(min=0), squares / rows
        bias = ((square - shares.square()).clamp(min=0) / (2 * rows * shares.clamp(min=1e-12))).sum()
        result = {
            "maximised": bool(sign),
            "constant_loss": float(torch.special.entr(shares).sum() + bias),
            "mean_loss": mean,
            "first_loss": float(self.state["soft_first"][sign]) / self.firsts,
        }
        if mixed < _MIXED:
            counts = self.state["soft_counts"][sign]
            result["accuracy"] = float(self.state["soft_right"][sign]) / rows
            result["majority"] = float(counts.max()) / rows
            result["entropy_within"] = float(self.mean("soft_within")[sign])
            result["entropy"] = entropy(self.state["soft_counts"][sign])
        return result


def entropy(counts: Tensor) -> float:
    """Entropy in nats of the classes behind counts ``(classes,)``, corrected for few samples (Miller 1955)."""
    counts = torch.where(counts > 0, counts, 0.0).double()
    total = counts.sum()
    return float(torch.special.entr(counts / total).sum() + ((counts > 0).sum() - 1) / (2 * total))
