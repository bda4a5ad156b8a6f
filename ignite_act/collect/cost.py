"""What watching costs: the time inside our own code, and that which torch takes to call it."""

from __future__ import annotations

import contextlib
import functools
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from ignite_act import guard
from ignite_act.collect import forward, hooks

_ROUNDS = 25
_SWEPT = 1 << 20
"""float32 values that are written to empty the caches: four megabytes, more than a core's own hold."""


class Meter:
    """Adds up from when it is made: guarded blocks, and for every call that is seen what torch takes to tell us.

    Args:
        earlier: seconds to begin with.
    """

    def __init__(self, earlier: float = 0.0) -> None:
        self._of_module, self._of_function = seconds_per_module_call(), seconds_per_function_call()
        self._earlier = earlier
        self._begin = time.perf_counter()
        self._spent, self._calls, self._functions = guard.spent(), hooks.calls, forward.calls()

    def seconds(self) -> float:
        """What watching took so far."""
        seconds = self._earlier + guard.spent() - self._spent
        seconds += (hooks.calls - self._calls) * self._of_module
        return seconds + (forward.calls() - self._functions) * self._of_function

    def share(self) -> float:
        """The share of the wall time so far that watching took, from 0 to 1."""
        seconds = self.seconds()
        return min(seconds / max(time.perf_counter() - self._begin, 1e-9), 1.0)


@functools.cache
def seconds_per_function_call() -> float:
    """What a function mode that does nothing adds to a torch function, measured once in this process."""
    x = torch.zeros(1)

    class Nothing(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **(kwargs or {}))

    return _added(lambda: F.relu(x), lambda: F.relu(x), Nothing)


@functools.cache
def seconds_per_module_call() -> float:
    """What global hooks that do nothing add to the call of a module, measured once in this process."""
    module = nn.Identity()

    @contextlib.contextmanager
    def held() -> Iterator[None]:
        holder = nn.Module()
        release = hooks.hold(holder)
        try:
            yield
        finally:
            release()

    return _added(lambda: module.forward(None), lambda: module(None), held)  # type: ignore[arg-type]


def _added(
    bare: Callable[[], object], call: Callable[[], object], watching: Callable[[], AbstractContextManager[object]]
) -> float:
    """Seconds that watching adds to a call: with it the caches are full of our code and data, without it of theirs."""
    sweep = torch.zeros(_SWEPT)

    def seconds(call: Callable[[], object], swept: bool) -> float:
        if swept:
            sweep.add_(1)
        begin = time.perf_counter()
        call()
        return time.perf_counter() - begin

    without = statistics.median(seconds(bare, False) for _ in range(_ROUNDS))
    with watching():
        return max(statistics.median(seconds(call, True) for _ in range(_ROUNDS)) - without, 0.0)
