"""Compiled code is compiled as often as without us, trains the same, and is named in the coverage."""

from __future__ import annotations

import contextlib
import functools
import gc
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
import torch._dynamo
import torch.nn.functional as F
from ignite.engine import Engine, Events
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn.modules import module as torch_module

from ignite_act import DeadNeurons, Diagnostics, EpochRecorder
from ignite_act.testing import Batch, FunctionalMLP, SharedReLU, batches, global_hooks

# torch says so of its own accord: of global hooks, and of the gradients of what a compiled step reads.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Using `torch.compile"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor"),
]

Compile = Callable[..., Any]
Step = Callable[[Engine, Batch], float]


class Case(NamedTuple):
    """A training some of whose code is compiled."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    call: Callable[[Tensor], Tensor]
    step: Step


@pytest.fixture(autouse=True)
def dynamo() -> Iterator[None]:
    """Every test begins and ends with nothing compiled."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def whole_model(case: Case, compiled: Compile) -> Case:
    return with_call(case, compiled(case.model))


def in_place(case: Case, compiled: Compile) -> Case:
    case.model.forward = compiled(case.model.forward)
    return case


def a_part(case: Case, compiled: Compile) -> Case:
    case.model.fc2 = compiled(case.model.fc2)
    return case


def own_method(case: Case, compiled: Compile) -> Case:
    case.model.compile(backend=compiled.keywords["backend"])
    return case


def a_function_around_it(case: Case, compiled: Compile) -> Case:
    return with_call(case, compiled(lambda x: case.model(x)))


