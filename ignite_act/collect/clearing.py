"""Whether the gradients of a step are cleared before the next backward adds to them."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from ignite_act.guard import Owner, guarded
from ignite_act.internals import backward_number, local_part, version, why_unreadable
from ignite_act.stats.weights import peaks

_CHECKED = 3
"""Layers that are looked at."""


class Clearing:
    """Looks, at the beginning of every backward after a step, at a few of the gradients that the step used.

    Right is only what leaves no doubt. A gradient that is None, another tensor or zero has been cleared. One that is
    the same tensor, and that nothing has written to since the step, has not been. Anything else (a backward that was
    not seen may have added to it) says nothing.

    Args:
        parameters: those of the step, right after it, by name; the first few are looked at.
    """

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self._gradients = {name: _Gradient(parameter) for name, parameter in list(parameters.items())[:_CHECKED]}
        self._backward: int | None = None

    def watch(self, outputs: Iterable[Tensor], owner: Owner) -> None:
        """Looks when a backward reaches the first of some outputs of the model."""
        own, told = weakref.ref(self), weakref.ref(owner)

        def begin(gradient: Tensor) -> None:
            clearing, collector = own(), told()
            if clearing is not None and collector is not None:
                with guarded(collector, "whether gradients are cleared"), torch.no_grad():
                    clearing.look()

        for output in outputs:
            if output.grad_fn is not None:  # on a leaf the hook would stay
                output.register_hook(begin)

    def look(self) -> None:
        """Looks once a backward, before anything is added."""
        if backward_number() != self._backward:
            self._backward = backward_number()
            for gradient in self._gradients.values():
                gradient.look()

    def result(self) -> Iterator[tuple[str, Tensor | int, Tensor | int]]:
        """Name, 1 if it was cleared, 1 if it was not; at the next step. Neither where nothing was seen."""
        for name, gradient in self._gradients.items():
            gradient.end()
            yield name, gradient.cleared * gradient.used, gradient.kept * (1 - gradient.cleared) * gradient.used


class _Gradient:
    """The gradient of one parameter.

    Attributes:
        cleared, kept: 1 if that was seen.
        used: 0 if it was zero when it was used: that cannot be told from cleared.
    """

    def __init__(self, parameter: Tensor) -> None:
        self._parameter = weakref.ref(parameter)
        gradient = parameter.grad
        self._tensor = None if gradient is None else weakref.ref(gradient)
        self._version = -1 if gradient is None else version(gradient)
        self.used = _is_left(gradient)
        self.cleared: Tensor | int = 0
        self.kept: Tensor | int = 0
        self._looked = False

    def look(self) -> None:
        """Before a backward adds to the gradient."""
        self._looked = True
        gradient = self._now()
        if gradient is None or not self._is_same(gradient):
            self.cleared = 1
        elif version(gradient) == self._version:
            self.kept = 1
        else:
            cleared = 1 - _is_left(gradient)
            before = self.cleared
            self.cleared = torch.maximum(before, cleared) if isinstance(before, Tensor) else cleared.clamp(min=before)

    def end(self) -> None:
        """At the next step: another tensor has been made since."""
        gradient = self._now()
        if self._looked and gradient is not None and not self._is_same(gradient):
            self.cleared = 1

    def _now(self) -> Tensor | None:
        parameter = self._parameter()
        return parameter.grad if parameter is not None else None

    def _is_same(self, gradient: Tensor) -> bool:
        return self._tensor is not None and self._tensor() is gradient


def _is_left(gradient: Tensor | None) -> Tensor:
    """1 if a gradient is there and not zero, as ``()``, int64."""
    if gradient is None or why_unreadable(gradient):
        return torch.zeros((), dtype=torch.int64)
    return (peaks([local_part(gradient)])[0] != 0).long()
