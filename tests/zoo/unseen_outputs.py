"""Unseen faults of what goes in and what comes out, and of activation functions in the wrong place."""

from __future__ import annotations

import functools
from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, RMSprop

from zoo.base import Case, Run
from zoo.unseen_parts import (
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
    topics,
    tumours,
)

CASES: list[Case] = []
faulty = functools.partial(enters, CASES)


def ending(model: nn.Module, end: nn.Module) -> nn.Module:
    """The model with something behind it, called ``end``."""
    whole = nn.Sequential()
    whole.add_module("body", model)
    whole.add_module("end", end)
    return whole


@faulty("output_probabilities")
def softmax_twice(seed: int) -> Run:
    """A softmax at the end of a convolutional net, and another one in the loss."""
    model = ending(cnn(10, 8, 16), nn.Softmax(1))
    return fit(digits(seed), model, Adam(model.parameters(), 1e-3), seed)


@faulty("output_probabilities", epochs=6)
def softmax_blobs(seed: int) -> Run:
    """A softmax at the end of a residual perceptron, and another one in the loss."""
    model = ending(skipping(8, 32, 5), nn.Softmax(-1))
    return fit(blobs(seed), model, SGD(model.parameters(), 0.1), seed, evaluate=False, returns="dict")


class Probable(Reader):
    """A transformer that gives probabilities."""

    def forward(self, words: Tensor) -> Tensor:
        """Probabilities ``(N, K)``."""
        return F.softmax(super().forward(words), dim=-1)


@faulty("output_probabilities")
def probable_topics(seed: int) -> Run:
    """`F.softmax` at the end of a transformer, and another one in the loss."""
    model = Probable()
    return fit(topics(seed), model, AdamW(model.parameters(), 2e-3), seed)


@faulty("output_activation")
def rectified_logits(seed: int) -> Run:
    """A ReLU on the logits of a residual net."""
    model = ending(ResNet(10), nn.ReLU())
    return fit(digits(seed), model, SGD(model.parameters(), 0.05, momentum=0.9), seed)


@faulty("output_activation", epochs=8, accepted={"output_probabilities"})
def sigmoid_twice(seed: int) -> Run:
    """A sigmoid on the logit, and another one in `BCEWithLogitsLoss`."""
    model = ending(mlp(2, 32, 32, 1, act=nn.Tanh), nn.Sigmoid())
    what = replace(circles(seed), above=0.5)
    return fit(what, model, Adam(model.parameters(), 1e-2), seed)


@faulty("output_activation")
def never_negative(seed: int) -> Run:
    """A ReLU behind a regression whose targets are negative for every other sample."""
    model = ending(mlp(10, 64, 64, 1), nn.ReLU())
    return fit(friedman(seed), model, Adam(model.parameters(), 1e-3), seed, returns="tuple")


@faulty("constant_output", accepted={"no_gradient"})
def certain(seed: int) -> Run:
    """A softmax over the only output makes every probability 1."""
    model = ending(mlp(2, 32, 1), nn.Softmax(1))
    what = replace(moons(seed), loss=F.binary_cross_entropy, above=0.5)
    return fit(what, model, Adam(model.parameters(), 1e-3), seed)


class Blind(Reader):
    """A transformer that sees its places in the place of its words."""

    def enter(self, words: Tensor) -> Tensor:
        """The vectors of the places; those of the words were overwritten."""
        x = self.embed(words)
        return self.place.expand_as(x)


@faulty("constant_output", accepted={"no_gradient"})
def overwritten_words(seed: int) -> Run:
    """The places overwrite the words instead of being added to them, so that all texts look the same."""
    model = Blind()
    return fit(topics(seed), model, AdamW(model.parameters(), 1e-3), seed, returns="dict")


@faulty("hidden_softmax", layers=("act1", "act2"))
def softmax_layers(seed: int) -> Run:
    """A softmax as the activation function of a perceptron."""
    model = mlp(64, 64, 64, 10, act=lambda: nn.Softmax(1))
    return fit(digits(seed), model, SGD(model.parameters(), 0.05, momentum=0.9), seed)


@faulty("hidden_softmax", epochs=6, layers=("block1.act", "block2.act"))
def softmax_branches(seed: int) -> Run:
    """A softmax as the activation function of residual branches."""
    model = skipping(2, 16, 1, act=lambda: nn.Softmax(-1))
    return fit(circles(seed), model, Adam(model.parameters(), 1e-3), seed, returns="tensor")


@faulty("no_nonlinearity", epochs=6)
def lines_around_a_circle(seed: int) -> Run:
    """Three linear layers with nothing between them."""
    model = mlp(2, 64, 64, 1, act=nn.Identity)
    return fit(circles(seed), model, Adam(model.parameters(), 1e-3), seed)


@faulty("no_nonlinearity")
def linear_convolutions(seed: int) -> Run:
    """Two convolutions and means, and no activation function: waves of any phase have the same mean."""
    layers = [nn.Conv2d(1, 8, 3), nn.AvgPool2d(2), nn.Conv2d(8, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(16, 4))
    return fit(gratings(seed), model, SGD(model.parameters(), 0.05, momentum=0.9), seed)


@faulty("input_scale")
def bytes_of_digits(seed: int) -> Run:
    """Pixels from 0 to 255 in a perceptron with the usual rate of 0.01."""
    what = digits(seed).map(x=lambda x: (x + 1) * 127.5)
    model = mlp(64, 64, 10)
    return fit(what, model, SGD(model.parameters(), 0.01), seed)


@faulty("input_scale", epochs=6)
def raw_tumours(seed: int) -> Run:
    """Thirty quantities between 0.001 and 4,000 as the table has them."""
    model = mlp(30, 32, 16, 1)
    return fit(tumours(seed, raw=True), model, Adam(model.parameters(), 1e-3), seed, returns="dict")


@faulty("input_scale")
def kelvin(seed: int) -> Run:
    """Waves of temperature around 290, in kelvin."""
    what = gratings(seed).map(x=lambda x: x + 290)
    model = cnn(4, 12, 24, norm=False)
    return fit(what, model, Adam(model.parameters(), 2e-3), seed)


@faulty("initial_loss", layers=("out",))
def rare_prior(seed: int) -> Run:
    """The last bias begins at -12, as if one class were rare; half of the moons are of it."""
    model = mlp(2, 32, 1)
    nn.init.constant_(model.out.bias, -12.0)
    return fit(moons(seed), model, SGD(model.parameters(), 0.01), seed)


@faulty("initial_loss", epochs=6, layers=("out",))
def offset_targets(seed: int) -> Run:
    """Targets lie around 30 and vary by one, while the outputs begin at 0."""
    what = friedman(seed).map(y=lambda y: y + 30)
    model = mlp(10, 32, 1, act=nn.Tanh)
    return fit(what, model, Adam(model.parameters(), 1e-3), seed, returns="tuple")


@faulty("initial_loss", layers=("out",))
def loud_head(seed: int) -> Run:
    """The last layer of a residual net begins with a standard deviation of 6: sure of itself, and wrong."""
    model = ResNet(10)
    nn.init.normal_(model.out.weight, std=6.0)
    return fit(digits(seed), model, RMSprop(model.parameters(), 1e-3), seed)
