"""Faulty runs of the exam on vision: all that is not a plain classifier, with one mistake each."""

from __future__ import annotations

from functools import partial

from torch import nn

from zoo.base import Case
from zoo.exam_vision_dense import (
    x_counting,
    x_detector,
    x_fcn,
    x_field,
    x_keypoints,
    x_radius,
    x_siren,
    x_stn,
    x_superres,
    x_unet,
)
from zoo.exam_vision_pairs import (
    x_autoencoder,
    x_clip,
    x_dcgan,
    x_distill,
    x_pixels,
    x_triplet,
    x_vae,
)
from zoo.real_base import faulty

CASES: tuple[Case, ...] = (
    faulty("x_detector", "pixels", "initial_loss", partial(x_detector, unit=24.0), "exploding", epochs=6),
    faulty("x_detector", "crossed", "labels_mismatch", partial(x_detector, crossed=True), "plateau", epochs=6),
    faulty(
        "x_detector",
        "prior_everywhere",
        "dead_units",
        partial(x_detector, prior=True),
        "constant_output",
        "no_gradient",
        "initial_loss",
        epochs=6,
        layers=("backbone*",),
    ),
    faulty("x_fcn", "masks_stay", "labels_mismatch", partial(x_fcn, turn_masks=False), epochs=6),
    faulty(
        "x_unet",
        "softmax_of_one",
        "constant_output",
        partial(x_unet, last=nn.Softmax(1)),
        "no_gradient",
        "output_probabilities",
        epochs=6,
    ),
    faulty(
        "x_superres",
        "relu",
        "output_activation",
        partial(x_superres, last=nn.ReLU()),
        epochs=6,
        layers=("last",),
    ),
    faulty("x_superres", "gain", "exploding", partial(x_superres, gain=6.0), "initial_loss", "nonfinite", epochs=6),
    faulty("x_keypoints", "relu", "output_activation", partial(x_keypoints, last=nn.ReLU()), epochs=8, layers=("7",)),
    faulty("x_keypoints", "decay", "weight_collapse", partial(x_keypoints, decay=30.0), "over_regularised", epochs=8),
    faulty("x_radius", "broadcast", "labels_mismatch", partial(x_radius, flat=False), "plateau", "constant_output"),
    faulty(
        "x_radius", "unit", "exploding", partial(x_radius, unit=1e4), "nonfinite", "update_too_large", "initial_loss"
    ),
    faulty("x_counting", "not_logged", "nonfinite", partial(x_counting, logged=False), epochs=8),
    faulty("x_fcn", "linear", "no_nonlinearity", partial(x_fcn, act=nn.Identity), epochs=6),
    faulty("x_field", "list", "never_updated", partial(x_field, registered=False), epochs=8),
    faulty("x_field", "pixels", "input_scale", partial(x_field, pixels=True), epochs=8),
    faulty("x_siren", "rate", "update_too_large", partial(x_siren, rate=0.5), "oscillation", "plateau"),
    faulty("x_clip", "shuffled", "labels_mismatch", partial(x_clip, shuffled=True), "plateau", epochs=8),
    faulty("x_stn", "detached", "no_gradient", partial(x_stn, cut=True), epochs=6, layers=("look*", "where")),
    faulty("x_clip", "no_grad", "no_gradient", partial(x_clip, blind=True), epochs=8, layers=("image*",)),
    faulty("x_distill", "teacher", "never_updated", partial(x_distill, of_teacher=True)),
    faulty("x_distill", "softmax", "output_probabilities", partial(x_distill, probabilities=True)),
    faulty("x_vae", "mean", "constant_output", partial(x_vae, mean_of_pixels=True), "over_regularised", epochs=6),
    faulty(
        "x_dcgan",
        "detached",
        "no_gradient",
        partial(x_dcgan, cut=True),
        "never_updated",
        epochs=8,
        layers=("generator*",),
    ),
    faulty("x_triplet", "swapped", "labels_mismatch", partial(x_triplet, swapped=True)),
    faulty("x_pixels", "maximised", "loss_rising", partial(x_pixels, maximise=True), "exploding"),
    faulty(
        "x_autoencoder", "wide_init", "saturated_units", partial(x_autoencoder, deviation=1.0), "initial_loss", epochs=6
    ),
)
