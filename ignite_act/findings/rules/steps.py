"""The size of what the optimizer does, and of the gradient on its way back through the layers."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator

from ignite_act.findings.history import History, finite
from ignite_act.findings.rule import by_harm, finding
from ignite_act.report import EpochReport, Finding

_HOLDS = 10.0
"""What has vanished stands until it is so many times stronger, while nothing is learned: else it would come and go."""
_FALLEN = 0.1
"""Learning rate over its start by which a schedule has lowered it, if the steps become small."""
_MUCH_LEFT = 0.5
"""With more progress than this a schedule may well end the learning."""
_REPLACES = 1.0
"""Update ratio of a step that leaves nothing of a weight."""
_AS_WEAK = 10.0
"""Among layers whose signals differ by less than this factor, the first one is named."""


def update_too_large(history: History) -> Iterator[Finding]:
    """Steps that change the weights by a large part of themselves, and a loss that does not bear it.

    Large steps alone are no harm: small initial weights, adapters and the first steps of Adam have them. So the loss
    must have come to nothing, or have become worse than it began, or come no further while the steps stay large. Of a
    loss that is not known, only steps that leave nothing of the weights are judged.

    Needs steps that are sampled with the weights before and after. Tried on healthy full batches of a single step,
    LoRA, embeddings, one-cycle schedules, restarts, and weights that begin at 0.
    """
    t = history.thresholds
    early = [(report, ratios) for report, ratios in history.early_ratios if ratios]
    large = [(report, ratios) for report, ratios in early if _median(ratios) > t.update_large]
    lasting = len(large) > 2 and len(large) == len(early) and not history.falling
    if not large or history.is_sorted:
        return
    if history.progress is None:  # of a loss that is not known, only steps that replace the weights are judged
        worse, lasting = False, _median(large[0][1]) > _REPLACES
    else:
        worse = history.progress < -t.much_worse
    bears_it = history.progress is not None and history.progress > (0.5 if lasting else t.learned)
    if bears_it or not (lasting or history.stalled or worse):
        return
    if history.accurate:
        return
    report, ratios = large[0]
    worst = max(ratios, key=lambda name: ratios[name])
    yield finding(
        history,
        "update_too_large",
        "error" if worse else by_harm(history),
        "update ratio, median over the layers",
        _median(ratios),
        t.update_large,
        "lower the learning rate by a factor of ten, or warm it up over the first steps",
        "clip the norm of the gradients",
        since=report.epoch,
        source="Karpathy, CS231n notes; healthy runs began at 6e-4 to 6e-2 (ours)",
        largest=ratios[worst],
        largest_in=worst,
    )


def update_too_small(history: History) -> Iterator[Finding]:
    """Steps that hardly change any weight, while the loss hardly moves.

    Or a schedule that has ended the learning long before its end. Needs sampled steps and a loss whose progress is
    known. Steps also become small where a network has converged: the learning rate must have sunk, or the steps have
    been small from the start. Tried on healthy warm-ups from 0, cosines, fine-tuning at 1e-5, frozen parts, converged
    runs and mixed precision.
    """
    t = history.thresholds
    if history.progress is None or (len(history.reports) < 2 and not history.ended):
        return  # a warm-up begins small
    if history.learning:
        yield from _stopped_by_its_schedule(history)
        return
    if all(row["learning_rate"] == 0 for row in history.last.updates.values() if row["steps"]):
        return  # see `never_updated`
    if any(_median(ratios) > t.update_large for _, ratios in history.early_ratios):
        return  # they were too large and have broken something
    early = [ratio for report, _ in history.early_ratios for ratio in _ratios(report, "ratio").values() if ratio > 0]
    late = list(_ratios(history.last, "ratio").values()) if _rate_over_start(history, history.last) < _FALLEN else []
    ratios = min((group for group in (early, late) if group), key=max, default=[])
    limit = t.update_small_stalled if history.stalled and _stands_still(history) else t.update_small
    if not ratios or max(ratios) >= limit or not history.gradients(history.last):
        return
    yield finding(
        history,
        "update_too_small",
        by_harm(history),
        "largest update ratio of a layer",
        max(ratios),
        limit,
        "raise the learning rate by a factor of ten until the loss moves",
        "see whether a schedule or a warm-up holds it down, and whether the loss is multiplied by a small number",
        since=history.since(lambda report: max(_ratios(report, "ratio").values(), default=1.0) < limit),
        source="Karpathy, CS231n notes; healthy runs began at 6e-4 to 6e-2 (ours)",
    )


def _stopped_by_its_schedule(history: History) -> Iterator[Finding]:
    """A learning rate that has sunk to next to nothing for a third of the training, and much is left to learn."""
    t, rows = history.thresholds, history.reports
    still = history.streak(
        lambda report: (
            _rate_over_start(history, report) < _FALLEN
            and max(_ratios(report, "ratio").values(), default=1.0) < t.update_small
        )
    )
    if len(still) < 2 or 3 * len(still) < len(rows) or (history.progress or 0.0) > _MUCH_LEFT:
        return
    yield finding(
        history,
        "update_too_small",
        "warning",
        "largest update ratio of a layer",
        max(_ratios(history.last, "ratio").values()),
        t.update_small,
        "lower the learning rate more slowly; check whether the schedule steps once per batch or once per epoch",
        since=still[0].epoch,
        damage="the schedule stopped the learning too early",
        source="Karpathy, CS231n notes; healthy runs began at 6e-4 to 6e-2 (ours)",
    )


def _rate_over_start(history: History, report: EpochReport) -> float:
    """The learning rate over that of the first report, the largest of all layers; 1 where it is not known."""
    shares = [
        row["learning_rate"] / start
        for name, row in report.updates.items()
        if row["learning_rate"] is not None and (start := history.first.updates.get(name, {}).get("learning_rate"))
    ]
    return max(shares, default=1.0)


def _stands_still(history: History) -> bool:
    """Whether the training loss is at the end what it was at the beginning."""
    first, last = history.first.loss.get("first"), history.last.loss.get("mean")
    return finite(first) and finite(last) and abs(last - first) < 0.02 * abs(first)


def _median(ratios: dict[str, float]) -> float:
    return statistics.median(ratios.values()) if ratios else 0.0


def _ratios(report: EpochReport, key: str) -> dict[str, float]:
    return {name: row[key] for name, row in report.updates.items() if finite(row[key])}


def vanishing_gradient(history: History) -> Iterator[Finding]:
    """What comes back to the first layers is a tiny part of what sets out at the last ones, and nothing is learned.

    The signal fades along a path, not at a weight: a layer whose own signal is weak, as queries and keys, a gate or a
    table of positions, closes nothing as long as any layer before it has a strong one.

    Needs the gradients at the outputs of the layers; of compiled or checkpointed parts they are not known, and then
    nothing is said. Tried on healthy attention, squeeze-and-excitation, layer scale, temperatures, poolers, LoRA and
    recurrent networks.
    """
    t = history.thresholds
    weak = history.streak(lambda report: bool(_closed(history, report, _HOLDS * t.vanishing_ratio)))
    shown = [report for report in weak if _closed(history, report, t.vanishing_ratio)]
    if not history.at_chance or not shown:
        return
    way, closed = history.way_back(shown[-1]), _closed(history, shown[-1], t.vanishing_ratio)
    weakest = min(closed, key=lambda name: way[name])
    layer = closed[0] if way[closed[0]] < _AS_WEAK * way[weakest] else weakest
    last = list(way)[-1]
    falls = [own / later for own, later in itertools.pairwise(way.values())]
    yield finding(
        history,
        "vanishing_gradient",
        by_harm(history),
        f"backward signal at {layer} over that at {last}",
        way[layer] / way[last],
        t.vanishing_ratio,
        "take ReLU or a relative of it instead of sigmoid or tanh, with He's initialisation",
        "add residual connections or normalisation layers, or make the network less deep",
        layer=layer,
        since=weak[0].epoch,
        source="Glorot and Bengio 2010; AUTOTRAINER (ratio below 1e-3)",
        steepest_fall=min(falls),  # between two layers
    )


def _closed(history: History, report: EpochReport, limit: float) -> list[str]:
    """The layers from the first on to which, and to all before them, next to nothing comes back."""
    way = history.way_back(report)
    strongest = list(itertools.accumulate(way.values(), max))
    return [name for name, own in zip(way, strongest, strict=True) if own < limit * way[list(way)[-1]]]
