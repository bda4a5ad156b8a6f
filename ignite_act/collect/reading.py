"""Gradients of all kinds of tensors, read one by one where reading them together fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ignite_act.collect.layers import Layer
from ignite_act.errors import first_line, one_line
from ignite_act.internals import is_partial, is_unreadable, local_part
from ignite_act.stats import magnitude

LONGEST_REASON = 160
"""Most characters of a reason in the coverage."""


def split_readable(
    gradients: dict[int, Tensor], layers: Sequence[Layer], given_up: Mapping[str, str]
) -> tuple[dict[int, Tensor], dict[str, str]]:
    """What this process holds of the gradients, and why some of them cannot be read.

    Args:
        gradients: by the indices of their layers.
        layers: all of them.
        given_up: layers not to be read, by their names.

    Returns:
        The gradients that can be read, and reasons by the names of the layers.
    """
    if not given_up and all(type(own) is Tensor and not own.is_meta for own in gradients.values()):
        return gradients, {}
    readable, reasons = {}, {}
    for index, gradient in gradients.items():
        layer = layers[index]
        if layer.name in given_up:
            continue
        part = local_part(gradient)
        if is_unreadable(part):
            reasons[layer.name] = "its gradient has no values: it is on the meta device, or a stand-in for a tensor"
        elif is_partial(gradient):
            reasons[layer.name] = "its gradient is a partial sum, which the processes add up inside the step only"
        elif part.layout is torch.strided and part.numel() not in (0, layer.size):
            reasons[layer.name] = "its gradient is spread over the processes in another way than the weight"
        else:
            readable[index] = part
    return readable, reasons


def measure(
    gradients: Mapping[int, Tensor], layers: Sequence[Layer], sizes: Tensor, scratch: Tensor
) -> tuple[tuple[Tensor, Tensor] | None, dict[str, str]]:
    """`magnitude` of the gradients; a layer that fails takes no part, the others go on.

    Args:
        gradients: by the indices of their layers.
        layers: all of them.
        sizes, scratch: see `magnitude`.

    Returns:
        Means and maxima of all layers, None if there are none, and the reasons by the names of layers that failed.
    """
    rows = [gradients.get(index) for index in range(len(layers))]
    reasons: dict[str, str] = {}
    try:
        return magnitude(rows, sizes, scratch), reasons
    except Exception:
        for index, layer in enumerate(layers):
            try:
                magnitude([rows[index]], sizes[index : index + 1], scratch)
            except Exception as error:
                reason = f"reading its gradient failed: {type(error).__name__}: {first_line(error)}"
                reasons[layer.name], rows[index] = one_line(reason, LONGEST_REASON), None
    return (magnitude(rows, sizes, scratch) if any(row is not None for row in rows) else None), reasons
