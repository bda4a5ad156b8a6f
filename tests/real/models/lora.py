"""A frozen MLP with low-rank adapters as PEFT wraps it: the second factor begins at zero."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.optim import AdamW, Optimizer

from real.case import Case


class LoRALinear(nn.Module):
    def __init__(self, base: nn.Linear, rank: int = 2) -> None:
        super().__init__()
        self.base_layer = base.requires_grad_(False)
        self.lora_A = nn.Linear(base.in_features, rank, bias=False)
        self.lora_B = nn.Linear(rank, base.out_features, bias=False)
        self.lora_dropout = nn.Dropout(0.1)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + 2.0 * self.lora_B(self.lora_A(self.lora_dropout(x)))


def _make() -> nn.Module:
    shared = nn.Mish()  # one object in two places: each call has the name of its place
    return nn.Sequential(LoRALinear(nn.Linear(5, 16)), shared, LoRALinear(nn.Linear(16, 16)), shared, nn.Linear(16, 3))


def _batch(generator: Generator) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (torch.randn(16, 5, generator=generator),), {}


def _loss(logits: Tensor, args: tuple[Any, ...]) -> Tensor:
    return F.cross_entropy(logits, args[0].argmax(1) % 3)


def _trainable(model: nn.Module) -> Optimizer:
    return AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)


CASE = Case("lora", _make, _batch, _loss, optimizer=_trainable)
