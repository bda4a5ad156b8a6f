"""Tells when an optimizer makes a step, when its gradients are final, and when a loss scaler made it skip the step."""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from ignite_act.collect.hooks import Holders
from ignite_act.guard import guarded, report_failure
from ignite_act.internals import (
    has_step_pre_hooks,
    is_being_called,
    is_compiling,
    is_nested_step,
    step_pre_hooks_after,
)


class StepObserver(Protocol):
    """What is told of every step of every optimizer, while autograd is switched off."""

    def before_step(self, optimizer: Optimizer) -> None:
        """A step begins: the weights are the old ones. With a closure there may be no gradient yet."""

    def gradients_ready(self, optimizer: Optimizer) -> None:
        """The gradients are final: accumulated, reduced, clipped; with a closure, evaluated once."""

    def after_step(self, optimizer: Optimizer) -> None:
        """The weights are new."""

    def skipped_step(self, optimizer: Optimizer) -> None:
        """A loss scaler found non-finite gradients and left the step out."""

    def give_up(self, what: str, reason: str) -> None:
        """Notes that watching failed."""


_observers: tuple[weakref.ref[StepObserver], ...] = ()
_in_progress: list[weakref.ref[Optimizer]] = []
_for_this_step: list[RemovableHandle] = []  # hooks on optimizers that have hooks of their own


def hold(holder: object) -> Callable[[], object]:
    """Keeps the hooks registered for as long as an object lives, or until the returned function is called."""
    return _holders.hold(holder)


def watch(observer: StepObserver) -> Callable[[], object]:
    """Tells an observer, which is held weakly, of every step, through torch's global optimizer hooks.

    Optimizers need not be known in advance. A loss scaler that skips a step does not call the optimizer at all, and
    torch has no hook for it: while the hooks are in place, ``torch.amp.GradScaler.step`` is wrapped by a function that
    notices.

    Returns:
        What ends it; doing it twice is fine.
    """
    global _observers
    own = weakref.ref(observer)
    release = hold(observer)
    _observers = (*_observers, own)
    return weakref.finalize(observer, _unwatch, own, release)


def _unwatch(own: weakref.ref[StepObserver], release: Callable[[], object]) -> None:
    global _observers
    _observers = tuple(other for other in _observers if other is not own and other() is not None)
    release()


def around(optimizer: Optimizer) -> list[Optimizer]:
    """The optimizers inside whose steps a step that has just begun takes place, the outermost first."""
    alive = [other for own in _in_progress if (other := own()) is not None]
    outer = alive[: alive.index(optimizer)] if optimizer in alive else alive
    return [other for other in outer if is_being_called(other)]  # others have raised in their steps


def is_part_of_another(optimizer: Optimizer) -> bool:
    """Whether a step takes place inside that of another optimizer of the same parameters, which is the real one."""
    outer = around(optimizer)
    if not outer:
        return False
    own = _parameter_ids(optimizer)
    return any(own <= _parameter_ids(other) for other in outer)


def _parameter_ids(optimizer: Optimizer) -> set[int]:
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}


class _Everybody:
    """Answers for what fails before an observer is told."""

    def give_up(self, what: str, reason: str) -> None:
        """Tells all observers."""
        for own in _observers:
            observer = own()
            if observer is not None:
                observer.give_up(what, reason)


_everybody = _Everybody()


def _tell(event: str, optimizer: Optimizer) -> None:
    for own in _observers:
        observer = own()
        if observer is not None:
            try:
                getattr(observer, event)(optimizer)
            except Exception as error:
                report_failure(observer, "some steps", error)


def _is_inside_itself(optimizer: Optimizer) -> bool:
    """Whether a step has been called by that of a subclass (``super().step()``), which is the real one."""
    return any(own() is optimizer for own in _in_progress) and is_nested_step(optimizer)


def _before(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if is_compiling() or not _observers:
        return None
    with guarded(_everybody, "some steps"), torch.no_grad():
        return None if _is_inside_itself(optimizer) else _begin(optimizer, args, kwargs)
    return None


def _begin(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A step begins; returns its arguments where they hold a closure, which is wrapped."""
    _leave(optimizer)  # in case its last step raised
    _in_progress.append(weakref.ref(optimizer))
    _tell("before_step", optimizer)
    closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
    if closure is None:
        _remove_for_this_step()
        if has_step_pre_hooks(optimizer) or step_pre_hooks_after(_handle.id):
            # The users' own hooks come later and may change the gradients.
            _for_this_step.append(optimizer.register_step_pre_hook(_ready))
        else:
            _tell("gradients_ready", optimizer)
        return None
    wrapped = _telling(closure, optimizer)
    if "closure" in kwargs:
        return args, {**kwargs, "closure": wrapped}
    return (args[0], wrapped, *args[2:]), kwargs


def _ready(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    with guarded(_everybody, "some steps"), torch.no_grad():
        _tell("gradients_ready", optimizer)


def _after(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if is_compiling() or not _observers:
        return
    with guarded(_everybody, "some steps"), torch.no_grad():
        if _is_inside_itself(optimizer):
            return
        _remove_for_this_step()
        _tell("after_step", optimizer)
        _leave(optimizer)


def _remove_for_this_step() -> None:
    while _for_this_step:
        _for_this_step.pop().remove()


def _leave(optimizer: Optimizer) -> None:
    """Takes an optimizer's step off the list, and what began inside it."""
    for index, own in enumerate(_in_progress):
        if own() is optimizer:
            del _in_progress[index:]
            break


def _telling(closure: Callable[[], Any], optimizer: Optimizer) -> Callable[[], Any]:
    """The closure; after its first evaluation the gradients are final."""
    told = False

    @functools.wraps(closure)
    def evaluate() -> Any:
        nonlocal told
        loss = closure()
        if not told:
            told = True
            _ready(optimizer, (), {})
        return loss

    return evaluate


_handle: RemovableHandle
_original_step: Callable[..., Any] | None = None


def _register() -> Callable[[], object]:
    global _handle
    with contextlib.ExitStack() as hooks:  # if one cannot be registered, none stays
        _handle = register_optimizer_step_pre_hook(_before)
        hooks.callback(_handle.remove)
        hooks.callback(register_optimizer_step_post_hook(_after).remove)
        hooks.callback(_remove_for_this_step)
        hooks.callback(_in_progress.clear)
        _watch_scalers()
        hooks.callback(_unwatch_scalers)
        return hooks.pop_all().close


_holders = Holders(_register)


def _watch_scalers() -> None:
    global _original_step
    if _original_step is not None:
        return
    _original_step = original = torch.amp.GradScaler.step

    @functools.wraps(original)
    def step(scaler: torch.amp.GradScaler, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(optimizer, Optimizer) or not _observers:
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
            with guarded(_everybody, "some steps"), torch.no_grad():
                _tell("skipped_step", optimizer)
        return result

    torch.amp.GradScaler.step = step  # type: ignore[method-assign, assignment]


def _unwatch_scalers() -> None:
    global _original_step
    if _original_step is not None:
        if getattr(torch.amp.GradScaler.step, "__wrapped__", None) is not _original_step:
            return  # somebody else has wrapped it since: taking it away would undo that
        torch.amp.GradScaler.step = _original_step  # type: ignore[method-assign, assignment]
        _original_step = None
