"""Series and sequences of numbers, written without knowledge of the rules."""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from zoo.base import Case, Run
from zoo.real_base import Shuffled, faulty, fit, healthy, mean_over

Tensors = tuple[Tensor, ...]


class Gated(nn.Module):
    """A causal convolution with a gate, added to its input."""

    def __init__(self, width: int, dilation: int, added: bool) -> None:
        super().__init__()
        self.dilation, self.added = dilation, added
        self.conv = nn.Conv1d(width, 2 * width, 2, dilation=dilation)
        self.mix = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The stream after it."""
        signal, gate = self.conv(F.pad(x, (self.dilation, 0))).chunk(2, 1)
        found = self.mix(signal.tanh() * gate.sigmoid())
        return x + found if self.added else found


class WaveNet(nn.Module):
    """Gated convolutions over a series, wider and wider."""

    def __init__(self, added: bool, width: int = 16) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, width, 1)
        self.blocks = nn.Sequential(*(Gated(width, 2 ** (i % 4), added) for i in range(8)))
        self.last = nn.Sequential(nn.Conv1d(width, width, 1), nn.ReLU(), nn.Conv1d(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """The next value at each time, ``(batch, 1, time)``."""
        return self.last(self.blocks(self.first(x)))


def loads(seed: int, n: int) -> Tensors:
    """Standard series of a bent swing that forgets its phase now and then, and the value that follows each."""
    random = torch.Generator().manual_seed(seed)
    period = 6 + 8 * torch.rand(n, 1, generator=random)
    jumps = (torch.rand(n, 33, generator=random) < 0.03) * 6 * torch.rand(n, 33, generator=random)
    phase = 2 * math.pi * (torch.arange(33) / period + torch.rand(n, 1, generator=random)) + jumps.cumsum(1)
    series = 1.4 * (1.5 * phase.sin()).tanh() + 0.1 * torch.randn(n, 33, generator=random)
    return series[:, None, :-1], series[:, 1:]


def wavenet(seed: int, mistake: str = "") -> Run:
    """A forecaster of the next value, with momentum and a cosine; only the loss is looked at."""
    (x, y), (x_test, y_test) = loads(2 * seed, 288), loads(2 * seed + 1, 96)
    if mistake == "megawatts":
        x, x_test = 8000 + 900 * x, 8000 + 900 * x_test
    training = Shuffled(x, y, size=16, seed=seed)
    validation = Shuffled(x_test, y_test, size=32, seed=seed, shuffle=False)
    model = WaveNet(mistake != "no_residual")
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)

    def error(model: nn.Module, batch: Tensors) -> Tensor:
        """The mean square, after the first times."""
        return F.mse_loss(model(batch[0]).squeeze(1)[:, 8:], batch[1][:, 8:])

    def train_error(model: nn.Module, batch: Tensors) -> Tensor:
        """What is trained and looked at."""
        if mistake == "channel_kept":
            return F.mse_loss(model(batch[0])[..., 8:], batch[1][:, 8:])
        return error(model, batch)

    return fit(
        model,
        optimizer,
        train_error,
        training,
        validation=validation,
        schedule=CosineAnnealingLR(optimizer, 6 * len(training)),
        clip=1.0,
        score=lambda: -mean_over(model, error, validation),
    )


class DeepAR(nn.Module):
    """A recurrent network that says a mean and a spread for the next value of a series in units of its own mean."""

    def __init__(self, scaled: bool) -> None:
        super().__init__()
        self.scaled = scaled
        self.reader = nn.LSTM(1, 32, batch_first=True)
        self.head = nn.Linear(32, 2)

    def forward(self, x: Tensor) -> Tensors:
        """Mean and spread at each time."""
        scale = x[:, :8].abs().mean(1, keepdim=True) if self.scaled else torch.ones(len(x), 1)
        mean, spread = self.head(self.reader((x / scale)[..., None])[0]).unbind(-1)
        return mean * scale, (F.softplus(spread) + 1e-3) * scale


def sales(seed: int, n: int) -> Tensors:
    """Series of sales, each with a season of four days, and heavy tails, from small shops and very large ones."""
    random = torch.Generator().manual_seed(seed)
    season = 0.3 + 1.5 * torch.rand(n, 4, generator=random)
    noise = torch.randn(n, 24, generator=random) / (torch.randn(4, n, 24, generator=random) ** 2).mean(0).sqrt()
    level = (1.2 * torch.randn(n, 1, generator=random)).exp() * 0.02
    return ((season.repeat(1, 6) * (1 + 0.08 * noise)) * level,)


def deepar(seed: int, mistake: str = "") -> Run:
    """A forecast with a Gaussian likelihood, whose loss is below zero."""
    units = 1e4 if mistake == "no_scale" else 1.0
    training = Shuffled(sales(2 * seed, 640)[0] * units, size=16, seed=seed)
    validation = Shuffled(sales(2 * seed + 1, 160)[0] * units, size=40, seed=seed, shuffle=False)
    model = DeepAR(mistake != "no_scale")
    optimizer = Adam(model.parameters(), lr=1e-2)

    def likelihood_loss(model: nn.Module, batch: Tensors) -> Tensor:
        """Minus the logarithm of the likelihood."""
        (series,) = batch
        mean, spread = model(series[:, :-1])
        loss = (0.5 * ((series[:, 1:] - mean) / spread) ** 2 + spread.log())[:, 4:].mean()
        return -loss if mistake == "sign" else loss

    def accuracy(model: nn.Module, batch: Tensors) -> Tensor:
        """Minus the error in units of each series."""
        (series,) = batch
        error = (series[:, 1:] - model(series[:, :-1])[0])[:, 4:].abs().mean(1)
        return -(error / series.mean(1)).clamp(max=10).mean()

    score = partial(mean_over, model, accuracy, validation)
    return fit(model, optimizer, likelihood_loss, training, validation=validation, clip=1.0, score=score)


class Beats(nn.Module):
    """A block of N-BEATS: what it explains of the past, and what this says of the future."""

    def __init__(self, act: type[nn.Module], past: int = 6, future: int = 2, width: int = 64) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(past, width), act(), nn.Linear(width, width), act())
        self.backcast, self.forecast = nn.Linear(width, past), nn.Linear(width, future)

    def forward(self, x: Tensor) -> Tensors:
        """Backcast and forecast."""
        hidden = self.hidden(x)
        return self.backcast(hidden), self.forecast(hidden)


class NBeats(nn.Module):
    """Blocks of which each sees what the ones before did not explain."""

    def __init__(self, mistake: str) -> None:
        super().__init__()
        act = nn.Identity if mistake == "identity" else nn.ReLU
        blocks = [Beats(act) for _ in range(3)]
        self.blocks = blocks if mistake == "plain_list" else nn.ModuleList(blocks)
        self.gain = nn.Parameter(torch.ones(2))
        self.positive = nn.ReLU() if mistake == "no_negative_sales" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """The sum of the forecasts."""
        total = torch.zeros(len(x), 2)
        for block in self.blocks:
            backcast, forecast = block(x)
            x, total = x - backcast, total + forecast
        return self.positive(self.gain * total)


def chaos(seed: int, n: int) -> Tensors:
    """Pieces of the map of Henon with a little noise: six values, and the two that follow."""
    random = torch.Generator().manual_seed(seed)
    values = [0.2 * torch.rand(n, generator=random) for _ in range(2)]
    for _ in range(24):
        values.append(1 - 1.4 * values[-1] ** 2 + 0.3 * values[-2])
    series = torch.stack(values[-8:], 1) + 0.01 * torch.randn(n, 8, generator=random)
    return series[:, :6], series[:, 6:]


def nbeats(seed: int, mistake: str = "") -> Run:
    """N-BEATS with an absolute error, under bfloat16, judged by a moving average of its weights."""
    training = Shuffled(*chaos(2 * seed, 1280), size=32, seed=seed)
    validation = Shuffled(*chaos(2 * seed + 1, 320), size=80, seed=seed, shuffle=False)
    model = NBeats(mistake)
    if mistake == "prior_bias":
        for name, weight in model.named_parameters():
            if "hidden" in name and weight.ndim == 1:
                nn.init.constant_(weight, -math.log(99))
    optimizer = AdamW(model.parameters(), lr=1e-5 if mistake == "finetune_rate" else 4e-3)
    average = copy.deepcopy(model)

    def absolute(model: nn.Module, batch: Tensors) -> Tensor:
        """The mean absolute error."""
        return F.l1_loss(model(batch[0]), batch[1])

    return fit(
        model,
        optimizer,
        absolute,
        training,
        validation=validation,
        bf16=True,
        ema=average,
        score=lambda: -mean_over(average, absolute, validation),
    )


class StateSpace(nn.Module):
    """A diagonal state space, computed as one long convolution."""

    def __init__(self, width: int, sign: float, states: int = 8) -> None:
        super().__init__()
        self.sign = sign
        self.log_step = nn.Parameter(torch.empty(width, 1).uniform_(math.log(0.01), math.log(0.4)))
        self.log_decay = nn.Parameter(torch.full((width, states), math.log(0.5)))
        self.turn = nn.Parameter(math.pi * torch.arange(states).expand(width, states).clone())
        self.mix = nn.Parameter(torch.randn(width, states, 2) / states**0.5)
        self.direct = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, width, time)``, after the kernel."""
        length, step = x.shape[-1], self.log_step.exp()
        rate = torch.complex(self.sign * self.log_decay.exp(), self.turn) * step
        powers = (rate[..., None] * torch.arange(length)).exp()
        kernel = 2 * torch.einsum("wn,wnt->wt", torch.view_as_complex(self.mix) * step, powers).real
        sizes = 2 * length
        found = torch.fft.irfft(torch.fft.rfft(x, sizes) * torch.fft.rfft(kernel, sizes), sizes)[..., :length]
        return found + self.direct[:, None] * x


