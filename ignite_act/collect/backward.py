"""The backward signal along the depth: how much the loss depends on what each layer puts out, in a few steps."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ignite_act.guard import Owner, guarded
from ignite_act.internals import is_distributed, without_functions


class BackwardSignal:
    """The gradient that comes back to each layer's output, times the size of that output.

    It says by how much the loss changes if all of the output changes by a factor. So it depends neither on the number
    of a layer's units nor on the scale at which the values happen to be, and layers of different kinds can be compared:
    where nothing is lost on the way back, it stays about the same from layer to layer.

    Of one call it is ``norm(gradient) * rms(output)``, of several ones the mean. Calls whose gradient is not finite are
    left out.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._calls: dict[str, Tensor] = {}

    def follow(self, owner: Owner, name: str, output: Tensor) -> None:
        """Waits for the gradient of an output, of which nothing but its size is kept.

        Args:
            owner: answers for what fails.
            name: of the layer.
            output: floating point, not empty.
        """
        if output.grad_fn is None or is_distributed(output):
            return
        size = _norm(output.detach()) / output.numel() ** 0.5
        output.register_hook(_Back(weakref.ref(self), weakref.ref(owner), name, size))

    def take(self, name: str, size: Tensor, gradient: Tensor) -> None:
        """Takes in the gradient of one call."""
        strength = _norm(gradient) * size
        finite = strength.isfinite()
        strength = torch.where(finite, strength, 0.0)
        known = name in self._sums
        self._sums[name] = self._sums[name].to(strength.device) + strength if known else strength
        self._calls[name] = self._calls[name].to(strength.device) + finite if known else finite.long()

    def compute(self) -> dict[str, float]:
        """Layer -> mean over its calls; layers without a gradient are missing."""
        if not self._sums:
            return {}
        sums = torch.stack([own.cpu() for own in self._sums.values()]).tolist()
        calls = torch.stack([own.cpu() for own in self._calls.values()]).tolist()
        return {name: own / number for name, own, number in zip(self._sums, sums, calls, strict=True) if number}

    def state_dict(self) -> dict[str, Any]:
        """Copies on the CPU."""
        return {name: (self._sums[name].cpu().clone(), self._calls[name].cpu().clone()) for name in self._sums}

    @classmethod
    def united(cls, states: Iterable[Mapping[str, Any]]) -> BackwardSignal:
        """What several processes, or one, have stored."""
        whole = cls()
        for state in states:
            for name, (total, calls) in state.items():
                known = name in whole._sums
                whole._sums[name] = whole._sums[name] + total if known else total
                whole._calls[name] = whole._calls[name] + calls if known else calls
        return whole


class _Back:
    """A hook on one output, which holds nothing."""

    def __init__(self, signal: weakref.ref[BackwardSignal], owner: weakref.ref[Owner], name: str, size: Tensor) -> None:
        self._signal, self._owner, self._name, self._size = signal, owner, name, size

    def __call__(self, gradient: Tensor) -> None:
        signal, owner = self._signal(), self._owner()
        if signal is not None and owner is not None:
            with guarded(owner, "the backward signal"), torch.no_grad(), without_functions():
                signal.take(self._name, self._size, gradient.detach())


def _norm(values: Tensor) -> Tensor:
    """The Euclidean norm, ``()``, in float32 at least."""
    return torch.linalg.vector_norm(values, dtype=torch.promote_types(values.dtype, torch.float32))
