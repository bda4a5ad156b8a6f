"""After a power cut there is what was synchronised, and any part of what was not: no run is lost by it.

A model of a disk follows what the program does to a directory, and says at every step which directories could be found
after a cut: contents of files as they were synchronised last, and of the names that were given, changed or taken away
since their directory was synchronised, none, all, those up to one of them, or just one.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ignite_act.config import RunConfig
from ignite_act.report import EpochReport
from ignite_act.runs.checkpoints import SCHEMA, RunSaver, resumable_checkpoint
from ignite_act.runs.directory import begin, check_run_directory, locked, recover
from ignite_act.runs.stored import is_ended, read_config
from ignite_act.sinks import JsonLinesSink, read_reports

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the model finds files by Linux's /proc")

CONFIG = RunConfig(max_epochs=3)
OTHER = CONFIG.model_copy(update={"lr": 0.5})
Change = tuple[str, dict[str, int | None]]
"""A directory, and path -> the number of its file from now on."""


class Disk:
    """A directory as it could be found after a power cut.

    Args:
        root: the directory; all that is in it when the model begins is on the disk.
        place: where what could be found is laid out.
        check: looks at a directory that could be found, and says in a word what it is.
    """

    def __init__(self, root: Path, place: Path, check: Callable[[Path], str]) -> None:
        self._root, self._place, self._check = root, place, check
        self._numbers = itertools.count()
        self._now: dict[str, int] = {}  # path -> number of the file
        self._contents: dict[int, bytes] = {}  # what is on the disk of each file
        self._pending: list[Change] = []
        for path in root.rglob("*"):
            if path.is_file():
                self._now[str(path)] = number = next(self._numbers)
                self._contents[number] = path.read_bytes()
        self._names = dict(self._now)  # on the disk
        self._looking = False
        self.found: set[str] = set()

    def cut(self) -> None:
        """Cuts the power, and looks at all that could be found."""
        if not self._looking:
            self._looking = True
            self.found |= {self._check(directory) for directory in self._after_a_cut()}
            self._looking = False

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        """Follows every call that changes the directory, with a cut before each."""
        opened, synced, replaced, unlinked = os.open, os.fsync, Path.replace, Path.unlink

        def open_file(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
            made = self._is_mine(path) and flags & os.O_CREAT and not os.path.lexists(path)
            if made:
                self.cut()
            descriptor = opened(path, flags, *args, **kwargs)
            if made:
                self._now[str(path)] = number = next(self._numbers)
                self._contents[number] = b""
                self._pending.append((str(Path(path).parent), {str(path): number}))
            return descriptor

        def sync(descriptor: int) -> None:
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            if self._is_mine(path):
                self.cut()
            synced(descriptor)
            if self._is_mine(path) and path.is_dir():
                self._names = self._with(change for change in self._pending if change[0] == str(path))
                self._pending = [change for change in self._pending if change[0] != str(path)]
            elif self._is_mine(path):
                if str(path) not in self._now:  # it was opened by another way
                    self._now[str(path)] = number = next(self._numbers)
                    self._pending.append((str(path.parent), {str(path): number}))
                self._contents[self._now[str(path)]] = path.read_bytes()

        def replace(path: Path, target: Path) -> Path:
            if not self._is_mine(path):
                return replaced(path, target)
            self.cut()
            result = replaced(path, target)
            self._now[str(target)] = number = self._now.pop(str(path))
            self._pending.append((str(path.parent), {str(path): None, str(target): number}))
            return result

        def unlink(path: Path, missing_ok: bool = False) -> None:
            if self._is_mine(path):
                self.cut()
            unlinked(path, missing_ok)
            if self._is_mine(path) and self._now.pop(str(path), None) is not None:
                self._pending.append((str(path.parent), {str(path): None}))

        patch.setattr(os, "open", open_file)
        patch.setattr(os, "fsync", sync)
        patch.setattr(Path, "replace", replace)
        patch.setattr(Path, "unlink", unlink)

    def _is_mine(self, path: Any) -> bool:
        return not self._looking and (str(path) + "/").startswith(f"{self._root}/")

    def _with(self, changes: Iterable[Change]) -> dict[str, int]:
        names: dict[str, int | None] = dict(self._names)
        for _, change in changes:
            names.update(change)
        return {name: number for name, number in names.items() if number is not None}

    def _after_a_cut(self) -> Iterator[Path]:
        some = [self._pending[:end] for end in range(len(self._pending) + 1)] + [[one] for one in self._pending]
        for changes in some:
            directory = self._place / f"{next(self._numbers)}" / "a" / "b" / "c"
            (directory / "checkpoints").mkdir(parents=True)
            for name, number in self._with(changes).items():
                (directory / Path(name).relative_to(self._root)).write_bytes(self._contents[number])
            yield directory


@pytest.fixture
def cuts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., set[str]]:
    """Does something to a directory with a power cut before every call; returns what was found after them."""

    def cut(directory: Path, work: Callable[[], None], check: Callable[[Path], str]) -> set[str]:
        disk = Disk(directory, tmp_path / "found", check)
        with monkeypatch.context() as patch:
            disk.watch(patch)
            work()
        disk.cut()
        return disk.found

    return cut


@pytest.fixture
def ended(tmp_path: Path) -> Path:
    """A run directory with files of all kinds, of a run of three epochs that has ended."""
    directory = tmp_path / "runs" / "digits" / "relu" / "seed-42"
    with locked(directory):
        begin(directory, CONFIG)
    sink, saver = JsonLinesSink(directory / "epochs.jsonl"), RunSaver(directory / "checkpoints")
    for epoch in (1, 2, 3):
        sink.write(EpochReport(epoch, 10 * epoch))
        for name in ("best.pt", "last.pt"):
            saver(state(epoch), name)
    for name in ("report.html", "train.log", "events.out.tfevents.1.host.1"):
        (directory / name).write_text(name, encoding="utf-8")
    summary = {"schema": 2, "stop": "failed", "stop_reason": "x", "activation": "relu", "epochs": 3, "seed": 42}
    (directory / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return directory


def state(epoch: int) -> dict[str, Any]:
    """A checkpoint."""
    return {"run": {"schema": SCHEMA, "epoch": epoch}, "model": torch.full((4,), float(epoch))}


def content(directory: Path) -> dict[str, bytes]:
    """Path -> bytes, but for the lock and what is half-written."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != ".lock" and path.suffix != ".tmp"
    }


