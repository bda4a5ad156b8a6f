"""Where the channels of a tensor go when its axes are reshaped, reordered, indexed, reduced or contracted.

A layout describes every axis by factors ``(size, step)``, the slowest first: how many indices, and by how much the
channel's number grows with each. ``(N, C, L)`` behind a convolution is ``((N, 0),), ((C, 1),), ((L, 0),)``. Splitting C
into two axes gives ``((2, C / 2),), ((C / 2, 1),)``, and a shuffle of groups brings them together again.
Nothing is guessed from sizes that happen to be equal: torch itself says where it puts an axis, on a tensor without
memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ignite_act.internals import without_functions

Factor = tuple[int, int]
Axis = tuple[Factor, ...]
Layout = tuple[Axis, ...]

LOST: Layout = ()
"""The layout of a tensor that holds channels nobody knows where."""

_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)
_STRIDES = tuple(
    1_000_000 + more for more in (3, 33, 37, 39, 81, 99, 117, 121, 133, 151, 159, 171)
)  # primes, too, and no step of a slice takes one to another


def channels_on(axis: int, shape: Sequence[int]) -> Layout:
    """The layout of a tensor whose channels are on one axis."""
    axis %= len(shape)
    return tuple(((size, int(number == axis)),) for number, size in enumerate(shape))


def unit_axis(layout: Layout) -> int | None:
    """The axis of the units, negative; None where there is no single one.

    >>> unit_axis((((6, 0),), ((8, 1),))), unit_axis((((2, 4),), ((4, 1),)))
    (-1, None)

    Channels and positions flattened into the last axis are features of a layer that is not convolutional.
    """
    holding = [number for number, axis in enumerate(layout) if _holds_channels(axis)]
    if len(holding) != 1:
        return None
    pure = all(step for size, step in layout[holding[0]] if size > 1)
    return holding[0] - len(layout) if pure or holding[0] == len(layout) - 1 else None


def united(layouts: Sequence[Layout]) -> Layout:
    """The layout of what was computed element by element from tensors of one shape."""
    known = [layout for layout in layouts if layout != LOST]
    axes: list[Axis] = []
    for same in zip(*known, strict=True):
        holding = {axis for axis in same if _holds_channels(axis)}
        if len(holding) > 1:
            return LOST
        axes.append(holding.pop() if holding else same[0])
    return tuple(axes)


def aligned(layout: Layout, shape: Sequence[int]) -> Layout:
    """The layout after a function that works on each axis by itself: pooling, padding, broadcasting, ``cat``."""
    new = len(shape) - len(layout)
    if layout == LOST or new < 0:
        return LOST
    axes: list[Axis] = [((size, 0),) for size in shape[:new]]
    for axis, size in zip(layout, shape[new:], strict=True):
        resized = _resized(axis, size)
        if resized is None:
            return LOST
        axes.append(resized)
    return tuple(axes)


def regrouped(layout: Layout, target: Sequence[int]) -> Layout:
    """The layout after a reshape, which reads the indices in their order.

    >>> frames = regrouped((((6, 0),), ((8, 1),), ((5, 0),)), (2, 3, 8, 5))
    >>> frames == (((2, 0),), ((3, 0),), ((8, 1),), ((5, 0),))
    True
    """
    sizes = [_size(axis) for axis in layout]
    lead = _alike(sizes, target)
    tail = _alike(sizes[lead:][::-1], tuple(target[lead:])[::-1])
    end = len(layout) - tail
    waiting = _merged([factor for axis in layout[lead:end] for factor in axis if factor[0] != 1])
    axes: list[Axis] = []
    for size in target[lead : len(target) - tail]:
        axis = _take(waiting, size)
        if axis is None:
            return LOST
        axes.append(axis)
    return (*layout[:lead], *axes, *layout[end:])


def viewed(function: Callable[..., Any], layout: Layout, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Layout]:
    """The layouts after a function that returns views, told by their strides."""
    shape, strides = [_size(axis) for axis in layout], _STRIDES[: len(layout)]
    with without_functions():
        result = function(torch.empty_strided(shape, strides, device="meta"), *args, **kwargs)
    return [_found(layout, tensor, strides) for tensor in _as_list(result)]


def kept(function: Callable[..., Any], layout: Layout, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Layout]:
    """The layouts after a function that drops or reorders whole axes, told by sizes that are all different."""
    sizes = _PRIMES[: len(layout)]
    with without_functions():
        result = function(torch.empty(sizes, device="meta"), *args, **kwargs)
    owner = dict(zip(sizes, layout, strict=True))
    return [tuple(owner.get(size, ((1, 0),)) for size in tensor.shape) for tensor in _as_list(result)]


def indexed(layout: Layout, index: Any) -> Layout:
    """The layout after ``tensor[index]`` with tensors or lists in the index; what an axis' indices are is no matter."""
    items = [_as_item(item) for item in (index if isinstance(index, tuple) else (index,))]
    used = sum(_consumes(item) for item in items)
    place, touched, tiny, tensors = 0, [], [], 0
    for item in items:
        if item is Ellipsis:
            place += len(layout) - used
            tiny.append(item)
            continue
        for number in range(place, place + _consumes(item)):
            touched += [item] if _holds_channels(layout[number]) else []
        place += _consumes(item)
        tensors += isinstance(item, Tensor)
        tiny.append(_tiny(item))
    by_tensor = [item for item in touched if isinstance(item, Tensor)]
    if by_tensor and (tensors > 1 or by_tensor[0].ndim != 1):
        return LOST
    channel = next((number for number, axis in enumerate(layout) if _holds_channels(axis)), -1)
    label = torch.zeros([2] * len(layout), dtype=torch.int8, device="cpu")
    label.select(channel, 1).fill_(1)
    with without_functions():
        result = label[tuple(tiny)]
    varying = [number for number in range(result.ndim) if bool((result != result.narrow(number, 0, 1)).any())]
    return channels_on(varying[0], result.shape) if unit_axis(layout) is not None and len(varying) == 1 else LOST


