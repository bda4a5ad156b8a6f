"""A finding in words: plain text, a line each, whatever the names in it are made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, get_args

from ignite_act.errors import one_line
from ignite_act.findings.kinds import KINDS
from ignite_act.report import Finding, Severity

SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""From the least to the worst."""

Identity = tuple[str, str | None]
"""Kind and layer: two findings with the same ones are the same finding at two times."""

_SHOWN = ("quantity", "value", "threshold")
_FOR_THE_ORDER = ("all_alike", "aside", "latents", "meant", "sorted")
"""Evidence that says no more than the quantity: `findings.order` reads it."""


def identity(finding: Finding) -> Identity:
    """What makes it the same finding as one of another epoch or run."""
    return finding.kind, finding.layer


def is_standing(finding: Finding) -> bool:
    """Whether it has not been cleared."""
    return finding.cleared_epoch is None


def rank(severity: str) -> int:
    """The worse, the higher."""
    return SEVERITIES.index(severity)


def at_least(severity: str, findings: Iterable[Finding]) -> list[Finding]:
    """The standing findings of a severity or a worse one."""
    return [finding for finding in findings if is_standing(finding) and rank(finding.severity) >= rank(severity)]


def headline(finding: Finding) -> str:
    """What is wrong, where, since when, and the number that shows it."""
    place = "" if finding.layer is None else f" {one_line(finding.layer)}"
    evidence = measurement(finding)
    shown = f" ({evidence})" if evidence else ""
    return f"{one_line(finding.severity).upper()}{place}: {title(finding)}, since epoch {finding.since_epoch}{shown}"


def consequences(finding: Finding) -> list[str]:
    """A line for the harm, and one for each thing to try."""
    lines = [finding.harm, *(f"try: {advice}" for advice in finding.advice)]
    return [one_line(line) for line in lines if line]


def cleared(finding: Finding) -> str:
    """That it is over."""
    return f"cleared in epoch {finding.cleared_epoch}: {subject(finding)}"


def subject(finding: Finding) -> str:
    """Where and what: ``layers.0: dead neurons``."""
    return title(finding) if finding.layer is None else f"{one_line(finding.layer)}: {title(finding)}"


def title(finding: Finding) -> str:
    """What is wrong in a few words; the identifier of a kind that this version does not know."""
    kind = KINDS.get(finding.kind)
    return one_line(finding.kind.replace("_", " ")) if kind is None else kind.title


def measurement(finding: Finding) -> str:
    """What was measured beside its threshold; empty if no value is told."""
    value, limit = measured(finding), threshold(finding)
    if not value:
        return ""
    return f"{quantity(finding)} is {value}" + (f", threshold {limit}" if limit else "")


def quantity(finding: Finding) -> str:
    """What was measured."""
    return _word(finding.evidence.get("quantity")) or "the measured value"


def measured(finding: Finding) -> str:
    """The value; empty if none is told."""
    return _word(finding.evidence.get("value"))


def threshold(finding: Finding) -> str:
    """What the value is compared with; empty if with nothing."""
    return _word(finding.evidence.get("threshold"))


def details(finding: Finding) -> str:
    """What else belongs to the evidence."""
    others = {name: _word(value) for name, value in finding.evidence.items() if name not in _SHOWN + _FOR_THE_ORDER}
    return ", ".join(f"{one_line(name).replace('_', ' ')} {word}" for name, word in others.items() if word)


def span(finding: Finding) -> str:
    """Since which epoch, and in which it was over: ``3``, ``3, over in 7``."""
    over = "" if is_standing(finding) else f", over in {finding.cleared_epoch}"
    return f"{finding.since_epoch}{over}"


def counted(findings: Iterable[Finding]) -> str:
    """How many of which severity: ``2 errors, 1 warning``; those that were cleared apart."""
    kept = list(findings)
    numbers = Counter(finding.severity for finding in kept if is_standing(finding))
    parts = [_number(numbers[severity], severity) for severity in reversed(SEVERITIES) if numbers[severity]]
    over = len(kept) - numbers.total()
    return (", ".join(parts) or "none") + (f" ({over} cleared)" if over else "")


def _number(count: int, severity: Severity) -> str:
    return f"{count} {severity}{'' if count == 1 or severity == 'info' else 's'}"


def _word(value: Any) -> str:
    """A number to three digits, a text, several of them, yes or no; empty for what is none of these."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(word for word in map(_word, value) if word)
    return one_line(value) if isinstance(value, (int, str)) else ""
