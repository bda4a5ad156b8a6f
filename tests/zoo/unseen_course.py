"""Unseen faults that the course of training shows, of the data above all."""

from __future__ import annotations

import functools

import torch
from ignite.engine import Engine, Events
from ignite.handlers import EarlyStopping
from torch import nn
from torch.optim import SGD, Adam, AdamW

from zoo.base import Batch, Case, Run
from zoo.unseen_parts import (
    YES_NO,
    Net,
    Reader,
    ResNet,
    blobs,
    cnn,
    digits,
    enters,
    fit,
    friedman,
    gratings,
    mlp,
    task,
    topics,
)

CASES: list[Case] = []
faulty = functools.partial(enters, CASES)


@faulty("overfitting", epochs=30)
def few_points(seed: int) -> Run:
    """A wide network learns ninety points of overlapping blobs by heart."""
    what = blobs(seed, spread=4.0).first(90)
    model = mlp(8, 256, 256, 5)
    return fit(what, model, Adam(model.parameters(), 2e-3), seed, batch=16)


@faulty("overfitting", epochs=25)
def few_texts(seed: int) -> Run:
    """A transformer learns seventy texts by heart, a third of them with topics drawn by lot."""
    model = Reader(width=32)
    return fit(
        topics(seed).first(70).noisy(0.33, 4), model, Adam(model.parameters(), 5e-3), seed, batch=8, returns="dict"
    )


@faulty("overfitting", epochs=30)
def lots_by_heart(seed: int) -> Run:
    """A wide perceptron learns a hundred digits by heart, four in ten of them with labels drawn by lot."""
    what = digits(seed).first(100).noisy(0.4, 10)
    model = Net(64, 256, 256, 10)
    return fit(what, model, Adam(model.parameters(), 2e-3), seed, batch=16)


@faulty("over_regularised")
def nineteen_of_twenty(seed: int) -> Run:
    """Dropout of 0.95 behind both hidden layers of a perceptron."""
    model = mlp(64, 128, 128, 10, drop=0.95)
    return fit(digits(seed), model, Adam(model.parameters(), 1e-3), seed)


@faulty("over_regularised", epochs=6)
def dropped_channels(seed: int) -> Run:
    """Dropout of 0.95 in front of the last layer of a residual net."""
    model = ResNet(4, drop=0.95)
    return fit(gratings(seed), model, SGD(model.parameters(), 0.05, momentum=0.9), seed, returns="tensor")


@faulty("over_regularised", epochs=6)
def dropped_words(seed: int) -> Run:
    """Dropout of 0.9 everywhere in a transformer."""
    model = Reader(drop=0.9)
    return fit(topics(seed), model, AdamW(model.parameters(), 3e-3), seed)


@faulty("oscillation", epochs=16, accepted={"update_too_large"})
def endless_momentum(seed: int) -> Run:
    """A momentum of 0.999 swings a regression through its minimum again and again."""
    model = mlp(10, 32, 1, act=nn.SiLU)
    return fit(friedman(seed), model, SGD(model.parameters(), 0.03, momentum=0.999), seed, batch=64)


@faulty("oscillation", epochs=10, accepted={"update_too_large"})
def swinging_resnet(seed: int) -> Run:
    """The same in a residual net."""
    model = ResNet(10)
    return fit(digits(seed), model, SGD(model.parameters(), 0.1, momentum=0.999), seed, batch=64, returns="dict")


@faulty("labels_mismatch")
def shuffled_digits(seed: int) -> Run:
    """The targets of both parts are in another order than the images."""
    what = digits(seed).map(y=lambda y: y[torch.randperm(len(y))])
    model = cnn(10, 8, 16)
    return fit(what, model, SGD(model.parameters(), 0.01, momentum=0.9), seed, batch=64)


@faulty("labels_mismatch")
def shuffled_batches(seed: int) -> Run:
    """The step shuffles the targets of a batch and leaves the images where they are."""
    what, model = gratings(seed), ResNet(4)
    optimizer = Adam(model.parameters(), 1e-3)

    def step(engine: Engine, pair: Batch) -> float:
        model.train()
        optimizer.zero_grad()
        loss = what.loss(model(pair[0]), pair[1][torch.randperm(len(pair[1]))])
        loss.backward()
        optimizer.step()
        return loss.item()

    return fit(what, model, optimizer, seed, step=step)


@faulty("labels_mismatch")
def next_ones_label(seed: int) -> Run:
    """Every text has the label of the next one."""
    what = topics(seed).map(y=lambda y: y.roll(1))
    model = Reader()
    return fit(what, model, AdamW(model.parameters(), 1e-3), seed, batch=64, returns="tuple")


@faulty("plateau", epochs=8, accepted={"labels_mismatch"})
def even_or_odd(seed: int) -> Run:
    """Whether 24 bits have an even sum is more than a perceptron finds in eight epochs."""
    bits = torch.randint(2, (900, 24))
    what = task(2.0 * bits - 1, bits.sum(1) % 2, seed)
    model = mlp(24, 32, 2, act=nn.Tanh)
    return fit(what, model, SGD(model.parameters(), 0.02), seed, batch=64)


@faulty("plateau", epochs=15, accepted={"labels_mismatch"})
def fine_checks(seed: int) -> Run:
    """A board of 20 x 20 checks is too fine for a small network on two coordinates; early stopping gives up."""
    x = torch.rand(900, 2)
    y = ((20 * x).floor().sum(1) % 2)[:, None]
    what = task(2 * x - 1, y, seed, **YES_NO)
    model = mlp(2, 32, 32, 1, act=nn.SiLU)
    run = fit(what, model, SGD(model.parameters(), 0.05, momentum=0.9), seed)
    assert run.evaluator is not None
    stopping = EarlyStopping(4, lambda engine: -engine.state.metrics["loss"], run.trainer, threshold=0.01)
    run.evaluator.add_event_handler(Events.COMPLETED, stopping)
    return run
