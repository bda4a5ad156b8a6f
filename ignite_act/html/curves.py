"""Figures with a line for each variant: scores, gradients, updates and dead neurons over the epochs, gradients over
depth."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ignite_act.html.figure import Figure, Panel, literal
from ignite_act.html.history import History, finite
from ignite_act.html.series import Middle, over_seeds, traces
from ignite_act.report import EpochReport

_SCORES = [
    ("training loss", "loss", "train"),
    ("validation loss", "loss", "validation"),
    ("training accuracy", "accuracy", "train"),
    ("validation accuracy", "accuracy", "validation"),
]
_FEW_EPOCHS = 8
"""An axis has a tick for each of so many epochs, and no more than that for more."""
_LONGEST = 24
"""Characters of a name on an axis."""
_LOSS = {"type": "log", "title": {"text": "loss (log scale)"}, "hoverformat": ".4g", "tickformat": "~g"}
_ACCURACY = {"title": {"text": "accuracy"}, "tickformat": ".0%", "hoverformat": ".2%"}
_AXES = {"loss": _LOSS, "accuracy": _ACCURACY}
_GRADIENT = {"type": "log", "title": {"text": "mean |gradient|"}, "hoverformat": ".3g", "exponentformat": "power"}
_UPDATE = {"type": "log", "title": {"text": "update / weight"}, "hoverformat": ".3g", "exponentformat": "power"}
_DEAD = {"title": {"text": "dead units"}, "tickformat": ".0%", "hoverformat": ".2%", "rangemode": "tozero"}
_BAND = ", band: from the lowest to the highest seed"


def learning_figure(histories: Sequence[History]) -> Figure | None:
    """Loss and accuracy of training and validation."""
    panels = []
    for title, metric, split in _SCORES:
        read = functools.partial(_score, metric, split)
        lines = [trace for history in histories for trace in traces(history, read)]
        panels.append(Panel(title, lines, _over_epochs(histories, _AXES[metric]), scale=metric))
    caption = (
        "Loss is the cross-entropy in nats, accuracy the share of right answers. Training values are averages over an "
        "epoch while the weights change, validation values belong to the weights after it. "
    )
    return _figure("Learning curves", caption + seeds_caption(histories), panels)


def gradient_figure(histories: Sequence[History]) -> Figure | None:
    """Mean absolute gradient of each layer."""
    panels = [
        Panel(
            layer,
            [trace for history in histories for trace in traces(history, _reader("gradients", layer, "mean_abs"),
                                                                statistics.median)],
            _over_epochs(histories, _GRADIENT),
            scale="gradient",
        )
        for layer in _names(histories, lambda report: report.gradients)
    ]  # fmt: skip
    caption = (
        "Mean absolute gradient of the loss with respect to a layer's weights, as the optimizer used it: the mean over "
        "the weights and over the steps of an epoch, in loss per unit of weight. Log scale, the same for all layers. "
    )
    return _figure("Gradients, layer by layer", caption + seeds_caption(histories, "median"), panels)


def depth_figure(histories: Sequence[History]) -> Figure | None:
    """Mean absolute gradient against depth, in the last epoch."""
    layers = _names(histories, lambda report: report.gradients)
    lines = [trace for history in histories for trace in _over_layers(history, layers)]
    axis = {
        "title": {"text": "layer, from input to output"},
        "type": "category",
        "categoryorder": "array",
        "categoryarray": [*map(literal, layers)],
        "labelalias": {literal(layer): literal(_shortened(layer)) for layer in layers},
    }
    caption = (
        "The same gradients in the last epoch of each run. A line that falls towards the input is a gradient that "
        "vanishes on its way back."
    )
    if _several(histories):
        caption += f" Line: median over the seeds{_BAND}."
    return _figure(
        "Gradients by depth", caption, [Panel("", lines, {"xaxis": axis, "yaxis": _GRADIENT}, scale="depth")]
    )


def updates_figure(histories: Sequence[History]) -> Figure | None:
    """Size of the optimizer's steps beside the size of the weights, layer by layer."""
    panels = [
        Panel(
            layer,
            [trace for history in histories for trace in traces(history, functools.partial(_update_ratio, layer),
                                                                statistics.median)],
            _over_epochs(histories, _UPDATE),
            scale="update",
        )
        for layer in _names(histories, lambda report: report.updates)
    ]  # fmt: skip
    caption = (
        "Mean absolute change of a layer's weights by a step of the optimizer, divided by their mean absolute value. "
        "About 0.001 is a common rule of thumb; it falls as a training converges. Log scale, the same for all layers; "
        "a step that changed nothing is a gap. "
    )
    return _figure("Updates, layer by layer", caption + seeds_caption(histories, "median"), panels)


