"""What can be seen before the first step."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from ignite_act.findings.history import INPUT, OUTPUT, History, finite
from ignite_act.findings.rule import by_harm, finding
from ignite_act.report import Finding

_PASSED_ON = 0.05
"""Largest first output of the first layer over an input, if that input is what makes it large."""
_SQUARED = 1.4
"""Squared errors begin further above that of a constant: their targets need not have a mean of 0."""


def input_scale(history: History) -> Iterator[Finding]:
    """Inputs that are far from a mean of 0 and a deviation of 1, where the first layer does not make up for it.

    Needs inputs that are numbers, in the first window; of tensors beside the data, their largest value. What a model
    does with an input inside of its code is seen by the first layer only. Tried on healthy networks that normalise
    their inputs themselves, tokens, indices, masks, and time steps behind an embedding.
    """
    row = history.first.signal.get(INPUT)
    if row is None or not row["continuous"] or not finite(row["std"]) or not history.from_the_start:
        return
    t = history.thresholds
    mean, std, peak = row["mean"], row["std"], row["first_max_abs"]
    after = next((r["first_max_abs"] for name, r in history.first.signal.items() if name not in (INPUT, OUTPUT)), peak)
    shown_at = t.input_std / 2
    shown = finite(after) and after > shown_at  # otherwise the network scales them itself
    if (std > t.input_std or peak > t.input_max) and shown:
        quantity, value, threshold = "standard deviation of the inputs", std, t.input_std
        if std <= t.input_std:
            quantity, value, threshold = "largest absolute input", peak, t.input_max
    elif (other := max(row["others"], key=lambda place: row["others"][place], default="")) and (
        row["others"][other] > t.input_max
        and finite(after)
        and after > max(_PASSED_ON * row["others"][other], shown_at)
    ):
        quantity, value, threshold = f"largest absolute value of the input {other}", row["others"][other], t.input_max
    elif abs(mean) > max(t.input_offset * std, t.input_offset / 5) and shown:
        quantity, value, threshold = (
            "mean of the inputs over their deviation",
            abs(mean) / max(std, 1e-30),
            t.input_offset,
        )
    elif std < t.input_tiny and peak < 10 * t.input_tiny and not history.learning:
        quantity, value, threshold = "standard deviation of the inputs", std, t.input_tiny
    else:
        return
    yield finding(
        history,
        "input_scale",
        by_harm(history, mistake=True),
        quantity,
        value,
        threshold,
        "subtract the mean and divide by the standard deviation of the training data",
        "or put a normalisation layer in front",
        layer=next((name for name in history.first.signal if name not in (INPUT, OUTPUT)), None),
        since=history.first.epoch,
        source="LeCun, Bottou, Orr and Müller 1998",
        mean=mean,
        std=std,
        largest=peak,
    )


def initial_loss(history: History) -> Iterator[Finding]:
    """The loss begins far above that of a constant prediction: the first outputs are wrong and sure of it.

    Or the targets are on a scale that the outputs do not reach: by the targets of a squared error, the size of another
    distance, or by how far the outputs have to grow.

    Needs the first window and a loss. What the best constant is, is known of likelihoods and squared errors only. Tried
    on healthy temperatures, fine-tuning, focal priors, and heads that begin at 0.
    """
    if history.is_squared and history.stalled:
        yield from _far_targets(history)
    if not history.is_squared and history.stalled:
        yield from _far_by_the_loss(history)
    yield from _grown_outputs(history)
    start, constant = history.first.output.get("first_loss"), history.inner_constant
    if history.is_squared or not finite(start):
        start, constant = history.initial_loss, history.constant_loss
    if not history.from_the_start or not finite(start) or not constant or constant < 1e-6 or history.is_sorted:
        return  # of sorted samples the first batch is of one class
    ratio = start / constant
    if ratio < history.thresholds.initial_loss * (_SQUARED if history.is_squared else 1.0):
        return
    if not history.is_squared and start < constant + 1:
        return
    yield finding(
        history,
        "initial_loss",
        "info" if history.learning else "warning",
        "loss of the first batch over that of a constant prediction",
        ratio,
        history.thresholds.initial_loss,
        "make the weights of the last layer smaller at the start, and its bias 0",
        "see that the loss is a mean over the samples, not a sum",
        layer=history.output_layer,
        since=history.first.epoch,
        source="Karpathy, A recipe for training neural networks, 2019; TheDeepChecker",
        initial=start,
        constant=constant,
    )


def _grown_outputs(history: History) -> Iterator[Finding]:
    """Of a loss that is not known, the outputs tell how far the targets are: they have grown to reach them."""
    t, first = history.thresholds, history.first.signal.get(OUTPUT, {}).get("first_max_abs")
    if not history.from_the_start or history.constant_loss is not None or history.is_squared or not finite(first):
        return
    scale = history.last.output.get("scale")
    if any(statistics.median(ratios.values()) > t.update_large for _, ratios in history.early_ratios if ratios):
        return  # they have been thrown there
    if not first or not finite(scale) or (history.progress or 0.0) <= 0 or scale < t.grown_outputs * max(first, 1.0):
        return
    yield _targets_are_far(history, "largest output now over that of the first forward", scale / first, t.grown_outputs)


def _far_by_the_loss(history: History) -> Iterator[Finding]:
    """Of a distance that is no mean squared error: an absolute error, or a robust one, is no smaller than this."""
    t, row, start = history.thresholds, history.first.output, history.initial_loss
    own = history.first.signal.get(OUTPUT, {}).get("first_max_abs")
    if not row.get("distance") or not finite(own) or not own or start is None or start <= 0:
        return
    error = min(start, start**0.5)
    if error < t.target_scale * max(own, 1.0):
        return
    yield _targets_are_far(
        history,
        "size of the first errors over the largest first output",
        error / own,
        t.target_scale,
    )


def _far_targets(history: History) -> Iterator[Finding]:
    row = history.first.output
    spread, own = row["target_variance"] ** 0.5, row["variation"]
    if not history.from_the_start or not finite(own) or own <= history.thresholds.nearly_constant * row["scale"]:
        return  # a constant output is another matter
    if spread < max(history.thresholds.target_scale * own, history.thresholds.input_std):
        return
    yield _targets_are_far(
        history,
        "standard deviation of the targets over that of the first outputs",
        spread / own,
        history.thresholds.target_scale,
    )


def _targets_are_far(history: History, quantity: str, value: float, threshold: float) -> Finding:
    return finding(
        history,
        "initial_loss",
        by_harm(history),
        quantity,
        value,
        threshold,
        "standardise the targets: subtract their mean, divide by their standard deviation",
        layer=history.output_layer,
        since=history.first.epoch,
        source="LeCun, Bottou, Orr and Müller 1998, for inputs",
    )
