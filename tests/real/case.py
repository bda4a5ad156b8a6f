"""A model with what it takes to train it for a few steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.optim import SGD, Optimizer


def sgd(model: nn.Module) -> Optimizer:
    """Has a momentum, so that there is a state to compare."""
    return SGD(model.parameters(), lr=0.01, momentum=0.9)


def adamw(model: nn.Module) -> Optimizer:
    """What transformers are trained with."""
    return torch.optim.AdamW(model.parameters(), lr=1e-3)


@dataclass(frozen=True)
class Case:
    """How to build a model, feed it and train it.

    Attributes:
        name: of the test.
        make: builds the model; the random state is seeded before.
        batch: positional and named arguments of one forward.
        loss: of the output, given the arguments.
        axis: of the units in every output of an activation function: 1 in convolutional networks, -1 in others.
        optimizer: makes it.
        steps: of the training.
        hidden: classes whose activations torch computes inside one kernel; the twin does not look into them.
        unseen: what the coverage of the activations must list, and nothing else.
        unknown_units: sites of which nobody can tell the axis of the units: listed, and not counted.
    """

    name: str
    make: Callable[[], nn.Module]
    batch: Callable[[Generator], tuple[tuple[Any, ...], dict[str, Any]]]
    loss: Callable[[Any, tuple[Any, ...]], Tensor]
    axis: int = -1
    optimizer: Callable[[nn.Module], Optimizer] = sgd
    steps: int = 3
    hidden: tuple[type[nn.Module], ...] = field(default=())
    unseen: tuple[str, ...] = ()
    unknown_units: tuple[str, ...] = ()
