"""Trainings of the real part of the zoo without labels: densities, generators, physics, games."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from ignite.engine import Engine
from torch import Tensor, nn
from torch.optim import Adam, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR

from zoo.base import Run
from zoo.real_base import Shuffled, fit, mean_over
from zoo.real_other_models import VAE, Actor, Adversaries, Denoiser, Flow, Mixture, mlp
from zoo.real_other_tasks import arcs, distance, folded, ring, vectors
from zoo.real_text_tasks import generator


def autoencoder(seed: int, weight: float = 0.2, deviation: bool = False, factor: float = 1.0) -> Run:
    """A variational autoencoder whose second loss, with ``weight``, rises over sixty steps."""
    model = VAE(16, deviation=deviation)
    steps = 0

    def loss_of(model: nn.Module, batch: Any) -> Tensor:
        nonlocal steps
        steps += model.training
        x = factor * batch[0]
        again, mean, spread = model(x)
        apart = (mean**2 + spread.exp() - spread - 1).sum(1).mean() / 2
        return F.mse_loss(again, x) + min(1.0, steps / 60) * weight * apart / 16

    def error(model: nn.Module, batch: Any) -> Tensor:
        return F.mse_loss(model(factor * batch[0])[0] / factor, batch[0])

    kept = Shuffled(vectors(seed + 50, 256), size=64, seed=0, shuffle=False)
    return fit(
        model,
        Adam(model.parameters(), 3e-3),
        loss_of,
        Shuffled(vectors(seed), size=32, seed=seed),
        validation=kept,
        score=lambda: -mean_over(model, error, kept),
    )


def denoiser(seed: int, span: float = 50.0, act: Callable[[], nn.Module] = nn.SiLU) -> Run:
    """A diffusion model of points, of which a slow copy is kept; ``span`` is what its time is divided by."""
    model = Denoiser(act=act, span=span)
    ema = copy.deepcopy(model)
    optimizer = AdamW(model.parameters(), 3e-3)
    random = generator(seed)
    left = (1 - torch.linspace(1e-3, 0.15, 50)).cumprod(0)

    def loss_of(model: nn.Module, batch: Any) -> Tensor:
        (x,) = batch
        time = torch.randint(50, (len(x),), generator=random)
        noise = torch.randn(x.shape, generator=random)
        part = left[time, None]
        return F.mse_loss(model(part.sqrt() * x + (1 - part).sqrt() * noise, time.float()), noise)

    kept = Shuffled(ring(seed + 50, 2048), size=256, seed=0, shuffle=False)
    return fit(
        model,
        optimizer,
        loss_of,
        Shuffled(ring(seed, 2048), size=64, seed=seed),
        validation=kept,
        schedule=CosineAnnealingLR(optimizer, 256),
        ema=ema,
    )


def adversaries(
    seed: int,
    cut: bool = False,
    last: Callable[[], nn.Module] | None = None,
    shift: float = 0.0,
) -> Run:
    """A generator and a discriminator of points on arcs, which play for the same number.

    Args:
        seed: of everything.
        cut: whether the generator's loss is computed from what was detached for the discriminator.
        last: behind the discriminator's output.
        shift: of the points.
    """
    model = Adversaries(last=last)
    first = Adam(model.generator.parameters(), 5e-4, betas=(0.5, 0.9))
    second = Adam(model.discriminator.parameters(), 2e-3, betas=(0.5, 0.9))
    random = generator(seed)
    judge = F.binary_cross_entropy_with_logits

    def step(engine: Engine, batch: Any) -> dict[str, float]:
        model.train()
        real = batch[0] + shift
        one, zero = torch.ones(len(real), 1), torch.zeros(len(real), 1)
        drawn = model(torch.randn(len(real), 4, generator=random))
        second.zero_grad()
        told = judge(model.discriminator(real), one) + judge(model.discriminator(drawn.detach()), zero)
        told.backward()
        second.step()
        first.zero_grad()
        shown = model.discriminator(drawn.detach() if cut else drawn)
        fooled = -judge(shown, zero)
        fooled.backward()
        first.step()
        return {"generator_loss": fooled.item(), "discriminator_loss": told.item()}

    def score() -> float:
        with torch.no_grad():
            return -distance(model(torch.randn(512, 4, generator=generator(0))), arcs(seed + 50, 512) + shift)

    return Run(model, Engine(step), Shuffled(arcs(seed), size=32, seed=seed), optimizer=first, score=score)


def critic_penalty(critic: nn.Module, real: Tensor, drawn: Tensor, random: torch.Generator) -> Tensor:
    """How far the norm of the critic's gradient between the points is from one."""
    part = torch.rand(len(real), 1, generator=random)
    between = (part * real + (1 - part) * drawn).requires_grad_()
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return ((slope.norm(dim=1) - 1) ** 2).mean()


