"""Runs -> a comparison of variants over seeds: plain numbers.

Intervals are two-sided 95 % intervals of Student's t distribution over the seeds, not corrected for comparing many
variants. They tell how much seeds matter, not other samples: all runs share one split of the data. Differences are
paired: a seed gives variants of one network the same initial weights and order of batches.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from scipy import stats

from ignite_act.report import Rows, gradient_ratio, over_sites
from ignite_act.runs.stored import StoredRun

CONFIDENCE = 0.95
_NOT_A_VARIANT = {"seed", "act", "data", "published", "data_root", "device", "diagnostics", "every"}
"""Settings that do not tell variants apart: what they change is where and whether one looks."""

_ROUNDING = 1e-9
"""Values whose spread is below this share of the largest are equal."""

Verdict = Literal["best", "not told apart", "worse", "learned with some seeds", "did not start to learn", "failed"]


@dataclass(frozen=True)
class Estimate:
    """A quantity over seeds.

    Attributes:
        n: number of seeds.
        mean: their mean.
        std: sample standard deviation (divided by n - 1); None for one seed.
        low, high: 95 % interval of the mean; None for one seed, and for seeds that agree exactly (two differences of
            one test sample each, say): they do not tell how far others would be off.
        minimum, median, maximum: of the seeds.
    """

    n: int
    mean: float
    std: float | None
    low: float | None
    high: float | None
    minimum: float
    median: float
    maximum: float


def estimate(values: Iterable[float | None]) -> Estimate | None:
    """The estimate from one value a seed; missing and non-finite ones are left out, None if nothing is left."""
    kept = [float(value) for value in values if value is not None and math.isfinite(value)]
    if not kept:
        return None
    n, mean = len(kept), statistics.fmean(kept)
    std = statistics.stdev(kept) if n > 1 else None
    differ = std is not None and std > _ROUNDING * max(map(abs, kept))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * std / math.sqrt(n) if std and differ else None
    low, high = (None, None) if half is None else (mean - half, mean + half)
    return Estimate(n, mean, std, low, high, min(kept), statistics.median(kept), max(kept))


@dataclass(frozen=True)
class Variant:
    """Runs that are equal but for the seed. Statistics are over the runs that learned; over all, if none did.

    Attributes:
        name: the activation, with the settings in which it differs from other variants of the comparison.
        act: the activation as a configuration names it.
        runs: ordered by seed; those that failed included.
        learned: how many runs left the constant predictor.
        failed: how many runs ended with an error.
        verdict: how it stands.
        test_accuracy, test_loss: with the best weights.
        last_accuracy, last_loss: on the validation set after the last epoch.
        epochs, seconds: length of the training.
        best_epoch: whose weights are the best ones.
        difference: test accuracy minus that of the best variant, paired by seed; None for the best one
            and for what did not learn.
        dead, units: dead neurons of the best weights over all training samples, all sites together.
        gradient_ratio: mean absolute gradient of the first layer over that of the last, in the last epoch.
        stop_reasons: reason -> number of runs, failed ones included.
        published: metric -> what others report, as the runs' configurations say; the last seed has the last word.
        gradients: layer -> mean absolute gradient in the last epoch.
        first_gradients: the same in the first epoch.
        dead_neurons: site -> dead units of the best weights.
    """

    name: str
    act: str
    runs: tuple[StoredRun, ...]
    learned: int
    failed: int
    verdict: Verdict
    test_accuracy: Estimate | None
    test_loss: Estimate | None
    last_accuracy: Estimate | None
    last_loss: Estimate | None
    epochs: Estimate | None
    seconds: Estimate | None
    best_epoch: Estimate | None
    difference: Estimate | None
    dead: Estimate | None
    units: int
    gradient_ratio: Estimate | None
    stop_reasons: Mapping[str, int]
    published: Mapping[str, float]
    gradients: Mapping[str, Estimate | None]
    first_gradients: Mapping[str, Estimate | None]
    dead_neurons: Mapping[str, Estimate | None]

    @property
    def finished(self) -> list[StoredRun]:
        """The runs that have results."""
        return [run for run in self.runs if not run.failed]

    @property
    def counted(self) -> list[StoredRun]:
        """The runs that the statistics are over."""
        return _counted(self.runs)

    def values(self, metric: str) -> list[float]:
        """Of all runs that have one. A published number is of a run that may not have learned, so ours may, too."""
        return [value for run in self.runs if (value := _value(metric, run)) is not None]

    def place(self, metric: str) -> tuple[int, int] | None:
        """How many of our runs lie below the published number, and how many there are; None without one."""
        values = self.values(metric)
        if metric not in self.published or not values:
            return None
        return sum(value < self.published[metric] for value in values), len(values)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, the runs by their directories and seeds."""
        data = {name: value for name, value in vars(self).items() if name != "runs"}
        plain = {name: asdict(value) if isinstance(value, Estimate) else value for name, value in data.items()}
        for name in ("gradients", "first_gradients", "dead_neurons"):
            plain[name] = {key: value and asdict(value) for key, value in data[name].items()}
        runs = [
            {
                "directory": str(run.directory),
                "seed": run.config["seed"],
                "learned": run.summary.get("learned"),
                "stop_reason": run.summary["stop_reason"],
                **{metric: _value(metric, run) for metric in _METRICS},
            }
            for run in self.runs
        ]
        return {**plain, "runs": runs}


