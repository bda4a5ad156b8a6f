"""A run from its beginning is another training; one that goes on is the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from ignite.handlers import FastaiLRFinder
from torch import nn
from torch.optim import SGD

from ignite_act import DeadNeurons, Diagnostics, EpochRecorder, TerminateOnFinding
from ignite_act.testing import SharedReLU, batches, make_trainer

DATA = batches(4)


def setup() -> tuple[SharedReLU, Engine]:
    """A network whose first layer is dead, and its trainer."""
    torch.manual_seed(0)
    model = SharedReLU()
    fill(model, -100.0)
    return model, make_trainer(model, SGD(model.parameters(), lr=0.01))


def fill(model: SharedReLU, bias: float) -> None:
    """Kills the first layer, or revives it."""
    with torch.no_grad():
        model.layers[0].bias.fill_(bias)


def dead_since(diagnostics: Diagnostics | EpochRecorder) -> list[int]:
    """Since which epochs the first layer was ever found dead."""
    found = diagnostics.all_findings
    return [item.since_epoch for item in found if item.kind == "dead_units" and item.layer == "layers.1"]


def second_run(model: SharedReLU, trainer: Engine, diagnostics: Diagnostics) -> None:
    trainer.run(DATA, max_epochs=2)


def larger_number(model: SharedReLU, trainer: Engine, diagnostics: Diagnostics) -> None:
    trainer.run(DATA, max_epochs=4)


def from_the_start_by_hand(model: SharedReLU, trainer: Engine, diagnostics: Diagnostics) -> None:
    trainer.state.max_epochs = None
    trainer.run(DATA, max_epochs=1)


def state_of_the_engine(model: SharedReLU, trainer: Engine, diagnostics: Diagnostics) -> None:
    trainer.load_state_dict({"epoch_length": 4, "max_epochs": 4, "iteration": 8})
    trainer.run(DATA)


def state_of_the_diagnostics(model: SharedReLU, trainer: Engine, diagnostics: Diagnostics) -> None:
    diagnostics.load_state_dict(diagnostics.state_dict())
    trainer.run(DATA, max_epochs=2)


def attached_again(model: SharedReLU, trainer: Engine, diagnostics: Diagnostics) -> None:
    diagnostics.detach()
    diagnostics.attach(trainer)
    trainer.run(DATA, max_epochs=4)


def another_trainer(model: SharedReLU, trainer: Engine, diagnostics: Diagnostics) -> None:
    diagnostics.detach()
    other = make_trainer(model, SGD(model.parameters(), lr=0.01))
    with diagnostics.attach(other):
        other.run(DATA, max_epochs=2)


@pytest.mark.parametrize(
    ("how", "same"),
    [
        (second_run, False),
        (from_the_start_by_hand, False),
        (another_trainer, False),
        (larger_number, True),
        (state_of_the_engine, True),
        (state_of_the_diagnostics, True),
        (attached_again, True),
    ],
)
def test_which_runs_are_the_same_training(how: Callable[..., None], same: bool) -> None:
    """An earlier training is forgotten; one that goes on or is restored keeps its findings."""
    model, trainer = setup()
    diagnostics = Diagnostics(model).attach(trainer)
    trainer.run(DATA, max_epochs=2)
    assert dead_since(diagnostics) == [1]
    fill(model, 0.0)
    how(model, trainer, diagnostics)
    assert dead_since(diagnostics) == ([1] if same else [])
    assert diagnostics.report is not None
    assert diagnostics.report.dead_neurons["layers.1"]["dead"] < 6


@pytest.mark.parametrize("same", [True, False])
def test_units_come_back_to_life_within_a_training_only(same: bool) -> None:
    """What was dead at the end of another training is neither born nor revived in this one."""
    model, trainer = setup()
    handler = DeadNeurons(model).attach(trainer)
    revived: list[int] = []
    trainer.add_event_handler(
        Events.EPOCH_COMPLETED, lambda engine: revived.append(handler.result["layers.1"]["revived"])
    )
    trainer.run(DATA, max_epochs=2)
    fill(model, 0.0)
    trainer.run(DATA, max_epochs=4 if same else 2)
    assert (sum(revived) > 0) == same


def test_a_training_that_was_terminated_goes_on() -> None:
    """Ignite goes on where it was terminated, and so do the findings."""
    model, trainer = setup()
    diagnostics = Diagnostics(model).attach(trainer)
    trainer.add_event_handler(Events.EPOCH_COMPLETED(once=2), lambda engine: engine.terminate())
    trainer.run(DATA, max_epochs=5)
    fill(model, 0.0)
    trainer.run(DATA, max_epochs=5)
    assert diagnostics.report is not None
    assert (diagnostics.report.epoch, dead_since(diagnostics)) == (5, [1])


def test_an_interrupted_epoch_is_one_epoch() -> None:
    """After an interrupt the window goes on: it holds every step once."""
    model, trainer = setup()
    diagnostics = Diagnostics(model).attach(trainer)
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=6), lambda engine: engine.interrupt())
    trainer.run(DATA, max_epochs=2)
    trainer.run(DATA, max_epochs=2)
    report = diagnostics.report
    assert report is not None
    assert (report.epoch, report.partial, report.gradients["layers.4"]["steps"]) == (2, False, 4)


@pytest.mark.parametrize("order", [True, False])
def test_a_resumed_training_keeps_its_journal(order: bool) -> None:
    """The states of engine and diagnostics restore a training in another process, in either order."""
    model, trainer = setup()
    diagnostics = Diagnostics(model).attach(trainer)
    trainer.run(DATA, max_epochs=2)
    states: list[tuple[Any, Any]] = [(trainer, trainer.state_dict()), (diagnostics, diagnostics.state_dict())]
    model, again = setup()
    fill(model, 0.0)
    resumed = Diagnostics(model).attach(again)
    targets = {id(trainer): again, id(diagnostics): resumed}
    for source, state in states if order else reversed(states):
        targets[id(source)].load_state_dict(state)
    again.run(DATA, max_epochs=4)
    assert (again.state.epoch, dead_since(resumed)) == (4, [1])


@pytest.mark.filterwarnings("ignore:Run completed without loss diverging")
def test_a_learning_rate_search_is_another_training() -> None:
    """What the search broke is no finding of the training after it."""
    torch.manual_seed(0)
    model = SharedReLU()
    optimizer = SGD(model.parameters(), lr=0.1)
    trainer = make_trainer(model, optimizer)
    diagnostics = Diagnostics(model, optimizer).attach(trainer)
    end, data = FastaiLRFinder(), batches(20)
    to_save = {"model": model, "optimizer": optimizer}
    with end.attach(trainer, to_save, end_lr=1e4, num_iter=60, diverge_th=1e9) as search:
        search.run(data)
    assert diagnostics.all_findings
    trainer.run(data, max_epochs=2)
    assert diagnostics.report is not None
    assert diagnostics.report.epoch == 2
    assert not [finding for finding in diagnostics.all_findings if finding.severity == "error"]


def test_nothing_old_is_seen_while_a_run_begins() -> None:
    """From ``STARTED`` on, the engine's state and the diagnostics show the new training."""
    model, trainer = setup()
    diagnostics = Diagnostics(model).attach(trainer)
    trainer.run(DATA, max_epochs=2)
    seen: list[Any] = []
    for event in (Events.STARTED, Events.EPOCH_STARTED):
        trainer.add_event_handler(event, lambda engine: seen.append((engine.state.findings, diagnostics.report)))
    fill(model, 0.0)
    trainer.run(DATA, max_epochs=2)
    assert seen[:2] == [((), None), ((), None)]


