"""Faults of signals and units, kept out of all tuning."""

from __future__ import annotations

import functools
from dataclasses import replace

import torch
import torch.nn.functional as F
from ignite.engine import Engine
from torch import Tensor, nn
from torch.optim import SGD, Adam

from zoo.base import Batch, Case, Run
from zoo.kept_out_parts import (
    MLP,
    Block,
    Transformer,
    as_dict,
    as_tensor,
    as_tuple,
    cnn,
    conv,
    enters,
    fit,
    stepping,
    weights,
)
from zoo.kept_out_tasks import blobs, by_half, diabetes, digits, reviews, shapes, surface

CASES: list[Case] = []
faulty = functools.partial(enters, CASES)


@faulty("vanishing_gradient", epochs=8, layers=("hidden.0", "hidden.1", "hidden.2"))
def ten_sigmoids(seed: int) -> Run:
    """Ten layers of sigmoids between the blobs and the loss."""
    model = MLP(6, *[32] * 10, 4, act=nn.Sigmoid())
    return fit(blobs(seed), model, SGD(model.parameters(), 0.1, momentum=0.9), seed)


@faulty("vanishing_gradient", epochs=4, layers=("0", "2", "4"))
def plain_convolutions(seed: int) -> Run:
    """Sixteen convolutions with neither norm nor skip connection, as torch initialises them."""
    body = [layer for depth in range(16) for layer in conv(8 if depth else 1, 8, False, nn.ReLU)]
    model = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    return fit(shapes(seed, 400), model, SGD(model.parameters(), 0.01, momentum=0.9), seed, returns=as_dict)


@faulty("vanishing_gradient", epochs=6, layers=("hidden.0", "hidden.1", "hidden.2"))
def small_weights(seed: int) -> Run:
    """Weights of standard deviation 0.01 in six layers of tanh, each of which leaves a tenth of the signal."""
    model = MLP(64, *[96] * 6, 10, act=nn.Tanh())
    weights(model, lambda weight: weight.normal_(std=0.01), skip=1)
    return fit(digits(seed), model, SGD(model.parameters(), 0.1), seed, returns=as_tensor)


@faulty("exploding", accepted={"initial_loss", "nonfinite"})
def unit_weights(seed: int) -> Run:
    """Weights drawn with `torch.randn`: each of six layers makes the signal several times larger."""
    model = MLP(64, *[64] * 5, 10, act=nn.LeakyReLU())
    weights(model, lambda weight: weight.normal_())
    return fit(digits(seed), model, SGD(model.parameters(), 0.01), seed)


@faulty("exploding", epochs=4, accepted={"initial_loss"})
def wide_convolutions(seed: int) -> Run:
    """Kernels of standard deviation 0.5: each of six convolutions without a norm trebles the signal."""
    body = [layer for depth in range(6) for layer in conv(8 if depth else 1, 8, False, nn.ReLU)]
    model = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    weights(model, lambda weight: weight.normal_(std=0.5), skip=1)
    return fit(shapes(seed, 500), model, Adam(model.parameters(), 1e-3), seed, returns=as_dict)


@faulty("exploding", epochs=4, accepted={"nonfinite", "update_too_large"})
def sum_of_the_batch(seed: int) -> Run:
    """The loss is summed over the batch with a rate that was meant for the mean, so that it grows and grows."""
    task, model = surface(seed), MLP(5, 64, 64, 1, act=nn.SiLU())
    optimizer = SGD(model.parameters(), 0.05)

    def step(engine: Engine, batch: Batch) -> float:
        model.train()
        optimizer.zero_grad()
        loss = F.mse_loss(model(batch[0]), batch[1], reduction="sum")
        loss.backward()
        optimizer.step()
        return loss.item() / len(batch[0])

    return stepping(fit(task, model, optimizer, seed, batch=64), step)


@faulty("nonfinite", epochs=3, layers=("hidden.0",))
def logarithm_of_pixels(seed: int) -> Run:
    """The logarithm of pixels from 0 to 16, most of which are 0."""
    task = digits(seed).inputs(lambda x: torch.log(8 * x + 8))
    model = MLP(64, 64, 10)
    return fit(task, model, Adam(model.parameters(), 1e-3), seed)


class Contrast(nn.Module):
    """Gives each image mean 0 and standard deviation 1."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), keepdim=True)


@faulty("nonfinite", epochs=3, layers=("0", "1.0"))
def blank_image(seed: int) -> Run:
    """One image of many is blank, and is divided by its standard deviation when its turn comes."""
    task = shapes(seed)
    task.train.x[torch.randint(len(task.train), ())] = 0.0
    model = nn.Sequential(Contrast(), cnn(4, norm=False))
    return fit(task, model, Adam(model.parameters(), 2e-3), seed, returns=as_dict)


@faulty("nonfinite", epochs=3)
def missing_target(seed: int) -> Run:
    """The progression of three patients was not recorded: the targets hold NaN, and nothing else does at first."""
    task = diabetes(seed)
    task.train.y[torch.randperm(len(task.train))[:3]] = torch.nan
    model = MLP(10, 32, 1, act=nn.Tanh())
    return fit(task, model, SGD(model.parameters(), 0.01, momentum=0.9), seed, returns=as_tuple)


class Steps(nn.Module):
    """Classifies a sequence by the distances from each word to the next."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(30, 16), nn.Linear(11, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embed(x).diff(dim=1).pow(2).sum(-1).sqrt())


