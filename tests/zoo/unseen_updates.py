"""Unseen faults of the training step: rates, optimizers, graphs and signs."""

from __future__ import annotations

import functools
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from zoo.base import Batch, Case, Run
from zoo.unseen_parts import (
    Net,
    Reader,
    ResNet,
    Step,
    Task,
    blobs,
    circles,
    cnn,
    digits,
    enters,
    fit,
    friedman,
    gratings,
    mlp,
    moons,
    output,
    skipping,
    topics,
)

CASES: list[Case] = []
faulty = functools.partial(enters, CASES)


@faulty("update_too_small")
def timid_adam(seed: int) -> Run:
    """Adam with a rate of 1e-7 instead of 1e-3."""
    model = cnn(10, 8, 16)
    return fit(digits(seed), model, Adam(model.parameters(), 1e-7), seed)


@faulty("update_too_small")
def timid_reader(seed: int) -> Run:
    """SGD with a rate of 1e-6 in a transformer."""
    model = Reader()
    return fit(topics(seed), model, SGD(model.parameters(), 1e-6, momentum=0.9), seed, returns="dict")


@faulty("update_too_small")
def shrunken_loss(seed: int) -> Run:
    """The loss is multiplied by 1e-6 before the backward pass, and reported as it is."""
    what, model = blobs(seed), Net(8, 64, 32, 5)
    optimizer = SGD(model.parameters(), 0.05)
    return fit(what, model, optimizer, seed, step=_backwards(what, model, optimizer, 1e-6))


def _backwards(what: Task, model: nn.Module, optimizer: Optimizer, factor: float) -> Step:
    def step(engine: Engine, pair: Batch) -> Any:
        model.train()
        optimizer.zero_grad()
        loss = what.loss(model(pair[0]), pair[1])
        (factor * loss).backward()
        optimizer.step()
        return output(loss, "tuple")

    return step


@faulty("update_too_large", accepted={"exploding"})
def adam_of_one(seed: int) -> Run:
    """Adam with a rate of 1 in a perceptron with leaky ReLUs."""
    model = mlp(64, 64, 64, 10, act=nn.LeakyReLU)
    return fit(digits(seed), model, Adam(model.parameters(), 1.0), seed)


@faulty("update_too_large", accepted={"exploding"})
def rmsprop_of_a_half(seed: int) -> Run:
    """RMSprop with a rate of 0.5 in a residual net."""
    model = ResNet(4, act=nn.SiLU)
    return fit(gratings(seed), model, RMSprop(model.parameters(), 0.5), seed, returns="tuple")


@faulty("update_too_large", accepted={"exploding", "nonfinite"})
def thousandfold(seed: int) -> Run:
    """SGD with a rate of 50 instead of 0.05, in a residual perceptron whose layer norms hold the activations."""
    model = skipping(8, 32, 5, act=nn.GELU)
    return fit(blobs(seed), model, SGD(model.parameters(), 50.0), seed)


@faulty("never_updated", epochs=6)
def no_step(seed: int) -> Run:
    """The optimizer's step is never called."""
    what, model = circles(seed), mlp(2, 32, 32, 1, act=nn.GELU)
    optimizer = Adam(model.parameters(), 1e-3)

    def step(engine: Engine, pair: Batch) -> float:
        model.train()
        optimizer.zero_grad()
        loss = what.loss(model(pair[0]), pair[1])
        loss.backward()
        return loss.item()

    return fit(what, model, optimizer, seed, step=step)


@faulty("never_updated", layers=("out", "norm1", "norm2"))
def kernels_only(seed: int) -> Run:
    """The optimizer has the convolutions only: the last layer and the norms stay as they are."""
    model = cnn(10, 8, 16)
    kernels = [parameter for layer in (model.conv1, model.conv2) for parameter in layer.parameters()]
    return fit(digits(seed), model, SGD(kernels, 0.05, momentum=0.9), seed, returns="tensor")


