"""Who may write into a run directory, and how one run takes the place of another.

What makes a directory that of another run is first written down whole, as an `Intent`, and then carried out. A process
that is killed before that leaves the old run, one that is killed after it the new one: whoever comes next carries out
the rest. Only files with the names of a run's are ever removed, no link is followed, and a directory that holds
anything else is not cleaned.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from ignite_act import files
from ignite_act.config import RunConfig
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
from ignite_act.runs.stored import SCHEMA, epochs_done, parse_config, read_summary, run_reports, size_until, versions
from ignite_act.variants import activation_slug

logger = logging.getLogger(__name__)

_MAY_DIFFER = {"max_epochs", "device", "output_dir", "data_root", "published"}
"""Settings that a resumed run may change."""
_NAMED = 3


class BusyError(UserError):
    """Another process is writing the run."""


class OccupiedError(UserError):
    """The directory holds something that is not to be written over."""


@dataclass(frozen=True)
class Intent:
    """What is to be done so that a directory becomes that of a run which begins or goes on.

    Attributes:
        config: the content of ``config.yaml``.
        remove: files that go, relative to the directory.
        reports: bytes of ``epochs.jsonl`` that stay; None leaves it alone.
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
    """Refuses a directory whose run would be mixed with another, or that cannot be written without harm.

    Raises:
        OccupiedError: if a run exists and neither flag is given, or the one to resume had other settings; if something
            would be lost that no run wrote; if a link or a special file is in the way.
    """
    own, others = _contents(directory)
    intent = read_intent(directory) if INTENT in own and not overwrite else None
    known = CONFIG in own or intent is not None
    if others and (overwrite and own):
        raise OccupiedError(
            f"{directory} holds {_listed(others)}, which no run wrote: move it away, or choose another --output-dir"
        )
    if overwrite:
        return
    if not known:
        if own:
            raise OccupiedError(
                f"{directory} holds files of a run ({_listed(own)}) without their {CONFIG}: "
                "--overwrite starts over, --output-dir takes another place"
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
        OccupiedError: if a link or a special file stands where a run writes.
        UserError: if the directory cannot be read.
    """
    own: list[str] = []
    others: list[str] = []
    try:
        for place in (directory, *directory.parents[:2]):
            if files.kind(place) is Kind.LINK:
                raise OccupiedError(f"{place} is a link and not followed: give --output-dir the place it leads to")
        for name in _names(directory):
            if name == CHECKPOINTS:
                continue
            (own if is_own(name) else others).append(name)
        for name in [*own, CHECKPOINTS]:
            found = files.kind(directory / name)
            if found is Kind.LINK or found is Kind.OTHER or (found is Kind.FILE and name == CHECKPOINTS):
                raise OccupiedError(
                    f"{directory / name} is {found.value}, where a run writes: move it away, or choose another "
                    "--output-dir"
                )
    except OSError as error:
        raise UserError(f"cannot read {directory}: {error.strerror}") from error
    return [name for name in own if name != LOCK], [name for name in others if not _is_hidden(name)]


def _names(directory: Path) -> Iterator[str]:
    """What lies in a run directory and in its checkpoints; links are not followed."""
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
        content = parse_config(intent.config) if intent is not None else parse_config(files.read_text(path))
        saved = dict(content["config"])
        return saved | {"act": activation_slug(saved["act"])}
    except (OSError, KeyError, TypeError, ValueError, AttributeError, UserError) as error:
        raise OccupiedError(f"{path} cannot be read; --overwrite starts over") from error


def settings(config: RunConfig) -> dict[str, Any]:
    """What a run that goes on must share with the one that began, in plain types."""
    plain = {**config.model_dump(mode="json"), "act": activation_slug(config.act)}
    return {name: value for name, value in plain.items() if name not in _MAY_DIFFER}


def check_state(directory: Path) -> None:
    """Refuses to go on with a run whose state is gone: it would start over, and what it had would be lost.

    A run that was killed before its first state was written has nothing to lose.

    Raises:
        OccupiedError: if it has epochs to lose.
    """
    if any((directory / CHECKPOINTS / name).exists() for name in (LAST, PREVIOUS)):
        return
    summary = directory / SUMMARY
    ended = summary.exists() and read_summary(summary)["stop"] != "failed"
    if ended or epochs_done(directory) > 1:
        raise OccupiedError(
            f"{directory} has no {CHECKPOINTS}/{LAST} to go on from: put it back, or --overwrite to start over"
        )


def begin(
    directory: Path, config: RunConfig, *, last_epoch: int | None = None, damaged: bool = False, keep: bool = False
) -> None:
    """Makes the directory that of a run: with ``config.yaml``, and without what is left of an earlier one.

    Args:
        directory: `locked`, and accepted by `check_run_directory`.
        config: of the run.
        last_epoch: of the state that it goes on from; later reports are taken back. None if it starts over.
        damaged: whether the state before is used, since the last one cannot be read.
        keep: leave everything there is but a summary.

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
    """Carries out what a process that was killed had begun; nothing if there is nothing.

    Args:
        directory: `locked`.

    Raises:
        UserError: if it cannot be written.
    """
    intent = read_intent(directory)
    if intent is not None:
        try:
            _carry_out(directory, intent)
        except OSError as error:
            raise UserError(f"cannot write {directory}: {error.strerror}") from error


def read_intent(directory: Path) -> Intent | None:
    """What a process was about to do with a directory when it was killed; None if there is nothing left to do.

    Raises:
        OccupiedError: if that cannot be read.
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
    """Does what is still to be done; a second time does no harm."""
    for name in intent.remove:
        files.remove(directory / name)
    if intent.damaged:
        set_damaged_aside(directory / CHECKPOINTS)
    if intent.reports is not None:
        files.cut(directory / REPORTS, intent.reports)
    files.write(directory / CONFIG, intent.config)
    files.sync_directory(directory / CHECKPOINTS)  # what is gone must not come back without the intent
    files.remove(directory / INTENT)
    files.sync_directory(directory)


def _record(config: RunConfig) -> str:
    record = {"config": config.model_dump(mode="json"), "versions": versions(), "command": shlex.join(sys.argv)}
    return yaml.safe_dump(record, sort_keys=False)


def record_failure(directory: Path, config: RunConfig, error: Exception) -> Path:
    """Makes an error the result of a run: the reason in ``summary.json``, the traceback in ``train.log``.

    Raises:
        BusyError: if another process is writing the run.
        OccupiedError: if the directory holds another run, or a finished one, which stay as they are.
        UserError: if the directory cannot be written.
    """
    with locked(directory):
        recover(directory)
        check_run_directory(config, directory, resume=True)
        if (directory / SUMMARY).exists() and read_summary(directory / SUMMARY)["stop"] != "failed":
            raise OccupiedError(f"{directory} holds a finished run, which is kept; now it failed: {first_line(error)}")
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
        UserError: if it cannot be written.
    """
    path = directory / LOCK
    lock = FileLock(path, timeout=0)
    try:
        files.make_directory(directory)
        if files.kind(path) not in (Kind.NOTHING, Kind.FILE):
            raise OccupiedError(f"{path} is {files.kind(path).value}, where a run writes: remove it")
        lock.acquire()
        os.utime(path)  # says since when
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


def is_under_way(directory: Path, since: float) -> bool:
    """Whether a process has begun to work in a run directory since then (as ``time.time()``), and has not ended."""
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
        handler = _LogFile(path, encoding="utf-8")
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
        with contextlib.suppress(OSError):  # what is left to be written: said before
            handler.close()


class _PrintableFormatter(logging.Formatter):
    """Names of files and the like cannot command the terminal in which the log is looked at."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class _LogFile(logging.FileHandler):
    """Says once that a line could not be written, where logging would print a traceback for each."""

    _told = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, logging's own name
        if not self._told:
            self._told = True
            echo(f"{self.baseFilename} cannot be written: {sys.exc_info()[1]}", err=True)
