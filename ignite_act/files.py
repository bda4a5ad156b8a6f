"""Files that are complete or absent, never written through a link, and never block.

No other module creates, renames or removes files (tested in `tests/test_disk_files.py`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from enum import Enum
from io import FileIO
from pathlib import Path
from typing import BinaryIO

LARGEST_TEXT = 1 << 26
"""Limit in bytes for a text that is read at once; far above anything this program writes."""
_TEMPORARY = re.compile(r"\.(?P<name>.+?)(?:\.[0-9a-f]+)?\.tmp")
NO_HANDLES = {errno.EMFILE, errno.ENFILE}
"""What the system says of a process that may open no more files."""
_NO_WAITING: int = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)


class HandlesError(Exception):
    """This process may open no more files. Not an `OSError`: the file itself may be fine."""


class Kind(Enum):
    """What lies at a path, links not followed."""

    NOTHING = "nothing"
    FILE = "a file"
    DIRECTORY = "a directory"
    LINK = "a link"
    OTHER = "not a regular file"


def kind(path: Path) -> Kind:
    """What lies at a path.

    Raises:
        OSError: if that cannot be told.
    """
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return Kind.NOTHING
    if stat.S_ISLNK(mode):
        return Kind.LINK
    if stat.S_ISREG(mode):
        return Kind.FILE
    return Kind.DIRECTORY if stat.S_ISDIR(mode) else Kind.OTHER


@contextlib.contextmanager
def reading(path: Path) -> Iterator[BinaryIO]:
    """A regular file, opened for reading. A pipe, a socket or a device, which might block, is rejected.

    Raises:
        OSError: if it does not exist, is not a regular file, or cannot be read.
        HandlesError: if this process may open no more files.
    """
    _check_regular(path, path.stat())
    try:
        descriptor = os.open(path, os.O_RDONLY | _NO_WAITING | getattr(os, "O_BINARY", 0))
    except OSError as error:
        if error.errno in NO_HANDLES:
            raise HandlesError(f"{path} was not read") from error
        raise
    with os.fdopen(descriptor, "rb") as file:
        _check_regular(path, os.fstat(file.fileno()))  # it may be another one by now
        yield file


def read_text(path: Path, largest: int = LARGEST_TEXT) -> str:
    """The text of a regular file in UTF-8.

    Raises:
        OSError: if it cannot be read, or has more bytes than ``largest``.
        UnicodeDecodeError: if it is no text.
    """
    with reading(path) as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise OSError(errno.EFBIG, f"larger than {largest >> 20} MB", str(path))
    return content.decode()


def _check_regular(path: Path, found: os.stat_result) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))


@contextlib.contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file that replaces another once it is complete and on disk; a link at the path is replaced, not followed.

    Raises:
        OSError: if it cannot be written, or if a pipe, a socket, a device or a directory is there; what is there is
            then unchanged.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        _check_regular(path, path.stat())
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        with os.fdopen(os.open(temporary, flags, 0o666), "wb") as file:
            yield file
            sync(file)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_directory(path.parent)


def write(path: Path, content: str | bytes) -> None:
    """Writes a file that is complete or absent, even after a power cut; text in UTF-8.

    Raises:
        OSError: if it cannot be written; the earlier file is then unchanged.
    """
    with writing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def appending(path: Path, *, follow_links: bool = False) -> FileIO:
    """Opens a file, without a buffer, to write at its end; makes it if it is not there.

    Raises:
        OSError: if it cannot be written, or is a link and must not be followed.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
    flags |= 0 if follow_links else getattr(os, "O_NOFOLLOW", 0)
    return FileIO(path, "ab", opener=lambda name, _: os.open(name, flags, 0o666))


def cut(path: Path, size: int) -> None:
    """Truncates a file to at most ``size`` bytes; does nothing if there is no file.

    Raises:
        OSError: if it cannot be written, or is a link.
    """
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_RDWR | _NO_WAITING | getattr(os, "O_NOFOLLOW", 0))
        try:
            if os.fstat(descriptor).st_size > size:
                os.ftruncate(descriptor, size)
                os.fsync(descriptor)
        finally:
            os.close(descriptor)


def rename(path: Path, to: Path) -> None:
    """Renames a file, replacing an existing one."""
    path.replace(to)
    sync_directory(to.parent)


def remove(path: Path) -> None:
    """Removes a file, or a link but not its target; does nothing if there is none."""
    path.unlink(missing_ok=True)


def make_directory(path: Path) -> None:
    """Makes a directory and its missing parents."""
    missing = [place for place in (path, *path.parents) if not place.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for place in missing:
        sync_directory(place.parent)


def sync(file: BinaryIO) -> None:
    """Flushes a file to disk, so that its content survives a power cut."""
    file.flush()
    os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Flushes the names in a directory to disk, where the file system supports it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def whose_temporary(name: str) -> str | None:
    """The name of the file that a temporary file of `writing` was for; None if it is not one.

    >>> whose_temporary(".config.yaml.0123456789abcdef.tmp"), whose_temporary("config.yaml")
    ('config.yaml', None)
    """
    found = _TEMPORARY.fullmatch(name)
    return found["name"] if found else None
