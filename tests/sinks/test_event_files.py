"""The event files of a run: their order, and what a full disk leaves of them."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ignite_act.report import EpochReport
from ignite_act.sinks import TensorBoardSink
from ignite_act.sinks import tensorboard as module


def report(epoch: int) -> EpochReport:
    return EpochReport(epoch, epoch, scores={"loss": {"train": float(epoch)}})


def steps(directory: Path) -> list[int]:
    """The steps of the training loss, as TensorBoard reads them."""
    accumulator = EventAccumulator(str(directory))
    accumulator.Reload()
    return [event.step for event in accumulator.Scalars("loss/train")]


def event_files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("events.out.*"))


@pytest.mark.parametrize("hours", [0, 5, 5_000])
def test_a_clock_that_goes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int) -> None:
    """A run that is resumed with an earlier clock goes on after what was written, in the order of the files."""
    names = []
    for turn, epochs in enumerate(((1, 2, 3), (3, 4), (5,))):
        now = time.time_ns() - turn * hours * 3600 * 10**9
        with monkeypatch.context() as patch:
            patch.setattr(module.time, "time_ns", lambda now=now: now)
            sink = TensorBoardSink(tmp_path, purge_after=epochs[0] - 1 if turn else None)
            for epoch in epochs:
                sink.write(report(epoch))
            sink.close()
        names += [name for name in event_files(tmp_path) if name not in names]
    assert names == sorted(names)
    assert len(names) == 3
    assert steps(tmp_path) == [1, 2, 3, 4, 5]


def test_a_full_disk_leaves_no_empty_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many epochs cannot be written, there is one event file afterwards."""
    sink = TensorBoardSink(tmp_path)

    class Full(module.RecordWriter):
        def flush(self) -> Any:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(module, "RecordWriter", Full)
        for epoch in (1, 2, 3):
            with pytest.raises(OSError, match="No space left"):
                sink.write(report(epoch))
            assert event_files(tmp_path) == []
    sink.write(report(4))
    sink.close()
    assert steps(tmp_path) == [4]
    assert len(event_files(tmp_path)) == 1
