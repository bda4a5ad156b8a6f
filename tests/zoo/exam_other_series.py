"""Series, recurrences and differential equations in the exam half of the real part of the zoo."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

from zoo.base import Case, Run
from zoo.real_base import Shuffled, faulty, fit, healthy, mean_over

Tensors = tuple[Tensor, ...]


def waves(seed: int, n: int, length: int = 48) -> Tensor:
    """Series of a season, a trend and noise."""
    random = torch.Generator().manual_seed(seed)
    phase, period, slope, size = torch.rand(4, n, 1, generator=random)
    time = torch.arange(length)
    season = (0.5 + size) * torch.sin(2 * math.pi * (time / (8 + 8 * period) + phase))
    return season + (slope - 0.5) * time / 16 + 0.1 * torch.randn(n, length, generator=random)


class WaveBlock(nn.Module):
    """A dilated convolution into the past with a gate."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.conv, self.mix = nn.Conv1d(width, 2 * width, 2, dilation=dilation), nn.Conv1d(width, width, 1)
        self.value, self.gate = nn.Tanh(), nn.Sigmoid()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The series for the next block, and what this one contributes."""
        value, gate = self.conv(F.pad(x, (self.dilation, 0))).chunk(2, 1)
        out = self.mix(self.value(value) * self.gate(gate))
        return x + out, out


class WaveNet(nn.Module):
    """Dilated convolutions that foretell the class of a series' next value."""

    def __init__(self, classes: int, width: int = 16) -> None:
        super().__init__()
        self.enter = nn.Conv1d(1, width, 1)
        self.blocks = nn.ModuleList([WaveBlock(width, 2**index) for index in range(4)])
        self.leave = nn.Sequential(nn.ReLU(), nn.Conv1d(width, width, 1), nn.ReLU(), nn.Conv1d(width, classes, 1))

    def forward(self, series: Tensor) -> Tensor:
        """Logits of the classes at every place."""
        x, total = self.enter(series[:, None]), torch.zeros(())
        for block in self.blocks:
            x, out = block(x)
            total = total + out
        return self.leave(total)


def class_loss(model: nn.Module, batch: Tensors) -> Tensor:
    """The cross-entropy of the class of every next value."""
    series, classes = batch
    return F.cross_entropy(model(series[:, :-1]), classes[:, 1:])


def wavenet(seed: int, mistake: str = "") -> Run:
    """A network of dilated convolutions on values in sixteen classes."""
    parts = []
    for index, n in enumerate((480, 96)):
        series = waves(2 * seed + index, n)
        classes = ((series.clamp(-2, 2) + 2) * 3.99).long()
        if mistake == "raw":
            series = 500 * series + 20000
        if mistake == "scaled_by_own_deviation":
            series[::40] = 0.25  # sensors that were off, as they are in many collections
            series = (series - series.mean(1, keepdim=True)) / series.std(1, keepdim=True)
        parts.append((series, classes))
    training = Shuffled(*parts[0], size=24, seed=seed)
    validation = Shuffled(*parts[1], size=32, seed=seed, shuffle=False)
    model = WaveNet(16)
    if mistake == "large_kernels":
        for block in model.blocks:
            nn.init.normal_(block.get_parameter("conv.weight"), std=60.0)
    optimizer = Adam(model.parameters(), lr=5e-3)
    return fit(model, optimizer, class_loss, training, validation=validation)


class Stack(nn.Module):
    """A block that explains a part of the past and foretells its future."""

    def __init__(self, past: int, future: int, width: int, act: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(past, width), act(), nn.Linear(width, width), act(), nn.Linear(width, width), act()
        )
        self.back, self.ahead = nn.Linear(width, past), nn.Linear(width, future)

    def forward(self, past: Tensor) -> tuple[Tensor, Tensor]:
        """What is left of the past, and the future."""
        x = self.layers(past)
        return past - self.back(x), self.ahead(x)


