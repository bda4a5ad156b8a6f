"""Ctrl-C in any function of ours ends the training as anywhere else: nothing is logged, the numbers can be read."""

from __future__ import annotations

import contextlib
import inspect
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from ignite.engine import Events
from torch import nn

import ignite_act
from ignite_act import Diagnostics, EpochRecorder, guard
from ignite_act.testing import batches, make_trainer

OURS = str(Path(ignite_act.__file__).parent)
STEPS = 3
ELSEWHERE = ("__torch_function__", "_dropped")
"""Not interrupted: the way into the end of `torch.no_grad`, and what is called when garbage is collected, where Python
itself loses an exception."""


class CtrlC:
    """Interrupts at one of the calls of functions of ours that are made while it is in place, as a signal does."""

    def __init__(self, at: int) -> None:
        self._at = at
        self.calls = 0

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        lost = code.co_flags & inspect.CO_GENERATOR or code.co_name in ELSEWHERE  # as a generator that is closed
        if code.co_filename.startswith(OURS) and not lost:
            self.calls += 1
            if self.calls == self._at:
                sys.settrace(None)
                raise KeyboardInterrupt


def train(ctrl_c: CtrlC, step: int) -> Diagnostics:
    """Trains for two epochs; interrupts in one of the steps, counted from 1."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.LayerNorm(8), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    trainer = make_trainer(model, optimizer)
    diagnostics = Diagnostics(model, optimizer).attach(trainer)
    trainer.add_event_handler(Events.ITERATION_STARTED(once=step), lambda: sys.settrace(ctrl_c))
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=step), lambda: sys.settrace(None))
    with contextlib.suppress(KeyboardInterrupt), diagnostics:
        trainer.run(batches(STEPS), max_epochs=2)
    sys.settrace(None)
    return diagnostics


@pytest.mark.slow
@pytest.mark.parametrize("start", range(1, 21))
@pytest.mark.parametrize("step", [1, STEPS + 1])  # of the first window, which calibrates; and of another
def test_ctrl_c_anywhere(caplog: pytest.LogCaptureFixture, step: int, start: int) -> None:
    ctrl_c, at = CtrlC(start), start
    diagnostics = train(ctrl_c, step)
    while ctrl_c.calls == at:  # until there are no more calls
        assert [record for record in caplog.records if record.name.startswith("ignite_act")] == []
        assert torch.is_grad_enabled()
        assert not guard.is_running()
        assert diagnostics.report is not None
        assert diagnostics.report.partial
        assert diagnostics.report.epoch == (step - 1) // STEPS + 1
        at += 41  # of every two calls about one is struck
        ctrl_c = CtrlC(at)
        diagnostics = train(ctrl_c, step)
    assert at > 500


def test_the_cost_stops_with_a_plain_loop() -> None:
    """Ctrl-C where a measurement ends leaves its clock running; the recorder's end stops it."""
    with contextlib.suppress(KeyboardInterrupt), EpochRecorder(nn.Linear(2, 2)):
        guard.begin()
        raise KeyboardInterrupt
    assert not guard.is_running()
