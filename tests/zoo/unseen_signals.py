"""Unseen faults of signals, units and weights."""

from __future__ import annotations

import functools
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, RMSprop

from zoo.base import Case, Run
from zoo.unseen_parts import (
    Net,
    Reader,
    ResNet,
    blobs,
    circles,
    cnn,
    digits,
    enters,
    fit,
    friedman,
    gratings,
    initialise,
    mlp,
    topics,
    tumours,
)

CASES: list[Case] = []
faulty = functools.partial(enters, CASES)


@faulty("vanishing_gradient", epochs=6, layers=[f"fc{i}" for i in range(1, 6)])
def sigmoid_tower(seed: int) -> Run:
    """Eight layers of sigmoids with torch's own weights: nothing comes through to the first ones."""
    model = mlp(30, *[32] * 8, 1, act=nn.Sigmoid)
    return fit(tumours(seed), model, SGD(model.parameters(), 0.05, momentum=0.9), seed)


@faulty("vanishing_gradient", layers=[f"hidden.{i}" for i in range(12)])
def plain_tower(seed: int) -> Run:
    """Twenty ReLU layers with torch's own weights, no norm and no skip connection."""
    model = Net(64, *[48] * 20, 10)
    return fit(digits(seed), model, SGD(model.parameters(), 0.1), seed, returns="dict")


@faulty("vanishing_gradient", layers=[f"conv{i}" for i in range(1, 6)])
def sigmoid_convolutions(seed: int) -> Run:
    """Eight convolutions with sigmoids and no norm."""
    model = cnn(4, *[8] * 8, act=nn.Sigmoid, norm=False)
    return fit(gratings(seed), model, SGD(model.parameters(), 0.05, momentum=0.9), seed, returns="tensor")


@faulty("exploding", epochs=4, accepted={"update_too_large", "nonfinite"})
def wide_regression(seed: int) -> Run:
    """Gradient descent on a square loss with a rate far above what the curvature of a wide layer allows."""
    model = mlp(10, 256, 1, act=nn.Tanh)
    return fit(friedman(seed), model, SGD(model.parameters(), 0.3), seed)


@faulty("exploding", accepted={"initial_loss"})
def doubled_layers(seed: int) -> Run:
    """Weights three times those of He let the signal grow in each of eight layers."""
    model = mlp(64, *[64] * 8, 10, act=nn.LeakyReLU)
    initialise(model, lambda weight: nn.init.kaiming_normal_(weight).mul_(3))
    return fit(digits(seed), model, Adam(model.parameters(), 1e-3), seed)


@faulty("nonfinite", epochs=3, layers=("fc1", "act1"))
def holes_in_a_table(seed: int) -> Run:
    """Five measurements are missing, as NaN."""
    what = tumours(seed)
    what.train.x[torch.randperm(len(what.train))[:5], torch.randint(30, (5,))] = torch.nan
    model = mlp(30, 32, 1)
    return fit(what, model, Adam(model.parameters(), 1e-3), seed)


@faulty("nonfinite", epochs=3, accepted={"exploding", "update_too_large"})
def exponential_counts(seed: int) -> Run:
    """The exponential of the output is the expected count; after steps for great counts it overflows."""
    what = replace(friedman(seed), loss=F.poisson_nll_loss).map(y=lambda y: (y + 4).exp().round().clamp(max=2000))
    model = mlp(10, 64, 1)
    return fit(what, model, SGD(model.parameters(), 0.1), seed)


