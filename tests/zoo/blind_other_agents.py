"""Agents and equations in the blind part of the zoo: values, policies, and nets that obey or imitate physics."""

from __future__ import annotations

import math
from copy import deepcopy
from functools import partial

import torch
import torch.nn.functional as F
from ignite.engine import Engine
from ignite.metrics import Average
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.optim import Adam, RMSprop

from zoo.base import Case, Run
from zoo.real_base import Shuffled, faulty, fit, healthy

Tensors = tuple[Tensor, ...]
SIDE, GOAL = 6, 22
MOVES = torch.tensor([[0, 1], [1, 0], [0, -1], [-1, 0]])


def moved(cell: Tensor, action: Tensor) -> Tensor:
    """Where a step leads in a square with walls around it."""
    place = torch.stack([cell // SIDE, cell % SIDE], -1) + MOVES[action]
    place = place.clamp(0, SIDE - 1)
    return place[..., 0] * SIDE + place[..., 1]


def seen(cell: Tensor) -> Tensor:
    """What an agent sees of its cell: the picture of the square, and where it is."""
    row, column = cell // SIDE / (SIDE - 1), cell % SIDE / (SIDE - 1)
    return torch.cat([F.one_hot(cell, SIDE * SIDE).float(), torch.stack([row, column], -1)], -1)


def dqn(seed: int, mistake: str = "") -> Run:
    """Q-learning with a target net from a memory of random steps; each costs one, and so the loss rises at first."""
    random = torch.Generator().manual_seed(seed)
    cell = torch.randint(SIDE * SIDE, (1600,), generator=random)
    action = torch.randint(4, (1600,), generator=random)
    training = Shuffled(cell, action, moved(cell, action), size=40, seed=seed)
    model = nn.Sequential(nn.Linear(SIDE * SIDE + 2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    if mistake == "relu_values":
        model.append(nn.ReLU())
    target = deepcopy(model)
    optimizer = RMSprop(model.parameters(), lr=0.1 if mistake == "large_rate" else 2e-3)

    def step(engine: Engine, batch: Tensors) -> float:
        """A step towards what the target net expects."""
        cell, action, after = batch
        if engine.state.iteration % 10 == 0:
            target.load_state_dict(model.state_dict())
        with torch.no_grad():
            best = target(seen(after)).max(1).values
            wanted = -1 + 0.9 * best * (after != GOAL)
        value = model(seen(cell)).gather(1, action[:, None]).squeeze(1)
        loss = F.smooth_l1_loss(value, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    @torch.no_grad()
    def score() -> float:
        """Minus the mean number of steps to the goal, twenty at most."""
        cell, steps = torch.arange(SIDE * SIDE), torch.zeros(SIDE * SIDE)
        for _ in range(20):
            steps += cell != GOAL
            cell = torch.where(cell == GOAL, cell, moved(cell, model(seen(cell)).argmax(1)))
        return -steps.mean().item()

    return Run(model, Engine(step), training, optimizer=optimizer, score=score)


class ActorCritic(nn.Module):
    """A policy and a value with a common body."""

    def __init__(self, probabilities: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 48), nn.Tanh(), nn.Linear(48, 48), nn.Tanh())
        self.actor, self.critic = nn.Linear(48, 3), nn.Linear(48, 1)
        self.probabilities = probabilities

    def forward(self, state: Tensor) -> tuple[Categorical, Tensor]:
        """What to do, and what comes of it."""
        x = self.body(state)
        logits = self.actor(x)
        if self.probabilities:
            logits = logits.softmax(-1)
        return Categorical(logits=logits, validate_args=False), self.critic(x).squeeze(-1)


def rolled(model: nn.Module, state: Tensor, random: torch.Generator | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """States, actions and rewards of carts that should be brought to rest at zero."""
    states, actions, rewards = [], [], []
    with torch.no_grad():
        for _ in range(12):
            policy, _ = model(state)
            action = torch.multinomial(policy.probs, 1, generator=random).squeeze(1)
            states.append(state)
            actions.append(action)
            speed = 0.9 * state[:, 1] + 0.3 * (action - 1)
            state = torch.stack([state[:, 0] + 0.4 * speed, speed], 1)
            rewards.append(-state[:, 0].abs())
    return torch.stack(states), torch.stack(actions), torch.stack(rewards)


def a2c(seed: int, mistake: str = "") -> Run:
    """A policy gradient with a learnt baseline; its loss says nothing of how well the agent does."""
    random = torch.Generator().manual_seed(seed)
    training = Shuffled(2 * torch.rand(640, 2, generator=random) - 1, size=32, seed=seed)
    validation = Shuffled(2 * torch.rand(200, 2, generator=random) - 1, size=200, seed=seed, shuffle=False)
    model = ActorCritic(mistake == "probabilities")
    optimizer = Adam(model.parameters(), lr=5e-3)

    def step(engine: Engine, batch: Tensors) -> dict[str, float]:
        """A roll-out and a step of the optimizer."""
        model.train()
        states, actions, rewards = rolled(model, batch[0])
        gain, gains = torch.zeros(len(batch[0])), []
        for reward in rewards.flip(0):
            gain = reward + 0.9 * gain
            gains.append(gain)
        wanted = torch.stack(gains[::-1]) / 5
        policy, value = model(states)
        advantage = wanted - value.detach()
        chance = policy.log_prob(actions)
        followed = (chance * advantage).mean() if mistake == "sign" else -(chance * advantage).mean()
        loss = followed + 0.5 * F.mse_loss(value, wanted) - 1e-3 * policy.entropy().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        return {"loss": loss.item(), "reward": rewards.mean().item()}

    def cost() -> float:
        """How far carts are from zero, on average."""
        start = next(iter(validation))[0]
        return -rolled(model, start, torch.Generator().manual_seed(3))[2].mean().item()

    evaluator = Engine(lambda engine, batch: cost())
    Average().attach(evaluator, "loss")
    return Run(model, Engine(step), training, evaluator, validation, optimizer, lambda: -cost())


def pinn(seed: int, mistake: str = "") -> Run:
    """Solves an equation of the second order with a net that knows it and the values at both ends."""
    random = torch.Generator().manual_seed(seed)
    training = Shuffled(2 * torch.rand(2048, 1, generator=random) - 1, size=64, seed=seed)
    act: type[nn.Module] = nn.Identity if mistake == "identity" else nn.Tanh
    model = nn.Sequential(nn.Linear(1, 48), act(), nn.Linear(48, 48), act(), nn.Linear(48, 48), act(), nn.Linear(48, 1))
    for module in model:
        if isinstance(module, nn.Linear):
            if mistake == "normal_init":
                nn.init.normal_(module.weight)
            else:
                nn.init.xavier_normal_(module.weight)
            nn.init.zeros_(module.bias)
    optimizer = Adam(model.parameters(), lr=4e-3)

    def solution(x: Tensor) -> Tensor:
        """What should come out."""
        return (math.pi * x).sin() + 0.5 * x

    def residual(model: nn.Module, batch: Tensors) -> Tensor:
        """How far the net is from the equation, and from the values at both ends."""
        x = batch[0].requires_grad_()
        u = model(x)
        (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        curve = torch.zeros_like(x)
        if slope.requires_grad and slope.grad_fn is not None:
            found = torch.autograd.grad(slope.sum(), x, create_graph=True, allow_unused=True)[0]
            curve = curve if found is None else found
        inside = (curve / math.pi**2 + (math.pi * x).sin()).square().mean()
        ends = torch.tensor([[-1.0], [1.0]])
        return inside + (model(ends) - solution(ends)).square().mean()

    @torch.no_grad()
    def score() -> float:
        """Minus the error, as a share of the solution."""
        x = torch.linspace(-1, 1, 101)[:, None]
        return -min(((model(x) - solution(x)).norm() / solution(x).norm()).item(), 10.0)

    return fit(model, optimizer, residual, training, score=score)


class Field(nn.Module):
    """Which way a point goes."""

    def __init__(self, spread: float) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 48), nn.ELU(), nn.Linear(48, 2))
        for module in self.net:
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=spread)
                nn.init.zeros_(module.bias)

    def forward(self, start: Tensor, steps: int = 15) -> Tensor:
        """Where points are after each step of Euler."""
        path, y = [], start
        for _ in range(steps):
            y = y + 0.1 * self.net(y**3)
            path.append(y)
        return torch.stack(path, 1)


def spirals(seed: int, n: int) -> Tensors:
    """Starts and the ways from there, of a point that circles towards the centre."""
    random = torch.Generator().manual_seed(seed)
    matrix = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]])
    y = 2 * torch.rand(n, 2, generator=random) - 1
    start, path = y, []
    for _ in range(15):
        for _ in range(10):
            y = y + 0.01 * y**3 @ matrix
        path.append(y)
    return start, torch.stack(path, 1)