def written(layout: Layout, index: Any, shape: Sequence[int]) -> Layout:
    """The layout of a tensor into which ``target[index] = values`` has put values of this layout."""
    strides = _STRIDES[: len(shape)]
    with without_functions():
        part = torch.empty_strided(shape, strides, device="meta")[index]
    axis = unit_axis(layout)
    if axis is None or part.ndim < -axis:
        return LOST
    owners = [number for number, own in enumerate(strides) if part.stride(axis) % own == 0]
    return channels_on(owners[0], shape) if len(owners) == 1 else LOST


def contracted(left: Layout | None, right: Layout | None, shape: Sequence[int]) -> Layout:
    """The layout of a matrix product of two activations: rows of the left and columns of the right one stay."""
    kept = {own for own in (_axis_of(left),) if own not in (None, -1)}
    kept |= {own for own in (_axis_of(right),) if own not in (None, -2)}
    axis = kept.pop() if len(kept) == 1 else None
    return channels_on(axis, shape) if axis is not None else LOST


def summed(equation: str, layouts: Sequence[Layout | None], weights: Sequence[bool], shape: Sequence[int]) -> Layout:
    """The layout of an ``einsum``: of the units that stay, or else of the one axis that a weight adds.

    >>> image = (((6, 0),), ((8, 1),), ((5, 0),))
    >>> unit_axis(summed("ncl,oc->nol", [image, None], [False, True], (6, 4, 5)))
    -2
    """
    given, arrow, made = equation.replace(" ", "").partition("->")
    terms = given.split(",")
    if not arrow or "." in equation:
        return LOST
    axes = [_axis_of(layout) for layout in layouts]
    stay = {term[axis] for term, axis in zip(terms, axes, strict=True) if axis is not None} & set(made)
    if not stay:
        inputs = {letter for term, weight in zip(terms, weights, strict=True) if not weight for letter in term}
        stay = set(made) - inputs
    return channels_on(made.index(stay.pop()), shape) if len(stay) == 1 else LOST


def _axis_of(layout: Layout | None) -> int | None:
    return None if layout is None else unit_axis(layout)


def _holds_channels(axis: Axis) -> bool:
    return any(step for _, step in axis)


def _size(axis: Axis) -> int:
    return math.prod(size for size, _ in axis)


def _resized(axis: Axis, size: int) -> Axis | None:
    """An axis of another length; None where channels and positions were mixed on it."""
    if _size(axis) == size:
        return axis
    if not _holds_channels(axis):
        return ((size, 0),)
    return ((size, 1),) if all(step for length, step in axis if length > 1) else None


def _alike(sizes: Sequence[int], target: Sequence[int]) -> int:
    """How many axes are the same at the beginning."""
    count = 0
    for own, other in zip(sizes, target, strict=False):
        if own != other:
            break
        count += 1
    return count


def _merged(factors: list[Factor]) -> list[Factor]:
    """The same factors with neighbours taken together that count on."""
    merged: list[Factor] = []
    for size, step in factors:
        if merged and merged[-1][1] == size * step:
            size *= merged.pop()[0]
        merged.append((size, step))
    return merged


def _take(waiting: list[Factor], size: int) -> Axis | None:
    """Takes an axis of this size off the factors; None where it does not end between two."""
    axis: list[Factor] = []
    while size > 1:
        if not waiting:
            return None
        length, step = waiting.pop(0)
        if size % length == 0:
            axis.append((length, step))
            size //= length
        elif length % size == 0:
            waiting.insert(0, (length // size, step))
            axis.append((size, step * (length // size)))
            size = 1
        else:
            return None
    return tuple(axis) or ((1, 0),)


def _found(layout: Layout, tensor: Tensor, strides: Sequence[int]) -> Layout:
    axes: list[Axis] = []
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        owner = next((number for number, own in enumerate(strides) if stride and stride % own == 0), None)
        if owner is None or (size == 1 and _size(layout[owner]) != 1 and _counts_elsewhere(tensor, strides[owner])):
            axes.append(((size, 0),))
            continue
        resized = _resized(layout[owner], size)
        if resized is None:
            return LOST
        axes.append(resized)
    return tuple(axes)


def _counts_elsewhere(tensor: Tensor, stride: int) -> bool:
    """Whether an axis of one index has only its stride from another, as ``unsqueeze`` gives it."""
    return any(size > 1 and own % stride == 0 for size, own in zip(tensor.shape, tensor.stride(), strict=True) if own)


def _as_list(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else [item for item in result if isinstance(item, Tensor)]


def _as_item(item: Any) -> Any:
    return torch.tensor(item, device="cpu") if isinstance(item, (list, range)) else item


def _consumes(item: Any) -> int:
    """How many axes an item of an index stands for."""
    if item is None or item is Ellipsis or isinstance(item, bool):
        return 0
    return item.ndim if isinstance(item, Tensor) and item.dtype in (torch.bool, torch.uint8) else 1


def _tiny(item: Any) -> Any:
    """The same kind of index into axes of length 2."""
    if isinstance(item, slice):
        return slice(None)
    if isinstance(item, Tensor):
        if item.dtype in (torch.bool, torch.uint8):
            return torch.ones([2] * item.ndim, dtype=torch.bool, device="cpu")
        shape = [min(size, 2) for size in item.shape]
        return torch.arange(math.prod(shape), device="cpu").remainder(2).view(shape)
    return 0 if isinstance(item, int) and not isinstance(item, bool) else item
