"""Whatever surrounds a forward, watching neither changes nor ends the training, and says what it missed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn, overrides
from torch.utils.checkpoint import checkpoint

from ignite_act import activations
from ignite_act.collect import ActivationCollector, DeadUnitCollector, GradientCollector

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


class Parts(nn.Module):
    """Two layers whose first part may be called in unusual ways."""

    def __init__(self, call: Callable[[nn.Module, Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(4, 5), nn.ReLU())
        self.last = nn.Linear(5, 3)
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        x = self.call(self.first, x) if self.call is not None else self.first(x)
        return self.last(F.gelu(x))


def gradients(model: nn.Module) -> list[Tensor]:
    """The gradients of one backward."""
    model.zero_grad()
    model(X).square().mean().backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


def assert_same_gradients(model: nn.Module) -> DeadUnitCollector:
    """Gradients are bit-identical with and without collectors; returns one after its window."""
    activations._saturated_intervals.cache_clear()
    expected = gradients(model)
    with ActivationCollector(model) as distribution, DeadUnitCollector(model) as dead, GradientCollector(model):
        watched = gradients(model)
        distribution.finish()
        dead.finish()
    assert all(torch.equal(*pair) for pair in zip(watched, expected, strict=True))
    return dead


@pytest.mark.filterwarnings("ignore:Using `torch.compile")
@pytest.mark.parametrize("when", ["before", "while"])
def test_a_compiled_part(when: str) -> None:
    """A submodule compiled before or during the window trains as ever and is listed as compiled."""
    torch._dynamo.reset()
    model = Parts()
    model.first = torch.compile(model.first, backend="aot_eager")
    if when == "before":
        model(X)
    dead = assert_same_gradients(model)
    assert dead.coverage.seen == ("gelu",)
    assert "torch.compile" in dead.coverage.unseen["first"]


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing(reentrant: bool) -> None:
    """What a checkpoint computes again in backward is not counted again."""
    model = Parts(lambda module, x: checkpoint(module, x, use_reentrant=reentrant))
    x = X.clone().requires_grad_()
    activations._saturated_intervals.cache_clear()
    with ActivationCollector(model) as distribution:
        model(x).sum().backward()
        rows = distribution.finish()
    assert {name: row["count"] for name, row in rows.items()} == {"first.1": 30, "gelu": 30}


def test_saturation_is_found_in_inference_mode() -> None:
    """Where a function saturates is found out whatever the mode of the forward that first asks."""
    activations._saturated_intervals.cache_clear()
    model = Parts()
    with torch.inference_mode(), ActivationCollector(model) as collector:
        model(X)
        row = collector.finish()["first.1"]
    assert row["saturated_fraction"] == row["zero_fraction"] > 0


def test_saturation_does_not_touch_the_random_state() -> None:
    """Making a module to look at its function draws no random numbers from the training's stream."""
    activations._saturated_intervals.cache_clear()
    model = nn.Sequential(nn.RReLU().eval())
    before = torch.get_rng_state()
    with ActivationCollector(model) as collector:
        model(X)
        collector.finish()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("registered", [True, False])
def test_a_frozen_encoder(registered: bool) -> None:
    """A frozen encoder in evaluation mode keeps torch's fused kernel, registered or not."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, activation="gelu", batch_first=True)
    encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).eval().requires_grad_(False)
    model = Parts(lambda module, x: module(encoder(x.view(6, 1, 4))[:, 0]))
    if registered:
        model.encoder = encoder
    dead = assert_same_gradients(model)
    assert dead.coverage.seen == ("first.1", "gelu")
    assert ("encoder.layers.0" in dead.coverage.unseen) == registered


def test_function_transforms() -> None:
    """Below torch.func.vmap a site is given up with the reason."""
    model = Parts()
    with DeadUnitCollector(model) as collector:
        torch.func.vmap(model)(X.view(3, 2, 4))
        assert collector.finish() == {}
    assert all("torch.func" in reason for reason in collector.coverage.unseen.values())


def test_a_function_that_has_no_hash() -> None:
    """A library may send any callable through torch's function modes: it is executed, and what failed is said."""

    @dataclass
    class Halved:  # instances are compared by value, so that they cannot be hashed
        factor: float = 0.5

        def __call__(self, x: Tensor) -> Tensor:
            if overrides.has_torch_function((x,)):
                return overrides.handle_torch_function(self, (x,), x)
            return x * self.factor

    dead = assert_same_gradients(Parts(lambda part, x: Halved()(part(x))))
    assert "TypeError: unhashable type: 'Halved'" in dead.coverage.unseen.values()


def test_an_interrupt_in_the_forward() -> None:
    """After Ctrl-C in a forward the next window begins afresh, and stopping leaves no mode behind."""

    def interrupt(module: nn.Module, x: Tensor) -> Tensor:
        raise KeyboardInterrupt

    model = Parts(interrupt)
    with DeadUnitCollector(model) as collector:
        with pytest.raises(KeyboardInterrupt):
            model(X)
        model.call = None
        model(X)
        assert list(collector.finish()) == ["first.1", "gelu"]
        model.call = interrupt
        with pytest.raises(KeyboardInterrupt):
            model(X)
        with torch.device("meta"):
            collector.stop()
            assert torch.empty(1).device.type == "meta"
    assert overrides._get_current_function_mode_stack() == []


def test_another_thread() -> None:
    """The same model in another thread meanwhile is left alone."""
    failures: list[BaseException] = []

    def elsewhere(module: nn.Module, x: Tensor) -> Tensor:
        def work() -> None:
            try:
                other(X)
            except BaseException as error:
                failures.append(error)

        other = module
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return module(x)

    model = Parts(elsewhere)
    with DeadUnitCollector(model) as collector:
        model(X)
        assert list(collector.finish()) == ["first.1", "gelu"]
    assert failures == []


def test_parts_called_many_times() -> None:
    """A part that is called by itself over and over is one site: the numbers do not grow with the calls."""
    model = Parts()
    with DeadUnitCollector(model) as collector:
        for _ in range(50):
            model.first(X)
        assert list(collector.finish()) == ["first.1"]


@pytest.mark.parametrize("turn", [lambda x: x.mT, lambda x: x.adjoint(), lambda x: x.transpose(1, 2)])
def test_a_transposed_convolution_output(turn: Callable[[Tensor], Tensor]) -> None:
    """Behind a transposition the channels are the last axis."""

    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(2, 7, 3)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(turn(self.conv(x)))

    model = Turned()
    with DeadUnitCollector(model) as collector:
        model(torch.randn(3, 2, 9))
        assert collector.finish()["relu"]["units"] == 7


def test_a_choice_that_fits_nothing_is_said() -> None:
    """A misspelt site or layer is in the coverage."""
    model = Parts()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with (
        DeadUnitCollector(model, sites=["gelu", "typo"]) as dead,
        GradientCollector(model, layers=["last", "typo*"]) as layers,
    ):
        gradients(model)
        optimizer.step()
        assert list(dead.finish()) == ["gelu"]
        assert list(layers.finish()) == ["last"]
    assert "typo" in dead.coverage.unseen
    assert "typo*" in layers.coverage.unseen


def test_a_restored_window_is_read_as_often_as_one_likes() -> None:
    """Asking for the state of a restored window does not count it twice."""
    model = Parts()
    with ActivationCollector(model) as first:
        model(X)
        state = first.state_dict()
    second = ActivationCollector(model)
    second.load_state_dict(state)
    with second:
        model(X)
        second.state_dict()
        second.state_dict()
        assert second.finish()["gelu"]["count"] == 60
