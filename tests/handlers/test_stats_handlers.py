from __future__ import annotations

import copy
import gc
import io
import math
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from ignite.engine import Engine, EventEnum, Events
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

from ignite_act import ActivationStats, DeadNeurons, GradientStats
from ignite_act.handlers.stats import StatsHandler
from ignite_act.testing import FunctionalMLP, SharedReLU, batches, global_hooks, make_evaluator, make_trainer

Make = Callable[[nn.Module], StatsHandler]
HANDLERS: dict[str, Make] = {
    "gradients": GradientStats,
    "activations": lambda model: ActivationStats(model, every=1),
    "dead_neurons": DeadNeurons,
}
KEYS = {
    "gradients": {"mean_abs", "max_abs", "nonfinite", "steps", "skipped_steps", "partial"},
    "activations": {
        "count", "mean", "std", "min", "max", "zero_fraction", "saturated_fraction", "nonfinite", "edges", "counts",
        "partial",
    },
    "dead_neurons": {"dead", "units", "fraction", "indices", "born", "revived", "partial"},
}  # fmt: skip
NAMES = {
    "gradients": ["layers.0", "layers.2", "layers.4"],
    "activations": ["layers.1", "layers.3"],
    "dead_neurons": ["layers.1", "layers.3"],
}
each_handler = pytest.mark.parametrize("kind", HANDLERS)


def setup(model: nn.Module | None = None, lr: float = 0.1) -> tuple[nn.Module, Engine]:
    torch.manual_seed(0)
    model = model or SharedReLU()
    return model, make_trainer(model, SGD(model.parameters(), lr=lr))


def comparable(result: dict[str, Any]) -> str:
    return repr(result)  # NaN equals NaN


@pytest.fixture(autouse=True)
def _free() -> None:
    """What an earlier test left in a window that was broken off is gone."""
    if global_hooks():
        gc.collect()
    assert global_hooks() == []


@each_handler
def test_names_and_keys_are_those_of_the_design(kind: str) -> None:
    """The default name, the metrics value and the keys of a row are as the table of section 5 says."""
    model, trainer = setup()
    handler = HANDLERS[kind](model).attach(trainer)
    assert handler.result == {}
    trainer.run(batches(), max_epochs=2)
    assert list(handler.result) == NAMES[kind]
    for name, row in handler.result.items():
        assert KEYS[kind] <= set(row)
        assert row["partial"] is False
        published = trainer.state.metrics[kind][name]
        if kind == "gradients":
            assert published == row["mean_abs"]
        elif kind == "dead_neurons":
            assert published == row["dead"]
        else:
            assert published == {key: row[key] for key in ("mean", "std", "zero_fraction", "saturated_fraction")}
    assert list(trainer.state.metrics[kind]) == NAMES[kind]
    assert handler.coverage.seen == tuple(NAMES[kind])


@each_handler
def test_a_name_can_be_chosen(kind: str) -> None:
    """``attach(engine, name=...)`` publishes under that name."""
    model, trainer = setup()
    HANDLERS[kind](model).attach(trainer, name="mine")
    trainer.run(batches())
    assert list(trainer.state.metrics) == ["mine"]


@each_handler
def test_only_plain_numbers_are_published(kind: str) -> None:
    """Rows and metrics hold Python numbers, lists and strings: nothing that a logger cannot take."""

    def plain(value: Any) -> bool:
        if isinstance(value, dict):
            return all(plain(item) for item in value.values())
        if isinstance(value, list):
            return all(plain(item) for item in value)
        return value is None or type(value) in {int, float, bool, str}

    model, trainer = setup()
    handler = HANDLERS[kind](model).attach(trainer)
    trainer.run(batches())
    assert plain(trainer.state.metrics[kind])
    assert plain(handler.result)


