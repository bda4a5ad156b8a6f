"""One pair of torch's global module hooks for everything that watches calls of modules.

The hooks stay registered for as long as anybody holds them, also between windows: compiled code checks which hooks
there are, and is compiled anew when they come and go. While nobody watches they return at once.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import nn

from ignite_act import guard
from ignite_act.guard import report_failure
from ignite_act.internals import is_compiling, register_forward_hook, register_forward_pre_hook


class CallWatcher(Protocol):
    """What is told of every call of every module."""

    def enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """A module's forward begins."""

    def leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        """A module's forward ends; after an exception nothing came out, and ``kwargs`` are not known."""

    def give_up(self, what: str, reason: str) -> None:
        """Notes that watching failed."""


class Holders:
    """Registers hooks with the first of those who hold them and removes them with the last.

    Args:
        register: puts the hooks in place and returns what removes them.
    """

    def __init__(self, register: Callable[[], Callable[[], object]]) -> None:
        self._register = register
        self._count = 0
        self._remove: Callable[[], object] | None = None

    def hold(self, holder: object) -> Callable[[], object]:
        """Keeps the hooks in place for as long as the holder lives, or until the returned function is called."""
        if self._remove is None:
            self._remove = self._register()
        self._count += 1
        return weakref.finalize(holder, self._release)

    def _release(self) -> None:
        self._count -= 1
        if self._count == 0 and self._remove is not None:
            remove, self._remove = self._remove, None  # whatever fails in it, the next holder registers anew
            remove()


def _register() -> Callable[[], object]:
    with contextlib.ExitStack() as hooks:  # if one cannot be registered, none stays
        hooks.callback(register_forward_pre_hook(_enter))
        hooks.callback(register_forward_hook(_leave))
        return hooks.pop_all().close


_holders = Holders(_register)
_watchers: tuple[weakref.ref[CallWatcher], ...] = ()
calls = 0
"""Calls of modules that the hooks were told of while somebody watched, for the cost."""


def hold(holder: object) -> Callable[[], object]:
    """Keeps the hooks registered for as long as an object lives, or until the returned function is called."""
    return _holders.hold(holder)


def watch(watcher: CallWatcher) -> Callable[[], object]:
    """Tells a watcher, which is held weakly, of calls.

    Returns:
        What ends it; doing it twice is fine.
    """
    global _watchers
    own = weakref.ref(watcher)
    release = hold(watcher)
    _watchers = (*_watchers, own)
    return weakref.finalize(watcher, _unwatch, own, release)


def _unwatch(own: weakref.ref[CallWatcher], release: Callable[[], object]) -> None:
    global _watchers
    _watchers = tuple(other for other in _watchers if other is not own and other() is not None)
    release()


def _enter(module: nn.Module, args: tuple[Any, ...]) -> None:
    global calls
    if is_compiling() or not _watchers:
        return
    begun = guard.begin()
    try:
        calls += begun  # our own calls are in the time of the block
        for own in _watchers:
            watcher = own()
            if watcher is not None:
                try:
                    watcher.enter(module, args)
                except Exception as error:
                    report_failure(watcher, "some forwards", error)
    finally:
        guard.end(begun)


def _leave(module: nn.Module, args: tuple[Any, ...], *rest: Any) -> None:
    if is_compiling() or not _watchers:
        return
    begun = guard.begin()
    try:
        kwargs = rest[0] if len(rest) > 1 else {}  # after an exception torch leaves them out
        for own in _watchers:
            watcher = own()
            if watcher is not None:
                try:
                    watcher.leave(module, args, kwargs, rest[-1])
                except Exception as error:
                    report_failure(watcher, "some forwards", error)
    finally:
        guard.end(begun)
