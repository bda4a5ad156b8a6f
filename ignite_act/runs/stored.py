"""Finished runs, read back from their files."""

from __future__ import annotations

import contextlib
import json
import platform
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import Field

from ignite_act import files
from ignite_act.config import LARGEST, RunConfig, parse_yaml, run_config
from ignite_act.errors import UserError, first_line
from ignite_act.files import Kind
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
from ignite_act.runs.layout import CONFIG, INTENT, REPORTS, SUMMARY
from ignite_act.sinks import each_report, end_of_epoch
from ignite_act.variants import check_activation

SCHEMA = 2
"""Version of ``summary.json``."""
_PACKAGES = ("ignite-act", "torch", "torchvision", "pytorch-ignite", "tensorboardX", "numpy", "scikit-learn")


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


def is_ended(directory: Path) -> bool:
    """Whether a run has written its summary and no other run is about to replace it."""
    return (directory / SUMMARY).exists() and files.kind(directory / INTENT) is not Kind.FILE


def has_result(directory: Path) -> bool:
    """Whether a run has ended, and not with an error.

    Raises:
        UserError: if its summary cannot be read.
    """
    return is_ended(directory) and read_summary(directory / SUMMARY)["stop"] != "failed"


def is_finished(directory: Path, config: RunConfig) -> bool:
    """Whether a run has a result and no epochs left to train."""
    if not has_result(directory):
        return False
    summary = read_summary(directory / SUMMARY)
    return not (summary["stop"] == "all_epochs" and summary["epochs"] < config.max_epochs)


def read_run(directory: Path) -> StoredRun:
    """A run that ended.

    Raises:
        UserError: if it has not ended, or its files cannot be read.
    """
    if not is_ended(directory):
        raise UserError(f"{directory} holds {'an unfinished run' if is_begun(directory) else 'no run'}")
    summary = _summary(directory / SUMMARY)
    config, versions = read_config(directory / CONFIG)
    return StoredRun(directory, config.model_dump(mode="json"), versions, summary)


def read_config(path: Path) -> tuple[RunConfig, dict[str, str]]:
    """The settings of a run, and package -> version that it was made with, from its ``config.yaml``.

    Raises:
        UserError: if it cannot be read, is another program's, or its settings cannot be used.
    """
    try:
        saved = parse_config(files.read_text(path, LARGEST))
        config = run_config(saved["config"])
        check_activation(config)
    except (OSError, UserError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {_reason(error)}") from error
    return config, saved["versions"]


def parse_config(text: str) -> dict[str, Any]:
    """The content of a ``config.yaml``: settings, not yet validated, and versions.

    Raises:
        UserError, ValueError: if it was not written by a run.
    """
    saved = parse_yaml(text)
    check_shape(_ConfigFile, saved)
    return saved


def _reason(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)


def is_begun(directory: Path) -> bool:
    """Whether a directory's ``config.yaml`` is that of a run, and not another program's."""
    try:
        parse_config(files.read_text(directory / CONFIG, LARGEST))
    except (OSError, UserError, ValueError):
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
        beside = (path.parent for path in place.rglob(CONFIG))
        found = sorted(folder for folder in beside if (folder / SUMMARY).exists() or is_begun(folder))
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
        content: dict[str, Any] = json.loads(files.read_text(path))
        check_shape(_Versioned, content)
        if content["schema"] != SCHEMA:
            raise ValueError(f"it has version {content['schema']!r}, this program reads {SCHEMA}")
        check_shape(_Ended, content)
        if content["stop"] != "failed":
            check_shape(_Finished, content)
        stored_findings(content)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {_reason(error)}") from error
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
    with _readable(directory / REPORTS) as path:
        if path.exists():
            yield from each_report(path)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[Path]:
    try:
        yield path
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {_reason(error)}") from error


def size_until(directory: Path, epoch: int) -> int:
    """Size in bytes of a run's reports up to an epoch."""
    with _overwritable(), _readable(directory / REPORTS) as path:
        return end_of_epoch(path, epoch) if path.exists() else 0


def first_report(directory: Path) -> EpochReport | None:
    """The report of a run's first epoch; None if there is none that can be read."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        return next(each_report(directory / REPORTS), None)
    return None


def epochs_done(directory: Path) -> int:
    """How many reports a run has written, counted by lines; 0 if they cannot be read."""
    try:
        with files.reading(directory / REPORTS) as file:
            return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
    except OSError:
        return 0


def last_report(directory: Path) -> EpochReport | None:
    return next(iter(deque(run_reports(directory), maxlen=1)), None)


def versions() -> dict[str, str]:
    """Package -> version, Python's own included."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
