"""Stops a run that has become hopeless."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import get_args

from ignite.engine import Engine, Events
from typing_extensions import Self

from ignite_act.findings import KINDS, Finding
from ignite_act.report import Severity

logger = logging.getLogger(__name__)


class TerminateOnFinding:
    """Ends the training when a finding of some severity stands at the end of so many epochs in a row.

    It reads ``engine.state.findings``, so it comes after `Diagnostics`:

        diagnostics.attach(trainer, evaluator)
        TerminateOnFinding("error").attach(trainer)

    Deep networks may recover: ``patience`` waits for that.

    Args:
        severity: the least that counts.
        kinds: these kinds only; by default all of them.
        patience: epochs in a row at whose end the same finding stands.

    Raises:
        ValueError: if a severity or a kind does not exist, or ``patience`` is not at least 1.
    """

    def __init__(self, severity: Severity = "error", *, kinds: Iterable[str] | None = None, patience: int = 2) -> None:
        severities = get_args(Severity)
        if severity not in severities:
            raise ValueError(f"severity must be one of {', '.join(severities)}, got {severity!r}")
        wanted = frozenset(KINDS if kinds is None else [kinds] if isinstance(kinds, str) else kinds)
        unknown = sorted(wanted - set(KINDS))
        if unknown:
            raise ValueError(f"unknown kinds {', '.join(unknown)} (known: {', '.join(KINDS)})")
        if isinstance(patience, bool) or not isinstance(patience, int) or patience < 1:
            raise ValueError(f"patience must be a whole number of at least 1, got {patience!r}")
        self._severities = severities[severities.index(severity) :]
        self._kinds = wanted
        self._patience = patience
        self._stood: dict[tuple[str, str | None], int] = {}
        self.finding: Finding | None = None
        """The finding that ended the training; None so far."""

    def attach(self, engine: Engine) -> Self:
        """Looks at the findings at the end of every epoch of the engine."""
        engine.add_event_handler(Events.STARTED, self._renew)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)
        return self

    def _renew(self, engine: Engine) -> None:
        """Begins to count anew with another training."""
        if engine.state.iteration == 0:
            self._stood = {}
            self.finding = None

    def __call__(self, engine: Engine) -> None:
        """Counts the findings that stand, and ends the training if one has stood long enough."""
        found = [item for item in getattr(engine.state, "findings", ()) if self._counts(item)]
        self._stood = {(item.kind, item.layer): self._stood.get((item.kind, item.layer), 0) + 1 for item in found}
        for item in found:
            if self._stood[item.kind, item.layer] >= self._patience:
                self.finding = item
                where = f" in {item.layer}" if item.layer else ""
                logger.warning("training ends in epoch %d: %s%s", engine.state.epoch, KINDS[item.kind].title, where)
                engine.terminate()
                return

    def _counts(self, finding: Finding) -> bool:
        return finding.severity in self._severities and finding.kind in self._kinds
