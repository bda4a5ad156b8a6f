"""Errors that are the user's to mend: shown as one line, exit code 2."""


class UserError(Exception):
    """Something that was asked for cannot be done; the message says what was given, expected, and what to do."""


class LostProcessError(Exception):
    """One of several processes that train together died or fell silent; exit code 1."""


def one_line(text: object, limit: int | None = None) -> str:
    """The text in one line, and `printable`; cut where it is longer than ``limit`` characters."""
    line = printable(" ".join(str(text).split()))
    return line if limit is None or len(line) <= limit else line[: limit - 1].rstrip() + "…"


def printable(text: str) -> str:
    """Characters that a terminal would obey (control, change of direction), but for ends of lines, are spelt out."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the error's kind if it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)
