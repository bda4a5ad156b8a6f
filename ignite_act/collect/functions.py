"""Functions of torch by their names, and what is in a call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ignite_act.internals import NN_FUNCTIONS, operators

Function = Callable[..., Any]
Arguments = tuple[Any, ...]
Keywords = dict[str, Any]


def named(*names: str) -> frozenset[Function]:
    """Everything in torch that has one of these names: functional, function, tensor method and operator."""
    places = (F, torch, torch.Tensor, torch.linalg, torch.special, NN_FUNCTIONS)
    found = {getattr(place, name) for name in names for place in places if hasattr(place, name)}
    return frozenset(found.union(*map(operators, names)))


def word(function: Function) -> str:
    """A function's name in the name of a site: of an operator, without its overload.

    >>> word(torch.Tensor.relu_), word(torch.ops.aten.relu.default)
    ('relu', 'relu')
    """
    return str(getattr(function, "__name__", "call")).split(".")[0].strip("_")


def first_argument(args: Arguments, kwargs: Keywords, name: str = "input") -> Any:
    """What a function is called for, which operators call ``self``."""
    return args[0] if args else kwargs.get(name, kwargs.get("self"))


def tensors_in(args: Arguments) -> list[Tensor]:
    """The tensors among the arguments, one level of lists included (``torch.cat``)."""
    found: list[Tensor] = []
    for argument in args:
        if isinstance(argument, Tensor):
            found.append(argument)
        elif isinstance(argument, (tuple, list)):
            found.extend(item for item in argument if isinstance(item, Tensor))
    return found
