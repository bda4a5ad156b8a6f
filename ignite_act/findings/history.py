"""The reports of a run as the rules read them: what was measured, or None where it was not."""

from __future__ import annotations

import functools
import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from ignite_act.findings.thresholds import Thresholds
from ignite_act.report import EpochReport

INPUT, OUTPUT = "input", "output"
_ALIKE = 2.0
"""Largest factor between losses that are taken to be the same: label smoothing, weight penalties, auxiliary losses."""
_ROBUST = 0.1
"""Difference to half a square that a few large errors make."""
_DRIFT = 4.0
"""How many times more the targets must change by one sign of the error than by the other."""
Row = Mapping[str, Any]


@dataclass(frozen=True)
class History:
    """Reports in the order of their epochs; some in between may be missing.

    Attributes:
        reports: at least one.
        thresholds: what counts as progress.
        ended: whether the run is over.
    """

    reports: Sequence[EpochReport]
    thresholds: Thresholds
    ended: bool = False

    @property
    def first(self) -> EpochReport:
        """The first report."""
        return self.reports[0]

    @property
    def last(self) -> EpochReport:
        """The last report."""
        return self.reports[-1]

    @property
    def from_the_start(self) -> bool:
        """Whether the first report is of the first epoch of the training."""
        return self.first.epoch == 1

    # Layers.

    @functools.cached_property
    def layers(self) -> tuple[str, ...]:
        """The layers with a weight, in the order of their calls; those that were not called come first."""
        place = {name: index for index, name in enumerate(self.last.signal)}
        names = list(dict.fromkeys([*self.last.updates, *self.last.gradients]))
        return tuple(sorted(names, key=lambda name: place.get(owner(name, place), -1)))

    def was_called(self, layer: str) -> bool:
        """Whether the module that owns a weight was called in a forward; true if calls were not watched."""
        signal = self.last.signal
        return not signal or owner(layer, signal) in signal

    def gradients(self, report: EpochReport) -> dict[str, float]:
        """Mean absolute gradient of each layer that has one, in the order of the calls."""
        rows = report.gradients
        return {name: rows[name]["mean_abs"] for name in self.layers if finite(rows.get(name, {}).get("mean_abs"))}

    def way_back(self, report: EpochReport) -> dict[str, float]:
        """The backward signal of each layer that has one, in the order of the calls."""
        rows = report.signal.items()
        return {name: row["backward"] for name, row in rows if name not in (INPUT, OUTPUT) and row.get("backward")}

    # The outputs.

    @property
    def heads(self) -> list[Row]:
        """What is known of each output that the loss reads; the one that is judged first."""
        row = self.last.output
        return [row, *row.get("heads", {}).values()] if row else []

    # The loss.

    @functools.cached_property
    def constant_loss(self) -> float | None:
        """The loss of the best prediction that ignores the inputs, as the loop would report it.

        None where the kind of loss is not known, or the reported loss is another one: the loss that the outputs'
        gradient points to must be the reported one but for a factor (a sum over the samples, say).
        """
        if self.is_squared:
            found = [value for report in self.reports if finite(value := report.output.get("target_variance"))]
            return statistics.median(found) if found else None
        inner, factor = self.inner_constant, self.loss_factor
        return inner * factor if inner is not None and factor is not None else None

    @functools.cached_property
    def is_squared(self) -> bool:
        """Whether the reported loss is the mean squared error that the outputs' gradient points to."""
        known = self._first_losses("squared_loss")
        return bool(known) and all(abs(abs(own) / other - 1) < 0.02 for own, other in known)

    @functools.cached_property
    def is_robust(self) -> bool:
        """Whether the reported loss is a mean of Huber's, which is half a square: its targets lie beyond those read."""
        alone = self.last.output.get("distance") and not self.last.output.get("heads")
        known = self._first_losses("squared_loss") if alone else []
        return bool(known) and all(abs(own / (2 * other) - 1) < _ROBUST for own, other in known)

    @functools.cached_property
    def is_linear(self) -> bool:
        """Whether the reported loss is a sum of outputs with constant factors."""
        known = self._first_losses("linear_loss")
        return bool(known) and all(abs(own / other - 1) < 0.02 for own, other in known)

    def _first_losses(self, kind: str) -> list[tuple[float, float]]:
        """The first loss of each report, and what it would be if it were of a kind."""
        pairs = [(report.loss.get("first"), report.output.get(kind)) for report in self.reports]
        return [(own, other) for own, other in pairs if finite(own) and finite(other) and other]

    @property
    def forwards_a_step(self) -> float:
        """How often the layers are called for each step: a ranking calls twice, a discriminator three times.

        0 where it is not known.
        """
        calls = min((row["calls"] for name, row in self.last.signal.items() if name != INPUT), default=0)
        return calls / steps if (steps := self.last.loss.get("steps", 0)) else 0.0

    @functools.cached_property
    def inner_constant(self) -> float | None:
        """The same as the outputs' gradient tells it, as a mean over the samples, whatever the loop reports."""
        found = [value for report in self.reports if finite(value := report.output.get("constant_loss"))]
        if not found or self.is_squared or not self._is_confirmed:
            return None
        return statistics.median(found)

    @property
    def _is_confirmed(self) -> bool:
        """Whether the kind of loss is certain: of one unit the gradient of many losses looks alike."""
        if self.last.output.get("units", 1) > 1 or self.loss_factor is not None:
            return True
        inner = self.last.output.get("mean_loss")
        return finite(inner) and any(abs(value / inner - 1) < 0.1 for _, value in self.validation_losses[-1:])

    @property
    def is_sorted(self) -> bool:
        """Whether the training samples come sorted by their targets."""
        rows = [report.output for report in self.reports if finite(report.output.get("entropy_within"))]
        known = [(row["entropy_within"], most_within(row)) for row in rows if finite(row["entropy"])]
        share = self.thresholds.sorted_targets
        return bool(known) and sum(own < share * whole for own, whole in known) > len(known) / 2

    @functools.cached_property
    def loss_factor(self) -> float | None:
        """The reported loss over the mean loss of a sample; None if they do not go together, as with several heads."""
        if any(report.output.get("heads") for report in self.reports):
            return None
        factors = [
            report.loss["first"] / report.output["first_loss"]
            for report in self.reports
            if finite(report.loss.get("first"))
            and finite(report.output.get("first_loss"))
            and report.output["first_loss"] > 0
        ]
        factors = [factor for factor in factors if factor > 0 and math.isfinite(factor)]
        if not factors:
            return 1.0
        if max(factors) > _ALIKE * min(factors):
            return None
        return 1.0 if all(1 / _ALIKE < factor < _ALIKE for factor in factors) else statistics.median(factors)

    @functools.cached_property
    def initial_loss(self) -> float | None:
        """The loss of the first batch, before the first step."""
        value = self.first.loss.get("first") if self.from_the_start else None
        return value if finite(value) else None

    @functools.cached_property
    def reference(self) -> float | None:
        """The loss from which progress is counted: of a constant prediction, or else of the beginning."""
        if self.constant_loss is not None:
            return self.constant_loss
        start = [value for value in self.first.loss.get("course", ())[:2] if finite(value)]
        return start[0] if start and self.from_the_start else None

    @functools.cached_property
    def train_losses(self) -> list[tuple[int, float]]:
        """Epoch and mean training loss."""
        pairs = [(report.epoch, train_loss(report)) for report in self.reports]
        return [(epoch, value) for epoch, value in pairs if value is not None]

    @functools.cached_property
    def validation_losses(self) -> list[tuple[int, float]]:
        """Epoch and validation loss."""
        return self.scores("loss", "validation")

    def scores(self, metric: str, split: str) -> list[tuple[int, float]]:
        """Epoch and value of a score, as far as known."""
        pairs = [(report.epoch, report.scores.get(metric, {}).get(split)) for report in self.reports]
        return [(epoch, value) for epoch, value in pairs if value is not None and finite(value)]

    @functools.cached_property
    def train_accuracies(self) -> list[tuple[int, float]]:
        """Epoch and training accuracy: of the whole epoch, or of the few batches that were looked at."""
        found = dict(self.scores("accuracy", "train"))
        for report in self.reports if self.inner_constant is not None else ():
            value = report.output.get("accuracy")
            if report.epoch not in found and finite(value):
                found[report.epoch] = value
        return sorted(found.items())

    @functools.cached_property
    def chance(self) -> float | None:
        """Accuracy of the best prediction that ignores the inputs."""
        if self.inner_constant is None:
            return None
        found = [value for report in self.reports if finite(value := report.output.get("majority"))]
        return statistics.median(found) if found else None

    @functools.cached_property
    def progress(self) -> float | None:
        """How far the loss has come from the reference (0) towards nothing (1); None if that cannot be said.

        Where the outputs tell a loss that is not the reported one (a penalty is added to it, say), that one is taken.
        """
        validation = [value for _, value in self.validation_losses[-1:]]
        plain = self.is_squared or self.inner_constant is None or self.loss_factor == 1.0
        if plain:
            reference, values = self.reference, [*validation, *(value for _, value in self.train_losses[-1:])]
            course = [value for value in self.last.loss.get("course", ()) if finite(value)]
            if len(course) > 3 and not self.is_sorted:
                values.append(statistics.fmean(course[-(len(course) // 4) :]))
        else:
            reference, inner = self.inner_constant, self.last.output.get("mean_loss")
            values = [value for value in validation if reference and value < 3 * reference]
            values += [inner] if finite(inner) else []
        if self.constant_loss is not None:
            values = [value for value in values if value >= 0]  # below that, its sign was changed
        if reference is None or not reference > 0 or not values:
            return None
        return 1 - min(values) / reference

    @functools.cached_property
    def accuracy_gain(self) -> float | None:
        """Best accuracy of the last epoch above that of a constant prediction, or else above that of the first epoch.

        None if that cannot be said.
        """
        known = [pairs for pairs in (self.train_accuracies, self.scores("accuracy", "validation")) if pairs]
        if not known:
            return None
        if self.chance is not None:
            return max(pairs[-1][1] for pairs in known) - self.chance
        return max(pairs[-1][1] - pairs[0][1] for pairs in known) if len(self.reports) > 1 else None

    @property
    def accurate(self) -> bool:
        """Whether it is right far more often than a constant prediction, whatever the loss says."""
        return (self.accuracy_gain or 0.0) > self.thresholds.accurate

    @functools.cached_property
    def at_chance(self) -> bool:
        """Whether the network is known to do no better than a constant prediction, or than at its start.

        Of a loss that is neither known nor watched on validation samples nobody can tell: that of an adversary or of a
        policy need not fall.
        """
        if self.progress is None or self.progress > self.thresholds.stalled:
            return False
        if self.constant_loss is None and (not self.validation_losses or self.improving):
            return False  # how low a loss can get that is not known, nobody knows
        return self.accuracy_gain is None or self.accuracy_gain < 2 * self.thresholds.chance

    @property
    def stalled(self) -> bool:
        """Whether it is known to come no further: a single report shows that of a run that is over only.

        A warm-up begins with small steps, and many a network with a plateau.
        """
        return self.at_chance and (len(self.reports) > 1 or self.ended)

    @functools.cached_property
    def learning(self) -> bool:
        """Whether the network is known to do clearly better: once it did, until it has fallen back to nothing."""
        if self.progress is None or self.progress > self.thresholds.learned:
            return self.progress is not None
        before = History(self.reports[:-1], self.thresholds) if len(self.reports) > 1 else None
        return self.progress > self.thresholds.stalled and before is not None and before.learning

    @property
    def worsened(self) -> bool:
        """Whether the training loss is clearly higher than it was."""
        values = [value for _, value in self.train_losses]
        return bool(values) and values[-1] > min(values) + self.thresholds.stalled * abs(min(values))

    @functools.cached_property
    def improving(self) -> bool:
        """Whether the validation loss fell in each of the last epochs: what is learned holds for other samples.

        An accuracy that falls at the same time speaks against it.
        """
        accuracies = [value for _, value in self.scores("accuracy", "validation")[-self.thresholds.patience - 1 :]]
        if accuracies and accuracies[-1] < accuracies[0]:
            return False
        values = [value for _, value in self.validation_losses[-self.thresholds.patience - 1 :]]
        falls = all(after < before for before, after in itertools.pairwise(values))
        least = self.thresholds.improving * abs(values[0]) if values else 0.0
        return len(values) > self.thresholds.patience and falls and values[0] - values[-1] > least

    @property
    def falling(self) -> bool:
        """Whether the loss of either split is clearly lower than all before it, or has fallen steadily."""
        share = self.thresholds.stalled
        courses = [[value for _, value in course] for course in (self.train_losses, self.validation_losses)]
        lowest = [(min(course[:-1]), course[-1]) for course in courses if len(course) > 1]
        if any(now < before - share * abs(before) for before, now in lowest):
            return True
        steadily = [course for course in courses if len(course) > 2 and course[-3] > course[-2] > course[-1]]
        return any(course[-1] < course[0] - share * abs(course[0]) for course in steadily)

    # The numbers of a layer over the epochs.

    @property
    def output_layer(self) -> str | None:
        """The layer that was called last."""
        called = [name for name in self.last.signal if name not in (INPUT, OUTPUT)]
        return called[-1] if called else self.layers[-1] if self.layers else None

    @functools.cached_property
    def early_ratios(self) -> list[tuple[EpochReport, dict[str, float]]]:
        """The first half of the reports, with the update ratio of each layer: later, ratios sink by themselves.

        They are relative to the weights as they were at the start, if those have become smaller since.
        """
        found = []
        for report in self.reports[: (len(self.reports) + 1) // 2]:
            ratios = {}
            for name, row in report.updates.items():
                start, now = self.first.updates.get(name, {}).get("weight_start"), row["weight_start"]
                if finite(row["ratio"]):
                    known = finite(start) and start and finite(now)
                    ratios[name] = row["ratio"] * (min(1.0, now / start) if known else 1.0)
            found.append((report, ratios))
        return found

    @functools.cached_property
    def maximised(self) -> bool | None:
        """Whether the outputs' gradient points away from the targets, in most epochs that tell."""
        if self.is_squared:
            return self._squared_maximised
        votes = [report.output.get("maximised") for report in self.reports]
        known = [vote for vote in votes if vote is not None]
        return sum(known) > len(known) / 2 if known else None

    @property
    def _squared_maximised(self) -> bool | None:
        """The targets stay the same from epoch to epoch: by the right sign of the error their variance does, too."""
        drifts = []
        for name in ("target_variance", "target_variance_maximised"):
            values = [report.output[name] for report in self.reports if finite(report.output.get(name))]
            drifts.append(max(values) / max(min(values), 1e-30) if values else 1.0)
        return drifts[1] < drifts[0] if max(drifts) > _DRIFT * min(drifts) else None

    def streak(self, holds: Callable[[EpochReport], bool]) -> list[EpochReport]:
        """The reports at the end in all of which something holds."""
        found = list(itertools.takewhile(holds, reversed(self.reports)))
        return found[::-1]

    def since(self, holds: Callable[[EpochReport], bool]) -> int:
        """The first epoch of those at the end in which something holds; the last one if it does not hold there."""
        return next((report.epoch for report in self.streak(holds)), self.last.epoch)


def most_within(row: Row) -> float:
    """The largest entropy that the targets of one step can have: that of all, but of two samples no more than log 2."""
    return float(min(row["entropy"], math.log(max(row["rows"], 1.0))))


def owner(layer: str, names: Mapping[str, Any]) -> str:
    """The module that owns a weight: its name is the layer's, or the layer's without that of the parameter."""
    return layer if layer in names else layer.rpartition(".")[0]


def train_loss(report: EpochReport) -> float | None:
    """The mean training loss of an epoch."""
    for value in (report.loss.get("mean"), report.scores.get("loss", {}).get("train")):
        if finite(value):
            return float(value)
    return None


def finite(value: object) -> TypeGuard[float]:
    """Whether a value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
