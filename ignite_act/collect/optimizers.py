"""Tells when an optimizer is about to consume gradients, and when a loss scaler made it skip them."""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any, Protocol

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import (
    _global_optimizer_pre_hooks,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils.hooks import RemovableHandle

logger = logging.getLogger(__name__)


class StepObserver(Protocol):
    """What a step tap calls."""

    def before_step(self, optimizer: Optimizer) -> None:
        """The gradients are final: accumulated, reduced, clipped."""

    def after_step(self, optimizer: Optimizer) -> None:
        """The weights are new."""

    def skipped_step(self, optimizer: Optimizer) -> None:
        """A loss scaler found non-finite gradients and left the step out."""


class StepTap:
    """Tells one observer of every step of every optimizer, through torch's global optimizer hooks.

    Optimizers need not be known in advance. With a closure the gradients are final only after its first evaluation,
    so that is when the observer is told. The observer is held weakly.

    A loss scaler that skips a step does not call the optimizer at all, and torch has no hook for it: while a tap is
    open, ``torch.amp.GradScaler.step`` is wrapped by a function that notices.
    """

    def __init__(self, observer: StepObserver) -> None:
        self._observer = weakref.ref(observer)
        self._in_progress: list[weakref.ref[Optimizer]] = []
        self._remove_hooks: weakref.finalize[..., StepTap] | None = None

    def open(self) -> None:
        """Puts the hooks in place."""
        if self._remove_hooks is None:
            self._remove_hooks = weakref.finalize(self, _hooks(self._observer, self._in_progress).close)

    def around(self, optimizer: Optimizer) -> list[Optimizer]:
        """The optimizers inside whose steps a step that has just begun takes place, the outermost first."""
        alive = [other for own in self._in_progress if (other := own()) is not None]
        outer = alive[: alive.index(optimizer)] if optimizer in alive else alive
        return [other for other in outer if _is_being_called(other)]  # others have raised in their steps

    def close(self) -> None:
        """Takes the hooks away; doing it twice is fine."""
        if self._remove_hooks is not None:
            self._remove_hooks()
            self._remove_hooks = None


def _hooks(observer: weakref.ref[StepObserver], in_progress: list[weakref.ref[Optimizer]]) -> contextlib.ExitStack:
    last: list[RemovableHandle] = []  # hooks on optimizers that have hooks of their own, for one step

    def before(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        own = observer()
        if own is None:
            return None
        _leave(in_progress, optimizer)  # in case its last step raised
        in_progress.append(weakref.ref(optimizer))
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            remove_last()
            if optimizer._optimizer_step_pre_hooks or _is_followed(handle.id):
                # The users' own hooks come later and may change the gradients.
                last.append(optimizer.register_step_pre_hook(tell))
            else:
                _tell(own.before_step, optimizer)
            return None
        wrapped = _telling(closure, own, optimizer)
        if "closure" in kwargs:
            return args, {**kwargs, "closure": wrapped}
        return (args[0], wrapped, *args[2:]), kwargs

    def tell(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        own = observer()
        if own is not None:
            _tell(own.before_step, optimizer)

    def after(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        remove_last()
        own = observer()
        if own is not None:
            _tell(own.after_step, optimizer)
        _leave(in_progress, optimizer)

    def remove_last() -> None:
        while last:
            last.pop().remove()

    def skipped(optimizer: Optimizer) -> None:
        own = observer()
        if own is not None:
            _tell(own.skipped_step, optimizer)

    hooks = contextlib.ExitStack()
    handle = register_optimizer_step_pre_hook(before)
    _own_handles.add(handle.id)
    hooks.callback(_own_handles.discard, handle.id)
    hooks.callback(handle.remove)
    hooks.callback(register_optimizer_step_post_hook(after).remove)
    hooks.callback(remove_last)
    hooks.callback(in_progress.clear)
    _skip_listeners.append(skipped)
    _watch_scalers()
    hooks.callback(_forget_listener, skipped)
    return hooks


_own_handles: set[int] = set()


def _is_followed(own: int) -> bool:
    """Whether somebody else's global hook comes after one of ours."""
    for handle in reversed(_global_optimizer_pre_hooks):
        if handle == own:
            return False
        if handle not in _own_handles:
            return True
    return False


def _is_being_called(optimizer: Optimizer) -> bool:
    """Whether a method of an optimizer is being executed."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_locals.get("self") is optimizer:
            return True
        frame = frame.f_back
    return False


def _leave(in_progress: list[weakref.ref[Optimizer]], optimizer: Optimizer) -> None:
    """Takes an optimizer's step off the list, and what began inside it."""
    for index, own in enumerate(in_progress):
        if own() is optimizer:
            del in_progress[index:]
            break


def _tell(listener: Callable[[Optimizer], None], optimizer: Optimizer) -> None:
    try:
        listener(optimizer)
    except Exception:  # training never dies of its diagnostics
        global _failure_logged
        if not _failure_logged:
            _failure_logged = True
            logger.warning("the gradients of a step could not be read; later failures are not logged", exc_info=True)


_failure_logged = False


def _telling(closure: Callable[[], Any], observer: StepObserver, optimizer: Optimizer) -> Callable[[], Any]:
    """The closure, which tells the observer after its first evaluation."""
    told = False

    @functools.wraps(closure)
    def evaluate() -> Any:
        nonlocal told
        loss = closure()
        if not told:
            told = True
            _tell(observer.before_step, optimizer)
        return loss

    return evaluate


_skip_listeners: list[Callable[[Optimizer], None]] = []
_original_step: Callable[..., Any] | None = None


def _watch_scalers() -> None:
    global _original_step
    if _original_step is not None:
        return
    _original_step = original = torch.amp.GradScaler.step

    @functools.wraps(original)
    def step(scaler: torch.amp.GradScaler, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(optimizer, Optimizer):
            return original(scaler, optimizer, *args, **kwargs)
        reached = False

        def note(*_: Any) -> None:
            nonlocal reached
            reached = True

        handle = optimizer.register_step_pre_hook(note)
        try:
            result = original(scaler, optimizer, *args, **kwargs)
        finally:
            handle.remove()
        if not reached:
            for listener in _skip_listeners:
                listener(optimizer)
        return result

    torch.amp.GradScaler.step = step  # type: ignore[method-assign, assignment]


def _forget_listener(listener: Callable[[Optimizer], None]) -> None:
    global _original_step
    _skip_listeners.remove(listener)
    if not _skip_listeners and _original_step is not None:
        if getattr(torch.amp.GradScaler.step, "__wrapped__", None) is not _original_step:
            return  # somebody else has wrapped it since: taking it away would undo that
        torch.amp.GradScaler.step = _original_step  # type: ignore[method-assign, assignment]
        _original_step = None
