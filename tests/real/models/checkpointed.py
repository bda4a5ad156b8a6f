"""A residual network whose blocks are computed again during backward, as Megatron does to save memory."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.utils.checkpoint import checkpoint

from real.case import Case


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 32), nn.Linear(32, width)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.dropout(F.relu(self.up(self.norm(x))) ** 2))


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.head = nn.ModuleList(Block(8) for _ in range(3)), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False)
        return self.head(F.leaky_relu(x, 0.2))


def _batch(generator: Generator) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (torch.randn(7, 8, generator=generator),), {}


def _loss(logits: Tensor, args: tuple[Any, ...]) -> Tensor:
    return F.cross_entropy(logits, args[0].argmax(1) % 3)


CASE = Case("checkpointed blocks", Checkpointed, _batch, _loss)
