"""Runs of the real part of the zoo without labels that have one mistake each."""

from __future__ import annotations

from functools import partial

from torch import nn

from zoo.base import Case
from zoo.real_base import faulty
from zoo.real_other_own import actor_critic, adversaries, autoencoder, critic, denoiser, densities, flow, physics

CASES: tuple[Case, ...] = (
    faulty(
        "other_autoencoder",
        "heavy_divergence",
        "constant_output",
        partial(autoencoder, weight=20.0),
        "over_regularised",
        "plateau",
        epochs=8,
    ),
    faulty(
        "other_autoencoder",
        "log_of_negative",
        "nonfinite",
        partial(autoencoder, deviation=True),
        epochs=8,
        layers=("encoder", "encoder.*", ""),
    ),
    faulty(
        "other_autoencoder",
        "raw_units",
        "input_scale",
        partial(autoencoder, factor=1000.0),
        "exploding",
        "initial_loss",
        "nonfinite",
        epochs=8,
    ),
    faulty(
        "other_denoiser", "raw_time", "input_scale", partial(denoiser, span=0.05), "exploding", "initial_loss", epochs=8
    ),
    faulty(
        "other_denoiser",
        "sigmoid",
        "vanishing_gradient",
        partial(denoiser, act=nn.Sigmoid),
        "plateau",
        "constant_output",
        epochs=8,
    ),
    faulty(
        "other_adversaries",
        "cut",
        "no_gradient",
        partial(adversaries, cut=True),
        epochs=8,
        layers=("generator", "generator.*"),
    ),
    faulty(
        "other_adversaries",
        "sigmoid",
        "output_probabilities",
        partial(adversaries, last=nn.Sigmoid),
        "output_activation",
        epochs=8,
        layers=("discriminator", "discriminator.*"),
    ),
    faulty(
        "other_adversaries",
        "far_points",
        "vanishing_gradient",
        partial(adversaries, shift=10.0),
        "input_scale",
        epochs=8,
        layers=("generator", "generator.*"),
    ),
    faulty("other_critic", "swapped", "loss_rising", partial(critic, swapped=True), "exploding", epochs=8),
    faulty(
        "other_critic",
        "sigmoid",
        "output_activation",
        partial(critic, last=nn.Sigmoid),
        "saturated_units",
        "vanishing_gradient",
        epochs=8,
        layers=("discriminator.5", "discriminator.4", "discriminator"),
    ),
    faulty("other_critic", "no_penalty", "exploding", partial(critic, penalty=0.0), "update_too_large", epochs=8),
    faulty(
        "other_densities",
        "wrong_unit",
        "initial_loss",
        partial(densities, unit=1e4),
        "exploding",
        "update_too_small",
        epochs=8,
    ),
    faulty("other_flow", "descends", "loss_rising", partial(flow, ascends=False), "exploding", "nonfinite", epochs=8),
    faulty(
        "other_flow", "raw_units", "input_scale", partial(flow, factor=300.0), "exploding", "initial_loss", epochs=8
    ),
    faulty(
        "other_flow",
        "uncleared",
        "uncleared_gradient",
        partial(flow, cleared=False),
        "oscillation",
        "update_too_large",
        epochs=8,
    ),
    faulty(
        "other_physics", "metres", "input_scale", partial(physics, span=1000.0), "saturated_units", "plateau", epochs=8
    ),
    faulty("other_actor_critic", "no_deviation", "nonfinite", partial(actor_critic, divided=True)),
    faulty(
        "other_actor_critic",
        "only_critic",
        "never_updated",
        partial(actor_critic, only="critic"),
        layers=("actor", "actor.*"),
    ),
    faulty("other_actor_critic", "strong_entropy", "over_regularised", partial(actor_critic, entropy=5.0), "plateau"),
)
