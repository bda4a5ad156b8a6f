"""What the runs of the real part share: a training loop as people write it, and a score that knows nothing of the tool.

A faulty run is the code of a healthy one, its twin, with one mistake. `harm` trains both without ignite_act: the
mistake must cost something.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.metrics import Average
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from zoo.base import HEALTHY, Case, Run

LossOf = Callable[[nn.Module, Any], Tensor]


class Shuffled:
    """Batches of tensors that belong together, in another order each time.

    Args:
        tensors: with the samples along the first axis.
        size: of a batch; a smaller rest is left out.
        seed: of the orders.
        shuffle: whether to change the order.
    """

    def __init__(self, *tensors: Tensor, size: int, seed: int, shuffle: bool = True) -> None:
        self.tensors, self.size, self.shuffle = tensors, size, shuffle
        self._random = torch.Generator().manual_seed(seed)

    def __iter__(self) -> Any:
        n = len(self.tensors[0])
        order = torch.randperm(n, generator=self._random) if self.shuffle else torch.arange(n)
        for i in range(len(self)):
            chosen = order[i * self.size : (i + 1) * self.size]
            yield tuple(values[chosen] for values in self.tensors)

    def __len__(self) -> int:
        return len(self.tensors[0]) // self.size


def fit(
    model: nn.Module,
    optimizer: Optimizer,
    loss_of: LossOf,
    training: Any,
    *,
    validation: Any = None,
    accuracy_of: LossOf | None = None,
    schedule: LRScheduler | None = None,
    clip: float | None = None,
    every: int = 1,
    bf16: bool = False,
    ema: nn.Module | None = None,
    score: Callable[[], float] | None = None,
) -> Run:
    """A training with a step a batch.

    Args:
        model: the network that is watched.
        optimizer: trains it.
        loss_of: the loss of a batch, ``()``.
        training: batches.
        validation: batches for an evaluator whose metrics are ``loss`` and, if known, ``accuracy``.
        accuracy_of: share of a batch that the model gets right, ``()``.
        schedule: moves on after every optimizer step.
        clip: largest norm of the gradients.
        every: batches whose gradients are accumulated for a step.
        bf16: whether forward and loss run under autocast.
        ema: a copy of the model that follows it slowly.
        score: see `Run`; by default the accuracy, else minus the loss, on the validation batches.
    """

    def step(engine: Engine, batch: Any) -> dict[str, float]:
        model.train()
        with torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext():
            loss = loss_of(model, batch)
        (loss / every).backward()
        if engine.state.iteration % every == 0:
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()
            if schedule is not None:
                schedule.step()
            if ema is not None:
                with torch.no_grad():
                    for own, other in zip(ema.parameters(), model.parameters(), strict=True):
                        own.lerp_(other, 0.05)
        return {"loss": loss.item()}

    if score is None and validation is not None:
        measure, sign = (accuracy_of, 1.0) if accuracy_of is not None else (loss_of, -1.0)

        def score() -> float:
            return sign * mean_over(model, measure, validation)

    evaluator = measured(model, loss_of, accuracy_of) if validation is not None else None
    return Run(model, Engine(step), training, evaluator, validation, optimizer, score)


def measured(model: nn.Module, loss_of: LossOf, accuracy_of: LossOf | None = None) -> Engine:
    """An evaluator with ``loss`` and, if known, ``accuracy``."""

    @torch.no_grad()
    def step(engine: Engine, batch: Any) -> dict[str, float]:
        model.eval()
        found = {"loss": loss_of(model, batch).item()}
        if accuracy_of is not None:
            found["accuracy"] = accuracy_of(model, batch).item()
        return found

    evaluator = Engine(step)
    for name in ("loss", "accuracy") if accuracy_of is not None else ("loss",):
        Average(lambda output, name=name: output[name]).attach(evaluator, name)
    return evaluator


@torch.no_grad()
def mean_over(model: nn.Module, measure: LossOf, batches: Iterable[Any]) -> float:
    """A measure's mean over batches, in evaluation mode."""
    model.eval()
    values = [measure(model, batch).item() for batch in batches]
    return sum(values) / len(values)


def healthy(name: str, build: Callable[[int], Run], *, epochs: int = 5) -> Case:
    """A run without a fault."""
    return Case(name, HEALTHY, build, epochs=epochs)


def faulty(
    twin: str,
    mistake: str,
    kind: str,
    build: Callable[[int], Run],
    *also: str,
    epochs: int = 5,
    layers: Sequence[str] = (),
) -> Case:
    """A healthy run with one mistake, called ``twin-mistake``.

    Args:
        twin: name of the healthy run.
        mistake: in one or two words.
        kind: of the finding that should come first.
        build: makes it.
        also: other kinds that are right as the first finding.
        epochs: how long to train.
        layers: names of the layers or sites that may be blamed.
    """
    return Case(f"{twin}-{mistake}", kind, build, epochs, frozenset(also), tuple(layers), twin=twin)


@dataclass(frozen=True)
class Harm:
    """What a mistake costs, without any tool.

    Attributes:
        untrained, sound, broken: scores of the sound run before its training, after it, and of the broken run; higher
            is better, NaN where a run ended in NaN or an exception.
    """

    untrained: float
    sound: float
    broken: float

    @property
    def share(self) -> float:
        """Part of what the sound run gains that the broken one does not."""
        return 1.0 if self.broken != self.broken else (self.sound - self.broken) / (self.sound - self.untrained)


def harm(case: Case, twin: Case, seed: int) -> Harm:
    """Trains a faulty case and its twin without any tool."""
    torch.manual_seed(seed)
    untrained = case_score(twin.build(seed), 0)
    torch.manual_seed(seed)
    sound = case_score(twin.build(seed), twin.epochs)
    torch.manual_seed(seed)
    try:
        broken = case_score(case.build(seed), case.epochs)
    except Exception:  # it may end in one
        broken = float("nan")
    return Harm(untrained, sound, broken)


def case_score(run: Run, epochs: int) -> float:
    """Trains a run without any tool; its score."""
    assert run.score is not None
    if epochs:
        if run.evaluator is not None:
            evaluator = run.evaluator
            run.trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run(run.validation))
        run.trainer.run(run.training, max_epochs=epochs)
    return run.score()
