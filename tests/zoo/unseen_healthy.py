"""Unseen runs in which nothing is wrong: easy, slow and noisy ones."""

from __future__ import annotations

import functools
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD, Adam, AdamW, RMSprop
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, StepLR

from zoo.base import HEALTHY, Case, Run
from zoo.unseen_parts import (
    YES_NO,
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
    mlp,
    moons,
    skipping,
    standard,
    task,
    topics,
    tumours,
)

CASES: list[Case] = []
healthy = functools.partial(enters, CASES, HEALTHY)


@healthy()
def functional_relus(seed: int) -> Run:
    """A perceptron that calls `F.relu`, with Adam's default rate."""
    model = Net(64, 64, 32, 10)
    return fit(digits(seed), model, Adam(model.parameters()), seed)


@healthy()
def normed_digits(seed: int) -> Run:
    """Convolutions with batch norms, momentum, and a rate that follows a cosine."""
    model = cnn(10, 8, 16)
    optimizer = SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1e-4)
    return fit(digits(seed), model, optimizer, seed, schedule=CosineAnnealingLR(optimizer, 5), returns="dict")


@healthy()
def gelu_resnet(seed: int) -> Run:
    """A residual net with GELUs and dropout, AdamW, gradients of two batches a step."""
    model = ResNet(10, act=nn.GELU, drop=0.1)
    return fit(digits(seed), model, AdamW(model.parameters(), 2e-3), seed, accumulate=2)


@healthy()
def reader(seed: int) -> Run:
    """A transformer block with GELUs on topics."""
    model = Reader()
    return fit(topics(seed), model, AdamW(model.parameters(), 2e-3), seed, returns="tensor")


@healthy()
def cautious_reader(seed: int) -> Run:
    """Two blocks with batches of eight, warm-up, dropout and clipping."""
    model = Reader(depth=2, drop=0.1, act=nn.ReLU)
    optimizer = Adam(model.parameters(), 1e-3)
    warm_up = LinearLR(optimizer, 0.3, total_iters=2)
    return fit(topics(seed, 500), model, optimizer, seed, batch=8, clip=1.0, schedule=warm_up)


@healthy(epochs=10)
def tanh_circles(seed: int) -> Run:
    """Two layers of tanh and plain SGD with momentum."""
    model = mlp(2, 32, 32, 1, act=nn.Tanh)
    return fit(circles(seed), model, SGD(model.parameters(), 0.1, momentum=0.9), seed)


@healthy()
def leaky_moons(seed: int) -> Run:
    """Leaky ReLUs, batches of eight and RMSprop on noisy half moons."""
    model = mlp(2, 32, 32, 1, act=nn.LeakyReLU)
    return fit(moons(seed, 0.3), model, RMSprop(model.parameters(), 2e-3), seed, batch=8)


@healthy(epochs=8)
def sigmoid_tumours(seed: int) -> Run:
    """One layer of sigmoids with a rate of 0.1."""
    model = mlp(30, 16, 1, act=nn.Sigmoid)
    return fit(tumours(seed), model, SGD(model.parameters(), 0.1, momentum=0.9), seed, batch=16, returns="tuple")


@healthy(epochs=10)
def elu_blobs(seed: int) -> Run:
    """ELUs, large batches, a rate of 0.05 without momentum: slow, and steady."""
    model = mlp(8, 64, 32, 5, act=nn.ELU)
    return fit(blobs(seed), model, SGD(model.parameters(), 0.05), seed, batch=128)


@healthy(epochs=8)
def silu_regression(seed: int) -> Run:
    """SiLUs and Adam on a function with a little noise, half of whose inputs do not matter."""
    model = mlp(10, 64, 64, 1, act=nn.SiLU)
    return fit(friedman(seed), model, Adam(model.parameters(), 2e-3), seed)


@healthy(epochs=10)
def robust_regression(seed: int) -> Run:
    """A tanh network with Huber's loss on targets with much noise."""
    what = replace(friedman(seed, noise=3.0), loss=F.smooth_l1_loss)
    model = mlp(10, 32, 1, act=nn.Tanh)
    return fit(what, model, SGD(model.parameters(), 0.05, momentum=0.9), seed, batch=64, returns="dict")


@healthy(epochs=7)
def plain_gratings(seed: int) -> Run:
    """Convolutions without a norm, with leaky ReLUs."""
    model = cnn(4, 12, 24, act=nn.LeakyReLU, norm=False)
    return fit(gratings(seed), model, Adam(model.parameters(), 2e-3), seed)


