"""Reads the environment that ``torchrun`` sets, without importing torch."""

from __future__ import annotations

import os

from ignite_act.errors import UserError, quoted


def launched_by_torchrun() -> bool:
    """Whether this process is one of several that ``torchrun`` has started.

    Raises:
        UserError: if the environment is not as torchrun makes it.
    """
    return "TORCHELASTIC_RUN_ID" in os.environ and all([_number("RANK", 0) >= 0, _number("WORLD_SIZE", 1) > 1])


def another_speaks() -> bool:
    """Whether another process of the same torchrun shows the errors that all of them have."""
    try:
        return launched_by_torchrun() and _number("RANK", 0) > 0
    except UserError:
        return False


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise UserError(
            f"environment variable {name} is {quoted(text)}; expected a number. torchrun sets it: "
            f"unset {name} to train without torchrun"
        )
    return int(text)
