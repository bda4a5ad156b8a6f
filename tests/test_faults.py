"""Faults of the surroundings: a full disk, a directory that nobody may write, files that vanish, two runs at once."""

import dataclasses
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from ignite.engine import Events
from run_directories import assert_equal, checkpoint, epochs, recorded, summary

from ignite_act import experiment
from ignite_act.cli import main
from ignite_act.config import RunConfig
from ignite_act.errors import UserError
from ignite_act.experiment import run
from ignite_act.runs.checkpoints import load_checkpoint
from ignite_act.runs.directory import BusyError, locked, log_file
from ignite_act.runs.layout import run_directory
from ignite_act.sinks import JsonLinesSink, TensorBoardSink, read_reports
from ignite_act.sweep import plan


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of three epochs."""
    config = RunConfig(hidden=(16,), batch_size=128, lr=0.05, max_epochs=3)
    return run(config, tmp_path_factory.mktemp("runs"), quiet=True)


@pytest.fixture
def disk(tmp_path):
    """A small file system of its own; the test is left out where none can be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here (it takes Linux and root)")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def fill(disk):
    """Takes all the room that is left."""
    free = os.statvfs(disk)
    with (disk / "filler").open("wb", buffering=0) as file:
        file.write(bytes(free.f_bavail * free.f_frsize))
    with pytest.raises(OSError, match="No space left"):
        (disk / "more").write_bytes(b"x")
    (disk / "more").unlink()


def make_room(disk):
    (disk / "filler").unlink()


@pytest.fixture
def at_epoch(monkeypatch):
    """Does something at the beginning of certain epochs of a run."""

    def arrange(patch=monkeypatch, **deeds):
        real = experiment._Run._bind

        def bind(self, sinks):
            for epoch, deed in deeds.items():
                once = Events.EPOCH_STARTED(once=int(epoch.removeprefix("epoch")))
                self.trainer.add_event_handler(once, lambda engine, deed=deed: deed())
            real(self, sinks)

        patch.setattr(experiment._Run, "_bind", bind)

    return arrange


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def assert_said_once(messages, *parts):
    """Each part is in exactly one message, and there is no other message."""
    assert [sum(part in message for message in messages) for part in parts] == [1] * len(parts), messages
    assert len(messages) == len(parts), messages


# A disk that is full, or that cannot be written


@pytest.mark.slow
def test_full_for_some_epochs(tmp_path, tiny, disk, at_epoch, caplog):
    """Training goes on without the files of two epochs, says once what it cannot write, and catches up afterwards."""
    config = tiny(max_epochs=6, patience=0, hidden=(16,) * 8)  # every write is larger than what is left of a page
    straight = run(config, tmp_path / "straight", quiet=True)
    at_epoch(epoch3=lambda: fill(disk), epoch5=lambda: make_room(disk))
    result = run(config, disk, quiet=True)
    assert_said_once(warnings_of(caplog), ".pt cannot be written", "JsonLinesSink cannot", "TensorBoardSink cannot")
    assert summary(result.directory) == summary(straight.directory)
    for name in ("last", "best", "previous"):
        assert_equal(checkpoint(result.directory, name), checkpoint(straight.directory, name), name)
    assert epochs(result.directory) == [line for n, line in enumerate(epochs(straight.directory), 1) if n not in (3, 4)]
    assert [event.step for event in recorded(result.directory).Scalars("loss/train")] == [1, 2, 5, 6]


def test_full_to_the_end(tmp_path, tiny, disk, at_epoch):
    """A run that cannot write its summary says so in one line; what was there is whole, and --resume catches up."""
    config = tiny(max_epochs=5, patience=0)
    straight = run(config, tmp_path / "straight", quiet=True)
    with pytest.MonkeyPatch.context() as patch:
        at_epoch(patch, epoch3=lambda: fill(disk))
        with pytest.raises(UserError, match=r"the training is done, but .*summary\.json cannot be written: .*--resume"):
            run(config, disk, quiet=True)
    directory = run_directory(config, disk)
    assert epochs(directory) == epochs(straight.directory)[:2]
    for name, epoch in (("last", 2), ("best", 2), ("previous", 1)):
        assert load_checkpoint(directory / "checkpoints" / f"{name}.pt")["run"]["epoch"] == epoch
    make_room(disk)
    result = run(config, disk, resume=True, quiet=True)
    assert epochs(result.directory) == epochs(straight.directory)
    assert summary(result.directory) == summary(straight.directory)


