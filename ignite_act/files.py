"""Files that are there whole or not at all, that are never written through a link, and never waited for.

Nothing else in the package makes, renames or removes what is on the disk (`tests/test_disk_files.py` says so).
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
from pathlib import Path
from typing import BinaryIO

LARGEST_TEXT = 1 << 26
"""Bytes of a text that is read at once: nothing that this program writes comes near it."""
_TEMPORARY = re.compile(r"\.(?P<name>.+?)(?:\.[0-9a-f]+)?\.tmp")
_NO_WAITING: int = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)


class Kind(Enum):
    """What lies at a path, links not followed."""

    NOTHING = "nothing"
    FILE = "a file"
    DIRECTORY = "a directory"
    LINK = "a link"
    OTHER = "no regular file"


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
    """A regular file, opened to be read; a pipe, a socket or a device is refused, where opening it might wait.

    Raises:
        OSError: if there is none, or it cannot be read.
    """
    _check_regular(path, path.stat())
    with os.fdopen(os.open(path, os.O_RDONLY | _NO_WAITING | getattr(os, "O_BINARY", 0)), "rb") as file:
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
        raise OSError(errno.EFBIG, f"it has more than {largest >> 20} MB", str(path))
    return content.decode()


def _check_regular(path: Path, found: os.stat_result) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))


@contextlib.contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of another once it is whole and on the disk; a link in its place is not followed.

    Raises:
        OSError: if it cannot be written; then what was there before is still there.
    """
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
    """Writes a file that is there whole or not at all, also after a power cut; text in UTF-8.

    Raises:
        OSError: if it cannot be written; then what was there before is still there.
    """
    with writing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def cut(path: Path, size: int) -> None:
    """Takes away what a file has beyond so many bytes; nothing if there is no file.

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
    """Gives a file another name, in place of what had it."""
    path.replace(to)
    sync_directory(to.parent)


def remove(path: Path) -> None:
    """Removes a file, or a link and not what it leads to; nothing if there is none."""
    path.unlink(missing_ok=True)


def make_directory(path: Path) -> None:
    """Makes a directory and those above it that are missing."""
    missing = [place for place in (path, *path.parents) if not place.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for place in missing:
        sync_directory(place.parent)


def sync(file: BinaryIO) -> None:
    """What was written into a file outlasts a power cut from now on."""
    file.flush()
    os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Names in a directory outlast a power cut from now on, where the file system can promise that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def whose_temporary(name: str) -> str | None:
    """The file that a temporary one of `writing` would have become; None if it is none.

    >>> whose_temporary(".config.yaml.0123456789abcdef.tmp"), whose_temporary("config.yaml")
    ('config.yaml', None)
    """
    found = _TEMPORARY.fullmatch(name)
    return found["name"] if found else None
