"""What optimizer steps do to the weight of each layer, and which weights they do nothing to."""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.optim import Optimizer

from ignite_act.collect import optimizers
from ignite_act.collect.clearing import Clearing
from ignite_act.collect.graphs import weights_behind
from ignite_act.collect.layers import find_layers
from ignite_act.collect.passes import ModelCall, PassCollector, is_sample
from ignite_act.guard import guarded
from ignite_act.internals import flat_pieces, is_distributed, local_part, why_unreadable
from ignite_act.stats import change
from ignite_act.stats.arrival import Arrival
from ignite_act.stats.weights import equal_rows, fingerprint, peaks

_TABLES = (nn.Embedding, nn.EmbeddingBag)
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_SMALL = 1e-2
"""A weight that begins below this share of the usual size, 1 / sqrt(fan-in) (LeCun et al. 1998), has no ratio."""


@dataclass
class _Layer:
    """A weight of the model and what was seen of it in a window.

    Attributes:
        parameter: the weight.
        is_table: whether its units are its columns, as those of an embedding.
        sharded: whether other processes hold other parts of it.
        changes: of the steps looked at: mean absolute change, and mean absolute weight before.
        missing, present: steps at which it had no gradient, and at which it had one.
        nonzero: whether any gradient of the window was known to be other than 0.
        cleared, uncleared: how often its gradient had, or had not, been cleared before a backward.
        against: steps looked at that went along the gradient instead of against it.
        loose: steps of others at which it had a gradient, before any that owns it made one.
        delivered: whether a backward brought it a gradient, before any optimizer made a step.
        owned: whether an optimizer that made a step owns it.
        rate: its learning rate at the last step looked at.
        equal: share of its rows that equal another one, before the first step.
        fingerprint: of the weight at the beginning of the window.
        registered: whether it is a parameter of the model, which a layer in a plain list has none of.
    """

    parameter: weakref.ref[Tensor]
    is_table: bool = False
    registered: bool = True
    sharded: bool = False
    changes: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    missing: int = 0
    present: int = 0
    nonzero: bool = False
    cleared: Tensor | int = 0
    uncleared: Tensor | int = 0
    against: Tensor | int = 0
    loose: int = 0
    delivered: bool = False
    owned: bool = False
    rate: Tensor | float | None = None
    equal: Tensor | None = None
    fingerprint: Tensor | None = None


@dataclass
class _Owner:
    """An optimizer that makes steps of its own, not below another one.

    Attributes:
        groups: sizes of its parameter groups when they were looked up.
        layers: the weights that it owns.
        owns_any: whether it owns a parameter of the model, be it a bias.
        steps: how many it has made.
        before: weights before a step that is looked at.
        had: layers that had a gradient at that step.
        clearing: watches whether the gradients of that step are cleared; None after other steps.
        suspects: layers of which no gradient other than 0 has been seen.
        peak: largest absolute gradient of each suspect so far.
        arriving: the same on its way to the host, with the suspects it is about.
    """

    groups: list[int]
    layers: dict[str, weakref.ref[Tensor]]
    owns_any: bool
    steps: int = 0
    before: dict[str, Tensor] = field(default_factory=dict)
    had: set[str] = field(default_factory=set)
    clearing: Clearing | None = None
    suspects: list[str] = field(default_factory=list)
    peak: Tensor | None = None
    arriving: tuple[list[str], Arrival] | None = None

    def owned(self) -> dict[str, Tensor]:
        """The weights by the names of their layers."""
        return {name: parameter for name, own in self.layers.items() if (parameter := own()) is not None}


