"""What the graph of autograd says of a tensor: which function made it, and whether the loss reads it."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from ignite_act.internals import backward_roots, is_saving_elsewhere

_KEY = "ignite_act"
_MOST_NODES = 20_000
_VIEWS = ("View", "Squeeze", "Unsqueeze", "Reshape", "Transpose", "Permute", "Slice", "Select", "ToCopy", "Alias",
          "Clone")  # fmt: skip
_NORMS = ("NativeBatchNorm", "CudnnBatchNorm", "NativeLayerNorm", "NativeGroupNorm")
PRODUCTS = ("Mm", "Addmm", "Bmm", "Baddbmm", "Addbmm", "Mv", "Addmv", "Linear", "Convolution", "CudnnConvolution",
             "MkldnnConvolution", "MkldnnLinear", "ScaledDotProduct", "CudnnRnn", "Cdist", "EuclideanDist")  # fmt: skip
"""What makes new features of a tensor, be its weight trained, frozen, the model's own or other features."""
FUNCTIONS = {
    "Softmax": "softmax", "LogSoftmax": "log_softmax", "Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh",
    "LeakyRelu": "leaky_relu", "Elu": "elu", "Gelu": "gelu", "Silu": "silu", "Hardtanh": "hardtanh",
    "Hardsigmoid": "hardsigmoid", "Hardswish": "hardswish", "Softplus": "softplus", "Mish": "mish",
    "LogSigmoid": "logsigmoid", "Clamp": "clamp", "ClampMin": "clamp",
}  # fmt: skip

_numbers = itertools.count()


class Reading(NamedTuple):
    """Which outputs of a model the loss of a backward reads.

    Attributes:
        read: those that it reads by itself, without a layer or a product of matrices in between.
        fed: those that only layers or products of matrices read, which are not part of the forward.
    """

    read: frozenset[str]
    fed: frozenset[str]


def mark(tensors: Mapping[str, Tensor]) -> int:
    """Marks outputs in the graph, so that `reading` finds them there.

    Args:
        tensors: place -> tensor that has a ``grad_fn``.

    Returns:
        The number of this forward's marks. Nothing is kept alive: the marks go with the graph.
    """
    number = next(_numbers)
    for place, tensor in tensors.items():
        tensor.grad_fn.metadata.setdefault(_KEY, {})[number, tensor.output_nr] = place  # type: ignore[union-attr]
    return number


def reading(number: int, places: Collection[str], own: Collection[int]) -> tuple[Reading, list[Any]]:
    """Which marked outputs the loss of the running backward reads, and by which operations.

    From the loss back: an output that is met is read by the loss. Where a product of matrices, a convolution, or the
    weight of a layer that is not the model's comes on the way, that reads the output, which is a hidden value.

    Args:
        number: of the marks.
        places: all that are marked.
        own: ids of the model's parameters.

    Returns:
        The outputs, and the operations from the loss back to what made them.
    """
    roots = backward_roots()
    if roots is None:
        return Reading(frozenset(places), frozenset()), []  # unknown: whatever gets a gradient
    read: set[str] = set()
    fed: set[str] = set()
    waiting: list[tuple[Any, int, bool]] = []
    for root in roots:
        node, output = (root.grad_fn, root.output_nr) if isinstance(root, Tensor) else (root[0], root[1])
        waiting.append((node, output, False))
    seen: dict[tuple[Any, bool], None] = {}
    made: dict[Any, None] = {}
    while waiting and len(seen) < _MOST_NODES:
        node, output, beyond = waiting.pop()
        if node is None:
            continue
        place = node.metadata.get(_KEY, {}).get((number, output))
        if place is not None:
            (fed if beyond else read).add(place)
            made[node] = None
            continue
        if (node, beyond) in seen:
            continue
        seen[node, beyond] = None
        beyond = beyond or name_of(node).startswith(PRODUCTS)
        beyond = beyond or any(_is_foreign_weight(parent, own) for parent, _ in node.next_functions)
        waiting.extend((parent, index, beyond) for parent, index in node.next_functions)
    operations = [*(node for node, beyond in seen if not beyond), *made]
    return Reading(frozenset(read), frozenset(fed - read)), operations


def weights_behind(outputs: Iterable[Tensor], inputs: Iterable[Tensor]) -> list[Tensor]:
    """The trained weights of two or more dimensions that outputs were made with, on the way from the inputs.

    Args:
        outputs: of a forward; those without a ``grad_fn`` have none behind them.
        inputs: of the same forward: what lies before them is not looked at.
    """
    inputs = list(inputs)
    leaves = [getattr(node, "variable", None) for node in nodes_behind(outputs, inputs)]
    given = {id(tensor) for tensor in inputs}
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.ndim > 1 and id(leaf) not in given]


def nodes_behind(outputs: Iterable[Tensor], inputs: Iterable[Tensor] = ()) -> Iterator[Any]:
    """The operations that outputs were made with, each once, no further than to the inputs."""
    seen: set[Any] = {tensor.grad_fn for tensor in inputs if tensor.grad_fn is not None}
    waiting: list[Any] = [tensor.grad_fn for tensor in outputs if tensor.grad_fn is not None]
    while waiting and len(seen) < _MOST_NODES:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        waiting.extend(parent for parent, _ in node.next_functions)


def _is_foreign_weight(node: Any, own: Collection[int]) -> bool:
    """Whether a node hands on a trained weight of two or more dimensions that is not the model's."""
    for _ in range(4):
        if node is None:
            return False
        variable = getattr(node, "variable", None)
        if isinstance(variable, Tensor):
            return variable.ndim > 1 and id(variable) not in own
        if len(node.next_functions) != 1 or not is_view(name_of(node)):
            return False
        node = node.next_functions[0][0]
    return False


def name_of(node: Any) -> str:
    """The operation of a node: ``"Relu"`` for ``ReluBackward0``."""
    return type(node).__name__.partition("Backward")[0].lstrip("_").removeprefix("Unsafe")


def is_view(name: str) -> bool:
    """Whether an operation only changes the shape or the type."""
    return name == "T" or name.startswith(_VIEWS)


def _multiplies(node: Any) -> bool:
    """Whether an operation is a product with other values, be they without a gradient: not with a number or a mask."""
    if name_of(node) != "Mul":
        return False
    if is_saving_elsewhere():
        return True  # it may be one
    factors = [getattr(node, name, None) for name in ("_saved_self", "_saved_other")]
    return any(isinstance(factor, Tensor) and factor.ndim and not _is_mask(factor) for factor in factors)


def _is_mask(factor: Tensor) -> bool:
    """Whether values are 0 or all the same, as dropout's are on a CPU; elsewhere dropout is an operation of its own."""
    if not factor.is_cpu or not factor.numel():
        return False
    return bool(((factor == 0) | (factor == factor.max())).all())


def function_of(tensor: Tensor, through: Sequence[str] = ()) -> str | None:
    """The activation function that made a tensor, seen through changes of shape.

    Args:
        tensor: the result of anything.
        through: operations that may stand between as well.
    """
    node = tensor.grad_fn
    for _ in range(6):
        if node is None:
            return None
        name = name_of(node)
        if name in FUNCTIONS:
            return FUNCTIONS[name]
        parents = [parent for parent, _ in node.next_functions if parent is not None]
        if through and parents and name.startswith(_NORMS):
            parents = parents[:1]  # the others are its weight and bias
        elif len(parents) != 1 or not (is_view(name) or name.startswith(tuple(through))) or _multiplies(node):
            return None
        node = parents[0]
    return None
