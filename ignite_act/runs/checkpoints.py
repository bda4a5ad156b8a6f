"""The checkpoints of a run: written in one step, kept where one cannot be written, read without executing anything."""

from __future__ import annotations

import copy
import errno
import logging
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from ignite.handlers.checkpoint import BaseSaveHandler

from ignite_act import files
from ignite_act.errors import UserError, first_line, printable, quoted
from ignite_act.processes import is_first
from ignite_act.runs.layout import BEST, DAMAGED, LAST, PREVIOUS

logger = logging.getLogger(__name__)

SCHEMA = 3
"""Version of the checkpoints."""


class RunSaver(BaseSaveHandler):
    """Writes the checkpoints of a run, and lets it go on where one cannot be written.

    A file is there whole or not at all. The state before the last one is kept as ``previous.pt``. What cannot be
    written is said once; the best weights wait in memory until they can be, and no later state is written before
    them, so that what lies on the disk always belongs together.

    Args:
        directory: where the files go.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._waiting: Mapping[str, Any] | None = None  # best weights that are not on the disk yet
        self._told = False

    def __call__(self, checkpoint: Mapping[str, Any], filename: str, metadata: Mapping[str, Any] | None = None) -> None:
        """Writes one checkpoint, in the first of several processes."""
        if not is_first():
            return
        try:
            if filename != BEST and self._waiting is not None:
                self._write(self._waiting, BEST)
                self._waiting = None
            self._write(checkpoint, filename)
        except (OSError, RuntimeError) as error:  # torch's writer turns the one into the other
            if filename == BEST:
                self._waiting = copy.deepcopy(checkpoint)  # training goes on with these very tensors
            if not self._told:
                self._told = True
                path = self._directory / filename
                logger.warning("%s cannot be written, training goes on without it: %s", path, first_line(error))
            return
        if filename == BEST:
            self._waiting = None

    def remove(self, filename: str) -> None:
        """Nothing: the new file takes the old one's place."""

    def best(self) -> dict[str, Any]:
        """The best checkpoint, be it one that could not be written.

        Raises:
            UserError: if there is none that can be read.
        """
        return dict(self._waiting) if self._waiting is not None else load_checkpoint(self._directory / BEST)

    def _write(self, checkpoint: Mapping[str, Any], filename: str) -> None:
        path = self._directory / filename
        files.make_directory(self._directory)
        if files.kind(self._directory) is not files.Kind.DIRECTORY:  # a link may have replaced it since the run began
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(self._directory))
        with files.writing(path) as file:  # by its path torch would not say why it cannot
            torch.save(checkpoint, file)
            if filename == LAST and path.exists():
                files.rename(path, self._directory / PREVIOUS)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of a run: tensors and plain types, nothing in it is executed.

    Raises:
        UserError: if it cannot be read, is damaged, holds anything else or is of another version.
    """
    try:
        with files.reading(path) as file:
            _check_archive(path, file)
            file.seek(0)
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"the checkpoint {path} is refused: it holds something else than tensors and plain values, "
            "which could run code (none was run)"
        ) from error
    except (UserError, files.HandlesError):
        raise
    except Exception as error:  # zipfile and torch raise many kinds for a file that is none of theirs
        raise UserError(f"the checkpoint {path} is damaged, or not a checkpoint: {first_line(error)}") from error
    found = checkpoint.get("run") if isinstance(checkpoint, dict) else None
    run = found if isinstance(found, dict) else {}
    schema = run.get("schema")
    if type(schema) is not int or schema != SCHEMA:
        raise UserError(f"the checkpoint {path} has version {quoted(schema)}, this program reads {SCHEMA}")
    if not isinstance(run.get("epoch"), int) or run["epoch"] < 0:
        raise UserError(f"the checkpoint {path} is not valid: it has no epoch")
    return checkpoint


def _check_archive(path: Path, file: BinaryIO) -> None:
    """Rejects an archive with wrong check sums, which torch does not verify, or with compressed entries.

    Raises:
        UserError: if it is damaged or compressed.
    """
    with zipfile.ZipFile(file) as archive:
        packed = next((entry for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED), None)
        if packed is not None:
            raise UserError(f"the checkpoint {path} is refused: {printable(packed.filename)} in it is compressed")
        damaged = archive.testzip()
    if damaged is not None:
        raise UserError(f"the checkpoint {path} is damaged: the check sum of {printable(damaged)} is wrong")


class Resumable(NamedTuple):
    """The state that a run resumes from.

    Attributes:
        checkpoint: see `load_checkpoint`.
        damaged: whether this is the previous state because the last one cannot be read.
    """

    checkpoint: dict[str, Any]
    damaged: bool

    @property
    def epoch(self) -> int:
        """The epoch after which it was saved."""
        return int(self.checkpoint["run"]["epoch"])


def resumable_checkpoint(directory: Path) -> Resumable | None:
    """The latest readable state of a run; None if it has saved none. Changes nothing on disk.

    Args:
        directory: of the checkpoints.

    Raises:
        UserError: if there are files, and none of them can be read.
    """
    paths = [path for name in (LAST, PREVIOUS) if (path := directory / name).exists()]
    problems: list[UserError] = []
    for path in paths:
        try:
            checkpoint = load_checkpoint(path)
        except UserError as error:
            problems.append(error)
            continue
        if problems:
            logger.warning("%s; going on from the state before it (epoch %s)", problems[0], checkpoint["run"]["epoch"])
        return Resumable(checkpoint, bool(problems))
    if problems:
        raise UserError(f"{problems[0]}; --overwrite starts over")
    return None


def set_damaged_aside(directory: Path) -> None:
    """Renames an unreadable last state to ``damaged.pt``, so that it never replaces the previous one."""
    if (directory / LAST).exists():
        files.rename(directory / LAST, directory / DAMAGED)
