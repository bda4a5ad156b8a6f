"""Densities in the blind part of the zoo: unequal noise, diffusion of points, collaborative filters, invented rows."""

from __future__ import annotations

import math
from copy import deepcopy
from functools import partial

import torch
import torch.nn.functional as F
from ignite.engine import Engine
from torch import Tensor, nn
from torch.optim import Adam, AdamW

from zoo.base import Case, Run
from zoo.real_base import Shuffled, faulty, fit, healthy, mean_over

Tensors = tuple[Tensor, ...]


class MeanAndSpread(nn.Module):
    """A body with a head for the mean and one for how far values lie from it."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(columns, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.mean, self.spread = nn.Linear(64, 1), nn.Linear(64, 1)
        self.positive = nn.Softplus()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both numbers of each row."""
        x = self.body(x)
        return self.mean(x).squeeze(1), self.positive(self.spread(x)).squeeze(1) + 1e-3


def heavy_tails(seed: int, n: int) -> Tensors:
    """Columns, and a number with noise that is wider for some rows and has heavy tails."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=random)
    normal, squares = torch.randn(n, generator=random), torch.randn(n, 4, generator=random).square().mean(1)
    signal = (2 * x[:, 0]).sin() + x[:, 1] * x[:, 2].tanh()
    return x, 0.2 * signal + 0.03 * (0.3 + x[:, 3].sigmoid()) * normal / squares.sqrt()


def unequal_noise(seed: int, mistake: str = "") -> Run:
    """A normal density whose mean and spread depend on the row; the loss is below zero."""
    x, y = heavy_tails(2 * seed, 1280)
    if mistake == "missing":
        x[700, 4] = math.nan  # one empty cell of the table
    scale, offset = (4e4, 2.5e5) if mistake == "prices" else (1.0, 0.0)
    training = Shuffled(x, scale * y + offset, size=64, seed=seed)
    x, y = heavy_tails(2 * seed + 1, 600)
    validation = Shuffled(x, scale * y + offset, size=200, seed=seed, shuffle=False)
    model = MeanAndSpread(6)
    optimizer = Adam(model.parameters(), lr=3e-3)

    def surprise(model: nn.Module, batch: Tensors) -> Tensor:
        """Minus the logarithm of the density."""
        mean, spread = model(batch[0])
        return (spread.log() + 0.5 * ((batch[1] - mean) / spread).square()).mean() + 0.5 * math.log(2 * math.pi)

    def score() -> float:
        """How little surprised, in the units of the healthy run."""
        return -min(mean_over(model, surprise, validation) - math.log(scale), 10.0)

    return fit(model, optimizer, surprise, training, validation=validation, clip=5.0, score=score)


class Denoiser(nn.Module):
    """What noise there is in a point at a time."""

    def __init__(self, raw: bool = False, width: int = 64) -> None:
        super().__init__()
        self.raw = raw
        self.time = nn.Sequential(nn.Linear(1 if raw else 16, width), nn.SiLU(), nn.Linear(width, width))
        self.enter = nn.Linear(2, width)
        self.blocks = nn.ModuleList(
            [nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width)) for _ in range(2)]
        )
        self.leave = nn.Linear(width, 2)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """The noise."""
        waves = time[:, None] * (10000 ** (-torch.arange(8) / 8))
        time = time[:, None].float() if self.raw else torch.cat([waves.sin(), waves.cos()], 1)
        x = self.enter(x) + self.time(time)
        for block in self.blocks:
            x = x + block(x)
        return self.leave(x)


def ring(seed: int, n: int) -> Tensor:
    """Points near eight places on a ring."""
    random = torch.Generator().manual_seed(seed)
    angle = torch.randint(8, (n,), generator=random) * math.pi / 4
    return 1.4 * torch.stack([angle.cos(), angle.sin()], 1) + 0.08 * torch.randn(n, 2, generator=random)


def diffusion(seed: int, mistake: str = "") -> Run:
    """Learns to remove noise from points, with a slow copy of the weights."""
    training = Shuffled(ring(2 * seed, 3072), size=128, seed=seed)
    validation = Shuffled(ring(2 * seed + 1, 1024), size=512, seed=seed, shuffle=False)
    kept = torch.cos((torch.arange(1000) / 1000 + 0.008) / 1.008 * math.pi / 2).square()
    model = Denoiser(mistake == "raw_time")
    ema = deepcopy(model)
    optimizer = AdamW(model.parameters(), lr=2e-3)

    def noise_error(model: nn.Module, batch: Tensors) -> Tensor:
        """The mean square error of the noise."""
        x = batch[0]
        time = torch.randint(1000, (len(x),))
        noise, share = torch.randn_like(x), kept[time][:, None]
        found = model(share.sqrt() * x + (1 - share).sqrt() * noise, time)
        return F.mse_loss(found, torch.randn_like(x) if mistake == "fresh_noise" and model.training else noise)

    def score() -> float:
        """Minus the error of the slow copy, for the same noise each time."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return -sum(mean_over(ema, noise_error, validation) for _ in range(4)) / 4

    return fit(model, optimizer, noise_error, training, validation=validation, ema=ema, clip=1.0, score=score)


