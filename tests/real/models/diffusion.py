"""A denoiser as in diffusion models: sinusoidal time embedding, SiLU, group norm, a shift and a scale from the time."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from real.case import Case, adamw


def timestep_embedding(steps: Tensor, width: int) -> Tensor:
    frequencies = torch.exp(-math.log(10_000) * torch.arange(width // 2) / (width // 2))
    angles = steps[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class ResBlock(nn.Module):
    def __init__(self, channels: int, time: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            nn.GroupNorm(4, channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time, 2 * channels))
        self.out_norm, self.conv = nn.GroupNorm(4, channels), nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        scale, shift = self.emb_layers(emb)[..., None, None].chunk(2, dim=1)
        h = self.out_norm(self.in_layers(x)) * (1 + scale) + shift
        return x + self.conv(F.silu(h))


class Denoiser(nn.Module):
    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.time_embed = nn.Sequential(nn.Linear(8, 16), nn.SiLU(), nn.Linear(16, 16))
        self.conv_in = nn.Conv2d(3, channels, 3, padding=1)
        self.blocks = nn.ModuleList(ResBlock(channels, 16) for _ in range(2))
        self.conv_out = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, noisy: Tensor, steps: Tensor) -> Tensor:
        emb, x = self.time_embed(timestep_embedding(steps, 8)), self.conv_in(noisy)
        for block in self.blocks:
            x = block(x, emb)
        return self.conv_out(x)


def _batch(generator: Generator) -> tuple[tuple[Any, ...], dict[str, Any]]:
    steps = torch.randint(1000, (4,), generator=generator)
    return (torch.randn(4, 3, 8, 8, generator=generator), steps), {}


def _loss(noise: Tensor, args: tuple[Any, ...]) -> Tensor:
    return F.mse_loss(noise, args[0] / 2)


CASE = Case("diffusion denoiser", Denoiser, _batch, _loss, axis=1, optimizer=adamw)