def dead_figure(histories: Sequence[History]) -> Figure | None:
    """Dead units of each site; the variants that never had any are named, not drawn."""
    sites = _names(histories, lambda report: report.dead_neurons)
    measured = [history for history in histories if _dead_counts(history)]
    dying = [history for history in measured if any(_dead_counts(history))]
    panels = [
        Panel(
            _site_title(site, dying),
            [trace for history in dying for trace in traces(history, functools.partial(_dead_share, site))],
            _over_epochs(histories, _DEAD),
            scale="dead",
        )
        for site in sites
    ]
    caption = (
        "Dead: the derivative of the activation function was exactly zero for every training sample of the epoch, so "
        "the unit learned nothing from any of them. For ReLU that means an output of 0 for all samples. Functions "
        "without a flat piece have no dead units by definition. "
    )
    never = [history.variant.name for history in measured if history not in dying]
    without = f" No unit was dead in any epoch with {', '.join(never)}." if never else ""
    return Figure("Dead neurons", caption + seeds_caption(dying) + without, _filled(panels)) if sites else None


def seeds_caption(histories: Sequence[History], middle: str = "mean") -> str:
    """How the lines of `traces` are to be read; says only what occurs."""
    words = []
    if _several(histories):
        words.append(f"Line: {middle} over the seeds up to the last epoch that all of them reached{_BAND}.")
        if any(len({run[-1].epoch for run in history.counted}) > 1 for history in histories):
            words.append("Thin lines: single seeds that trained longer.")
    if any(history.left_out for history in histories):
        words.append(
            "Thin dotted lines: runs that failed or did not start to learn, left out of the line and the band."
        )
    return " ".join(words)


def _several(histories: Sequence[History]) -> bool:
    return any(len(history.counted) > 1 for history in histories)


def _figure(title: str, caption: str, panels: Iterable[Panel]) -> Figure | None:
    """The figure with the drawings that have something in them; None without any."""
    kept = _filled(panels)
    return Figure(title, caption.strip(), kept) if kept else None


def _filled(panels: Iterable[Panel]) -> list[Panel]:
    return [panel for panel in panels if any(value is not None for trace in panel.traces for value in trace["y"])]


def _over_epochs(histories: Sequence[History], yaxis: dict[str, Any]) -> dict[str, Any]:
    last = max((run[-1].epoch for history in histories for run in (*history.counted, *history.left_out)), default=0)
    ticks = {"dtick": 1} if last <= _FEW_EPOCHS else {"nticks": _FEW_EPOCHS}
    axis = {"title": {"text": "epoch"}, "tickformat": "d", "unifiedhovertitle": {"text": "epoch %{x}"}, **ticks}
    return {"xaxis": axis, "yaxis": yaxis}


def _names(histories: Sequence[History], rows: Callable[[EpochReport], Iterable[str]]) -> list[str]:
    """Layers or sites of all variants, in the order of first appearance."""
    runs = (run for history in histories for run in (*history.counted, *history.left_out))
    return list(dict.fromkeys(name for run in runs for report in run for name in rows(report)))


def _score(metric: str, split: str, report: EpochReport) -> object:
    return report.scores.get(metric, {}).get(split)


def _reader(quantity: str, name: str, key: str) -> Callable[[EpochReport], object]:
    return lambda report: getattr(report, quantity).get(name, {}).get(key)


def _update_ratio(layer: str, report: EpochReport) -> float | None:
    """None where there is none, and for 0, which has no place on a log scale."""
    return finite(report.updates.get(layer, {}).get("ratio")) or None


def _dead_share(site: str, report: EpochReport) -> float | None:
    row = report.dead_neurons.get(site, {})
    dead, units = finite(row.get("dead")), finite(row.get("units"))
    return dead / units if dead is not None and units else None


def _dead_counts(history: History) -> list[float]:
    """All that was counted, at all sites in all epochs of all runs."""
    runs = (*history.counted, *history.left_out)
    return [row.get("dead") or 0 for run in runs for report in run for row in report.dead_neurons.values()]


def _site_title(site: str, histories: Sequence[History]) -> str:
    """The name, with the number of units if all variants have the same."""
    reports = (report for history in histories for run in history.counted for report in run)
    units = {report.dead_neurons[site].get("units") for report in reports if site in report.dead_neurons}
    return f"{site}, {units.pop()} units" if len(units) == 1 else site


def _shortened(name: str) -> str:
    """The end of a name, which is what tells layers apart."""
    return name if len(name) <= _LONGEST else "…" + name[-_LONGEST:]


def _over_layers(history: History, layers: Sequence[str]) -> list[Any]:
    reads = {layer: _reader("gradients", layer, "mean_abs") for layer in layers}
    rows = {layer: [finite(read(run[-1])) for run in history.counted] for layer, read in reads.items()}
    found = {layer: [value for value in row if value is not None] for layer, row in rows.items()}
    there = {literal(layer): row for layer, row in found.items() if row}
    middle: Middle = statistics.median
    return over_seeds(history.style, list(there), list(there.values()), middle) if there else []
