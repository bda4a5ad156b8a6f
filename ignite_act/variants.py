"""What an activation on the command line or in a study means."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping

import torch

from ignite_act.activations import ACTIVATIONS, Activation, Parameter, get_activation, make_activation
from ignite_act.config import WIDEST, RunConfig, StudyConfig
from ignite_act.errors import UserError, first_line, quoted
from ignite_act.models import MLP

_PARAMETER = re.compile(r"(?!.*\.\.)[\w.+-]{1,40}")
"""A parameter's value, which also becomes a part of a path: no separator, no two dots, not too long."""


def parse_activation(text: str) -> tuple[Activation, dict[str, Parameter]]:
    """The activation and the parameters of ``"leakyrelu:negative_slope=0.1"``.

    Raises:
        UserError: if there is no such activation or it has no such parameters.
    """
    name, colon, listed = text.partition(":")
    parameters: dict[str, Parameter] = {}
    for item in listed.split(",") if colon else ():
        key, _, value = (part.strip() for part in item.partition("="))
        if not key or not _PARAMETER.fullmatch(value):
            raise UserError(f"an activation's parameters are written name:parameter=value, got {quoted(text)}")
        if key in parameters:
            raise UserError(f"parameter {quoted(key)} is given twice in {quoted(text)}")
        parameters[key] = _scalar(value)
    try:
        entry = get_activation(name.strip())
        _check_counts(entry, parameters)
        make_activation(entry.name, **parameters)
    except (ValueError, OverflowError) as error:
        raise UserError(str(error)) from error
    if not entry.pointwise:
        raise UserError(f"{entry.name} mixes the units of a layer: it is for outputs, not for hidden layers")
    return entry, parameters


def _check_counts(entry: Activation, parameters: Mapping[str, Parameter]) -> None:
    """Refuses a number of learned parameters that no layer could use, before the memory for them is taken."""
    for name, value in parameters.items():
        if type(entry.parameters.get(name)) is int and isinstance(value, (int, float)) and value > WIDEST:
            raise UserError(f"parameter {name!r} of activation {entry.name!r} is at most {WIDEST}, got {quoted(value)}")


def activation_slug(text: str) -> str:
    """The name of an activation in a path: ``leakyrelu`` or ``leakyrelu-negative_slope=0.1``.

    Raises:
        UserError: see `parse_activation`.
    """
    entry, parameters = parse_activation(text)
    return "-".join([entry.name, *(f"{name}={value}" for name, value in sorted(parameters.items()))])


def expand_study(study: StudyConfig) -> list[RunConfig]:
    """The runs of a study, seed by seed: ``all`` becomes every activation for hidden layers; every variant comes once.

    Raises:
        UserError: if an activation does not exist or cannot be used as it is asked for.
    """
    wanted: list[str] = []
    for act in study.act:
        everything = [name for name, entry in ACTIVATIONS.items() if entry.pointwise]
        if study.style == "functional":
            everything = [name for name in everything if ACTIVATIONS[name].functional is not None]
        wanted.extend(everything if act == "all" else [act])
    unique = {activation_slug(act): act for act in wanted}
    published = {activation_slug(act): numbers for act, numbers in study.published.items()}
    runs = study.runs(tuple(unique.values()))
    for config in runs[: len(unique)]:  # the other seeds differ in nothing that matters here
        check_activation(config)
    return [config.model_copy(update={"published": published.get(activation_slug(config.act), {})}) for config in runs]


def check_activation(config: RunConfig) -> None:
    """Tries the activation on layers of the configured widths: torch refuses some parameters only when it computes.

    Raises:
        UserError: if the function refuses its parameters or has no form in the configured style.
    """
    entry, parameters = parse_activation(config.act)
    try:
        with torch.random.fork_rng(devices=[]):
            for width in sorted(set(config.hidden)):
                MLP(1, [width], 1, entry.name, parameters, config.style)(torch.zeros(2, 1)).sum().backward()
    except (ValueError, RuntimeError, OverflowError) as error:
        raise UserError(f"activation {quoted(config.act)}: {first_line(error)}") from error


def _scalar(text: str) -> Parameter:
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return {"true": True, "false": False}.get(text.lower(), text)
