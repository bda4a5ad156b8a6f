"""Which parameters of a model are the weights of its layers, by which names they are chosen, and which are left out."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn
from torch.nn.parameter import UninitializedParameter

from ignite_act.collect.names import Pattern, clean, matches, parameter_names
from ignite_act.internals import (
    flat_pieces,
    is_flat,
    is_flattened,
    is_sharded,
    is_unreadable,
    local_part,
)

Label = tuple[str, type[nn.Module]]
"""A name that a pattern may fit, with the type of the module of that name."""

_LAZY = "it takes shape in its first forward, which was not made"
_FLAT = "FSDP keeps all its weights in one flat parameter: give use_orig_params=True to FSDP to see its layers"
_OUT_OF_REACH = "FSDP has made it flat and keeps its shape elsewhere: watch the model that FSDP returned"
_VECTOR = "it has one dimension: choose it by its name to measure it"


@dataclass(frozen=True)
class Layer:
    """A weight that is measured.

    Attributes:
        name: of the module that owns it, or its own one.
        index: its place among the chosen ones.
        size: number of elements that this process holds, at least 1.
        sharded: whether other processes hold other parts of it.
    """

    name: str
    index: int
    size: int
    sharded: bool


@dataclass
class Layers:
    """The layers of a model.

    Attributes:
        chosen: by the ids of their parameters.
        parameters: ids of all parameters of the model.
        unseen: name -> why it is not among the chosen ones, of what was to be expected there.
        lazy: whether a parameter has no shape yet.
    """

    chosen: dict[int, Layer] = field(default_factory=dict)
    parameters: set[int] = field(default_factory=set)
    unseen: dict[str, str] = field(default_factory=dict)
    lazy: bool = False


def find_layers(model: nn.Module, patterns: tuple[Pattern, ...] | None) -> Layers:
    """The layers of a model as it is now.

    Without patterns these are the tensors of two or more dimensions; FSDP's flat pieces count with the dimensions that
    they had. A tied weight is one layer with the first of its names, and is chosen by each of them.
    """
    layers, pieces = Layers(), flat_pieces(model)
    labels = _labels(model) if patterns else {}
    vectors: dict[str, str] = {}
    told: set[int] = set()  # parameters that have a row or a reason
    for full_name, parameter in model.named_parameters():
        layers.parameters.add(id(parameter))
        layer = clean(full_name).removesuffix(".weight")
        own = labels.get(id(parameter), [])
        lazy, piece = isinstance(parameter, UninitializedParameter), pieces.get(id(parameter))
        layers.lazy = layers.lazy or lazy
        dimensions = len(piece.shape) if piece is not None else 0 if lazy else parameter.ndim
        lost = piece is None and dimensions < 2 and is_flattened(parameter)
        if lazy or (lost and not _selects(patterns, own, 1)):
            if _selects(patterns, own, 2):
                layers.unseen[layer] = _LAZY if lazy else _FLAT if is_flat(parameter) else _OUT_OF_REACH
                told.add(id(parameter))
        elif _selects(patterns, own, dimensions):
            sharded = piece.sharded if piece is not None else is_sharded(parameter)
            size = max(local_part(parameter).numel(), 1)
            layers.chosen[id(parameter)] = Layer(layer, len(layers.chosen), size, sharded)
            told.add(id(parameter))
        else:
            vectors[layer] = _VECTOR
    if patterns is None and not layers.chosen:
        layers.unseen |= vectors if layers.parameters else {"the model": "it has no parameters"}
    for pattern in patterns or ():
        reason = _why_nothing(pattern, labels, told)
        if reason:
            layers.unseen[pattern if isinstance(pattern, str) else pattern.__name__] = reason
    return layers


def why_unseen(parameter: nn.Parameter, layer: Layer, nobody: str) -> str:
    """Why a layer was not measured in a window.

    Args:
        nobody: why no layer was, if no optimizer made a step.
    """
    if is_unreadable(parameter):
        return "it has no values: it is on the meta device, or a stand-in for a tensor"
    if not parameter.is_floating_point() and not parameter.is_complex():
        return f"it holds whole numbers ({parameter.dtype}), which have no gradient"
    if not parameter.requires_grad:
        return "it is frozen (requires_grad is False)"
    if nobody:
        return nobody
    if local_part(parameter).numel() == 0:
        return "this process holds no part of it" if layer.sharded else "it has no elements"
    return "it had no gradient when an optimizer that owns it made a step, or no such optimizer did"


def _labels(model: nn.Module) -> dict[int, list[Label]]:
    """Every name of each parameter, of its owner, and of the layer that a parametrisation makes it a part of."""
    modules = dict(model.named_modules(remove_duplicate=False))
    labels: dict[int, list[Label]] = {}
    for key, names in parameter_names(model).items():
        own = labels[key] = []
        for full_name, owner in names:
            name = clean(full_name)
            own += [(name.removesuffix(".weight"), owner), (name, owner)]
            parametrized = full_name.partition(".parametrizations.")[0]
            if parametrized != full_name and parametrized in modules:
                own.append((clean(parametrized), type(modules[parametrized])))
    return labels


def _selects(patterns: tuple[Pattern, ...] | None, labels: list[Label], dimensions: int) -> bool:
    if patterns is None:
        return dimensions > 1
    fitting = [(p, kind) for p in patterns for label, kind in labels if matches(p, label, kind)]
    if dimensions > 1:
        return bool(fitting)
    return any(_asks_for_vectors(pattern, kind) for pattern, kind in fitting)


_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def _asks_for_vectors(pattern: Pattern, owner: type[nn.Module]) -> bool:
    """Whether a pattern that fits a bias or a norm's weight means it: not by a mere ``layers.*``."""
    if not isinstance(pattern, str):
        return not issubclass(owner, (nn.Linear, *_CONVOLUTIONS, nn.Embedding))
    return pattern.split(".")[-1] != "*"


def _why_nothing(pattern: Pattern, labels: dict[int, list[Label]], told: set[int]) -> str:
    """Why a pattern chose nothing; empty if it did."""
    fitting = [key for key, own in labels.items() if any(matches(pattern, name, kind) for name, kind in own)]
    if not fitting:
        return "no parameter of the model fits this choice"
    if told.intersection(fitting):
        return ""
    return "only tensors of one dimension fit this choice: choose them by their names to measure them"
