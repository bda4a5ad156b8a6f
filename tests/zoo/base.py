"""What a member of the zoo is: a training run that is healthy, or has one fault that is known."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from ignite.engine import Engine
from ignite.metrics import Accuracy, Loss
from torch import Tensor, nn
from torch.optim import Optimizer

HEALTHY = "healthy"
Batch = tuple[Tensor, Tensor]


class Batches(Protocol):
    """Batches that can be gone through again, of a known number."""

    def __iter__(self) -> Any: ...

    def __len__(self) -> int: ...


@dataclass
class Run:
    """Everything that a training consists of, ready to be started once.

    Attributes:
        model: the network.
        trainer: its engine; the output of a step is the loss, or something in which the loss is found by default.
        training: what the trainer runs on.
        evaluator: its metrics are called ``loss`` and ``accuracy``; None for a run without one.
        validation: what the evaluator runs on after every epoch.
        optimizer: whose steps train the model; only for reading.
        score: how well the model does after the training, higher is better; None where nobody asks.
    """

    model: nn.Module
    trainer: Engine
    training: Batches
    evaluator: Engine | None = None
    validation: Batches | None = None
    optimizer: Optimizer | None = None
    score: Callable[[], float] | None = None


@dataclass(frozen=True)
class Case:
    """A member of the zoo.

    Attributes:
        name: unique, short.
        kind: the fault's kind, see `ignite_act.findings`, or `HEALTHY`.
        build: makes the run from a seed; everything random in it follows from the seed.
        epochs: how long to train.
        accepted: kinds that are right as the first finding, beside ``kind``.
        layers: names of the layers or sites that may be blamed; empty where no single one is to blame.
        twin: name of the healthy run of which it is a copy with one mistake; empty where there is none.
    """

    name: str
    kind: str
    build: Callable[[int], Run]
    epochs: int = 5
    accepted: frozenset[str] = frozenset()
    layers: tuple[str, ...] = ()
    twin: str = ""

    @property
    def healthy(self) -> bool:
        """Whether there is nothing to be found."""
        return self.kind == HEALTHY


def supervised(
    model: nn.Module,
    optimizer: Optimizer,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    training: Batches,
    validation: Batches,
    *,
    accuracy: Accuracy | None = None,
) -> Run:
    """A plain run: an optimizer step a batch, whose output is the loss; an evaluator with loss and accuracy."""

    def step(engine: Engine, batch: Batch) -> float:
        model.train()
        optimizer.zero_grad()
        x, y = batch
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return Run(model, Engine(step), training, evaluated(model, loss_fn, accuracy), validation, optimizer)


def evaluated(
    model: nn.Module, loss_fn: Callable[[Tensor, Tensor], Tensor], accuracy: Accuracy | None = None
) -> Engine:
    """An evaluator with ``loss`` and ``accuracy``."""

    @torch.no_grad()
    def step(engine: Engine, batch: Batch) -> Batch:
        model.eval()
        x, y = batch
        return model(x), y

    evaluator = Engine(step)
    Loss(loss_fn).attach(evaluator, "loss")
    (accuracy or Accuracy()).attach(evaluator, "accuracy")
    return evaluator


def by_kind(cases: Iterable[Case]) -> dict[str, list[Case]]:
    """The cases of each kind, in their order."""
    kinds: dict[str, list[Case]] = {}
    for case in cases:
        kinds.setdefault(case.kind, []).append(case)
    return kinds
