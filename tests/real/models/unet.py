"""A U-Net as milesial/Pytorch-UNet writes it: double convolutions, skips, transposed convolutions."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from real.case import Case


class DoubleConv(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.double_conv = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.double_conv(x)


class Up(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.up, self.conv = nn.ConvTranspose2d(inputs, outputs, 2, stride=2), DoubleConv(inputs, outputs)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.conv(torch.cat([skip, self.up(x)], dim=1))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inc, self.down1, self.down2 = DoubleConv(1, 6), DoubleConv(6, 12), DoubleConv(12, 24)
        self.pool = nn.MaxPool2d(2)
        self.up1, self.up2, self.outc = Up(24, 12), Up(12, 6), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.inc(x)
        second = self.down1(self.pool(first))
        third = self.down2(self.pool(second))
        return self.outc(self.up2(self.up1(third, second), first))


def _batch(generator: Generator) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (torch.randn(2, 1, 16, 16, generator=generator),), {}


def _loss(logits: Tensor, args: tuple[Any, ...]) -> Tensor:
    return F.cross_entropy(logits, (args[0][:, 0] > 0).long())


CASE = Case("unet", UNet, _batch, _loss, axis=1)
