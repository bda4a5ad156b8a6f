"""What watching costs: the time inside our own code, and that which torch takes to call it."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ignite_act import guard
from ignite_act.collect import forward, hooks

_ROUNDS, _CALLS = 7, 50


class Meter:
    """Adds up from when it is made: guarded blocks, and for every call that is seen what torch takes to tell us."""

    def __init__(self) -> None:
        self._begin = time.perf_counter()
        self._spent, self._calls, self._functions = guard.spent(), hooks.calls, forward.calls()

    def share(self) -> float:
        """The share of the wall time so far that watching took, from 0 to 1."""
        seconds = guard.spent() - self._spent
        elapsed = time.perf_counter() - self._begin
        seconds += (hooks.calls - self._calls) * seconds_per_module_call()
        seconds += (forward.calls() - self._functions) * seconds_per_function_call()
        return min(seconds / max(elapsed, 1e-9), 1.0)


@functools.cache
def seconds_per_function_call() -> float:
    """What a function mode that does nothing adds to a torch function, measured once in this process."""
    x = torch.zeros(1)

    class Nothing(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **(kwargs or {}))

    def watched() -> None:
        with Nothing():
            _repeat(lambda: torch.neg(x))

    return max(_fastest(watched) - _fastest(lambda: _repeat(lambda: torch.neg(x))), 0.0)


@functools.cache
def seconds_per_module_call() -> float:
    """What global hooks that do nothing add to the call of a module, measured once in this process."""
    module = nn.Identity()
    holder = nn.Module()
    release = hooks.hold(holder)
    try:
        with_hooks = _fastest(lambda: _repeat(lambda: module(None)))
    finally:
        release()
    return max(with_hooks - _fastest(lambda: _repeat(lambda: module.forward(None))), 0.0)  # type: ignore[arg-type]


def _repeat(call: Callable[[], object]) -> None:
    for _ in range(_CALLS):
        call()


def _fastest(block: Callable[[], object]) -> float:
    """Seconds for one call, in the fastest of a few rounds."""
    seconds = []
    for _ in range(_ROUNDS):
        begin = time.perf_counter()
        block()
        seconds.append(time.perf_counter() - begin)
    return min(seconds) / _CALLS
