"""Densities and generated points in the exam half of the real part of the zoo."""

from __future__ import annotations

import copy
import math
from functools import partial

import torch
import torch.nn.functional as F
from ignite.engine import Engine
from torch import Tensor, nn
from torch.distributions import Normal
from torch.optim import Adam, AdamW

from zoo.base import Case, Run
from zoo.real_base import Shuffled, faulty, fit, healthy, mean_over, measured

Tensors = tuple[Tensor, ...]


def crescents(seed: int, n: int) -> Tensor:
    """Points on two half circles, small enough that their density is above one."""
    random = torch.Generator().manual_seed(seed)
    angle, upper = math.pi * torch.rand(n, generator=random), torch.rand(n, generator=random) < 0.5
    x = torch.where(upper, angle.cos() - 0.5, 0.5 - angle.cos())
    y = torch.where(upper, angle.sin() - 0.25, 0.25 - angle.sin())
    return 0.5 * (torch.stack([x, y], 1) + 0.05 * torch.randn(n, 2, generator=random))


class Coupling(nn.Module):
    """Scales and shifts one coordinate by what the other says."""

    def __init__(self, swap: bool, width: int = 32) -> None:
        super().__init__()
        self.swap = swap
        self.layers = nn.Sequential(
            nn.Linear(1, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The new points, and the logarithm of how much the space was stretched."""
        kept, moved = x.flip(1).split(1, 1) if self.swap else x.split(1, 1)
        scale, shift = self.layers(kept).split(1, 1)
        scale = 2 * scale.tanh()
        parts = [kept, moved * scale.exp() + shift]
        return torch.cat(parts[::-1] if self.swap else parts, 1), scale.squeeze(1)


class Flow(nn.Module):
    """Couplings that turn points into a normal distribution."""

    def __init__(self, depth: int = 5) -> None:
        super().__init__()
        self.couplings = nn.ModuleList([Coupling(index % 2 == 1) for index in range(depth)])

    def forward(self, x: Tensor) -> Tensor:
        """The logarithm of the density at points."""
        stretched = torch.zeros(len(x))
        for coupling in self.couplings:
            x, more = coupling(x)
            stretched = stretched + more
        return -0.5 * x.pow(2).sum(1) - math.log(2 * math.pi) + stretched


def unlikely(model: nn.Module, batch: Tensors) -> Tensor:
    """Minus the mean logarithm of the density."""
    return -model(batch[0]).mean()


def density(seed: int, mistake: str = "") -> Run:
    """A normalising flow whose likelihood is maximised; its negative falls below zero."""
    offset, scale = (400.0, 100.0) if mistake == "raw" else (0.0, 1.0)
    training = Shuffled(scale * crescents(2 * seed, 960) + offset, size=32, seed=seed)
    validation = Shuffled(scale * crescents(2 * seed + 1, 256) + offset, size=64, seed=seed, shuffle=False)
    model = Flow()
    optimizer = Adam(model.parameters(), lr=3e-3, maximize=mistake != "minimised")

    def step(engine: Engine, batch: Tensors) -> dict[str, float]:
        """Climbs the likelihood of a batch."""
        model.train()
        optimizer.zero_grad()
        objective = model(batch[0]).mean()
        objective.backward()
        optimizer.step()
        return {"loss": -objective.item()}

    def score() -> float:
        """The mean logarithm of the density, in the units of the sound run, and not below minus a hundred."""
        return max(-100.0, -mean_over(model, unlikely, validation) + 2 * math.log(scale))

    return Run(model, Engine(step), training, measured(model, unlikely), validation, optimizer, score)


class Denoiser(nn.Module):
    """Foretells the noise in points, told how much there is."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(3, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2)
        )

    def forward(self, x: Tensor, amount: Tensor) -> Tensor:
        """The noise."""
        return self.layers(torch.cat([x, amount[:, None]], 1))


def denoiser(seed: int, mistake: str = "") -> Run:
    """The score of noisy points, learnt by telling the noise, which is drawn anew in every step."""
    training = Shuffled(2 * crescents(2 * seed, 2560), size=64, seed=seed)
    held = 2 * crescents(2 * seed + 1, 256)
    random = torch.Generator().manual_seed(seed)
    validation = Shuffled(
        held,
        torch.rand(256, generator=random),
        torch.randn(256, 2, generator=random),
        size=64,
        seed=seed,
        shuffle=False,
    )
    model = Denoiser()
    optimizer = AdamW(model.parameters(), lr=1e-6 if mistake == "small_rate" else 5e-3)
    slow = copy.deepcopy(model).requires_grad_(False)  # follows the model

    def noise_loss(model: nn.Module, batch: Tensors) -> Tensor:
        """The mean square of what is left of the noise."""
        x = batch[0]
        amount, noise = (
            batch[1:]
            if len(batch) > 1
            else (torch.rand(len(x), generator=random), torch.randn(len(x), 2, generator=random))
        )
        noisy = x + (0.1 + 0.4 * amount[:, None]) * noise
        found = model(noisy, 1000 * amount if mistake == "thousand_steps" else amount)
        if mistake == "redrawn_noise":
            noise = torch.randn_like(noise)
        return F.mse_loss(found, noise)

    def sound_loss(model: nn.Module, batch: Tensors) -> Tensor:
        """The same for fixed noise."""
        x, amount, noise = batch
        found = model(
            x + (0.1 + 0.4 * amount[:, None]) * noise, 1000 * amount if mistake == "thousand_steps" else amount
        )
        return F.mse_loss(found, noise)

    return fit(
        model,
        optimizer,
        noise_loss,
        training,
        validation=validation,
        ema=slow,
        score=lambda: -mean_over(slow, sound_loss, validation),
    )


class Variational(nn.Module):
    """An autoencoder whose code is a distribution."""

    def __init__(self, inputs: int, code: int = 4, width: int = 48) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(inputs, width), nn.ELU(), nn.Linear(width, 2 * code))
        self.decoder = nn.Sequential(nn.Linear(code, width), nn.ELU(), nn.Linear(width, inputs))

    def forward(self, x: Tensor, sample: str = "rsample") -> tuple[Tensor, Tensor, Tensor]:
        """The row drawn again, and the code's mean and the logarithm of its variance."""
        mean, log = self.encoder(x).chunk(2, 1)
        code = getattr(Normal(mean, (0.5 * log).exp()), sample)() if self.training else mean
        return self.decoder(code), mean, log


