"""What a GPU would refuse is seen without one, with tensors that stand in for those of a GPU.

They have a device and no values: mixing devices raises, and so does whatever the host would have to wait for.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from ignite_act import EpochRecorder, internals
from ignite_act.stats import Course, Distribution, Magnitude, SaturatedUnits, ShardedMagnitude, UnitLife, weights
from ignite_act.stats.base import Statistic
from ignite_act.stats.likelihood import Likelihood

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
STEPS = 34
"""More than any statistic keeps before it adds several steps at once."""

KEEPING = ("Course", "Magnitude", "ShardedMagnitude")
"""The statistics that do so."""


class Event:
    """Stands in for one of CUDA's: what it waits for never arrives."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def record(self, *_: Any) -> None:
        pass

    def query(self) -> bool:
        return False


@contextlib.contextmanager
def stand_in() -> Iterator[None]:
    """Makes every new tensor one without values, and lets the collectors read those."""
    unreadable = internals.why_unreadable
    with contextlib.ExitStack() as stack:
        for name, module in list(sys.modules.items()):
            if name.startswith("ignite_act.") and getattr(module, "why_unreadable", None) is unreadable:
                stack.enter_context(patch.object(module, "why_unreadable", lambda tensor: ""))
        magnitudes = sys.modules["ignite_act.stats.magnitude"]  # the package has a function of this name
        stack.enter_context(patch.object(magnitudes, "_PLAIN", (Tensor, FakeTensor)))
        stack.enter_context(patch.object(torch.cuda, "Event", Event))
        stack.enter_context(patch.object(torch.cuda, "current_stream", lambda device=None: None))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.callback(weights._probes.cache_clear)
        yield


class Attention(nn.Module):
    """Tokens, a norm, attention, two layers; one of its activations is a call of a function."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.tokens, self.norm = nn.Embedding(20, 16, device=device), nn.LayerNorm(16, device=device)
        self.qkv, self.out = nn.Linear(16, 48, device=device), nn.Linear(16, 16, device=device)
        self.act, self.head = nn.GELU(), nn.Linear(16, 4, device=device)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens)
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        x = x + self.act(self.out(F.scaled_dot_product_attention(q, k, v)))
        return self.head(F.relu(x).mean(1))


def mlp(device: torch.device) -> tuple[nn.Module, Tensor]:
    layers = [nn.Linear(8, 16, device=device), nn.ReLU(), nn.Linear(16, 16, device=device), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(16, 4, device=device)), torch.randn(32, 8, device=device)


def convolutional(device: torch.device) -> tuple[nn.Module, Tensor]:
    start = [nn.Conv2d(3, 8, 3, device=device), nn.BatchNorm2d(8, device=device), nn.SiLU()]
    end = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4, device=device)]
    return nn.Sequential(*start, *end), torch.randn(4, 3, 12, 12, device=device)


def attention(device: torch.device) -> tuple[nn.Module, Tensor]:
    return Attention(device), torch.randint(20, (4, 6), device=device)


Make = Callable[[torch.device], tuple[nn.Module, Tensor]]


def train(recorder: EpochRecorder, model: nn.Module, x: Tensor, losses: str = "tensors") -> None:
    """Steps without a backward, which the stand-ins cannot do: the gradients are put there."""
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
    target = torch.zeros(len(x), dtype=torch.long, device=next(reversed(list(model.parameters()))).device)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), target)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        recorder.record_loss(loss if losses == "tensors" else 0.5)


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("make", "losses"), [(mlp, "tensors"), (mlp, "numbers"), (convolutional, "tensors"), (attention, "tensors")]
)
def test_a_window_on_a_gpu(make: Make, losses: str, caplog: pytest.LogCaptureFixture) -> None:
    """Every collector measures all steps: no two devices meet, and no value is read."""
    with stand_in():
        model, x = make(GPU)
        with EpochRecorder(model, every=1) as recorder:
            train(recorder, model, x, losses)
            assert not caplog.messages


@pytest.mark.slow
def test_what_was_stored_goes_on_on_a_gpu(caplog: pytest.LogCaptureFixture) -> None:
    """A state is on the CPU; the window that goes on from it follows the model to the GPU."""
    model, x = mlp(CPU)
    with EpochRecorder(model, every=1) as recorder:
        train(recorder, model, x)
        state = recorder.state_dict()
    with stand_in():
        model, x = mlp(GPU)
        resumed = EpochRecorder(model, every=1)
        resumed.load_state_dict(state)
        with resumed:
            train(resumed, model, x)
            assert not caplog.messages


def outputs(device: torch.device) -> list[Tensor]:
    """Outputs and their gradient."""
    return [torch.randn(4, 5, device=device) for _ in range(2)]


UPDATES: dict[str, tuple[Callable[[torch.device], Statistic], Callable[[Any, torch.device], None]]] = {
    "Distribution": (
        lambda device: Distribution(device=device),
        lambda own, device: own.update(torch.randn(4, 3, device=device)),
    ),
    "Course": (lambda device: Course(device), lambda own, device: own.update(torch.randn((), device=device), 1)),
    "UnitLife": (
        lambda device: UnitLife(3, device=device),
        lambda own, device: own.update(torch.randn(4, 3, device=device), ((-1.0, 0.0),), 1),
    ),
    "SaturatedUnits": (
        lambda device: SaturatedUnits(3, device),
        lambda own, device: own.update(torch.randn(4, 3, device=device), ((-1.0, 0.0),), 1),
    ),
    "Magnitude": (
        lambda device: Magnitude(3, device),
        lambda own, device: own.update(torch.rand(3, device=device), torch.rand(3, device=device), 1),
    ),
    "ShardedMagnitude": (
        lambda device: ShardedMagnitude(3, device),
        lambda own, device: own.update(torch.rand(3, device=device), torch.rand(3, device=device), 1),
    ),
    "Likelihood": (lambda device: Likelihood(5), lambda own, device: own.update(*outputs(device), 20, (-1.0, 1.0))),
}


@pytest.mark.parametrize("name", UPDATES)
def test_a_statistic_follows_its_values(name: str) -> None:
    """What began on the CPU goes on on a GPU."""
    make, update = UPDATES[name]
    own = make(CPU)
    update(own, CPU)
    with stand_in():
        own.follow(GPU)
        for _ in range(STEPS if name in KEEPING else 2):
            update(own, GPU)
        assert {value.device for value in vars(own).values() if isinstance(value, Tensor)} == {GPU}


@pytest.mark.parametrize("name", [name for name in UPDATES if name not in ("Course", "Likelihood")])
def test_two_devices_do_not_meet(name: str) -> None:
    """They would be seen; a loss may come from anywhere, and what is known of it follows by itself."""
    make, update = UPDATES[name]
    with stand_in():
        own = make(GPU)

        def several() -> None:
            for _ in range(STEPS if name in KEEPING else 2):
                update(own, CPU)

        with pytest.raises(RuntimeError, match="device"):
            several()


def test_a_value_cannot_be_read() -> None:
    """The stand-ins see what they are for: this test tests the others."""
    with stand_in():
        number = torch.ones((), device=GPU)
        with pytest.raises(RuntimeError):
            number.item()
        with pytest.raises(RuntimeError):
            bool(number > 0)