def test_full_from_the_beginning(tiny, disk):
    """A run that cannot even begin is refused in one line."""
    fill(disk)
    with pytest.raises(UserError, match=r"cannot write .*: No space left on device"):
        run(tiny(), disk / "runs", quiet=True)


def test_read_only(tiny, disk):
    """A directory that cannot be written is refused before anything is trained, and a run there can still be read."""
    finished = run(tiny(max_epochs=1), disk, quiet=True)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(UserError, match=r"cannot write .*: Read-only file system"):
        run(tiny(act="tanh"), disk, quiet=True)
    with pytest.raises(UserError, match=r"cannot write .*: Read-only file system"):
        run(tiny(max_epochs=2), disk, resume=True, quiet=True)
    assert run(tiny(max_epochs=1), disk, resume=True, quiet=True).summary == finished.summary


@pytest.mark.slow
def test_a_full_disk_on_the_command_line(tmp_path, disk):
    """No traceback, on whichever of the outputs the disk is full."""
    fill(disk)
    words = ["run", "--hidden", "8", "--max-epochs", "1", "--output-dir"]
    done = CliRunner().invoke(main, [*words, str(disk)])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    command = [sys.executable, "-m", "ignite_act", *words, tmp_path / "runs"]
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "error: the output cannot be written: No space left on device\n" in done.stderr
    assert [*tmp_path.glob("runs/*/*/*/summary.json")]  # the run itself is there


# Half a line, half an event


def test_half_a_line(tmp_path, finished):
    """A line that a kill or a full disk cut off is taken away before the next one is written."""
    path = tmp_path / "epochs.jsonl"
    content = (finished.directory / "epochs.jsonl").read_bytes()
    lines = content.splitlines(keepends=True)
    for size in (0, 1, 2000, len(lines[1]) - 1):
        path.write_bytes(lines[0] + lines[1][:size])
        JsonLinesSink(path).write(read_reports(finished.directory / "epochs.jsonl")[1])
        assert path.read_bytes() == lines[0] + lines[1]
    path.write_bytes(lines[0][:-1])
    JsonLinesSink(path).write(read_reports(finished.directory / "epochs.jsonl")[1])
    assert path.read_bytes() == lines[1]


def test_a_line_that_does_not_fit(disk, finished):
    """A line of which only a part fits leaves nothing behind."""
    first, second, *_ = read_reports(finished.directory / "epochs.jsonl")
    sink = JsonLinesSink(disk / "epochs.jsonl")
    sink.write(first)
    fill(disk)
    size = (disk / "filler").stat().st_size
    os.truncate(disk / "filler", size - 4096)  # room for a part of the line
    second = dataclasses.replace(second, coverage={"x" * 10_000: {}})
    before = (disk / "epochs.jsonl").read_bytes()
    with pytest.raises(OSError, match="No space left"):
        sink.write(second)
    assert (disk / "epochs.jsonl").read_bytes() == before
    make_room(disk)
    sink.write(second)
    assert read_reports(disk / "epochs.jsonl")[-1] == second


# Files that vanish


def test_event_file_is_removed(tmp_path, tiny, at_epoch, caplog):
    """Where somebody removes the event file, that is said once, and a new file takes what comes then."""
    config = tiny(max_epochs=5, patience=0)
    directory = run_directory(config, tmp_path)
    at_epoch(epoch3=lambda: [path.unlink() for path in directory.glob("events.out.*")])
    run(config, tmp_path, quiet=True)
    assert_said_once(warnings_of(caplog), "was removed: what it held is lost, a new file takes the rest")
    assert [event.step for event in recorded(directory).Scalars("loss/train")] == [3, 4, 5]
    assert "custom_scalars__config__" in recorded(directory).Tags()["tensors"]


