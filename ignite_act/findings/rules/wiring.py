"""What is put together wrongly: gradients that do not arrive, are not used or not cleared, losses and outputs that do
not belong together, layers that say the same."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator

from ignite_act.findings.history import INPUT, OUTPUT, History, Row, finite
from ignite_act.findings.rule import by_harm, finding, harm
from ignite_act.report import EpochReport, Finding, Severity

_NOT_CALLED = ("no activation function was called in the model's forwards", "it was not called in this window")
_NO_WIDER = 1.1
"""How much wider than at its start a point of vectors may become and still count as one."""
_BLOCKED = 0.02
"""Share of the outputs that are exactly 0 and that the loss wants below 0: of targets that are not negative, none."""


def never_updated(history: History) -> Iterator[Finding]:
    """A weight has a gradient and stays as it is: no optimizer owns it, or its learning rate is 0.

    Needs the weights at both ends of a window and whether they had a gradient. Who changes a weight does not matter;
    whether it is meant to stay, nobody knows. Tried on healthy frozen parts, updates by hand, master copies, loss
    scalers that skip steps, layers that take turns, sharded weights and warm-ups from 0.
    """
    updates = history.last.updates
    trainable = [name for name in history.layers if updates.get(name, {}).get("trainable")]
    stepped = any(row["stepped"] for row in updates.values())
    still = [name for name in trainable if _stays(history.last, name, stepped=stepped)]
    if not still:
        return
    if not stepped:
        advice = ("call optimizer.step() after backward()", "build the optimizer from the parameters of this model")
    elif not all(updates[name].get("registered", True) for name in still):
        advice = ("register the layer: a plain list or dict hides it, nn.ModuleList and nn.ModuleDict do not",
                  "then build the optimizer from model.parameters()")  # fmt: skip
    else:
        advice = ("give its parameters to the optimizer, with a learning rate above 0",
                  "if it is meant to stay as it is, set requires_grad to False")  # fmt: skip
    yield finding(
        history,
        "never_updated",
        by_harm(history),
        "update ratio of a weight that has a gradient",
        0.0,
        0.0,
        *advice,
        layer=still[0] if stepped or len(still) == 1 else None,
        since=history.since(lambda report: all(_stays(report, name, stepped=stepped) for name in still)),
        layers=still,
    )


def _stays(report: EpochReport, name: str, *, stepped: bool) -> bool:
    """Whether a weight had a gradient, and is at the end of the window what it was at its beginning.

    Who changes a weight does not matter: by hand, from a master copy, in another process. Where it is not known whether
    it has moved, nothing is said.
    """
    row = report.updates.get(name)
    if row is None or not row["trainable"] or row["moved"] is not False:
        return False
    if not stepped:  # a loss scaler may have left all steps out
        skipped = any(own["skipped_steps"] for own in report.gradients.values())
        arrived = row["gradient_left"] or row["nonzero"]
        return report.output.get("backwards", 0) > 0 and arrived and not skipped
    if not row["owned"]:
        return bool(row["present"] > 0 or row["gradient_left"])
    return row["nonzero"] and row["steps"] > 0 and not row["learning_rate"]


def no_gradient(history: History) -> Iterator[Finding]:
    """A trainable weight gets None or exactly 0 as its gradient in every step; frozen weights are worth knowing.

    It is an error only where the network is known not to learn. A layer after which no other one gets a gradient is a
    head that the loss does not use: nobody is cut off. So is a single one between layers that have a gradient, as the
    pooler of a language model before a head of the user's, unless the network stalls.

    Needs the steps of an optimizer. Whether a layer that is left out is meant to be, cannot be known. Tried on healthy
    unused heads, satisfied margins, adapters that begin at 0, inputs of zeros, experts and layers that take turns.
    """
    updates = history.last.updates
    cut = [name for name in history.layers if _has_none(history.last, name)]
    reached = [index for index, name in enumerate(history.layers) if updates.get(name, {}).get("nonzero")]
    last_reached = history.layers[reached[-1]] if reached else None
    used = [
        name
        for name in cut
        if history.was_called(name)
        and _comes_before(history, name, last_reached)
        and (history.stalled or not _is_side_branch(history, name))
    ]
    used = [name for name in used if not _is_side_branch(history, name)] or used  # what is cut off for another reason
    idle = [name for name in cut if history.was_called(name) and name not in used]
    unused = [name for name in cut if not history.was_called(name)]
    stepped = [name for name, row in updates.items() if row["owned"]]
    if used:
        missing = [name for name in used if not updates[name]["present"]]
        everything = set(used) >= set(stepped)
        aside = all(_is_side_branch(history, name) for name in used)  # all the others have a gradient
        yield finding(
            history,
            "no_gradient",
            "warning" if aside else _severity_of_none(history, missing=bool(missing), everything=everything),
            "gradient of a trainable weight",
            "None" if missing else 0.0,
            "other than 0",
            "look for detach(), .data, .item(), torch.no_grad() or a NumPy call between this layer and the loss"
            if missing
            else "look for what multiplies the gradient by 0 behind this layer: dead or saturated units, weights of 0",
            "if it is meant to stay as it is, set requires_grad to False",
            layer=used[-1],
            since=history.since(lambda report: all(_has_none(report, name) for name in used)),
            damage="nothing is learned" if everything else "the layers before the cut do not learn",
            layers=used,
            aside=aside,
        )
    frozen = [name for name in history.layers if updates.get(name) and not updates[name]["trainable"]]
    for names, reason, meant in (
        (frozen, "frozen: requires_grad is False", True),
        (unused, "no forward was seen to call it", True),
        (idle, "called, but the loss does not depend on it", True),
        (_lost(history), "has a gradient so small that every step is lost in rounding", False),
    ):
        if names and not used:
            yield finding(
                history,
                "no_gradient",
                "info",
                reason,
                len(names),
                0,
                "nothing to do if this is meant"
                if meant
                else "look at what makes it so small: a gate, a router, a factor",
                layer=names[0],
                since=history.first.epoch,
                damage="none if it is meant" if meant else "it stays as it is",
                layers=names,
                meant=meant,
            )


def _severity_of_none(history: History, *, missing: bool, everything: bool) -> Severity:
    """Nothing moves where no weight has a gradient; a single gradient of 0 may be that of a problem that is solved."""
    if everything and (missing or history.at_chance) and not history.learning:
        return "error"
    return by_harm(history) if missing or everything or history.stalled else "info"


def _lost(history: History) -> list[str]:
    """The layers with a gradient and a learning rate that stayed as they are while others moved."""
    rows = {name: history.last.updates[name] for name in history.layers if name in history.last.updates}
    if not any(row["moved"] for row in rows.values()):
        return []
    return [
        name
        for name, row in rows.items()
        if row["trainable"] and row["owned"] and row["nonzero"] and row["learning_rate"] and row["moved"] is False
    ]


def _comes_before(history: History, name: str, other: str | None) -> bool:
    """Whether a layer is called before another one; true where there is no other one."""
    return other is None or history.layers.index(name) < history.layers.index(other)


def _is_side_branch(history: History, name: str) -> bool:
    """Whether a layer never had a gradient while those called right before and right after it did, be it of 0."""
    updates, index = history.last.updates, history.layers.index(name)
    around = [history.layers[other] for other in (index - 1, index + 1) if 0 <= other < len(history.layers)]
    return not updates[name]["present"] and len(around) == 2 and all(updates[own]["present"] for own in around)


def _has_none(report: EpochReport, name: str) -> bool:
    """Whether a weight that an optimizer owns had no gradient other than 0 in any step of a window."""
    row = report.updates.get(name)
    return bool(row and row["trainable"] and row["owned"] and not row["nonzero"] and row["missing"] + row["present"])


def uncleared_gradient(history: History) -> Iterator[Finding]:
    """The gradients of the last step are still there when the next backward begins, and are added to.

    Needs sampled steps. Tried on healthy accumulation, several backwards a step, several optimizers, closures and
    gradients that are exactly 0.
    """
    telling = [
        report
        for report in history.reports
        if any(row["cleared"] + row["uncleared"] for row in report.updates.values())
    ]
    if not telling:
        return
    updates = telling[-1].updates  # a gradient of 0, of a dead network say, tells nothing
    left = [name for name in history.layers if _is_uncleared(telling[-1], name)]
    if not left or sum(updates[name]["uncleared"] for name in left) < 2:
        return
    looked_at = [name for name, row in updates.items() if row["cleared"] + row["uncleared"]]
    yield finding(
        history,
        "uncleared_gradient",
        by_harm(history, mistake=True),
        "sampled steps whose gradient was not cleared",
        updates[left[0]]["uncleared"],
        0,
        "call optimizer.zero_grad() before every backward(), or after every step",
        "every optimizer clears only what it owns" if len(left) < len(looked_at) else "model.zero_grad() does it, too",
        layer=left[0] if len(left) < len(looked_at) else None,
        since=next(report.epoch for report in history.reports if any(_is_uncleared(report, name) for name in left)),
        layers=left,
    )


def _is_uncleared(report: EpochReport, name: str) -> bool:
    row = report.updates.get(name)
    return bool(row and row["uncleared"] and not row["cleared"])


def loss_rising(history: History) -> Iterator[Finding]:
    """The loss is maximised: its gradient at the outputs points away from the targets, or it only ever rises.

    Needs a loss that is known, steps that go along the gradient from the start on, or a loss on validation samples.
    Whether a loss that is not known is meant to rise cannot be known. Tried on healthy scores with ``maximize=True``,
    generators, policies, critics, likelihoods below 0 and losses on labelled samples only.
    """
    t = history.thresholds
    shares = [share for report in history.reports if (share := _against(report)) is not None]
    seen = bool(shares) and min(shares) > 0.5  # momentum may carry on for a while, but not from the start
    against = shares[-1] if seen else 0.0
    maximised = history.maximised
    if history.learning or (maximised and seen and against > 0.9):  # the one is made up for by the other
        return
    if maximised:
        quantity, value, threshold = "steps that go away from the targets, by the outputs' gradient, share", 1.0, 0.0
    elif seen and against > 0.9:
        quantity, value, threshold = "share of the steps that go along the gradient", against, 0.9
    elif maximised is None and (rise := _rise(history, t.patience)) is not None:
        quantity, value, threshold = "loss over that of the first epoch, rising in every epoch", rise, 1.0
    else:
        return
    yield finding(
        history,
        "loss_rising",
        "error" if history.stalled or (history.progress or 0.0) < -t.stalled else "warning",
        quantity,
        value,
        threshold,
        "check the sign of the loss, and that the optimizer has not maximize=True",
        "a score that is to be maximised needs a minus",
        since=history.first.epoch,
        damage="the network learns the opposite",
    )


def _against(report: EpochReport) -> float | None:
    """Share of the steps that went along the gradient; None if there were too few."""
    rows = [row for row in report.updates.values() if row["steps"]]
    steps = sum(row["steps"] for row in rows)
    return sum(row["against"] for row in rows) / steps if steps >= 2 * len(rows) > 0 else None


def _rise(history: History, patience: int) -> float | None:
    """Last loss over the first one if a loss has risen in every epoch from the start on."""
    if not history.from_the_start or not history.last.output:
        return None  # without outputs it may be anything: a generator's loss rises while its discriminator learns
    if history.constant_loss is None and not history.validation_losses:
        return None  # that of a policy rises with its rewards
    falling_below_zero = bool(history.train_losses) and history.train_losses[-1][1] < 0
    courses = [history.train_losses] if not falling_below_zero else [history.validation_losses]
    for course in courses:
        values = [value for _, value in course]
        if len(values) < patience or any(b <= a for a, b in itertools.pairwise(values)):
            continue
        start = history.initial_loss if history.initial_loss and not falling_below_zero else values[0]
        if values[0] > 0 and start and values[0] > start and values[-1] > 1.2 * values[0] and not _is_hasty(history):
            return values[-1] / values[0]
    return None


def _is_hasty(history: History) -> bool:
    """Whether the first steps were so large that a minimised loss may rise as well."""
    ratios = [row["first_ratio"] for row in history.first.updates.values() if finite(row["first_ratio"])]
    return bool(ratios) and statistics.median(ratios) > history.thresholds.update_large


def output_probabilities(history: History) -> Iterator[Finding]:
    """Probabilities and logits are mixed up.

    The outputs are probabilities already and the loss applies a softmax or a sigmoid again. Or the loss takes what it
    gets for logarithms of probabilities (`NLLLoss`, `CTCLoss`), and they are none.

    Needs the graph of the loss, or a loss that its gradient tells; a loss that is written by hand in one kernel is not
    seen. Tried on healthy mixtures, focal and contrastive losses, distillation, temperatures and rankings.
    """
    for row in history.heads:
        yield from _probabilities(history, row)
    row = history.last.output
    takes_logarithms = bool(row) and row["loss_applies"] == "nothing" and row["units"] > 1 and history.is_linear
    taken = next((own["takes_logarithms_of"] for own in history.heads if own["takes_logarithms_of"]), "")
    if taken or (takes_logarithms and not row["logarithms"]):
        yield finding(
            history,
            "output_probabilities",
            by_harm(history, mistake=True),
            "share of outputs that are log-probabilities, which the loss expects",
            0.0,
            "all",
            "put a log_softmax before the loss, or use CrossEntropyLoss, which expects logits",
            layer=_made_in(history, row),
            since=history.first.epoch,
            made_by=taken or row["function"],
        )


def _made_in(history: History, row: Row) -> str | None:
    """Where an output was made: the module, the site of a function, or the last layer."""
    function = row["function"]
    return row["producer"] or (function if function in history.last.activations else history.output_layer)


def _is_doubtful(history: History, row: Row) -> bool:
    """Whether a loss that seems to be maximised falls: then it is another one than it seems to be."""
    return bool(row.get("maximised")) and (history.progress or 0.0) > 0


def _probabilities(history: History, row: Row) -> Iterator[Finding]:
    applies, function = row["loss_applies"], row["function"]
    if row["applies_again"]:
        applies, doubled = row["applies_again"], True
    elif _is_doubtful(history, row):
        return
    elif applies == "softmax":
        doubled = row["units"] > 1 and row["probabilities"] > 0.99
    elif applies == "sigmoid":
        doubled = function in ("sigmoid", "softmax", "hardsigmoid") and row["probabilities"] > 0.99
        doubled = doubled and (row["units"] > 1 or function != "softmax")
    else:
        return
    if doubled:
        yield finding(
            history,
            "output_probabilities",
            by_harm(history, mistake=True),
            f"share of outputs that are probabilities before the loss applies a {applies}",
            1.0 if row["applies_again"] else row["probabilities"],
            0.99,
            f"leave out the {function or applies} before the loss: it expects logits",
            "or take a loss of probabilities: NLLLoss of log-probabilities, BCELoss",
            layer=_made_in(history, row),
            since=history.since(lambda report: report.output.get("probabilities", 0) > 0.99)
            if not row["applies_again"]
            else history.first.epoch,
            source="UMLAUT (Schoop et al., CHI 2021)",
        )


def output_activation(history: History) -> Iterator[Finding]:
    """An activation function cuts the logits, of which the loss expects the whole axis, or the targets lie beyond it.

    Needs the function that made the output, or outputs of exactly 0 that the loss wants below. Tried on healthy
    sigmoids and ReLUs whose targets lie within their reach, and on temperatures and focal losses.
    """
    for row in history.heads:
        yield from _cut_off(history, row)


def _cut_off(history: History, row: Row) -> Iterator[Finding]:
    if not row or any(_probabilities(history, row)) or row["function"] == "log_softmax":
        return
    if row["function"] == "softmax" and not history.is_robust:
        return
    function, logits = row["function"], row["loss_applies"] in ("softmax", "sigmoid")
    logits = logits and not _is_doubtful(history, row)
    logits = logits and not history.is_squared
    blocked = row["min"] == 0.0 and (row["blocked"] or 0.0) > _BLOCKED and bool(function or row["max"])
    beyond = bool(function) and row is history.last.output and (history.is_squared or history.is_robust)
    beyond = beyond and (row["beyond"] or 0.0) > _BLOCKED
    if not blocked and not beyond and not (logits and function):
        return
    threshold: float | str = _BLOCKED
    if beyond:
        quantity, value, threshold = f"share of the targets that {function} cannot reach", row["beyond"], _BLOCKED
    elif blocked:
        quantity, value, threshold = (
            "share of the outputs that are cut off at 0 and should be below",
            row["blocked"],
            _BLOCKED,
        )
    else:
        quantity, value, threshold = (
            f"outputs behind {function} that the loss takes for logits, lowest",
            row["min"],
            "any",
        )
    yield finding(
        history,
        "output_activation",
        by_harm(history, mistake=True),
        quantity,
        value,
        threshold,
        f"leave out the {function or 'cut'} at the end of the network: "
        + ("logits need the whole axis" if logits else "some targets lie beyond it"),
        layer=row["producer"] or function or None,
        since=history.since(lambda report: report.output.get("function") == row["function"]),
        source="UMLAUT (Schoop et al., CHI 2021)",
        function=function,
    )


def hidden_softmax(history: History) -> Iterator[Finding]:
    """A softmax feeds the next layer: its outputs compete and are small.

    Needs calls of layers that are not compiled. Tried on healthy attention, mixtures of experts and gates, where a
    softmax weighs values instead of feeding a layer.
    """
    layer = history.last.output.get("hidden_softmax")
    if layer:
        yield finding(
            history,
            "hidden_softmax",
            by_harm(history),
            "layers that a softmax feeds",
            1,
            0,
            "take ReLU, GELU or another activation function that works on each unit by itself",
            layer=layer,
            since=history.since(lambda report: bool(report.output.get("hidden_softmax"))),
            source="UMLAUT (Schoop et al., CHI 2021)",
        )


def constant_output(history: History) -> Iterator[Finding]:
    """The output is the same for all samples, or next to it while nothing is learned.

    A loss that is not known may be the lower for it: vectors that collapse are close to each other. There an output
    that is nearly constant is a warning however far the loss falls. And latents that are drawn may carry nothing.

    Needs several forwards with more than one sample. Tried on healthy values far from 0, young embeddings, normalised
    outputs, autoencoders with drawn latents, and generators.
    """
    row = history.last.output
    if not _is_constant(history, history.last):
        yield from _collapsed_latents(history)
        return
    one_unit = row["units"] == 1 and row["function"] == "softmax"
    yield finding(
        history,
        "constant_output",
        by_harm(history, mistake=row["loss_applies"] in (None, "unknown")),
        *_variation(history, row),
        "a softmax over one unit is always 1: take a sigmoid, or two units"
        if one_unit
        else "look for what the input is lost in: dead or saturated layers, weights of 0, a wrong axis",
        layer=row["producer"] or row["function"] or (history.layers[0] if len(history.layers) == 1 else None),
        since=history.since(lambda report: _is_constant(history, report)),
        damage="the network cannot tell inputs apart",
    )


def _variation(history: History, row: Row) -> tuple[str, float, float]:
    """What shows that the output is constant: quantity, value and threshold."""
    limit, value = _constant_limit(history, row), row["variation"] / row["scale"] if row["scale"] else 0.0
    if value > limit:
        return (
            "variance of the directions of the outputs",
            row["spread"],
            history.thresholds.collapsed_spread,
        )
    return "standard deviation of the output over the samples, over its size", value, limit


def _is_constant(history: History, report: EpochReport) -> bool:
    row = report.output
    if not row or not finite(row["variation"]) or row["forwards"] < 2:
        return False
    if _is_point(history, report):
        return True
    return bool(row["variation"] <= _constant_limit(history, row) * row["scale"])


def _is_point(history: History, report: EpochReport) -> bool:
    """Whether vectors of which the direction counts point all the same way, no less than in the beginning."""
    row, start = report.output, history.first.output
    if (
        not (row["unit_norm"] or row["normalises"])
        or row["units"] < 3
        or (report is history.first and not history.ended)
        or not start
    ):
        return False
    return bool(row["spread"] < min(history.thresholds.collapsed_spread, start["spread"] * _NO_WIDER))


def _collapsed_latents(history: History) -> Iterator[Finding]:
    """Values drawn inside of the network whose mean does not depend on the sample: what is read from them is noise."""
    t = history.thresholds
    rows = [report.output.get("latents", {}) for report in history.reports[-t.patience :]]
    asleep = [name for name in rows[-1] if all(own.get(name, math.inf) < t.latent_nats for own in rows)]
    if not asleep or len(rows) < t.patience:
        return
    yield finding(
        history,
        "constant_output",
        by_harm(history, mistake=True),
        "information of the latents about their sample, nats",
        rows[-1][asleep[0]],
        t.latent_nats,
        "weigh the divergence from the prior less, or let its weight grow from 0 (KL annealing, free bits)",
        "see that both terms of the loss are sums, or both means, over the same values",
        layer=asleep[0],
        since=history.since(lambda report: report.output.get("latents", {}).get(asleep[0], math.inf) < t.latent_nats),
        damage="the latents carry nothing (posterior collapse)",
        latents=True,
        source="Bowman et al. 2016 (posterior collapse)",
    )


def _constant_limit(history: History, row: Row) -> float:
    """How much an output that counts as constant may vary, over its size."""
    t = history.thresholds
    if history.stalled:
        return t.nearly_constant
    unknown = row["loss_applies"] in (None, "unknown") and not history.is_squared
    return t.collapsed_output if unknown else t.constant_output


def symmetry(history: History) -> Iterator[Finding]:
    """Units of a layer have equal weights, get equal gradients and stay equal.

    Needs the weights before the first step. Tried on healthy heads and adapters that begin at 0, and on
    position tables.
    """
    if not history.from_the_start:
        return
    t = history.thresholds
    shares = {name: _equal(history, history.last, name) for name in history.layers}
    alike = {name: share for name, share in shares.items() if share >= t.equal_rows}
    begun = {name: share for name in history.layers if (share := _equal_at_the_start(history, name)) >= t.equal_rows}
    if not alike and 2 * len(begun) > len(history.layers) and (history.progress is None or history.progress < 0.5):
        alike = begun  # biases may make them a little different later
    if not alike:
        return
    layer = next(iter(alike))
    yield finding(
        history,
        "symmetry",
        by_harm(history),
        "share of the rows of a weight that equal another one",
        alike[layer],
        history.thresholds.equal_rows,
        "initialise weights at random: zeros are for biases",
        layer=layer,
        since=history.first.epoch,
        damage=f"the units of {layer} do the work of one; {harm(history)}",
        source="Goodfellow, Bengio and Courville 2016, section 8.4",
        layers=list(alike),
    )


def _equal(history: History, report: EpochReport, name: str) -> float:
    row = report.updates.get(name)
    if row is None or not row["trainable"] or not row["owned"]:
        return 0.0
    if _equal_at_the_start(history, name) < history.thresholds.equal_rows:
        return 0.0  # they have become equal: something else has happened to them
    return 0.0 if _has_collapsed(history, report, name) else float(row["equal_rows"])


def _equal_at_the_start(history: History, name: str) -> float:
    row = history.first.updates.get(name, {})
    share = row.get("equal_rows_start") if row.get("trainable") else 0.0
    return float(share) if share is not None else float(row["equal_rows"])


def weight_collapse(history: History) -> Iterator[Finding]:
    """Weights have shrunk to next to nothing while the network learns nothing or gets worse: decay is too strong.

    Needs the weights from the first step on and a loss. Before a normalisation layer the size of a weight means
    nothing, so a loss that falls is enough to be silent. Tried on healthy decay of usual strength, with
    and without normalisation layers.
    """
    fallen = [name for name in history.layers if _has_collapsed(history, history.last, name)]
    if not fallen or (history.learning and not history.worsened):
        return
    shares = {name: history.last.updates[name]["weight"] / _start(history, name) for name in fallen}
    worst = min(shares, key=lambda name: shares[name])
    yield finding(
        history,
        "weight_collapse",
        by_harm(history, mistake=True),
        "mean absolute weight over its start",
        shares[worst],
        history.thresholds.collapsed,
        "lower the weight decay (and the learning rate, by which it is multiplied)",
        layer=worst,
        since=history.since(lambda report: _has_collapsed(history, report, worst)),
        layers=fallen,
    )


def _start(history: History, name: str) -> float:
    start = history.first.updates.get(name, {}).get("weight_start")
    return float(start) if start else 0.0


def _has_collapsed(history: History, report: EpochReport, name: str) -> bool:
    row = report.updates.get(name)
    start = _start(history, name)
    return bool(row and row["owned"] and start and row["weight"] < history.thresholds.collapsed * start)


def no_nonlinearity(history: History) -> Iterator[Finding]:
    """Two layers or more and no activation function between them: together they are one linear layer.

    Tables of vectors whose product is the output are none, and attention is none either: its softmax is no line. What
    is computed by hand is not seen. Tried on healthy factorisations, linear probes, mixtures and attention.
    """
    report = history.last
    if report.output.get("attention"):
        return
    layers = [name for name in report.signal if name not in (INPUT, OUTPUT)]
    coverage = report.coverage.get("activations")
    if coverage is None or coverage["seen"] or not all(map(_was_not_called, coverage["unseen"].values())):
        return
    if len(layers) > 1 and (INPUT in report.signal or report.output.get("producer") in layers):
        yield finding(
            history,
            "no_nonlinearity",
            "error" if history.stalled else "info",
            "activation functions that were called between the layers",
            0,
            1,
            "put one behind every layer but the last",
            since=history.first.epoch,
            damage="the network can learn linear functions only (what is computed by hand is not seen)",
        )


def _was_not_called(reason: str) -> bool:
    return reason.startswith(_NOT_CALLED)
