"""What watching costs is the time inside guarded blocks, and for every call what torch takes to tell us of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from ignite_act import EpochRecorder, guard
from ignite_act.collect import cost, forward, hooks
from ignite_act.collect.cost import Meter
from ignite_act.guard import guarded
from ignite_act.testing import FunctionalMLP


class Clock:
    """A clock that goes on only when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Owner:
    def give_up(self, what: str, reason: str) -> None:
        pass


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (guard, cost):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(cost, "seconds_per_module_call", lambda: 0.25)
    monkeypatch.setattr(cost, "seconds_per_function_call", lambda: 0.125)
    return clock


def test_time_in_blocks_counts_once_and_as_it_goes_on(clock: Clock) -> None:
    meter = Meter()
    clock.now += 1
    with guarded(Owner(), "something"):
        clock.now += 2
        with guarded(Owner(), "a part of it"):
            clock.now += 4
            assert meter.seconds() == 6
        assert meter.seconds() == 6
        clock.now += 1
        assert meter.seconds() == 7
    clock.now += 6
    assert meter.seconds() == 7
    assert meter.share() == 7 / 14


def test_a_failure_stops_the_clock(clock: Clock) -> None:
    meter = Meter()
    with guarded(Owner(), "something"):
        clock.now += 2
        raise ValueError
    clock.now += 2
    assert meter.share() == 0.5


def test_what_comes_after_a_report_counts_for_the_next_one(clock: Clock) -> None:
    """The report is made inside a block of the handler, and its sinks write before that ends."""
    recorder = EpochRecorder(FunctionalMLP())
    recorder.start()
    clock.now += 10
    with guarded(Owner(), "the end of an epoch"):
        clock.now += 2
        assert recorder.finish().cost == 2 / 12
        clock.now += 5  # the sinks
        recorder.written()
    clock.now += 100  # an evaluation
    with guarded(Owner(), "another model"):
        clock.now += 50
    recorder.start()
    clock.now += 20
    assert recorder.finish().cost == 5 / 20
    recorder.stop()


def test_the_calls_of_the_model_count_and_not_ours() -> None:
    """As many functions as a mode of its own sees, as many modules as there are calls; measuring adds none."""
    model, x = FunctionalMLP(), torch.randn(8, 4)

    class Count(TorchFunctionMode):
        functions = 0

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            Count.functions += 1
            return func(*args, **(kwargs or {}))

    with Count():
        model(x)
    with EpochRecorder(model, every=1):
        before = SimpleNamespace(modules=hooks.calls, functions=forward.calls())
        for _ in range(3):
            model(x)
        assert forward.calls() - before.functions == 3 * Count.functions
        assert hooks.calls - before.modules == 3 * sum(1 for _ in model.modules())
