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
    returns. It may raise: `FanOut` says so once in the log and goes on.
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
        for index, sink in enumerate(self._sinks):
            try:
                sink.write(report)
            except Exception as error:
                if index not in self._failed:
                    self._failed.add(index)
                    logger.warning("%s cannot write reports: %s: %s", type(sink).__name__, type(error).__name__, error)
