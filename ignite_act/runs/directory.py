"""Who may write into a run directory, and how one run takes the place of another.

A change of runs is first written to disk as an `Intent`, then carried out. A process killed before the intent is on
disk leaves the old run; one killed after it leaves the new run, and the next process completes the change. Only names
that a run gives its files are ever removed, links are not followed, and ``--overwrite`` refuses a directory that
contains anything else.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from ignite_act import files
from ignite_act.config import LARGEST, RunConfig
from ignite_act.errors import UserError, echo, first_line, printable
from ignite_act.files import Kind
from ignite_act.report import Count, EpochReport, Shape, check_shape
from ignite_act.runs.checkpoints import set_damaged_aside
from ignite_act.runs.fit import different_settings
from ignite_act.runs.layout import (
    CHECKPOINTS,
    CONFIG,
    INTENT,
    LAST,
    LOCK,
    LOG,
    PREVIOUS,
    REPORTS,
    SUMMARY,
    is_own,
)
from ignite_act.runs.stored import SCHEMA, epochs_done, has_result, parse_config, run_reports, size_until, versions
from ignite_act.variants import activation_slug

logger = logging.getLogger(__name__)

_MAY_DIFFER = {"max_epochs", "device", "output_dir", "data_root", "published"}
"""Settings that a resumed run may change."""
_NAMED = 3


class BusyError(UserError):
    """Another process is writing the run."""


class OccupiedError(UserError):
    """The directory contains something that must not be overwritten."""


@dataclass(frozen=True)
class Intent:
    """The steps that prepare a directory for a run that starts or resumes.

    Attributes:
        config: the content of ``config.yaml``.
        remove: files to remove, relative to the directory.
        reports: bytes of ``epochs.jsonl`` to keep; None leaves the file alone.
        damaged: whether the last state cannot be read and is set aside.
    """

    config: str
    remove: tuple[str, ...] = ()
    reports: int | None = None
    damaged: bool = False


class _IntentFile(Shape):
    config: str
    remove: list[str]
    reports: Count | None
    damaged: bool


def check_run_directory(config: RunConfig, directory: Path, *, resume: bool = False, overwrite: bool = False) -> None:
    """Rejects a directory in which this run would damage something.

    Raises:
        OccupiedError: if a run exists and neither flag is given; if the run to resume had other settings; if
            ``overwrite`` meets files that no run wrote; if a link or a special file is in the way.
    """
    own, others = _contents(directory)
    intent = read_intent(directory) if INTENT in own and not overwrite else None
    known = CONFIG in own or intent is not None
    if overwrite:
        if own and others:
            raise OccupiedError(
                f"{directory} contains {_listed(others)}, which no run wrote: move it, or choose another --output-dir"
            )
        return
    if not known:
        if own:
            raise OccupiedError(
                f"{directory} holds files of a run ({_listed(own)}) but no {CONFIG}: "
                "use --overwrite to start over, or choose another --output-dir"
            )
        return
    if not resume:
        raise OccupiedError(
            f"{directory} holds {_what_is_there(directory, intent)}: "
            "--resume goes on with it, --overwrite starts over, --output-dir takes another place"
        )
    different = different_settings(_saved_settings(directory, intent), settings(config))
    if different:
        raise OccupiedError(
            f"{directory} was run with other settings ({', '.join(different)}): "
            "--resume with the same ones, --overwrite to start over, or choose another --output-dir"
        )


def _contents(directory: Path) -> tuple[list[str], list[str]]:
    """The files in a run directory that a run may have written, and the visible ones that none did.

    Raises:
        OccupiedError: if a link, a special file or a directory is where a run writes a file.
        UserError: if the directory cannot be read.
    """
    own: list[str] = []
    others: list[str] = []
    try:
        _refuse_links(directory)
        for name in _names(directory):
            if name == CHECKPOINTS:
                continue
            (own if is_own(name) else others).append(name)
        for name in [*own, CHECKPOINTS]:
            found = files.kind(directory / name)
            if found not in (Kind.NOTHING, Kind.DIRECTORY if name == CHECKPOINTS else Kind.FILE):
                raise OccupiedError(
                    f"{directory / name} is {found.value}, and a run would write there: move it, or choose another "
                    "--output-dir"
                )
    except OSError as error:
        raise UserError(f"cannot read {directory}: {error.strerror}") from error
    return [name for name in own if name != LOCK], [name for name in others if not _is_hidden(name)]


def _refuse_links(directory: Path) -> None:
    """Rejects a run directory that leads elsewhere; the output directory above it may be a link.

    Raises:
        OccupiedError: if it, or one of the two folders above it, is a link.
    """
    for place in (directory, *directory.parents[:2]):
        if files.kind(place) is Kind.LINK:
            raise OccupiedError(f"{place} is a link: replace it with a directory, or choose another --output-dir")


def _names(directory: Path) -> Iterator[str]:
    """The entries of a run directory and of its checkpoints; links are not followed."""
    if files.kind(directory) is not Kind.DIRECTORY:
        return
    yield from sorted(path.name for path in directory.iterdir())
    if files.kind(directory / CHECKPOINTS) is Kind.DIRECTORY:
        yield from sorted(f"{CHECKPOINTS}/{path.name}" for path in (directory / CHECKPOINTS).iterdir())


def _is_hidden(name: str) -> bool:
    return name.rpartition("/")[2].startswith(".")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _what_is_there(directory: Path, intent: Intent | None) -> str:
    epochs = 0 if intent is not None else sum(not report.partial for report in run_reports(directory))
    state = "a finished" if (directory / SUMMARY).exists() and intent is None else "an unfinished"
    return f"{state} run of {'1 epoch' if epochs == 1 else f'{epochs} epochs'}"


def _saved_settings(directory: Path, intent: Intent | None) -> dict[str, Any]:
    path = directory / CONFIG
    try:
        content = parse_config(intent.config) if intent is not None else parse_config(files.read_text(path, LARGEST))
        saved = dict(content["config"])
        return saved | {"act": activation_slug(saved["act"])}
    except (OSError, KeyError, TypeError, ValueError, AttributeError, UserError) as error:
        raise OccupiedError(f"{path} cannot be read; --overwrite starts over") from error


def settings(config: RunConfig) -> dict[str, Any]:
    """The settings that a resumed run must share with the original, in plain types."""
    plain = {**config.model_dump(mode="json"), "act": activation_slug(config.act)}
    return {name: value for name, value in plain.items() if name not in _MAY_DIFFER}


def check_state(directory: Path) -> None:
    """Rejects a run whose saved state is missing: resuming would start over and lose its epochs.

    A run killed before it saved its first state has nothing to lose.

    Raises:
        OccupiedError: if it has epochs to lose.
    """
    if any((directory / CHECKPOINTS / name).exists() for name in (LAST, PREVIOUS)):
        return
    if has_result(directory) or epochs_done(directory) > 1:
        raise OccupiedError(
            f"{directory} cannot be resumed: {CHECKPOINTS}/{LAST} is missing; "
            "restore it, or use --overwrite to start over"
        )


def begin(
    directory: Path, config: RunConfig, *, last_epoch: int | None = None, damaged: bool = False, keep: bool = False
) -> None:
    """Prepares the directory for a run: writes ``config.yaml`` and removes what an earlier run left.

    Args:
        directory: `locked`, and accepted by `check_run_directory`.
        config: of the run.
        last_epoch: of the state it resumes from; later reports are removed. None if it starts over.
        damaged: whether it resumes from the previous state because the last one cannot be read.
        keep: remove only the summary.

    Raises:
        UserError: if it cannot be written.
    """
    own, _ = _contents(directory)
    goes = {SUMMARY} if keep or last_epoch is not None else {*own} - {CONFIG, INTENT}
    temporary = {name for name in own if _is_hidden(name) and name != INTENT}
    reports = size_until(directory, last_epoch) if last_epoch is not None else None
    intent = Intent(_record(config), tuple(sorted((goes | temporary) & {*own})), reports, damaged)
    try:
        files.make_directory(directory / CHECKPOINTS)
        if intent.remove or damaged or reports is not None:
            files.write(directory / INTENT, json.dumps(asdict(intent)))
        _carry_out(directory, intent)
    except OSError as error:
        raise UserError(f"cannot write {directory}: {error.strerror}") from error


def recover(directory: Path) -> None:
    """Completes what a killed process had begun, if anything.

    Args:
        directory: `locked`.

    Raises:
        OccupiedError: if a link or a special file is where a run writes.
        UserError: if it cannot be written.
    """
    _contents(directory)
    intent = read_intent(directory)
    if intent is not None:
        try:
            _carry_out(directory, intent)
        except OSError as error:
            raise UserError(f"cannot write {directory}: {error.strerror}") from error


def read_intent(directory: Path) -> Intent | None:
    """What a killed process had begun to do with a directory; None if nothing is left to do.

    Raises:
        OccupiedError: if the intent cannot be read.
    """
    path = directory / INTENT
    try:
        if files.kind(path) is Kind.NOTHING:
            return None
        content = json.loads(files.read_text(path))
        check_shape(_IntentFile, content)
    except (OSError, ValueError, RecursionError) as error:
        raise OccupiedError(f"{path} cannot be read: {first_line(error)}; --overwrite starts over") from error
    content["remove"] = tuple(name for name in content["remove"] if is_own(name))
    return Intent(**content)


def _carry_out(directory: Path, intent: Intent) -> None:
    """Performs the steps; repeating them is harmless."""
    for name in intent.remove:
        files.remove(directory / name)
    if intent.damaged:
        set_damaged_aside(directory / CHECKPOINTS)
    if intent.reports is not None:
        files.cut(directory / REPORTS, intent.reports)
    files.write(directory / CONFIG, intent.config)
    files.sync_directory(directory / CHECKPOINTS)  # a removed file must not reappear without the intent
    files.remove(directory / INTENT)
    files.sync_directory(directory)


def _record(config: RunConfig) -> str:
    record = {"config": config.model_dump(mode="json"), "versions": versions(), "command": shlex.join(sys.argv)}
    return yaml.safe_dump(record, sort_keys=False)


def record_failure(directory: Path, config: RunConfig, error: Exception) -> Path:
    """Makes an error the result of a run: the reason in ``summary.json``, the traceback in ``train.log``.

    Raises:
        BusyError: if another process is writing the run.
        OccupiedError: if the directory holds another run or a finished one; both are left as they are.
        UserError: if the directory cannot be written.
    """
    with locked(directory):
        recover(directory)
        check_run_directory(config, directory, resume=True)
        if has_result(directory):
            raise OccupiedError(
                f"{directory} holds a finished run, which was kept; the new one failed: {first_line(error)}"
            )
        begin(directory, config, keep=True)
        with log_file(directory / LOG):
            logger.error("the run failed", exc_info=error)
        reports: list[EpochReport] = []
        with contextlib.suppress(UserError):
            reports = list(run_reports(directory))
        summary = {
            "schema": SCHEMA,
            "activation": activation_slug(config.act),
            "seed": config.seed,
            "epochs": len(reports),
            "stop": "failed",
            "stop_reason": f"{type(error).__name__}: {first_line(error)}",
            "findings": [finding.to_dict() for finding in reports[-1].findings] if reports else [],
            "versions": versions(),
        }
        try:
            files.write(directory / SUMMARY, json.dumps(summary, indent=2) + "\n")
        except OSError as problem:
            raise UserError(f"cannot write {directory}: {problem.strerror}") from problem
    return directory


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keeps other processes out of a run directory, which is made if it is not there; the lock dies with its process.

    Raises:
        BusyError: if another process is in it.
        OccupiedError: if it, or its lock, is a link.
        UserError: if it cannot be written.
    """
    path = directory / LOCK
    lock = FileLock(path, timeout=0)
    try:
        _refuse_links(directory)
        files.make_directory(directory)
        if files.kind(path) not in (Kind.NOTHING, Kind.FILE):
            raise OccupiedError(f"{path} is {files.kind(path).value}, and a run would write there: remove it")
        lock.acquire()
        now = time.time_ns()  # Linux itself would stamp the file with an earlier time: its last tick
        os.utime(path, ns=(now, now))  # for `is_under_way`
    except Timeout as error:
        raise BusyError(
            f"another process is training in {directory}: wait for its end, or choose another --output-dir"
        ) from error
    except OSError as error:
        raise UserError(f"cannot write {directory}: {error.strerror}") from error
    try:
        yield
    finally:
        lock.release()