@pytest.mark.parametrize("kind", ["activations", "dead_neurons"])
def test_an_evaluator_measures_a_fixed_network(kind: str) -> None:
    """Attached to an evaluator, a handler's numbers are those of the whole data in one forward."""
    model, _ = setup()
    evaluator = make_evaluator(model)
    data = batches()
    with HANDLERS[kind](model).attach(evaluator) as handler:
        evaluator.run(data)
    x = torch.cat([x for x, _ in data])
    hidden = [F.relu(model.layers[0](x))]
    hidden.append(F.relu(model.layers[2](hidden[0])))
    for row, y in zip(handler.result.values(), hidden, strict=True):
        if kind == "dead_neurons":
            assert row["indices"] == torch.nonzero((y == 0).all(0)).flatten().tolist()
        else:
            assert row["count"] == y.numel()
            assert row["mean"] == pytest.approx(y.double().mean().item(), rel=1e-6)
            assert row["std"] == pytest.approx(y.double().std(correction=0).item(), rel=1e-6)
            assert row["zero_fraction"] == (y == 0).double().mean().item()


def test_gradients_equal_their_twin_under_an_engine() -> None:
    """The published mean is that of .grad in the step, averaged over the epoch's steps, anew in every epoch."""
    model, _ = setup()
    optimizer = SGD(model.parameters(), lr=0.1)
    noted: list[float] = []

    def step(engine: Engine, batch: tuple[Tensor, Tensor]) -> None:
        F.cross_entropy(model(batch[0]), batch[1]).backward()
        noted.append(model.layers[2].weight.grad.abs().double().mean().item())
        optimizer.step()
        optimizer.zero_grad()

    trainer = Engine(step)
    GradientStats(model).attach(trainer)
    published: list[float] = []
    trainer.add_event_handler(
        Events.EPOCH_COMPLETED, lambda engine: published.append(engine.state.metrics["gradients"]["layers.2"])
    )
    trainer.run(batches(3), max_epochs=2)
    assert published == pytest.approx([sum(noted[:3]) / 3, sum(noted[3:]) / 3], rel=1e-6)


NESTED = [
    Events.STARTED,
    Events.EPOCH_STARTED,
    Events.GET_BATCH_STARTED,
    Events.GET_BATCH_COMPLETED,
    Events.ITERATION_STARTED,
    Events.ITERATION_COMPLETED,
    Events.ITERATION_COMPLETED(every=2),
    Events.EPOCH_COMPLETED,
    Events.COMPLETED,
]


@pytest.mark.few(18)
@each_handler
@pytest.mark.parametrize("event", NESTED, ids=lambda event: event.name)
@pytest.mark.parametrize("first", [True, False])
def test_a_nested_evaluator_leaves_the_numbers_untouched(kind: str, event: Any, first: bool) -> None:
    """An evaluator that runs in a handler of the trainer does not count, whichever was attached first."""

    def run(*, nested: bool) -> str:
        model, trainer = setup()
        evaluator = make_evaluator(model)
        if not first:
            handler = HANDLERS[kind](model).attach(trainer)
        if nested:
            trainer.add_event_handler(event, lambda: evaluator.run(batches(2, seed=9)) and None)
        if first:
            handler = HANDLERS[kind](model).attach(trainer)
        trainer.run(batches(3), max_epochs=2)
        return comparable(handler.result)

    assert run(nested=True) == run(nested=False)


@pytest.mark.parametrize("kind", ["activations", "dead_neurons"])
def test_forwards_outside_of_the_step_do_not_count(kind: str) -> None:
    """Training forwards of the same model in a handler of the engine are not part of the window."""

    def run(*, outside: bool) -> str:
        model, trainer = setup(lr=0.0)
        handler = HANDLERS[kind](model).attach(trainer)
        if outside:
            trainer.add_event_handler(
                Events.ITERATION_COMPLETED, lambda: bool(model(torch.full((2, 4), 100.0)).sum()) and None
            )
        trainer.run(batches(3))
        return comparable(handler.result)

    assert run(outside=True) == run(outside=False)


