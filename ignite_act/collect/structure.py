"""Every tensor in what goes into a model or comes out of it, with the place where it stands."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

_DEEPEST = 6
_MOST = 64
_NO_CONTAINERS = (str, bytes, int, float, complex, type(None), type, nn.Module, torch.dtype, torch.device, torch.Size)


def tensors_in(value: Any) -> dict[str, Tensor]:
    """Place -> tensor, in the order of a reader: ``{"": z}`` for a tensor itself, ``{"logits": z, "hidden.0": h}``.

    Looks into tuples, lists, mappings, dataclasses and the attributes of other objects (a distribution, an output
    class of a library), a few levels deep. Of one tensor in several places the first counts.

    >>> list(tensors_in({"loss": torch.zeros(()), "hidden": (torch.ones(1), "more")}))
    ['loss', 'hidden.0']
    """
    found: dict[str, Tensor] = {}
    known: set[int] = set()
    for place, tensor in _walk(value, "", _DEEPEST, set()):
        if id(tensor) not in known:
            known.add(id(tensor))
            found[place] = tensor
        if len(found) == _MOST:
            break
    return found


def main_tensor(value: Any) -> Tensor | None:
    """The first tensor of real numbers in a value, else its first tensor; None if it holds none."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, tuple) and value and isinstance(value[0], Tensor) and value[0].is_floating_point():
        return value[0]
    found = list(tensors_in(value).values())
    return next((tensor for tensor in found if tensor.is_floating_point()), found[0] if found else None)


def _walk(value: Any, place: str, depth: int, inside: set[int]) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield place, value
    elif depth and not isinstance(value, _NO_CONTAINERS) and id(value) not in inside:
        for name, item in _items(value):
            yield from _walk(item, f"{place}.{name}" if place else name, depth - 1, inside | {id(value)})


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((str(key), item) for key, item in value.items())
    elif dataclasses.is_dataclass(value):
        yield from ((field.name, getattr(value, field.name, None)) for field in dataclasses.fields(value))
    elif isinstance(value, (tuple, list)):
        names = getattr(value, "_fields", None) or map(str, range(len(value)))
        yield from zip(names, value, strict=False)
    elif not callable(value):
        yield from getattr(value, "__dict__", {}).items()