def test_everything_is_removed(tmp_path, tiny, at_epoch, caplog):
    """Where the whole run directory vanishes, it is made anew, and the run ends as it would have."""
    config = tiny(max_epochs=4, patience=0)
    straight = run(config, tmp_path / "straight", quiet=True)
    directory = run_directory(config, tmp_path / "runs")
    at_epoch(epoch3=lambda: directory.rename(tmp_path / "moved"))
    result = run(config, tmp_path / "runs", quiet=True)
    assert_said_once(warnings_of(caplog), "was removed: what it held is lost")
    assert epochs(tmp_path / "moved") + epochs(directory) == epochs(straight.directory)
    assert summary(result.directory) == summary(straight.directory)
    load_checkpoint(tmp_path / "moved/checkpoints/last.pt")


def test_event_file_of_a_writer(tmp_path, finished):
    """Events are read up to where the disk was full, and from there on in a new file."""
    reports = read_reports(finished.directory / "epochs.jsonl")
    sink = TensorBoardSink(tmp_path)
    sink.write(reports[0])

    class Full:
        def write(self, *record):
            raise OSError("no room")

        close = write

    sink._writer.close()
    sink._writer = Full()
    with pytest.raises(OSError, match="no room"):
        sink.write(reports[1])
    sink.write(reports[2])
    sink.close()
    assert [event.step for event in recorded(tmp_path).Scalars("loss/train")] == [1, 3]


def test_log_that_cannot_be_written(tmp_path, caplog):
    """Without a log the work goes on."""
    with log_file(tmp_path / "missing" / "train.log"):
        logging.getLogger("ignite_act").warning("something")
    assert_said_once(warnings_of(caplog), "train.log cannot be written", "something")


def test_log_on_a_full_disk(capfd):
    """That the log cannot be written is said once, and not by a traceback for every line."""
    with log_file(Path("/dev/full")):
        for _ in range(3):
            logging.getLogger("ignite_act").info("something")
    assert capfd.readouterr().err == "/dev/full cannot be written: [Errno 28] No space left on device\n"


# Two runs in one directory


def test_two_runs_in_one_directory(tmp_path, tiny):
    """The second of two processes in one run directory is refused, and what the first has written is untouched."""
    config = tiny(max_epochs=2)
    finished = run(config, tmp_path, quiet=True)
    before = {path: path.read_bytes() for path in finished.directory.rglob("*") if path.is_file()}
    with locked(finished.directory):
        for options in ({"overwrite": True}, {"resume": True}):
            with pytest.raises(BusyError, match=r"another process is training in .*seed-42: wait"):
                run(tiny(max_epochs=3), tmp_path, quiet=True, **options)
            with pytest.raises(BusyError):
                plan([tiny(max_epochs=3)], tmp_path, **options)
    assert {path: path.read_bytes() for path in finished.directory.rglob("*") if path.is_file()} == before
    assert run(tiny(max_epochs=3), tmp_path, resume=True, quiet=True).summary["epochs"] == 3


@pytest.mark.slow
def test_two_processes_in_one_directory(tmp_path, tiny):
    """Of two processes in one directory one trains and the other is refused; a lock dies with its process."""
    settings = {"hidden": (8,), "patience": 0}
    words = ["--hidden", "8", "--batch-size", "128", "--lr", "0.05", "--max-epochs", "100000", "--patience", "0"]
    command = [*words, "--output-dir", str(tmp_path), "--quiet"]
    first = subprocess.Popen([sys.executable, "-m", "ignite_act", "run", *command])
    try:
        deadline = time.monotonic() + 120
        while not [*tmp_path.glob("*/*/*/epochs.jsonl")]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for option in ("--resume", "--overwrite"):
            second = CliRunner().invoke(main, ["run", *command, option])
            assert second.exit_code == 2
            assert second.stderr.startswith("error: another process is training in ")
            assert second.stderr.count("\n") == 1
    finally:
        first.kill()
        first.wait()
    assert run(tiny(**settings, max_epochs=1), tmp_path, resume=True, quiet=True).summary["epochs"] >= 1