def test_an_optimizer_step_in_a_handler_counts() -> None:
    """The window's optimizer steps are averaged, also where a handler of the engine makes them."""
    model = SharedReLU()
    optimizer = SGD(model.parameters(), lr=0.1)
    trainer = Engine(lambda engine, batch: F.cross_entropy(model(batch[0]), batch[1]).backward())
    handler = GradientStats(model).attach(trainer)
    trainer.add_event_handler(Events.ITERATION_COMPLETED(every=2), lambda: optimizer.step())
    trainer.run(batches())
    assert handler.result["layers.0"]["steps"] == 2


@each_handler
def test_attaching_twice_is_refused(kind: str) -> None:
    """A handler that is attached says so; after a detach it can be attached again."""
    model, trainer = setup()
    handler = HANDLERS[kind](model).attach(trainer)
    with pytest.raises(RuntimeError, match="attached already"):
        handler.attach(trainer, name="other")
    handler.detach()
    handler.detach()
    handler.attach(trainer)
    trainer.run(batches())
    assert list(handler.result) == NAMES[kind]


@each_handler
def test_two_handlers_of_a_kind_need_different_names(kind: str) -> None:
    """A name in use on the engine is refused; another name works, and a detached handler's name is free again."""
    model, trainer = setup()
    first = HANDLERS[kind](model).attach(trainer)
    with pytest.raises(ValueError, match=f"already .*{kind}"):
        HANDLERS[kind](model).attach(trainer)
    second = HANDLERS[kind](model).attach(trainer, name="second")
    trainer.run(batches())
    assert comparable(first.result) == comparable(second.result)
    assert repr(trainer.state.metrics["second"]) == repr(trainer.state.metrics[kind])
    first.detach()
    HANDLERS[kind](model).attach(trainer)


@each_handler
def test_only_engines_can_be_attached_to(kind: str) -> None:
    """Attaching to something else is a clear error at once."""
    with pytest.raises(TypeError, match="ignite Engine, got str"):
        HANDLERS[kind](SharedReLU()).attach("trainer")  # type: ignore[arg-type]


def stop_after(n: int, how: str) -> Callable[[Engine], None]:
    def handler(engine: Engine) -> None:
        if engine.state.iteration == n:
            getattr(engine, how)()

    return handler


@each_handler
@pytest.mark.parametrize("how", ["terminate", "terminate_epoch", "max_iters"])
def test_a_window_that_is_cut_short_is_partial(kind: str, how: str) -> None:
    """Terminated in the middle of an epoch, the window is finished all the same and marked partial."""
    model, trainer = setup()
    reference_model, reference = setup()
    handler = HANDLERS[kind](model).attach(trainer)
    expected = HANDLERS[kind](reference_model).attach(reference)
    reference.run(batches()[:2])
    if how == "max_iters":
        trainer.run(batches(), max_iters=2)
    else:
        trainer.add_event_handler(Events.ITERATION_COMPLETED, stop_after(2, how))
        trainer.run(batches())
    assert all(row["partial"] is True for row in handler.result.values())
    assert comparable(handler.result).replace("True", "False") == comparable(expected.result)
    assert list(trainer.state.metrics[kind]) == NAMES[kind]
    assert global_hooks() == []


@each_handler
def test_an_epoch_whose_completion_is_skipped_is_partial(kind: str) -> None:
    """Where the engine skips ``EPOCH_COMPLETED`` the window is finished as partial all the same."""
    model, trainer = setup()
    handler = HANDLERS[kind](model).attach(trainer)
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED(once=2), lambda engine: engine.terminate_epoch(skip_epoch_completed=True)
    )
    trainer.run(batches())
    assert [row["partial"] for row in handler.result.values()] == [True] * len(NAMES[kind])


@each_handler
def test_a_cut_epoch_is_followed_by_a_whole_one(kind: str) -> None:
    """After a terminated epoch the next window is not partial."""
    model, trainer = setup()
    handler = HANDLERS[kind](model).attach(trainer)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, stop_after(2, "terminate_epoch"))
    trainer.run(batches(), max_epochs=2)
    assert not any(row["partial"] for row in handler.result.values())


