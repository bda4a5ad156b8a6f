"""What the fresh part of the zoo trains on, and the one way in which it trains."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from ignite.engine import Engine, Events
from ignite.metrics import Accuracy, Loss
from sklearn.datasets import make_moons
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import LRScheduler

from ignite_act import data
from ignite_act.data import Split, TensorLoader
from zoo.base import Batch, Case, Run, evaluated

LossFn = Callable[[Tensor, Tensor], Tensor]
Optim = Callable[[Iterable[nn.Parameter]], Optimizer]


@dataclass(frozen=True)
class Task:
    """Samples to train and to validate on, and the loss that suits them."""

    train: Split
    validation: Split
    loss_fn: LossFn

    def inputs(self, change: Callable[[Tensor], Tensor]) -> Task:
        """The same task on changed inputs."""
        splits = (replace(split, x=change(split.x)) for split in (self.train, self.validation))
        return Task(*splits, self.loss_fn)

    def targets(self, change: Callable[[Tensor], Tensor], validation: bool = True) -> Task:
        """The same task on changed targets."""
        held_out = replace(self.validation, y=change(self.validation.y)) if validation else self.validation
        return Task(replace(self.train, y=change(self.train.y)), held_out, self.loss_fn)

    def first(self, samples: int) -> Task:
        """The same task with fewer samples to train on."""
        return replace(self, train=Split(self.train.x[:samples], self.train.y[:samples]))


def halves(x: Tensor, y: Tensor, loss_fn: LossFn, share: float = 0.7) -> Task:
    """A task of which a share of the samples is for training."""
    cut = int(share * len(x))
    return Task(Split(x[:cut], y[:cut]), Split(x[cut:], y[cut:]), loss_fn)


@lru_cache
def digits(seed: int = 0) -> Task:
    """Handwritten digits of 8 x 8 pixels."""
    digits = data.digits()
    return Task(digits.train, digits.validation, F.cross_entropy)


@lru_cache
def circles(seed: int = 0) -> Task:
    """Two rings, one logit."""
    circles = data.circles()
    return Task(circles.train, circles.validation, F.binary_cross_entropy_with_logits)


def moons(seed: int) -> Task:
    """Two half-moons, one logit."""
    x, y = make_moons(900, noise=0.15, random_state=seed)
    points = torch.tensor(x, dtype=torch.float32) - torch.tensor([0.5, 0.25])
    return halves(points, torch.tensor(y, dtype=torch.float32)[:, None], F.binary_cross_entropy_with_logits)


def blobs(seed: int) -> Task:
    """Six clusters in ten dimensions."""
    random = torch.Generator().manual_seed(seed)
    centres = 1.2 * torch.randn(6, 10, generator=random)
    y = torch.randint(6, (900,), generator=random)
    return halves(centres[y] + torch.randn(900, 10, generator=random), y, F.cross_entropy)


def images(seed: int) -> Task:
    """Noisy pictures of 12 x 12 pixels: a bar that lies, stands, rises or falls, somewhere."""
    random = torch.Generator().manual_seed(seed)
    y = torch.randint(4, (900,), generator=random)
    shift = torch.randint(-3, 4, (900,), generator=random)[:, None, None]
    rows, columns = torch.meshgrid(torch.arange(12), torch.arange(12), indexing="ij")
    lines = torch.stack([rows - 6, columns - 6, rows - columns, rows + columns - 11])
    x = (lines[y] == shift).float() * 2 + 0.4 * torch.randn(900, 12, 12, generator=random)
    return halves(x[:, None], y, F.cross_entropy)


def tokens(seed: int) -> Task:
    """Ten tokens out of twenty; the class is which of four markers was planted, twice."""
    random = torch.Generator().manual_seed(seed)
    y = torch.randint(4, (900,), generator=random)
    x = torch.randint(4, 20, (900, 10), generator=random)
    places = torch.rand(900, 10, generator=random).argsort(1)[:, :2]
    return halves(x.scatter(1, places, y[:, None].expand(-1, 2)), y, F.cross_entropy)


def table(seed: int) -> Task:
    """Eight columns and a number that depends on them smoothly, with noise."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(900, 8, generator=random)
    y = x[:, :1] + torch.sin(2 * x[:, 1:2]) + 0.5 * x[:, 2:3] * x[:, 3:4] + 0.2 * torch.randn(900, 1, generator=random)
    return halves(x, y / y.std(), F.mse_loss)


def sgd(lr: float, **options: Any) -> Optim:
    """`SGD`, but for the parameters."""
    return partial(SGD, lr=lr, **options)


