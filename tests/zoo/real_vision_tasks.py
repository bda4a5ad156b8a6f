"""Images made in memory: digits, textures, shapes with masks and centres, and how they are changed while training."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ignite_act.data import load_data
from zoo.real_base import Shuffled


@dataclass(frozen=True)
class Task:
    """Samples to train on and others to validate on, each as tensors that belong together."""

    train: tuple[Tensor, ...]
    validation: tuple[Tensor, ...]

    def batches(self, size: int, seed: int, shuffle: bool = True) -> Shuffled:
        """What to train on."""
        return Shuffled(*self.train, size=size, seed=seed, shuffle=shuffle)

    def held_back(self, size: int = 50) -> Shuffled:
        """What to validate on."""
        return Shuffled(*self.validation, size=size, seed=0, shuffle=False)

    def first(self, count: int) -> Task:
        """The task with less to train on."""
        return replace(self, train=tuple(values[:count] for values in self.train))

    def repeated(self, times: int) -> Task:
        """The task whose epochs go through what there is to train on several times."""
        return replace(self, train=tuple(torch.cat([values] * times) for values in self.train))

    def ordered(self) -> Task:
        """The task with what there is to train on sorted by class, as files in folders are."""
        order = self.train[1].argsort(stable=True)
        return replace(self, train=tuple(values[order] for values in self.train))

    def scaled(self, factor: float, offset: float = 0.0) -> Task:
        """The task with images of other units."""
        (x, *rest), (held, *others) = self.train, self.validation
        return Task((x * factor + offset, *rest), (held * factor + offset, *others))


def digits(seed: int, *, side: int = 16, channels: int = 3, count: int = 480, below: int = 10) -> Task:
    """Handwritten digits from -1 to 1, made larger, of the classes below a number."""
    data = load_data("digits")
    random = torch.Generator().manual_seed(seed)

    def of(x: Tensor, y: Tensor, number: int) -> tuple[Tensor, ...]:
        chosen = torch.randperm(len(x), generator=random)
        chosen = chosen[y[chosen] < below][:number]
        large = F.interpolate(x[chosen], size=(side, side), mode="bilinear", align_corners=False)
        return large.expand(-1, channels, -1, -1).contiguous(), y[chosen]

    return Task(of(data.train.x, data.train.y, count), of(data.validation.x, data.validation.y, 150))


def grid(side: int) -> tuple[Tensor, Tensor]:
    """Rows and columns of the pixels, from 0 to 1."""
    line = (torch.arange(side) + 0.5) / side
    rows, columns = torch.meshgrid(line, line, indexing="ij")
    return rows, columns


def waves(number: int, random: Generator, side: int) -> Tensor:
    """Rows, columns, a chequered pattern and rings for each image, with its own frequency and phases."""
    rows, columns = grid(side)
    frequency = 2 * math.pi * (2 + 2 * torch.rand(number, 1, 1, generator=random))
    first, second = 2 * math.pi * torch.rand(2, number, 1, 1, generator=random)
    centre = torch.rand(2, number, 1, 1, generator=random)
    radius = ((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2).sqrt()
    along, across = torch.sin(frequency * rows + first), torch.sin(frequency * columns + second)
    return torch.stack([along, across, 1.4 * along * across, torch.sin(frequency * radius + first)], 1)


def textures(seed: int, *, side: int = 16, count: int = 480, noise: float = 0.5) -> Task:
    """Coloured patterns of four kinds under noise."""
    random = torch.Generator().manual_seed(seed)

    def draw(number: int) -> tuple[Tensor, ...]:
        y = torch.randint(4, (number,), generator=random)
        pattern = waves(number, random, side)[torch.arange(number), y]
        colour = 0.5 + torch.rand(number, 3, 1, 1, generator=random)
        return colour * pattern[:, None] + noise * torch.randn(number, 3, side, side, generator=random), y

    return Task(draw(count), draw(150))


def tags(seed: int, *, side: int = 16, count: int = 480) -> Task:
    """Sums of patterns, each of which is there in a fifth of the images, and which of them are there."""
    random = torch.Generator().manual_seed(seed)

    def draw(number: int) -> tuple[Tensor, ...]:
        y = (torch.rand(number, 4, generator=random) < 0.2).float()
        picture = (waves(number, random, side) * y[:, :, None, None]).sum(1, keepdim=True)
        return picture + 0.3 * torch.randn(number, 3, side, side, generator=random), y

    return Task(draw(count), draw(150))


def shapes(seed: int, *, side: int = 16, count: int = 320) -> Task:
    """A disc and a square on noise; the class of each pixel; the disc's centre, from -1 to 1."""
    random = torch.Generator().manual_seed(seed)
    rows, columns = grid(side)

    def draw(number: int) -> tuple[Tensor, ...]:
        disc, square = 0.2 + 0.6 * torch.rand(2, 2, number, 1, 1, generator=random)
        in_square = torch.maximum((rows - square[0]).abs(), (columns - square[1]).abs()) < 0.16
        in_disc = (rows - disc[0]) ** 2 + (columns - disc[1]) ** 2 < 0.04
        mask = torch.where(in_disc, 1, torch.where(in_square, 2, 0))
        colours = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.3, -0.5], [-0.5, 0.3, 1.0]])
        picture = colours[mask].permute(0, 3, 1, 2) + 0.4 * torch.randn(number, 3, side, side, generator=random)
        return picture, mask, 2 * disc[:, :, 0, 0].T - 1

    return Task(draw(count), draw(100))


def rare(seed: int) -> Task:
    """Textures of which the last two are eight times as rare as the first in training."""
    task = textures(seed, count=960)
    x, y = task.train
    keep = (y < 2) | (torch.arange(len(y)) % 8 == 0)
    return replace(task, train=(x[keep], y[keep]))


def mislabelled(task: Task, seed: int, share: float = 0.3, classes: int = 10) -> Task:
    """The task with a share of the training labels drawn again."""
    random = torch.Generator().manual_seed(seed)
    x, y = task.train
    again = torch.rand(len(y), generator=random) < share
    return replace(task, train=(x, torch.where(again, torch.randint(classes, y.shape, generator=random), y)))


def shifted(x: Tensor, random: Generator, reach: int = 2) -> Tensor:
    """Images, each moved by a few pixels."""
    rows = torch.arange(x.shape[2]) + torch.randint(-reach, reach + 1, (len(x), 1), generator=random)
    columns = torch.arange(x.shape[3]) + torch.randint(-reach, reach + 1, (len(x), 1), generator=random)
    rows, columns = rows % x.shape[2], columns % x.shape[3]
    return x.transpose(0, 1)[:, torch.arange(len(x))[:, None, None], rows[:, :, None], columns[:, None]].transpose(0, 1)


def mixed(x: Tensor, y: Tensor, random: Generator, classes: int) -> tuple[Tensor, Tensor]:
    """Each image and target mixed with another's."""
    share = 0.5 + 0.5 * torch.rand(len(x), 1, generator=random)
    other = torch.randperm(len(x), generator=random)
    target = F.one_hot(y, classes).float()
    return (
        torch.lerp(x[other], x, share[:, :, None, None]),
        torch.lerp(target[other], target, share),
    )


def view(x: Tensor, random: Generator) -> Tensor:
    """Another view of the images: moved, dimmed and under noise."""
    bright = 0.7 + 0.6 * torch.rand(len(x), 1, 1, 1, generator=random)
    return bright * shifted(x, random, 5) + 0.1 * torch.randn(x.shape, generator=random)
