"""Several sinks, some of which want to know of the end, and some of which fail."""

from __future__ import annotations

import logging

import pytest

from ignite_act.report import EpochReport
from ignite_act.sinks import FanOut

REPORT = EpochReport(1, 10)


class Writes:
    """Knows of no end."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, EpochReport]] = []

    def write(self, report: EpochReport) -> None:
        self.calls.append(("write", report))


class Ends(Writes):
    """Wants to know."""

    def end(self, report: EpochReport) -> None:
        self.calls.append(("end", report))


class Full(Writes):
    """Fails at both."""

    def write(self, report: EpochReport) -> None:
        super().write(report)
        raise OSError("no space left on device")

    def end(self, report: EpochReport) -> None:
        self.calls.append(("end", report))
        raise RuntimeError("closed")


def test_the_end_is_told_to_those_who_want_to_know(caplog: pytest.LogCaptureFixture) -> None:
    """``end`` gives the last report to every sink that has the method, and writes nothing."""
    plain, ending = Writes(), Ends()
    out = FanOut(sink for sink in (plain, ending))
    out.write(REPORT)
    out.end(REPORT)
    assert plain.calls == [("write", REPORT)]
    assert ending.calls == [("write", REPORT), ("end", REPORT)]
    assert ending.calls[1][1] is REPORT
    assert caplog.records == []


def test_a_sink_that_fails_keeps_nothing_from_the_others(caplog: pytest.LogCaptureFixture) -> None:
    """The first failure of a sink is logged, whether in ``write`` or in ``end``; it is tried again, in silence."""
    first, full, last, other = Ends(), Full(), Ends(), Full()
    out = FanOut([first, full, last])
    with caplog.at_level(logging.WARNING, "ignite_act"):
        out.write(REPORT)
        out.write(REPORT)
        out.end(REPORT)
        assert [record.getMessage() for record in caplog.records] == [
            "Full cannot write reports: OSError: no space left on device"
        ]
        FanOut([other]).end(REPORT)
        assert caplog.records[-1].getMessage() == "Full cannot write reports: RuntimeError: closed"
    expected = [("write", REPORT), ("write", REPORT), ("end", REPORT)]
    assert first.calls == full.calls == last.calls == expected


def test_an_interrupt_is_no_failure() -> None:
    """Ctrl-C in a sink reaches the user."""

    class Interrupted(Writes):
        def write(self, report: EpochReport) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FanOut([Interrupted()]).write(REPORT)