class Forecaster(nn.Module):
    """Blocks that each explain what those before have left, in the style of N-BEATS."""

    def __init__(
        self, past: int, future: int, act: Callable[[], nn.Module] = nn.ReLU, width: int = 48, depth: int = 3
    ) -> None:
        super().__init__()
        self.stacks = nn.ModuleList([Stack(past, future, width, act) for _ in range(depth)])

    def forward(self, past: Tensor) -> Tensor:
        """The future: the sum over the blocks."""
        total = torch.zeros(())
        for stack in self.stacks:
            past, ahead = stack(past)
            total = total + ahead
        return total


def ahead_loss(model: nn.Module, batch: Tensors) -> Tensor:
    """The mean error of a forecast, without its sign."""
    past, future = batch
    return F.l1_loss(model(past), future)


def forecaster(seed: int, mistake: str = "") -> Run:
    """A forecaster with clipped gradients and a cosine."""
    scale, offset = (8e3, 5e4) if mistake == "raw_units" else (1.0, 0.0)
    series, other = (scale * waves(2 * seed + index, n, 40) + offset for index, n in enumerate((640, 128)))
    training = Shuffled(series[:, :32], series[:, 32:], size=32, seed=seed)
    validation = Shuffled(other[:, :32], other[:, 32:], size=32, seed=seed, shuffle=False)
    model = Forecaster(32, 8, partial(nn.Softmax, -1) if mistake == "softmax" else nn.ReLU)
    if mistake == "constant_init":
        for weight in model.parameters():
            nn.init.constant_(weight, 0.01)
    if mistake == "negative_biases":
        for stack in model.stacks:
            nn.init.constant_(stack.get_parameter("layers.2.bias"), -5.0)
    optimizer = Adam(model.parameters(), lr=3e-3)

    def scaled_error() -> float:
        """Minus the error in units of the series' spread."""
        return -mean_over(model, ahead_loss, validation) / scale

    return fit(
        model,
        optimizer,
        ahead_loss,
        training,
        validation=validation,
        clip=1.0,
        schedule=CosineAnnealingLR(optimizer, 6 * len(training)),
        score=scaled_error,
    )


