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
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml
from ignite.handlers import DiskSaver

from ignite_act.config import RunConfig
from ignite_act.errors import UserError, first_line
from ignite_act.report import EpochReport, Finding
from ignite_act.sinks import read_reports
from ignite_act.sinks.words import SEVERITIES
from ignite_act.variants import activation_slug

logger = logging.getLogger(__name__)

SCHEMA = 2
"""Version of ``summary.json`` and of the checkpoints."""
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
        return run_reports(self.directory)

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
        saved = dict(yaml.safe_load((directory / "config.yaml").read_text(encoding="utf-8"))["config"])
        saved["act"] = activation_slug(saved["act"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, UserError) as error:
        raise UserError(f"{directory / 'config.yaml'} cannot be read; --overwrite starts over") from error
    mine = {**config.model_dump(mode="json"), "act": activation_slug(config.act)}
    different = [
        f"{name} {saved.get(name)!r} -> {value!r}"
        for name, value in mine.items()
        if name not in _MAY_DIFFER and saved.get(name) != value
    ]
    if different:
        raise UserError(
            f"{directory} was run with other settings ({', '.join(different)}): "
            "--resume with the same ones, or --overwrite to start over"
        )


def make_run_directory(directory: Path, config: RunConfig, *, keep: bool) -> None:
    """The directory with ``config.yaml``; what an earlier run left is removed unless it is kept.

    Raises:
        UserError: if it cannot be written.
    """
    try:
        (directory / "checkpoints").mkdir(parents=True, exist_ok=True)
        (directory / "summary.json").unlink(missing_ok=True)
        if not keep:
            for pattern in ("epochs.jsonl", "report.html", "train.log", "events.out.*", "checkpoints/*.pt"):
                for path in directory.glob(pattern):
                    path.unlink()
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
            reports = run_reports(directory)
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
        raise UserError(f"{directory} holds an unfinished run")
    summary = read_summary(directory / "summary.json")
    path = directory / "config.yaml"
    try:
        saved = yaml.safe_load(path.read_text(encoding="utf-8"))
        config = RunConfig(**saved["config"]).model_dump(mode="json")
        versions = {str(name): str(value) for name, value in saved["versions"].items()}
    except (OSError, yaml.YAMLError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {first_line(error)}") from error
    return StoredRun(directory, config, versions, summary)


def find_runs(places: Iterable[Path]) -> tuple[list[StoredRun], dict[Path, str]]:
    """The runs that ended in or below some directories, in the order of their paths.

    Returns:
        The runs, and the directories whose run was left out, each with the reason.

    """
    directories: dict[Path, Path] = {}
    for place in places:
        found = sorted(path.parent for path in place.rglob("config.yaml"))
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
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise ValueError(f"it has version {content['schema']!r}, this program reads {SCHEMA}")
        stored_findings(content)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{path} cannot be read: {first_line(error)}; --overwrite starts over") from error
    return dict(content)


def stored_findings(summary: Mapping[str, Any]) -> list[Finding]:
    """The findings of a summary; none where it has no word of them.

    Raises:
        ValueError, LookupError, TypeError, AttributeError: if they are none.
    """
    findings = [Finding.from_dict(item) for item in summary.get("findings") or ()]
    for finding in findings:
        types = (finding.kind, str), (finding.since_epoch, int), (finding.evidence, Mapping)
        if finding.severity not in SEVERITIES or not all(isinstance(value, kind) for value, kind in types):
            raise ValueError(f"{finding.kind!r} is no finding that this version knows")
    return findings


def run_reports(directory: Path) -> list[EpochReport]:
    path = directory / "epochs.jsonl"
    try:
        return read_reports(path) if path.exists() else []
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {first_line(error)}; --overwrite starts over") from error


def first_report(directory: Path) -> EpochReport | None:
    """The report of a run's first epoch; None if there is none that can be read."""
    with contextlib.suppress(OSError, ValueError), (directory / "epochs.jsonl").open(encoding="utf-8") as file:
        return EpochReport.from_dict(json.loads(file.readline()))
    return None


def epochs_done(directory: Path) -> int:
    """How many reports a run has written, without reading them; 0 if that cannot be told."""
    try:
        return (directory / "epochs.jsonl").read_bytes().count(b"\n")
    except OSError:
        return 0


def last_report(directory: Path) -> EpochReport | None:
    return next(reversed(run_reports(directory)), None)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of a run: tensors and plain types, nothing in it is executed.

    Raises:
        UserError: if it cannot be read or is of another version.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        schema = checkpoint["run"]["schema"]
    except Exception as error:  # torch raises many kinds for a file that is none of its own
        raise UserError(
            f"the checkpoint {path} cannot be read: {first_line(error)}; --overwrite starts over"
        ) from error
    if schema != SCHEMA:
        raise UserError(f"the checkpoint {path} has version {schema!r}, this program reads {SCHEMA}")
    return checkpoint


def resumable_checkpoint(directory: Path) -> dict[str, Any] | None:
    path = directory / "checkpoints" / "last.pt"
    return load_checkpoint(path) if path.exists() else None


class ReplacingSaver(DiskSaver):
    """Replaces a file of the same name in one step; Ignite would delete the old one before it writes the new one."""

    def remove(self, filename: str) -> None:
        """Nothing: the new file takes the old one's place."""


@contextlib.contextmanager
def log_file(path: Path) -> Iterator[None]:
    """What the package logs goes into the file, too."""
    package = logging.getLogger("ignite_act")
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = package.level
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    try:
        yield
    finally:
        package.removeHandler(handler)
        package.setLevel(level)
        handler.close()


def write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
