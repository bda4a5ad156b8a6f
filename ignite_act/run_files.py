"""The files of a run: where they lie, how they are written and read back."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import re
import shlex
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from pydantic import Field

from ignite_act.checkpoints import different_settings
from ignite_act.config import RunConfig, read_yaml, run_config
from ignite_act.errors import UserError, first_line
from ignite_act.report import (
    Count,
    CoverageShape,
    DeadShape,
    EpochReport,
    Finding,
    Finite,
    GradientShape,
    HistogramShape,
    Shape,
    check_shape,
)
from ignite_act.sinks import each_report
from ignite_act.variants import activation_slug, check_activation

logger = logging.getLogger(__name__)

SCHEMA = 2
"""Version of ``summary.json``."""
LOCK = ".lock"
_PACKAGES = ("ignite-act", "torch", "torchvision", "pytorch-ignite", "tensorboardX", "numpy", "scikit-learn")
_MAY_DIFFER = {"max_epochs", "device", "output_dir", "data_root", "published"}
"""Settings that a resumed run may change."""


@dataclass(frozen=True)
class StoredRun:
    """A run that ended, as its directory tells of it.

    Attributes:
        directory: the run directory.
        config: the settings, in plain types.
        versions: package -> version that it was made with.
        summary: the content of ``summary.json``.
    """

    directory: Path
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    summary: Mapping[str, Any]

    @property
    def failed(self) -> bool:
        """Whether it ended with an error: the summary then has no results."""
        return self.summary["stop"] == "failed"

    @property
    def findings(self) -> list[Finding]:
        """What was wrong when it ended, the cause before its consequences; then what had been and was cleared."""
        return stored_findings(self.summary)

    def reports(self) -> list[EpochReport]:
        """The reports of its epochs, read from the file at every call."""
        return list(_reports(self.directory))

    def first_report(self) -> EpochReport | None:
        """The report of the first epoch, without reading the others; None if there is none that can be read."""
        return first_report(self.directory)


def run_directory(config: RunConfig, output_dir: Path) -> Path:
    """``<output_dir>/<data>/<activation>/seed-<n>``."""
    return output_dir / config.data / activation_slug(config.act) / f"seed-{config.seed}"


def check_run_directory(config: RunConfig, directory: Path, *, resume: bool = False, overwrite: bool = False) -> None:
    """Refuses a directory whose run would be mixed with another.

    Raises:
        UserError: if a run exists and neither flag is given, or the one to resume had other settings.
    """
    try:
        exists = (directory / "config.yaml").exists()
    except OSError as error:
        raise UserError(f"cannot read {directory}: {error.strerror}") from error
    if not exists or overwrite:
        return
    if not resume:
        epochs = sum(not report.partial for report in run_reports(directory))
        state = "a finished" if (directory / "summary.json").exists() else "an unfinished"
        length = "1 epoch" if epochs == 1 else f"{epochs} epochs"
        raise UserError(
            f"{directory} holds {state} run of {length}: "
            "--resume goes on with it, --overwrite starts over, --output-dir takes another place"
        )
    try:
        saved = dict(read_yaml(directory / "config.yaml")["config"])
        saved["act"] = activation_slug(saved["act"])
    except (KeyError, TypeError, ValueError, AttributeError, UserError) as error:
        raise UserError(f"{directory / 'config.yaml'} cannot be read; --overwrite starts over") from error
    different = different_settings(saved, settings(config))
    if different:
        raise UserError(
            f"{directory} was run with other settings ({', '.join(different)}): "
            "--resume with the same ones, or --overwrite to start over"
        )


def settings(config: RunConfig) -> dict[str, Any]:
    """What a run that goes on must share with the one that began, in plain types."""
    plain = {**config.model_dump(mode="json"), "act": activation_slug(config.act)}
    return {name: value for name, value in plain.items() if name not in _MAY_DIFFER}


def make_run_directory(directory: Path, config: RunConfig, *, keep: bool) -> None:
    """The directory with ``config.yaml``; what an earlier run left is removed unless it is kept.

    Raises:
        UserError: if it cannot be written.
    """
    try:
        (directory / "checkpoints").mkdir(parents=True, exist_ok=True)
        (directory / "summary.json").unlink(missing_ok=True)
        old = ("epochs.jsonl", "report.html", "train.log", "events.out.*", "checkpoints/*.pt")
        for pattern in (".*.tmp", "checkpoints/.*.tmp", *(() if keep else old)):  # first what a kill has left
            for path in directory.glob(pattern):
                path.unlink(missing_ok=True)
        record = {"config": config.model_dump(mode="json"), "versions": versions(), "command": shlex.join(sys.argv)}
        write_atomically(directory / "config.yaml", yaml.safe_dump(record, sort_keys=False))
    except OSError as error:
        raise UserError(f"cannot write {directory}: {error.strerror}") from error


def is_finished(directory: Path, config: RunConfig) -> bool:
    path = directory / "summary.json"
    if not path.exists():
        return False
    summary = read_summary(path)
    if summary["stop"] == "failed":
        return False
    return not (summary["stop"] == "all_epochs" and summary["epochs"] < config.max_epochs)


def record_failure(directory: Path, config: RunConfig, error: Exception) -> Path:
    """Makes an error the result of a run: the reason in ``summary.json``, the traceback in ``train.log``.

    Raises:
        UserError: if the directory cannot be written.
    """
    make_run_directory(directory, config, keep=True)
    reports: list[EpochReport] = []
    try:
        with log_file(directory / "train.log"):
            logger.error("the run failed", exc_info=error)
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
        write_atomically(directory / "summary.json", json.dumps(summary, indent=2) + "\n")
    except OSError as problem:
        raise UserError(f"cannot write {directory}: {problem.strerror}") from problem
    return directory


def read_run(directory: Path) -> StoredRun:
    """A run that ended.

    Raises:
        UserError: if it has not ended, or its files cannot be read.
    """
    if not (directory / "summary.json").exists():
        raise UserError(f"{directory} holds {'an unfinished run' if is_begun(directory) else 'no run'}")
    summary = _summary(directory / "summary.json")
    config, versions = read_config(directory / "config.yaml")
    return StoredRun(directory, config.model_dump(mode="json"), versions, summary)


def read_config(path: Path) -> tuple[RunConfig, dict[str, str]]:
    """The settings of a run, and package -> version that it was made with, from its ``config.yaml``.

    Raises:
        UserError: if it cannot be read, is another program's, or its settings cannot be used.
    """
    try:
        saved = read_yaml(path)
        check_shape(_ConfigFile, saved)
        config = run_config(saved["config"])
        check_activation(config)
    except (UserError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {first_line(error)}") from error
    return config, saved["versions"]


def is_begun(directory: Path) -> bool:
    """Whether a directory's ``config.yaml`` is that of a run, and not another program's."""
    try:
        check_shape(_ConfigFile, read_yaml(directory / "config.yaml"))
    except (UserError, ValueError):
        return False
    return True


def find_runs(places: Iterable[Path]) -> tuple[list[StoredRun], dict[Path, str]]:
    """The runs that ended in or below some directories, in the order of their paths.

    Returns:
        The runs, and the directories whose run was left out, each with the reason. A ``config.yaml`` of another
        program is no run.
    """
    directories: dict[Path, Path] = {}
    for place in places:
        beside = (path.parent for path in place.rglob("config.yaml"))
        found = sorted(folder for folder in beside if (folder / "summary.json").exists() or is_begun(folder))
        directories.update({directory.resolve(): directory for directory in reversed(found)})
    runs, left_out = [], {}
    for directory in sorted(directories.values(), key=_natural):
        try:
            runs.append(read_run(directory))
        except UserError as error:
            left_out[directory] = str(error)
    return runs, left_out


def _natural(path: Path) -> list[Any]:
    """``seed-9`` before ``seed-10``."""
    parts = (re.split(r"([0-9]+)", part) for part in path.parts)
    return [[(piece.isdecimal(), int(piece) if piece.isdecimal() else piece) for piece in part] for part in parts]


def read_summary(path: Path) -> dict[str, Any]:
    """The summary of a run that is to go on."""
    with _overwritable():
        return _summary(path)


def _summary(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        check_shape(_Versioned, content)
        if content["schema"] != SCHEMA:
            raise ValueError(f"it has version {content['schema']!r}, this program reads {SCHEMA}")
        check_shape(_Ended, content)
        if content["stop"] != "failed":
            check_shape(_Finished, content)
        stored_findings(content)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {first_line(error)}") from error
    return content


@contextlib.contextmanager
def _overwritable() -> Iterator[None]:
    """Says how to go on where a damaged file is in the way of a training."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{error}; --overwrite starts over") from error