class FailsAt:
    """Raises in the n-th call of the forward."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __call__(self, module: nn.Module, args: Any) -> None:
        self.n -= 1
        if self.n == 0:
            raise RuntimeError("boom")


@each_handler
def test_an_exception_in_the_step_leaves_a_partial_result(kind: str) -> None:
    """The user's exception comes through, what was measured before it is there, and no hook is left."""
    model, trainer = setup()
    model.layers[2].register_forward_pre_hook(FailsAt(3))
    with pytest.raises(RuntimeError, match="boom"), HANDLERS[kind](model).attach(trainer) as handler:
        trainer.run(batches())
    assert list(handler.result) == NAMES[kind]
    assert all(row["partial"] for row in handler.result.values())
    if kind == "gradients":
        assert handler.result["layers.0"]["steps"] == 2
    assert global_hooks() == []


@each_handler
def test_a_run_after_an_exception_is_right(kind: str) -> None:
    """Without a ``with`` block the next run begins a window of its own."""
    model, trainer = setup(lr=0.0)
    handler = HANDLERS[kind](model).attach(trainer)
    hook = model.layers[2].register_forward_pre_hook(FailsAt(3))
    with pytest.raises(RuntimeError, match="boom"):
        trainer.run(batches())
    hook.remove()
    trainer.state.max_epochs = None  # begin anew
    trainer.run(batches())
    fresh_model, fresh = setup(lr=0.0)
    expected = HANDLERS[kind](fresh_model).attach(fresh)
    fresh.run(batches())
    result = {
        name: {k: v for k, v in row.items() if k not in {"born", "revived"}} for name, row in handler.result.items()
    }
    for name, row in result.items():
        assert repr(row) == repr({k: expected.result[name][k] for k in row})
    assert global_hooks() == []


@each_handler
def test_a_second_run_has_its_own_windows(kind: str) -> None:
    """A handler goes on measuring when the engine runs again."""
    model, trainer = setup(lr=0.0)
    handler = HANDLERS[kind](model).attach(trainer)
    trainer.run(batches())
    first = comparable(handler.result)
    trainer.run(batches(2, seed=5), max_epochs=1)
    assert comparable(handler.result) != first
    trainer.run(batches(), max_epochs=1)
    again = {name: {**row, "born": 0, "revived": 0} if "born" in row else row for name, row in handler.result.items()}
    assert comparable(again) == first


@each_handler
def test_detaching_in_the_middle_flushes_and_leaves_no_trace(kind: str) -> None:
    """After a detach no hook is left in torch, on the model, the optimizer or the engine; the result is partial."""
    original = torch.amp.GradScaler.step
    model, _ = setup()
    optimizer = SGD(model.parameters(), lr=0.1)
    trainer = make_trainer(model, optimizer)
    handler = HANDLERS[kind](model).attach(trainer)
    open_hooks: list[int] = []

    @trainer.on(Events.ITERATION_COMPLETED)
    def detach(engine: Engine) -> None:
        if engine.state.iteration == 2:
            open_hooks.append(len(global_hooks()))
            handler.detach()
            assert global_hooks() == []

    trainer.run(batches())
    assert open_hooks[0] > 0
    assert list(handler.result) == NAMES[kind]
    assert all(row["partial"] for row in handler.result.values())
    assert torch.amp.GradScaler.step is original
    for module in model.modules():
        assert [*module._forward_hooks, *module._forward_pre_hooks, *module._backward_hooks] == []
    assert [*optimizer._optimizer_step_pre_hooks, *optimizer._optimizer_step_post_hooks] == []
    assert {event for event, handlers in trainer._event_handlers.items() if handlers} == {Events.ITERATION_COMPLETED}