class Spread(nn.Module):
    """The standard deviation of each channel over the image."""

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N, C)``."""
        return x.var((2, 3)).sqrt()


@faulty("nonfinite", epochs=3, layers=("conv", "act"))
def root_of_nothing(seed: int) -> Run:
    """Some images are blank: the root of their variance is 0, and its derivative is not finite."""
    what = gratings(seed)
    what.train.x[torch.randperm(len(what.train))[:8]] = 0.0
    model = nn.Sequential()
    for name, layer in {"conv": nn.Conv2d(1, 12, 3, bias=False), "act": nn.Tanh(), "spread": Spread()}.items():
        model.add_module(name, layer)
    model.add_module("out", nn.Linear(12, 4))
    return fit(what, model, Adam(model.parameters(), 1e-3), seed, returns="dict")


@faulty("dead_units", layers=("act1", "fc1"))
def sunk_biases(seed: int) -> Run:
    """The biases of the first layer begin at -20, so that no ReLU ever fires."""
    model = mlp(8, 64, 64, 5)
    nn.init.constant_(model.fc1.bias, -20.0)
    return fit(blobs(seed), model, Adam(model.parameters(), 1e-3), seed)


@faulty("dead_units", accepted={"update_too_large"})
def killed_early(seed: int) -> Run:
    """A rate of 1 for SGD with momentum kills the ReLUs of a perceptron in the first steps."""
    model = Net(64, 64, 64, 10)
    return fit(digits(seed), model, SGD(model.parameters(), 1.0, momentum=0.9), seed, returns="tuple")


@faulty("dead_units", layers=("act2", "norm2", "conv2"))
def negative_shift(seed: int) -> Run:
    """A batch norm begins with a shift of -8, below which no value of its ReLU comes."""
    model = cnn(10, 8, 16)
    nn.init.constant_(model.norm2.bias, -8.0)
    return fit(digits(seed), model, SGD(model.parameters(), 0.05, momentum=0.9), seed)


@faulty("saturated_units", layers=("act1", "act2", "fc1", "fc2"))
def great_tanh(seed: int) -> Run:
    """Hidden weights with a standard deviation of 4 hold all tanh at their ends."""
    model = mlp(64, 64, 64, 10, act=nn.Tanh)
    initialise([model.fc1, model.fc2], lambda weight: weight.normal_(std=4.0))
    return fit(digits(seed), model, SGD(model.parameters(), 0.01, momentum=0.9), seed)


@faulty("saturated_units", layers=("act2", "conv2"))
def open_sigmoids(seed: int) -> Run:
    """The biases of a convolution begin at 15, so that its sigmoids are 1 for every image."""
    model = cnn(4, 8, 16, act=nn.Sigmoid, norm=False)
    nn.init.constant_(model.conv2.bias, 15.0)
    return fit(gratings(seed), model, Adam(model.parameters(), 2e-3), seed)


@faulty("symmetry")
def equal_kernels(seed: int) -> Run:
    """Every weight of a convolutional net begins at 0.05: all channels of a layer are one."""
    model = cnn(10, 8, 16)
    initialise(model, lambda weight: weight.fill_(0.05))
    return fit(digits(seed), model, Adam(model.parameters(), 2e-3), seed)


@faulty("symmetry", epochs=6)
def equal_weights(seed: int) -> Run:
    """Weights of 0.1 everywhere leave one GELU a layer, and one is not enough for a circle."""
    model = mlp(2, 32, 32, 1, act=nn.GELU)
    initialise(model, lambda weight: weight.fill_(0.1))
    return fit(circles(seed), model, SGD(model.parameters(), 0.05, momentum=0.9), seed)


@faulty("symmetry", accepted={"no_gradient"})
def zeros(seed: int) -> Run:
    """All weights of a tanh network begin at 0: no layer gives another one a gradient."""
    model = mlp(64, 64, 32, 10, act=nn.Tanh)
    initialise(model, lambda weight: weight.zero_())
    return fit(digits(seed), model, AdamW(model.parameters(), 1e-3), seed, returns="tensor")


@faulty("weight_collapse")
def decay_of_ten(seed: int) -> Run:
    """A weight decay of 10 halves the weights of a convolutional net in each step."""
    model = cnn(10, 8, 16)
    return fit(digits(seed), model, SGD(model.parameters(), 0.05, weight_decay=10.0), seed)


@faulty("weight_collapse", epochs=6)
def sum_of_magnitudes(seed: int) -> Run:
    """The magnitudes of all weights are added to the loss with a factor of 0.2, which outweighs it."""
    what, model = blobs(seed), mlp(8, 32, 5)

    def penalised(logits: Tensor, y: Tensor) -> Tensor:
        return what.loss(logits, y) + 0.2 * sum(p.abs().sum() for p in model.parameters())

    return fit(what, model, Adam(model.parameters(), 3e-3), seed, batch=16, loss=penalised, returns="dict")


@faulty("weight_collapse")
def decayed_reader(seed: int) -> Run:
    """RMSprop with a decay of 5 in a transformer."""
    model = Reader()
    return fit(topics(seed), model, RMSprop(model.parameters(), 2e-3, weight_decay=5.0), seed)


@faulty("weight_collapse", epochs=6)
def decayed_resnet(seed: int) -> Run:
    """AdamW with a decay of 50 where 0.05 was meant."""
    model = ResNet(10)
    return fit(digits(seed), model, AdamW(model.parameters(), 2e-3, weight_decay=50.0), seed)
