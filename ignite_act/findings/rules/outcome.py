"""What shows in the scores: epoch means of both splits, the course of the loss."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator

from ignite_act.findings.history import History, finite, most_within
from ignite_act.findings.rule import by_harm, finding
from ignite_act.report import Finding

_FEW = 4
_ENOUGH = 20
_LOW = 0.3
"""A mean loss below this share of the reference is low: what is left may well be noise."""
_BARELY = 0.004
"""Share of the constant prediction's loss that a network learns of samples with wrong labels in a few epochs."""
_LEARNED_BY_HEART = 0.2
"""Training loss over its start that so few epochs reach on few samples only."""
_SAME_LOSS = 0.5
"""Factor between the first training and validation loss beyond which the two are not the same loss."""
_VARIES = 0.1
"""Standard deviation over the samples of a logit, or of an output over that of the targets, of a network that does."""
_FAR = 0.8
"""With so much progress a swinging loss does no harm worth a word."""
_SOLVED = 0.1
"""Mean loss in nats of a network that has found out that all samples have the same class."""
_ONE, _RANKING = 1.5, 2.5
"""Calls of a layer for each step of a network that is called once, or for two samples that are compared."""
_MEMORY = 0.4
"""Correlation of neighbouring values (lag 1) beyond that of independent batches ..."""
_DEVIATIONS = 3.0
"""... by so many standard deviations of what chance gives."""


def oscillation(history: History) -> Iterator[Finding]:
    """The loss goes up and down by a large part of itself and comes no further.

    Or what makes it do so is seen: the samples come sorted, or batch norm takes its means over two or three values.
    Needs a known loss over several epochs; of sorted samples, targets that the gradient tells; of batch norm, its
    modules. A swing within a batch of an unknown loss is not judged. Tried on healthy warm restarts, small and
    imbalanced batches, policies and full batches.
    """
    if history.is_sorted:
        row = history.last.output
        yield finding(
            history,
            "oscillation",
            by_harm(history),
            "entropy of the targets within a step over the most that it can be",
            row["entropy_within"] / most_within(row),
            history.thresholds.sorted_targets,
            "shuffle the training samples",
            since=history.first.epoch,
            source="Bengio 2012, Practical recommendations, section 3",
            sorted=True,
        )
        return
    normed = history.last.output.get("normed")
    if normed and max(normed.values()) < history.thresholds.few_values:
        layer = next(iter(normed))
        yield finding(
            history,
            "oscillation",
            by_harm(history, mistake=True),
            "values of a channel that batch norm takes its mean over",
            normed[layer],
            history.thresholds.few_values,
            "take larger batches, or a norm that does not mix samples (LayerNorm, GroupNorm)",
            layer=layer,
            since=history.first.epoch,
            source="Wu and He 2018, Group Normalization",
        )
        return
    level = history.reference
    if len(history.reports) < _FEW or not level or history.progress is None or history.progress > _FAR:
        return
    if history.falling:
        return
    swing = max(_within_epochs(history, level), _from_epoch_to_epoch(history.validation_losses, level))
    if swing < history.thresholds.oscillation:
        return
    yield finding(
        history,
        "oscillation",
        "info" if history.accurate else "warning",
        "deviation of the loss from its mean, over its mean",
        swing,
        history.thresholds.oscillation,
        "lower the learning rate or the momentum",
        "shuffle the training samples, take larger batches, or let the learning rate sink",
        since=history.reports[-_FEW:][0].epoch,
        source="AUTOTRAINER (Zhang et al., ICSE 2021)",
    )


def _within_epochs(history: History, level: float) -> float:
    """How much the training loss of the last epochs swings; 0 if only batches differ, or there is a trend.

    A loss that is not known, as that of a policy, may swing as it likes.
    """
    if history.constant_loss is None:
        return 0.0
    courses = [[v for v in report.loss.get("course", ()) if finite(v)] for report in history.reports[-_FEW:]]
    values = [value for course in courses for value in course]
    if len(values) < _ENOUGH or not _has_no_trend(values, level):
        return 0.0
    mean, spread = statistics.fmean(values), statistics.pvariance(values)
    pairs = [(a - mean) * (b - mean) for course in courses for a, b in itertools.pairwise(course)]
    memory = statistics.fmean(pairs) / spread if pairs and spread else 0.0  # of neighbours; 0 for independent batches
    train = [value for _, value in history.train_losses]
    risen = len(train) > _FEW and min(train[-2:]) > 1.25 * min(train)
    chance = _DEVIATIONS / max(len(pairs), 1) ** 0.5
    return float(spread**0.5 / mean) if abs(memory) > max(_MEMORY, chance) or risen else 0.0


