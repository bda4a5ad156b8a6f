"""Forwards that are not simply ``model(x)``, and graphs that are recorded."""

from __future__ import annotations

import gc
import threading
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from ignite.engine import Engine, Events
from torch import Tensor, nn, overrides
from torch.fx.experimental.proxy_tensor import make_fx

from ignite_act import EpochRecorder, GradientStats
from ignite_act.collect import ActivationCollector, DeadUnitCollector
from ignite_act.testing import global_hooks


class Methods(nn.Module):
    """Has its own forward, and a method that people call instead."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.relu = nn.Linear(4, 6), nn.Linear(6, 6), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.encode(x))

    def encode(self, x: Tensor) -> Tensor:
        return self.relu(self.second(self.relu(self.first(x))))


def test_parts_called_outside_the_forward_are_said() -> None:
    """What ``model.encode(x)`` calls is not seen as one forward: the coverage says so; through ``model(x)`` it is."""
    model = Methods()
    with DeadUnitCollector(model) as collector:
        model.encode(torch.randn(3, 4))
        collector.finish()
        assert "function calls between them are not seen" in collector.coverage.unseen["Methods outside its forward"]
        model(torch.randn(3, 4))
        assert list(collector.finish()) == ["relu", "relu#2", "silu"]
        assert collector.coverage.unseen == {}


def test_the_models_of_a_container_are_called_by_themselves() -> None:
    """The parts of a ``ModuleDict`` that holds several models are forwards of their own."""
    parts = nn.ModuleDict({"one": nn.Sequential(nn.Linear(2, 2), nn.ReLU()), "two": nn.Sequential(nn.ReLU())})
    with DeadUnitCollector(parts) as collector:
        parts["two"](parts["one"](torch.randn(3, 2)))
        assert list(collector.finish()) == ["one.1", "two.0"]
        assert collector.coverage.unseen == {}


class LayerNorm2d(nn.LayerNorm):
    """As in ConvNeXt: channels go to the last axis and back."""

    def __init__(self, channels: int, way: str) -> None:
        super().__init__(channels)
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "permute":
            return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        if self.way == "movedim":
            return super().forward(torch.movedim(x, 1, -1)).movedim(-1, 1)
        return super().forward(x.transpose(1, 3)).transpose(1, -1)


@pytest.mark.parametrize("way", ["permute", "movedim", "transpose"])
def test_channels_are_followed_through_permutations(way: str) -> None:
    """A channel stays a unit when its axis is moved away and back."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), LayerNorm2d(16, way), nn.ReLU())
    with torch.no_grad():
        model[1].bias[:4] = -100.0
    x = torch.randn(2, 3, 12, 10)
    with DeadUnitCollector(model) as collector:
        y = model(x)
        row = collector.finish()["2"]
    assert row["units"] == 16
    assert row["indices"] == (y.amax((0, 2, 3)) == 0).nonzero().flatten().tolist() == [0, 1, 2, 3]


def test_channels_are_followed_through_keywords() -> None:
    """``torch.cat(tensors=...)`` and ``torch.add(input=...)`` hand the axis on like their positional forms."""

    class Keywords(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)

        def forward(self, x: Tensor) -> Tensor:
            z = self.conv(x)
            return F.relu(torch.cat(tensors=[torch.add(input=z, other=1.0), z], dim=1))

    model = Keywords()
    with DeadUnitCollector(model) as collector:
        model(torch.randn(2, 3, 9, 9))
        assert collector.finish()["relu"]["units"] == 16


@pytest.mark.parametrize("how", ["jit", "make_fx"])
def test_a_graph_can_be_recorded_in_an_open_window(how: str) -> None:
    """Tracing a watched model gives what it gives without watching, and counts nothing."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    x = torch.randn(5, 3)

    def record() -> list[str]:
        if how == "jit":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it is on its way out
                graph = torch.jit.trace(model, x, check_trace=False).inlined_graph
                return [node.kind() for node in graph.nodes()]
        return [str(node) for node in make_fx(model)(x).graph.nodes]

    expected = record()
    with EpochRecorder(model, every=1) as recorder:
        assert record() == expected
        assert recorder.finish().activations == {}


class Recursive(nn.Module):
    """Calls itself on half of the batch (test-time augmentation, trees)."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.relu = nn.Linear(4, 4), nn.ReLU()

    def forward(self, x: Tensor, depth: int = 1) -> Tensor:
        y = self.relu(self.layer(x))
        if depth:
            y = y + self(x, depth - 1)
        return torch.sigmoid(y)


