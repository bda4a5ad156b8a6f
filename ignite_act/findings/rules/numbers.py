"""Numbers that are none, and numbers on the way there."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator
from typing import NamedTuple

from ignite_act.findings.history import INPUT, OUTPUT, History, finite, owner
from ignite_act.findings.rule import by_harm, finding
from ignite_act.report import EpochReport, Finding


class _Trouble(NamedTuple):
    """The first NaN or infinity of one kind: sorted, the earliest comes first."""

    iteration: int
    order: int  # within an iteration: input, weight, forward, loss, backward
    place: str
    layer: str | None
    between: tuple[str, str] = ("", "")  # the layers between which it arose, if no module is known to have made it


def nonfinite(history: History) -> Iterator[Finding]:
    """NaN or infinite numbers: when first and where: input, weight, module or between two calls, loss, gradient.

    The order within an iteration is that of the computation. On a GPU the host does not look at a call while it
    happens: there the first layer is named whose output is not finite, and its weight only if it was broken before the
    first step of the window. Infinite gradients that a loss scaler skips do not last, and are no error.
    """
    report = next((report for report in history.reports if _troubles(history, report)), None)
    if report is None:
        return
    first = min(_troubles(history, report))
    source = {
        "input": "clean the data: drop or fill what is missing, and do not divide by a deviation of 0",
        "weight": "look at how the weight is initialised and at what changes it besides the optimizer",
        "activation": "guard logarithms, roots and divisions in or before this layer, and lower the learning rate",
        "call": "guard the logarithms, roots and divisions that are called there",
        "loss": "use a loss that takes logits, or clamp what goes into a logarithm",
        "gradient": "look for a root, norm or power whose derivative is infinite at 0; clip the gradients",
    }[first.place]
    lasting = bool(_troubles(history, history.last))
    yield finding(
        history,
        "nonfinite",
        "error" if lasting else "warning",
        f"the first NaN or infinity {_where(first)}; its iteration",
        first.iteration,
        None,
        source,
        "find the operation with torch.autograd.set_detect_anomaly(True)",
        layer=first.layer,
        since=report.epoch,
        damage="everything that it reaches becomes NaN" if lasting else "it did not last",
        source="SageMaker Debugger, tensor variance and NaN rules",
        place=first.place,
        direction="backward" if first.place == "gradient" else "forward",
        iteration=first.iteration,
    )


def _troubles(history: History, report: EpochReport) -> list[_Trouble]:
    signal, found = report.signal, []
    begin = min((row["first_nonfinite_iteration"] for row in signal.values() if row["nonfinite"]), default=None)
    broken = [name for name in history.layers if report.updates.get(name, {}).get("nonfinite")]
    gradients = {
        name: row["first_nonfinite_iteration"]
        for name, row in report.gradients.items()
        if row["nonfinite"] and row["first_nonfinite_iteration"] is not None
    }
    broken_in: dict[str, str] = {}  # module -> the first of its broken weights
    for weight in broken:
        broken_in.setdefault(owner(weight, signal), weight)
    for order, (name, row) in enumerate(signal.items()):
        if not row["nonfinite"]:
            continue
        iteration, origin = row["first_nonfinite_iteration"], row.get("origin")
        if name == INPUT:
            found.append(_Trouble(iteration, 0, "input", _first_called(history, report)))
            continue
        mine = broken_in.get(name)
        if origin is not None:
            was_broken = origin["weight"]
        else:
            was_broken = mine is not None and iteration == begin and _was_broken_before(report, mine)
        if was_broken:
            found.append(_Trouble(iteration, 1 + order, "weight", mine or name))
        elif origin is not None and origin["module"]:
            found.append(_Trouble(iteration, 100_000 + order, "activation", origin["module"]))
        elif origin is not None:
            between = (origin["behind"], origin["ahead"])
            found.append(_Trouble(iteration, 100_000 + order, "call", None, between))
        else:
            layer = _maker(report) if name == OUTPUT else name
            found.append(_Trouble(iteration, 100_000 + order, "activation", layer))
    loss = report.loss
    if loss.get("nonfinite"):
        found.append(_Trouble(loss["first_nonfinite_iteration"], 200_000, "loss", None))
    if gradients:
        earliest = min(gradients.values())
        nearest = [name for name in history.layers if gradients.get(name) == earliest][-1:]
        if nearest:
            found.append(_Trouble(earliest, 300_000, "gradient", nearest[0]))
    if not found and broken:
        found.append(_Trouble(report.iteration, 400_000, "weight", broken[0]))
    return found


def _was_broken_before(report: EpochReport, layer: str) -> bool:
    """Whether a weight was broken before the step that could have broken it: by something else than a gradient."""
    start = report.updates[layer]["weight_start"]
    return report.partial if start is None else not finite(start)


def _where(trouble: _Trouble) -> str:
    before, after = trouble.between
    after = "the model's output" if after == OUTPUT else after
    if after:
        return f"arises between {before} and {after}" if before else f"arises before {after}"
    return f"is in the {trouble.place}"


def _first_called(history: History, report: EpochReport) -> str | None:
    return next((name for name in report.signal if name not in (INPUT, OUTPUT)), None)


def _maker(report: EpochReport) -> str | None:
    """Whose output is the model's, as far as known."""
    return report.output.get("producer") or None


