"""What the tuned half of the zoo is made of: tasks, networks, and the run that joins the two."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from ignite.engine import Engine
from ignite.metrics import Accuracy, Loss
from sklearn.datasets import make_blobs, make_friedman1, make_moons
from torch import Tensor, nn
from torch.optim import Optimizer

from ignite_act import data
from ignite_act.data import Split, TensorLoader
from zoo.base import Batch, Case, Run, evaluated

LossFn = Callable[[Tensor, Tensor], Tensor]
Build = Callable[[int], Run]


class Cases(list[Case]):
    """Cases in the order of their definition."""

    def add(
        self, kind: str, *, epochs: int = 6, accepted: Iterable[str] = (), layers: tuple[str, ...] = ()
    ) -> Callable[[Build], Build]:
        """Makes the decorated function, which builds a run after torch has been seeded, a case of its name."""

        def decorate(function: Build) -> Build:
            def build(seed: int) -> Run:
                torch.manual_seed(seed)
                return function(seed)

            self.append(Case(function.__name__, kind, build, epochs, frozenset(accepted), layers))
            return function

        return decorate


# Tasks


@dataclass(frozen=True)
class Task:
    """Samples to train and to validate on, and what is minimised on them; ``accuracy`` is None for a regression."""

    training: Split
    validation: Split
    loss: LossFn = F.cross_entropy
    accuracy: Callable[[], Accuracy] | None = Accuracy


def binary_accuracy() -> Accuracy:
    """Accuracy of one logit."""
    return Accuracy(output_transform=lambda output: ((output[0] > 0).float(), output[1]))


def rounded_accuracy() -> Accuracy:
    """Accuracy of one probability."""
    return Accuracy(output_transform=lambda output: (output[0].round(), output[1]))


def task(x: Tensor, y: Tensor, held_out: int, loss: LossFn = F.cross_entropy, **options: Any) -> Task:
    """A task that validates on the last samples."""
    return Task(Split(x[:-held_out], y[:-held_out]), Split(x[-held_out:], y[-held_out:]), loss, **options)


@cache
def digits() -> Task:
    """Handwritten digits, ``(N, 1, 8, 8)`` in [-1, 1]."""
    parts = data.digits()
    return Task(parts.train, parts.validation)


@cache
def raw_digits() -> Task:
    """The same with the intensities as they are stored, from 0 to 16."""
    return with_inputs(digits(), lambda x: 8 * x + 8)


@cache
def circles() -> Task:
    """Two noisy circles, one logit."""
    parts = data.circles()
    return Task(parts.train, parts.validation, F.binary_cross_entropy_with_logits, binary_accuracy)


def moons(seed: int, noise: float = 0.15) -> Task:
    """Two half moons, one logit."""
    points, targets = make_moons(1000, noise=noise, random_state=seed)
    x, y = torch.from_numpy(points).float(), torch.from_numpy(targets).float().view(-1, 1)
    return task(x, y, 250, F.binary_cross_entropy_with_logits, accuracy=binary_accuracy)


def blobs(seed: int, spread: float = 2.0) -> Task:
    """Five blobs of eight features, standardised."""
    points, targets = make_blobs(1000, 8, centers=5, cluster_std=spread, center_box=(-4, 4), random_state=seed)
    x = torch.from_numpy(points).float()
    return task((x - x.mean(0)) / x.std(0), torch.from_numpy(targets).long(), 250)


def friedman(seed: int) -> Task:
    """Friedman's first regression: five of ten features matter; targets of mean 0 and standard deviation 1."""
    points, targets = make_friedman1(1000, 10, noise=1.0, random_state=seed)
    x, y = torch.from_numpy(points).float(), torch.from_numpy(targets).float().view(-1, 1)
    return task(2 * x - 1, (y - y.mean()) / y.std(), 250, F.mse_loss, accuracy=None)


def majority(seed: int, length: int = 12) -> Task:
    """Sequences of 24 tokens in three groups: which group is the most frequent."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (1000,), generator=generator)
    tokens = torch.randint(24, (1000, length), generator=generator)
    steered = torch.rand(1000, length, generator=generator) < 0.5
    return task(torch.where(steered, tokens // 3 * 3 + y[:, None], tokens), y, 250)


def order(seed: int, length: int = 10) -> Task:
    """Sequences in which tokens 1 and 2 occur once each: which comes first."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, 20, (1000, length), generator=generator)
    places = torch.rand(1000, length, generator=generator).argsort(1)[:, :2]
    tokens.scatter_(1, places, torch.tensor([1, 2]).expand(1000, 2))
    return task(tokens, (places[:, 0] < places[:, 1]).long(), 250)