def test_a_model_that_calls_itself() -> None:
    """The inner call is part of the outer forward, of which nothing is lost."""
    model, x = Recursive(), torch.randn(3, 4)
    with ActivationCollector(model) as collector:
        model(x)
        rows = collector.finish()
    assert sum(row["count"] for name, row in rows.items() if name.startswith("relu")) == 2 * 12
    assert sum(row["count"] for name, row in rows.items() if name.startswith("sigmoid")) == 2 * 12


def test_modules_that_are_put_into_the_model_later() -> None:
    """A module that replaces another between two windows, or appears within one, is known by its name."""
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU())
    with DeadUnitCollector(model) as collector:
        model(torch.randn(2, 4))
        assert list(collector.finish()) == ["1"]
        for _ in range(20):  # some get the address of one that is gone
            model[1] = nn.Tanh()
            model(torch.randn(2, 4))
            model[1] = nn.ReLU()
            model(torch.randn(2, 4))
        rows = collector.finish()
        assert list(rows) == ["1", *(f"1#{number}" for number in range(2, 41))]
        model[1] = nn.Tanh()
        model.append(nn.Sequential(nn.Linear(6, 5), nn.GELU()))
        model(torch.randn(2, 4))
        model.append(nn.ELU())
        model(torch.randn(2, 4))
        assert list(collector.finish()) == ["1", "2.1", "3"]
        assert collector.coverage.unseen == {}


class Varying(nn.Module):
    """Has another number of units in every call."""

    def forward(self, x: Tensor, units: int) -> Tensor:
        return F.relu(x[:, :units])


@pytest.mark.parametrize("when", ["before the save", "after the restore"])
def test_a_site_that_was_given_up_stays_so_in_a_restored_window(when: str) -> None:
    """A part of a window is never published as the whole."""
    model, x = Varying(), torch.randn(3, 8)
    with DeadUnitCollector(model) as collector:
        model(x, 6)
        if when == "before the save":
            model(x, 5)
        state = collector.state_dict()
    with DeadUnitCollector(model) as restored:
        restored.stop()
        restored.load_state_dict(state)
        restored.start()
        model(x, 6 if when == "before the save" else 5)
        model(x, 5 if when != "before the save" else 6)
        model(x, 6)
        assert restored.finish() == {}
        assert "measuring it failed" in restored.coverage.unseen["relu"]


def test_a_window_of_evaluation_that_was_restored_gives_way_to_training() -> None:
    """Forwards in training mode drop what a restored window has of evaluation."""
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU())
    with ActivationCollector(model) as collector:
        model.eval()(torch.randn(8, 4))
        state = collector.state_dict()
    collector.load_state_dict(state)
    with collector:
        model.train()(torch.randn(3, 4))
        assert collector.finish()["1"]["count"] == 18


def test_hooks_go_with_a_recorder_that_is_dropped() -> None:
    """Deleting an open recorder, or the trainer of a run that was interrupted, takes the hooks away."""
    assert global_hooks() == []
    parts = nn.ModuleDict({"one": nn.Sequential(nn.Linear(2, 2), nn.ReLU())})
    recorder = EpochRecorder(parts)
    recorder.start()
    container = weakref.ref(parts)
    del recorder, parts
    gc.collect()
    assert container() is None
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    trainer = Engine(lambda engine, batch: model(torch.randn(2, 2)))
    recorder_of_trainer = GradientStats(model).attach(trainer)
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=1), trainer.interrupt)
    trainer.run(range(3))
    del trainer, recorder_of_trainer
    gc.collect()
    assert global_hooks() == []


