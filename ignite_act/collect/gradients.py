"""The mean absolute gradient of every layer, as the optimizer consumes it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ignite_act.collect import optimizers
from ignite_act.collect.base import Collector, Every
from ignite_act.collect.layers import Layer, find_layers, why_unseen
from ignite_act.collect.names import Patterns, as_patterns
from ignite_act.collect.reading import LONGEST_REASON, measure, split_readable
from ignite_act.errors import one_line
from ignite_act.guard import reason_of
from ignite_act.stats import ABSENT, SCRATCH, Magnitude, ShardedMagnitude
from ignite_act.stats.base import on_device


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

    Where every process holds a part of a weight (FSDP, tensor parallelism), the row is that of the whole weight: parts
    weigh by their size, and a step that is not finite in one of them counts as such. If the processes are not brought
    together, it is that of this process's part, and the coverage says so. A gradient that cannot be read is listed.

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
        self._layers: dict[int, Layer] = {}  # id of the parameter -> layer
        self._outside: set[int] = set()  # ids of parameters of optimizers that the model has not
        self._statistic: Magnitude | None = None
        self._sizes = self._scratch = torch.empty(0)
        self._steps = 0
        self._others: set[str] = set()  # kinds of the optimizers that made steps and were not to be followed
        self._trouble = ""
        self._refused: dict[str, str] = {}  # layers that are not read in this window -> why
        self._failed: dict[str, str] = {}  # those of which reading failed
        self._in_parts: set[str] = set()  # layers of which this process read a part
        self._united = False
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

    def _read(self, gradients: dict[int, Tensor], scale: Tensor | None, found_inf: Tensor | None) -> None:
        layers = list(self._layers.values())
        gradients, reasons = split_readable(gradients, layers, self._refused)
        self._refused |= reasons
        if not gradients:
            return
        statistic = self._statistic_on(next(iter(gradients.values())).device)
        iteration = self.clock() or self._steps
        if scale is None and found_inf is None and statistic.read(gradients, iteration):
            return
        measured, reasons = measure(gradients, layers, self._sizes, self._scratch)
        self._refused |= reasons
        self._failed |= reasons
        for reason in reasons.values():
            self._trouble = reason
            self.give_up("some steps", reason)
        if measured is None:
            return
        means, maxima = measured
        if scale is not None:
            means, maxima = means / scale, maxima / scale
        if found_inf is not None:
            means = torch.where(found_inf > 0, ABSENT, means)
        if isinstance(statistic, ShardedMagnitude):
            statistic.update(means, maxima, iteration, self._steps)
        else:
            statistic.update(means, maxima, iteration)

    def _statistic_on(self, device: torch.device) -> Magnitude:
        """The window's statistic, with the sizes of the layers as they are."""
        layers = self._layers.values()
        sharded = any(layer.sharded for layer in layers)
        if self._statistic is None:
            self._statistic = (ShardedMagnitude if sharded else Magnitude)(len(layers), device)
        elif sharded and not isinstance(self._statistic, ShardedMagnitude):
            before, self._statistic = self._statistic, ShardedMagnitude(len(layers), device)
            self._statistic.merge(before)
        if not self._scratch.numel():
            sizes = [layer.size for layer in layers]
            self._sizes = on_device(sizes, device)
            self._scratch = torch.empty(min(SCRATCH, max(sizes)), dtype=torch.float32, device=device)
            self._in_parts |= {layer.name for layer in layers if layer.sharded}
            if isinstance(self._statistic, ShardedMagnitude):
                self._statistic.sizes = self._sizes.to(self._statistic.total.device)
        return self._statistic

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
        self._refused, self._failed, self._in_parts, self._united = {}, {}, set(), False
        self._scratch = torch.empty(0)
        self._followed.clear()
        self._ticks = []
        self._restored = None

    def _look(self) -> None:
        """Finds the layers of the model as it is now."""
        found = find_layers(self.model, self._patterns)
        self._lazy, self._model_parameters, self._left_out = found.lazy, found.parameters, found.unseen
        if self._layers == found.chosen:
            return
        before = {layer.name: layer.index for layer in self._layers.values()}
        self._layers = found.chosen
        self._scratch = torch.empty(0)
        if self._statistic is not None:
            self._statistic = self._statistic.rearranged([before.get(layer.name) for layer in self._layers.values()])

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
        nobody = ""
        if not seen and not self._steps and not self._any_skipped:
            nobody = self._unless_compiled("no torch.optim.Optimizer that owns it made a step in this window")
            if self._others:
                nobody = f"only {', '.join(sorted(self._others))} made steps, which was not to be followed"
        unseen, measured = dict(self._left_out), set(seen)
        trouble = one_line(self._trouble, LONGEST_REASON)
        for parameter in self.model.parameters():
            layer = self._layers.get(id(parameter))
            if layer is not None and layer.name not in measured:
                reason = self._refused.get(layer.name) or ("" if self._refused else trouble)
                unseen[layer.name] = reason or why_unseen(parameter, layer, nobody)
        if trouble:
            unseen.setdefault("some steps", trouble)
        parts = self._in_parts & measured if not self._united else ()
        if parts:
            unseen["other shards"] = f"the numbers of {len(parts)} sharded layers are those of this process's shards"
        return unseen

    def _failures(self) -> dict[str, str]:
        return dict(self._failed)

    def _state(self) -> dict[str, Any]:
        window = self._window()
        return {
            "layers": [layer.name for layer in self._layers.values()],
            "skipped": self._skipped_steps(),
            "steps": self._steps,
            "magnitude": window.state_dict() if window is not None else {},
            "ticks": [followed.every.count for followed in self._followed.values()] + self._ticks,
            "in_parts": sorted(self._in_parts),
        }

    def _unite(self, states: Sequence[Mapping[str, Any]]) -> None:
        for state in states:
            self._check_layers(state)
        windows = [self._restore(state) for state in states if state["magnitude"]]
        sharded = any(isinstance(window, ShardedMagnitude) for window in windows)
        united = (ShardedMagnitude if sharded else Magnitude)(len(self._layers))
        united.unite(windows)
        skipped = [max(counts) for counts in zip(*(state["skipped"] for state in states), strict=True)]
        names = [layer.name for layer in self._layers.values()]
        self._restored = {"layers": names, "magnitude": united.settled().state_dict(), "skipped": skipped}
        self._statistic = None
        self._followed.clear()
        self._united = True

    def _restore(self, state: Mapping[str, Any]) -> Magnitude:
        kind = ShardedMagnitude if "sizes" in state["magnitude"] else Magnitude
        magnitude = kind(len(state["layers"]))
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
        self._in_parts = set(state.get("in_parts", ()))


def _parameters(optimizer: Optimizer) -> Iterator[nn.Parameter]:
    return (parameter for group in optimizer.param_groups for parameter in group["params"])
