"""One pair of torch's global module hooks for everything that watches calls of modules."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook


class CallWatcher(Protocol):
    """What is told of every call of every module."""

    def enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """A module's forward begins."""

    def leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """A module's forward ends; after an exception nothing came out."""


_watchers: tuple[weakref.ref[CallWatcher], ...] = ()
_hooks = contextlib.ExitStack()


def watch(watcher: CallWatcher) -> Callable[[], object]:
    """Tells a watcher, which is held weakly, of calls; the first one puts the hooks in place.

    Returns:
        What ends it; doing it twice is fine. With the last watcher the hooks go.
    """
    global _watchers
    own = weakref.ref(watcher)
    if not _watchers:
        _hooks.callback(register_module_forward_pre_hook(_enter).remove)
        _hooks.callback(register_module_forward_hook(_leave, always_call=True).remove)
    _watchers = (*_watchers, own)
    return weakref.finalize(watcher, _unwatch, own)


def _unwatch(own: weakref.ref[CallWatcher]) -> None:
    global _watchers
    _watchers = tuple(other for other in _watchers if other is not own)
    if not _watchers:
        _hooks.close()


def is_compiling() -> bool:
    """Whether this is no real forward: torch.compile, torch.export or torch.jit.trace is recording it."""
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None


def _enter(module: nn.Module, args: tuple[Any, ...]) -> None:
    if is_compiling():
        return
    for own in _watchers:
        watcher = own()
        if watcher is not None:
            watcher.enter(module, args)


def _leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    if is_compiling():
        return
    for own in _watchers:
        watcher = own()
        if watcher is not None:
            watcher.leave(module, args, output)
