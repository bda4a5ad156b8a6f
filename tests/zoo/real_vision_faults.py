"""Real runs on images, each with one mistake."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import StepLR

from zoo import real_vision_others as others
from zoo import real_vision_runs as runs
from zoo.base import Case
from zoo.real_base import faulty


def on_softmax(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of what has already been through a softmax."""
    return F.cross_entropy(logits.softmax(1), y)


def nll_of_probabilities(logits: Tensor, y: Tensor, **settings: int) -> Tensor:
    """The negative log-likelihood of probabilities, whose logarithm was forgotten."""
    return F.nll_loss(logits.softmax(1), y, **settings)


CLASSIFIERS: tuple[Case, ...] = (
    faulty(
        "resnet_warm_cosine",
        "maximize",
        "loss_rising",
        partial(runs.resnet, maximize=True),
        "exploding",
        "nonfinite",
        epochs=6,
    ),
    faulty(
        "resnet_warm_cosine",
        "softmax",
        "output_probabilities",
        partial(runs.resnet, loss_fn=on_softmax),
        epochs=6,
    ),
    faulty(
        "resnet_warm_cosine",
        "shuffled_images",
        "labels_mismatch",
        partial(runs.resnet, shuffled_images=True),
        "plateau",
        "overfitting",
        epochs=6,
    ),
    faulty(
        "resnet_tuned",
        "schedule_per_batch",
        "update_too_small",
        partial(runs.resnet_tuned, calls="epoch"),
        "never_updated",
    ),
    faulty(
        "resnet_tuned",
        "rate",
        "update_too_large",
        partial(runs.resnet_tuned, rate=200.0),
        "exploding",
        "nonfinite",
        "oscillation",
    ),
    faulty(
        "resnet_probe",
        "late_head",
        "never_updated",
        partial(runs.resnet_probe, late_head=True),
        epochs=4,
        layers=("fc",),
    ),
    faulty(
        "mobilenet_rmsprop",
        "decay",
        "weight_collapse",
        partial(runs.mobilenet, decay=1.0),
        "over_regularised",
        "constant_output",
        "plateau",
    ),
    faulty("mobilenet_rmsprop", "dropout", "over_regularised", partial(runs.mobilenet, dropout=0.97)),
    faulty(
        "efficientnet_clipped",
        "rate",
        "update_too_small",
        partial(runs.efficientnet, rate=1e-6),
        "plateau",
        epochs=4,
    ),
    faulty(
        "convnext_warm",
        "rate",
        "update_too_large",
        partial(runs.convnext, rate=0.3),
        "exploding",
        "oscillation",
        "plateau",
        epochs=6,
    ),
    faulty(
        "vit_warm",
        "no_grad",
        "no_gradient",
        partial(runs.vit, encode=torch.no_grad()),
        epochs=5,
        layers=("conv_proj", "class_token", "encoder*"),
    ),
    faulty(
        "patches_adam",
        "scale",
        "saturated_units",
        partial(runs.patches, scale=100.0),
        "update_too_large",
        "vanishing_gradient",
        epochs=4,
        layers=("layers.*.attention*",),
    ),
    faulty("patches_adam", "constant", "symmetry", partial(runs.patches, constant=True), epochs=4),
    faulty(
        "patches_adam",
        "rate",
        "update_too_large",
        partial(runs.patches, rate=0.5),
        "exploding",
        "oscillation",
        "plateau",
        epochs=4,
    ),
    faulty(
        "swin_restarts",
        "decay",
        "weight_collapse",
        partial(runs.swin, decay=20.0),
        "over_regularised",
        "plateau",
        epochs=6,
    ),
    faulty(
        "shufflenet_accumulated",
        "uncleared",
        "uncleared_gradient",
        partial(runs.shufflenet, clear=False),
        "exploding",
        "update_too_large",
        epochs=4,
    ),
    faulty(
        "regnet_mixed",
        "noise",
        "over_regularised",
        partial(runs.regnet, noise=8.0),
        "plateau",
        epochs=6,
    ),
    faulty(
        "densenet_rare",
        "pairs",
        "oscillation",
        partial(runs.densenet, size=2),
        "update_too_large",
        epochs=3,
    ),
    faulty(
        "densenet_rare",
        "rate",
        "update_too_large",
        partial(runs.densenet, rate=10.0),
        "exploding",
        "oscillation",
        epochs=3,
    ),
    faulty(
        "excited_one_cycle",
        "pooled_batch",
        "constant_output",
        partial(runs.excited, pooled=(0, 2, 3)),
        "plateau",
        epochs=6,
        layers=("head",),
    ),
    faulty(
        "excited_one_cycle",
        "large_weights",
        "exploding",
        partial(runs.excited, norm=False, std=0.5),
        "initial_loss",
        epochs=6,
    ),
    faulty(
        "plain_dropout",
        "bytes",
        "input_scale",
        partial(runs.plain, scale=127.5, offset=127.5),
        "initial_loss",
        "exploding",
    ),
    faulty(
        "plain_dropout",
        "dead",
        "dead_units",
        partial(runs.plain, bias=-10.0),
        "constant_output",
        "no_gradient",
        layers=("features.1*",),
    ),
    faulty(
        "plain_dropout",
        "hidden_softmax",
        "hidden_softmax",
        partial(runs.plain, hidden_act=lambda: nn.Softmax(1)),
        layers=("classifier.2",),
    ),
    faulty(
        "plain_dropout",
        "coupled_decay",
        "weight_collapse",
        partial(runs.plain, decay=0.3),
        "over_regularised",
        "constant_output",
        "plateau",
    ),
    faulty(
        "plain_dropout", "nll", "output_probabilities", partial(runs.plain, loss_fn=nll_of_probabilities), "plateau"
    ),
    faulty("plain_dropout", "constant", "symmetry", partial(runs.plain, constant=0.05)),
    faulty("plain_dropout", "listed", "never_updated", partial(runs.plain, listed=False)),
    faulty("plain_dropout", "nearly_all", "over_regularised", partial(runs.plain, dropout=0.95), "plateau"),
    faulty("plain_mislabelled", "few", "overfitting", partial(runs.few, count=96), epochs=6),
    faulty(
        "lenet_full_batch",
        "deep_sigmoid",
        "vanishing_gradient",
        partial(runs.lenet, act=nn.Sigmoid, depth=5),
        "constant_output",
        "plateau",
    ),
    faulty(
        "lenet_full_batch",
        "gain",
        "saturated_units",
        partial(runs.lenet, gain=40.0),
        "exploding",
        "initial_loss",
    ),
    faulty(
        "excited_one_epoch",
        "ordered",
        "oscillation",
        partial(runs.one_epoch, ordered=True),
        epochs=1,
    ),
    faulty(
        "excited_one_epoch",
        "momentum",
        "oscillation",
        partial(runs.one_epoch, size=1, momentum=0.99),
        "update_too_large",
        "exploding",
        epochs=1,
    ),
    faulty(
        "tagger_weighted",
        "sigmoid",
        "output_probabilities",
        partial(runs.tagger, last=nn.Sigmoid),
        layers=("head*",),
    ),
    faulty(
        "tagger_weighted",
        "relu",
        "output_activation",
        partial(runs.tagger, last=nn.ReLU),
        layers=("head*",),
    ),
)
OTHERS: tuple[Case, ...] = (
    faulty(
        "unet_dice",
        "softmax",
        "constant_output",
        partial(others.unet, last=lambda: nn.Softmax(1)),
        "no_gradient",
        epochs=4,
        layers=("last",),
    ),
    faulty(
        "unet_dice",
        "flipped",
        "labels_mismatch",
        partial(others.unet, flip_mask=False),
        "plateau",
        epochs=4,
    ),
    faulty("unet_dice", "identity", "no_nonlinearity", partial(others.unet, act=nn.Identity), epochs=4),
    faulty("unet_dice", "logs", "nonfinite", partial(others.unet, logs=True), epochs=4),
    faulty(
        "lraspp_pixels",
        "nll",
        "output_probabilities",
        partial(others.lraspp, loss_fn=nll_of_probabilities),
    ),
    faulty(
        "lraspp_pixels",
        "raw_nll",
        "output_probabilities",
        partial(others.lraspp, loss_fn=F.nll_loss),
        "exploding",
    ),
    faulty(
        "siamese_pairs",
        "same_only",
        "constant_output",
        partial(others.siamese, different=False),
        epochs=4,
        layers=("project*",),
    ),
    faulty("siamese_pairs", "root_of_zero", "nonfinite", partial(others.siamese, epsilon=0.0), epochs=4),
    faulty("triplet_hardest", "root_of_zero", "nonfinite", partial(others.triplet, epsilon=0.0)),
    faulty("triplet_hardest", "swapped", "labels_mismatch", partial(others.triplet, swapped=True)),
    faulty(
        "contrastive_views",
        "no_negatives",
        "constant_output",
        partial(others.contrastive, negatives=False),
    ),
    faulty("contrastive_views", "temperature", "plateau", partial(others.contrastive, temperature=50.0)),
    faulty(
        "contrastive_views",
        "hidden_softmax",
        "hidden_softmax",
        partial(others.contrastive, act=lambda: nn.Softmax(1)),
        layers=("project.1",),
    ),
    faulty("heads_bf16", "units", "initial_loss", partial(others.heads, ink=1e4), "exploding"),
    faulty("heads_bf16", "maximize", "loss_rising", partial(others.heads, maximize=True), "exploding"),
    faulty("heads_bf16", "shifted", "labels_mismatch", partial(others.heads, shift=1), "overfitting", "plateau"),
    faulty(
        "autoencoder_noise",
        "relu",
        "output_activation",
        partial(others.autoencoder, last=nn.ReLU),
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
        "update_too_small",
        "plateau",
        epochs=6,
    ),
    faulty("centre_turned", "flipped", "labels_mismatch", partial(others.centre, flip_target=False), epochs=6),
    faulty("height_sgd", "broadcast", "labels_mismatch", partial(others.height, flat=False), "plateau", epochs=6),
    faulty(
        "height_sgd", "units", "exploding", partial(others.height, unit=100.0), "nonfinite", "initial_loss", epochs=6
    ),
    faulty("density_negative", "no_exp", "nonfinite", partial(others.density, squared=True), epochs=6),
)
CASES: tuple[Case, ...] = (*CLASSIFIERS, *OTHERS)
