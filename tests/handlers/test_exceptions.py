from __future__ import annotations

import copy
import gc
import json
import weakref

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from ignite_act import ActivationStats, DeadNeurons, Diagnostics, GradientStats
from ignite_act.sinks import JsonLinesSink

HANDLERS = {
    "gradients": GradientStats,
    "activations": lambda model: ActivationStats(model, every=1),
    "dead_neurons": DeadNeurons,
}
each_handler = pytest.mark.parametrize("kind", HANDLERS)


class Stop(BaseException):
    """No `Exception`, as ``KeyboardInterrupt`` is none."""


def trainer_that_fails(error: BaseException, at: int = 3) -> tuple[nn.Module, Engine]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(engine: Engine, batch: int) -> None:
        if engine.state.iteration == at:
            raise error
        optimizer.zero_grad()
        model(torch.randn(16, 4)).sum().backward()
        optimizer.step()

    return model, Engine(step)


@each_handler
@pytest.mark.parametrize("error", [ValueError("boom"), KeyboardInterrupt(), Stop()], ids=lambda e: type(e).__name__)
def test_the_unfinished_window_is_there(kind, error):
    """Without a ``with`` block and without a word, what was measured before the exception is there."""
    model, trainer = trainer_that_fails(error)
    handler = HANDLERS[kind](model).attach(trainer)
    with pytest.raises(type(error)) as raised:
        trainer.run(range(5))
    assert raised.value is error
    assert handler.result
    assert all(row["partial"] for row in handler.result.values())
    if kind == "gradients":
        assert handler.result["0"]["steps"] == 2
    if kind == "activations":
        assert handler.result["1"]["count"] == 2 * 16 * 8


@each_handler
def test_what_comes_after_the_exception_does_not_count(kind):
    """The window is closed by then: the user may look at the model."""
    model, trainer = trainer_that_fails(ValueError("boom"))
    handler = HANDLERS[kind](model).attach(trainer)
    with pytest.raises(ValueError, match="boom"):
        trainer.run(range(5))
    before = repr(handler.result)
    model(torch.full((3, 4), 100.0)).sum().backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    handler.detach()
    assert repr(handler.result) == before


def test_the_report_is_written(tmp_path):
    """The bundle's sinks get the partial report of the epoch that broke."""
    model, trainer = trainer_that_fails(ValueError("boom"), at=8)
    Diagnostics(model, sinks=[JsonLinesSink(tmp_path / "epochs.jsonl")]).attach(trainer)
    with pytest.raises(ValueError, match="boom"):
        trainer.run(range(5), max_epochs=3)
    lines = [json.loads(line) for line in (tmp_path / "epochs.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["partial"]) for line in lines] == [(1, False), (2, True)]
    assert lines[1]["gradients"]["0"]["steps"] == 2


@pytest.mark.parametrize("first", [True, False])
def test_the_users_own_handler_decides(first):
    """A handler of ``EXCEPTION_RAISED`` that swallows the exception still does; the next epoch is whole again."""
    model, trainer = trainer_that_fails(ValueError("boom"))
    caught = []
    if first:
        trainer.add_event_handler(Events.EXCEPTION_RAISED, lambda engine, error: caught.append(error))
    handler = GradientStats(model).attach(trainer)
    if not first:
        trainer.add_event_handler(Events.EXCEPTION_RAISED, lambda engine, error: caught.append(error))
    seen = []
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: seen.append(handler.result["0"]))
    trainer.run(range(5), max_epochs=2)
    assert len(caught) == 1
    assert [(row["steps"], row["partial"]) for row in seen] == [(2, True), (5, False)]


def test_an_exception_in_an_evaluator_inside_the_trainer():
    """Handlers of both engines keep what they have."""
    model, trainer = trainer_that_fails(ValueError("never"), at=0)
    batches = iter(range(100))

    def evaluate(engine: Engine, batch: int) -> None:
        if next(batches) == 3:
            raise ValueError("boom")
        model(torch.randn(4, 4))

    evaluator = Engine(evaluate)
    trainer.add_event_handler(Events.ITERATION_COMPLETED(every=2), lambda: evaluator.run(range(2)))
    training, evaluation = ActivationStats(model, every=1).attach(trainer), DeadNeurons(model).attach(evaluator)
    with pytest.raises(ValueError, match="boom"):
        trainer.run(range(6))
    assert training.result["1"]["count"] == 4 * 16 * 8
    assert training.result["1"]["partial"]
    assert list(evaluation.result) == ["1"]


def test_several_handlers_come_and_go():
    """Each flushes as long as it is attached, and the engine is as it was after the last."""
    model, trainer = trainer_that_fails(ValueError("boom"))
    handlers = [HANDLERS[kind](model).attach(trainer) for kind in HANDLERS]
    handlers[0].detach()
    with pytest.raises(ValueError, match="boom"):
        trainer.run(range(5))
    assert [bool(handler.result) for handler in handlers] == [False, True, True]
    for handler in handlers:
        handler.detach()
    assert "_handle_exception" not in vars(trainer)


def test_a_run_that_is_interrupted_and_given_up():
    """An interrupted run that nobody resumes ends without a sound, and nothing is kept alive."""
    model, trainer = trainer_that_fails(ValueError("never"), at=0)
    handler = GradientStats(model).attach(trainer)
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=2), trainer.interrupt)
    trainer.run(range(5))
    engine = weakref.ref(trainer)
    handler.detach()
    assert handler.result["0"]["steps"] == 2
    del trainer
    gc.collect()
    assert engine() is None


def test_a_report_that_fails_does_not_hide_the_exception(caplog):
    """What the user sees is the exception of the step."""
    model, trainer = trainer_that_fails(ValueError("boom"))
    handler = GradientStats(model).attach(trainer)
    handler._collector._numbers = lambda: 1 / 0
    with pytest.raises(ValueError, match="boom"):
        trainer.run(range(5))
    assert "GradientCollector gives up the numbers of the window: ZeroDivisionError" in caplog.text


def test_several_models_in_a_container_made_for_the_call():
    """``GradientStats(nn.ModuleDict({...}))`` works though nobody else holds the container."""
    parts = {"generator": nn.Linear(3, 3), "critic": nn.Linear(3, 1)}
    optimizers = [torch.optim.SGD(part.parameters(), lr=0.1) for part in parts.values()]

    def step(engine: Engine, batch: int) -> None:
        for optimizer in optimizers:
            optimizer.zero_grad()
            parts["critic"](parts["generator"](torch.ones(2, 3))).sum().backward()
            optimizer.step()

    trainer = Engine(step)
    handler = GradientStats(nn.ModuleDict(parts)).attach(trainer)
    trainer.run(range(3))
    assert {name: row["steps"] for name, row in handler.result.items()} == {"generator": 3, "critic": 3}


def test_a_copied_engine_answers_for_its_own_exceptions():
    """A deepcopy of a watched engine does not ask the original's handlers."""
    error = ValueError("boom")
    model, trainer = trainer_that_fails(error, at=1)
    asked = []
    with GradientStats(model).attach(trainer):
        copied = copy.deepcopy(trainer)
        trainer.add_event_handler(Events.EXCEPTION_RAISED, lambda engine, error: asked.append(error))
        with pytest.raises(ValueError, match="boom"):
            copied.run([0])
        assert asked == []
        trainer.run([0])
    assert asked == [error]
