"""Errors that are the user's to mend: shown as one line, exit code 2."""


class UserError(Exception):
    """Something that was asked for cannot be done; the message says what was given, expected, and what to do."""