class MultVAE(nn.Module):
    """The taste of a user as a normal distribution, and what items follow from it."""

    def __init__(self, items: int) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.encode = nn.Sequential(nn.Linear(items, 64), nn.Tanh(), nn.Linear(64, 32))
        self.decode = nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, items))

    def forward(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the items, and how far the tastes are from a standard normal one."""
        mean, log_variance = self.encode(self.drop(F.normalize(seen, dim=1))).chunk(2, 1)
        taste = mean
        if self.training:
            taste = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        far = 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum(1)
        return self.decode(taste), far.mean()


def baskets(seed: int, n: int) -> Tensor:
    """Which of eighty items each user has bought."""
    known = torch.Generator().manual_seed(7)
    groups = 2.5 * torch.randn(6, 80, generator=known)
    random = torch.Generator().manual_seed(seed)
    mixed = (3 * torch.randn(n, 6, generator=random)).softmax(1)
    bought = torch.multinomial((mixed @ groups).softmax(1), 12, generator=random)
    return torch.zeros(n, 80).scatter(1, bought, 1.0)


def mult_vae(seed: int, mistake: str = "") -> Run:
    """Collaborative filtering with a variational autoencoder; the weight of the prior rises slowly."""
    training = Shuffled(baskets(2 * seed, 1920), size=64, seed=seed)
    validation = Shuffled(baskets(2 * seed + 1, 400), size=200, seed=seed, shuffle=False)
    model = MultVAE(80)
    optimizer = Adam(model.parameters(), lr=5e-3)
    steps = 0

    def bound(model: nn.Module, batch: Tensors) -> Tensor:
        """Minus the bound of the likelihood, the prior weighted."""
        nonlocal steps
        steps += model.training
        logits, far = model(batch[0])
        surprise = -(logits.log_softmax(1) * batch[0])
        if mistake == "mean_items":
            return surprise.mean() + far
        return surprise.sum(1).mean() + min(0.2, steps / 600) * far

    def surprise(model: nn.Module, batch: Tensors) -> Tensor:
        """How little expected the items are."""
        logits, _ = model(batch[0])
        return -(logits.log_softmax(1) * batch[0]).sum(1).mean()

    return fit(
        model,
        optimizer,
        bound,
        training,
        validation=validation,
        score=lambda: -mean_over(model, surprise, validation),
    )


class TableGAN(nn.Module):
    """Invents rows of a table, and tells these from real ones."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.generator = nn.Sequential(
            nn.Linear(8, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, columns)
        )
        self.critic = nn.Sequential(
            nn.Linear(columns, 48), nn.LeakyReLU(0.2), nn.Linear(48, 48), nn.LeakyReLU(0.2), nn.Linear(48, 1)
        )

    def forward(self, noise: Tensor) -> Tensor:
        """Rows."""
        return self.generator(noise)