def check_not_busy(directory: Path) -> None:
    """Refuses a run directory that another process is writing.

    Raises:
        BusyError: if one does.
    """
    if (directory / LOCK).exists():
        with locked(directory):
            pass


def has_begun(directory: Path, since: float) -> bool:
    """Whether a run has started in a directory since a time (as ``time.time()``)."""
    with contextlib.suppress(OSError):
        return (directory / CONFIG).stat().st_mtime >= since
    return False


def is_under_way(directory: Path, since: float) -> bool:
    """Whether a process has locked a run directory since a time (as ``time.time()``) and has not written a summary."""
    with contextlib.suppress(OSError):
        if (directory / LOCK).stat().st_mtime < since:
            return False
        summary = directory / SUMMARY
        return not summary.exists() or summary.stat().st_mtime < since
    return False


@contextlib.contextmanager
def log_file(path: Path) -> Iterator[None]:
    """What the package logs goes into the file, too; where it cannot be written, that is said once."""
    package = logging.getLogger("ignite_act")
    try:
        handler = _LogFile(path)
    except OSError as error:
        logger.warning("%s cannot be written: %s", path, error.strerror)
        yield
        return
    handler.setFormatter(_PrintableFormatter("%(asctime)s %(levelname)s %(message)s"))
    level = package.level
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    try:
        yield
    finally:
        package.removeHandler(handler)
        package.setLevel(level)
        handler.close()


class _PrintableFormatter(logging.Formatter):
    """Spells out control characters, so that a file name in the log cannot command a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class _LogFile(logging.StreamHandler):  # type: ignore[type-arg]  # no type arguments before Python 3.11
    """Says once that a line could not be written, where logging would print a traceback for each.

    Raises:
        OSError: if the file cannot be opened, or is a link.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._told = False
        super().__init__(io.TextIOWrapper(io.BufferedWriter(files.appending(path)), encoding="utf-8"))

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what is left to be written: said before
            self.stream.close()
        super().close()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, logging's own name
        if not self._told:
            self._told = True
            echo(f"{self._path} cannot be written: {sys.exc_info()[1]}", err=True)