def the_loss(case: Case, compiled: Compile) -> Case:
    def loss(value: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(value, y)  # torch 2.10 does not compile a function of its own

    return with_call(case, case.model, loss=compiled(loss))


def the_optimizer(case: Case, compiled: Compile) -> Case:
    return with_call(case, case.model, update=compiled(case.optimizer.step))


def model_and_optimizer(case: Case, compiled: Compile) -> Case:
    return with_call(case, compiled(case.model), update=compiled(case.optimizer.step))


def model_and_loss(case: Case, compiled: Compile) -> Case:
    both = compiled(lambda x, y: F.cross_entropy(case.model(x), y))
    return with_call(case, lambda x: x, loss=both)


def the_whole_step(case: Case, compiled: Compile) -> Case:
    @compiled
    def work(x: Tensor, y: Tensor) -> Tensor:
        case.optimizer.zero_grad()
        loss = F.cross_entropy(case.model(x), y)
        loss.backward()
        case.optimizer.step()
        return loss.detach()

    return case._replace(step=lambda engine, batch: work(*batch).item())


def with_call(case: Case, call: Any, *, loss: Any = F.cross_entropy, update: Any = None) -> Case:
    def step(engine: Engine, batch: Batch) -> float:
        case.model.train()
        case.optimizer.zero_grad()
        value = loss(call(batch[0]), batch[1])
        value.backward()
        (update or case.optimizer.step)()
        return value.item()

    return case._replace(call=call, step=step)


WAYS = [whole_model, in_place, own_method, a_part, a_function_around_it, the_loss]
WAYS += [the_optimizer, model_and_optimizer, model_and_loss, the_whole_step]


def make(way: Callable[[Case, Compile], Case], backend: str = "eager", kind: type[nn.Module] = FunctionalMLP) -> Case:
    torch.manual_seed(0)
    model = kind()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    case = with_call(Case(model, optimizer, model, lambda engine, batch: 0.0), model)
    return way(case, functools.partial(torch.compile, backend=backend))


def train(case: Case, during: str = "", watch: Callable[[Engine, Case], Any] = lambda trainer, case: None) -> int:
    """Trains the case; returns how many graphs were compiled."""
    torch._dynamo.reset()
    counters.clear()
    trainer = Engine(case.step)
    data, runs = batches(3), 1

    @torch.no_grad()
    def evaluate(engine: Engine) -> None:
        case.model.eval()
        case.call(data[0][0])

    def fail(engine: Engine) -> None:
        raise KeyError

    if during == "evaluation":
        trainer.add_event_handler(Events.EPOCH_COMPLETED, evaluate)
    elif during == "evaluation in the epoch":
        trainer.add_event_handler(Events.ITERATION_COMPLETED, evaluate)
    elif during == "cut short":
        trainer.add_event_handler(Events.ITERATION_COMPLETED(every=2), lambda engine: engine.terminate_epoch())
    elif during == "interrupted":
        trainer.add_event_handler(Events.ITERATION_COMPLETED(every=4), lambda engine: engine.interrupt())
        runs = 3
    elif during == "broken off":
        trainer.add_event_handler(Events.ITERATION_COMPLETED(once=4), fail)
        runs = 2
    elif during == "several runs":
        runs = 3
    watch(trainer, case)
    for _ in range(runs):
        with contextlib.suppress(KeyError):
            trainer.run(data, max_epochs=5)
    if during == "evaluation afterwards":
        evaluate(trainer)
    return int(counters["stats"]["unique_graphs"])


def weights(model: nn.Module) -> list[Tensor]:
    return [parameter.detach() for parameter in model.parameters()]


def equal(first: nn.Module, second: nn.Module) -> bool:
    return all(torch.equal(*pair) for pair in zip(weights(first), weights(second), strict=True))


def left_behind(case: Case) -> list[object]:
    """Every hook in torch's tables, on the modules, the parameters and the optimizer."""
    gc.collect()
    found = [*global_hooks(), *torch_module._global_forward_hooks_with_kwargs]
    for module in case.model.modules():
        found += [*module._forward_hooks, *module._forward_pre_hooks, *module._backward_hooks]
    for parameter in case.model.parameters():
        found += [*(parameter._backward_hooks or {}), *(parameter._post_accumulate_grad_hooks or {})]
    return [*found, *case.optimizer._optimizer_step_pre_hooks, *case.optimizer._optimizer_step_post_hooks]


@pytest.mark.few(1)
@pytest.mark.parametrize("way", WAYS)
def test_as_many_graphs_and_the_same_weights(way: Any) -> None:
    """Watching compiles nothing anew and changes no bit, whatever is compiled."""
    plain, watched = make(way), make(way)
    expected = train(plain)
    assert expected >= 1
    assert (
        train(watched, watch=lambda trainer, case: Diagnostics(case.model, case.optimizer).attach(trainer)) == expected
    )
    assert equal(plain.model, watched.model)
    assert left_behind(watched) == []


DURING = ["evaluation", "interrupted", "evaluation in the epoch", "evaluation afterwards", "cut short", "broken off"]
DURING += ["several runs"]


@pytest.mark.few(1)
@pytest.mark.parametrize("during", DURING)
@pytest.mark.parametrize("way", [whole_model, a_part])
def test_whatever_happens_to_the_run(way: Any, during: str) -> None:
    """Evaluations, cut windows, interrupts, exceptions and further runs cost no graph more than without us."""
    plain, watched = make(way), make(way)
    expected = train(plain, during)

    def watch(trainer: Engine, case: Case) -> None:
        Diagnostics(case.model, case.optimizer).attach(trainer)

    assert train(watched, during, watch) == expected
    assert equal(plain.model, watched.model)
    assert left_behind(watched) == []


def test_training_goes_on_unwatched() -> None:
    """When the hooks are gone, the code that ran below them is compiled once more: one graph, and no further one."""
    case = make(whole_model)
    with EpochRecorder(case.model):
        case.step(Engine(case.step), batches(1)[0])
    before = counters["stats"]["unique_graphs"]
    for batch in batches(3):
        case.step(Engine(case.step), batch)
    assert counters["stats"]["unique_graphs"] <= before + 1


@pytest.mark.slow
@pytest.mark.parametrize("way", [whole_model, a_part])
def test_behind_aot_autograd(way: Any) -> None:
    """With the backend that traces backward, too, nothing is compiled anew and no bit changes."""
    plain, watched = make(way, "aot_eager"), make(way, "aot_eager")
    expected = train(plain, "evaluation")

    def watch(trainer: Engine, case: Case) -> None:
        Diagnostics(case.model).attach(trainer)

    assert train(watched, "evaluation", watch) == expected
    assert equal(plain.model, watched.model)


def test_several_handlers_at_once() -> None:
    """Two handlers, one of which is taken away in between, cost no graph more."""
    plain, watched = make(whole_model), make(whole_model)
    expected = train(plain)

    def watch(trainer: Engine, case: Case) -> None:
        Diagnostics(case.model).attach(trainer)
        other = DeadNeurons(case.model).attach(trainer, "others")
        trainer.add_event_handler(Events.EPOCH_COMPLETED(once=2), lambda engine: other.detach())

    assert train(watched, watch=watch) == expected
    assert equal(plain.model, watched.model)
    assert left_behind(watched) == []


BLIND = {
    whole_model: {"activations", "dead_neurons", "signal"},
    in_place: set(),  # modules are called as ever, and functions are seen in it
    own_method: {"activations", "dead_neurons", "signal", "output"},
    a_part: {"signal"},
    a_function_around_it: {"activations", "dead_neurons", "signal", "output"},
    the_loss: set(),
    the_optimizer: {"gradients"},
    model_and_optimizer: {"gradients", "activations", "dead_neurons", "signal"},
    model_and_loss: {"activations", "dead_neurons", "signal", "output"},
    the_whole_step: {"gradients", "activations", "dead_neurons", "signal", "output"},
}


@pytest.mark.few(3)
@pytest.mark.parametrize("kind", [FunctionalMLP, SharedReLU])
@pytest.mark.parametrize("way", WAYS)
def test_what_is_compiled_is_said(way: Any, kind: type[nn.Module]) -> None:
    """Of everything that compiled code hides, the coverage says so in one line, functional calls included."""
    if kind is SharedReLU and way is a_part:
        pytest.skip("it has no part of that name")
    found: list[Diagnostics] = []
    train(make(way, kind=kind), watch=lambda trainer, case: found.append(Diagnostics(case.model).attach(trainer)))
    coverage = found[0].coverage
    said = {name for name, item in coverage.items() if any("compiled" in reason for reason in item.unseen.values())}
    assert BLIND[way] <= said
    if "gradients" in BLIND[way]:
        assert all("compiled" in reason for reason in coverage["gradients"].unseen.values())
        assert found[0].report is not None
        assert not any(finding.kind in ("never_updated", "no_gradient") for finding in found[0].all_findings)
    assert all(
        "\n" not in reason and len(reason) < 250 for item in coverage.values() for reason in item.unseen.values()
    )


class Image(nn.Module):
    """Returns its parameter: an image that is optimised."""

    def __init__(self) -> None:
        super().__init__()
        self.pixels = nn.Parameter(torch.rand(1, 3, 8, 8))

    def forward(self) -> Tensor:
        return self.pixels


@pytest.mark.few(1)
@pytest.mark.parametrize("end", ["stop", "exception", "garbage"])
def test_nothing_stays_on_a_leaf(end: str) -> None:
    """A parameter that is the model's output bears no hook after watching, however it ends, and no growing number."""
    model = Image()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    case = Case(model, optimizer, model, lambda engine, batch: 0.0)
    recorder = EpochRecorder(model)
    sizes = []
    with contextlib.suppress(KeyError):
        recorder.start()
        for _ in range(3):
            for _ in range(20):
                optimizer.zero_grad()
                model().square().mean().backward()
                optimizer.step()
            recorder.finish()
            sizes.append(len(model.pixels._backward_hooks or {}))
        if end == "exception":
            with recorder:
                raise KeyError
    if end == "stop":
        recorder.stop()
    del recorder
    gc.collect()
    assert max(sizes) <= 1
    assert left_behind(case) == []


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("part", [False, True])
def test_a_model_of_torchscript_is_watched(part: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing fails, be it the model or a part of it: its layers are measured, and what cannot be seen is listed."""
    torch.manual_seed(0)
    scripted: nn.Module = torch.jit.script(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)))
    model = nn.Sequential(nn.Linear(4, 4), scripted) if part else scripted
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with EpochRecorder(model, optimizer, every=1) as recorder:
        for x, y in batches():
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        report = recorder.finish()
    assert len(report.gradients) == len(report.updates) == (3 if part else 2)
    assert "TorchScript" in str(report.coverage["activations"]["unseen"])
    assert "Error" not in str(report.coverage) + caplog.text