class Noisy(nn.Module):
    """Dropout, batch norm and in-place activations: everything whose state watching might disturb."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(4, 8),
            nn.BatchNorm1d(8),
            nn.ReLU(inplace=True),
            nn.Dropout(0.3),
            nn.Linear(8, 8),
            nn.Hardswish(True),
        )
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.rrelu(self.body(x), training=self.training))


def test_watching_never_changes_training() -> None:
    """Weights, buffers, optimizer state, random state and losses are bit-identical with and without handlers."""

    def run(*, watched: bool) -> tuple[list[float], dict[str, Tensor], dict[str, Any], Tensor]:
        torch.manual_seed(0)
        model = Noisy()
        optimizer = Adam(model.parameters(), lr=0.05)
        trainer = make_trainer(model, optimizer)
        losses: list[float] = []
        trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: losses.append(engine.state.output))
        if watched:
            for make in HANDLERS.values():
                make(model).attach(trainer)
        trainer.run(batches(5), max_epochs=3)
        return losses, model.state_dict(), optimizer.state_dict(), torch.get_rng_state()

    plain, watched = run(watched=False), run(watched=True)
    assert watched[0] == plain[0]
    for name, value in plain[1].items():
        assert torch.equal(watched[1][name], value), name
    assert torch.equal(watched[3], plain[3])
    assert repr(watched[2]["param_groups"]) == repr(plain[2]["param_groups"])
    for number, state in plain[2]["state"].items():
        for name, value in state.items():
            assert torch.equal(watched[2]["state"][number][name], value)


def test_a_copy_of_a_watched_model_is_free() -> None:
    """deepcopy and torch.save work inside a window; forwards of the copy do not count and the copy bears no hook."""
    model, trainer = setup()
    handlers = [make(model).attach(trainer) for make in HANDLERS.values()]
    copies: list[nn.Module] = []

    @trainer.on(Events.ITERATION_COMPLETED)
    def copy_and_save(engine: Engine) -> None:
        copies.append(copy.deepcopy(model))
        copies[-1](torch.full((2, 4), 100.0))
        torch.save(model, io.BytesIO())

    trainer.run(batches())
    reference_model, reference = setup()
    expected = [make(reference_model).attach(reference) for make in HANDLERS.values()]
    reference.run(batches())
    assert [comparable(h.result) for h in handlers] == [comparable(h.result) for h in expected]
    assert all(not module._forward_hooks for module in copies[-1].modules())


def test_an_ema_copy_inside_the_step_does_not_count() -> None:
    """A forward of a deep copy within the engine's own step is no forward of the model."""
    model, _ = setup()
    teacher = copy.deepcopy(model)
    plain = make_trainer(model, SGD(model.parameters(), lr=0.0))

    def step(engine: Engine, batch: tuple[Tensor, Tensor]) -> Any:
        teacher(batch[0] + 100)
        return plain._process_function(engine, batch)

    trainer = Engine(step)
    handler = ActivationStats(model, every=1).attach(trainer)
    trainer.run(batches(2))
    assert handler.result["layers.1"]["count"] == 2 * 8 * 6


@pytest.mark.few(1)
@pytest.mark.parametrize("end", ["whole", "terminated", "raised"])
def test_engine_and_model_are_collected(end: str) -> None:
    """No handler keeps an engine or a model alive, however the run ended, and no hook stays behind."""
    model, trainer = setup()
    handlers = [make(model).attach(trainer) for make in HANDLERS.values()]
    if end == "whole":
        trainer.run(batches())
    elif end == "terminated":
        trainer.run(batches(), max_iters=2)
    else:
        model.layers[2].register_forward_pre_hook(FailsAt(3))
        with pytest.raises(RuntimeError, match="boom"):
            trainer.run(batches())
    dead = [weakref.ref(trainer), weakref.ref(model)]
    del trainer, model
    gc.collect()
    assert [ref() for ref in dead] == [None, None]
    del handlers
    gc.collect()
    assert global_hooks() == []


