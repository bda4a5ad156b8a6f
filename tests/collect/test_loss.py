from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.optim import SGD

from ignite_act import Diagnostics
from ignite_act.collect import LossCollector
from ignite_act.collect.loss import loss_of
from ignite_act.testing import SharedReLU, batches, make_trainer

MODEL = nn.Linear(2, 2)


def recorded(*losses: Any, iteration: int | None = None) -> dict[str, Any]:
    with LossCollector(MODEL) as collector:
        collector.clock = lambda: iteration
        for loss in losses:
            collector.record(loss)
        return collector.finish()


def test_the_row_has_the_course_of_the_window() -> None:
    """One row, with the numbers of a `Course`; the next window begins anew, and an empty one has no row."""
    with LossCollector(MODEL) as collector:
        for loss in (3.0, 1.0, 2.0):
            collector.record(loss)
        assert collector.finish(partial=True) == {
            "loss": {
                "steps": 3, "first": 3.0, "last": 2.0, "mean": 2.0, "min": 1.0, "max": 3.0, "nonfinite": 0,
                "first_nonfinite_iteration": None, "course": [3.0, 1.0, 2.0], "partial": True,
            }
        }  # fmt: skip
        collector.record(torch.tensor([7.0], requires_grad=True))
        assert collector.finish()["loss"]["course"] == [7.0]
        assert collector.finish() == {}


@pytest.mark.parametrize(("iteration", "expected"), [(None, 2), (41, 41)])
def test_the_first_loss_that_is_not_finite_is_located(iteration: int | None, expected: int) -> None:
    """By the engine's iteration where there is one, else by the step of the window."""
    row = recorded(1.0, math.inf, math.nan, iteration=iteration)["loss"]
    assert (row["nonfinite"], row["first_nonfinite_iteration"]) == (2, expected)


def test_outside_a_window_nothing_is_recorded() -> None:
    """Before the start and after the stop a loss is nobody's."""
    collector = LossCollector(MODEL)
    collector.record(5.0)
    with collector:
        collector.record(1.0)
    collector.record(9.0)
    assert collector.finish()["loss"]["course"] == [1.0]


def test_a_tensor_that_is_written_to_later_counts_as_it_was() -> None:
    """A loop may keep its running loss in one tensor: each step has the value of its time."""
    running = torch.zeros(())
    with LossCollector(MODEL) as collector:
        for _ in range(4):
            running += 1.0
            collector.record(running)
        assert collector.finish()["loss"]["course"] == [1.0, 2.0, 3.0, 4.0]


def test_losses_hold_no_graph() -> None:
    """What waits to be summed keeps no graph of the step alive."""
    weight = torch.ones(3, requires_grad=True)
    with LossCollector(MODEL) as collector:
        collector.record(weight.sum())
        (value, _), *_ = collector._course._waiting
        assert isinstance(value, torch.Tensor)
        assert not value.requires_grad


def test_a_window_restored_in_its_middle_goes_on(tmp_path: Any) -> None:
    """The state, through a file of plain types, continues the course and the number of the step."""
    losses = [4.0, 3.0, math.nan, 1.0, math.inf]
    expected = recorded(*losses)
    with LossCollector(MODEL) as collector:
        for loss in losses[:2]:
            collector.record(loss)
        torch.save(collector.state_dict(), tmp_path / "state.pt")
    resumed = LossCollector(MODEL)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    with resumed:
        for loss in losses[2:]:
            resumed.record(loss)
        assert repr(resumed.finish()) == repr(expected)


def test_the_losses_of_processes_are_averaged_step_by_step() -> None:
    """United, a step has the mean of the losses of those processes that made it; an idle one changes nothing."""
    states = []
    for losses in ([4.0, 2.0, 1.0], [2.0, 4.0, 5.0], []):
        with LossCollector(MODEL) as collector:
            for loss in losses:
                collector.record(loss)
            states.append(collector.shared_state())
    collector.unite(states)
    row = collector.finish()["loss"]
    assert row["course"] == [3.0, 3.0, 3.0]
    assert (row["steps"], row["first"], row["last"], row["mean"]) == (3, 3.0, 3.0, 3.0)
    assert (row["min"], row["max"]) == (1.0, 5.0)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (0.5, 0.5),
        (3, 3.0),
        (np.float32(0.5), 0.5),
        (np.array(0.5), 0.5),
        ({"loss": 0.5, "y": 1}, 0.5),
        ((0.5, "more"), 0.5),
        ([0.5], 0.5),
        (math.nan, math.nan),
    ],
)
def test_a_loss_is_found_in_what_a_step_returns(output: Any, expected: float) -> None:
    """A number, the entry "loss" of a dictionary, the first of a tuple."""
    assert loss_of(output) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"loss": x}, lambda x: (x, 1)])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_loss_tensor_stays_a_tensor(wrap: Any, shape: tuple[int, ...]) -> None:
    """A tensor with one element stays where it is: nothing waits for the device."""
    loss = torch.full(shape, 0.5)
    assert loss_of(wrap(loss)) is loss


@pytest.mark.parametrize(
    "output",
    [None, "0.5", True, {}, {"total": 0.5}, (), [], torch.zeros(2), torch.zeros((), dtype=torch.complex64),
     (torch.zeros(3, 4), torch.zeros(3)), (None, 0.5), object(), {"loss": None}, np.zeros(3), 1j],
)  # fmt: skip
def test_what_is_no_loss_is_none(output: Any) -> None:
    """Anything else is no loss, and no error."""
    assert loss_of(output) is None


def make() -> tuple[SharedReLU, Engine]:
    torch.manual_seed(0)
    model = SharedReLU()
    return model, make_trainer(model, SGD(model.parameters(), lr=0.1))


def test_the_loss_of_an_engine_is_in_its_report() -> None:
    """`Diagnostics` records what the trainer's steps return, in their order."""
    model, trainer = make()
    diagnostics = Diagnostics(model).attach(trainer)
    outputs: list[float] = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: outputs.append(engine.state.output))
    trainer.run(batches(6))
    assert diagnostics.report is not None
    assert diagnostics.report.loss["course"] == outputs


def test_an_output_transform_that_fails_is_said_in_the_coverage() -> None:
    """Training goes on without a known loss, and the report says why."""
    model, trainer = make()
    diagnostics = Diagnostics(model, output_transform=lambda output: output["loss"]).attach(trainer)
    trainer.run(batches(3))
    assert diagnostics.report is not None
    assert diagnostics.report.loss == {}
    assert "TypeError" in diagnostics.report.coverage["loss"]["unseen"]["the loss of some steps"]
