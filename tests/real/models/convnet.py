"""Blocks as timm writes them: squeeze-and-excitation with hard gates, layer scale, a channels-last MLP, drop path."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from real.case import Case, adamw


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        self.conv_reduce, self.conv_expand = nn.Conv2d(channels, reduced, 1), nn.Conv2d(reduced, channels, 1)
        self.act1, self.gate = nn.ReLU(inplace=True), nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        squeezed = x.mean((2, 3), keepdim=True)
        return x * self.gate(self.conv_expand(self.act1(self.conv_reduce(squeezed))))


class InvertedResidual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 2 * channels
        self.conv_pw, self.conv_dw = nn.Conv2d(channels, wide, 1), nn.Conv2d(wide, wide, 3, padding=1, groups=wide)
        self.bn1, self.bn2, self.act = nn.BatchNorm2d(wide), nn.BatchNorm2d(wide), nn.Hardswish(inplace=True)
        self.se, self.conv_pwl = SqueezeExcite(wide, 4), nn.Conv2d(wide, channels, 1)
        nn.init.constant_(self.bn1.bias[:2], -9.0)  # dead, and only what entered shows it

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.bn1(self.conv_pw(x)))
        return x + self.conv_pwl(self.se(self.act(self.bn2(self.conv_dw(h)))))


class ConvNeXtBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_dw, self.norm = nn.Conv2d(channels, channels, 7, padding=3, groups=channels), nn.LayerNorm(channels)
        self.fc1, self.fc2 = nn.Conv2d(channels, 4 * channels, 1), nn.Conv2d(4 * channels, channels, 1)
        self.gamma = nn.Parameter(torch.full((channels, 1, 1), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.conv_dw(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        h = self.gamma * self.fc2(F.gelu(self.fc1(h)))
        keep = torch.rand(len(x), 1, 1, 1) < 0.8 if self.training else 1.0
        return x + h * keep / 0.8


def _make() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 4, stride=4), InvertedResidual(8), ConvNeXtBlock(8), InvertedResidual(8),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip


def _batch(generator: Generator) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (torch.randn(4, 3, 24, 24, generator=generator),), {}


def _loss(logits: Tensor, args: tuple[Any, ...]) -> Tensor:
    return F.cross_entropy(logits, torch.arange(4))


CASE = Case("inverted residuals and convnext", _make, _batch, _loss, axis=1, optimizer=adamw)
