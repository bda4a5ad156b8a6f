"""A WaveNet: gated, dilated, causal convolutions with residuals and skips, activations on (N, C, T)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from real.case import Case


class GatedBlock(nn.Module):
    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.filter_conv = nn.Conv1d(channels, channels, 2, dilation=dilation)
        self.gate_conv = nn.Conv1d(channels, channels, 2, dilation=dilation)
        self.residual, self.skip = nn.Conv1d(channels, channels, 1), nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        padded = F.pad(x, (self.dilation, 0))
        gated = torch.tanh(self.filter_conv(padded)) * torch.sigmoid(self.gate_conv(padded))
        return x + self.residual(gated), self.skip(gated)


class WaveNet(nn.Module):
    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.start = nn.Conv1d(1, channels, 1)
        self.blocks = nn.ModuleList(GatedBlock(channels, 2**power) for power in range(3))
        self.end = nn.Sequential(nn.ReLU(), nn.Conv1d(channels, 16, 1), nn.ReLU(), nn.Conv1d(16, 10, 1))

    def forward(self, x: Tensor) -> Tensor:
        x, skips = self.start(x), []
        for block in self.blocks:
            x, skip = block(x)
            skips.append(skip)
        return self.end(torch.stack(skips).sum(0))


def _batch(generator: Generator) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (torch.randn(3, 1, 20, generator=generator),), {}


def _loss(logits: Tensor, args: tuple[Any, ...]) -> Tensor:
    classes = ((args[0][:, 0].clamp(-2, 1.99) + 2) * 2.5).long()
    return F.cross_entropy(logits[..., :-1], classes[:, 1:])


CASE = Case("wavenet", WaveNet, _batch, _loss, axis=1)