def chain(seed: int, length: int = 8) -> Task:
    """Walks in which a token has one usual successor: what comes next; tokens 16 to 63 never occur."""
    generator = torch.Generator().manual_seed(seed)
    successor = torch.randperm(16, generator=generator)
    walk = [torch.randint(16, (1000,), generator=generator)]
    for _ in range(length):
        anything = torch.randint(16, (1000,), generator=generator)
        walk.append(torch.where(torch.rand(1000, generator=generator) < 0.1, anything, successor[walk[-1]]))
    return task(torch.stack(walk[:-1], 1), walk[-1], 250)


def stripes(seed: int, noise: float = 0.8, n: int = 800, held_out: int = 200) -> Task:
    """Noisy images ``(N, 3, 12, 12)`` of stripes in four directions."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(4, (n,), generator=generator)
    angle, phase = y * torch.pi / 4, 2 * torch.pi * torch.rand(n, generator=generator)
    row, column = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
    along = angle.cos()[:, None, None] * row + angle.sin()[:, None, None] * column
    waves = (1.6 * along + phase[:, None, None]).sin()[:, None]
    return task(waves + noise * torch.randn(n, 3, 12, 12, generator=generator), y, held_out)


def with_inputs(old: Task, change: Callable[[Tensor], Tensor]) -> Task:
    """The task with other inputs."""
    parts = (Split(change(part.x), part.y) for part in (old.training, old.validation))
    return Task(*parts, old.loss, old.accuracy)


def with_labels(old: Task, change: Callable[[Tensor], Tensor], n: int | None = None) -> Task:
    """The task with other labels in the first ``n`` samples to train on, the only ones that are left."""
    return Task(Split(old.training.x[:n], change(old.training.y[:n])), old.validation, old.loss, old.accuracy)


# Networks


class MLP(nn.Module):
    """Linear layers with an activation, and what else is wanted, between them.

    Args:
        sizes: features of the input, of each hidden layer and of the output.
        act: makes an activation; None for none.
        norm: makes a norm before it, from the number of features.
        dropout: share of activations that is dropped.
        last: comes after the output.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        act: Callable[[], nn.Module] | None = nn.ReLU,
        *,
        norm: Callable[[int], nn.Module] | None = None,
        dropout: float = 0.0,
        last: nn.Module | None = None,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes[:-1]):
            layers.append(nn.Linear(before, after))
            layers += [norm(after)] if norm else []
            layers += [act()] if act else []
            layers += [nn.Dropout(dropout)] if dropout else []
        layers.append(nn.Linear(sizes[-2], sizes[-1]))
        self.layers = nn.Sequential(*layers, *([last] if last else []))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.flatten(1))


class Functional(nn.Module):
    """Two hidden layers whose activation is a function."""

    def __init__(self, features: int, width: int, outputs: int, act: Callable[[Tensor], Tensor] = F.relu) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(features, width), nn.Linear(width, width)
        self.head = nn.Linear(width, outputs)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.fc2(self.act(self.fc1(x.flatten(1))))))


class ConvNet(nn.Module):
    """Two convolutions with an activation function, a norm before it where wanted, pooling, and a linear head."""

    def __init__(
        self,
        channels: int = 1,
        outputs: int = 10,
        act: Callable[[Tensor], Tensor] = F.relu,
        norm: Callable[[int], nn.Module] = lambda _: nn.Identity(),
    ) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(channels, 8, 3, padding=1), norm(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 16, 3, padding=1), norm(16)
        self.head = nn.Linear(64, outputs)
        self.act = act

    def features(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.act(self.norm1(self.conv1(x))), 2)
        return F.adaptive_avg_pool2d(self.act(self.norm2(self.conv2(x))), 2).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class ConvBlock(nn.Module):
    """A residual block of two convolutions; their biases do nothing, for a batch norm follows."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x + self.norm2(self.conv2(self.act(self.norm1(self.conv1(x))))))


class ResidualNet(nn.Module):
    """A stem, residual blocks, global average pooling and a head."""

    def __init__(self, channels: int, outputs: int, blocks: int = 2, width: int = 12) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(*(ConvBlock(width) for _ in range(blocks)))
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(F.relu(self.stem(x))).mean((2, 3)))


class LinearBlock(nn.Module):
    """A residual block of two linear layers behind a layer norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


