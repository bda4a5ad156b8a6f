"""Which axis of a tensor holds the units: a channel on axis 1 behind a convolution, else the last axis."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def _named(*names: str) -> frozenset[Callable[..., Any]]:
    places = (F, torch, torch.Tensor)
    return frozenset(getattr(place, name) for name in names for place in places if hasattr(place, name))


_CONVOLUTIONS = _named(
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution"
)  # fmt: skip
_CHANNEL_NORMS = _named("batch_norm", "instance_norm", "group_norm")
_STARTING = _CONVOLUTIONS | _CHANNEL_NORMS
_RESHAPES = _named("view", "reshape", "flatten", "unflatten", "view_as", "reshape_as", "squeeze", "unsqueeze")
_PERMUTATIONS = _named(
    "permute", "transpose", "transpose_", "movedim", "moveaxis", "swapaxes", "swapdims", "t", "adjoint",
) | {getattr(torch.Tensor, name).__get__ for name in ("T", "mT", "H", "mH")}  # fmt: skip
_MIXERS = _named(
    "linear", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "einsum", "tensordot",
    "scaled_dot_product_attention",
)  # fmt: skip


class ChannelAxes:
    """Remembers, during one forward, which tensors have their channels on another axis than the last.

    A convolution gives its output a channel axis, so does a norm over channels of three or more dimensions; everything
    that keeps the shape (pooling, dropout, residual sums, concatenation) hands it on, what reorders the axes moves it,
    matrix products drop it. Tensors are held weakly.
    """

    def __init__(self) -> None:
        self._axes: dict[int, tuple[weakref.ref[Tensor], int]] = {}  # axes count from the end

    def clear(self) -> None:
        """Forgets every tensor."""
        self._axes.clear()

    def of(self, tensor: Any) -> int:
        """The axis of the units, negative; -1 unless the tensor comes from a convolution."""
        return self._known(tensor) or -1

    def concerns(self, function: Callable[..., Any]) -> bool:
        """Whether there can be anything to note of a call of this function."""
        return bool(self._axes) or function in _STARTING

    def follow(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """Takes note of one call."""
        if function in _CONVOLUTIONS:
            weight = args[1] if len(args) > 1 else kwargs.get("weight")
            if isinstance(weight, Tensor):
                self._mark(result, 1 - weight.ndim)
        elif function in _CHANNEL_NORMS:
            if isinstance(result, Tensor) and result.ndim >= 3:
                self._mark(result, 1 - result.ndim)
        elif self._axes and function in _PERMUTATIONS:
            self._move(function, args, kwargs, result)
        elif self._axes and function not in _MIXERS:
            self._inherit(function, (*args, *kwargs.values()), result)

    def _known(self, tensor: Any) -> int | None:
        """The axis that a tensor has from a convolution; None if it comes from none."""
        entry = self._axes.get(id(tensor)) if self._axes else None
        return entry[1] if entry is not None and entry[0]() is tensor else None

    def _move(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """Lets the function itself say where it puts the axis, with a tensor without elements."""
        source = args[0] if args else kwargs.get("input")
        axis = self._known(source)
        if axis is None or not isinstance(source, Tensor):
            return
        shape = [0] * source.ndim
        shape[axis] = 1
        inputs = {name: value for name, value in kwargs.items() if name != "input"}
        moved = function(torch.empty(shape, device="meta", dtype=source.dtype), *args[1:], **inputs)
        self._mark(result, moved.shape.index(1) - moved.ndim)

    def _inherit(self, function: Callable[..., Any], args: tuple[Any, ...], result: Any) -> None:
        results = result if isinstance(result, (tuple, list)) else (result,)
        if not any(isinstance(tensor, Tensor) for tensor in results):
            return
        for source in _tensors(args):
            axis = self._known(source)
            if axis is None:
                continue
            lead = source.ndim + axis + 1  # dimensions up to the channels
            for tensor in results:
                if not isinstance(tensor, Tensor):
                    continue
                if function in _RESHAPES or tensor.ndim != source.ndim:
                    if tensor.shape[:lead] == source.shape[:lead]:
                        self._mark(tensor, lead - 1 - tensor.ndim)
                else:
                    self._mark(tensor, axis)
            return

    def _mark(self, tensor: Any, axis: int) -> None:
        if isinstance(tensor, Tensor):
            self._axes[id(tensor)] = (weakref.ref(tensor), axis)


def _tensors(args: tuple[Any, ...]) -> list[Tensor]:
    """The tensors among the arguments, one level of lists included (``torch.cat``)."""
    found: list[Tensor] = []
    for argument in args:
        if isinstance(argument, Tensor):
            found.append(argument)
        elif isinstance(argument, (tuple, list)):
            found.extend(item for item in argument if isinstance(item, Tensor))
    return found
