"""What the unseen cases are made of: tasks, networks, and a trainer with the options that people use."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from ignite.engine import Engine, Events
from ignite.metrics import Accuracy, Loss
from sklearn.datasets import load_breast_cancer, make_blobs, make_friedman1, make_moons
from torch import Tensor, nn
from torch.optim import Optimizer

from ignite_act import data
from ignite_act.data import Split, TensorLoader
from zoo.base import Batch, Case, Run, evaluated

Criterion = Callable[[Tensor, Tensor], Tensor]
Output = Literal["number", "tensor", "dict", "tuple"]
Activation = Callable[[], nn.Module]
Builder = Callable[[int], Run]


@dataclass(frozen=True)
class Task:
    """Samples to train on and to validate with, their loss, and whether there is an accuracy.

    A single output says yes where it is greater than ``above``.
    """

    train: Split
    valid: Split
    loss: Criterion = F.cross_entropy
    above: float | None = None
    scored: bool = True

    def map(self, x: Callable[[Tensor], Tensor] | None = None, y: Callable[[Tensor], Tensor] | None = None) -> Task:
        """The same task with inputs or targets changed in both parts."""
        parts = [Split(x(part.x) if x else part.x, y(part.y) if y else part.y) for part in (self.train, self.valid)]
        return replace(self, train=parts[0], valid=parts[1])

    def first(self, n: int) -> Task:
        """The same task with no more than ``n`` samples to train on."""
        return replace(self, train=Split(self.train.x[:n], self.train.y[:n]))

    def noisy(self, share: float, classes: int) -> Task:
        """The same task with a share of the labels to train on drawn by lot."""
        y = self.train.y.clone()
        wrong = torch.randperm(len(y))[: round(share * len(y))]
        y[wrong] = torch.randint(classes, wrong.shape)
        return replace(self, train=Split(self.train.x, y))


def task(x: Tensor, y: Tensor, seed: int, **options: Any) -> Task:
    """Two thirds of the samples to train on, one third to validate with."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    first, last = order.tensor_split([2 * len(x) // 3])
    return Task(Split(x[first], y[first]), Split(x[last], y[last]), **options)


YES_NO: dict[str, Any] = {"loss": F.binary_cross_entropy_with_logits, "above": 0.0}


def _floats(array: Any) -> Tensor:
    return torch.as_tensor(array, dtype=torch.float32)


def standard(x: Tensor) -> Tensor:
    """Columns of mean 0 and standard deviation 1."""
    return (x - x.mean(0)) / x.std(0)


def digits(seed: int, n: int = 900) -> Task:
    """Handwritten digits in [-1, 1]."""
    parts = data.digits()
    order = torch.randperm(len(parts.train), generator=torch.Generator().manual_seed(seed))[:n]
    return Task(Split(parts.train.x[order], parts.train.y[order]), parts.validation)


def circles(seed: int) -> Task:
    """A circle around a circle; one logit."""
    points = data.circles().train
    return task(points.x, points.y, seed, **YES_NO)


def moons(seed: int, noise: float = 0.2) -> Task:
    """Two half moons; one logit."""
    x, y = make_moons(900, noise=noise, random_state=seed)
    return task(_floats(x), _floats(y)[:, None], seed, **YES_NO)


def tumours(seed: int, raw: bool = False) -> Task:
    """569 tumours by 30 quantities, benign or not; one logit."""
    x, y = load_breast_cancer(return_X_y=True)
    return task(_floats(x) if raw else standard(_floats(x)), _floats(y)[:, None], seed, **YES_NO)


def blobs(seed: int, spread: float = 1.5, classes: int = 5, n: int = 900) -> Task:
    """Blobs in eight dimensions, standardised."""
    x, y = make_blobs(n, 8, centers=classes, cluster_std=spread, center_box=(-3, 3), random_state=seed)
    return task(standard(_floats(x)), torch.as_tensor(y).long(), seed)


def friedman(seed: int, noise: float = 0.5) -> Task:
    """Friedman's first function of five of ten numbers, standardised; a regression."""
    x, y = make_friedman1(900, noise=noise, random_state=seed)
    return task(standard(_floats(x)), standard(_floats(y)[:, None]), seed, loss=F.mse_loss, scored=False)


