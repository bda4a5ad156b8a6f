"""A two-tower recommender: embeddings of users and items, a dot product, in-batch negatives."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from real.case import Case


class Tower(nn.Module):
    def __init__(self, entities: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(entities, 8)
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8), nn.Tanh())

    def forward(self, ids: Tensor) -> Tensor:
        return F.normalize(self.layers(self.embedding(ids)), dim=-1)


class TwoTower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = Tower(30), Tower(50)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        return self.user(users) @ self.item(items).T / 0.1


def _batch(generator: Generator) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return tuple(torch.randint(size, (12,), generator=generator) for size in (30, 50)), {}


def _loss(scores: Tensor, args: tuple[Any, ...]) -> Tensor:
    return F.cross_entropy(scores, torch.arange(12))


CASE = Case("two towers", TwoTower, _batch, _loss)
