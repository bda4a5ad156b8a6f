"""Errors that are the user's to mend: shown as one line, exit code 2."""


class UserError(Exception):
    """Something that was asked for cannot be done; the message says what was given, expected, and what to do."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the error's kind if it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)