@each_handler
@pytest.mark.parametrize("cut", [1, 3])
def test_a_window_resumed_in_its_middle_equals_the_uninterrupted_one(kind: str, cut: int, tmp_path: Any) -> None:
    """The state, through a file of plain types, lets a new handler on a new engine finish the window."""
    data = batches(5)
    model, trainer = setup(lr=0.0)
    handler = HANDLERS[kind](model).attach(trainer)

    @trainer.on(Events.ITERATION_COMPLETED)
    def save(engine: Engine) -> None:
        if engine.state.iteration == cut:
            torch.save(handler.state_dict(), tmp_path / "state.pt")

    trainer.run(data)
    again, resumed_trainer = setup(lr=0.0)
    resumed = HANDLERS[kind](again).attach(resumed_trainer)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    resumed_trainer.run(data[cut:])
    for name, row in handler.result.items():
        for key, value in row.items():
            expected = pytest.approx(value, rel=1e-9) if isinstance(value, float) else value
            assert resumed.result[name][key] == expected, (name, key)


class SyncCounter(TorchDispatchMode):
    """Counts the operators that make the host wait for the device."""

    waits = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "_unique2", "masked_select", "item")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        to_host = name == "_to_copy" and (kwargs or {}).get("device") is not None
        if name in self.waits or to_host:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.usefixtures("loops")
def test_the_hot_path_never_waits_for_the_device() -> None:
    """Between the first and the last iteration of a window handlers read no value back to the host."""
    model, _ = setup()
    optimizer = SGD(model.parameters(), lr=0.1)

    def step(engine: Engine, batch: tuple[Tensor, Tensor]) -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(batch[0]), batch[1]).backward()
        optimizer.step()

    trainer = Engine(step)
    for make in HANDLERS.values():
        make(model).attach(trainer)
    counter = SyncCounter()
    trainer.add_event_handler(Events.ITERATION_STARTED(once=1), lambda: counter.__enter__() and None)
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=40), lambda: counter.__exit__(None, None, None))
    trainer.run(batches(40))
    assert counter.seen == []
    with counter:
        torch.ones(1).item()
    assert counter.seen == ["_local_scalar_dense"]  # the counter counts


def test_the_scaler_is_measured_below_an_engine() -> None:
    """A step that the loss scaler skips is in `skipped_steps`, and no step of the mean."""
    model, _ = setup()
    optimizer, scaler = SGD(model.parameters(), lr=0.1), torch.amp.GradScaler("cpu", init_scale=1024.0)

    def step(engine: Engine, batch: tuple[Tensor, Tensor]) -> None:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(batch[0]), batch[1]) * (math.inf if engine.state.iteration == 2 else 1.0)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    trainer = Engine(step)
    handler = GradientStats(model, optimizer).attach(trainer)
    trainer.run(batches())
    row = handler.result["layers.0"]
    assert (row["steps"], row["skipped_steps"], row["nonfinite"]) == (3, 1, 0)


def test_activations_are_sampled_and_dead_neurons_are_not() -> None:
    """By default the distribution comes from one iteration of ten, the dead neurons from every sample."""
    model, trainer = setup(FunctionalMLP(), lr=0.0)
    activations, dead = ActivationStats(model).attach(trainer), DeadNeurons(model).attach(trainer)
    data = batches(12, size=2)
    trainer.run(data)
    assert activations.result["relu"]["count"] == 2 * 2 * 6
    y = torch.cat([F.relu(model.fc1(x)) for x, _ in data])
    assert dead.result["relu"]["indices"] == torch.nonzero((y == 0).all(0)).flatten().tolist()


def test_births_are_counted_between_epochs() -> None:
    """A unit that dies in the second epoch is born dead there, and revived where it comes back."""
    model, trainer = setup(lr=0.0)
    with torch.no_grad():
        model.layers[0].bias.fill_(50.0)
    handler = DeadNeurons(model).attach(trainer)
    history: list[tuple[int, int, int]] = []

    @trainer.on(Events.EPOCH_COMPLETED)
    def kill_or_revive(engine: Engine) -> None:
        row = handler.result["layers.1"]
        history.append((row["dead"], row["born"], row["revived"]))
        with torch.no_grad():
            model.layers[0].bias[:2] = -50.0 if engine.state.epoch == 1 else 50.0

    trainer.run(batches(), max_epochs=3)
    assert history == [(0, 0, 0), (2, 2, 0), (0, 0, 2)]