def _from_epoch_to_epoch(losses: list[tuple[int, float]], level: float) -> float:
    """How much the validation loss, which knows no batches, swings over the last epochs; 0 if there is a trend."""
    values = [value for _, value in losses[-6:]]
    if len(values) < 6 or not _has_no_trend(values, level):
        return 0.0
    steps = [b - a for a, b in itertools.pairwise(values)]
    turns = sum(a * b < 0 for a, b in itertools.pairwise(steps))
    return statistics.fmean(map(abs, steps)) / statistics.fmean(values) if turns >= 2 else 0.0


def _has_no_trend(values: list[float], level: float) -> bool:
    """Whether a loss is not low and its second half is no better than the first one."""
    half = len(values) // 2
    before, after = statistics.fmean(values[:half]), statistics.fmean(values[half:])
    return min(values) > 0 and statistics.fmean(values) > _LOW * level and after > 0.85 * before


def overfitting(history: History) -> Iterator[Finding]:
    """The validation loss has risen over several epochs while the training loss fell far below it.

    Needs a validation loss over several epochs. Whether more data would help cannot be known, nor whether training and
    validation samples are of one kind. Tried on healthy runs that end above 95 %, with one bad epoch, with
    augmentation, dropout and label smoothing that keep the training loss up.
    """
    t, train, validation = history.thresholds, history.train_losses, history.validation_losses
    if len(validation) < t.patience + 1 or not train:
        return
    best_epoch, best = min(validation, key=lambda pair: (pair[1], pair[0]))
    (epoch, now), (_, fitted) = validation[-1], train[-1]
    if now <= 0 or fitted > now / 2 or history.stalled or (history.constant_loss is None and _by_heart(history)):
        return
    gap, settled = _gap(history), epoch - best_epoch >= t.patience
    rises = settled and now > t.overfit_rise * best and (gap is None or gap > t.overfit_gap / 2)
    before = [value for at, value in validation if at <= epoch - t.patience]
    stands = bool(before) and now > 0.95 * before[-1]
    if gap is None:  # a regression, say
        apart = stands and fitted < 0.1 * now and history.reference is not None and now > 0.25 * history.reference
    else:
        apart = stands and gap > t.overfit_gap
    if not rises and not apart:
        return
    yield finding(
        history,
        "overfitting",
        "warning",
        "validation loss over its lowest value" if rises or gap is None else "training minus validation accuracy",
        gap if gap is not None and not rises else now / best,
        t.overfit_gap if gap is not None and not rises else t.overfit_rise,
        f"stop at epoch {best_epoch}, where validation was best (early stopping)",
        "more data or augmentation, dropout, weight decay, a smaller network",
        since=best_epoch + 1,
        damage="the network learns the training samples by heart",
        source="Goodfellow, Bengio and Courville 2016, section 7.8",
        accuracy_gap=gap,
    )


def _gap(history: History) -> float | None:
    """Training accuracy minus validation accuracy in the last epoch."""
    train, validation = history.train_accuracies, history.scores("accuracy", "validation")
    together = train and validation and train[-1][0] == validation[-1][0]
    return train[-1][1] - validation[-1][1] if together else None


