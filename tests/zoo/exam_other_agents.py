"""Agents on a small grid in the exam half of the real part of the zoo."""

from __future__ import annotations

import copy
from functools import partial

import torch
import torch.nn.functional as F
from ignite.engine import Engine
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.optim import Adam

from zoo.base import Case, Run
from zoo.real_base import faulty, healthy

MOVES = torch.tensor([[0, 1], [0, -1], [1, 0], [-1, 0]])


class Grid:
    """Many walkers on fields of five by five, who pay one for every step until they reach the corner.

    Args:
        walkers: how many.
        seed: of where they begin.
    """

    def __init__(self, walkers: int, seed: int) -> None:
        self.random = torch.Generator().manual_seed(seed)
        self.place = torch.randint(4, (walkers, 2), generator=self.random)

    def seen(self) -> Tensor:
        """What the walkers see: their places, from minus one to one."""
        return self.place / 2.0 - 1

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Moves; the rewards, who has arrived, and what is seen before those begin again."""
        self.place = (self.place + MOVES[action]).clamp(0, 4)
        done, seen = (self.place == 4).all(1), self.seen()
        again = torch.randint(4, self.place.shape, generator=self.random)
        self.place = torch.where(done[:, None], again, self.place)
        return torch.where(done, 0.0, -1.0), done, seen


def returns(act: object, steps: int = 12) -> float:
    """The mean reward of a hundred walkers until they arrive or the time is over."""
    assert callable(act)
    grid, total, walking = Grid(100, 77), torch.zeros(100), torch.ones(100, dtype=torch.bool)
    with torch.no_grad():
        for _ in range(steps):
            reward, done, _ = grid.step(act(grid.seen()))
            total += reward * walking
            walking &= ~done
    return total.mean().item()


def value_learner(seed: int, mistake: str = "") -> Run:
    """Values of actions, learnt from what was lived before, with a copy that gives the targets."""
    random = torch.Generator().manual_seed(seed)
    grid = Grid(16, seed)
    model = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    if mistake == "relu_values":
        model.append(nn.ReLU())
    if mistake == "softmax_values":
        model.append(nn.Softmax(-1))
    target = copy.deepcopy(model)
    optimizer = Adam(model.parameters(), lr=3e-3)
    memory: list[tuple[Tensor, ...]] = []

    def step(engine: Engine, index: int) -> dict[str, float]:
        """Moves all walkers once and learns from sixty-four memories."""
        seen = grid.seen()
        with torch.no_grad():
            best = model(seen).argmax(1)
        explore = torch.rand(16, generator=random) < 0.3
        action = torch.where(explore, torch.randint(4, (16,), generator=random), best)
        memory.append((seen, action, *grid.step(action)))
        chosen = torch.randint(len(memory), (8,), generator=random).tolist()
        before, action, reward, done, after = (
            torch.cat(parts) for parts in zip(*(memory[i] for i in chosen), strict=True)
        )
        with torch.no_grad():
            wanted = reward + 0.9 * target(after).amax(1) * ~done
        value = model(before).gather(1, action[:, None])
        if mistake != "columns":
            value = value.squeeze(1)
        loss = F.smooth_l1_loss(value, wanted)
        if mistake != "kept_gradients":
            optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if engine.state.iteration % 10 == 0:
            target.load_state_dict(model.state_dict())
        return {"loss": loss.item()}

    return Run(
        model, Engine(step), range(60), optimizer=optimizer, score=lambda: returns(lambda seen: model(seen).argmax(1))
    )


class ActorCritic(nn.Module):
    """A body with a head for the chances of actions and one for the value."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh())
        self.actor, self.critic = nn.Linear(width, 4), nn.Linear(width, 1)

    def forward(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the actions, and the value."""
        x = self.body(seen)
        return self.actor(x), self.critic(x).squeeze(-1)


def actor_critic(seed: int, mistake: str = "") -> Run:
    """An actor whose critic tells what was better than expected, with a bonus for open choices."""
    grid = Grid(32, seed)
    model = ActorCritic()
    if mistake == "softmax":
        model.actor = nn.Sequential(model.actor, nn.Softmax(-1))  # type: ignore[assignment]
    optimizer = Adam(model.parameters(), lr=0.5 if mistake == "large_rate" else 5e-3)

    def step(engine: Engine, index: int) -> dict[str, float]:
        """Lives five steps and learns from them."""
        logs, values, rewards, ends, choices = [], [], [], [], []
        for _ in range(5):
            logits, value = model(grid.seen())
            choice = Categorical(logits=logits)
            action = choice.sample()
            reward, done, _ = grid.step(action)
            logs.append(choice.log_prob(action))
            values.append(value)
            rewards.append(reward)
            ends.append(done)
            choices.append(choice.entropy())
        with torch.no_grad():
            gain, gains = model(grid.seen())[1], []
            for reward, done in zip(reversed(rewards), reversed(ends), strict=True):
                gain = reward + 0.9 * gain * ~done
                gains.append(gain)
        wanted, value = torch.stack(gains[::-1]), torch.stack(values)
        advantage = (wanted - value).detach()
        actor_loss = -(torch.stack(logs) * advantage).mean()
        bonus = 20.0 if mistake == "large_bonus" else 0.01
        loss = actor_loss + 0.5 * F.mse_loss(value, wanted) - bonus * torch.stack(choices).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return {"loss": loss.item()}

    def act(seen: Tensor) -> Tensor:
        """Draws actions."""
        return Categorical(logits=model(seen)[0]).sample()

    return Run(model, Engine(step), range(50), optimizer=optimizer, score=lambda: returns(act))


CASES: tuple[Case, ...] = (
    healthy("x_values", value_learner),
    faulty(
        "x_values",
        "relu",
        "output_activation",
        partial(value_learner, mistake="relu_values"),
        "dead_units",
        "constant_output",
        "no_gradient",
        layers=("5",),
    ),
    faulty("x_values", "columns", "labels_mismatch", partial(value_learner, mistake="columns"), "constant_output"),
    faulty("x_values", "kept_gradients", "uncleared_gradient", partial(value_learner, mistake="kept_gradients")),
    faulty(
        "x_values",
        "softmax",
        "output_activation",
        partial(value_learner, mistake="softmax_values"),
        "output_probabilities",
    ),
    healthy("x_actor", actor_critic),
    faulty("x_actor", "softmax", "output_probabilities", partial(actor_critic, mistake="softmax")),
    faulty(
        "x_actor",
        "large_rate",
        "update_too_large",
        partial(actor_critic, mistake="large_rate"),
        "saturated_units",
        "constant_output",
    ),
    faulty(
        "x_actor", "large_bonus", "over_regularised", partial(actor_critic, mistake="large_bonus"), "constant_output"
    ),
)