def exploding(history: History) -> Iterator[Finding]:
    """The signal grows from layer to layer before the first step, or gradient or loss grow far above their start.

    Needs the outputs of the layers in the first forward, or a loss whose start is known. Whether a loss that is not
    known may grow cannot be said. Tried on healthy losses that are negative or rise, of generators, policies and
    critics, on tied weights, depthwise convolutions, small embeddings and initial losses of large temperature.
    """
    yield from (_at_the_start(history) or _later(history) or _backwards(history))[:1]


def _backwards(history: History) -> list[Finding]:
    """The backward signal grows on its way from the last layer to the first ones, and nothing is learned."""
    way, t = history.way_back(history.last), history.thresholds
    if len(way) < 2 or not history.at_chance:
        return []
    names = list(way)
    largest = max(way, key=lambda name: way[name])
    ratio = way[largest] / way[names[-1]]
    if ratio < t.exploding_ratio:
        return []
    behind = names.index(largest)
    steps = {later: way[name] / way[later] for name, later in itertools.pairwise(names[behind:])}
    layer = max(steps, key=lambda name: steps[name])  # on its way through this one it grows most
    return [
        finding(
            history,
            "exploding",
            by_harm(history),
            f"backward signal at {largest} over that at {names[-1]}",
            ratio,
            t.exploding_ratio,
            "clip the norm of the gradients",
            "initialise recurrent weights orthogonally, or take an LSTM or a GRU",
            layer=layer,
            source="AUTOTRAINER (Zhang et al., ICSE 2021); Pascanu, Mikolov and Bengio 2013",
            when="on the way back",
        )
    ]


def _at_the_start(history: History) -> list[Finding]:
    if not history.from_the_start:
        return []
    signal = history.first.signal
    sizes = [(name, row["first_max_abs"]) for name, row in signal.items() if name != OUTPUT]
    sizes = [(name, size) for name, size in sizes if not finite(size) or size > 0]
    if len(sizes) < 3 or not finite(sizes[0][1]):
        return []
    begin = sizes[1][1] if sizes[0][0] == INPUT else sizes[0][1]
    peak = max((size for _, size in sizes[1:] if finite(size)), default=0.0)
    growth = peak / begin if finite(begin) else math.inf
    far = history.initial_loss is None or history.reference is None or history.initial_loss > 3 * history.reference
    known = history.constant_loss is not None
    if growth < history.thresholds.exploding_signal or (known and not far):
        return []
    steps = [(after / before, name) for (_, before), (name, after) in itertools.pairwise(sizes)]
    layer = next((name for ratio, name in steps if not finite(ratio) or ratio > 2.0), sizes[1][0])
    return [
        finding(
            history,
            "exploding",
            by_harm(history),
            "largest output of a layer over that of the first layer, before the first step",
            growth,
            history.thresholds.exploding_signal,
            "initialise the weights for this activation function (He for ReLU, Glorot for tanh)",
            "put normalisation layers between them",
            layer=layer,
            since=history.first.epoch,
            source="He et al. 2015",
            when="at initialisation",
        )
    ]


def _later(history: History) -> list[Finding]:
    growth = history.thresholds.exploding_growth
    starts = [v for v in (history.initial_loss, history.constant_loss, history.reference) if v is not None and v > 0]
    reference = max(starts, default=None)  # of a loss that begins below zero nothing can be many times as large
    judged = history.last.output and not history.is_sorted  # without outputs the loss may be meant to grow
    for report in history.reports if judged else ():
        peak, mean = report.loss.get("max"), report.loss.get("mean")
        lost = reference is not None and finite(peak) and peak > growth * reference and _rises(report)
        layer, ratio = _grown(history, report)
        risen = reference is not None and finite(mean) and mean > 2 * reference
        if not lost and not (risen and ratio > growth):
            continue
        standing = not history.learning
        value = peak / reference if lost and finite(peak) and reference else ratio
        return [
            finding(
                history,
                "exploding",
                "error" if standing else "warning",
                "largest loss over its start" if lost else "mean gradient over its start",
                value,
                growth,
                "lower the learning rate by a factor of ten",
                "clip the norm of the gradients",
                layer=layer,
                since=report.epoch,
                source="Pascanu, Mikolov and Bengio 2013; thresholds: ours",
                when="during training",
            )
        ]
    return []


def _rises(report: EpochReport) -> bool:
    """Whether the loss is high because it has become so: it began lower."""
    course = [value for value in report.loss.get("course", ()) if finite(value)]
    return (bool(course) and max(course) > 2 * course[0]) or report.loss.get("nonfinite", 0) > 0


def _grown(history: History, report: EpochReport) -> tuple[str | None, float]:
    """The layer whose gradient has grown most since the first epoch, or within the first one."""
    before, now = history.gradients(history.first), history.gradients(report)
    if report is history.first:
        peaks = {name: report.gradients[name]["max_abs"] for name in now}
        spread = statistics.median(now.values()) if now else 0.0
        layer = max(peaks, key=lambda name: peaks[name], default=None)
        return layer, (peaks[layer] / spread / 100 if layer and spread else 0.0)
    ratios = {name: value / before[name] for name, value in now.items() if before.get(name)}
    layer = max(ratios, key=lambda name: ratios[name], default=None)
    return layer, ratios[layer] if layer else 0.0
