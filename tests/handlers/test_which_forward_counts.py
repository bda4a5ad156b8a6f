"""The forwards of the engine's own step count, whatever else runs the model meanwhile, and in whatever mode."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from ignite.engine import Engine, EventEnum, Events
from torch import Tensor, nn
from torch.optim import SGD

from ignite_act import ActivationStats, Diagnostics, EpochRecorder
from ignite_act.testing import Batch, SharedReLU, batches

DATA = batches(4)
UNITS, ROWS = 6, 8


class Own(EventEnum):
    """Fired by the step itself, between forward and backward."""

    FORWARD_COMPLETED = "forward_completed"


def setup() -> tuple[SharedReLU, Engine]:
    """A model and a trainer whose step fires an event of its own."""
    torch.manual_seed(0)
    model = SharedReLU()
    optimizer = SGD(model.parameters(), lr=0.1)

    def step(engine: Engine, batch: Batch) -> float:
        model.train()
        optimizer.zero_grad()
        loss = F.cross_entropy(model(batch[0]), batch[1])
        engine.fire_event(Own.FORWARD_COMPLETED)
        loss.backward()
        optimizer.step()
        return loss.item()

    trainer = Engine(step)
    trainer.register_events(*Own)
    return model, trainer


def evaluator_of(model: nn.Module, mode: bool, gradients: bool) -> Engine:
    def step(engine: Engine, batch: Batch) -> None:
        model.train(mode)
        with torch.set_grad_enabled(gradients):
            model(batch[0])

    return Engine(step)


def counted(diagnostics: Diagnostics, forwards: int) -> bool:
    """Whether the last window holds exactly so many training forwards."""
    report = diagnostics.report
    assert report is not None
    values = {row["count"] for row in report.activations.values()}
    calls = {row["calls"] for row in report.signal.values()}
    return (values, calls) == ({forwards * ROWS * UNITS}, {forwards})


EVENTS = [Events.STARTED, Events.EPOCH_STARTED, Events.GET_BATCH_STARTED, Events.GET_BATCH_COMPLETED]
EVENTS += [Events.ITERATION_STARTED, Events.ITERATION_COMPLETED, Events.EPOCH_COMPLETED, Own.FORWARD_COMPLETED]


@pytest.mark.few(8)
@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.name)
def test_an_evaluator_in_a_handler(event: Any, mode: bool, gradients: bool) -> None:
    """An evaluator that runs in a handler of the trainer leaves no trace, also inside the step and in training mode."""
    for first in (True, False):
        model, trainer = setup()
        evaluator = evaluator_of(model, mode, gradients)
        diagnostics = Diagnostics(model, every=1)
        if not first:
            diagnostics.attach(trainer)
        trainer.add_event_handler(event, lambda engine, own=evaluator: own.run(DATA[:2]) and None)
        if first:
            diagnostics.attach(trainer)
        trainer.run(DATA, max_epochs=2)
        assert counted(diagnostics, 4)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.name)
def test_a_step_function_that_is_replaced(event: Any) -> None:
    """After somebody has put another step function into the engine, its forwards count, those of handlers do not."""
    model, trainer = setup()
    diagnostics = Diagnostics(model, every=1).attach(trainer)
    before = trainer._process_function

    def twice(engine: Engine, batch: Batch) -> Any:
        model(batch[0])
        return before(engine, batch)

    trainer._process_function = twice
    evaluator = evaluator_of(model, True, True)
    trainer.add_event_handler(event, lambda engine: evaluator.run(DATA[:2]) and None)
    trainer.run(DATA)
    assert counted(diagnostics, 8)


def test_an_evaluator_and_its_trainer() -> None:
    """A handler on the evaluator counts the evaluator's forwards alone, though it runs inside the trainer's step."""
    model, trainer = setup()
    evaluator = evaluator_of(model, False, False)
    training = ActivationStats(model, every=1).attach(trainer)
    evaluation = ActivationStats(model, every=1).attach(evaluator)
    trainer.add_event_handler(Own.FORWARD_COMPLETED, lambda engine: evaluator.run(DATA[:3]) and None)
    trainer.run(DATA)
    assert training.result["layers.1"]["count"] == 4 * ROWS * UNITS
    assert evaluation.result["layers.1"]["count"] == 3 * ROWS * UNITS


def test_an_engine_inside_the_step() -> None:
    """What an inner engine computes is part of the step that runs it."""
    model, _ = setup()
    inner = evaluator_of(model, True, True)
    outer = Engine(lambda engine, batch: inner.run([batch, batch]) and None)
    diagnostics = Diagnostics(model, every=1).attach(outer)
    outer.run(DATA)
    assert counted(diagnostics, 8)


def test_a_copy_of_an_engine_is_nobodys() -> None:
    """A deep copy of a watched engine runs unwatched and begins, ends and reports nothing."""
    model, trainer = setup()
    diagnostics = Diagnostics(model, every=1).attach(trainer)
    copied = copy.deepcopy(trainer)
    copied.run(DATA)
    assert diagnostics.report is None
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: copied.run(DATA, max_epochs=9) and None)
    trainer.run(DATA)
    assert counted(diagnostics, 4)


def eval_samples(model: nn.Module, x: Tensor) -> None:
    model.eval()
    with torch.no_grad():
        model(x)
    model.train()


def train_samples(model: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        model(x)


def eval_with_gradients(model: nn.Module, x: Tensor) -> None:
    model.eval()
    model(x)
    model.train()


def inference(model: nn.Module, x: Tensor) -> None:
    with torch.inference_mode():
        model(x)


def teacher(model: nn.Module, x: Tensor) -> None:
    copy.deepcopy(model)(x)


ASIDE = [eval_samples, train_samples, eval_with_gradients, inference, teacher]


def wrapped(model: nn.Module) -> nn.Module:
    return nn.ModuleDict({"model": model})


def wrapped_in_eval(model: nn.Module) -> nn.Module:
    outer = nn.Sequential(model).eval()
    model.train()
    return outer


def partly_in_eval(model: nn.Module) -> nn.Module:
    model.layers[2].eval()  # type: ignore[operator, index, union-attr]
    return model


@pytest.mark.few(10)
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("aside", ASIDE)
@pytest.mark.parametrize("watch", [lambda model: model, wrapped, wrapped_in_eval])
def test_other_forwards_in_a_plain_loop(watch: Callable[..., Any], aside: Callable[..., Any], first: bool) -> None:
    """Rollouts, samples, evaluations and teachers before or after training leave the training forwards alone."""
    model = setup()[0]
    watched = watch(model)
    with EpochRecorder(watched, every=1) as recorder:
        for x, y in DATA:
            if first:
                aside(model, torch.randn(50, 4))
            F.cross_entropy(model(x), y).backward()
            if not first:
                aside(model, torch.randn(50, 4))
        report = recorder.finish()
    assert {row["count"] for row in report.activations.values()} == {4 * ROWS * UNITS}


@pytest.mark.parametrize("watch", [partly_in_eval, wrapped_in_eval])
def test_a_model_that_is_partly_in_evaluation_mode(watch: Callable[..., Any]) -> None:
    """Fine-tuning with parts in evaluation mode is training."""
    model = setup()[0]
    watched = watch(model)
    with EpochRecorder(watched, every=1) as recorder:
        for x, y in DATA:
            F.cross_entropy(watched(x), y).backward()
        model.eval()
        for x, _ in DATA:
            model(x)
        report = recorder.finish()
    assert {row["count"] for row in report.activations.values()} == {4 * ROWS * UNITS}