def over_regularised(history: History) -> Iterator[Finding]:
    """Training scores stay far below validation scores, or next to nothing is left by dropout.

    Needs accuracies of both splits over several epochs, or a dropout module. Penalties inside of the loss are not told
    from the rest of it. Tried on healthy augmentation that makes training harder than validation, on label smoothing
    and dropout of 0.5.
    """
    t, row = history.thresholds, history.last.output
    rate = row.get("dropout") or 0.0
    if rate >= t.dropout and history.progress is not None and history.progress < 0.5:
        quantity, value, threshold, layer = "dropout rate", rate, t.dropout, row["dropout_layer"]
        since, severity = history.first.epoch, by_harm(history, mistake=True)
    elif (found := _lags_behind(history)) is not None:
        quantity, layer = "validation accuracy minus training accuracy", None
        since, value, threshold = found
        severity = "warning"
    else:
        return
    yield finding(
        history,
        "over_regularised",
        severity,
        quantity,
        value,
        threshold,
        "lower the dropout rate or the weight decay",
        "make augmentation weaker",
        layer=layer,
        since=since,
        damage="the network is kept from fitting even the training samples",
        source="Srivastava et al. 2014 (rates of 0.2 to 0.5); thresholds: ours",
    )


def _lags_behind(history: History) -> tuple[int, float, float] | None:
    """First epoch, gap and threshold, if training accuracy stays below validation accuracy over several epochs."""
    t, gaps = history.thresholds, _gaps(history)
    later = [gap for epoch, gap in gaps if epoch > 1]  # in the first epoch training scores lag behind anyway
    lasting = [min(three) for three in zip(later, later[1:], later[2:], strict=False)]
    train, validation, level = history.train_losses, history.validation_losses, history.constant_loss
    if history.is_sorted or not lasting or not train or not validation or train[-1][1] < 1.05 * validation[-1][1]:
        return None
    hardly = (
        level is not None and train[-1][1] > 0.9 * level
    )  # in training mode nothing is learned, and yet something is
    limit = t.underfit_gap / 3 if hardly else t.underfit_gap
    best = max(value for _, value in history.scores("accuracy", "validation"))
    if max(lasting) < limit or later[-1] < limit / 2 or best < (history.chance or 0.0) + limit:
        return None
    return next(epoch for epoch, gap in gaps if gap >= limit), gaps[-1][1], limit


def _gaps(history: History) -> list[tuple[int, float]]:
    train = dict(history.train_accuracies)
    return [
        (epoch, value - train[epoch]) for epoch, value in history.scores("accuracy", "validation") if epoch in train
    ]


def labels_mismatch(history: History) -> Iterator[Finding]:
    """The labels are not those of the inputs.

    A column of outputs meets a row of targets; all samples of a step have one target, or all of them one class. Or the
    inside is healthy, the training samples are hardly or only by heart learned, and validation is no better than
    without any learning.

    Needs the graph of the loss, or a validation loss. That the labels are wrong cannot be known: the task may be too
    hard. So it is silent as soon as anything else is found, and while the validation loss goes on falling. Tried on
    healthy noisy labels, small samples, rankings, survival, contrastive losses and slow starts.
    """
    yield from _one_target(history) or _unlearnable(history)


def _one_target(history: History) -> list[Finding]:
    """Targets that are the same for all samples of a step, by a shape that is broadcast, or of all steps."""
    rows = [report.output for report in history.reports if report.output and report.output["backwards"] > 1]
    if any(head["pairs"] for head in history.heads):
        quantity, value = "share of the steps in which every output meets every target", 1.0
    elif not rows or not 0 < history.forwards_a_step <= _ONE:
        return []
    elif all(row.get("one_target") for row in rows):
        quantity, value = "share of the steps in which all samples have the same target", 1.0
    elif rows[-1]["majority"] == 1.0 and rows[-1]["units"] > 1 and (rows[-1]["mean_loss"] or 1.0) < _SOLVED:
        quantity, value = "share of the samples that have the same class", 1.0
    else:
        return []
    return [
        finding(
            history,
            "labels_mismatch",
            "error" if history.stalled else "warning",
            quantity,
            value,
            1.0,
            "compare the shapes: outputs (N, 1) and targets (N,) broadcast to (N, N), a mean over all pairs",
            "look at some samples with their labels",
            since=history.first.epoch,
            damage="there is nothing to learn from the inputs",
            all_alike=True,
        )
    ]


