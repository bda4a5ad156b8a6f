"""Errors the user can fix, shown as one line with exit code 2, and the one place that prints text as it is."""

from __future__ import annotations

import contextlib
import re
import reprlib
import sys
from types import TracebackType

_WORD = 300
"""Characters of a word, a path say, that an error shows; longer ones lose their middle."""
_LINE = 2000
"""Characters of an error's line."""
_VALUE = 80
"""Characters of a value that a message quotes."""


class UserError(Exception):
    """Something that was asked for cannot be done; the message says what was given, expected, and what to do."""


class LostProcessError(Exception):
    """One of several processes that train together died or fell silent; exit code 1."""


class foreign:  # noqa: N801 - used like a function
    """A block that runs the user's code: whatever it raises becomes a `UserError`, ``SystemExit`` included.

    A `UserError` passes as it is, and so does ``KeyboardInterrupt``.

    Args:
        what: begins the message: ``"nets.py cannot be imported"``.
    """

    def __init__(self, what: str = "") -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, (UserError, KeyboardInterrupt)):
            return
        said = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"{self._what}: {said}" if self._what else said) from error


def one_line(text: object, limit: int | None = None) -> str:
    """The text in one line, and `printable`; cut where it is longer than ``limit`` characters."""
    line = printable(" ".join(str(text).split()))
    return line if limit is None or len(line) <= limit else line[: limit - 1].rstrip() + "…"


def error_line(error: object) -> str:
    """An error in one line of bearable length: long words lose their middle, then a long line its end.

    >>> len(error_line("no file " + 9999 * "x"))
    308
    """
    return one_line(re.sub(rf"\S{{{_WORD + 1},}}", lambda word: _without_middle(word[0]), str(error)), _LINE)


def _without_middle(word: str) -> str:
    return f"{word[: _WORD // 2 - 1]}…{word[-_WORD // 2 :]}"


def quoted(value: object) -> str:
    """A value as it is written in code, for a message; a long one loses its middle.

    >>> quoted("relu"), len(quoted(9999 * "x")), quoted(10**9999)
    ("'relu'", 80, 'a number of very many digits')
    """
    try:
        return _SHORT.repr(value)
    except ValueError:  # more digits than Python writes out
        return "a number of very many digits"


_SHORT = reprlib.Repr()
_SHORT.maxlevel = 3  # what aliases repeat without end is cut
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = _VALUE


def printable(text: str) -> str:
    """Characters that a terminal would obey (control, change of direction), but for ends of lines, are spelt out."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the error's kind if it has none or cannot say it."""
    try:
        lines = str(error).splitlines()
    except KeyboardInterrupt:
        raise
    except BaseException:  # the error may be of a class of the user's
        lines = []
    return next(iter(lines), type(error).__name__)


def echo(text: object = "", *, err: bool = False) -> None:
    """Prints a line, made `printable`, on standard output or standard error, where they exist.

    Raises:
        OSError: if standard output cannot be written; standard error that cannot be written is left alone.
    """
    stream = sys.stderr if err else sys.stdout
    if stream is None or stream.closed:  # before Python started, or by the user's code
        return
    with contextlib.suppress(OSError, ValueError) if err else contextlib.nullcontext():
        stream.write(printable(str(text)) + "\n")
        stream.flush()