def gratings(seed: int, n: int = 750, noise: float = 1.0) -> Task:
    """Images ``(N, 1, 10, 10)`` of waves that go in one of four directions, with any phase."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(4, (n,), generator=generator)
    phase, angle = 6.3 * torch.rand(n, 1, 1, generator=generator), (y * torch.pi / 4)[:, None, None]
    row, column = torch.meshgrid(torch.arange(10.0), torch.arange(10.0), indexing="ij")
    waves = torch.sin(1.4 * (row * angle.sin() + column * angle.cos()) + phase)
    return task((waves + noise * torch.randn(n, 10, 10, generator=generator))[:, None], y, seed)


def topics(seed: int, n: int = 750, length: int = 10) -> Task:
    """Texts of 40 words on one of four topics; half of the words are those of the topic."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(4, (n,), generator=generator)
    own = torch.randint(10, (n, length), generator=generator) + 10 * y[:, None]
    other = torch.randint(40, (n, length), generator=generator)
    return task(torch.where(torch.rand(n, length, generator=generator) < 0.5, own, other), y, seed)


def mlp(*sizes: int, act: Activation = nn.ReLU, drop: float = 0.0) -> nn.Sequential:
    """A perceptron: ``fc1, act1, fc2, act2, ..., out``."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(flat=nn.Flatten())
    for i, (inputs, units) in enumerate(pairwise(sizes[:-1]), 1):
        layers[f"fc{i}"], layers[f"act{i}"] = nn.Linear(inputs, units), act()
        if drop:
            layers[f"drop{i}"] = nn.Dropout(drop)
    layers["out"] = nn.Linear(sizes[-2], sizes[-1])
    return nn.Sequential(layers)


def cnn(
    classes: int, *channels: int, act: Activation = nn.ReLU, norm: bool = True, drop: float = 0.0, side: int = 2
) -> nn.Sequential:
    """Convolutions, each with its norm and activation; ``conv1, norm1, act1, ..., out``."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (inputs, outputs) in enumerate(pairwise((1, *channels)), 1):
        layers[f"conv{i}"] = nn.Conv2d(inputs, outputs, 3, padding=1)
        if norm:
            layers[f"norm{i}"] = nn.BatchNorm2d(outputs)
        layers[f"act{i}"] = act()
        if i == 1:
            layers["pool"] = nn.MaxPool2d(2)
    layers["mean"], layers["flat"] = nn.AdaptiveAvgPool2d(side), nn.Flatten()
    if drop:
        layers["drop"] = nn.Dropout(drop)
    layers["out"] = nn.Linear(channels[-1] * side**2, classes)
    return nn.Sequential(layers)


class Net(nn.Module):
    """A perceptron that calls `F.relu`: ``hidden.0, hidden.1, ..., out``."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(sizes[:-1]))
        self.out = nn.Linear(*sizes[-2:])

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, K)``."""
        x = x.flatten(1)
        for layer in self.hidden:
            x = F.relu(layer(x))
        return self.out(x)


class Residual(nn.Module):
    """Two convolutions with batch norms around which the signal may pass."""

    def __init__(self, channels: int, act: Activation = nn.ReLU) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.conv2, self.norm2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.act1, self.act2 = act(), act()

    def forward(self, x: Tensor) -> Tensor:
        """A tensor of the same shape."""
        return self.act2(x + self.norm2(self.conv2(self.act1(self.norm1(self.conv1(x))))))