def test_a_frozen_attention_with_something_trainable_inside_is_not_changed() -> None:
    """torch looks at the attention's own parameters alone before it fuses: so must we, or its output changes."""

    class Adapted(nn.MultiheadAttention):
        def __init__(self) -> None:
            super().__init__(16, 2, batch_first=True)
            self.requires_grad_(False)
            self.adapter = nn.Parameter(torch.zeros(16, 16))

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = Adapted()

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x, x, x, need_weights=False)[0] + x @ self.attention.adapter

    torch.manual_seed(0)
    model, x = Block().eval(), torch.randn(4, 7, 16)
    expected = model(x)
    with ActivationCollector(model):
        assert torch.equal(model(x), expected)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_result_written_into_the_input_is_judged_by_the_input(mode: Any) -> None:
    """``torch.sigmoid(x, out=x)`` is in place, whatever the mode."""

    class Out(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sigmoid(x, out=x)

    model, x = Out(), torch.tensor([[-9.0, 0.0, 9.0, 1.0]])
    with mode(), ActivationCollector(model) as collector:
        model(x.clone())
        assert collector.finish()["sigmoid"]["saturated_fraction"] == 0.5


class Waits(nn.Module):
    """A ReLU whose forward in the main thread lasts until another thread has done its part."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.done = threading.Event(), threading.Event()

    def forward(self, x: Tensor) -> Tensor:
        if threading.current_thread() is threading.main_thread():
            self.inside.set()
            assert self.done.wait(10)
        return F.relu(x)

    def forward_beside(self, other: Callable[[], object]) -> None:
        """One forward of this model, with a call in another thread in the middle of it."""

        def work() -> None:
            self.inside.wait(10)
            other()
            self.done.set()

        thread = threading.Thread(target=work)
        thread.start()
        self(torch.ones(2, 2))
        thread.join()


def test_forwards_in_two_threads_at_once_are_said() -> None:
    """What a second thread computes meanwhile is not measured, and the coverage says so."""
    model = Waits()
    with ActivationCollector(model) as collector:
        model.forward_beside(lambda: model(torch.ones(2, 2)))
        assert collector.finish()["relu"]["count"] == 4
        assert "forwards in other threads" in collector.coverage.unseen


def test_another_models_fused_layer_in_another_thread() -> None:
    """What a second thread computes with another model does not touch the forward that is being measured."""
    foreign = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()

    def other() -> None:
        with torch.no_grad():
            foreign(torch.ones(2, 3, 8))

    model = Waits()
    with ActivationCollector(model) as collector:
        model.forward_beside(other)
        assert collector.finish()["relu"]["count"] == 4
        assert collector.coverage.unseen == {}
    assert overrides._get_current_function_mode_stack() == []


BY_HAND = {
    "x.clamp(min=0)": lambda x: x.clamp(min=0),
    "x.clamp(0, 6)": lambda x: x.clamp(0, 6),
    "torch.clamp_min(x, 0.0)": lambda x: torch.clamp_min(x, 0.0),
    "x.clip_(0)": lambda x: (x + 0).clip_(0),
    "F.glu": lambda x: F.glu(x, -1),
}
NUMERICS = {"x.clamp(min=1e-6)": lambda x: x.clamp(min=1e-6), "x.clamp(max=1)": lambda x: x.clamp(max=1.0)}


class Calls(nn.Module):
    """Calls one function in its forward."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize("call", {**BY_HAND, **NUMERICS})
def test_an_activation_by_hand_is_said(call: str) -> None:
    """A ReLU written as a clamp, and a functional gate, are listed as not measured; other clamps are no business."""
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), Calls({**BY_HAND, **NUMERICS}[call]))
    with DeadUnitCollector(model) as collector:
        model(torch.randn(2, 4))
        assert list(collector.finish()) == ["1"]
    assert [name.split(".")[0] for name in collector.coverage.unseen] == (["2"] if call in BY_HAND else [])


def test_an_activation_by_hand_that_is_chosen_is_no_longer_said() -> None:
    """Chosen as one site, the module is measured, and nothing is left to say."""
    model = nn.Sequential(nn.Linear(4, 6), Calls(lambda x: x.clamp(min=0)))
    with DeadUnitCollector(model, sites=[Calls]) as collector:
        model(torch.randn(2, 4))
        assert list(collector.finish()) == ["1"]
    assert collector.coverage.unseen == {}
