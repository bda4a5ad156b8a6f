"""The contract of an output, and the fan-out to several."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Protocol

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
        self._sinks = tuple(sinks)
        self._failed: set[int] = set()

    def write(self, report: EpochReport) -> None:
        """Writes one report everywhere; the first failure of a sink is logged, later ones are silent."""
        self._tell("write", report)

    def end(self, report: EpochReport) -> None:
        """Tells the sinks that want to know that the run is over."""
        self._tell("end", report)

    def _tell(self, method: str, report: EpochReport) -> None:
        for index, sink in enumerate(self._sinks):
            tell = getattr(sink, method, None)
            try:
                if tell is not None:
                    tell(report)
            except Exception as error:
                if index not in self._failed:
                    self._failed.add(index)
                    logger.warning("%s cannot write reports: %s: %s", type(sink).__name__, type(error).__name__, error)
