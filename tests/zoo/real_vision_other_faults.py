"""Real trainings on images that are no plain classification, each with one mistake."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from zoo import real_vision_others as others
from zoo.base import Case
from zoo.real_base import faulty


def nll_of_probabilities(logits: Tensor, y: Tensor, **settings: Any) -> Tensor:
    """The negative log-likelihood of probabilities, whose logarithm was forgotten."""
    return F.nll_loss(logits.softmax(1), y, **settings)


CASES: tuple[Case, ...] = (
    faulty("triplet_hardest", "rate", "update_too_large", partial(others.triplet, rate=0.1), "constant_output"),
    faulty(
        "lraspp_pixels",
        "decay",
        "weight_collapse",
        partial(others.lraspp, decay=1.0),
        "over_regularised",
        "constant_output",
    ),
    faulty("lraspp_pixels", "nll", "output_probabilities", partial(others.lraspp, loss_fn=nll_of_probabilities)),
    faulty(
        "height_sgd",
        "rate",
        "update_too_large",
        partial(others.height, rate=2.0),
        "exploding",
        "nonfinite",
        "oscillation",
        "plateau",
        epochs=6,
    ),
    faulty(
        "height_sgd",
        "broadcast",
        "labels_mismatch",
        partial(others.height, flat=False),
        "constant_output",
        "plateau",
        epochs=6,
    ),
    faulty(
        "height_sgd",
        "units",
        "exploding",
        partial(others.height, unit=100.0),
        "update_too_large",
        "nonfinite",
        "initial_loss",
        epochs=6,
    ),
    faulty(
        "unet_dice",
        "softmax",
        "constant_output",
        partial(others.unet, last=lambda: nn.Softmax(1)),
        "initial_loss",
        "no_gradient",
        epochs=4,
        layers=("last",),
    ),
    faulty("unet_dice", "identity", "no_nonlinearity", partial(others.unet, act=nn.Identity), epochs=4),
    faulty(
        "siamese_pairs",
        "same_only",
        "constant_output",
        partial(others.siamese, different=False),
        epochs=4,
        layers=("project*",),
    ),
    faulty("siamese_pairs", "root_of_zero", "nonfinite", partial(others.siamese, epsilon=0.0), epochs=4),
    faulty("contrastive_views", "no_negatives", "constant_output", partial(others.contrastive, negatives=False)),
    faulty("heads_bf16", "units", "initial_loss", partial(others.heads, ink=1e4), "exploding"),
    faulty("heads_bf16", "maximize", "loss_rising", partial(others.heads, maximize=True), "exploding"),
    faulty("heads_bf16", "shifted", "labels_mismatch", partial(others.heads, shift=1), "overfitting", "plateau"),
    faulty(
        "autoencoder_noise",
        "relu",
        "output_activation",
        partial(others.autoencoder, last=nn.ReLU),
        "constant_output",
        "dead_units",
        epochs=6,
        layers=("decoder.6",),
    ),
    faulty("autoencoder_noise", "deviation_zero", "nonfinite", partial(others.autoencoder, standard=True), epochs=6),
    faulty(
        "centre_turned",
        "sigmoid",
        "output_activation",
        partial(others.centre, last=nn.Sigmoid),
        epochs=6,
        layers=("head.4",),
    ),
    faulty(
        "centre_turned",
        "units",
        "initial_loss",
        partial(others.centre, unit=1e4),
        "exploding",
        "update_too_small",
        "plateau",
        epochs=6,
    ),
    faulty("centre_turned", "flipped", "labels_mismatch", partial(others.centre, flip_target=False), epochs=6),
    faulty("density_negative", "no_exp", "nonfinite", partial(others.density, plain=True), epochs=6),
)