def test_starting_over(ended: Path, cuts: Callable[..., set[str]]) -> None:
    """Whenever the power goes, --overwrite leaves the old run, whole, or the new one."""
    old = content(ended)

    def work() -> None:
        with locked(ended):
            check_run_directory(OTHER, ended, overwrite=True)
            begin(ended, OTHER)

    def check(directory: Path) -> str:
        if is_ended(directory):
            assert content(directory) == old
            return "old"
        with locked(directory):
            recover(directory)
        assert set(content(directory)) == {"config.yaml"}
        assert read_config(directory / "config.yaml")[0] == OTHER
        return "new"

    assert cuts(ended, work, check) == {"old", "new"}


def test_going_on(ended: Path, cuts: Callable[..., set[str]]) -> None:
    """Whenever the power goes, --resume leaves the run as it had ended or as it goes on, its state in both."""
    old = content(ended)
    lines = old["epochs.jsonl"].splitlines(keepends=True)

    def work() -> None:
        with locked(ended):
            begin(ended, CONFIG, last_epoch=2, damaged=True)

    def check(directory: Path) -> str:
        found = is_ended(directory)
        if found:
            assert content(directory) == old
            return "old"
        with locked(directory):
            recover(directory)
        now = content(directory)
        assert now["epochs.jsonl"] == b"".join(lines[:2])
        assert now["checkpoints/damaged.pt"] == old["checkpoints/last.pt"]
        resumable = resumable_checkpoint(directory / "checkpoints")
        assert resumable is not None
        assert resumable.epoch == 2
        return "new"

    assert cuts(ended, work, check) == {"old", "new"}


def test_training(tmp_path: Path, cuts: Callable[..., set[str]]) -> None:
    """Whenever the power goes, a run goes on after the last epoch whose state was said to be written, with its best
    weights and all its reports."""
    directory = tmp_path / "run"
    (directory / "checkpoints").mkdir(parents=True)
    written = 0

    def work() -> None:
        nonlocal written
        sink, saver = JsonLinesSink(directory / "epochs.jsonl"), RunSaver(directory / "checkpoints")
        for epoch in (1, 2, 3, 4):
            saver(state(epoch), "best.pt")
            sink.write(EpochReport(epoch, 10 * epoch))
            saver(state(epoch), "last.pt")
            written = epoch

    def check(found: Path) -> str:
        resumable = resumable_checkpoint(found / "checkpoints")
        epoch = resumable.epoch if resumable is not None else 0
        assert written <= epoch <= written + 1
        if epoch:
            assert [report.epoch for report in read_reports(found / "epochs.jsonl")][:epoch] == [*range(1, epoch + 1)]
            assert RunSaver(found / "checkpoints").best()["run"]["epoch"] >= epoch
        return str(epoch)

    assert cuts(directory, work, check) == {"0", "1", "2", "3", "4"}