class StateSpace(nn.Module):
    """A recurrence of its own decay for each state, in front of a gate and a head."""

    def __init__(self, inputs: int, states: int, outputs: int, sign: float = -1.0) -> None:
        super().__init__()
        self.rate, self.sign = nn.Parameter(torch.linspace(-7.0, -0.7, states)), sign
        self.enter, self.gate = nn.Linear(inputs, states), nn.Linear(inputs, states)
        self.head = nn.Sequential(nn.Linear(states, states), nn.SiLU(), nn.Linear(states, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """The head on the last state."""
        entering = self.enter(x) * self.gate(x).sigmoid()
        state = torch.zeros_like(entering[:, 0])
        keep = (self.sign * self.rate.exp()).exp()
        for step in range(x.shape[1]):
            state = keep * state + entering[:, step]
        return self.head(state)


def sums(seed: int, n: int, length: int = 30) -> Tensors:
    """Numbers of which two are marked, and the sum of these."""
    random = torch.Generator().manual_seed(seed)
    values = torch.rand(n, length, generator=random) * 2 - 1
    marks = torch.zeros(n, length)
    marks[torch.arange(n), torch.randint(length // 2, (n,), generator=random)] = 1
    marks[torch.arange(n), length // 2 + torch.randint(length // 2, (n,), generator=random)] = 1
    return torch.stack([values, marks], -1), (values * marks).sum(1, keepdim=True)


def square_loss(model: nn.Module, batch: Tensors) -> Tensor:
    """The mean square of the error."""
    x, y = batch
    return F.mse_loss(model(x), y)


def state_space(seed: int, mistake: str = "") -> Run:
    """A recurrence by hand that adds marked numbers, which it long does not understand."""
    x, y = sums(2 * seed, 800)
    training = Shuffled(x, y.squeeze(1) if mistake == "flat_targets" else y, size=32, seed=seed)
    validation = Shuffled(*sums(2 * seed + 1, 160), size=32, seed=seed, shuffle=False)
    model = StateSpace(2, 24, 1, sign=1.0 if mistake == "growing" else -1.0)
    optimizer = Adam(model.parameters(), lr=4e-3)
    return fit(
        model,
        optimizer,
        square_loss,
        training,
        validation=validation,
        clip=1.0,
        score=lambda: -mean_over(model, square_loss, validation),
    )


class Flow(nn.Module):
    """A differential equation whose change is a network, solved by steps of Euler."""

    def __init__(self, width: int = 32, last: float = 2.0) -> None:
        super().__init__()
        self.change = nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 2))
        self.steps, self.last = 20, last

    def forward(self, x: Tensor) -> Tensor:
        """The states behind every fifth step."""
        states = []
        for step in range(self.steps):
            x = x + self.last / self.steps * self.change(x)
            if step % 5 == 4:
                states.append(x)
        return torch.stack(states, 1)


def spirals(seed: int, n: int) -> Tensors:
    """Points, and where a damped turn of uneven speed takes them by four times."""
    random = torch.Generator().manual_seed(seed)
    start = torch.randn(n, 2, generator=random)
    x, states = start, []
    for step in range(200):
        speed = 0.5 + x.pow(2).sum(1, keepdim=True).clamp(max=4) / 4
        x = x + 0.01 * speed * (x @ torch.tensor([[-0.2, -1.0], [1.0, -0.2]]))
        if step % 50 == 49:
            states.append(x)
    return start, torch.stack(states, 1)


def differential(seed: int, mistake: str = "") -> Run:
    """A differential equation fitted to spirals, with a short memory of gradients."""
    start, states = spirals(2 * seed, 640)
    training = Shuffled(start, states, size=32, seed=seed)
    validation = Shuffled(*spirals(2 * seed + 1, 160), size=32, seed=seed, shuffle=False)
    model = Flow(last=200.0 if mistake == "long_time" else 2.0)
    optimizer = Adam(model.parameters(), lr=1.0 if mistake == "large_rate" else 1e-2, betas=(0.8, 0.99))
    return fit(
        model,
        optimizer,
        square_loss,
        training,
        validation=validation,
        score=lambda: -mean_over(model, square_loss, validation),
    )


CASES: tuple[Case, ...] = (
    healthy("x_wavenet", wavenet, epochs=4),
    faulty("x_wavenet", "raw", "input_scale", partial(wavenet, mistake="raw"), "saturated_units", epochs=4),
    faulty("x_wavenet", "own_deviation", "nonfinite", partial(wavenet, mistake="scaled_by_own_deviation"), epochs=4),
    faulty(
        "x_wavenet",
        "large_kernels",
        "saturated_units",
        partial(wavenet, mistake="large_kernels"),
        layers=("blocks.*",),
        epochs=4,
    ),
    healthy("x_forecaster", forecaster, epochs=6),
    faulty(
        "x_forecaster", "raw_units", "input_scale", partial(forecaster, mistake="raw_units"), "initial_loss", epochs=6
    ),
    faulty("x_forecaster", "constant_init", "symmetry", partial(forecaster, mistake="constant_init"), epochs=6),
    faulty(
        "x_forecaster",
        "negative_biases",
        "dead_units",
        partial(forecaster, mistake="negative_biases"),
        "no_gradient",
        "constant_output",
        layers=("stacks.*.layers.3", "stacks.*.layers.2", "stacks.*.layers.*"),
        epochs=6,
    ),
    faulty(
        "x_forecaster",
        "softmax",
        "hidden_softmax",
        partial(forecaster, mistake="softmax"),
        layers=("stacks.*.layers.*",),
        epochs=6,
    ),
    healthy("x_state_space", state_space, epochs=6),
    faulty(
        "x_state_space",
        "flat_targets",
        "labels_mismatch",
        partial(state_space, mistake="flat_targets"),
        "plateau",
        epochs=6,
    ),
    faulty(
        "x_state_space",
        "growing",
        "exploding",
        partial(state_space, mistake="growing"),
        "initial_loss",
        "nonfinite",
        epochs=6,
    ),
    healthy("x_differential", differential),
    faulty(
        "x_differential",
        "long_time",
        "exploding",
        partial(differential, mistake="long_time"),
        "nonfinite",
        "initial_loss",
    ),
    faulty(
        "x_differential",
        "large_rate",
        "update_too_large",
        partial(differential, mistake="large_rate"),
        "exploding",
        "nonfinite",
        "oscillation",
        "loss_rising",
    ),
)
