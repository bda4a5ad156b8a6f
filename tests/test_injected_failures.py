"""Watching never ends training: every function of ours is made to fail, one at a time, in a real training."""

from __future__ import annotations

import dataclasses
import gc
import importlib
import inspect
import logging
import pkgutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from ignite.engine import Engine, Events
from torch import Tensor, nn, overrides

import ignite_act
from ignite_act import Diagnostics, GradientStats
from ignite_act.collect.hooks import Holders
from ignite_act.findings.rules import RULES
from ignite_act.internals import global_hooks, remove_function_mode
from ignite_act.sinks import ConsoleSink, JsonLinesSink, TensorBoardSink

PARTS = ("activations", "collect", "findings", "recorder", "report", "sinks", "stats", "handlers")
SHELLS = {  # what torch and Ignite call: each does nothing but call the rest, guarded
    "ignite_act.collect.hooks", "ignite_act.internals", "ignite_act.handlers.stepping",
}  # fmt: skip
EXEMPT = {
    "attach", "detach", "__enter__", "__exit__", "__call__",  # the user calls them
    "__torch_function__", "call",  # call the user's function, and before and after it the rest
    "_before", "_after", "_ready",  # torch calls them; the rest of them is guarded
    "_nothing",  # stands for no hooks at all
}  # fmt: skip


class Injected(Exception):  # noqa: N818 - what is raised, not what is wrong
    """Raised in place of a function's work."""


class Target(NamedTuple):
    """A function of ours, and every place that holds it."""

    name: str
    code: CodeType
    holders: tuple[tuple[Any, str, Any], ...]  # namespace, name there, what stands there


class Network(nn.Module):
    """A module that is used twice, functional calls, one in place, two heads and a softmax by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True)
        self.body, self.head, self.value = nn.Linear(16, 8), nn.Linear(8, 3), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Logits ``(N, 3)`` and values ``(N, 1)``."""
        x = self.act(self.conv(x)).flatten(1)
        x = self.act(F.gelu(self.body(x)).clamp(min=0))
        return {"logits": self.head(x), "value": self.value(torch.tanh(x))}


def modules() -> Iterator[Any]:
    for info in pkgutil.walk_packages(ignite_act.__path__, "ignite_act."):
        if info.name.split(".")[1] in PARTS and info.name not in SHELLS:
            yield importlib.import_module(info.name)


def own_functions(space: Any, module: str) -> Iterator[tuple[str, Any, Callable[..., Any]]]:
    """Name, what stands in the namespace, and the function in it."""
    for name, value in list(vars(space).items()):
        function = value.fget if isinstance(value, property) else inspect.unwrap(getattr(value, "__func__", value))
        function = getattr(function, "func", function)  # cached_property
        if inspect.isfunction(function) and function.__module__ == module and name not in EXEMPT:
            yield name, value, function


def targets() -> list[Target]:
    """Every function and method of the parts that run while a model is trained."""
    found = []
    namespaces = [module for name, module in sys.modules.items() if name.startswith("ignite_act") and module]
    for module in modules():
        for name, value, function in own_functions(module, module.__name__):
            holders = [(space, key, value) for space in namespaces for key, own in vars(space).items() if own is value]
            rules = [(RULES, kind, value) for kind, rule in RULES.items() if rule is value]
            found.append(Target(f"{module.__name__}.{name}", function.__code__, (*holders, *rules)))
        for kind in [own for own in vars(module).values() if inspect.isclass(own)]:
            if kind.__module__ == module.__name__ and not issubclass(kind, tuple):
                for name, value, function in own_functions(kind, module.__name__):
                    full_name = f"{module.__name__}.{kind.__name__}.{name}"
                    found.append(Target(full_name, function.__code__, ((kind, name, value),)))
    return found


def training(
    folder: Path, inject: Callable[[], None], restore: Callable[[], None] = lambda: None
) -> tuple[dict[str, Any], Diagnostics]:
    """Two short epochs with an evaluator, all sinks and a second handler; what fails begins after the set-up."""
    torch.manual_seed(0)
    model = Network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    data = [(torch.randn(4, 1, 4, 4), torch.arange(4) % 3) for _ in range(3)]

    def loss_of(batch: Any) -> Tensor:
        output = model(batch[0])
        return F.cross_entropy(output["logits"], batch[1]) + output["value"].square().mean()

    def step(engine: Engine, batch: Any) -> float:
        model.train()
        optimizer.zero_grad()
        loss = loss_of(batch)
        loss.backward()
        optimizer.step()
        return loss.item()

    def evaluate(engine: Engine, batch: Any) -> None:
        model.eval()
        with torch.no_grad():
            engine.state.metrics["loss"] = loss_of(batch).item()

    trainer, evaluator = Engine(step), Engine(evaluate)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run(data[:1]))
    events = TensorBoardSink(folder)
    sinks = [ConsoleSink(lambda line: None, tables=True), JsonLinesSink(folder / "reports.jsonl"), events]
    diagnostics = Diagnostics(model, optimizer, every=1, sinks=sinks).attach(trainer, evaluator)
    GradientStats(model).attach(trainer, "others")
    inject()
    try:
        trainer.run(data, max_epochs=2)
    finally:
        restore()
        events.close()
    left = {**model.state_dict(), "momentum": optimizer.state_dict()["state"], "random": torch.get_rng_state()}
    return {"epochs": trainer.state.epoch, **left}, diagnostics