class _ConfigFile(Shape):
    config: dict[str, Any]
    versions: dict[str, str]


class _Versioned(Shape):
    schema_: int = Field(alias="schema")


class _Ended(Shape):
    activation: str
    epochs: Count
    stop: str
    stop_reason: str
    learned: bool = False
    findings: list[Any] | None = None
    coverage: dict[str, CoverageShape] | None = None


class _Scores(Shape):
    accuracy: Finite | None
    loss: Finite | None


class _GradientRow(GradientShape):
    mean_abs: Finite | None
    max_abs: Finite | None
    steps: Count
    skipped_steps: Count
    nonfinite: Count


class _ActivationRow(HistogramShape):
    mean: Finite | None
    std: Finite | None
    min: Finite | None
    max: Finite | None
    zero_fraction: Finite | None
    saturated_fraction: Finite | None
    nonfinite: Count


class _Finished(_Ended):
    best_epoch: Count | None
    test: _Scores
    last: _Scores
    seconds: Finite
    cost: Finite = 0.0
    gradients: dict[str, _GradientRow]
    activations: dict[str, _ActivationRow]
    dead_neurons: dict[str, DeadShape]


def stored_findings(summary: Mapping[str, Any]) -> list[Finding]:
    """The findings of a summary; none where it has no word of them.

    Raises:
        ValueError: if they are none.
    """
    try:
        return [Finding.from_dict(item) for item in summary.get("findings") or ()]
    except ValueError as error:
        raise ValueError(f"there is no finding that this version knows: {first_line(error)}") from error