class UpdateCollector(PassCollector):
    """Update ratio of every layer, and whether its gradient arrives, is cleared and is used.

    In a few optimizer steps of the window (of each optimizer, see `is_sample`) the weights are compared before
    and after. A step is one step whatever happens in it: with a closure, and where an optimizer calls another one for
    the same parameters, the weights are those before and after the outermost call. A row holds

    - ``ratio``: mean(\\|W_after - W_before\\|) / mean(\\|W_before\\|), mean over the steps looked at, ``first_ratio``
      of the first one, ``steps`` how many; None where there was none, or the weight began at zero or nearly so;
    - ``weight_start``, ``weight``: mean(\\|W\\|) before the first of these steps and at the end of the window;
    - ``missing``, ``present``: steps of the window, counted all, at which the gradient was None, or was there;
      ``nonzero``: whether any of them was other than exactly zero; where no optimizer owns the weight, which is then
      present at the steps of others, whether there was one at all;
    - ``moved``: whether the weight at the end of the window is another than at its beginning, whoever changed it; None
      where that is not known;
    - ``cleared``, ``uncleared``: sampled steps whose gradient had, or had not, been cleared before the next backward;
    - ``against``: sampled steps that went up along the gradient (a maximised objective);
    - ``equal_rows``: share of the weight's rows, or of an embedding's columns, that equal another one,
      and ``equal_rows_start``, before the first step; ``nonfinite``: NaN and infinite weights;
    - ``registered``: whether it is one of the model's parameters; a weight that the model's forward uses and does not
      know of, of a layer in a plain list, say, is called ``unregistered`` with its shape;
    - ``trainable``; ``owned``: whether an optimizer that made a step owns it; ``stepped``: whether one that owns
      anything of the model made a step; ``learning_rate`` there, None where the optimizer has none; ``gradient_left``:
      whether it has a gradient at the end of the window.

    Source: the ratio as a measure of the learning rate, Karpathy, CS231n notes 2015; Bottou 2012.
    """

    _stepped: bool
    _remembered: bool
    _looked: bool  # whether a forward of the window has been searched for weights that are not registered
    _loose: list[tuple[str, _Layer]] | None  # the layers that no optimizer owns that has made a step

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._others: dict[str, weakref.ref[Tensor]] = {}
        self._begin()

    # What the optimizers' hooks call.

    def before_step(self, optimizer: Optimizer) -> None:
        """Keeps the weights of a step that is looked at."""
        self._in_step.discard(optimizer)
        if optimizers.is_part_of_another(optimizer):
            return
        owner = self._owner(optimizer)
        self._stepped = self._stepped or owner.owns_any
        if not owner.layers:
            return
        self._remember()
        self._in_step.add(optimizer)
        owner.steps += 1
        owner.before = {}
        if is_sample(owner.steps):
            for name, rate in self._rates(optimizer).items():
                self._layers[name].rate = rate
            owner.before = {
                name: local_part(p).detach().clone()
                for name, p in owner.owned().items()
                if p.requires_grad and not why_unreadable(p) and local_part(p).numel()
            }

    def gradients_ready(self, optimizer: Optimizer) -> None:
        """Counts the gradients that are there."""
        owner = self._owners.get(optimizer)
        if owner is None or optimizer not in self._in_step:
            return
        if owner.clearing is not None:
            for name, cleared, uncleared in owner.clearing.result():
                self._layers[name].cleared += cleared
                self._layers[name].uncleared += uncleared
            owner.clearing = None
        owned = owner.owned()
        owner.had = {name for name, parameter in owned.items() if parameter.grad is not None}
        for name in owned:
            layer = self._layers[name]
            layer.owned = True
            if name in owner.had:
                layer.present += 1
            else:
                layer.missing += 1
        for _, layer in self._unowned():
            parameter = layer.parameter()
            if parameter is not None and parameter.grad is not None:
                layer.loose += 1
        self._look_for_zeros(owner, owned)

    def after_step(self, optimizer: Optimizer) -> None:
        """Compares the weights with those before the step."""
        owner = self._owners.get(optimizer)
        if owner is None or optimizer not in self._in_step:
            return
        self._in_step.discard(optimizer)
        before, owner.before = {name: own for name, own in owner.before.items() if name in owner.had}, {}
        if not before:
            return
        for name, weight in before.items():
            layer = self._layers[name]
            parameter = layer.parameter()
            if parameter is None:
                continue
            gradient = None if parameter.grad is None else local_part(parameter.grad)
            moved, size, along = change(weight, local_part(parameter).detach(), gradient)
            layer.changes.append((moved, size))
            if layer.equal is None:
                layer.equal = self._equal_rows(layer, weight)
            layer.against += (along > 0).long()
        owner.clearing = Clearing({name: p for name, p in owner.owned().items() if name in before})

    def skipped_step(self, optimizer: Optimizer) -> None:
        """A loss scaler left a step out: nothing was done to the weights."""

    # What the pass tap calls.

    def wants_pass(self, kind: int) -> bool:
        """Steps are steps, whatever the mode of the forward."""
        if not self._remembered:
            with torch.no_grad():
                self._remember()
        return super().wants_pass(kind)

    def after_model(self, call: ModelCall) -> None:
        """Waits for the backward that begins at these outputs, if it is to be seen what is left of older gradients."""
        if not self._looked and torch.is_grad_enabled():
            self._looked = True
            with guarded(self, "weights that are not registered"), torch.no_grad():
                self._find_others(call)
        for owner in self._owners.values():
            if owner.clearing is not None:
                owner.clearing.watch(call.outputs.values(), self)
        waiting = torch.is_grad_enabled() and not self._stepped
        if waiting and not any(layer.delivered for layer in self._layers.values()):
            for layer in self._layers.values():
                _watch_delivery(layer, self)

    def _find_others(self, call: ModelCall) -> None:
        """Looks for weights that the forward used and that are not registered. Shards stand for others, all of them."""
        own = {id(parameter) for parameter in self.model.parameters()}
        if not own or any(map(is_distributed, self.model.parameters())) or flat_pieces(self.model):
            return
        known = {id(other()) for other in self._others.values()}
        for weight in weights_behind(call.outputs.values(), call.inputs.values()):
            if id(weight) in own | known or why_unreadable(weight) or weight.dtype not in _DTYPES:
                continue
            base = "unregistered " + "x".join(map(str, weight.shape))
            numbered = (f"{base} #{number}" for number in itertools.count(2))
            name = next(name for name in itertools.chain([base], numbered) if name not in self._others)
            self._others[name] = weakref.ref(weight)
            self._layers[name] = _Layer(self._others[name], registered=False, fingerprint=fingerprint(weight.detach()))
            self._loose = None

    def _look_for_zeros(self, owner: _Owner, owned: Mapping[str, Tensor]) -> None:
        """Takes layers with a gradient other than 0 off the suspects; only what is left costs anything."""
        self._take_in(owner, wait=False)
        gradients = [owned[name].grad if name in owned else None for name in owner.suspects]
        readable = [None if own is None or why_unreadable(own) else local_part(own) for own in gradients]
        device = next((own.device for own in readable if own is not None), None)
        if device is None:
            return
        nothing = torch.zeros(1, device=device)
        now = peaks([nothing if own is None else own for own in readable])
        owner.peak = now if owner.peak is None else torch.where(owner.peak == 0, now, owner.peak)
        if owner.arriving is None:
            owner.arriving = owner.suspects, Arrival(owner.peak)
            self._take_in(owner, wait=False)

    def _take_in(self, owner: _Owner, *, wait: bool) -> None:
        """Reads which suspects have had a gradient, as far as that has arrived; ``wait`` at the end of a window."""
        if owner.arriving is not None and (wait or owner.arriving[1].is_there):
            (suspects, arrival), owner.arriving = owner.arriving, None
            self._clear(owner, suspects, arrival.values())
        if wait and owner.peak is not None:
            self._clear(owner, owner.suspects, owner.peak.tolist())

    def _clear(self, owner: _Owner, suspects: Sequence[str], values: Sequence[float]) -> None:
        for name, value in zip(suspects, values, strict=True):
            self._layers[name].nonzero = self._layers[name].nonzero or value != 0  # a NaN is not 0
        kept = [index for index, name in enumerate(owner.suspects) if not self._layers[name].nonzero]
        if len(kept) < len(owner.suspects):
            owner.suspects = [owner.suspects[index] for index in kept]
            owner.peak = None if owner.peak is None or not kept else owner.peak[kept]

    def _owner(self, optimizer: Optimizer) -> _Owner:
        """What is known of an optimizer; its layers are looked up again only after its parameters have changed."""
        groups = [len(group["params"]) for group in optimizer.param_groups]
        owner = self._owners.get(optimizer)
        if owner is None or owner.groups != groups:
            names = {id(layer.parameter()): name for name, layer in self._layers.items()}
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            layers = {names[id(p)]: weakref.ref(p) for p in parameters if id(p) in names}
            mine = {id(parameter) for parameter in self.model.parameters()}
            steps = 0 if owner is None else owner.steps
            owner = _Owner(groups, layers, any(id(p) in mine for p in parameters), steps)
            owner.suspects = [name for name in layers if not self._layers[name].nonzero]
            self._owners[optimizer] = owner
            self._loose = None
        return owner

    def _unowned(self) -> list[tuple[str, _Layer]]:
        """The layers that no optimizer owns that has made a step."""
        if self._loose is None:
            owned = {name for owner in self._owners.values() for name in owner.layers}
            self._loose = [(name, layer) for name, layer in self._layers.items() if name not in owned]
        return self._loose

    def _rates(self, optimizer: Optimizer) -> dict[str, Any]:
        names = {id(layer.parameter()): name for name, layer in self._layers.items()}
        groups = ((id(p), group.get("lr")) for group in optimizer.param_groups for p in group["params"])
        return {names[key]: rate for key, rate in groups if key in names}

    def _equal_rows(self, layer: _Layer, weight: Tensor) -> Tensor:
        return equal_rows(weight.mT if layer.is_table and weight.ndim == 2 else weight)

    def _remember(self) -> None:
        """Notes what the weights are when the window begins."""
        if self._remembered:
            return
        self._remembered = True
        for name, layer in self._layers.items():
            parameter = layer.parameter()
            if parameter is None or self._restored.get(name, _NOTHING)["fingerprint"] is not None:
                continue
            if reason := why_unreadable(parameter):
                self.skip(name, reason)
            else:
                layer.fingerprint = fingerprint(local_part(parameter))

    # The window.

    def _hold(self) -> Any:
        modules, steps = super()._hold(), optimizers.hold(self)
        return lambda: (modules(), steps())

    def _watch(self) -> None:
        super()._watch()
        self._end_steps = optimizers.watch(self)

    def _unwatch(self) -> None:
        super()._unwatch()
        self._end_steps()

    def _begin(self) -> None:
        super()._begin()
        owners = {id(p): module for module in self.model.modules() for p in module.parameters(recurse=False)}
        known = find_layers(self.model, None).chosen
        self._layers = {
            known[id(parameter)].name: _Layer(
                weakref.ref(parameter),
                is_table=isinstance(owners[id(parameter)], _TABLES),
                sharded=known[id(parameter)].sharded,
            )
            for parameter in self.model.parameters()
            if id(parameter) in known
        }
        self._others = {name: own for name, own in self._others.items() if own() is not None}
        self._layers |= {name: _Layer(own, registered=False) for name, own in self._others.items()}
        self._looked = False
        self._owners: weakref.WeakKeyDictionary[Optimizer, _Owner] = weakref.WeakKeyDictionary()
        self._in_step: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._loose = None
        self._restored: dict[str, dict[str, Any]] = {}
        self._stepped = False
        self._remembered = False

    def _forget(self) -> None:
        """Steps are steps, whatever the mode of the forward."""

    @torch.no_grad()
    def _numbers(self) -> dict[str, dict[str, Any]]:
        rows = {}
        for name, state in self._state()["layers"].items():
            parameter = self._layers[name].parameter() if name in self._layers else None
            if parameter is None or not state["elements"] or why_unreadable(parameter):
                continue
            values = local_part(parameter).detach()
            start = state["changes"][0][1] if state["changes"] else None
            ratios = [moved / size for moved, size in state["changes"] if size and math.isfinite(moved / size)]
            if not _is_large(start, parameter):
                ratios = []
            rows[name] = {
                "ratio": sum(ratios) / len(ratios) if ratios else None,
                "first_ratio": ratios[0] if ratios else None,
                "steps": len(state["changes"]),
                "weight_start": start,
                "weight": state["weight"],
                "missing": state["missing"],
                "present": state["present"] if state["owned"] else state["loose"],
                "nonzero": state["nonzero"] or (not state["owned"] and _has_one(state)),
                "moved": state["moved"],
                "cleared": state["cleared"],
                "uncleared": state["uncleared"],
                "against": state["against"],
                "equal_rows": float(self._equal_rows(self._layers[name], values)),
                "equal_rows_start": state["equal"],
                "nonfinite": 0 if math.isfinite(state["weight"]) else int((~torch.isfinite(values)).sum()),
                "registered": self._layers[name].registered,
                "trainable": parameter.requires_grad,
                "owned": state["owned"],
                "stepped": self._stepped,
                "learning_rate": state["rate"],
                "gradient_left": _is_left(parameter.grad),
            }
        return rows

    def _state(self) -> dict[str, Any]:
        for owner in self._owners.values():
            self._take_in(owner, wait=True)
        layers = {}
        for name, layer in self._layers.items():
            before = self._restored.get(name, _NOTHING)
            equal = None if layer.equal is None else float(layer.equal)
            mark = before["fingerprint"] if layer.fingerprint is None else int(layer.fingerprint)
            layers[name] = {
                "changes": [*before["changes"], *([float(moved), float(size)] for moved, size in layer.changes)],
                **_weight(layer, before),
                **{key: before[key] + int(getattr(layer, key)) for key in _COUNTS},
                "nonzero": before["nonzero"] or layer.nonzero,
                "delivered": before["delivered"] or layer.delivered,
                "owned": before["owned"] or layer.owned,
                "rate": before["rate"] if layer.rate is None else float(layer.rate),
                "equal": before["equal"] if before["equal"] is not None else equal,
                "fingerprint": mark,
                "moved": before["moved"] if mark is None else _is_other(layer, mark),
            }
        return {"layers": layers, "stepped": self._stepped}

    def _load_state(self, state: Mapping[str, Any]) -> None:
        kept = {"moved": None, "weight": None, "elements": 0}  # they are those of the end of the window
        self._restored = {name: {**layer, **kept} for name, layer in state["layers"].items()}
        self._stepped = bool(state["stepped"])

    def _unite(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Steps are the same in all processes: what the first one saw counts, and what any saw of a shard."""
        self._begin()
        self._load_state(states[0])
        for name, layer in self._restored.items():
            others = [state["layers"][name] for state in states if name in state["layers"]]
            layer |= {key: any(other[key] for other in others) for key in ("nonzero", "delivered")}
            layer["moved"] = any(other["moved"] for other in others) if layer["fingerprint"] is not None else None
            layer["fingerprint"] = None
            sharded = name in self._layers and self._layers[name].sharded
            layer |= _whole(others) if sharded else {key: others[0][key] for key in ("weight", "elements")}


_COUNTS = ("missing", "present", "loose", "cleared", "uncleared", "against")
_NOTHING: dict[str, Any] = {
    "changes": [], "weight": None, "elements": 0, **dict.fromkeys(_COUNTS, 0), "nonzero": False,
    "delivered": False, "owned": False, "rate": None, "equal": None, "fingerprint": None, "moved": None,
}  # fmt: skip


def _watch_delivery(layer: _Layer, collector: UpdateCollector) -> None:
    """Notes the gradient that the next backward through a forward, which has just ended, brings to a weight.

    The hook is on the node of the graph that adds to the weight's gradient, and goes with the graph: a weight that the
    forward did not use has no such node, and a loop that asks for gradients by `torch.autograd.grad` does not use it.
    """
    parameter, own, told = layer.parameter(), weakref.ref(layer), weakref.ref(collector)
    if parameter is None or not parameter.requires_grad or why_unreadable(parameter):
        return

    def note(*_: object) -> None:
        watched, collector = own(), told()
        if watched is not None and collector is not None:
            with guarded(collector, "gradients without a step"):
                watched.delivered = True
        handle.remove()

    with torch.enable_grad():
        handle = get_gradient_edge(parameter).node.register_hook(note)


def _weight(layer: _Layer, before: Mapping[str, Any]) -> dict[str, Any]:
    """Mean absolute weight, and number of elements, at the end of the window: of this process, or of all if known."""
    parameter = layer.parameter()
    if before["weight"] is not None or parameter is None or why_unreadable(parameter):
        return {"weight": before["weight"], "elements": before["elements"]}
    values = local_part(parameter).detach()
    return {"weight": float(values.abs().mean()) if values.numel() else 0.0, "elements": values.numel()}


def _whole(shards: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The numbers of a weight of which every process holds a part: parts weigh by their size."""
    sizes = [shard["elements"] for shard in shards]
    total = max(sum(sizes), 1)
    held = [(shard, size) for shard, size in zip(shards, sizes, strict=True) if size]
    steps = min((len(shard["changes"]) for shard, _ in held), default=0)
    changes = [
        [sum(shard["changes"][step][part] * size for shard, size in held) / total for part in (0, 1)]
        for step in range(steps)
    ]
    return {"weight": sum(shard["weight"] * size for shard, size in held) / total, "elements": sum(sizes),
            "changes": changes}  # fmt: skip


def _is_other(layer: _Layer, mark: int | None) -> bool | None:
    """Whether a weight is another than its fingerprint says; None without one."""
    parameter = layer.parameter()
    if parameter is None or mark is None or why_unreadable(parameter):
        return None
    return int(fingerprint(local_part(parameter))) != mark


def _is_large(start: float | None, weight: Tensor) -> bool:
    """Whether a mean absolute weight is one that a ratio can be formed to."""
    fan_in = max(weight.numel() // max(weight.shape[0], 1), 1)
    return start is not None and start >= _SMALL / math.sqrt(fan_in)


def _has_one(state: Mapping[str, Any]) -> bool:
    """Whether a weight that no optimizer owns had a gradient; if it is 0 matters only where it would be used."""
    return state["loose"] > 0 or state["delivered"]


def _is_left(gradient: Tensor | None) -> bool:
    """Whether a gradient is there and not zero."""
    if gradient is None or why_unreadable(gradient):
        return False
    return bool(peaks([local_part(gradient)])[0] != 0)
