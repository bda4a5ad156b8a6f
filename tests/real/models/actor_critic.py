"""An actor-critic as CleanRL and Stable-Baselines have it: a shared body, a policy and a value, returned as a tuple."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.distributions import Categorical

from real.case import Case


class ActorCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Linear(4, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh())
        self.actor = nn.Sequential(nn.Linear(24, 12), nn.CELU(0.5), nn.Linear(12, 2))
        self.critic = nn.Sequential(nn.Linear(24, 12), nn.Hardtanh(), nn.Linear(12, 1))

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(observation)
        return self.actor(features), self.critic(features).squeeze(-1)


def _batch(generator: Generator) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (torch.randn(20, 4, generator=generator),), {}


def _loss(output: tuple[Tensor, Tensor], args: tuple[Any, ...]) -> Tensor:
    logits, value = output
    policy, returns = Categorical(logits=logits), args[0].sum(1)
    advantage = returns - value.detach()
    actor = -(policy.log_prob(policy.sample()) * advantage).mean()
    return actor + 0.5 * F.mse_loss(value, returns) - 0.01 * policy.entropy().mean()


CASE = Case("actor-critic", ActorCritic, _batch, _loss)