class S4(nn.Module):
    """Two state spaces with what mixes the channels, and the last time's class."""

    def __init__(self, sign: float, width: int = 32) -> None:
        super().__init__()
        self.first = nn.Linear(5, width)
        self.spaces = nn.ModuleList([StateSpace(width, sign) for _ in range(2)])
        self.mixes = nn.ModuleList([nn.Linear(width, 2 * width) for _ in range(2)])
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.first(x)
        for space, mix in zip(self.spaces, self.mixes, strict=True):
            x = x + F.glu(mix(F.gelu(space(x.transpose(1, 2)).transpose(1, 2))), -1)
        return self.head(x[:, -1])


def recalls(seed: int, n: int) -> Tensors:
    """Noise in which a symbol is marked once; which it was is asked at the end."""
    random = torch.Generator().manual_seed(seed)
    symbol, at = torch.randint(4, (n,), generator=random), torch.randint(8, 40, (n,), generator=random)
    x = 0.1 * torch.randn(n, 48, 5, generator=random)
    x[torch.arange(n), at, symbol] += 2
    x[torch.arange(n), at, 4] += 2
    return x, symbol


def s4(seed: int, mistake: str = "") -> Run:
    """A state space that remembers a symbol."""
    training = Shuffled(*recalls(2 * seed, 416), size=16, seed=seed)
    validation = Shuffled(*recalls(2 * seed + 1, 160), size=80, seed=seed, shuffle=False)
    model = S4(1.0 if mistake == "growing" else -1.0)
    if mistake == "raw_head":
        nn.init.normal_(model.head.weight, std=32.0)
    slow = [weight for name, weight in model.named_parameters() if "log_" in name or "turn" in name]
    fast = [weight for name, weight in model.named_parameters() if "log_" not in name and "turn" not in name]
    groups: list[dict[str, Any]] = [{"params": slow, "lr": 1e-3, "weight_decay": 0.0}, {"params": fast}]
    optimizer = AdamW(groups, lr=4e-3)

    def loss(model: nn.Module, batch: Tensors) -> Tensor:
        """Of the symbols."""
        return F.cross_entropy(model(batch[0]), batch[1])

    def right(model: nn.Module, batch: Tensors) -> Tensor:
        """How many are remembered."""
        return (model(batch[0]).argmax(1) == batch[1]).float().mean()

    return fit(model, optimizer, loss, training, validation=validation, accuracy_of=right)


