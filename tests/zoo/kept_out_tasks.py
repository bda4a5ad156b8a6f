"""What the kept-out cases learn: tables, points, images and sequences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from ignite.metrics import Accuracy
from sklearn.datasets import load_diabetes, load_iris, make_blobs
from torch import Tensor

from ignite_act import data
from ignite_act.data import Split

Change = Callable[[Tensor], Tensor]
Criterion = Callable[[Tensor, Tensor], Tensor]


def by_argmax() -> Accuracy:
    """Accuracy where every class has a logit."""
    return Accuracy()


def by_sign() -> Accuracy:
    """Accuracy of a single logit."""
    return Accuracy(lambda output: ((output[0] > 0).long(), output[1].long()))


def by_half() -> Accuracy:
    """Accuracy of a single probability."""
    return Accuracy(lambda output: ((output[0] > 0.5).long(), output[1].long()))


@dataclass(frozen=True)
class Task:
    """Samples for training and validation, their loss, and the accuracy where there is one."""

    train: Split
    valid: Split
    loss: Criterion = F.cross_entropy
    accuracy: Callable[[], Accuracy] | None = by_argmax

    def inputs(self, change: Change) -> Task:
        """The same with other inputs."""
        return replace(self, train=_changed(self.train, x=change), valid=_changed(self.valid, x=change))

    def targets(self, change: Change) -> Task:
        """The same with other targets."""
        return replace(self, train=_changed(self.train, y=change), valid=_changed(self.valid, y=change))

    def training(self, *, x: Change | None = None, y: Change | None = None, n: int | None = None) -> Task:
        """The same with the first ``n`` samples to train on, and these changed."""
        return replace(self, train=_changed(Split(self.train.x[:n], self.train.y[:n]), x=x, y=y))


def _changed(split: Split, *, x: Change | None = None, y: Change | None = None) -> Split:
    return Split(x(split.x) if x else split.x, y(split.y) if y else split.y)


def split(x: Tensor, y: Tensor, seed: int, share: float = 0.7, **options: Any) -> Task:
    """A task of which a share of the samples, in an order of the seed, is trained on."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    first, last = order.tensor_split([round(share * len(x))])
    return Task(Split(x[first], y[first]), Split(x[last], y[last]), **options)


BINARY: dict[str, Any] = {"loss": F.binary_cross_entropy_with_logits, "accuracy": by_sign}
REGRESSION: dict[str, Any] = {"loss": F.mse_loss, "accuracy": None}


def digits(seed: int, n: int = 960) -> Task:
    """Handwritten digits, ``(N, 1, 8, 8)`` in [-1, 1]."""
    parts = data.digits()
    order = torch.randperm(len(parts.train), generator=torch.Generator().manual_seed(seed))[:n]
    return Task(Split(parts.train.x[order], parts.train.y[order]), parts.validation)


def circles(seed: int) -> Task:
    """Two circles, one inside the other, one logit."""
    everything = data.circles().train
    return split(everything.x, everything.y, seed, **BINARY)


def blobs(seed: int, spread: float = 2.5, n: int = 1000) -> Task:
    """Four blobs in six dimensions, standardised; they overlap a little."""
    points, labels = make_blobs(n, 6, centers=4, cluster_std=spread, center_box=(-5, 5), random_state=seed)
    return split(standardised(tensor(points)), torch.from_numpy(labels).long(), seed)


def iris(seed: int) -> Task:
    """150 flowers of three kinds by four lengths, standardised."""
    lengths, kinds = load_iris(return_X_y=True)
    return split(standardised(tensor(lengths)), torch.from_numpy(kinds).long(), seed)


def diabetes(seed: int) -> Task:
    """442 patients by ten standardised quantities; the progression of a disease, of which half is chance."""
    quantities, progression = load_diabetes(return_X_y=True)
    return split(standardised(tensor(quantities)), standardised(tensor(progression)[:, None]), seed, **REGRESSION)


def surface(seed: int, n: int = 800) -> Task:
    """A smooth function of three of five numbers, with little noise."""
    generator = torch.Generator().manual_seed(seed)
    x = 4 * torch.rand(n, 5, generator=generator) - 2
    y = torch.sin(2 * x[:, :1]) + x[:, 1:2] * x[:, 2:3] / 2
    return split(x, y + 0.1 * torch.randn(n, 1, generator=generator), seed, **REGRESSION)


def rare(seed: int) -> Task:
    """One sample in ten is of the second class, shifted in all of eight dimensions; one logit."""
    generator = torch.Generator().manual_seed(seed)
    y = (torch.arange(1200) % 10 == 0).float()[:, None]
    return split(torch.randn(1200, 8, generator=generator) + 1.1 * y, y, seed, **BINARY)


def shapes(seed: int, n: int = 700, noise: float = 0.4) -> Task:
    """Images ``(N, 1, 12, 12)`` of a square, a disc, a cross or a saltire somewhere in noise."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(4, (n,), generator=generator)
    centre = 3 + 6 * torch.rand(n, 2, 1, 1, generator=generator)
    row, column = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
    down, right = (row - centre[:, 0]).abs(), (column - centre[:, 1]).abs()
    far, near = torch.maximum(down, right), torch.minimum(down, right)
    square, disc = (far - 2.5).abs() < 0.6, (down**2 + right**2) < 6
    cross, saltire = (far < 3.2) & (near < 0.7), (far < 3.2) & (far - near < 0.9)
    drawn = torch.stack([square, disc, cross, saltire])[y, torch.arange(n)].float()
    return split((2 * drawn - 0.5 + noise * torch.randn(n, 12, 12, generator=generator))[:, None], y, seed)


def reviews(seed: int, n: int = 1000, length: int = 12) -> Task:
    """Sequences of 30 words, each good or bad by some degree, and whether the good ones outweigh the bad."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(30, (n, length), generator=generator)
    degree = torch.randn(30, generator=generator)
    degree -= degree.mean()
    return split(words, (degree[words].sum(1) > 0).long(), seed)


def progressions(seed: int, n: int = 700, length: int = 10) -> Task:
    """Clock hours that go on by a step of 1 to 3, which differs by sequence; a next one for each."""
    generator = torch.Generator().manual_seed(seed)
    start, step = torch.randint(12, (n, 1), generator=generator), torch.randint(1, 4, (n, 1), generator=generator)
    hours = (start + step * torch.arange(length + 1)) % 12
    return split(hours[:, :-1], hours[:, 1:], seed)


def tensor(array: Any) -> Tensor:
    """An array in single precision."""
    return torch.from_numpy(array).float()


def standardised(x: Tensor) -> Tensor:
    """Columns with mean 0 and standard deviation 1."""
    return (x - x.mean(0)) / x.std(0)
