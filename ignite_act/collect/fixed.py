"""Which tensors of a forward follow from parameters alone: a function of those is no activation."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ignite_act.collect.functions import named, tensors_in
from ignite_act.internals import own_buffers, own_parameters

_CREATORS = named(
    "zeros", "ones", "full", "arange", "linspace", "logspace", "eye", "tensor", "as_tensor", "zeros_like", "ones_like",
    "full_like", "new_zeros", "new_ones", "new_full", "new_tensor", "scalar_tensor", "tril_indices", "triu_indices",
)  # fmt: skip
_FRESH = named(
    "normal", "normal_", "uniform_", "bernoulli", "bernoulli_", "random_", "exponential_", "poisson", "cauchy_",
    "geometric_", "log_normal_", "multinomial",
    "linear", "bilinear", "embedding", "embedding_bag", "conv1d", "conv2d", "conv3d", "conv_transpose1d",
    "conv_transpose2d", "conv_transpose3d", "convolution",
)  # fmt: skip
"""Random numbers and layers, whose results are no constants."""
_CONSTANT, _PARAMETER = False, True


class FixedTensors:
    """Remembers, during one forward, what was computed from parameters and constants and nothing else.

    A temperature, a layer scale or a learned variance is the same for every sample. Random numbers, the model's input
    and whatever comes out of a layer are not fixed. Tensors are held weakly.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Tensor], bool]] = {}
        self._inputs: tuple[Any, ...] = ()

    def clear(self, inputs: tuple[Any, ...] = ()) -> None:
        """Forgets every tensor; a parameter that is the model's input is none of its own."""
        self._known.clear()
        self._inputs = tuple(own for own in inputs if isinstance(own, nn.Parameter)) if inputs else ()

    def is_weight(self, value: Any, module: nn.Module | None = None) -> bool:
        """Whether a value is a parameter or follows from some, and from no activation.

        Args:
            value: anything.
            module: the one that is being executed, whose own parameters may be no `nn.Parameter` now.
        """
        return self._kind(value, module) is _PARAMETER

    def is_fixed(self, value: Any) -> bool:
        """Whether a value follows from parameters and constants."""
        return self._kind(value) is not None

    def concerns(self, owner: bool, args: tuple[Any, ...]) -> bool:
        """Whether there can be anything to note of a call.

        Args:
            owner: whether the module that is being executed has parameters or buffers of its own.
            args: of the call.
        """
        return owner or bool(self._known) or bool(args and type(args[0]) is nn.Parameter)

    def follow(
        self,
        module: nn.Module,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        result: Any,
    ) -> None:
        """Takes note of one call in a module."""
        if function in _CREATORS:
            self._mark(result, _CONSTANT)
            return
        given = tensors_in((*args, *kwargs.values()))
        if not given:
            return
        if function in _FRESH or any(self._kind(own, module) is None for own in given):
            written = args[0] if args and result is None else result  # target[index] = value
            self._known.pop(id(written), None)
            return
        learned = any(self._kind(own, module) is _PARAMETER for own in given)
        for own in tensors_in((result,)):
            self._mark(own, learned)

    def _kind(self, value: Any, module: nn.Module | None = None) -> bool | None:
        entry = self._known.get(id(value)) if self._known else None
        if entry is not None and entry[0]() is value:
            return entry[1]
        if isinstance(value, nn.Parameter):
            return None if any(value is own for own in self._inputs) else _PARAMETER
        if module is not None and any(value is own for own in own_parameters(module).values()):
            return _PARAMETER  # a tensor that stands in for one (torch.func.functional_call)
        if module is not None and any(value is own for own in own_buffers(module).values()):
            return _CONSTANT
        return None

    def _mark(self, tensor: Any, kind: bool) -> None:
        if isinstance(tensor, Tensor) and not isinstance(tensor, nn.Parameter):
            self._known[id(tensor)] = (weakref.ref(tensor), kind)


def is_zero(function: Callable[..., Any], args: tuple[Any, ...]) -> bool:
    """Whether a call makes a tensor of zeros."""
    return function in _ZEROS or (function is torch.tensor and bool(args) and _is_number_zero(args[0]))


def _is_number_zero(value: Any) -> bool:
    return isinstance(value, (int, float)) and value == 0


_ZEROS = named("zeros", "zeros_like", "new_zeros")
