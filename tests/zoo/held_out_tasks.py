"""What the held-out cases learn, and how a case is put together: small tasks, one trainer with options, a register."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from ignite.engine import Engine
from ignite.metrics import Accuracy, Loss
from sklearn.datasets import load_breast_cancer, load_wine, make_friedman1, make_moons
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ignite_act import data
from ignite_act.data import Split, TensorLoader
from zoo.base import HEALTHY, Batch, Case, Run, evaluated

LossFunction = Callable[[Tensor, Tensor], Tensor]
Build = Callable[[int], Run]
Scores = Literal["classes", "logit", "probability", "value"]


@dataclass(frozen=True)
class Task:
    """Samples to learn and to validate on, the loss, and whether a score is a class, a logit or a plain value."""

    training: Split
    validation: Split
    loss_fn: LossFunction
    scores: Scores = "classes"

    def using(self, loss_fn: LossFunction, scores: Scores) -> Task:
        """The same samples under another loss."""
        return replace(self, loss_fn=loss_fn, scores=scores)

    def mapped(self, x: Callable[[Tensor], Tensor] = lambda x: x, y: Callable[[Tensor], Tensor] = lambda y: y) -> Task:
        """The same loss on changed inputs and targets."""
        return replace(
            self,
            training=Split(x(self.training.x), y(self.training.y)),
            validation=Split(x(self.validation.x), y(self.validation.y)),
        )

    def first(self, samples: int) -> Task:
        """With fewer samples to train on."""
        return replace(self, training=Split(self.training.x[:samples], self.training.y[:samples]))


def task(x: Tensor, y: Tensor, training: int, seed: int, loss_fn: LossFunction, scores: Scores = "classes") -> Task:
    """A task from samples of which the first so many of a random order are trained on."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    first, last = order[:training], order[training:]
    return Task(Split(x[first], y[first]), Split(x[last], y[last]), loss_fn, scores)


def spirals(seed: int) -> Task:
    """Three arms of a spiral in the plane, 900 points."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(900) % 3
    radius = torch.rand(900, generator=generator)
    angle = 2 * math.pi * (y / 3 + 0.8 * radius) + 0.15 * torch.randn(900, generator=generator)
    x = 2 * radius.unsqueeze(1) * torch.stack([angle.cos(), angle.sin()], dim=1)
    return task(x, y, 600, seed, F.cross_entropy)


def moons(seed: int) -> Task:
    """Two half circles, 900 points, one logit."""
    x, y = make_moons(900, noise=0.15, random_state=seed)
    x, y = torch.from_numpy(x).float(), torch.from_numpy(y).float().unsqueeze(1)
    return task(x, y, 600, seed, F.binary_cross_entropy_with_logits, "logit")


def bars(seed: int) -> Task:
    """Noisy images ``(N, 1, 12, 12)`` of a bar in one of four directions: which one."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(800) % 4
    rows, columns = torch.meshgrid(torch.arange(12), torch.arange(12), indexing="ij")
    across = torch.stack([rows, columns, (rows + columns) / 2, (rows - columns) / 2 + 5.5])[y]
    offset = 2 + 7 * torch.rand(800, 1, 1, generator=generator)
    bar = ((across - offset).abs() < 1).float()
    return task((bar + 0.3 * torch.randn(800, 12, 12, generator=generator)).unsqueeze(1), y, 600, seed, F.cross_entropy)


def waves(seed: int) -> Task:
    """Noisy signals ``(N, 1, 32)``: sine, square or sawtooth, of any phase and frequency."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(750) % 3
    cycles, phase = 1.5 + 2 * torch.rand(750, 1, generator=generator), torch.rand(750, 1, generator=generator)
    turns = cycles * torch.linspace(0, 1, 32) + phase
    sine = (2 * math.pi * turns).sin()
    shapes = torch.stack([1.2 * sine, 0.8 * sine.sign(), 3 * (turns % 1) - 1.5], dim=1)
    x = shapes[torch.arange(750), y] + 0.1 * torch.randn(750, 32, generator=generator)
    return task(x.unsqueeze(1), y, 500, seed, F.cross_entropy)


def majority(seed: int, length: int = 12) -> Task:
    """Token sequences ``(N, length)`` of a vocabulary of 20, of which 4 to 6 matter: which of them is the commonest."""
    generator = torch.Generator().manual_seed(seed)
    wanted = torch.randint(3, (900, 1), generator=generator) + 4
    noise = torch.randint(3, 20, (900, length), generator=generator)
    x = torch.where(torch.rand(900, length, generator=generator) < 0.4, wanted, noise)
    y = torch.stack([(x == token).sum(1) for token in (4, 5, 6)], dim=1).argmax(1)
    return task(x, y, 600, seed, F.cross_entropy)


def precedence(seed: int) -> Task:
    """Token sequences ``(N, 10)`` that hold a 1 and a 2 once each among others: which one comes first."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(3, 10, (1000, 10), generator=generator)
    places = torch.rand(1000, 10, generator=generator).argsort(dim=1)[:, :2]
    x.scatter_(1, places, torch.tensor([1, 2]).expand(1000, 2))
    return task(x, (places[:, 0] > places[:, 1]).long(), 700, seed, F.cross_entropy)


def parity(seed: int) -> Task:
    """Whether an odd number of 16 signs is negative: nothing that gradient descent finds in a few epochs."""
    x = torch.randint(2, (1500, 16), generator=torch.Generator().manual_seed(seed)).float() * 2 - 1
    return task(x, (x.prod(1) < 0).long(), 1000, seed, F.cross_entropy)


