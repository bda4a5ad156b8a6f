"""Tells whether an engine is inside its step function: handlers that run in between are none of its steps.

Ignite has no event for it, so the step function of one engine is wrapped while somebody asks.
"""

from __future__ import annotations

import copy
import functools
import weakref
from collections.abc import Callable
from typing import Any

from ignite.engine import Engine, Events

from ignite_act.internals import firing_engines

_FUNCTION = "_process_function"


class _Step:
    """Stands in for the step function of one engine."""

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.depth = 0
        self.askers = 0

    def __call__(self, engine: Engine, batch: Any) -> Any:
        self.depth += 1
        try:
            return self.function(engine, batch)
        finally:
            self.depth -= 1

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A copy of the engine has nobody who asks: it gets the function itself."""
        return copy.deepcopy(self.function, memo)

    def __reduce__(self) -> Any:
        return _itself, (self.function,)


def _itself(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


_steps: weakref.WeakKeyDictionary[Engine, _Step] = weakref.WeakKeyDictionary()


def ask(engine: Engine) -> Callable[[], bool]:
    """A function that says whether the engine is inside its step; it holds the engine weakly. `leave` ends it."""
    step = _steps.get(engine)
    if step is None and hasattr(engine, _FUNCTION):
        step = _steps[engine] = _Step(getattr(engine, _FUNCTION))
        setattr(engine, _FUNCTION, step)
    if step is not None:
        step.askers += 1
    own = weakref.ref(engine)

    def in_step() -> bool:
        engine = own()
        if engine is None:
            return False
        current = getattr(engine, _FUNCTION, None)
        last = engine.last_event_name
        if isinstance(current, _Step):
            # Only an event that the step itself fires can have handlers that run inside of it.
            return current.depth > 0 and (last is Events.ITERATION_STARTED or not _is_firing(engine))
        # Somebody has put another function there.
        return (last is Events.ITERATION_STARTED or not isinstance(last, Events)) and not _is_firing(engine)

    return in_step


def _is_firing(engine: Engine) -> bool:
    return any(other is engine for other in firing_engines())


def leave(engine: Engine) -> None:
    """Ends one `ask`; with the last one the engine has its own function back."""
    step = _steps.get(engine)
    if step is None:
        return
    step.askers -= 1
    if step.askers == 0:
        del _steps[engine]
        function = step.function
        if vars(engine).get(_FUNCTION) is step:
            setattr(engine, _FUNCTION, function)
