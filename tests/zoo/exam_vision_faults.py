"""Faulty runs of the exam on vision: classifiers of images and of clips with one mistake each."""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.optim import Adam

from zoo.base import Case
from zoo.exam_vision import (
    x_densenet,
    x_efficientnet,
    x_few,
    x_lenet,
    x_mixer,
    x_mobilenet,
    x_rare,
    x_resnet18,
    x_resnet34,
    x_swin,
    x_transfer,
    x_vgg,
    x_vit,
)
from zoo.real_base import faulty

CASES: tuple[Case, ...] = (
    faulty(
        "x_resnet18",
        "not_cleared",
        "uncleared_gradient",
        partial(x_resnet18, clear=False),
        "exploding",
        "update_too_large",
    ),
    faulty("x_resnet34", "slow", "update_too_small", partial(x_resnet34, rate=1e-6), "plateau", epochs=1),
    faulty("x_densenet", "by_class", "oscillation", partial(x_densenet, by_class=True), epochs=6),
    faulty("x_densenet", "blank", "nonfinite", partial(x_densenet, one_blank=True), epochs=6),
    faulty(
        "x_mobilenet",
        "rate",
        "update_too_large",
        partial(x_mobilenet, rate=0.1),
        "exploding",
        "oscillation",
        "dead_units",
        epochs=4,
    ),
    faulty("x_efficientnet", "dropout", "over_regularised", partial(x_efficientnet, dropout=0.97), "plateau", epochs=8),
    faulty(
        "x_vit", "rate", "update_too_large", partial(x_vit, rate=0.3), "exploding", "oscillation", "plateau", epochs=6
    ),
    faulty("x_swin", "schedule", "update_too_small", partial(x_swin, factor=0.7), "plateau", epochs=8),
    faulty(
        "x_vgg",
        "sigmoid",
        "vanishing_gradient",
        partial(x_vgg, act=nn.Sigmoid),
        "constant_output",
        "plateau",
        epochs=6,
    ),
    faulty(
        "x_vgg",
        "rate",
        "update_too_large",
        partial(x_vgg, rate=1.0),
        "dead_units",
        "constant_output",
        "exploding",
        epochs=6,
    ),
    faulty("x_vgg", "constant", "symmetry", partial(x_vgg, same=True), epochs=6),
    faulty(
        "x_vgg",
        "softmax_inside",
        "hidden_softmax",
        partial(x_vgg, act=lambda: nn.Softmax(1)),
        epochs=6,
        layers=("1", "3", "6", "8", "11", "13"),
    ),
    faulty(
        "x_mixer",
        "decay_in_adam",
        "weight_collapse",
        partial(x_mixer, kind=Adam),
        "over_regularised",
        "constant_output",
    ),
    faulty("x_lenet", "softmax", "output_probabilities", partial(x_lenet, last=nn.Softmax(1)), epochs=6),
    faulty("x_mixer", "list", "never_updated", partial(x_mixer, registered=False)),
    faulty(
        "x_transfer",
        "head_last",
        "never_updated",
        partial(x_transfer, head_last=True),
        epochs=8,
        layers=("classifier",),
    ),
    faulty("x_few", "debug_subset", "overfitting", partial(x_few, count=40), epochs=8),
    faulty("x_rare", "sigmoid", "output_probabilities", partial(x_rare, sigmoid=True), "output_activation"),
)