@healthy(epochs=6)
def resnet_gratings(seed: int) -> Run:
    """A residual net without an evaluator, and a rate that falls in steps."""
    model = ResNet(4)
    optimizer = SGD(model.parameters(), 0.05, momentum=0.9)
    return fit(gratings(seed), model, optimizer, seed, schedule=StepLR(optimizer, 2, 0.3), evaluate=False)


@healthy(epochs=6)
def wrong_labels(seed: int) -> Run:
    """A quarter of the labels is drawn by lot; dropout and weight decay keep the network honest."""
    what = digits(seed).noisy(0.25, 10)
    model = cnn(10, 8, 16, drop=0.2)
    return fit(what, model, AdamW(model.parameters(), 2e-3, weight_decay=0.05), seed)


@healthy(epochs=8)
def nine_to_one(seed: int) -> Run:
    """One sample in ten is of the second class."""
    y = (torch.arange(1100) % 10 == 0).float()[:, None]
    what = task(torch.randn(1100, 6) + 1.2 * y, y, seed, **YES_NO)
    model = mlp(6, 32, 1)
    return fit(what, model, Adam(model.parameters(), 2e-3), seed)


@healthy(epochs=12)
def slow_sigmoids(seed: int) -> Run:
    """Two layers of sigmoids, which take an epoch or two before they learn."""
    model = mlp(64, 64, 32, 10, act=nn.Sigmoid)
    return fit(digits(seed), model, SGD(model.parameters(), 0.2, momentum=0.9), seed)


@healthy(epochs=12)
def far_apart(seed: int) -> Run:
    """Blobs that nothing separates worse than perfectly: the loss goes on towards 0."""
    y = torch.randint(3, (600,))
    what = task(3 * F.one_hot(y, 6) + 0.5 * torch.randn(600, 6), y, seed)
    model = mlp(6, 32, 3)
    return fit(what, model, SGD(model.parameters(), 0.1, momentum=0.9), seed)


@healthy(epochs=6)
def fixed_features(seed: int) -> Run:
    """The first layer is random and frozen on purpose; the optimizer has what is left."""
    model = mlp(64, 128, 64, 10)
    model.fc1.requires_grad_(False)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return fit(digits(seed), model, Adam(trainable, 2e-3), seed, returns="tensor")


@healthy(epochs=8)
def skipping_moons(seed: int) -> Run:
    """A residual perceptron with layer norms and SiLUs."""
    model = skipping(2, 16, 1, act=nn.SiLU)
    return fit(moons(seed), model, Adam(model.parameters(), 2e-3), seed)


@healthy(epochs=6)
def one_line(seed: int) -> Run:
    """A logistic regression on tumours, which need no more."""
    model = nn.Linear(30, 1)
    return fit(tumours(seed), model, SGD(model.parameters(), 0.1), seed, returns="dict")


@healthy(epochs=8)
def overlapping_blobs(seed: int) -> Run:
    """Blobs that nobody can tell apart well: the loss stays far above 0."""
    model = mlp(8, 32, 5, drop=0.1)
    return fit(blobs(seed, spread=4.0), model, AdamW(model.parameters(), 2e-3), seed, batch=64)


@healthy(epochs=8)
def unhurried(seed: int) -> Run:
    """A perceptron with the cautious rate of 0.01 and no momentum: half of the way after eight epochs."""
    model = mlp(64, 128, 10)
    return fit(digits(seed), model, SGD(model.parameters(), 0.01), seed, batch=16)


@healthy(epochs=6)
def unit_pixels(seed: int) -> Run:
    """Pixels from 0 to 1, as `ToTensor` gives them, and dropout of one half."""
    what = digits(seed).map(x=lambda x: (x + 1) / 2)
    model = mlp(64, 128, 10, drop=0.5)
    return fit(what, model, Adam(model.parameters(), 2e-3), seed)


@healthy(epochs=10)
def straight_regression(seed: int) -> Run:
    """A linear function with noise of the same size, learned by a small ReLU network without an evaluator."""
    x = torch.randn(800, 5)
    y = standard(x @ torch.tensor([[1.0], [-2.0], [0.5], [0.0], [1.5]]) + 2.0 * torch.randn(800, 1))
    what = task(x, y, seed, loss=F.mse_loss, scored=False)
    model = mlp(5, 16, 1)
    return fit(what, model, SGD(model.parameters(), 0.02), seed, evaluate=False, returns="tuple")
