"""The mean absolute gradient of every layer, as the optimizer consumes it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.optim import Optimizer

from ignite_act.collect import optimizers
from ignite_act.collect.base import Collector, Every
from ignite_act.collect.names import Pattern, Patterns, as_patterns, clean, matches
from ignite_act.guard import reason_of
from ignite_act.stats import ABSENT, SCRATCH, Magnitude, magnitude


@dataclass(frozen=True)
class _Layer:
    name: str
    index: int
    size: int


@dataclass
class _Followed:
    """An optimizer of which a step was seen in this window."""

    every: Every
    wanted: bool
    owned: list[int] = field(default_factory=list)  # ids of its parameters
    layers: object = None  # the layers as they were when the parameters were looked up
    parameters: list[tuple[int, nn.Parameter]] = field(default_factory=list)  # with the indices of their layers
    skipped: int | Tensor = 0


class GradientCollector(Collector):
    """Mean and largest absolute gradient of every layer's weight over the optimizer steps of the window.

    The gradients are read when an optimizer is about to use them: after accumulation, unscaling, all-reduce and
    clipping; each step weighs the same. A layer is named after the module that owns the weight; parameters that are
    not called ``weight`` keep their full name. Tensors of one dimension are left out unless ``layers`` asks for them.

    Args:
        model: the model.
        optimizer: follow the steps of this optimizer, or of these, only; by default of every optimizer that owns
            parameters of the model.
        layers: qualified names of layers or parameters, globs or module types.
        every: read the gradients of one step in so many.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Iterable[Optimizer] | None = None,
        *,
        layers: Patterns = None,
        every: int = 1,
    ) -> None:
        super().__init__(model, every=every)
        self._patterns = as_patterns(layers, "layers")
        several = (optimizer,) if isinstance(optimizer, Optimizer) else tuple(optimizer or ())
        for item in several:
            if not isinstance(item, Optimizer):
                raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {type(item).__name__}")
        self._optimizers = [weakref.ref(item) for item in several] if optimizer is not None else None
        self._layers: dict[int, _Layer] = {}  # id of the parameter -> layer
        self._outside: set[int] = set()  # ids of parameters of optimizers that the model has not
        self._statistic: Magnitude | None = None
        self._scratch: Tensor | None = None
        self._steps = 0
        self._others: set[str] = set()  # kinds of the optimizers that made steps and were not to be followed
        self._trouble = ""
        self._followed: weakref.WeakKeyDictionary[Optimizer, _Followed] = weakref.WeakKeyDictionary()
        self._ticks: list[int] = []  # of the optimizers of a restored window, in the order of their first steps
        self._restored: Mapping[str, Any] | None = None
        self._begin()

    def before_step(self, optimizer: Optimizer) -> None:
        """Nothing: gradients are read when they are final."""

    def gradients_ready(self, optimizer: Optimizer) -> None:
        """Reads the gradients that the optimizer is about to use."""
        if self._lazy:
            self._look()
        followed = self._follow(optimizer)
        if not followed.parameters or self._inside_another(optimizer, followed):
            return
        self._steps += 1
        found_inf: Tensor | None = getattr(optimizer, "found_inf", None)
        if found_inf is not None:  # a fused optimizer below a loss scaler decides by itself, on the device
            followed.skipped = followed.skipped + (found_inf > 0).long()
        if followed.every(None):
            gradients = {index: p.grad for index, p in followed.parameters if p.grad is not None}
            if gradients:
                try:
                    self._read(gradients, getattr(optimizer, "grad_scale", None), found_inf)
                except Exception as error:
                    self._trouble = f"reading its gradient failed: {reason_of(error)}"
                    self.give_up("some steps", self._trouble)

    @torch.no_grad()
    def _read(self, gradients: dict[int, Tensor], scale: Tensor | None, found_inf: Tensor | None) -> None:
        device = next(iter(gradients.values())).device
        if self._statistic is None:
            self._statistic = Magnitude(len(self._layers), device)
        iteration = self.clock() or self._steps
        if scale is None and found_inf is None and self._statistic.read(gradients, iteration):
            return
        if self._scratch is None:
            sizes = [layer.size for layer in self._layers.values()]
            self._sizes = torch.tensor(sizes, device=device)
            self._scratch = torch.empty(min(SCRATCH, max(sizes)), dtype=torch.float32, device=device)
        rows = [gradients.get(index) for index in range(len(self._layers))]
        means, maxima = magnitude(rows, self._sizes, self._scratch)
        if scale is not None:
            means, maxima = means / scale, maxima / scale
        if found_inf is not None:
            means = torch.where(found_inf > 0, ABSENT, means)
        self._statistic.update(means, maxima, iteration)

    def after_step(self, optimizer: Optimizer) -> None:
        """Nothing: gradients are read before the step."""

    def skipped_step(self, optimizer: Optimizer) -> None:
        """Counts a step that the loss scaler left out."""
        followed = self._follow(optimizer)
        if followed.parameters:
            followed.skipped = followed.skipped + 1

    def _follow(self, optimizer: Optimizer) -> _Followed:
        """What is known of an optimizer in this window."""
        followed = self._followed.get(optimizer)
        if followed is None:
            ticks = self._ticks.pop(0) if self._ticks else 0
            followed = self._followed[optimizer] = _Followed(Every(self._every.n), self._wants(optimizer))
            followed.every.count = ticks
        owned = [id(p) for group in optimizer.param_groups for p in group["params"]]
        if followed.owned != owned or followed.layers is not self._layers:
            unknown = set(owned) - self._model_parameters - self._outside
            if unknown:  # parameters may be added and replaced at any time
                self._look()
                self._outside |= unknown - self._model_parameters
            followed.owned, followed.layers = owned, self._layers
            pairs = [(self._layers[id(p)].index, p) for p in _parameters(optimizer) if id(p) in self._layers]
            followed.parameters = pairs if followed.wanted else []
            if pairs and not followed.wanted:
                self._others.add(type(optimizer).__name__)
        return followed

    def _wants(self, optimizer: Optimizer) -> bool:
        """Whether an optimizer is to be followed; one that works for a wanted one shares its groups (SAM)."""
        if self._optimizers is None:
            return True
        wanted = [own() for own in self._optimizers]
        return any(own is optimizer or getattr(own, "param_groups", None) is optimizer.param_groups for own in wanted)

    def _inside_another(self, optimizer: Optimizer, followed: _Followed) -> bool:
        """Whether the step is part of the step of another optimizer of the same parameters, which counts."""
        outer = (self._followed.get(other) for other in optimizers.around(optimizer))
        return any(other is not None and other.wanted and set(other.owned) >= set(followed.owned) for other in outer)

    def _begin(self) -> None:
        super()._begin()
        self._look()
        self._statistic = None
        self._steps = 0
        self._others.clear()
        self._outside.clear()
        self._trouble = ""
        self._followed.clear()
        self._ticks = []
        self._restored = None

    def _look(self) -> None:
        """Finds the layers of the model as it is now."""
        model = self.model
        self._lazy = any(isinstance(parameter, UninitializedParameter) for parameter in model.parameters())
        owners = {id(parameter): module for module in model.modules() for parameter in module.parameters(recurse=False)}
        self._model_parameters = {id(parameter) for parameter in model.parameters()}
        modules = dict(model.named_modules(remove_duplicate=False))
        before, old = {layer.name: layer.index for layer in self._layers.values()}, self._layers
        self._layers = {}
        self._labels: list[tuple[str, type[nn.Module]]] = []  # every name that a pattern may fit
        for full_name, parameter in model.named_parameters():
            if isinstance(parameter, UninitializedParameter):
                continue  # a lazy module: looked at again at the first step
            name = clean(full_name)
            layer = name.removesuffix(".weight")
            owner = type(owners[id(parameter)])
            labels = [(layer, owner), (name, owner)]
            parametrized = full_name.partition(".parametrizations.")[0]
            if parametrized != full_name and parametrized in modules:
                labels.append((clean(parametrized), type(modules[parametrized])))
            self._labels += labels
            if self._selects(labels, parameter):
                self._layers[id(parameter)] = _Layer(layer, len(self._layers), max(parameter.numel(), 1))
        if self._layers == old:
            self._layers = old
            return
        self._scratch = None
        if self._statistic is not None:
            self._statistic = self._statistic.rearranged([before.get(layer.name) for layer in self._layers.values()])

    def _selects(self, labels: list[tuple[str, type[nn.Module]]], parameter: nn.Parameter) -> bool:
        if self._patterns is None:
            return parameter.ndim > 1
        fitting = [(p, kind) for p in self._patterns for label, kind in labels if matches(p, label, kind)]
        if parameter.ndim > 1:
            return bool(fitting)
        return any(_asks_for_vectors(pattern, kind) for pattern, kind in fitting)

    def _hold(self) -> Callable[[], object]:
        return optimizers.hold(self)

    def _watch(self) -> None:
        self._end_watch = optimizers.watch(self)

    def _unwatch(self) -> None:
        self._end_watch()

    def _numbers(self) -> dict[str, dict[str, Any]]:
        self._look()
        state = self._state()
        statistic = self._window()
        rows = statistic.compute() if statistic is not None else []
        return {
            name: {**row, "skipped_steps": skipped}
            for name, row, skipped in zip(state["layers"], rows, state["skipped"], strict=False)
            if row["steps"] or skipped
        }

    def _window(self) -> Magnitude | None:
        """The window's statistic, a restored window merged in."""
        statistic = self._statistic
        if statistic is None and (self._restored is not None or self._any_skipped):
            statistic = Magnitude(len(self._layers))
        if statistic is not None and self._restored is not None and self._restored["magnitude"]:
            restored = self._restore(self._restored)
            restored.merge(statistic)
            return restored
        return statistic

    def _skipped_steps(self) -> list[int]:
        """How many steps were skipped, for each layer."""
        skipped = [0] * len(self._layers)
        if self._restored is not None:
            known = dict(zip(self._restored["layers"], self._restored["skipped"], strict=True))
            skipped = [known.get(layer.name, 0) for layer in self._layers.values()]
        for optimizer, followed in self._followed.items():
            for parameter in _parameters(optimizer) if followed.wanted else ():
                if id(parameter) in self._layers:
                    skipped[self._layers[id(parameter)].index] += int(followed.skipped)
        return skipped

    @property
    def _any_skipped(self) -> bool:
        return any(bool(followed.skipped > 0) for followed in self._followed.values())

    def _find_unseen(self, seen: tuple[str, ...]) -> dict[str, str]:
        if not seen and not self._steps and not self._any_skipped:
            reason = "no torch.optim.Optimizer that owns it made a step in this window"
            if self._others:
                reason = f"only {', '.join(sorted(self._others))} made steps, which was not to be followed"
            if self._layers:
                return {layer.name: reason for layer in self._layers.values()}
        unseen, measured = {}, set(seen)
        for pattern in self._patterns or ():
            if not any(matches(pattern, name, kind) for name, kind in self._labels):
                name = pattern if isinstance(pattern, str) else pattern.__name__
                unseen[name] = "no parameter of the model fits this choice"
        for parameter in self.model.parameters():
            layer = self._layers.get(id(parameter))
            if layer is not None and layer.name not in measured:
                unseen[layer.name] = self._trouble or _why_unseen(parameter)
        return unseen

    def _state(self) -> dict[str, Any]:
        window = self._window()
        return {
            "layers": [layer.name for layer in self._layers.values()],
            "skipped": self._skipped_steps(),
            "steps": self._steps,
            "magnitude": window.state_dict() if window is not None else {},
            "ticks": [followed.every.count for followed in self._followed.values()] + self._ticks,
        }

    def _unite(self, states: Sequence[Mapping[str, Any]]) -> None:
        for state in states:
            self._check_layers(state)
        magnitude = Magnitude(len(self._layers))
        magnitude.unite([self._restore(state) for state in states if state["magnitude"]])
        skipped = [max(counts) for counts in zip(*(state["skipped"] for state in states), strict=True)]
        names = [layer.name for layer in self._layers.values()]
        self._restored = {"layers": names, "magnitude": magnitude.state_dict(), "skipped": skipped}
        self._statistic = None
        self._followed.clear()

    def _restore(self, state: Mapping[str, Any]) -> Magnitude:
        magnitude = Magnitude(len(state["layers"]))
        magnitude.load_state_dict(state["magnitude"])
        rows = {name: row for row, name in enumerate(state["layers"])}
        return magnitude.rearranged([rows.get(layer.name) for layer in self._layers.values()])

    def _check_layers(self, state: Mapping[str, Any]) -> None:
        layers = [layer.name for layer in self._layers.values()]
        if list(state["layers"]) != layers:
            raise ValueError(f"the state is of a model with the layers {list(state['layers'])}, this one has {layers}")

    def _load_state(self, state: Mapping[str, Any]) -> None:
        self._check_layers(state)
        self._restored = state
        self._steps = int(state["steps"])
        self._ticks = list(state["ticks"])


def _why_unseen(parameter: nn.Parameter) -> str:
    if not parameter.requires_grad:
        return "it is frozen (requires_grad is False)"
    if parameter.numel() == 0:
        return "it has no elements"
    return "it had no gradient when an optimizer that owns it made a step, or no such optimizer did"


def _parameters(optimizer: Optimizer) -> Iterator[nn.Parameter]:
    return (parameter for group in optimizer.param_groups for parameter in group["params"])


def _asks_for_vectors(pattern: Pattern, owner: type[nn.Module]) -> bool:
    """Whether a pattern that fits a bias or a norm's weight means it: not by a mere ``layers.*``."""
    if not isinstance(pattern, str):
        return not issubclass(owner, (nn.Linear, nn.modules.conv._ConvNd, nn.Embedding))
    return pattern.split(".")[-1] != "*"
