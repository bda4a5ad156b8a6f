"""Keeps what fails in a diagnostic away from the training, and adds up the time that watching takes.

Everything of ours that runs in the user's forward, backward, optimizer step or event loop runs inside a `guarded`
block. An exception ends there: the owner lists it in its coverage and logs it once, and the training goes on. Inside
such a block, a ``try`` with `report_failure` does the same for another owner, and costs nothing while all is well.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol, TypeVar

from ignite_act.errors import one_line

logger = logging.getLogger(__name__)

_LONGEST = 200
"""Characters of an error's message that a reason quotes."""

Method = TypeVar("Method", bound=Callable[..., Any])


class Owner(Protocol):
    """What answers for a guarded block."""

    def give_up(self, what: str, reason: str) -> None:
        """Notes that something failed, for the coverage and the log."""


class _Clock:
    __slots__ = ("begun", "running", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        self.running = False
        self.begun = 0.0  # when the outermost block of now was entered


_clock = _Clock()


def spent() -> float:
    """Seconds that guarded blocks have taken so far in this process, with the one that is running."""
    return _clock.seconds + (time.perf_counter() - _clock.begun if _clock.running else 0.0)


def is_running() -> bool:
    """Whether a guarded block is under way."""
    return _clock.running


def begin() -> bool:
    """Starts the clock for what torch calls, if it is not running: then `end` stops it."""
    if _clock.running:
        return False
    _clock.begun = time.perf_counter()
    _clock.running = True
    return True


def end(begun: bool) -> None:
    """Adds the time since `begin`, whose answer is given back."""
    if begun and _clock.running:
        _clock.running = False
        _clock.seconds += time.perf_counter() - _clock.begun


def stop() -> None:
    """Stops the clock if Ctrl-C kept a block from stopping it."""
    end(_clock.running)


class guarded:  # noqa: N801 - used like a function
    """A block whose exceptions end here and whose time counts as the cost of watching.

    ``KeyboardInterrupt`` and ``SystemExit`` pass. Blocks nest: time counts once, an exception ends in the innermost.

    Args:
        owner: told of a failure.
        what: what is being done, in words for the coverage: ``"some forwards"``, ``"measuring fc1"``.
    """

    __slots__ = ("_outermost", "_owner", "_what")

    def __init__(self, owner: Owner, what: str) -> None:
        self._owner = owner
        self._what = what

    def __enter__(self) -> None:
        self._outermost = begin()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        end(self._outermost)
        if not isinstance(error, Exception):
            return False
        report_failure(self._owner, self._what, error)
        return True


def harmless(what: str) -> Callable[[Method], Method]:
    """Makes a method's whole body a `guarded` block of its object; after a failure the method returns None."""

    def wrap(method: Method) -> Method:
        @functools.wraps(method)
        def call(self: Owner, *args: Any, **kwargs: Any) -> Any:
            with guarded(self, what):
                return method(self, *args, **kwargs)

        return call  # type: ignore[return-value]

    return wrap


def report_failure(owner: Owner, what: str, error: Exception) -> None:
    """Tells the owner of a failure; an owner that fails as well changes nothing."""
    try:
        owner.give_up(what, reason_of(error))
    except Exception:
        with contextlib.suppress(Exception):
            logger.warning("%s failed: %s", what, type(error).__name__)


def reason_of(error: BaseException) -> str:
    """Kind and message of an error in one short line.

    >>> reason_of(ValueError("no such\\naxis"))
    'ValueError: no such axis'
    """
    message = one_line(error)
    if len(message) > _LONGEST:
        message = f"{message[:_LONGEST]}..."
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