def rows(seed: int, n: int) -> Tensor:
    """Columns that depend on each other, in two groups."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=random)
    side = 1.0 - 2.0 * (torch.rand(n, generator=random) < 0.4)
    return torch.stack(
        [1.5 * side + 0.4 * x[:, 0], 0.5 * x[:, 1] + side * 0.6 + 1, x[:, 1] + 0.2 * x[:, 2] - 1, 0.5 * x[:, 3] - 2], 1
    )


def distance(one: Tensor, other: Tensor) -> float:
    """The energy distance of two samples."""
    return (2 * torch.cdist(one, other).mean() - torch.cdist(one, one).mean() - torch.cdist(other, other).mean()).item()


def table_gan(seed: int, mistake: str = "") -> Run:
    """A generator and a critic with an optimizer each; the generator's loss rises when the critic gets better."""
    training = Shuffled(rows(2 * seed, 2048), size=64, seed=seed)
    real = rows(2 * seed + 1, 600)
    model = TableGAN(4)
    invent = Adam(model.generator.parameters(), lr=2e-3, betas=(0.5, 0.99))
    tell = Adam(model.critic.parameters(), lr=2e-3, betas=(0.5, 0.99))

    def step(engine: Engine, batch: Tensors) -> dict[str, float]:
        """A step of the critic, then one of the generator."""
        model.train()
        invented = model(torch.randn(len(batch[0]), 8))
        if mistake != "kept_gradients":
            tell.zero_grad()
        yes, no = model.critic(batch[0]), model.critic(invented.detach())
        told = F.softplus(-yes).mean() + F.softplus(no).mean()
        told.backward()
        tell.step()
        invent.zero_grad()
        shown = invented.detach() if mistake == "detached" else invented
        fooled = F.softplus(-model.critic(shown)).mean()
        fooled.backward()
        invent.step()
        return {"loss": fooled.item(), "critic_loss": told.item()}

    @torch.no_grad()
    def score() -> float:
        """How near invented rows are to real ones."""
        model.eval()
        return -distance(model(torch.randn(600, 8, generator=torch.Generator().manual_seed(1))), real)

    return Run(model, Engine(step), training, score=score)


CASES: tuple[Case, ...] = (
    healthy("b_spread", unequal_noise, epochs=6),
    faulty(
        "b_spread",
        "prices",
        "initial_loss",
        partial(unequal_noise, mistake="prices"),
        "exploding",
        "update_too_small",
        epochs=6,
    ),
    faulty(
        "b_spread",
        "missing",
        "nonfinite",
        partial(unequal_noise, mistake="missing"),
        epochs=6,
    ),
    healthy("b_diffusion", diffusion, epochs=6),
    faulty(
        "b_diffusion",
        "fresh_noise",
        "labels_mismatch",
        partial(diffusion, mistake="fresh_noise"),
        "plateau",
        "constant_output",
        epochs=6,
    ),
    faulty(
        "b_diffusion",
        "raw_time",
        "input_scale",
        partial(diffusion, mistake="raw_time"),
        "exploding",
        epochs=6,
        layers=("time", "time.0"),
    ),
    healthy("b_mult_vae", mult_vae, epochs=6),
    faulty(
        "b_mult_vae",
        "mean_items",
        "constant_output",
        partial(mult_vae, mistake="mean_items"),
        "over_regularised",
        "plateau",
        epochs=6,
    ),
    healthy("b_table_gan", table_gan, epochs=6),
    faulty(
        "b_table_gan",
        "kept_gradients",
        "uncleared_gradient",
        partial(table_gan, mistake="kept_gradients"),
        epochs=6,
        layers=("critic*",),
    ),
    faulty(
        "b_table_gan",
        "detached",
        "no_gradient",
        partial(table_gan, mistake="detached"),
        epochs=6,
        layers=("generator*",),
    ),
)