def rows(seed: int, n: int) -> Tensor:
    """Twelve columns that three hidden numbers decide, almost."""
    random = torch.Generator().manual_seed(seed)
    known = torch.Generator().manual_seed(31)
    hidden = torch.randn(n, 3, generator=random)
    mixed = (hidden @ torch.randn(3, 16, generator=known)).tanh() @ torch.randn(16, 12, generator=known)
    mixed = mixed + 0.3 * torch.randn(n, 12, generator=random)
    return (mixed - mixed.mean(0)) / mixed.std(0)


def evidence(model: nn.Module, batch: Tensors, mistake: str = "") -> Tensor:
    """The bound on the likelihood: the error of a row and how far its code is from the prior."""
    (x,) = batch
    drawn, mean, log = model(x, "sample" if mistake == "sampled" else "rsample")
    far = -0.5 * (1 + log - mean.pow(2) - log.exp()).sum(1).mean()
    error = (drawn - x).pow(2)
    return (error.mean() if mistake == "mean_error" else error.sum(1).mean()) + far


def drawn_error(model: nn.Module, batch: Tensors) -> Tensor:
    """The mean square of a row's error."""
    (x,) = batch
    return F.mse_loss(model(x)[0], x)


def variational(seed: int, mistake: str = "") -> Run:
    """A variational autoencoder for tables."""
    training = Shuffled(rows(2 * seed, 800), size=32, seed=seed)
    validation = Shuffled(rows(2 * seed + 1, 160), size=32, seed=seed, shuffle=False)
    model = Variational(12)
    optimizer = Adam(model.parameters(), lr=5e-3)
    return fit(
        model,
        optimizer,
        partial(evidence, mistake=mistake),
        training,
        validation=validation,
        score=lambda: -mean_over(model, drawn_error, validation),
    )