@dataclass(frozen=True)
class Comparison:
    """Variants on the same data.

    Attributes:
        data: name of the data set.
        variants: the best one, then the others that learned by their mean test accuracy; then what did not start to
            learn, then what failed altogether.
        settings: the settings that all variants share, in plain types.
    """

    data: str
    variants: tuple[Variant, ...]
    settings: Mapping[str, Any]

    @property
    def best(self) -> Variant | None:
        """The variant that the others are compared with."""
        return next((variant for variant in self.variants if variant.verdict == "best"), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain types."""
        return {
            "data": self.data,
            "confidence": CONFIDENCE,
            "settings": dict(self.settings),
            "variants": [variant.to_dict() for variant in self.variants],
        }


def compare(runs: Iterable[StoredRun]) -> list[Comparison]:
    """One comparison for each data set that the runs are on, in the order of first appearance."""
    by_data: dict[str, list[StoredRun]] = {}
    for run in runs:
        by_data.setdefault(run.config["data"], []).append(run)
    return [_comparison(data, members) for data, members in by_data.items()]


def _comparison(data: str, runs: Sequence[StoredRun]) -> Comparison:
    names = _names(runs)
    groups: dict[str, list[StoredRun]] = {}
    for run, name in zip(runs, names, strict=True):
        groups.setdefault(name, []).append(run)
    members = {name: sorted(group, key=lambda run: run.config["seed"]) for name, group in groups.items()}
    best = _best(members)
    variants = [_variant(name, group, best, members.get(best or "", [])) for name, group in members.items()]
    shared = {
        name: value
        for name, value in runs[0].config.items()
        if name not in ("act", "seed", "published") and all(run.config[name] == value for run in runs)
    }
    return Comparison(data, tuple(sorted(variants, key=_standing)), shared)


def _names(runs: Sequence[StoredRun]) -> list[str]:
    """Activation, the settings that differ, and as much of the place as tells two runs of one seed apart."""
    keys = [key for key in runs[0].config if key not in _NOT_A_VARIANT]
    differing = [key for key in keys if len({str(run.config[key]) for run in runs}) > 1]
    names = plain = [
        ", ".join([run.summary["activation"], *(f"{key}={_word(run.config[key])}" for key in differing)])
        for run in runs
    ]
    for level in (3, 1, 0):  # <root>/<data>/<activation>/seed-<n>: the root, the activation's directory, the run's own
        if len({(name, run.config["seed"]) for name, run in zip(names, runs, strict=True)}) == len(runs):
            break
        names = [f"{bare} ({_above(run.directory, level)})" for bare, run in zip(plain, runs, strict=True)]
    return names


def _above(directory: Path, level: int) -> Path:
    return [directory, *directory.parents][: level + 1][-1]


def _word(value: Any) -> str:
    return "-".join(map(str, value)) if isinstance(value, list) else str(value)


def _best(members: Mapping[str, Sequence[StoredRun]]) -> str | None:
    """The highest mean test accuracy among the variants that learned in every run with a result, else in any."""
    means = {}
    for name, runs in members.items():
        accuracy = estimate(run.summary["test"]["accuracy"] for run in _counted(runs))
        learned = [_learned(run) for run in runs if not run.failed]
        if accuracy is not None and any(learned):
            means[name] = (all(learned), accuracy.mean)
    return max(means, key=lambda name: means[name]) if means else None


def _variant(name: str, runs: Sequence[StoredRun], best: str | None, best_runs: Sequence[StoredRun]) -> Variant:
    counted = _counted(runs)
    learned, failed = sum(map(_learned, runs)), sum(run.failed for run in runs)
    difference = _difference(counted, _counted(best_runs)) if learned and name != best else None
    units = max((over_sites(run.summary["dead_neurons"], "units") for run in counted), default=0)

    first = [run.first_report() for run in counted]

    def over_runs(read: Callable[[Mapping[str, Any]], float | None]) -> Estimate | None:
        return estimate(read(run.summary) for run in counted)

    return Variant(
        name=name,
        act=runs[0].config["act"],
        runs=tuple(runs),
        learned=learned,
        failed=failed,
        verdict=_verdict(name, best, difference, runs),
        **{metric: over_runs(read) for metric, read in _METRICS.items()},
        epochs=over_runs(lambda summary: summary["epochs"]),
        seconds=over_runs(lambda summary: summary["seconds"]),
        best_epoch=over_runs(lambda summary: summary["best_epoch"]),
        difference=difference,
        units=units,
        gradient_ratio=over_runs(lambda summary: gradient_ratio(summary["gradients"])),
        stop_reasons=dict(Counter(run.summary["stop_reason"] for run in runs)),
        published={metric: value for run in runs for metric, value in run.config["published"].items()},
        gradients=_by_name([run.summary["gradients"] for run in counted], "mean_abs"),
        first_gradients=_by_name([report.gradients for report in first if report is not None], "mean_abs"),
        dead_neurons=_by_name([run.summary["dead_neurons"] for run in counted], "dead"),
    )


def _counted(runs: Sequence[StoredRun]) -> list[StoredRun]:
    finished = [run for run in runs if not run.failed]
    return [run for run in finished if _learned(run)] or finished


def _learned(run: StoredRun) -> bool:
    return bool(run.summary.get("learned"))


def _difference(runs: Sequence[StoredRun], best_runs: Sequence[StoredRun]) -> Estimate | None:
    """Paired by seed."""
    of_best = {run.config["seed"]: run.summary["test"]["accuracy"] for run in best_runs}
    pairs = [(run.summary["test"]["accuracy"], of_best.get(run.config["seed"])) for run in runs]
    return estimate(mine - its for mine, its in pairs if mine is not None and its is not None)


def _verdict(name: str, best: str | None, difference: Estimate | None, runs: Sequence[StoredRun]) -> Verdict:
    if all(run.failed for run in runs):
        return "failed"
    if not any(map(_learned, runs)):
        return "did not start to learn"
    if name == best:
        return "best"
    if difference is not None and difference.high is not None and difference.high < 0:
        return "worse"
    return "not told apart" if all(_learned(run) for run in runs if not run.failed) else "learned with some seeds"


def _standing(variant: Variant) -> tuple[int, float]:
    """Sorts the variants: the best one first, what did not learn or has no accuracy last."""
    order = {"best": 0, "did not start to learn": 2, "failed": 3}
    accuracy = variant.test_accuracy
    return order.get(variant.verdict, 1), -accuracy.mean if accuracy is not None else math.inf


def _value(metric: str, run: StoredRun) -> float | None:
    """None if the run failed or has no finite one."""
    value = None if run.failed else _METRICS[metric](run.summary)
    return value if value is not None and math.isfinite(value) else None


def _dead(summary: Mapping[str, Any]) -> int | None:
    """None if dead neurons were not counted."""
    rows = summary["dead_neurons"]
    return over_sites(rows, "dead") if rows else None


def _by_name(runs: Sequence[Rows], key: str) -> dict[str, Estimate | None]:
    """Layer or site, in the order of the first run that has it -> the estimate over the runs."""
    names = dict.fromkeys(name for rows in runs for name in rows)
    return {name: estimate(rows.get(name, {}).get(key) for rows in runs) for name in names}


_METRICS: dict[str, Callable[[Mapping[str, Any]], float | None]] = {
    "test_accuracy": lambda summary: summary["test"]["accuracy"],
    "test_loss": lambda summary: summary["test"]["loss"],
    "last_accuracy": lambda summary: summary["last"]["accuracy"],
    "last_loss": lambda summary: summary["last"]["loss"],
    "dead": _dead,
}
"""What can be compared with a published number, read from a summary."""
