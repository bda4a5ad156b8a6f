"""What the kept-out cases are made of: four architectures, and the run that joins one of them with a task."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from ignite.engine import Engine
from ignite.metrics import Loss
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ignite_act.data import TensorLoader
from zoo.base import Batch, Case, Run, evaluated
from zoo.kept_out_tasks import Criterion, Task

Build = Callable[[int], Run]


def enters(
    cases: list[Case], kind: str, *, epochs: int = 6, accepted: Iterable[str] = (), layers: tuple[str, ...] = ()
) -> Callable[[Build], Build]:
    """A decorator that enters a function from a seed to a run among the cases, under its own name."""

    def enter(function: Build) -> Build:
        @functools.wraps(function)
        def build(seed: int) -> Run:
            torch.manual_seed(seed)
            return function(seed)

        cases.append(Case(function.__name__, kind, build, epochs, frozenset(accepted), layers))
        return function

    return enter


# Architectures


class MLP(nn.Module):
    """Linear layers that share one activation module, with a dropout behind each where wanted.

    Args:
        sizes: features of the input, of each hidden layer, and of the output.
        act: the activation.
        drop: share of activations that is dropped.
        end: comes behind the output.
    """

    def __init__(self, *sizes: int, act: nn.Module | None = None, drop: float = 0.0, end: nn.Module | None = None):
        super().__init__()
        self.hidden = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(sizes[:-1]))
        self.out = nn.Linear(sizes[-2], sizes[-1])
        self.act, self.drop = act or nn.ReLU(), nn.Dropout(drop)
        self.end = end or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for layer in self.hidden:
            x = self.drop(self.act(layer(x)))
        return self.end(self.out(x))


def conv(inputs: int, outputs: int, norm: bool, act: type[nn.Module], stride: int = 1) -> list[nn.Module]:
    """A convolution, its batch norm where wanted, and an activation."""
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=not norm)]
    return [*layers, *([nn.BatchNorm2d(outputs)] if norm else []), act()]


def cnn(classes: int, *, norm: bool = True, act: type[nn.Module] = nn.ReLU, end: nn.Module | None = None) -> nn.Module:
    """Two convolutions, each followed by a maximum over squares, the mean over the image, and a linear layer."""
    return nn.Sequential(
        *(*conv(1, 8, norm, act), nn.MaxPool2d(2), *conv(8, 16, norm, act), nn.MaxPool2d(2)),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, classes)),
        *([end] if end else []),
    )


class Basic(nn.Module):
    """The basic block of a ResNet, whose activations are functions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class ResNet(nn.Module):
    """A strided stem, basic blocks, the mean over the image, and a linear layer."""

    def __init__(self, classes: int, *, depth: int = 2, width: int = 12) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv(1, width, True, nn.ReLU, stride=2))
        self.blocks = nn.Sequential(*(Basic(width) for _ in range(depth)))
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


class Block(nn.Module):
    """A transformer block that normalises first."""

    def __init__(self, width: int, heads: int = 2, act: nn.Module | None = None, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.act, self.down = nn.Linear(width, 2 * width), act or nn.GELU(), nn.Linear(2 * width, width)

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v, is_causal=self.causal).transpose(1, 2).flatten(2))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(self.norm1(x))
        return x + self.down(self.act(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """Embedded tokens with learned positions, blocks, a norm, the mean over the sequence, and a linear layer."""

    def __init__(self, block: Callable[[int], nn.Module] = Block, *, words: int = 30, classes: int = 2, depth: int = 1):
        super().__init__()
        self.embed, self.positions = nn.Embedding(words, 32), nn.Parameter(0.1 * torch.randn(12, 32))
        self.blocks = nn.Sequential(*(block(32) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, classes)

    def features(self, x: Tensor) -> Tensor:
        return self.norm(self.blocks(self.embed(x) + self.positions[: x.shape[1]]))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean(1))


@torch.no_grad()
def weights(model: nn.Module, change: Callable[[Tensor], Any], *, skip: int = 0) -> None:
    """Initialises the weights of all linear layers and convolutions but for the last few."""
    layers = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    for layer in layers[: len(layers) - skip]:
        change(layer.weight)


# Runs


class Reshuffled(TensorLoader):
    """Takes the samples in another order whenever it is gone through."""

    def __iter__(self) -> Iterator[Batch]:
        self.set_epoch(self.epoch + 1)
        return super().__iter__()


def as_tensor(loss: Tensor, scores: Tensor) -> Tensor:
    """A step that returns the loss as it is."""
    return loss


def as_dict(loss: Tensor, scores: Tensor) -> dict[str, Any]:
    """A step that returns a mapping."""
    return {"y_pred": scores.detach(), "loss": loss.item()}


def as_tuple(loss: Tensor, scores: Tensor) -> tuple[float, float]:
    """A step that returns the loss and something else."""
    return loss.item(), scores.detach().abs().mean().item()


def fit(
    task: Task,
    model: nn.Module,
    optimizer: Optimizer,
    seed: int,
    *,
    batch: int = 32,
    objective: Criterion | None = None,
    returns: Callable[[Tensor, Tensor], Any] = lambda loss, scores: loss.item(),
    schedule: LRScheduler | None = None,
    clip: float | None = None,
    every: int = 1,
    clear: bool = True,
    update: bool = True,
    shuffle: bool = True,
    evaluate: bool = True,
) -> Run:
    """An ordinary run.

    Args:
        task: what is learned.
        model: the network.
        optimizer: its optimizer.
        seed: of the order of the samples.
        batch: samples in a batch.
        objective: what is minimised and returned, where it is not the loss of the task.
        returns: what the step returns, from the loss and the scores.
        schedule: goes on with each step of the optimizer.
        clip: greatest norm of the gradient.
        every: batches that make a step of the optimizer.
        clear: whether the gradient is set to zero between steps.
        update: whether the optimizer steps at all.
        shuffle: whether the samples come in a new order every epoch.
        evaluate: whether there is an evaluator.
    """
    criterion = objective or task.loss

    def advance() -> None:
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        if update:
            optimizer.step()
        if schedule is not None:
            schedule.step()

    def step(engine: Engine, samples: Batch) -> Any:
        model.train()
        x, y = samples
        if clear and (engine.state.iteration - 1) % every == 0:
            optimizer.zero_grad()
        scores = model(x)
        loss = criterion(scores, y)
        (loss / every).backward()
        if engine.state.iteration % every == 0:
            advance()
        return returns(loss, scores)

    training = Reshuffled(task.train, batch, shuffle=shuffle, seed=seed)
    run = Run(model, Engine(step), training, optimizer=optimizer)
    return replace(run, evaluator=judged(model, task), validation=TensorLoader(task.valid, 256)) if evaluate else run


def judged(model: nn.Module, task: Task) -> Engine:
    """An evaluator with the loss, and the accuracy where there is one."""
    if task.accuracy is not None:
        return evaluated(model, task.loss, task.accuracy())

    @torch.no_grad()
    def step(engine: Engine, samples: Batch) -> Batch:
        model.eval()
        return model(samples[0]), samples[1]

    evaluator = Engine(step)
    Loss(task.loss).attach(evaluator, "loss")
    return evaluator


def stepping(run: Run, step: Callable[[Engine, Batch], Any]) -> Run:
    """The run with another step."""
    run.trainer = Engine(step)
    return run