@faulty("nonfinite", epochs=3, layers=("embed",))
def word_said_twice(seed: int) -> Run:
    """The distance of a word to itself is the root of 0, of which the value is fine and the derivative is not."""
    model = Steps()
    return fit(reviews(seed), model, Adam(model.parameters(), 1e-3), seed)


def entropy(probability: Tensor, y: Tensor) -> Tensor:
    """The binary cross-entropy as it stands in a textbook."""
    return -(y * probability.log() + (1 - y) * (1 - probability).log()).mean()


@faulty("nonfinite", epochs=10)
def entropy_by_hand(seed: int) -> Run:
    """A probability that reaches 1 makes 0 times the logarithm of 0, in a network that has learned all there is."""
    task = blobs(seed, spread=0.5).targets(lambda y: (y > 1).float()[:, None])
    model = MLP(6, 32, 32, 1, end=nn.Sigmoid())
    return fit(replace(task, loss=entropy, accuracy=by_half), model, Adam(model.parameters(), 1e-2), seed)


@faulty("dead_units", layers=("hidden.0", "act"))
def negative_weights(seed: int) -> Run:
    """The first weights are drawn from [-1, 0] and the pixels lie in [0, 1]: no ReLU ever fires."""
    model = MLP(64, 64, 32, 10)
    nn.init.uniform_(model.hidden[0].weight, -1.0, 0.0)
    task = digits(seed).inputs(lambda x: (x + 1) / 2)
    return fit(task, model, SGD(model.parameters(), 0.05, momentum=0.9), seed)


@faulty("dead_units", accepted={"update_too_large"})
def killed_by_adam(seed: int) -> Run:
    """A rate of 0.3 for Adam sends most ReLUs of a convolutional net below zero in the first steps."""
    model = cnn(10, norm=False)
    return fit(digits(seed), model, Adam(model.parameters(), 0.3), seed, returns=as_tensor)


@faulty("dead_units", layers=("blocks.0.up", "blocks.0.act"))
def dead_branch(seed: int) -> Run:
    """The ReLUs of a transformer block are dead from the start, and the skip connection hides it."""
    model = Transformer(functools.partial(Block, act=nn.ReLU()))
    nn.init.constant_(model.blocks[0].up.bias, -10.0)
    return fit(reviews(seed), model, Adam(model.parameters(), 1e-3), seed)


@faulty("saturated_units", layers=("hidden.0", "hidden.1", "hidden.2", "act", "act#2", "act#3"))
def unit_weights_of_tanh(seed: int) -> Run:
    """Hidden weights drawn with `torch.randn` hold every tanh at one of its ends."""
    model = MLP(64, 64, 64, 64, 10, act=nn.Tanh())
    weights(model, lambda weight: weight.normal_(), skip=1)
    return fit(digits(seed), model, SGD(model.parameters(), 0.01, momentum=0.9), seed, returns=as_dict)


@faulty("saturated_units", layers=("hidden.0", "hidden.1", "act", "act#2"))
def positive_weights_of_sigmoid(seed: int) -> Run:
    """Weights drawn from [0, 1] and pixels in [0, 1] open all sigmoids for all samples."""
    model = MLP(64, 64, 64, 10, act=nn.Sigmoid())
    weights(model, lambda weight: weight.uniform_(), skip=1)
    task = digits(seed).inputs(lambda x: (x + 1) / 2)
    return fit(task, model, SGD(model.parameters(), 0.1), seed)


@faulty("symmetry", accepted={"no_gradient"})
def all_zero(seed: int) -> Run:
    """All weights begin at 0, so that nothing but the last bias can learn."""
    model = MLP(64, 64, 32, 10, act=nn.Tanh())
    weights(model, nn.init.zeros_)
    for layer in [*model.hidden, model.out]:
        nn.init.zeros_(layer.bias)
    return fit(digits(seed), model, SGD(model.parameters(), 0.1, momentum=0.9), seed)


@faulty("symmetry", epochs=8)
def all_equal(seed: int) -> Run:
    """All weights begin with one value: the units of a layer are one unit, and no line tells four blobs apart."""
    model = MLP(6, 48, 24, 4)
    weights(model, lambda weight: nn.init.constant_(weight, 0.05))
    for layer in [*model.hidden, model.out]:
        nn.init.zeros_(layer.bias)
    return fit(blobs(seed), model, Adam(model.parameters(), 2e-3), seed, returns=as_tuple)