@faulty("never_updated", layers=("hidden.0", "hidden.1"))
def head_only(seed: int) -> Run:
    """The first layers, which nobody froze, were not given to the optimizer."""
    model = Net(64, 64, 32, 10)
    return fit(digits(seed), model, Adam(model.out.parameters(), 1e-3), seed)


class Detached(ResNet):
    """A residual net that hands a detached tensor to its blocks."""

    def features(self, x: Tensor) -> Tensor:
        """What the blocks begin with, without its history."""
        return super().features(x).detach()


@faulty("no_gradient", layers=("stem", "norm"))
def cut_stem(seed: int) -> Run:
    """A detach behind the stem of a residual net."""
    model = Detached(4)
    return fit(gratings(seed), model, SGD(model.parameters(), 0.05, momentum=0.9), seed)


class Sign(nn.Module):
    """The sign of each value."""

    def forward(self, x: Tensor) -> Tensor:
        """A tensor of the same shape."""
        return torch.sign(x)


@faulty("no_gradient", layers=("fc1", "fc2", "act1", "act2"))
def signs(seed: int) -> Run:
    """The sign is the activation function; its derivative is 0."""
    model = mlp(2, 32, 32, 1, act=Sign)
    return fit(moons(seed), model, Adam(model.parameters(), 1e-3), seed)


class Copied(Reader):
    """A transformer that copies its vectors to look at them, and goes on with the copy."""

    def enter(self, words: Tensor) -> Tensor:
        """The vectors of words, as new numbers."""
        return torch.from_numpy(super().enter(words).detach().numpy().copy())


@faulty("no_gradient", layers=("embed", "place", ""))
def copied_vectors(seed: int) -> Run:
    """Word vectors take the way through numpy and never learn."""
    model = Copied()
    return fit(topics(seed), model, AdamW(model.parameters(), 1e-3), seed, returns="dict")


def _uncleared(what: Task, model: nn.Module, optimizer: Optimizer) -> Step:
    def step(engine: Engine, pair: Batch) -> float:
        model.train()
        loss = what.loss(model(pair[0]), pair[1])
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


@faulty("uncleared_gradient")
def forgotten_clearing(seed: int) -> Run:
    """Nobody calls `zero_grad` in a perceptron with Adam."""
    what, model = digits(seed), mlp(64, 64, 10)
    optimizer = Adam(model.parameters(), 3e-3)
    return fit(what, model, optimizer, seed, step=_uncleared(what, model, optimizer))


@faulty("uncleared_gradient", epochs=8)
def cleared_once_an_epoch(seed: int) -> Run:
    """`zero_grad` is called at the start of each epoch only, on a convolutional net without norms."""
    what, model = digits(seed), cnn(10, 8, 16, norm=False)
    optimizer = SGD(model.parameters(), 0.05, momentum=0.9)
    run = fit(what, model, optimizer, seed, step=_uncleared(what, model, optimizer))
    run.trainer.add_event_handler(Events.EPOCH_STARTED, lambda engine: optimizer.zero_grad())
    return run


@faulty("uncleared_gradient", epochs=8)
def forgotten_in_a_regression(seed: int) -> Run:
    """Nobody calls `zero_grad` in a regression with SGD."""
    what, model = friedman(seed), mlp(10, 32, 1, act=nn.Tanh)
    optimizer = SGD(model.parameters(), 0.01)
    return fit(what, model, optimizer, seed, step=_uncleared(what, model, optimizer))


@faulty("loss_rising")
def wrong_sign(seed: int) -> Run:
    """The backward pass takes the negative loss, in a convolutional net."""
    what, model = digits(seed), cnn(10, 8, 16)
    optimizer = SGD(model.parameters(), 0.01)
    return fit(what, model, optimizer, seed, step=_backwards(what, model, optimizer, -1.0))


@faulty("loss_rising")
def maximised(seed: int) -> Run:
    """Adam was told to maximise, in a transformer."""
    model = Reader()
    return fit(topics(seed), model, Adam(model.parameters(), 1e-3, maximize=True), seed)