def run_reports(directory: Path) -> Iterator[EpochReport]:
    """The reports of a run that is to go on, one at a time."""
    with _overwritable():
        yield from _reports(directory)


def _reports(directory: Path) -> Iterator[EpochReport]:
    path = directory / "epochs.jsonl"
    try:
        if path.exists():
            yield from each_report(path)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {first_line(error)}") from error


def first_report(directory: Path) -> EpochReport | None:
    """The report of a run's first epoch; None if there is none that can be read."""
    with (
        contextlib.suppress(OSError, ValueError, RecursionError),
        (directory / "epochs.jsonl").open(encoding="utf-8") as file,
    ):
        return EpochReport.from_dict(json.loads(file.readline()))
    return None


def epochs_done(directory: Path) -> int:
    """How many reports a run has written, without reading them; 0 if that cannot be told."""
    try:
        return (directory / "epochs.jsonl").read_bytes().count(b"\n")
    except OSError:
        return 0


def last_report(directory: Path) -> EpochReport | None:
    return next(iter(deque(run_reports(directory), maxlen=1)), None)


class BusyError(UserError):
    """Another process is writing the run."""


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keeps other processes out of a run directory, which is made if it is not there; the lock dies with its process.

    Raises:
        BusyError: if another process is in it.
        UserError: if it cannot be written.
    """
    lock = FileLock(directory / LOCK, timeout=0)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock.acquire()
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
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
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


class _LogFile(logging.FileHandler):
    """Says once that a line could not be written, where logging would print a traceback for each."""

    _told = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, logging's own name
        if not self._told:
            self._told = True
            sys.stderr.write(f"{self.baseFilename} cannot be written: {sys.exc_info()[1]}\n")


def write_atomically(path: Path, text: str) -> None:
    """Writes a file that is there whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
