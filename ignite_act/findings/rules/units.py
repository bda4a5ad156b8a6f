"""Units that no longer take part."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from ignite_act.findings.history import History, finite
from ignite_act.findings.rule import by_harm, finding
from ignite_act.report import EpochReport, Finding, Severity

_UNITS = "share of the units that are saturated on more than 99 % of the samples"
_HOLDS = 0.7
"""What is found stands until it falls below this share of its threshold: else it would come and go."""
_ENOUGH = 30
"""Steps that a window which was cut short must have had: over few samples many units look dead."""


def dead_units(history: History) -> Iterator[Finding]:
    """Units whose derivative was exactly zero on every sample of the epoch.

    Needs the calls of functions with a flat piece, over all steps. Units that are dead for the training samples may
    answer to others. Tried on healthy sparse and gated networks, squeeze-and-excitation, routers of experts, masks,
    dropout, and networks with up to a third of their units dead.
    """
    t = history.thresholds
    if not _is_enough(history.last):
        return
    largest_ratio = functools.cache(functools.partial(_largest_ratio, history))
    for site, row in history.last.dead_neurons.items():
        share = row["fraction"]
        streak = history.streak(functools.partial(_is_dying, t.dead_info, site))
        if not any(_dead(report, site) >= t.dead_info for report in streak):
            continue
        severity: Severity = by_harm(history) if share > t.dead_warning else "info"
        if share == 1 and history.at_chance:  # one report is enough: no gradient passes
            severity = "error"
        since = streak[0].epoch
        early = history.from_the_start and since == history.first.epoch
        ratio = largest_ratio(since)
        advice = [
            "look at the initialisation, above all of the biases, and at the scale of the inputs"
            if early
            else "lower the learning rate: units die where one step is too large",
            "take an activation function without a flat piece (LeakyReLU, ELU, GELU)",
        ]
        yield finding(
            history,
            "dead_units",
            severity,
            f"share of the units that are dead ({row['dead']} of {row['units']})",
            share,
            t.dead_warning if share > t.dead_warning else t.dead_info if share >= t.dead_info else _HOLDS * t.dead_info,
            *advice,
            layer=site,
            since=since,
            damage="nothing passes this layer any more, and no gradient" if share == 1 else None,
            source="Lu, Shin, Su and Karniadakis 2019; SageMaker Debugger (50 %)",
            dead=row["dead"],
            units=row["units"],
            born=row["born"],
            when="from the beginning" if early else "during training",
            update_ratio=ratio,
        )


def _is_enough(report: EpochReport) -> bool:
    steps = max((row["calls"] for row in report.signal.values()), default=0)
    return not report.partial or steps >= _ENOUGH


def _is_dying(threshold: float, site: str, report: EpochReport) -> bool:
    return _dead(report, site) >= _HOLDS * threshold


def _dead(report: EpochReport, site: str) -> float:
    return float(report.dead_neurons.get(site, {}).get("fraction", 0.0))


def _largest_ratio(history: History, epoch: int) -> float | None:
    """The largest update ratio of the epoch in which units died, or of the one before."""
    near = [report for report in history.reports if epoch - 1 <= report.epoch <= epoch]
    ratios = [row["ratio"] for report in near for row in report.updates.values() if finite(row["ratio"])]
    return max(ratios, default=None)


def saturated_units(history: History) -> Iterator[Finding]:
    """Units of a function with two flat ends that are always near one of them: their gradient is next to nothing.

    And attention that looks at one key only before anything was learned: its softmax is flat there, too. Later it may
    be what the network has learned.

    Needs the calls of the functions, or the graph of the first forward. The gates inside of torch's LSTM and GRU are
    not seen. Tried on healthy gates, attention with masks and few keys, poolers, and outputs that are sure.
    """
    yield from _sharp_attention(history)
    for site in history.last.activations:
        if site == history.last.output.get("producer"):
            continue  # an output that is sure of itself
        began = history.from_the_start and _is_saturated(history, history.first, site) and _stays_high(history, site)
        share, threshold, quantity = _saturation(history, history.first if began else history.last, site)
        if share < threshold:
            continue
        since = history.since(functools.partial(_is_saturated, history, site=site))
        early = began or (history.from_the_start and since == history.first.epoch)
        yield finding(
            history,
            "saturated_units",
            by_harm(history),
            quantity,
            share,
            threshold,
            "make the inputs and the initial weights smaller (Glorot's rule for tanh and sigmoid)"
            if early
            else "lower the learning rate, or add weight decay",
            "put a normalisation layer before the activation function",
            layer=site,
            since=history.first.epoch if early else since,
            source="Glorot and Bengio 2010; TheDeepChecker (50 % of the units)",
            when="from the beginning" if early else "during training",
        )


def _saturation(history: History, report: EpochReport, site: str) -> tuple[float, float, str]:
    """Share, threshold and what it is the share of: units that are always saturated, or values."""
    t, row = history.thresholds, report.activations.get(site, {})
    if not row.get("both_ends"):  # a function with one flat end has dead units, or none
        return 0.0, 1.0, ""
    share = row["saturated_units"] / row["units"]
    if share >= t.saturated_units:
        return share, t.saturated_units, _UNITS
    if report is not history.first:  # a network that is sure of itself may saturate later: the units decide
        return share, t.saturated_units, _UNITS
    return float(row["saturated_fraction"]), t.saturated_values, "share of the values that are saturated"


def _stays_high(history: History, site: str) -> bool:
    """Whether most values are saturated still."""
    row = history.last.activations.get(site, {})
    return float(row.get("saturated_fraction", 0.0)) >= history.thresholds.saturated_values


def _is_saturated(history: History, report: EpochReport, site: str) -> bool:
    share, threshold, _ = _saturation(history, report, site)
    return share >= threshold


def _sharp_attention(history: History) -> Iterator[Finding]:
    t, shares = history.thresholds, history.first.output.get("attention", {})
    sharp = [name for name, share in shares.items() if share >= t.saturated_values]
    if not sharp or not history.from_the_start:
        return
    yield finding(
        history,
        "saturated_units",
        by_harm(history),
        "share of the queries that attend to a single key, in the first forward",
        shares[sharp[-1]],
        t.saturated_values,
        "divide the products of queries and keys by the square root of their width",
        "make the initial weights of queries and keys smaller",
        layer=sharp[-1],
        since=history.first.epoch,
        source="Vaswani et al. 2017, section 3.2.1",
        when="from the beginning",
    )
