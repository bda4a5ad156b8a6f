"""Checks that a stored state fits the run that resumes from it, before anything is loaded or written."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ignite_act.errors import UserError, quoted

STOPS = (None, "early_stopping", "all_epochs", "nonfinite")
"""Why a run ended; None while it is running."""
_NAMED = 5


def check_settings(checkpoint: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Rejects a checkpoint of a run with other settings.

    Raises:
        UserError: if they differ; names them.
    """
    stored = checkpoint["run"].get("settings")
    _refuse(different_settings(stored if isinstance(stored, dict) else {}, settings), "is of another run")


def check_weights(checkpoint: Mapping[str, Any], model: nn.Module) -> None:
    """Rejects a checkpoint whose weights do not fit a model, or are no longer the numbers that were stored.

    Raises:
        UserError: if they do not fit; names them.
    """
    stored, own = checkpoint.get("model"), model.state_dict()
    if not isinstance(stored, Mapping):
        raise UserError("the checkpoint holds no weights; --overwrite starts over")
    shapes = [{name: _shape(value) for name, value in state.items()} for state in (stored, own)]
    _refuse(
        [
            f"{name} {shapes[0].get(name, 'missing')} -> {shapes[1].get(name, 'not in the model')}"
            for name in {**shapes[1], **shapes[0]}
            if shapes[0].get(name) != shapes[1].get(name)
        ],
        "is of another run",
    )
    _refuse([f"{name} {stored[name].dtype} -> {value.dtype}" for name, value in own.items()
             if stored[name].dtype != value.dtype], "is not valid")  # fmt: skip
    if checkpoint["run"].get("finite", True):
        _refuse([f"{name} is not finite" for name, value in stored.items() if not bool(value.isfinite().all())],
                "is not valid")  # fmt: skip


def _shape(value: object) -> object:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return tuple(value.shape) if _is_dense(value) else f"{tuple(value.shape)} {value.layout} on {value.device.type}"


def _is_dense(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and not tensor.is_meta


def check_content(checkpoint: Mapping[str, Any], own: Mapping[str, Any], optimizer: Optimizer, steps: int) -> None:
    """Rejects a checkpoint that lacks something a run needs to resume, or holds what no run would have stored.

    Args:
        checkpoint: see `checkpoints.load_checkpoint`.
        own: what a newly built run would store, by name.
        optimizer: before its first step.
        steps: training steps in an epoch.

    Raises:
        UserError: if it does not fit; names what differs.
    """
    problems = list(_differences(own, checkpoint))
    if not problems:
        run, iteration, stopping = checkpoint["run"], checkpoint["trainer"]["iteration"], checkpoint["early_stopping"]
        if run["stop"] not in STOPS:
            problems.append(f"run.stop is {quoted(run['stop'])}")
        if iteration != run["epoch"] * steps:
            problems.append(f"trainer.iteration is {quoted(iteration)}, run.epoch {quoted(run['epoch'])}")
        if not isinstance(stopping["best_score"], (float, int, type(None))):
            problems.append(f"early_stopping.best_score is {type(stopping['best_score']).__name__}")
        counts = {"run.epoch": run["epoch"], "run.seconds": run["seconds"], "run.costs": run["costs"],
                  "early_stopping.counter": stopping["counter"]}  # fmt: skip
        problems += [f"{name} is negative" for name, value in counts.items() if value < 0]
        problems += _other_rates(own["optimizer"]["param_groups"], checkpoint["optimizer"]["param_groups"])
    stored = checkpoint["optimizer"] if not problems else {}
    if stored.get("state"):  # empty before the first step
        problems += _differences(_after_a_step(optimizer), stored["state"], "optimizer.state")
    _refuse(problems, "is not valid")


def _other_rates(own: list[dict[str, Any]], stored: list[dict[str, Any]]) -> Iterator[str]:
    """The optimizer's numbers that differ from the run's settings; training does not change them."""
    for place, (group, other) in enumerate(zip(own, stored, strict=False)):  # loading compares how many there are
        for name, value in group.items():
            if name != "params" and isinstance(value, (int, float, tuple)) and not _is_same(other[name], value):
                yield f"optimizer.param_groups.{place}.{name} {quoted(other[name])} -> {quoted(value)}"


def _is_same(one: Any, other: Any) -> bool:
    """Whether two plain values are equal. A file may hold anything in place of one, for instance a tensor."""
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_is_same, one, other))
    return _sort(one) is _sort(other) and bool(one == other)


def _after_a_step(optimizer: Optimizer) -> Mapping[int, Any]:
    """The state an optimizer keeps for each parameter after one step, taken on copies."""
    copies = []
    for group in optimizer.param_groups:
        own = [parameter.detach().clone().requires_grad_() for parameter in group["params"]]
        for parameter in own:
            parameter.grad = torch.zeros_like(parameter)
        copies.append({**group, "params": own})
    kind: Any = type(optimizer)
    twin = kind(copies)
    twin.step()
    state: Mapping[int, Any] = twin.state_dict()["state"]
    return state


def _differences(own: Any, stored: Any, where: str = "") -> Iterator[str]:
    """Where the structure of a stored state differs from a run's own; None matches anything."""
    if isinstance(own, Mapping):
        if not isinstance(stored, Mapping):
            yield f"{where} is {type(stored).__name__}"
            return
        for key, value in own.items():
            name = f"{where}.{key}".lstrip(".")
            if key in stored:
                yield from _differences(value, stored[key], name)
            else:
                yield f"{name} is missing"
    elif isinstance(own, Tensor):
        if not isinstance(stored, Tensor):
            yield f"{where} is {type(stored).__name__}"
        elif not _is_dense(stored):
            yield f"{where} is {_shape(stored)}"
        elif (stored.dtype, stored.shape) != (own.dtype, own.shape):
            yield f"{where} {stored.dtype} {tuple(stored.shape)} -> {own.dtype} {tuple(own.shape)}"
    elif isinstance(own, (list, tuple)):
        if not isinstance(stored, (list, tuple)):
            yield f"{where} is {type(stored).__name__}"
        for number, pair in enumerate(zip(own, stored, strict=False) if isinstance(stored, (list, tuple)) else ()):
            yield from _differences(*pair, f"{where}.{number}")
    elif own is not None and stored is not None:
        if _sort(own) is not _sort(stored) or (isinstance(own, int) and not isinstance(stored, int)):
            yield f"{where} is {type(stored).__name__}"
        elif isinstance(stored, float) and not math.isfinite(stored):
            yield f"{where} is {stored}"


def _sort(value: object) -> type:
    """The type of a value, the same one for ``int`` and ``float``."""
    return float if type(value) in (int, float) else type(value)


def _refuse(problems: list[str], what: str) -> None:
    if problems:
        more = f" and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        raise UserError(f"the checkpoint {what} ({', '.join(problems[:_NAMED])}{more}); --overwrite starts over")


def different_settings(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """The settings that differ, each in words.

    >>> different_settings({"lr": 0.1, "seed": 1}, {"lr": 0.2, "seed": 1})
    ['lr 0.1 -> 0.2']
    """
    return [
        f"{name} {quoted(stored.get(name))} -> {quoted(value)}"
        for name, value in wanted.items()
        if not _is_same(stored.get(name), value)
    ]
