"""Faults of the objective, the output and the architecture, kept out of all tuning."""

from __future__ import annotations

import functools
from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, RMSprop

from zoo.base import Case, Run
from zoo.kept_out_parts import MLP, Block, ResNet, Transformer, as_dict, as_tensor, as_tuple, cnn, enters, fit
from zoo.kept_out_tasks import blobs, by_half, circles, diabetes, digits, reviews, shapes

CASES: list[Case] = []
faulty = functools.partial(enters, CASES)


# The objective


@faulty("loss_rising")
def negated_and_reported(seed: int) -> Run:
    """The negated loss is minimised and reported: it falls and falls, and that of the evaluator rises."""
    model = Transformer()
    task = reviews(seed)
    return fit(task, model, Adam(model.parameters(), 1e-3), seed, objective=lambda scores, y: -task.loss(scores, y))


@faulty("loss_rising", epochs=5)
def maximising_resnet(seed: int) -> Run:
    """A ResNet climbs the loss that it should descend."""
    model = ResNet(4)
    return fit(shapes(seed), model, SGD(model.parameters(), 0.01, maximize=True), seed, returns=as_dict)


# The output


@faulty("output_probabilities", layers=("10", "11"))
def softmax_behind_convolutions(seed: int) -> Run:
    """A softmax at the end of a convolutional net, in front of cross-entropy."""
    model = cnn(10, end=nn.Softmax(dim=1))
    return fit(digits(seed), model, SGD(model.parameters(), 0.05, momentum=0.9), seed)


@faulty("output_probabilities", layers=("end", "out"))
def softmax_of_blobs(seed: int) -> Run:
    """A softmax at the end of a perceptron, in front of cross-entropy."""
    model = MLP(6, 32, 32, 4, act=nn.ELU(), end=nn.Softmax(dim=-1))
    return fit(blobs(seed), model, Adam(model.parameters(), 1e-3), seed, returns=as_tensor)


class Sure(Transformer):
    """Returns probabilities, for whoever wants to show them."""

    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(super().forward(x), dim=-1)


@faulty("output_probabilities", layers=("softmax", "head"))
def softmax_of_a_reader(seed: int) -> Run:
    """A softmax function at the end of a transformer, in front of cross-entropy."""
    model = Sure()
    return fit(reviews(seed), model, AdamW(model.parameters(), 1e-3), seed, returns=as_dict)


@faulty("output_activation", layers=("end", "out"))
def rectified_logits(seed: int) -> Run:
    """A ReLU behind every layer, and the last is no exception."""
    model = MLP(64, 64, 32, 10, end=nn.ReLU())
    return fit(digits(seed), model, Adam(model.parameters(), 1e-3), seed)


@faulty("output_activation", epochs=10, accepted={"output_probabilities"}, layers=("end", "out"))
def sigmoid_for_logits(seed: int) -> Run:
    """A sigmoid in front of `BCEWithLogitsLoss`."""
    model = MLP(2, 32, 32, 1, end=nn.Sigmoid())
    task = replace(circles(seed), accuracy=by_half)
    return fit(task, model, SGD(model.parameters(), 0.1, momentum=0.9), seed, returns=as_dict)


@faulty("output_activation", epochs=10, layers=("end", "out"))
def rectified_patients(seed: int) -> Run:
    """A ReLU at the end of a regression on standardised targets, half of which are negative."""
    model = MLP(10, 32, 1, act=nn.SiLU(), end=nn.ReLU())
    return fit(diabetes(seed), model, Adam(model.parameters(), 5e-3), seed)


@faulty("constant_output", layers=("end", "out"))
def softmax_over_one_unit(seed: int) -> Run:
    """A softmax over the only unit gives every sample a probability of 1."""
    task = replace(circles(seed), loss=F.binary_cross_entropy, accuracy=by_half)
    model = MLP(2, 64, 32, 1, act=nn.GELU(), end=nn.Softmax(dim=-1))
    return fit(task, model, RMSprop(model.parameters(), 1e-3), seed)


class PooledAcross(Transformer):
    """Takes the mean over the features instead of that over the sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.LayerNorm(32, elementwise_affine=False), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean(-1))


@faulty("constant_output", layers=("head", "norm"))
def mean_over_the_wrong_axis(seed: int) -> Run:
    """The mean over the axis that was just normalised is 0 for every sample."""
    model = PooledAcross()
    return fit(reviews(seed), model, AdamW(model.parameters(), 1e-3), seed, returns=as_tuple)


class Masked(Transformer):
    """Blanks what is padding, or means to: word 0 pads."""

    def features(self, x: Tensor) -> Tensor:
        return self.norm(self.blocks((self.embed(x) + self.positions) * (x == 0)[..., None]))


@faulty("constant_output", accepted={"no_gradient"})
def inverted_mask(seed: int) -> Run:
    """The mask of the padding is inverted: what is left are no words at all."""
    task = reviews(seed).inputs(lambda x: x + 1)
    model = Masked(words=31)
    return fit(task, model, Adam(model.parameters(), 1e-3), seed, returns=as_dict)


# The architecture


@faulty("hidden_softmax", epochs=8, layers=("act", "act#2"))
def softmax_units(seed: int) -> Run:
    """A softmax was chosen as the activation of the hidden layers."""
    model = MLP(2, 32, 32, 1, act=nn.Softmax(dim=1))
    return fit(circles(seed), model, Adam(model.parameters(), 1e-3), seed)


@faulty("hidden_softmax", layers=("1", "4"))
def softmax_channels(seed: int) -> Run:
    """A softmax over the channels is the activation of both convolutions."""
    model = cnn(4, norm=False, act=nn.Softmax2d)
    return fit(shapes(seed), model, SGD(model.parameters(), 0.05, momentum=0.9), seed, returns=as_tensor)


@faulty("hidden_softmax", layers=("blocks.0.act", "blocks.1.act"))
def softmax_in_the_block(seed: int) -> Run:
    """A softmax between the two linear layers of each transformer block."""
    model = Transformer(lambda width: Block(width, act=nn.Softmax(dim=-1)), depth=2)
    return fit(reviews(seed), model, Adam(model.parameters(), 1e-3), seed, returns=as_tuple)


class Straight(nn.Module):
    """Residual blocks of two linear layers between which nothing was put."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(2, 32), nn.Linear(32, 1)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(32, 64), nn.Linear(64, 32)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


@faulty("no_nonlinearity")
def straight_residual(seed: int) -> Run:
    """Residual blocks without an activation cannot bend a line around a circle."""
    model = Straight()
    return fit(circles(seed), model, Adam(model.parameters(), 1e-3), seed)


@faulty("no_nonlinearity")
def straight_convolutions(seed: int) -> Run:
    """Convolutions, batch norms and means, and no activation among them."""
    model = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.AvgPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.AdaptiveAvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(64, 4)),
    )
    return fit(shapes(seed), model, Adam(model.parameters(), 1e-3), seed, returns=as_dict)
