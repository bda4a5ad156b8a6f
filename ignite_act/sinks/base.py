"""The contract of an output, and the fan-out to several."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Protocol

from ignite_act.guard import guarded
from ignite_act.report import EpochReport

logger = logging.getLogger(__name__)


class Sink(Protocol):
    """Takes the report of every epoch.

    ``write`` is called once per report, in the order of the epochs, and leaves nothing half-written behind when it
    returns. It may raise: `FanOut` says so once in the log and goes on. A sink may have a method ``end``, which gets
    the last report once more when the run is over, with the findings that could only be made then.
    """

    def write(self, report: EpochReport) -> None:
        """Shows or stores one report."""


class FanOut:
    """Hands each report to several sinks; training never dies of one that fails.

    Args:
        sinks: called in their order.
    """

    def __init__(self, sinks: Iterable[Sink]) -> None:
        self._sinks: dict[str, Sink] = {}
        for sink in sinks:
            name = type(sink).__name__
            self._sinks[name if name not in self._sinks else f"{name}#{len(self._sinks) + 1}"] = sink
        self.failed: dict[str, str] = {}
        """Sinks that have failed, with the reason of the first failure."""

    def write(self, report: EpochReport) -> None:
        """Writes one report everywhere; the first failure of a sink is logged, later ones are silent."""
        self._tell("write", report)

    def end(self, report: EpochReport) -> None:
        """Tells the sinks that want to know that the run is over."""
        self._tell("end", report)

    def give_up(self, what: str, reason: str) -> None:
        """Notes that a sink failed."""
        if what not in self.failed:
            self.failed[what] = reason
            logger.warning("%s cannot write reports: %s", what, reason)

    def _tell(self, method: str, report: EpochReport) -> None:
        for name, sink in self._sinks.items():
            with guarded(self, name):
                tell = getattr(sink, method, None)
                if tell is not None:
                    tell(report)