def wine(seed: int, *, standardised: bool = True) -> Task:
    """scikit-learn's 178 wines by 13 measured quantities, three classes."""
    x, y = (torch.from_numpy(array) for array in load_wine(return_X_y=True))
    x = (x - x.mean(0)) / x.std(0) if standardised else x
    return task(x.float(), y.long(), 120, seed, F.cross_entropy)


def tumours(seed: int) -> Task:
    """scikit-learn's 569 tumours by 30 standardised quantities, one logit."""
    x, y = (torch.from_numpy(array) for array in load_breast_cancer(return_X_y=True))
    x = (x - x.mean(0)) / x.std(0)
    return task(x.float(), y.float().unsqueeze(1), 400, seed, F.binary_cross_entropy_with_logits, "logit")


def sine(seed: int, noise: float = 0.1) -> Task:
    """A sine of one number, noisier to the right."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(800, 1, generator=generator) * 2 - 1
    y = (4 * x).sin() + noise * (1.2 + x) * torch.randn(800, 1, generator=generator)
    return task(x, y, 600, seed, F.mse_loss, "value")


def friedman(seed: int, features: int = 10, noise: float = 0.5) -> Task:
    """Friedman's first regression function of five of the features, standardised."""
    x, y = (torch.from_numpy(a).float() for a in make_friedman1(800, features, noise=noise, random_state=seed))
    return task(x * 4 - 2, ((y - y.mean()) / y.std()).unsqueeze(1), 600, seed, F.mse_loss, "value")


def digits(seed: int, samples: int = 600) -> Task:
    """Some of the handwritten digits as vectors of 64."""
    parts = data.digits()
    order = torch.randperm(len(parts.train), generator=torch.Generator().manual_seed(seed))[:samples]
    x, y = parts.train.x.flatten(1), parts.train.y
    return Task(Split(x[order], y[order]), Split(parts.validation.x.flatten(1), parts.validation.y), F.cross_entropy)


def pictures(seed: int) -> Task:
    """The digits as their own targets."""
    parts = digits(seed)
    training, validation = (Split(part.x, part.x) for part in (parts.training, parts.validation))
    return Task(training, validation, F.mse_loss, "value")


def itself(loss: Tensor) -> Tensor:
    """A trainer's output: the loss as it is."""
    return loss


def named(loss: Tensor) -> dict[str, Any]:
    """A trainer's output: a dictionary."""
    return {"loss": loss.item(), "note": "ok"}


def paired(loss: Tensor) -> tuple[float, str]:
    """A trainer's output: the loss, and something else."""
    return loss.item(), "ok"


def train(
    model: nn.Module,
    optimizer: Optimizer,
    task: Task,
    *,
    batch_size: int = 32,
    shuffle: bool = True,
    objective: LossFunction | None = None,
    output: Callable[[Tensor], Any] = Tensor.item,
    clear: Callable[[int], bool] = lambda iteration: True,
    every: int = 1,
    clip: float | None = None,
    scheduler: LRScheduler | None = None,
    evaluate: bool = True,
) -> Run:
    """A run of a task.

    Args:
        model: the network.
        optimizer: of its parameters.
        task: what is learned.
        batch_size: samples in a batch.
        shuffle: whether the samples come in a new order every epoch.
        objective: what is minimised, if it is not the loss of the task.
        output: makes the trainer's output from the loss.
        clear: whether the gradient is set to zero before the backward pass of an iteration.
        every: batches whose gradients are averaged for a step of the optimizer.
        clip: the greatest norm of the gradient.
        scheduler: goes on by one with every step of the optimizer.
        evaluate: whether there is an evaluator.
    """
    loss_fn = objective or task.loss_fn

    def step(engine: Engine, batch: Batch) -> Any:
        model.train()
        loss = loss_fn(model(batch[0]), batch[1])
        if clear(engine.state.iteration):
            optimizer.zero_grad()
        (loss / every).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        if engine.state.iteration % every == 0:
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
        return output(loss.detach())

    training = TensorLoader(task.training, batch_size, shuffle=shuffle, drop_last=shuffle)
    validation = TensorLoader(task.validation, 128)
    return Run(model, Engine(step), training, evaluator(model, task) if evaluate else None, validation, optimizer)


def evaluator(model: nn.Module, task: Task) -> Engine:
    """An evaluator with ``loss``, and with ``accuracy`` where there are classes."""
    if task.scores == "classes":
        return evaluated(model, task.loss_fn)
    if task.scores == "value":
        return _without_accuracy(model, task.loss_fn)
    threshold = 0.0 if task.scores == "logit" else 0.5
    accuracy = Accuracy(lambda output: ((output[0] > threshold).long(), output[1].long()))
    return evaluated(model, task.loss_fn, accuracy)


def _without_accuracy(model: nn.Module, loss_fn: LossFunction) -> Engine:
    @torch.no_grad()
    def step(engine: Engine, batch: Batch) -> Batch:
        model.eval()
        return model(batch[0]), batch[1]

    engine = Engine(step)
    Loss(loss_fn).attach(engine, "loss")
    return engine


def member(
    cases: list[Case], kind: str = HEALTHY, *, epochs: int, accepted: Iterable[str] = (), layers: Iterable[str] = ()
) -> Callable[[Build], Build]:
    """A decorator that makes a case of a function from a seed to a run: the name is the function's."""

    def add(build: Build) -> Build:
        @functools.wraps(build)
        def seeded(seed: int) -> Run:
            torch.manual_seed(seed)
            return build(seed)

        cases.append(Case(build.__name__, kind, seeded, epochs, frozenset(accepted), tuple(layers)))
        return build

    return add