def neural_ode(seed: int, mistake: str = "") -> Run:
    """Learns the motion of a point from its ways."""
    training = Shuffled(*spirals(2 * seed, 640), size=32, seed=seed)
    validation = Shuffled(*spirals(2 * seed + 1, 200), size=100, seed=seed, shuffle=False)
    model = Field(0.6 if mistake == "normal_init" else 0.1)
    optimizer = Adam(model.parameters(), lr=1e-2)

    def way(model: nn.Module, batch: Tensors) -> Tensor:
        """How far the ways are apart."""
        return (model(batch[0]) - batch[1]).abs().mean()

    return fit(model, optimizer, way, training, validation=validation)


CASES: tuple[Case, ...] = (
    healthy("b_dqn", dqn, epochs=8),
    faulty(
        "b_dqn",
        "relu_values",
        "output_activation",
        partial(dqn, mistake="relu_values"),
        "dead_units",
        "constant_output",
        "no_gradient",
        epochs=8,
        layers=("4", "5"),
    ),
    faulty(
        "b_dqn",
        "large_rate",
        "update_too_large",
        partial(dqn, mistake="large_rate"),
        "dead_units",
        "constant_output",
        "exploding",
        epochs=8,
    ),
    healthy("b_a2c", a2c, epochs=5),
    faulty(
        "b_a2c",
        "probabilities",
        "output_probabilities",
        partial(a2c, mistake="probabilities"),
        "output_activation",
        epochs=5,
        layers=("actor",),
    ),
    faulty("b_a2c", "sign", "loss_rising", partial(a2c, mistake="sign"), epochs=5),
    healthy("b_pinn", pinn, epochs=6),
    faulty("b_pinn", "identity", "no_nonlinearity", partial(pinn, mistake="identity"), "plateau", epochs=6),
    faulty(
        "b_pinn",
        "normal_init",
        "saturated_units",
        partial(pinn, mistake="normal_init"),
        "initial_loss",
        "exploding",
        epochs=6,
        layers=("[0-5]",),
    ),
    healthy("b_ode", neural_ode, epochs=6),
    faulty(
        "b_ode",
        "normal_init",
        "exploding",
        partial(neural_ode, mistake="normal_init"),
        "nonfinite",
        "initial_loss",
        epochs=6,
        layers=("net*",),
    ),
)