def critic(
    seed: int,
    last: Callable[[], nn.Module] | None = None,
    penalty: float = 1.0,
    swapped: bool = False,
) -> Run:
    """A Wasserstein GAN with a penalty on the critic's gradient; ``swapped`` is the sign of the generator's loss."""
    model = Adversaries(last=last)
    first = Adam(model.generator.parameters(), 2e-3, betas=(0.0, 0.9))
    second = Adam(model.discriminator.parameters(), 2e-3, betas=(0.0, 0.9))
    random = generator(seed)

    def step(engine: Engine, batch: Any) -> tuple[float, float]:
        model.train()
        (real,) = batch
        for _ in range(2):
            drawn = model(torch.randn(len(real), 4, generator=random)).detach()
            second.zero_grad()
            told = model.discriminator(drawn).mean() - model.discriminator(real).mean()
            told = told + penalty * critic_penalty(model.discriminator, real, drawn, random)
            told.backward()
            second.step()
        first.zero_grad()
        fooled = -model.discriminator(model(torch.randn(len(real), 4, generator=random))).mean()
        (-fooled if swapped else fooled).backward()
        first.step()
        return told.item(), fooled.item()

    def score() -> float:
        with torch.no_grad():
            return -distance(model(torch.randn(512, 4, generator=generator(0))), ring(seed + 50, 512))

    return Run(model, Engine(step), Shuffled(ring(seed, 1280), size=64, seed=seed), optimizer=first, score=score)


def densities(seed: int, unit: float = 1.0) -> Run:
    """A mixture whose density of the answers is to be high, so the loss falls below zero; ``unit`` is theirs."""
    model = Mixture()

    def loss_of(model: nn.Module, batch: Any) -> Tensor:
        x, y = batch
        return -model(x, y * unit).mean()

    def likely(model: nn.Module, batch: Any) -> Tensor:
        x, y = batch
        return model(x, y * unit).mean() + math.log(unit)

    kept = Shuffled(*folded(seed + 50, 256), size=64, seed=0, shuffle=False)
    return fit(
        model,
        Adam(model.parameters(), 5e-3),
        loss_of,
        Shuffled(*folded(seed), size=32, seed=seed),
        validation=kept,
        score=lambda: mean_over(model, likely, kept),
    )


def flow(seed: int, ascends: bool = True, factor: float = 1.0, cleared: bool = True) -> Run:
    """A flow whose optimizer maximises the density of points, which is put out with the other sign."""
    model = Flow()
    optimizer = Adam(model.parameters(), 2e-3, maximize=ascends)

    def step(engine: Engine, batch: Any) -> float:
        model.train()
        if cleared:
            optimizer.zero_grad()
        likely = model(factor * batch[0]).mean()
        likely.backward()
        optimizer.step()
        return -likely.item()

    def score() -> float:
        with torch.no_grad():
            model.eval()
            return model(factor * arcs(seed + 50, 512)).mean().item() + 2 * math.log(factor)

    return Run(model, Engine(step), Shuffled(arcs(seed), size=32, seed=seed), optimizer=optimizer, score=score)


