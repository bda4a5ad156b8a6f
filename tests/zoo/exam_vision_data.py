"""Images made in memory for the exam on vision."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ignite_act.data import load_data
from zoo.real_base import Shuffled


@dataclass(frozen=True)
class Parts:
    """Tensors to train on and tensors to validate on."""

    training: tuple[Tensor, ...]
    validation: tuple[Tensor, ...]

    def batches(self, size: int, seed: int, *, shuffle: bool = True) -> tuple[Shuffled, Shuffled]:
        """Batches of both parts; those for validation are large and keep their order."""
        count = min(64, len(self.validation[0]))
        fixed = Shuffled(*self.validation, size=count, seed=0, shuffle=False)
        return Shuffled(*self.training, size=size, seed=seed, shuffle=shuffle), fixed


def parted(*tensors: Tensor, held: int = 64) -> Parts:
    """The last samples are for validation."""
    return Parts(tuple(t[:-held] for t in tensors), tuple(t[-held:] for t in tensors))


@lru_cache(1)
def all_digits() -> Parts:
    """Grey digits of 8 by 8 pixels between -1 and 1 with their classes."""
    data = load_data("digits")
    return Parts((data.train.x, data.train.y), (data.validation.x, data.validation.y))


def digits(count: int = 640, *, side: int = 8, channels: int = 1) -> Parts:
    """The first digits, enlarged and with equal channels where wanted."""

    def resized(x: Tensor) -> Tensor:
        x = x if side == 8 else F.interpolate(x, (side, side), mode="bilinear", align_corners=False)
        return x.repeat(1, channels, 1, 1)

    (x, y), (held_x, held_y) = all_digits().training, all_digits().validation
    return Parts((resized(x[:count]), y[:count]), (resized(held_x[:256]), held_y[:256]))


@dataclass(frozen=True)
class Scenes:
    """Coloured objects on a dim and noisy ground.

    Attributes:
        images: ``(N, 3, side, side)``, between 0 and 1.
        masks: class of each pixel, 0 where there is no object, ``(N, side, side)``.
        boxes: centre and size of every object in parts of the side, ``(N, objects, 4)``.
        kinds: disc, square, cross or ring, ``(N, objects)``.
    """

    images: Tensor
    masks: Tensor
    boxes: Tensor
    kinds: Tensor


def scenes(seed: int, count: int, *, side: int = 16, objects: int = 1, noise: float = 0.1) -> Scenes:
    """Draws scenes; a later object lies over an earlier one."""
    random = Generator().manual_seed(1000 + seed)
    kinds = torch.randint(4, (count, objects), generator=random)
    radius = side * (0.17 + 0.1 * torch.rand(count, objects, generator=random))
    margin = 0.27 * side
    centres = margin + (side - 2 * margin) * torch.rand(count, objects, 2, generator=random)
    colours = 0.45 + 0.55 * torch.rand(count, objects, 3, generator=random)
    images = 0.25 * torch.rand(count, 3, 1, 1, generator=random).expand(count, 3, side, side)
    masks = torch.zeros(count, side, side, dtype=torch.long)
    places = torch.arange(side) + 0.5
    for index in range(objects):
        across = (places[None, None, :] - centres[:, index, 0, None, None]).abs().expand(count, side, side)
        down = (places[None, :, None] - centres[:, index, 1, None, None]).abs().expand(count, side, side)
        size = radius[:, index, None, None]
        far, near, round_ = torch.maximum(across, down), torch.minimum(across, down), torch.hypot(across, down)
        forms = (round_ < size, far < 0.9 * size, (near < 0.3 * size) & (far < size), (round_ - 0.8 * size).abs() < 0.8)
        kind = kinds[:, index, None, None]
        inside = sum((form & (kind == number) for number, form in enumerate(forms)), torch.zeros_like(masks)) > 0
        masks = torch.where(inside, kind + 1, masks)
        images = torch.where(inside[:, None], colours[:, index, :, None, None], images)
    images = (images + noise * torch.randn(images.shape, generator=random)).clamp(0, 1)
    boxes = torch.cat([centres, 2 * radius[..., None].expand(-1, -1, 2)], -1) / side
    return Scenes(images, masks, boxes, kinds)


def centred(x: Tensor) -> Tensor:
    """Images between 0 and 1 with mean and deviation near 0 and 1."""
    return (x - 0.3) / 0.25


def shapes(seed: int, count: int = 320, *, side: int = 16) -> Parts:
    """One object an image and which of four it is."""
    drawn = scenes(seed, count + 64, side=side)
    return parted(centred(drawn.images), drawn.kinds[:, 0])


def spots(centres: Tensor, side: int, width: float = 1.2) -> Tensor:
    """A bright round spot at each centre, which is given in pixels with x first, ``(..., side, side)``."""
    places = torch.arange(side) + 0.5
    across = (places - centres[..., 0, None]) ** 2
    down = (places - centres[..., 1, None]) ** 2
    return torch.exp(-(down[..., :, None] + across[..., None, :]) / (2 * width**2))


def clips(seed: int, count: int = 240, *, side: int = 12, frames: int = 6) -> Parts:
    """A spot moves in one of four directions, ``(N, 1, frames, side, side)``."""
    random = Generator().manual_seed(2000 + seed)
    y = torch.randint(4, (count + 64,), generator=random)
    steps = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])[y]
    middle = 4.5 + (side - 9) * torch.rand(count + 64, 2, generator=random)
    times = torch.arange(frames) - (frames - 1) / 2
    x = spots(middle[:, None] + times[:, None] * steps[:, None], side)[:, None]
    return parted(2 * x + 0.3 * torch.randn(x.shape, generator=random), y)


def points(seed: int, count: int = 480, *, side: int = 16) -> Parts:
    """A red, a green and a blue spot, and where they are between -1 and 1, ``(N, 6)``."""
    random = Generator().manual_seed(3000 + seed)
    places = 1.8 * torch.rand(count + 64, 3, 2, generator=random) - 0.9
    x = spots((places + 1) * side / 2, side)
    return parted(2 * x + 0.15 * torch.randn(x.shape, generator=random), places.flatten(1))


def crowds(seed: int, count: int = 480, *, side: int = 16) -> Parts:
    """Up to twelve spots, and how many there are, ``(N,)``."""
    random = Generator().manual_seed(4000 + seed)
    y = torch.randint(13, (count + 64,), generator=random)
    centres = side * torch.rand(count + 64, 12, 2, generator=random)
    there = torch.arange(12) < y[:, None]
    x = (spots(centres, side, 0.8) * there[..., None, None]).sum(1, keepdim=True)
    return parted(x + 0.1 * torch.randn(x.shape, generator=random), y.float())


def picture(seed: int, side: int = 24) -> tuple[Tensor, Tensor]:
    """Where each pixel of one coloured picture is between -1 and 1, and its colour between 0 and 1."""
    random = Generator().manual_seed(5000 + seed)
    line = torch.linspace(-1, 1, side)
    places = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).flatten(0, 1)
    waves = math.pi * (4 * torch.rand(6, 2, generator=random) - 2)
    shares = torch.randn(6, 3, generator=random)
    colours = torch.sin(places @ waves.T + 6 * torch.rand(6, generator=random)) @ shares
    return places, torch.sigmoid(colours)
