"""Values drawn at random inside of a forward, ``mean + noise * deviation``, as the latents of an autoencoder are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ignite_act.collect.graphs import name_of
from ignite_act.internals import is_saving_elsewhere, saved_tensor

_DEVIATIONS = ("Exp", "Sqrt")


def information(drawn: Tensor) -> Tensor | None:
    """What drawn values tell of their sample, in nats, at most, ``()``.

    That of independent normal channels, ``log(1 + variance of the mean / variance of the noise) / 2``, summed over the
    units.

    Args:
        drawn: what goes into a layer, ``(N, ...)``.

    Returns:
        None if the values were not drawn, or the graph does not hold what they were drawn with.
    """
    found = _noise_of(drawn)
    if found is None or len(drawn) < 2:
        return None
    noise, deviation = found
    mean = drawn.detach() - noise * deviation
    own = mean.flatten(0, -2).var(0, correction=0) if mean.ndim > 1 else mean.var(correction=0)
    spread = (deviation.square().mean() + torch.zeros_like(own)).clamp(min=torch.finfo(own.dtype).tiny)
    return torch.log1p(own / spread).sum() / 2


def _noise_of(drawn: Tensor) -> tuple[Tensor, Tensor] | None:
    """The noise and the deviation that values were drawn with: constants times an exponential or a root, and a mean."""
    node = drawn.grad_fn
    if node is None or name_of(node) != "Add" or is_saving_elsewhere():
        return None
    parents = [parent for parent, _ in node.next_functions if parent is not None]
    if len(parents) != 2:
        return None
    for product in parents:
        found = _product_with_noise(product)
        if found is not None and all(part.shape == drawn.shape for part in found):
            return found
    return None


def _product_with_noise(node: Any) -> tuple[Tensor, Tensor] | None:
    if name_of(node) != "Mul":
        return None
    factors = [parent for parent, _ in node.next_functions]
    made = [factor for factor in factors if factor is not None]
    if len(made) != 1 or len(factors) != 2 or name_of(made[0]) not in _DEVIATIONS:
        return None
    noise = saved_tensor(node, "self") if factors[0] is None else saved_tensor(node, "other")
    deviation = saved_tensor(made[0], "result")
    return None if noise is None or deviation is None else (noise.detach(), deviation.detach())