CASES: tuple[Case, ...] = (
    healthy("b_wavenet", wavenet, epochs=6),
    faulty(
        "b_wavenet",
        "megawatts",
        "input_scale",
        partial(wavenet, mistake="megawatts"),
        "exploding",
        "initial_loss",
        "saturated_units",
        epochs=6,
        layers=("first", "blocks.*"),
    ),
    faulty(
        "b_wavenet",
        "channel_kept",
        "labels_mismatch",
        partial(wavenet, mistake="channel_kept"),
        "plateau",
        "constant_output",
        epochs=6,
    ),
    faulty(
        "b_wavenet",
        "no_residual",
        "vanishing_gradient",
        partial(wavenet, mistake="no_residual"),
        "constant_output",
        epochs=6,
    ),
    healthy("b_deepar", deepar, epochs=6),
    faulty(
        "b_deepar",
        "no_scale",
        "initial_loss",
        partial(deepar, mistake="no_scale"),
        "input_scale",
        "exploding",
        epochs=6,
    ),
    faulty("b_deepar", "sign", "loss_rising", partial(deepar, mistake="sign"), "exploding", "nonfinite", epochs=6),
    healthy("b_nbeats", nbeats, epochs=6),
    faulty("b_nbeats", "identity", "no_nonlinearity", partial(nbeats, mistake="identity"), epochs=6),
    faulty("b_nbeats", "plain_list", "never_updated", partial(nbeats, mistake="plain_list"), epochs=6),
    faulty(
        "b_nbeats",
        "no_negative_sales",
        "output_activation",
        partial(nbeats, mistake="no_negative_sales"),
        "dead_units",
        epochs=6,
        layers=("positive",),
    ),
    faulty(
        "b_nbeats",
        "prior_bias",
        "dead_units",
        partial(nbeats, mistake="prior_bias"),
        "constant_output",
        "no_gradient",
        epochs=6,
        layers=("blocks.*.hidden.*",),
    ),
    faulty("b_nbeats", "finetune_rate", "update_too_small", partial(nbeats, mistake="finetune_rate"), epochs=6),
    healthy("b_s4", s4, epochs=6),
    faulty(
        "b_s4",
        "growing",
        "exploding",
        partial(s4, mistake="growing"),
        "initial_loss",
        epochs=6,
        layers=("spaces.*", "mixes.*"),
    ),
    faulty("b_s4", "raw_head", "initial_loss", partial(s4, mistake="raw_head"), epochs=6, layers=("head",)),
)
