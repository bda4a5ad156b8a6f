"""How sharp attention is: read off the graph of a forward, so that neither its code nor its class matters."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from ignite_act.collect.graphs import nodes_behind
from ignite_act.internals import attention_of, is_saving_elsewhere

_ALL = 0.99
_MOST_NODES = 200


def sharpness(outputs: Iterable[Tensor], layers: Mapping[int, str]) -> dict[str, Tensor]:
    """Share of the queries that give all but 1 % of their weight to one key, ``()`` for each attention of a forward.

    Queries that may look at one key only, as the first of a causal attention, are left out. A few samples are read.

    Args:
        outputs: of the forward, before any backward.
        layers: id of a weight -> name of its layer; an attention has the name of the layer that made its queries or
            keys, and is left out if there is none.
    """
    found: dict[str, Tensor] = {}
    if is_saving_elsewhere():  # to look at a checkpoint would compute it again
        return found
    for node in nodes_behind(outputs):
        weights = attention_of(node)
        if weights is None or not weights.numel():
            continue
        name = _made_by(node, layers)
        if name:
            free = (weights > 0).sum(-1) > 1
            sharp = (weights.amax(-1) > _ALL) & free
            found.setdefault(name, sharp.sum() / free.sum().clamp(min=1))
    return found


def _made_by(node: Any, layers: Mapping[int, str]) -> str:
    """The layer that is next before a node."""
    waiting: deque[Any] = deque([node])
    seen: set[Any] = set()
    while waiting and len(seen) < _MOST_NODES:
        now = waiting.popleft()
        if now is None or now in seen:
            continue
        seen.add(now)
        variable = getattr(now, "variable", None)
        if isinstance(variable, Tensor) and id(variable) in layers:
            return layers[id(variable)]
        waiting.extend(parent for parent, _ in now.next_functions)
    return ""