def physics(seed: int, span: float = 1.0) -> Run:
    """A net that obeys ``u'' = -pi^2 sin(pi x)`` with ``u = 0`` at both ends; ``span`` is the unit of ``x``."""
    model = mlp(1, 24, 24, 1, act=nn.Tanh)
    optimizer = Adam(model.parameters(), 3e-3)

    def loss_of(model: nn.Module, batch: Any) -> Tensor:
        x = (batch[0] * span).clone().requires_grad_()
        u = model(x)
        (first,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), x, create_graph=True)
        wrong = span**2 * second / math.pi**2 + (math.pi * x / span).sin()
        ends = model(span * torch.tensor([[-1.0], [1.0]]))
        return (wrong**2).mean() + 5 * (ends**2).mean()

    def score() -> float:
        with torch.no_grad():
            x = torch.linspace(-1, 1, 101)[:, None]
            return -F.mse_loss(model(span * x), (math.pi * x).sin()).item()

    points = 2 * torch.rand(1280, 1, generator=generator(seed)) - 1
    training = Shuffled(points, size=32, seed=seed)
    return fit(model, optimizer, loss_of, training, schedule=ExponentialLR(optimizer, 0.995), score=score)


def walk(policy: Callable[[Tensor], Tensor], places: Tensor, goals: Tensor) -> tuple[Tensor, ...]:
    """Walks on a line of seven places towards a goal: what was seen, done and earned, ``(8, n)`` each."""
    seen, done, earned = [], [], []
    for _ in range(8):
        seen.append(torch.cat([torch.eye(7)[places], torch.eye(7)[goals]], 1))
        done.append(policy(seen[-1]))
        places = (places + done[-1] - 1).clamp(0, 6)
        earned.append((places == goals).float())
    return torch.stack(seen), torch.stack(done), torch.stack(earned)


def actor_critic(
    seed: int,
    entropy: float = 0.01,
    divided: bool = False,
    only: str = "",
) -> Run:
    """An actor and a critic that learn to walk to a goal.

    Args:
        seed: of everything.
        entropy: weight of the entropy.
        divided: whether each walk's advantages are divided by their own deviation over the walk's rewards.
        only: the part whose parameters the optimizer gets, if not all.
    """
    model = Actor(14, 3)
    optimizer = Adam((model.get_submodule(only) if only else model).parameters(), 1e-2)
    random = generator(seed)

    def draw(seen: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.multinomial(model(seen)[0].softmax(1), 1, generator=random)[:, 0]

    def step(engine: Engine, batch: Any) -> dict[str, float]:
        model.train()
        seen, done, earned = walk(draw, *batch)
        returns = torch.zeros_like(earned)
        total = torch.zeros(earned.shape[1])
        for time in reversed(range(len(earned))):
            total = earned[time] + 0.9 * total
            returns[time] = total
        if divided:
            returns = (returns - returns.mean(0)) / returns.std(0)
        logits, values = model(seen.flatten(0, 1))
        chances = torch.distributions.Categorical(logits=logits)
        advantage = returns.flatten() - values.detach()
        acted = (chances.log_prob(done.flatten()) * advantage).mean()
        guessed = F.mse_loss(values, returns.flatten())
        loss = 0.5 * guessed - acted - entropy * chances.entropy().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return {"loss": loss.item(), "reward": earned.sum(0).mean().item()}

    starts = torch.randint(7, (2, 640), generator=generator(seed))

    def score() -> float:
        fresh = generator(1)
        with torch.no_grad():
            model.eval()
            policy = lambda seen: torch.multinomial(model(seen)[0].softmax(1), 1, generator=fresh)[:, 0]  # noqa: E731
            return walk(policy, *torch.randint(7, (2, 256), generator=generator(2)))[2].sum(0).mean().item()

    return Run(model, Engine(step), Shuffled(*starts, size=16, seed=seed), optimizer=optimizer, score=score)
