"""Which axis of a tensor holds the units: a channel on axis 1 behind a convolution, else the last axis."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ignite_act.collect import moves
from ignite_act.collect.functions import Arguments, Function, Keywords, first_argument, named, tensors_in
from ignite_act.collect.moves import LOST, Layout
from ignite_act.guard import reason_of

_CONVOLUTIONS = named(
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution"
)  # fmt: skip
_CHANNEL_NORMS = named("batch_norm", "instance_norm", "group_norm")
_PRODUCTS = named("matmul", "__matmul__", "__rmatmul__", "mm", "bmm")
_EINSUM = named("einsum")
_STARTING = _CONVOLUTIONS | _CHANNEL_NORMS
_RESHAPES = named("view", "reshape", "flatten", "unflatten", "view_as", "reshape_as", "ravel", "_unsafe_view")
_VIEWS = named(
    "permute", "transpose", "movedim", "moveaxis", "swapaxes", "swapdims", "t", "adjoint", "squeeze", "unsqueeze",
    "narrow", "select", "split", "chunk", "unbind", "tensor_split", "hsplit", "vsplit", "dsplit", "split_with_sizes",
    "expand", "expand_as", "broadcast_to", "diagonal",
) | {torch.Tensor.unfold, *(getattr(torch.Tensor, name).__get__ for name in ("T", "mT", "H", "mH"))}  # fmt: skip
_IN_PLACE_MOVES = named("transpose_", "swapaxes_", "swapdims_", "t_", "unsqueeze_")
_REDUCTIONS = named(
    "mean", "nanmean", "sum", "nansum", "prod", "amax", "amin", "max", "min", "norm", "vector_norm", "var", "std",
    "var_mean", "std_mean", "logsumexp", "median", "nanmedian", "aminmax", "count_nonzero", "all", "any",
)  # fmt: skip
_SHUFFLES = named("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle")
_LOSING = named(
    "unfold", "fold", "im2col", "col2im", "tensordot", "outer", "kron", "cdist", "as_strided", "squeeze_", "rot90",
    "resize_", "set_", "view_as_real", "view_as_complex", "meshgrid", "diag_embed",
) - {torch.Tensor.unfold}  # fmt: skip
_FORGETTING = named(
    "new_zeros",
    "new_ones",
    "new_empty",
    "new_full",
    "new_tensor",
    "new",
    "scaled_dot_product_attention",
    "bilinear",
    "baddbmm",
    "addmm",
    "addbmm",
)


class ChannelAxes:
    """Remembers, during one forward, which tensors have their channels on another axis than the last.

    A convolution gives its output a channel axis, so does a norm over channels of three or more dimensions; everything
    that keeps the axes (pooling, dropout, residual sums, concatenation) hands it on, what reorders or splits the axes
    moves it, matrix products drop it. Tensors are held weakly.

    Args:
        is_weight: whether a tensor is a parameter or follows from some.
    """

    def __init__(self, is_weight: Callable[[Any], bool] = lambda value: isinstance(value, nn.Parameter)) -> None:
        self._is_weight = is_weight
        self._layouts: dict[int, tuple[weakref.ref[Tensor], Layout]] = {}
        self._moved: dict[Any, list[Layout]] = {}  # what is known of a move, over forwards
        self.trouble = ""
        """Why following a call failed last; its channels count as not known."""

    def clear(self) -> None:
        """Forgets every tensor."""
        self._layouts.clear()

    def of(self, tensor: Any) -> int | None:
        """The axis of the units, negative: -1 unless the tensor comes from a convolution; None if nobody knows."""
        layout = self.layout(tensor)
        return -1 if layout is None else moves.unit_axis(layout)

    def layout(self, tensor: Any) -> Layout | None:
        """Where a tensor has the channels of a convolution; None if it comes from none."""
        entry = self._layouts.get(id(tensor)) if self._layouts else None
        return entry[1] if entry is not None and entry[0]() is tensor else None

    def hand_on(self, source: Any, result: Any) -> None:
        """Gives a result that nothing is known of the layout of what it was computed from, if it has its shape."""
        layout = self.layout(source)
        if layout is None or not isinstance(result, Tensor) or result.shape != source.shape:
            return
        if self.layout(result) is None:
            self._mark(result, layout)

    def concerns(self, function: Function) -> bool:
        """Whether there can be anything to note of a call of this function."""
        return bool(self._layouts) or function in _STARTING

    def follow(self, function: Function, args: Arguments, kwargs: Keywords, result: Any) -> None:
        """Takes note of one call."""
        try:
            _RULES.get(function, ChannelAxes._align)(self, function, args, kwargs, result)
        except Exception as error:  # a form of a call that nobody thought of
            if self.layout(first_argument(args, kwargs)) != moves.LOST:  # of which nothing was known before
                self.trouble = reason_of(error)
            self._lose(function, args, kwargs, result)

    def _convolve(self, function: Function, args: Arguments, kwargs: Keywords, result: Any) -> None:
        weight = args[1] if len(args) > 1 else kwargs.get("weight")
        if isinstance(weight, Tensor) and isinstance(result, Tensor):
            self._mark(result, moves.channels_on(1 - weight.ndim, result.shape))

    def _normalise(self, function: Function, args: Arguments, kwargs: Keywords, result: Any) -> None:
        if isinstance(result, Tensor) and result.ndim >= 3:
            self._mark(result, moves.channels_on(1, result.shape))

    def _apply_linear(self, function: Function, args: Arguments, kwargs: Keywords, result: Any) -> None:
        """A linear layer on a feature map with its channels last makes new ones there."""
        if isinstance(result, Tensor) and result.ndim >= 4 and self.layout(first_argument(args, kwargs)) is not None:
            self._mark(result, moves.channels_on(-1, result.shape))

    def _multiply(self, function: Function, args: Arguments, kwargs: Keywords, result: Any) -> None:
        """A weight makes new units in place of those that it takes in; without one, rows and columns stay."""
        left, right = (*args, *kwargs.values())[:2]
        if function in _REVERSED:
            left, right = right, left
        first, second = self.layout(left), self.layout(right)
        if not isinstance(result, Tensor) or (first is None and second is None) or self._is_weight(right):
            return
        if self._is_weight(left) and second is not None and moves.unit_axis(second) == -2:
            self._mark(result, moves.channels_on(-2, result.shape))
        else:
            self._mark(result, moves.contracted(first, second, result.shape))

    def _sum_products(self, function: Function, args: Arguments, kwargs: Keywords, result: Any) -> None:
        """The equation says where the axis goes."""
        equation, operands = args[0], args[1:]
        if len(operands) == 1 and isinstance(operands[0], (tuple, list)):
            operands = tuple(operands[0])
        layouts = [self.layout(operand) for operand in operands]
        if any(layout is not None for layout in layouts):
            weights = [self._is_weight(operand) for operand in operands]
            self._mark(result, moves.summed(equation, layouts, weights, result.shape))

    def _reshape(self, function: Function, args: Arguments, kwargs: Keywords, result: Any) -> None:
        layout = self.layout(first_argument(args, kwargs))
        if layout is None or not isinstance(result, Tensor):
            return
        shape = tuple(result.shape)
        self._mark(result, self._recall((layout, shape), lambda: [moves.regrouped(layout, shape)])[0])

    def _view(self, function: Function, args: Arguments, kwargs: Keywords, result: Any) -> None:
        layout, rest, keywords = self._source(args, kwargs)
        if layout is None:
            return
        key = (function, layout, repr(rest), repr(keywords)) if not tensors_in((*rest, *keywords.values())) else None
        layouts = self._recall(key, lambda: moves.viewed(function, layout, rest, keywords))
        self._mark_all(result, layouts)

    def _index(self, function: Function, args: Arguments, kwargs: Keywords, result: Any) -> None:
        layout, index = self.layout(args[0]), args[1]
        if layout is None or not isinstance(result, Tensor):
            return
        items = index if isinstance(index, tuple) else (index,)
        if any(isinstance(item, (Tensor, list, range, bool)) for item in items):
            self._mark(result, moves.aligned(moves.indexed(layout, index), result.shape))
        else:
            self._view(function, args, kwargs, result)

    def _write(self, function: Function, args: Arguments, kwargs: Keywords, result: Any) -> None:
        """``target[index] = value``: the target has its channels where the values have them."""
        target, layout = args[0], self.layout(args[2])
        if layout is not None and self.layout(target) is None:
            self._mark(target, moves.written(layout, args[1], target.shape))

    def _reduce(self, function: Function, args: Arguments, kwargs: Keywords, result: Any) -> None:
        layout, rest, keywords = self._source(args, kwargs)
        if layout is None or tensors_in((*rest, *keywords.values())):  # max(x, y) works on elements
            self._align(function, args, kwargs, result)
            return
        key = (function, layout, repr(rest), repr(keywords))
        self._mark_all(result, self._recall(key, lambda: moves.kept(function, layout, rest, keywords)))

    def _move_in_place(self, function: Function, args: Arguments, kwargs: Keywords, result: Any) -> None:
        layout, rest, keywords = self._source(args, kwargs)
        if layout is not None:
            self._mark_all(result, moves.kept(function, layout, rest, keywords))

    def _stack(self, function: Function, args: Arguments, kwargs: Keywords, result: Any) -> None:
        parts = first_argument(args, kwargs, "tensors")
        layouts = [layout for part in parts if (layout := self.layout(part)) is not None]
        if layouts and isinstance(result, Tensor):
            dim = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % result.ndim
            one = moves.united(layouts)
            self._mark(result, one and (*one[:dim], ((result.shape[dim], 0),), *one[dim:]))

    def _shuffle(self, function: Function, args: Arguments, kwargs: Keywords, result: Any) -> None:
        """Channels become positions, or the reverse; those that are left stay on their axis."""
        axis = self.of(first_argument(args, kwargs))
        if self.layout(first_argument(args, kwargs)) is not None and isinstance(result, Tensor):
            stays = axis is not None and result.ndim + axis in (1, result.ndim - 3)
            self._mark(result, moves.channels_on(axis, result.shape) if stays and axis is not None else LOST)

    def _lose(self, function: Function, args: Arguments, kwargs: Keywords, result: Any) -> None:
        if any(self.layout(tensor) is not None for tensor in tensors_in((*args, *kwargs.values()))):
            for tensor in tensors_in((result,)):
                self._mark(tensor, LOST)

    def _forget(self, function: Function, args: Arguments, kwargs: Keywords, result: Any) -> None:
        """New features lie on the last axis."""

    def _align(self, function: Function, args: Arguments, kwargs: Keywords, result: Any) -> None:
        """Every other function leaves the axes where they are, counted from the last."""
        results = tensors_in((result,))
        if not results:
            return
        known = [
            (tensor.shape, layout)
            for tensor in tensors_in((*args, *kwargs.values()))
            if (layout := self.layout(tensor)) is not None
        ]
        for tensor in results if known else ():
            layouts = [own if shape == tensor.shape else moves.aligned(own, tensor.shape) for shape, own in known]
            self._mark(tensor, moves.united(layouts))

    def _source(self, args: Arguments, kwargs: Keywords) -> tuple[Layout | None, Arguments, Keywords]:
        """The layout of the first argument, and the others."""
        layout = self.layout(first_argument(args, kwargs))
        if args:
            return layout, args[1:], kwargs
        return layout, (), {name: value for name, value in kwargs.items() if name not in ("input", "self")}

    def _recall(self, key: Any, compute: Callable[[], list[Layout]]) -> list[Layout]:
        if key is None:
            return compute()
        known = self._moved.get(key)
        if known is None:
            if len(self._moved) > 2000:
                self._moved.clear()
            known = self._moved[key] = compute()
        return known

    def _mark_all(self, result: Any, layouts: Sequence[Layout]) -> None:
        for tensor, layout in zip(tensors_in((result,)), layouts, strict=True):
            if layout == LOST:
                self._mark(tensor, LOST)
            else:
                self._mark(tensor, moves.aligned(layout, tensor.shape))

    def _mark(self, tensor: Any, layout: Layout) -> None:
        if isinstance(tensor, Tensor):
            self._layouts[id(tensor)] = (weakref.ref(tensor), layout)


_REVERSED = named("__rmatmul__")
_RULES: dict[Function, Callable[[ChannelAxes, Function, Arguments, Keywords, Any], None]] = {
    function: rule
    for functions, rule in (
        (_CONVOLUTIONS, ChannelAxes._convolve),
        (_CHANNEL_NORMS, ChannelAxes._normalise),
        (named("linear"), ChannelAxes._apply_linear),
        (_PRODUCTS, ChannelAxes._multiply),
        (_EINSUM, ChannelAxes._sum_products),
        (_RESHAPES, ChannelAxes._reshape),
        (_VIEWS, ChannelAxes._view),
        ({torch.Tensor.__getitem__}, ChannelAxes._index),
        ({torch.Tensor.__setitem__}, ChannelAxes._write),
        (_REDUCTIONS, ChannelAxes._reduce),
        (_IN_PLACE_MOVES, ChannelAxes._move_in_place),
        (named("stack"), ChannelAxes._stack),
        (_SHUFFLES, ChannelAxes._shuffle),
        (_LOSING, ChannelAxes._lose),
        (_FORGETTING, ChannelAxes._forget),
    )
    for function in functions
}