def _unlearnable(history: History) -> Iterator[Finding]:
    """The inside is healthy, the training samples are hardly or only by heart learned, and validation is at chance."""
    t, train, validation = history.thresholds, history.train_losses, history.validation_losses
    constant = history.constant_loss
    if history.progress is None or not train or not validation or not history.from_the_start or history.is_sorted:
        return
    if history.improving:
        return
    by_heart = _by_heart(history)
    accuracies = [value for _, value in history.scores("accuracy", "validation")]
    if accuracies and history.chance is not None and max(accuracies) > history.chance + 4 * t.chance:
        return
    learned = 1 - train[-1][1] / constant if history.is_squared and constant else history.progress
    hardly = history.ended and len(train) > t.patience and learned < t.learned
    if hardly and not _only_training(history) and not _tells_inputs_apart(history):
        hardly = False
    if not by_heart and not hardly:
        return
    yield finding(
        history,
        "labels_mismatch",
        "error" if constant and (by_heart or _only_training(history)) else "warning",
        "share of the constant prediction's loss that was learned away"
        if hardly
        else "lowest validation loss over that of a constant prediction",
        learned if hardly else min(value for _, value in validation) / (constant or history.initial_loss or 1.0),
        t.learned if hardly else 0.97,
        "look at some samples with their labels: were they shuffled, sorted or shifted apart?",
        "see that inputs and labels are taken with the same indices; if so, the task is too hard for this network",
        since=history.first.epoch,
        damage="there is nothing to learn that holds for other samples",
    )


def _by_heart(history: History) -> bool:
    """Whether the training samples are learned and validation was never better than without any learning.

    Of a loss that is not known, that is the validation loss in comparison to the first loss, and its own course.
    """
    t, train, validation = history.thresholds, history.train_losses, history.validation_losses
    if len(validation) <= t.patience or not train:
        return False
    values, constant = [value for _, value in validation], history.constant_loss
    trained = dict(train).get(validation[-1][0], train[-1][1])  # in the same epoch
    if constant is not None:
        return min(values) > 0.97 * constant and trained < 0.98 * min(train[0][1], constant)
    if not _SAME_LOSS * train[0][1] < values[0] < train[0][1] / _SAME_LOSS:
        return False  # what is called a loss in the evaluator is another number: a policy's reward, say
    start, accuracies = history.initial_loss, [value for _, value in history.scores("accuracy", "validation")]
    if (
        not 0 < history.forwards_a_step < _RANKING
        or not start
        or start <= 0
        or (accuracies and _gains(accuracies, t.chance))
    ):
        return False
    fell = (
        _LEARNED_BY_HEART * train[0][1] < trained < (1 - t.learned) * train[0][1]
    )  # lower with few samples: overfitting
    return fell and min(values) > 0.97 * start and values[-1] > min(values) * (1 + t.stalled)


def _gains(accuracies: list[float], least: float) -> bool:
    return max(accuracies) - accuracies[0] > least


def _only_training(history: History) -> bool:
    """Whether the training loss came a little below that of a constant prediction, and the validation loss did not."""
    train, validation, constant = history.train_losses, history.validation_losses, history.constant_loss
    if not validation or not constant:
        return False
    fell = train[-1][1] < train[0][1] and train[-1][1] < (1 - _BARELY) * constant
    return fell and validation[-1][1] - train[-1][1] > _BARELY * constant


def _tells_inputs_apart(history: History) -> bool:
    """Whether the outputs depend on the inputs: the network has found something, but nothing that helps."""
    row = history.last.output
    scale = row["target_variance"] ** 0.5 if history.is_squared else 1.0
    return finite(row.get("variation")) and row["variation"] > _VARIES * scale


def plateau(history: History) -> Iterator[Finding]:
    """The run is over and never did better than a constant prediction.

    Needs a loss that is known, or one on validation samples that has stopped falling. It is a symptom: the cause is
    among the other findings, or is not known. Tried on healthy one-epoch runs, warm-ups, policies and adversaries.
    """
    if not history.ended or not history.stalled or len(history.reports) < history.thresholds.patience:
        return
    progress = history.progress
    yield finding(
        history,
        "plateau",
        "warning",
        "share of the constant prediction's loss that was learned away",
        progress,
        history.thresholds.stalled,
        "look at the findings above; without any, try another initialisation, learning rate or architecture",
        since=history.first.epoch,
    )
