"""A comparison -> tables of words, the same for the terminal, for Markdown and for the page."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group
from rich.measure import Measurement
from rich.text import Text

from ignite_act.compare.comparison import Comparison, Estimate, Variant, estimate
from ignite_act.errors import one_line
from ignite_act.sinks.tables import new_table, number, percent

Cell = Callable[[Variant], str]

_STOPS = {"early_stopping": "early stopping", "all_epochs": "all epochs", "nonfinite": "non-finite loss"}
_METRICS = {
    "test_accuracy": ("test accuracy", percent),
    "test_loss": ("test loss", number),
    "last_accuracy": ("accuracy after the last epoch", percent),
    "last_loss": ("loss after the last epoch", number),
    "dead": ("dead neurons", number),
}


@dataclass(frozen=True)
class Table:
    """Words in rows and columns.

    Attributes:
        title: of the table.
        headings: one a column; the first column holds names.
        rows: one cell a column.
    """

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def comparison_tables(comparison: Comparison) -> list[Table]:
    """The overview, then layers and sites, which a single run has in tables of its own; empty ones left out."""
    tables = overview_tables(comparison)
    if not _is_single(comparison):
        tables += [first_gradients_table(comparison), gradients_table(comparison), dead_table(comparison)]
    return [table for table in tables if table.rows]


def overview_tables(comparison: Comparison) -> list[Table]:
    """How the variants stand, published numbers beside ours, losses, how they trained; a single run has one row."""
    scores, training = scores_table(comparison), training_table(comparison)
    if _is_single(comparison):
        tables = [_joined(scores, training), published_table(comparison)]
    else:
        tables = [scores, published_table(comparison), losses_table(comparison), training]
    return [table for table in tables if table.rows]


def _is_single(comparison: Comparison) -> bool:
    return sum(len(variant.runs) for variant in comparison.variants) == 1


def scores_table(comparison: Comparison) -> Table:
    """How the variants stand; what says nothing (a difference with one variant) has no column."""
    variants, several = comparison.variants, _has_seeds(comparison)
    columns: list[tuple[str, Cell]] = [
        ("activation", lambda variant: variant.name),
        ("test accuracy", lambda variant: _interval(variant.test_accuracy)),
    ]
    if several:
        columns.append(("std", lambda variant: _std(variant.test_accuracy, ".2f", 100)))
    if len(variants) > 1:
        columns.append(("difference to best", lambda variant: _difference(variant.difference)))
    if several or any(variant.learned < len(variant.runs) for variant in variants):
        columns.append(("learned", lambda variant: f"{variant.learned}/{len(variant.runs)}"))
    if len(variants) > 1:
        columns.append(("verdict", lambda variant: variant.verdict))
    return _table(f"{comparison.data}: {_seeds(variants)}", columns, variants)


def losses_table(comparison: Comparison) -> Table:
    """The loss with the best weights on the test set, and what the last epoch left on the validation set."""
    columns: list[tuple[str, Cell]] = [
        ("activation", lambda variant: variant.name),
        ("test loss", lambda variant: _loss(variant.test_loss)),
        ("loss after the last epoch", lambda variant: _loss(variant.last_loss)),
        ("accuracy after the last epoch", lambda variant: _interval(variant.last_accuracy)),
    ]
    return _table("losses, and validation scores after the last epoch", columns, comparison.variants)


def training_table(comparison: Comparison) -> Table:
    """How long the variants trained, why they stopped and what they look like inside."""
    columns: list[tuple[str, Cell]] = [("activation", lambda variant: variant.name), ("epochs", _epochs)]
    several = _has_seeds(comparison)
    if several:
        columns.append(("std", lambda variant: _std(variant.epochs, ".1f")))
    columns.append(("time (s)", lambda variant: _plus_minus(variant.seconds, _precision(variant.seconds))))
    if several:
        columns.append(("std", lambda variant: _std(variant.seconds, ".1f")))
    columns += [
        ("gradient first/last", lambda variant: _median(variant.gradient_ratio)),
        ("dead neurons", lambda variant: _dead(variant.dead, variant.units)),
        ("stopped", _stops),
    ]
    return _table("training, and inside the network at its end", columns, comparison.variants)


def _has_seeds(comparison: Comparison) -> bool:
    return any(len(variant.runs) > 1 for variant in comparison.variants)


def published_table(comparison: Comparison) -> Table:
    """Each published number, all of our runs beside it, learned or not, and how many of them lie below it."""
    rows = []
    for variant in comparison.variants:
        for metric, value in variant.published.items():
            label, word = _METRICS[metric]
            ours = estimate(variant.values(metric))
            place = variant.place(metric)
            if ours is None or place is None:
                continue
            span = word(ours.mean) if ours.n == 1 else f"{word(ours.minimum)} to {word(ours.maximum)}"
            rows.append((variant.name, label, word(value), word(ours.mean), span, f"{place[0]} of {place[1]}"))
    headings = ("activation", "quantity", "published", "ours, mean", "ours, range", "our runs below it")
    return Table("published numbers beside all of our runs", headings, tuple(rows))


def first_gradients_table(comparison: Comparison) -> Table:
    """Mean absolute gradient of each layer in the first epoch, median over the runs."""
    return _layers("first", comparison, lambda variant: variant.first_gradients)


def gradients_table(comparison: Comparison) -> Table:
    """Mean absolute gradient of each layer in the last epoch, median over the runs."""
    return _layers("last", comparison, lambda variant: variant.gradients)


def _layers(epoch: str, comparison: Comparison, read: Callable[[Variant], Mapping[str, Estimate | None]]) -> Table:
    layers = dict.fromkeys(layer for variant in comparison.variants for layer in read(variant))
    columns: list[tuple[str, Cell]] = [("activation", lambda variant: variant.name)]
    columns += [(layer, functools.partial(_median_of, read, layer)) for layer in layers]
    title = f"mean absolute gradient in the {epoch} epoch, median over the seeds"
    return _table(title, columns, comparison.variants, layers)


def dead_table(comparison: Comparison) -> Table:
    """Dead neurons at each site with the best weights, mean over the runs."""
    sites = dict.fromkeys(site for variant in comparison.variants for site in variant.dead_neurons)
    columns: list[tuple[str, Cell]] = [("activation", lambda variant: variant.name)]
    columns += [(site, functools.partial(_dead_at, site)) for site in sites]
    title = "dead neurons over all training samples, with the best weights, mean over the seeds"
    return _table(title, columns, comparison.variants, sites)


def markdown(tables: Iterable[Table]) -> str:
    """The tables as Markdown."""
    return "\n".join(_markdown(table) for table in tables)


def terminal(table: Table) -> Group:
    """A table for the terminal."""
    grid = new_table((_STACKED.get(heading, one_line(heading)) for heading in table.headings), _WORDS, _WORDS)
    for name, *cells in table.rows:
        grid.add_row(_Name(one_line(name)), *(Text(one_line(cell)) for cell in cells))
    return Group(Text(table.title, style="bold"), grid)


class _Name:
    """A name that is broken where it is no pity: ``leakyrelu-``, ``negative_``, ``slope=0.1``."""

    def __init__(self, name: str) -> None:
        self._parts = _BREAKS.split(name)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(max(map(cell_len, self._parts)), sum(map(cell_len, self._parts)))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        lines = [""]
        for part in self._parts:
            if lines[-1] and cell_len(lines[-1] + part.rstrip()) > options.max_width:
                lines.append("")
            lines[-1] += part
        yield Text("\n".join(lines), overflow="fold")


_WORDS = {"stopped", "verdict", "quantity", "seeds", "severity", "what", "layer"}
_STACKED = {
    "test accuracy": "test\naccuracy",
    "difference to best": "difference\nto best",
    "gradient first/last": "gradient\nfirst/last",
    "dead neurons": "dead\nneurons",
    "loss after the last epoch": "loss after the\nlast epoch",
    "accuracy after the last epoch": "accuracy after\nthe last epoch",
    "ours, mean": "ours,\nmean",
    "our runs below it": "our runs\nbelow it",
}
_BREAKS = re.compile(r"(?<= )|(?<=[-_=,/])(?=[^\W\d_])|(?<=\d-)(?=\d)")
"""Where a name may go on in the next line: not before a number, but between numbers (512-256)."""


def _table(
    title: str, columns: Sequence[tuple[str, Cell]], variants: Sequence[Variant], wanted: object = True
) -> Table:
    rows = [tuple(cell(variant) for _, cell in columns) for variant in variants] if wanted else []
    return Table(title, tuple(heading for heading, _ in columns), tuple(rows))


def _joined(left: Table, right: Table) -> Table:
    """Two tables of the same variants side by side."""
    rows = tuple(mine + other[1:] for mine, other in zip(left.rows, right.rows, strict=True))
    return Table(left.title, left.headings + right.headings[1:], rows)


def _markdown(table: Table) -> str:
    lines = [table.headings, tuple("---" for _ in table.headings), *table.rows]
    body = "\n".join("| " + " | ".join(map(_plain, line)) + " |" for line in lines)
    return f"**{_plain(table.title)}**\n\n{body}\n"


def _plain(text: str) -> str:
    """The text in one line, with no meaning in Markdown; an underscore has none within a word."""
    return re.sub(r"[\\|<&`*[~]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", " ".join(text.split()))


def _seeds(variants: Sequence[Variant]) -> str:
    counts = sorted({len(variant.runs) for variant in variants})
    if counts == [1]:
        return "one seed"
    many = f" (not corrected for comparing {len(variants)} variants)" if len(variants) > 2 else ""
    seeds = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    return f"{seeds} seeds, mean ± half of the 95 % interval{many}"


def _median_of(read: Callable[[Variant], Mapping[str, Estimate | None]], layer: str, variant: Variant) -> str:
    return _median(read(variant).get(layer))


def _dead_at(site: str, variant: Variant) -> str:
    return _mean(variant.dead_neurons.get(site), ".3g")


def _interval(value: Estimate | None) -> str:
    if value is None:
        return "-"
    if value.high is None:
        return percent(value.mean)
    return f"{100 * value.mean:.2f} ± {100 * (value.high - value.mean):.2f} %"


def _difference(value: Estimate | None) -> str:
    if value is None:
        return "-"
    if value.high is None:
        return f"{100 * value.mean:+.2f}"
    return f"{100 * value.mean:+.2f} ± {100 * (value.high - value.mean):.2f}"


def _std(value: Estimate | None, how: str, scale: float = 1) -> str:
    return "-" if value is None or value.std is None else format(scale * value.std, how)


def _loss(value: Estimate | None) -> str:
    return _plus_minus(value, ".3f" if value is not None and value.maximum < 1000 else ".3g")


def _plus_minus(value: Estimate | None, how: str = ".0f") -> str:
    if value is None or value.high is None:
        return _mean(value, how)
    return f"{value.mean:{how}} ± {value.high - value.mean:{how}}"


def _epochs(variant: Variant) -> str:
    if variant.epochs is None or variant.best_epoch is None or variant.epochs.n > 1:
        return _plus_minus(variant.epochs)
    return f"{variant.epochs.mean:.0f}, best {variant.best_epoch.mean:.0f}"


def _precision(value: Estimate | None) -> str:
    return ".1f" if value is not None and value.mean < 10 else ".0f"


def _mean(value: Estimate | None, how: str) -> str:
    return "-" if value is None else format(value.mean, how)


def _median(value: Estimate | None) -> str:
    return number(None if value is None else value.median)


def _dead(value: Estimate | None, units: int) -> str:
    return "-" if value is None else f"{value.mean:.3g}/{units}"


def _stops(variant: Variant) -> str:
    reasons = Counter(_STOPS.get(run.summary["stop"], run.summary["stop_reason"]) for run in variant.runs)
    if len(reasons) == 1:
        return next(iter(reasons))
    return ", ".join(f"{count} x {reason}" for reason, count in reasons.items())
