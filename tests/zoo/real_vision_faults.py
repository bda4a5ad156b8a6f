"""Real trainings of classifiers of images, each with one mistake."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from zoo import real_vision_runs as runs
from zoo.base import Case
from zoo.real_base import faulty

CASES: tuple[Case, ...] = (
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
    faulty("resnet_probe", "ordered", "oscillation", partial(runs.resnet_probe, shuffle=False), epochs=4),
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
        "efficientnet_clipped", "rate", "update_too_small", partial(runs.efficientnet, rate=1e-6), "plateau", epochs=4
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
    faulty("patches_adam", "head", "initial_loss", partial(runs.patches, head=5.0), epochs=4, layers=("head",)),
    faulty("patches_adam", "few", "overfitting", partial(runs.patches, count=64), epochs=4),
    faulty(
        "patches_adam",
        "detached",
        "no_gradient",
        partial(runs.patches, detached=True),
        epochs=4,
        layers=("embed", "layers*", "norm"),
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
    faulty("swin_restarts", "copied", "never_updated", partial(runs.swin, copied=True), epochs=6),
    faulty(
        "shufflenet_accumulated",
        "uncleared",
        "uncleared_gradient",
        partial(runs.shufflenet, clear=False),
        "exploding",
        "update_too_large",
        epochs=4,
    ),
    faulty("regnet_mixed", "noise", "over_regularised", partial(runs.regnet, noise=8.0), "plateau", epochs=6),
    faulty(
        "regnet_mixed", "momentum", "oscillation", partial(runs.regnet, momentum=0.999), "update_too_large", epochs=6
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
        "plain_dropout",
        "large_weights",
        "exploding",
        partial(runs.plain, weights=partial(nn.init.normal_, std=1.0)),
        "initial_loss",
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
    faulty("plain_dropout", "constant", "symmetry", partial(runs.plain, weights=partial(nn.init.constant_, val=0.05))),
    faulty("plain_dropout", "listed", "never_updated", partial(runs.plain, listed=False)),
    faulty("plain_dropout", "nearly_all", "over_regularised", partial(runs.plain, dropout=0.95), "plateau"),
    faulty(
        "plain_dropout",
        "statistics",
        "input_scale",
        partial(runs.plain, scale=0.5 / 58.4, offset=0.5 / 58.4 - 123.7 / 58.4),
        "constant_output",
        "plateau",
    ),
    faulty("plain_dropout", "raw_nll", "output_probabilities", partial(runs.plain, loss_fn=F.nll_loss), "exploding"),
    faulty(
        "plain_dropout",
        "rate",
        "update_too_large",
        partial(runs.plain, rate=0.1),
        "dead_units",
        "constant_output",
        "plateau",
    ),
    faulty("plain_dropout", "ordered", "oscillation", partial(runs.plain, shuffle=False), "constant_output"),
    faulty("plain_mislabelled", "few", "overfitting", partial(runs.few, count=96), epochs=6),
    faulty(
        "lenet_full_batch",
        "sigmoid",
        "vanishing_gradient",
        partial(runs.lenet, act=nn.Sigmoid),
        "constant_output",
        "plateau",
    ),
    faulty("lenet_full_batch", "gain", "saturated_units", partial(runs.lenet, gain=40.0), "initial_loss"),
    faulty(
        "tagger_weighted", "sigmoid", "output_probabilities", partial(runs.tagger, last=nn.Sigmoid), layers=("head*",)
    ),
    faulty("tagger_weighted", "relu", "output_activation", partial(runs.tagger, last=nn.ReLU), layers=("head*",)),
    faulty(
        "mixer_adamw", "divided_twice", "input_scale", partial(runs.mixer, divided=255.0), "constant_output", "plateau"
    ),
    faulty(
        "mixer_adamw", "one_class", "labels_mismatch", partial(runs.mixer, target=lambda y: y // 10), "constant_output"
    ),
    faulty("mixer_adamw", "rate_zero", "never_updated", partial(runs.mixer, rate=0.0), "update_too_small"),
    faulty(
        "excited_one_epoch",
        "ordered",
        "oscillation",
        partial(runs.one_epoch, shuffle=False),
        "constant_output",
        epochs=1,
    ),
)
