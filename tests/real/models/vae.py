"""A convolutional VAE that returns a dict, as PyTorch-VAE has it: ELU, SELU, a sampled code, a sigmoid at the end."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from real.case import Case


class VAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ELU(), nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.SELU(),
            nn.Flatten(),
        )  # fmt: skip
        self.fc_mu, self.fc_var = nn.Linear(64, 5), nn.Linear(64, 5)
        self.decoder_input = nn.Linear(5, 64)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(16, 8, 3, stride=2, padding=1, output_padding=1), nn.ReLU6(),
            nn.ConvTranspose2d(8, 1, 3, stride=2, padding=1, output_padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        code = self.encoder(x)
        mu, log_var = self.fc_mu(code), self.fc_var(code)
        z = mu + torch.randn_like(mu) * torch.exp(log_var / 2)
        decoded = self.decoder(self.decoder_input(z).relu().unflatten(1, (16, 2, 2)))
        return {"reconstruction": torch.sigmoid(decoded), "mu": mu, "log_var": log_var}


def _batch(generator: Generator) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (torch.rand(6, 1, 8, 8, generator=generator),), {}


def _loss(output: dict[str, Tensor], args: tuple[Any, ...]) -> Tensor:
    kl = -0.5 * (1 + output["log_var"] - output["mu"] ** 2 - output["log_var"].exp()).sum(1).mean()
    return F.binary_cross_entropy(output["reconstruction"], args[0]) + 1e-3 * kl


CASE = Case("vae", VAE, _batch, _loss, axis=1)
