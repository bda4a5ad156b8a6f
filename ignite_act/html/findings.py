"""Findings for the top of a section: in words, with the figure of the page that shows the evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ignite_act.compare import Comparison, SharedFinding, shared_findings
from ignite_act.errors import one_line
from ignite_act.findings.kinds import KINDS
from ignite_act.html.figure import Figure
from ignite_act.html.history import Histories, is_blind
from ignite_act.html.styles import Style
from ignite_act.sinks import words

_NOTHING = "Nothing was found. That covers what was measured, not everything that can be wrong with a training."


@dataclass(frozen=True)
class ShownFinding:
    """What the page says of a finding.

    Attributes:
        severity: one word.
        subject: where and what.
        variant, seeds: in which runs.
        style: of the variant.
        since, over: epochs; the second is empty while it stands.
        facts: heading -> its lines: what was measured, its harm, what to try.
        figure, figure_title: the figure that shows the evidence; empty if it is not on the page.
    """

    severity: str
    subject: str
    variant: str
    seeds: str
    style: Style
    since: str
    over: str
    facts: Mapping[str, Sequence[str]]
    figure: str
    figure_title: str


def shown_findings(
    comparison: Comparison, looks: Mapping[str, Style], figures: Mapping[str, Figure | None]
) -> list[ShownFinding]:
    """All findings of a comparison, those that were cleared last.

    Args:
        comparison: whose runs they are.
        looks: of the variants, by name.
        figures: name as in `ignite_act.findings.kinds.Figure` -> the figure, None where there is nothing to draw.
    """
    return [_shown(item, looks[item.variant.name], figures) for item in shared_findings(comparison)]


def nothing_found(histories: Histories, *, unseen: bool) -> str:
    """What to say where there is no finding; empty if nothing was looked at.

    Args:
        histories: of the variants.
        unseen: whether there are things that could not be measured.
    """
    if all(is_blind(history) or not history.counted for history in histories.variants):
        return ""
    return _NOTHING + (" What could not be measured is listed below." if unseen else "")


def _shown(item: SharedFinding, style: Style, figures: Mapping[str, Figure | None]) -> ShownFinding:
    finding = item.worst
    kind = KINDS.get(finding.kind)
    name = "none" if kind is None else kind.figure
    figure = figures.get(name)
    return ShownFinding(
        severity=finding.severity,
        subject=words.subject(finding),
        variant=item.variant.name,
        seeds=item.seeds,
        style=style,
        since=item.since,
        over=item.over,
        facts={"Measured": _evidence(item), "Harm": _lines([finding.harm]), "Try": _lines(finding.advice)},
        figure="" if figure is None else name,
        figure_title="" if figure is None else figure.title,
    )


def _evidence(item: SharedFinding) -> list[str]:
    """The value of each seed beside the threshold, then what else belongs to it; the latter of one seed."""
    finding = item.worst
    values = dict.fromkeys(value for own in item.findings.values() if (value := words.measured(own)))
    limit = words.threshold(finding)
    line = f"{words.quantity(finding)}: {', '.join(values)}" + (f" (threshold {limit})" if limit else "")
    return _lines([line if values else "", words.details(finding)])


def _lines(texts: Sequence[str]) -> list[str]:
    return [one_line(text) for text in texts if text]