class AttentionBlock(nn.Module):
    """Self-attention with one head, then a residual block of linear layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(width), nn.Linear(width, 3 * width)
        self.out, self.linear = nn.Linear(width, width), LinearBlock(width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.mix(self.norm(x)).chunk(3, -1)
        weights = F.softmax(query @ key.transpose(1, 2) / x.shape[-1] ** 0.5, -1)
        return self.linear(x + self.out(weights @ value))


class TokenNet(nn.Module):
    """Embedded tokens, blocks, the mean over the sequence, and a head."""

    def __init__(
        self, tokens: int, outputs: int, block: nn.Module, *, width: int = 24, length: int = 12, positions: bool = True
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, width)
        self.position = nn.Parameter(0.5 * torch.randn(length, width)) if positions else 0.0
        self.block, self.head = block, nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.embedding(x) + self.position).mean(1))


class TiedNet(nn.Module):
    """A language model of one block that reads and writes tokens with the same weights."""

    def __init__(self, tokens: int, length: int, *, width: int = 32, std: float = 0.1) -> None:
        super().__init__()
        self.embedding, self.block, self.norm = nn.Embedding(tokens, width), AttentionBlock(width), nn.LayerNorm(width)
        self.position = nn.Parameter(std * torch.randn(length, width))
        self.head = nn.Linear(width, tokens, bias=False)
        self.head.weight = self.embedding.weight
        nn.init.normal_(self.embedding.weight, std=std)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.block(self.embedding(x) + self.position)[:, -1]))


class Recurrent(nn.Module):
    """Embedded tokens, a recurrent layer, and a head on its last output."""

    def __init__(self, tokens: int, outputs: int, rnn: nn.RNNBase) -> None:
        super().__init__()
        self.embedding, self.rnn = nn.Embedding(tokens, rnn.input_size), rnn
        self.head = nn.Linear(rnn.hidden_size, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.embedding(x))[0][:, -1])


@torch.no_grad()
def initialise(model: nn.Module, change: Callable[[Tensor], object], kinds: tuple[type, ...] = (nn.Linear,)) -> None:
    """Does something to the weights of all layers of some types."""
    for module in model.modules():
        if isinstance(module, kinds):
            change(module.weight)


# Runs

Returns = Literal["number", "tensor", "mapping", "tuple"]


def output(returns: Returns, loss: Tensor, prediction: Tensor) -> Any:
    """What a step returns, in the manner of its author."""
    if returns == "tensor":
        return loss
    if returns == "mapping":
        return {"loss": loss.item(), "batch_size": len(prediction)}
    return (loss.item(), prediction.detach()) if returns == "tuple" else loss.item()


def fit(
    task: Task,
    model: nn.Module,
    optimizer: Optimizer,
    seed: int,
    *,
    batch: int = 64,
    shuffle: bool = True,
    loss_fn: LossFn | None = None,
    returns: Returns = "number",
    accumulate: int = 1,
    clip: float | None = None,
    clear: Callable[[int], bool] | None = None,
    sign: int = 1,
    evaluate: bool = True,
) -> Run:
    """A run in which each step is an ordinary one, but for what is asked for.

    Args:
        task: what to learn.
        model: the network.
        optimizer: of its parameters.
        seed: of the order of the samples.
        batch: samples in a batch.
        shuffle: whether the order is new every epoch.
        loss_fn: to train with, instead of the task's.
        returns: what the step returns.
        accumulate: batches whose gradients make one step.
        clip: largest norm of the gradient.
        clear: before which iterations, from 1, the gradient is cleared; before every new step if None.
        sign: of what is minimised.
        evaluate: whether there is an evaluator.
    """
    criterion = loss_fn or task.loss
    clears = clear or (lambda iteration: (iteration - 1) % accumulate == 0)

    def step(engine: Engine, samples: Batch) -> Any:
        model.train()
        x, y = samples
        if clears(engine.state.iteration):
            optimizer.zero_grad()
        prediction = model(x)
        loss = criterion(prediction, y)
        (sign * loss / accumulate).backward()
        if engine.state.iteration % accumulate == 0:
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
        return output(returns, loss, prediction)

    loader = TensorLoader(task.training, batch, shuffle=shuffle, seed=seed)
    if not evaluate:
        return Run(model, Engine(step), loader, optimizer=optimizer)
    evaluator = evaluated(model, task.loss, task.accuracy()) if task.accuracy else loss_only(model, task.loss)
    return Run(model, Engine(step), loader, evaluator, TensorLoader(task.validation, 256), optimizer)


def loss_only(model: nn.Module, loss_fn: LossFn) -> Engine:
    """An evaluator for a task that has no accuracy."""

    @torch.no_grad()
    def step(engine: Engine, samples: Batch) -> Batch:
        model.eval()
        return model(samples[0]), samples[1]

    evaluator = Engine(step)
    Loss(loss_fn).attach(evaluator, "loss")
    return evaluator
