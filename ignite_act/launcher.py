"""What the environment says of the processes that ``torchrun`` has started; quick to import."""

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
    """Whether an error that all processes have is shown by the first of them, and this is another one."""
    try:
        return launched_by_torchrun() and _number("RANK", 0) > 0
    except UserError:
        return False


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise UserError(
            f"{name} in the environment is {quoted(text)}, a number is expected: torchrun sets it; to train without, "
            f"unset {name}"
        )
    return int(text)