def report_of(diagnostics: Diagnostics) -> dict[str, Any]:
    """The last report, but for what depends on the clock."""
    report = diagnostics.report
    assert report is not None
    return {
        field.name: repr(getattr(report, field.name)) for field in dataclasses.fields(report) if field.name != "cost"
    }


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    return bool(one == other)


SHARES = 16
"""Parts that the functions are dealt out to."""
MOST_LINES = 24
"""Of the log, for one function that fails: one for each site or layer of each of two handlers."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any], list[Target]]:
    """Of the training when nothing fails: what is left, the report, the functions of ours called after the set-up."""
    called: set[CodeType] = set()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        called.add(frame.f_code)

    try:
        result, diagnostics = training(tmp_path_factory.mktemp("undisturbed"), lambda: sys.setprofile(note))
    finally:
        sys.setprofile(None)
    return result, report_of(diagnostics), [target for target in targets() if target.code in called]


@pytest.mark.few(1)
@pytest.mark.parametrize("share", range(SHARES))
def test_no_failure_of_ours_is_felt_by_the_training(
    share: int, undisturbed: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever function of ours raises, training ends with the same bits, and the failure is said, but not often.

    Nothing of it is left behind: the next training is watched as if nothing had ever failed.
    """
    expected, report, called = undisturbed
    none = global_hooks()
    caplog.set_level(logging.WARNING, "ignite_act")
    wrong = []
    assert len(called) > 400
    for number, target in enumerate(called[share::SHARES]):
        caplog.clear()
        calls, over = [0], [False]

        def fail(*args: Any, calls: list[int] = calls, over: list[bool] = over, **kwargs: Any) -> Any:
            if over[0]:  # garbage that is collected later
                return None
            calls[0] += 1
            raise Injected("on purpose")

        def inject(target: Target = target, fail: Any = fail) -> None:
            for space, name, value in target.holders:
                put(space, name, like(value, fail))

        def restore(target: Target = target, over: list[bool] = over) -> None:
            over[0] = True
            for space, name, value in target.holders:
                put(space, name, value)

        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            result, diagnostics = training(folder, inject, restore)
        except Injected:
            result, diagnostics = {}, None
        told = "Injected" in caplog.text or "Injected" in str(diagnostics and diagnostics.coverage)
        if overrides._get_current_function_mode_stack():
            remove_function_mode(overrides._get_current_function_mode_stack()[0])
            wrong.append(f"{target.name} leaves a mode behind")
        if global_hooks() != none:
            del diagnostics  # with which they go, at the latest
            gc.collect()
        if global_hooks() != none:
            wrong.append(f"{target.name} leaves hooks behind")
            none = global_hooks()
        if not equal(result, expected):
            wrong.append(f"{target.name} is felt")
        elif calls[0] and not told:
            wrong.append(f"{target.name} fails and nothing is said")
        elif caplog.text.count("on purpose") > MOST_LINES:
            wrong.append(f"{target.name} is said {caplog.text.count('on purpose')} times")
    assert not wrong
    (tmp_path / "afterwards").mkdir()
    assert report_of(training(tmp_path / "afterwards", lambda: None)[1]) == report


def put(space: Any, name: str, value: Any) -> None:
    if isinstance(space, dict):
        space[name] = value
    else:
        setattr(space, name, value)


def like(value: Any, fail: Callable[..., Any]) -> Any:
    """Something that fails, of the same kind: a property, a class method, a plain function."""
    for kind in (staticmethod, classmethod, property):
        if isinstance(value, kind):
            return kind(fail)
    return property(fail) if hasattr(value, "func") and not callable(value) else fail


def test_hooks_are_registered_again_after_a_removal_that_failed() -> None:
    """Whatever fails while hooks are taken away, the next who asks for them gets them."""
    registered = []

    def remove() -> None:
        registered.pop()
        raise Injected("on purpose")

    def register() -> Callable[[], object]:
        registered.append("hooks")
        return remove

    holders = Holders(register)
    holder = Network()
    for _ in range(2):
        release = holders.hold(holder)
        assert registered
        with pytest.raises(Injected):
            release()