def ring(seed: int, n: int) -> Tensor:
    """Points around eight places on a circle that is off the middle."""
    random = torch.Generator().manual_seed(seed)
    angle = torch.randint(8, (n,), generator=random) * math.pi / 4
    return (
        torch.tensor([0.4, -0.4])
        + 0.3 * torch.stack([angle.cos(), angle.sin()], 1)
        + 0.03 * torch.randn(n, 2, generator=random)
    )


def distance(one: Tensor, other: Tensor) -> float:
    """The square of the energy distance of two clouds."""
    across, within, beyond = (torch.cdist(a, b).mean() for a, b in ((one, other), (one, one), (other, other)))
    return (2 * across - within - beyond).item()


def adversaries(seed: int, mistake: str = "") -> Run:
    """A generator of points, and a critic with a penalty on its gradient that takes five steps for each of its."""
    scale = 20.0 if mistake == "unscaled" else 1.0
    training = Shuffled(scale * ring(2 * seed, 2560), size=32, seed=seed)
    generator = nn.Sequential(nn.Linear(4, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 2), nn.Tanh())
    critic = nn.Sequential(nn.Linear(2, 48), nn.LeakyReLU(0.2), nn.Linear(48, 48), nn.LeakyReLU(0.2), nn.Linear(48, 1))
    model = nn.ModuleDict({"generator": generator, "critic": critic})
    makes = Adam(generator.parameters(), lr=2e-3, betas=(0.0, 0.99))
    judges = Adam(critic.parameters(), lr=5e-3, betas=(0.0, 0.99))

    def step(engine: Engine, batch: Tensors) -> dict[str, float]:
        """The critic's step, and every fifth time the generator's."""
        model.train()
        (real,) = batch
        fake = generator(torch.randn(len(real), 4)).detach()
        mixed = torch.lerp(real, fake, torch.rand(len(real), 1)).requires_grad_()
        (slope,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
        judged = critic(fake).mean() - critic(real).mean() + (slope.norm(dim=1) - 1).pow(2).mean()
        judges.zero_grad()
        judged.backward()
        judges.step()
        if engine.state.iteration % 5 == 0:
            fake = generator(torch.randn(len(real), 4))
            if mistake == "detached":
                fake = fake.detach()
            makes.zero_grad()
            (-critic(fake).mean()).backward()
            makes.step()
        return {"loss": judged.item()}

    def score() -> float:
        """Minus the distance to other points."""
        with torch.no_grad():
            return -distance(
                generator(torch.randn(400, 4, generator=torch.Generator().manual_seed(5))) / scale, ring(99, 400)
            )

    return Run(model, Engine(step), training, optimizer=makes, score=score)


CASES: tuple[Case, ...] = (
    healthy("x_density", density),
    faulty("x_density", "minimised", "loss_rising", partial(density, mistake="minimised"), "exploding", "nonfinite"),
    faulty("x_density", "raw", "input_scale", partial(density, mistake="raw"), "initial_loss", "exploding"),
    healthy("x_denoiser", denoiser),
    faulty("x_denoiser", "small_rate", "update_too_small", partial(denoiser, mistake="small_rate")),
    faulty("x_denoiser", "thousand_steps", "input_scale", partial(denoiser, mistake="thousand_steps"), "initial_loss"),
    faulty("x_denoiser", "redrawn_noise", "labels_mismatch", partial(denoiser, mistake="redrawn_noise"), "plateau"),
    healthy("x_variational", variational),
    faulty("x_variational", "sampled", "constant_output", partial(variational, mistake="sampled"), "no_gradient"),
    faulty(
        "x_variational",
        "mean_error",
        "constant_output",
        partial(variational, mistake="mean_error"),
        "over_regularised",
        "plateau",
    ),
    healthy("x_adversaries", adversaries),
    faulty(
        "x_adversaries",
        "detached",
        "no_gradient",
        partial(adversaries, mistake="detached"),
        layers=("generator", "generator.*"),
    ),
    faulty(
        "x_adversaries",
        "unscaled",
        "output_activation",
        partial(adversaries, mistake="unscaled"),
        "saturated_units",
        "input_scale",
    ),
)
