"""A mixture of experts with top-1 routing, as the Switch Transformer has it: an expert may get no token."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from real.case import Case, adamw


class SwitchFeedForward(nn.Module):
    def __init__(self, width: int, experts: int) -> None:
        super().__init__()
        self.router = nn.Linear(width, experts, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width)) for _ in range(experts)
        )

    def forward(self, x: Tensor) -> Tensor:
        weight, route = F.softmax(self.router(x), dim=-1).max(dim=-1)
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            chosen = route == number
            out[chosen] = expert(x[chosen])
        return x + weight.unsqueeze(-1) * out


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.layers = nn.ModuleList(SwitchFeedForward(8, 6) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = F.softplus(self.stem(x))
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def _batch(generator: Generator) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (torch.randn(10, 6, generator=generator),), {}


def _loss(logits: Tensor, args: tuple[Any, ...]) -> Tensor:
    return F.cross_entropy(logits, args[0].argmax(1) % 3)


CASE = Case("mixture of experts", Experts, _batch, _loss, optimizer=adamw)