def test_a_gradient_handler_says_why_it_saw_nothing() -> None:
    """Without a step of an optimizer the layers are listed as unseen, with the reason."""
    model = SharedReLU()
    trainer = Engine(lambda engine, batch: model(batch[0]).sum().backward())
    handler = GradientStats(model).attach(trainer)
    trainer.run(batches())
    assert handler.result == {}
    assert trainer.state.metrics["gradients"] == {}
    assert set(handler.coverage.unseen) == {"layers.0", "layers.2", "layers.4"}


@pytest.mark.parametrize("owner", ["after", "before"])
def test_the_optimizer_need_not_exist_yet(owner: str) -> None:
    """Without `optimizer` the gradients are read where they are final, whenever the optimizer is made."""
    model = SharedReLU()
    handler = GradientStats(model)
    made: list[Optimizer] = [SGD(model.parameters(), lr=0.1)] if owner == "before" else []

    def step(engine: Engine, batch: tuple[Tensor, Tensor]) -> None:
        if not made:
            made.append(SGD(model.parameters(), lr=0.1))
        made[0].zero_grad()
        F.cross_entropy(model(batch[0]), batch[1]).backward()
        made[0].step()

    trainer = Engine(step)
    handler.attach(trainer)
    trainer.run(batches())
    assert handler.result["layers.0"]["steps"] == 4


@pytest.mark.parametrize(
    "event", [Events.ITERATION_COMPLETED(every=2), Events.EPOCH_COMPLETED], ids=lambda event: event.name
)
def test_a_trainer_and_its_evaluator_can_both_be_watched(event: Any) -> None:
    """Handlers on a trainer and on the evaluator that runs inside it each see their own engine's forwards."""
    model, trainer = setup(lr=0.0)
    evaluator = make_evaluator(model)
    training, evaluation = (ActivationStats(model, every=1).attach(engine) for engine in (trainer, evaluator))
    trainer.add_event_handler(event, lambda: evaluator.run(batches(3, size=5, seed=9)) and None)
    trainer.run(batches())
    x = {
        "training": torch.cat([x for x, _ in batches()]),
        "evaluation": torch.cat([x for x, _ in batches(3, 5, seed=9)]),
    }
    for name, handler in (("training", training), ("evaluation", evaluation)):
        y = F.relu(model.layers[0](x[name]))
        assert handler.result["layers.1"]["count"] == y.numel()
        assert handler.result["layers.1"]["mean"] == pytest.approx(y.double().mean().item(), rel=1e-6)


def test_events_of_the_users_own_do_not_hide_the_step() -> None:
    """A forward after an event that the step itself fires is still measured."""

    class Own(EventEnum):
        BACKWARD_STARTED = "backward_started"

    model, _ = setup()

    def step(engine: Engine, batch: tuple[Tensor, Tensor]) -> None:
        engine.fire_event(Own.BACKWARD_STARTED)
        model(batch[0])

    trainer = Engine(step)
    trainer.register_events(*Own)
    handler = DeadNeurons(model).attach(trainer)
    trainer.run(batches())
    assert list(handler.result) == NAMES["dead_neurons"]


def test_an_evaluation_with_gradients_before_the_step_does_not_count() -> None:
    """A forward in evaluation mode in a handler of ``ITERATION_STARTED`` is left out, gradients enabled or not."""
    model, trainer = setup()
    handler = ActivationStats(model, every=1).attach(trainer)

    @trainer.on(Events.ITERATION_STARTED)
    def evaluate(engine: Engine) -> None:
        model.eval()
        model(torch.ones(5, 4))

    trainer.run(batches())
    assert handler.result["layers.1"]["count"] == 4 * 8 * 6
