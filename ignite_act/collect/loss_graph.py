"""What a loss does with the outputs, as the graph of autograd shows it: no number decides.

The outputs' gradient tells what a usual loss is, but not what became of it behind another function. The graph holds the
operations themselves, be they in the model or in the loss.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from ignite_act.collect.graphs import FUNCTIONS, PRODUCTS, is_view, name_of
from ignite_act.internals import shape_of

_AGAIN = {
    "LogSoftmax": ("Softmax",),
    "Softmax": ("Softmax",),
    "Logsumexp": ("Softmax",),
    "BinaryCrossEntropyWithLogits": ("Softmax", "Sigmoid", "Hardsigmoid"),
    "Sigmoid": ("Sigmoid", "Hardsigmoid"),
}
"""Operation -> those after which it is one too many."""
_APPLIES = {"BinaryCrossEntropyWithLogits": "sigmoid", "Sigmoid": "sigmoid"}
_OF_LOGARITHMS = ("NllLoss", "CtcLoss")
_LOGARITHMS = ("log_softmax", "logsigmoid")
_COMPARING = ("MseLoss", "SmoothL1Loss", "HuberLoss")
_LIKELY = ("NllLoss", "CtcLoss", "BinaryCrossEntropy", "Log", "Softplus", "Xlogy")
"""What a likelihood is made of: a logarithm, mostly."""
_NORMS = ("LinalgVectorNorm", "Norm", "CosineSimilarity")
_COMBINING = ("Sub", "Rsub", "Add")
_BETWEEN = 6


class LossFacts(NamedTuple):
    """What a loss does with an output.

    Attributes:
        applies_again: ``"softmax"`` or ``"sigmoid"`` if the loss applies it to what such a function made already.
        takes_logarithms_of: what made the values that the loss takes for logarithms of probabilities, if they are none:
            the name of a function, ``"layer"``, or "".
        normalises: whether it divides the output by its norm.
        distance: whether it is a distance between outputs and targets, and no likelihood.
        pairs: whether outputs ``(N, 1, ...)`` are broadcast against constants ``(N, ...)``, or the other way round.
    """

    applies_again: str = ""
    takes_logarithms_of: str = ""
    normalises: bool = False
    distance: bool = False
    pairs: bool = False


NOTHING = LossFacts()
"""Nothing is wrong, as far as the graph shows."""


def loss_facts(nodes: Iterable[Any]) -> LossFacts:
    """What the operations between some outputs and their loss do with them.

    Args:
        nodes: of the graph, from the loss to the operations that made the outputs.
    """
    again, logarithms, pairs, names = "", "", False, set()
    for node in nodes:
        name = name_of(node)
        names.add(name)
        if name in _AGAIN and _maker_of(node) in _AGAIN[name]:
            again = again or _APPLIES.get(name, "softmax")
        if name.startswith(_OF_LOGARITHMS):
            logarithms = logarithms or _no_logarithm(_maker_of(node))
        pairs = pairs or _is_of_pairs(node)
    distance = any(name in _COMPARING for name in names) and not any(name.startswith(_LIKELY) for name in names)
    normalises = any(name.startswith(_NORMS) for name in names)
    return LossFacts(again, logarithms, normalises, distance, pairs)


def _maker_of(node: Any) -> str:
    """The operation that made what an operation works on, seen through changes of shape."""
    for _ in range(_BETWEEN):
        node = node.next_functions[0][0] if node.next_functions else None
        if node is None or not is_view(name_of(node)):
            break
    return "" if node is None else name_of(node)


def _no_logarithm(maker: str) -> str:
    """The function that made values that are no logarithms, or ``"layer"``; "" where they may be."""
    function = FUNCTIONS.get(maker, "")
    if function and function not in _LOGARITHMS:
        return function
    return "layer" if maker.startswith(PRODUCTS) else ""


def _is_of_pairs(node: Any) -> bool:
    """Whether outputs ``(N, 1, ...)`` meet constants ``(N, ...)``, or the other way round: all pairs are compared.

    Outputs that the loss has given another axis itself are compared in pairs on purpose.
    """
    shape, name, parents = shape_of(node), name_of(node), [parent for parent, _ in node.next_functions]
    if name in _COMPARING:  # torch's own losses expand both to the same shape
        return bool(parents) and name_of(parents[0]) == "Expand" and _is_root_of(shape_of(parents[0]), parents[0])
    if name not in _COMBINING or any(name_of(parent) == "Unsqueeze" for parent in parents):
        return False
    return all(parent is None or _is_root_of(shape, parent) or _is_weighted(shape, parent) for parent in parents)


def _is_weighted(shape: tuple[int, ...], node: Any) -> bool:
    """Whether a node multiplies outputs with constants, as in ``target * rate``."""
    parents = [parent for parent, _ in node.next_functions]
    return name_of(node) == "Mul" and all(parent is None or _is_root_of(shape, parent) for parent in parents)


def _is_root_of(shape: tuple[int, ...], node: Any) -> bool:
    """Whether a shape is ``(N, N, ...)`` and a node's result ``(N, 1, ...)`` or ``(N, ...)``, possibly expanded."""
    if name_of(node) == "Expand":
        node = node.next_functions[0][0]
    if len(shape) < 2 or shape[0] != shape[1] or shape[0] < 2:
        return False
    return shape_of(node) in ((shape[0], 1, *shape[2:]), (shape[0], *shape[2:]))