class ResNet(nn.Module):
    """A small residual net for images: ``stem, blocks.0, ..., out``."""

    def __init__(
        self, classes: int, channels: int = 10, depth: int = 2, act: Activation = nn.ReLU, drop: float = 0.0
    ) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, channels, 3, stride=2, padding=1), nn.BatchNorm2d(channels)
        self.blocks = nn.Sequential(*[Residual(channels, act) for _ in range(depth)])
        self.drop, self.out = nn.Dropout(drop), nn.Linear(channels * 4, classes)

    def features(self, x: Tensor) -> Tensor:
        """What the blocks begin with."""
        return self.norm(self.stem(x))

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, K)``."""
        x = F.adaptive_avg_pool2d(self.blocks(self.features(x)), 2)
        return self.out(self.drop(x.flatten(1)))


class Skip(nn.Module):
    """A perceptron of one hidden layer behind a layer norm, around which the signal may pass."""

    def __init__(self, width: int, act: Activation = nn.ReLU) -> None:
        super().__init__()
        self.norm, self.up, self.act, self.down = (
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            act(),
            nn.Linear(2 * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """A tensor of the same shape."""
        return x + self.down(self.act(self.up(self.norm(x))))


def skipping(inputs: int, width: int, classes: int, depth: int = 2, act: Activation = nn.ReLU) -> nn.Sequential:
    """A residual perceptron: ``stem, block1, block2, ..., out``."""
    blocks = [(f"block{i + 1}", Skip(width, act)) for i in range(depth)]
    ends = ("stem", nn.Linear(inputs, width)), ("out", nn.Linear(width, classes))
    return nn.Sequential(OrderedDict([("flat", nn.Flatten()), ends[0], *blocks, ends[1]]))


class Encoder(nn.Module):
    """A block of a transformer with the norms in front."""

    def __init__(self, width: int, act: Activation, drop: float) -> None:
        super().__init__()
        self.norm, self.drop = nn.LayerNorm(width), nn.Dropout(drop)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.feed = Skip(width, act)

    def forward(self, x: Tensor) -> Tensor:
        """A tensor of the same shape ``(N, T, width)``."""
        y = self.norm(x)
        return self.feed(x + self.drop(self.attention(y, y, y, need_weights=False)[0]))


class Reader(nn.Module):
    """A small transformer: ``embed, place, blocks.0, ..., norm, out``."""

    def __init__(
        self,
        classes: int = 4,
        words: int = 40,
        width: int = 16,
        depth: int = 1,
        act: Activation = nn.GELU,
        drop: float = 0.0,
        length: int = 10,
    ) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(words, width), nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.Sequential(*[Encoder(width, act, drop) for _ in range(depth)])
        self.drop, self.norm, self.out = nn.Dropout(drop), nn.LayerNorm(width), nn.Linear(width, classes)

    def enter(self, words: Tensor) -> Tensor:
        """The vectors of words, with their places."""
        return self.embed(words) + self.place

    def forward(self, words: Tensor) -> Tensor:
        """Logits ``(N, K)``."""
        return self.out(self.drop(self.norm(self.blocks(self.drop(self.enter(words))).mean(1))))


Step = Callable[[Engine, Batch], Any]


def fit(
    what: Task,
    model: nn.Module,
    optimizer: Optimizer,
    seed: int,
    *,
    batch: int = 32,
    returns: Output = "number",
    evaluate: bool = True,
    loss: Criterion | None = None,
    clip: float | None = None,
    accumulate: int = 1,
    schedule: Any = None,
    step: Step | None = None,
) -> Run:
    """A run; ``loss`` is that of training where it is not the task's, ``schedule`` is stepped after every epoch."""
    loader = TensorLoader(what.train, batch, shuffle=True, seed=seed)
    criterion = loss or what.loss

    def usual(engine: Engine, pair: Batch) -> Any:
        model.train()
        value = criterion(model(pair[0]), pair[1])
        (value / accumulate).backward()
        if engine.state.iteration % accumulate == 0:
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()
        return output(value, returns)

    trainer = Engine(step or usual)
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda engine: loader.set_epoch(engine.state.epoch))
    if schedule is not None:
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: schedule.step())
    evaluator = _evaluator(what, model) if evaluate else None
    validation = TensorLoader(what.valid, 128) if evaluate else None
    return Run(model, trainer, loader, evaluator, validation, optimizer)


def output(value: Tensor, returns: Output) -> Any:
    """The loss in one of the shapes that trainers return it in."""
    loss = value.detach()
    shapes = {"number": loss.item(), "tensor": loss, "dict": {"loss": loss.item()}, "tuple": (loss.item(), 0)}
    return shapes[returns]


def _evaluator(what: Task, model: nn.Module) -> Engine:
    if not what.scored:
        return _loss_only(model, what.loss)
    yes = what.above
    if yes is None:
        return evaluated(model, what.loss)
    return evaluated(model, what.loss, Accuracy(lambda pair: ((pair[0] > yes).long(), pair[1].long())))


def _loss_only(model: nn.Module, loss: Criterion) -> Engine:
    @torch.no_grad()
    def step(engine: Engine, batch: Batch) -> Batch:
        model.eval()
        return model(batch[0]), batch[1]

    evaluator = Engine(step)
    Loss(loss).attach(evaluator, "loss")
    return evaluator


def initialise(layers: Iterable[nn.Module], change: Callable[[Tensor], Any]) -> None:
    """Changes the weights of linear layers and convolutions among these."""
    with torch.no_grad():
        for layer in layers:
            if isinstance(layer, nn.Linear | nn.Conv2d):
                change(layer.weight)


def enters(
    cases: list[Case], kind: str, *, epochs: int = 5, accepted: Iterable[str] = (), layers: Iterable[str] = ()
) -> Callable[[Builder], Builder]:
    """Decorates a builder, which becomes a case of its name; the seed is set before it is called."""

    def enter(function: Builder) -> Builder:
        def build(seed: int) -> Run:
            torch.manual_seed(seed)
            return function(seed)

        cases.append(Case(function.__name__, kind, build, epochs, frozenset(accepted), tuple(layers)))
        return function

    return enter