def adam(lr: float = 1e-3, **options: Any) -> Optim:
    """`Adam`, but for the parameters."""
    return partial(Adam, lr=lr, **options)


def adamw(lr: float = 1e-3, **options: Any) -> Optim:
    """`AdamW`, but for the parameters."""
    return partial(AdamW, lr=lr, **options)


def rmsprop(lr: float = 1e-3, **options: Any) -> Optim:
    """`RMSprop`, but for the parameters."""
    return partial(RMSprop, lr=lr, **options)


def as_dict(loss: Tensor) -> dict[str, float]:
    """The output of a step that names its loss."""
    return {"loss": loss.item()}


def as_tuple(loss: Tensor) -> tuple[float, str]:
    """The output of a step that says something else after its loss."""
    return loss.item(), "trained"


def positive(output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Classes out of single logits."""
    logits, y = output
    return (logits > 0).float(), y


def fit(
    model: nn.Module,
    task: Task,
    seed: int,
    optimizer: Optim,
    *,
    parameters: Callable[[nn.Module], Iterable[nn.Parameter]] = nn.Module.parameters,
    loss_fn: LossFn | None = None,
    batch: int = 32,
    shuffle: bool = True,
    output: Callable[[Tensor], Any] = Tensor.item,
    objective: Callable[[Tensor, nn.Module], Tensor] = lambda loss, model: loss,
    clip: float | None = None,
    schedule: Callable[[Optimizer], LRScheduler] | None = None,
    every: int = 1,
    clear: Callable[[int], bool] = lambda iteration: True,
    validate: bool = True,
    after: Callable[[nn.Module], None] = lambda model: None,
) -> Run:
    """A run of a model on a task.

    Args:
        model, task, seed, optimizer: what is trained, on what, in which order, how.
        parameters: those that the optimizer gets.
        loss_fn: instead of the task's.
        batch, shuffle: how samples are taken.
        output: what a step returns for its loss.
        objective: what goes backward for the loss.
        clip: the norm above which gradients are shortened.
        schedule: of the learning rate, stepped with the optimizer.
        every: iterations to one step of the optimizer.
        clear: whether the gradients are cleared after a step, by iteration.
        validate: whether there is an evaluator.
        after: what happens to the model once the optimizer exists.
    """
    loss_fn = loss_fn or task.loss_fn
    optim = optimizer([p for p in parameters(model) if p.requires_grad])
    scheduler = schedule(optim) if schedule else None
    after(model)

    def step(engine: Engine, batch: Batch) -> Any:
        model.train()
        x, y = batch
        loss = loss_fn(model(x), y)
        (objective(loss, model) / every).backward()
        if engine.state.iteration % every == 0:
            if clip:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optim.step()
            if scheduler:
                scheduler.step()
            if clear(engine.state.iteration):
                model.zero_grad()
        return output(loss)

    trainer = Engine(step)
    training = TensorLoader(task.train, batch, shuffle=shuffle, seed=seed)
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda engine: training.set_epoch(engine.state.epoch))
    if not validate:
        return Run(model, trainer, training, optimizer=optim)
    return Run(model, trainer, training, validator(model, task, loss_fn), TensorLoader(task.validation, 200), optim)


def validator(model: nn.Module, task: Task, loss_fn: LossFn) -> Engine:
    """An evaluator that suits the task: accuracy only where there are classes."""
    if not task.train.y.is_floating_point():
        return evaluated(model, loss_fn)
    if task.train.y.unique().numel() == 2:
        return evaluated(model, loss_fn, Accuracy(output_transform=positive))

    @torch.no_grad()
    def step(engine: Engine, batch: Batch) -> Batch:
        model.eval()
        return model(batch[0]), batch[1]

    evaluator = Engine(step)
    Loss(loss_fn).attach(evaluator, "loss")
    return evaluator


def case(
    name: str,
    kind: str,
    make: Callable[[], nn.Module],
    task: Callable[[int], Task],
    optimizer: Optim,
    *,
    epochs: int = 5,
    accepted: Iterable[str] = (),
    layers: tuple[str, ...] = (),
    **options: Any,
) -> Case:
    """A case whose model, task and order follow from the seed; the options are those of `fit`."""

    def build(seed: int) -> Run:
        torch.manual_seed(seed)
        return fit(make(), task(seed), seed, optimizer, **options)

    return Case(f"fresh_{name}", kind, build, epochs, frozenset(accepted), layers)
