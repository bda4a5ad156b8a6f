"""Torch's own encoder layers, called twice over two views as SimSiam does: the second call makes sites of its own."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from real.case import Case


class SimSiam(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.predictor = nn.Sequential(nn.Linear(8, 6), nn.RReLU(), nn.Linear(6, 8))

    def forward(self, one: Tensor, two: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        first, second = self.encoder(one).mean(1), self.encoder(two).mean(1)
        return self.predictor(first), self.predictor(second), first.detach(), second.detach()


def _batch(generator: Generator) -> tuple[tuple[Any, ...], dict[str, Any]]:
    x = torch.randn(4, 5, 8, generator=generator)
    return (x, x + 0.1 * torch.randn(4, 5, 8, generator=generator)), {}


def _loss(output: tuple[Tensor, ...], args: tuple[Any, ...]) -> Tensor:
    p1, p2, z1, z2 = output
    return -(F.cosine_similarity(p1, z2).mean() + F.cosine_similarity(p2, z1).mean()) / 2


CASE = Case("shared encoder", SimSiam, _batch, _loss)
