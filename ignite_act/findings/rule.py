"""What a rule is: a function from the history of a run to findings of one kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ignite_act.findings.history import History
from ignite_act.report import Finding, Severity

Rule = Callable[[History], Iterable[Finding]]

STALLED = "learning has stalled"
NO_HARM = "no harm yet"
SO_FAR = "nothing has been learned so far"
SLOWER = "learning is held back"
UNKNOWN = "whether it does harm cannot be said: the loss is not known"


def harm(history: History) -> str:
    """What can be seen of the training's progress, in words."""
    if history.progress is None:
        return UNKNOWN
    if history.at_chance:
        return STALLED if history.stalled else SO_FAR
    return NO_HARM if history.learning else SLOWER


def by_harm(history: History, *, mistake: bool = False) -> Severity:
    """How bad something is by what it is seen to do.

    An error goes with a network that is known not to learn. While it learns, or its loss falls, a number from inside is
    an information. Where no progress is known, nothing is an error.

    Args:
        history: what it was found in.
        mistake: whether it is wrong in any case, as a loss that does not fit the outputs: a warning at least.
    """
    if history.stalled:
        return "error"
    return "info" if (history.learning or history.falling) and not mistake else "warning"


def finding(
    history: History,
    kind: str,
    severity: Severity,
    quantity: str,
    value: Any,
    threshold: Any,
    *advice: str,
    layer: str | None = None,
    since: int | None = None,
    damage: str | None = None,
    source: str = "ignite_act",
    **more: Any,
) -> Finding:
    """A finding at the end of a history.

    Args:
        history: what it was found in.
        kind, severity, layer, source: see `Finding`.
        quantity, value, threshold: what was measured, the number, and from where on it is a finding.
        advice: what to try.
        since: first epoch that shows it; by default the last one.
        damage: what it does; by default what can be seen of the progress.
        more: what else belongs to the evidence.
    """
    evidence = {"quantity": quantity, "value": value, "threshold": threshold, **more}
    since = history.last.epoch if since is None else since
    return Finding(kind, severity, layer, since, evidence, harm(history) if damage is None else damage, advice, source)