def test_patience_begins_anew() -> None:
    """`TerminateOnFinding` counts the epochs of one training; going on, it counts on."""
    model, trainer = setup()
    Diagnostics(model).attach(trainer)
    terminate = TerminateOnFinding("error", patience=3).attach(trainer)
    for _ in range(2):
        trainer.run(DATA, max_epochs=2)
        assert (trainer.state.epoch, terminate.finding) == (2, None)
    trainer.run(DATA, max_epochs=9)
    assert trainer.state.epoch == 3
    assert terminate.finding is not None
    trainer.state.max_epochs = None
    trainer.run(DATA, max_epochs=2)
    assert (trainer.state.epoch, terminate.finding) == (2, None)


@pytest.mark.parametrize("renewed", [True, False])
def test_a_recorder_is_renewed(renewed: bool) -> None:
    """In a plain loop `EpochRecorder.renew` begins another training, and only that does."""
    model, _ = setup()
    optimizer = SGD(model.parameters(), lr=0.01)
    with EpochRecorder(model) as recorder:
        for training in range(2):
            for x, y in DATA:
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x), y).backward()
                optimizer.step()
            report = recorder.finish()
            if training == 0 and renewed:
                recorder.renew()
                assert recorder.report is None
            fill(model, 0.0)
    assert report.epoch == (1 if renewed else 2)
    assert dead_since(recorder) == ([] if renewed else [1])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("same", [True, False])
def test_a_second_fit_of_lightning(same: bool) -> None:
    """Another trainer trains the module anew; the same one goes on."""
    lightning = pytest.importorskip("lightning.pytorch")
    from ignite_act.lightning import DiagnosticsCallback

    class Module(lightning.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = setup()[0]

        def training_step(self, batch: Any, index: int) -> Any:
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return SGD(self.parameters(), lr=0.01)

    callback, module = DiagnosticsCallback(), Module()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    settings = {**quiet, "enable_model_summary": False, "callbacks": [callback]}
    loader = torch.utils.data.DataLoader([(x, y) for x, y in DATA], batch_size=None)
    trainer = lightning.Trainer(max_epochs=2, **settings)
    trainer.fit(module, loader)
    assert [finding.since_epoch for finding in callback.findings if finding.layer == "net.layers.1"] == [1]
    fill(module.net, 0.0)
    if same:
        trainer.fit_loop.max_epochs = 4
    else:
        trainer = lightning.Trainer(max_epochs=2, **settings)
    trainer.fit(module, loader)
    recorder = callback._recorder
    assert recorder is not None
    known = [item.since_epoch for item in recorder.all_findings if item.layer == "net.layers.1"]
    assert known == ([1] if same else [])
