"""What optimizer steps do to the weight of each layer, and which weights they do nothing to."""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ignite_act.collect.names import clean
from ignite_act.collect.optimizers import StepTap
from ignite_act.collect.passes import PassCollector, is_sample
from ignite_act.stats import change, largest

_CLOSE = 1e-5
"""Rows are equal if their sums differ by less than this share of the largest."""
_MOST_ROWS = 1024
_TABLES = (nn.Embedding, nn.EmbeddingBag)
_CHECKED = 3
"""Layers whose gradients are looked at to see whether they were cleared."""
_NOTHING: dict[str, Any] = {"ratios": [], "start": None, "counts": {}, "owned": False, "rate": None, "equal": None}
_COUNTS = ("missing", "zero", "present", "uncleared", "cleared", "against")


@dataclass
class _Layer:
    """A weight of the model and what was seen of it in a window.

    Attributes:
        parameter: the weight.
        has_units: whether its rows are units, which those of an embedding are not.
        ratios, start: of the steps looked at: update ratio; mean absolute weight before the first of them.
        counts: how often the gradient was missing, exactly zero, neither; whether it had been cleared before a
            backward or not; steps that went along the gradient instead of against it.
        owned: whether an optimizer that made a step owns it.
        rate: its learning rate at the last step looked at.
        equal: share of its rows that equal another one, before the first step.
    """

    parameter: weakref.ref[nn.Parameter]
    has_units: bool = True
    ratios: list[Tensor] = field(default_factory=list)
    start: Tensor | None = None
    counts: dict[str, Tensor | int] = field(default_factory=lambda: dict.fromkeys(_COUNTS, 0))
    owned: bool = False
    rate: Tensor | float | None = None
    equal: Tensor | None = None


@dataclass
class _Owner:
    """An optimizer that makes steps."""

    steps: int = 0
    armed: bool = False  # whether the gradients are watched between its last step and its next one
    looked: bool = False  # whether a backward began in between
    before: dict[str, Tensor] = field(default_factory=dict)
    left: dict[str, Tensor] = field(default_factory=dict)  # what a backward found of the gradients, see `_is_left`
    used: dict[str, Tensor] = field(default_factory=dict)  # the same at the step before: 0 cannot be told from cleared


class UpdateCollector(PassCollector):
    """Update ratio of every layer, and whether its gradient arrives, is cleared and is used.

    In a few optimizer steps of the window (of each optimizer, see `is_sample`) the weights are compared before
    and after. A row holds

    - ``ratio``: mean(\\|W_after - W_before\\|) / mean(\\|W_before\\|), mean over the steps looked at, ``first_ratio``
      of the first one, ``steps`` how many; None where there was none, or the weight was zero;
    - ``weight_start``, ``weight``: mean(\\|W\\|) before the first of these steps and at the end of the window;
    - ``missing``, ``zero``, ``present``: how often the gradient was None, exactly zero, or neither at a step;
    - ``cleared``, ``uncleared``: how often it had, or had not, been cleared before the first backward after a step;
    - ``against``: steps that went up along the gradient (a maximised objective);
    - ``equal_rows``: share of the weight's rows that equal another row (0 of an embedding, whose rows are no units),
      and ``equal_rows_start``, before the first step; ``nonfinite``: NaN and infinite weights;
    - ``trainable``; ``owned``: whether an optimizer that made a step owns it; ``stepped``: whether one that owns
      anything of the model made a step; ``learning_rate`` there, None where the optimizer has none; ``gradient_left``:
      whether it has a gradient at the end of the window.

    Source: the ratio as a measure of the learning rate, Karpathy, CS231n notes 2015; Bottou 2012.
    """

    _stepped: bool

    def __init__(self, model: nn.Module) -> None:
        self._tap = StepTap(self)
        super().__init__(model)
        self._begin()

    # What the step tap calls.

    def before_step(self, optimizer: Optimizer) -> None:
        """Looks at the gradients, and keeps the weights of a step that is looked at."""
        with self.timed(), torch.no_grad():
            owner, owned = self._owner(optimizer)
            if not owned:
                self._stepped = self._stepped or self._owns_any(optimizer)
                return
            self._stepped = True
            owner.steps += 1
            if owner.armed and owner.looked:
                for name, left in owner.left.items():
                    used = owner.used.get(name, 1)
                    self._layers[name].counts["uncleared"] += left * used
                    self._layers[name].counts["cleared"] += (1 - left) * used
            owner.armed = False
            if is_sample(owner.steps):
                self._look_at_gradients(owned)
                for name, rate in self._rates(optimizer).items():
                    self._layers[name].rate = rate
                owner.before = {
                    name: parameter.detach().clone() for name, parameter in owned.items() if parameter.grad is not None
                }

    def after_step(self, optimizer: Optimizer) -> None:
        """Compares the weights with those before the step."""
        with self.timed(), torch.no_grad():
            owner = self._owners.get(optimizer)
            if owner is None or not owner.before:
                return
            for name, before in owner.before.items():
                layer = self._layers[name]
                parameter = layer.parameter()
                if parameter is None:
                    continue
                moved, size, along = change(before, parameter.detach(), parameter.grad)
                layer.ratios.append(moved / size)
                if layer.start is None:
                    layer.start, layer.equal = size, self._equal_rows(layer, before)
                layer.counts["against"] += (along > 0).long()
            watched = list(owner.before)[:_CHECKED]
            owner.used = {
                name: _is_left(p.grad) for name in watched if (p := self._layers[name].parameter()) is not None
            }
            owner.before = {}
            owner.armed, owner.looked, owner.left = True, False, {}

    def skipped_step(self, optimizer: Optimizer) -> None:
        """A loss scaler left a step out: nothing was done to the weights."""

    # What the pass tap calls.

    def after_model(self, given: Tensor | None, result: Tensor) -> None:
        """Waits for the backward that begins at this output, if it is to be seen what is left of older gradients."""
        if result.requires_grad and any(owner.armed for owner in self._owners.values()):
            own = weakref.ref(self)

            def backward(gradient: Tensor) -> None:
                collector = own()
                if collector is not None:
                    collector.before_backward()

            result.register_hook(backward)

    def before_backward(self) -> None:
        """Notes which gradients of armed optimizers are there before anything is added to them."""
        with self.timed(), torch.no_grad():
            for optimizer, owner in self._owners.items():
                if not owner.armed:
                    continue
                names = list(self._owned(optimizer))[:_CHECKED]
                for name in names:
                    layer = self._layers.get(name)
                    parameter = layer.parameter() if layer is not None else None
                    if parameter is None:
                        continue
                    left = _is_left(parameter.grad)
                    # cleared once is cleared: the other gradients may belong to the backward of another optimizer
                    owner.left[name] = torch.minimum(owner.left[name], left) if name in owner.left else left
                owner.looked = True

    def _look_at_gradients(self, owned: Mapping[str, nn.Parameter]) -> None:
        for name, layer in self._layers.items():
            parameter = layer.parameter()
            if parameter is None or not parameter.requires_grad or (name not in owned and layer.owned):
                continue
            if parameter.grad is None:
                layer.counts["missing"] += 1
            else:
                there = _is_left(parameter.grad)
                layer.counts["present"] += there
                layer.counts["zero"] += 1 - there

    def _owner(self, optimizer: Optimizer) -> tuple[_Owner, dict[str, nn.Parameter]]:
        owner = self._owners.setdefault(optimizer, _Owner())
        owned = self._owned(optimizer)
        for name in owned:
            self._layers[name].owned = True
        return owner, owned

    def _owned(self, optimizer: Optimizer) -> dict[str, nn.Parameter]:
        """The layers of an optimizer; looked up again only after its parameters have changed."""
        groups = [len(group["params"]) for group in optimizer.param_groups]
        known = self._owned_by.get(optimizer)
        if known is None or known[0] != groups:
            names = {id(layer.parameter()): name for name, layer in self._layers.items()}
            parameters = (p for group in optimizer.param_groups for p in group["params"])
            known = (groups, {names[id(p)]: weakref.ref(p) for p in parameters if id(p) in names})
            self._owned_by[optimizer] = known
        return {name: parameter for name, own in known[1].items() if (parameter := own()) is not None}

    def _owns_any(self, optimizer: Optimizer) -> bool:
        """Whether an optimizer owns a parameter of the model, be it a bias."""
        mine = {id(parameter) for parameter in self.model.parameters()}
        return any(id(parameter) in mine for group in optimizer.param_groups for parameter in group["params"])

    def _rates(self, optimizer: Optimizer) -> dict[str, Any]:
        names = {id(layer.parameter()): name for name, layer in self._layers.items()}
        groups = ((id(p), group.get("lr")) for group in optimizer.param_groups for p in group["params"])
        return {names[key]: rate for key, rate in groups if key in names}

    def _equal_rows(self, layer: _Layer, weight: Tensor) -> Tensor:
        return equal_rows(weight) if layer.has_units else torch.zeros(())

    # The window.

    def _watch(self) -> None:
        super()._watch()
        self._tap.open()

    def _unwatch(self) -> None:
        super()._unwatch()
        self._tap.close()

    def _begin(self) -> None:
        super()._begin()
        owners = {id(p): module for module in self.model.modules() for p in module.parameters(recurse=False)}
        self._layers = {
            clean(name).removesuffix(".weight"): _Layer(
                weakref.ref(parameter), not isinstance(owners[id(parameter)], _TABLES)
            )
            for name, parameter in self.model.named_parameters()
            if not isinstance(parameter, nn.parameter.UninitializedParameter) and parameter.ndim > 1
        }
        self._owners: weakref.WeakKeyDictionary[Optimizer, _Owner] = weakref.WeakKeyDictionary()
        self._owned_by: weakref.WeakKeyDictionary[Optimizer, tuple[list[int], dict[str, weakref.ref[nn.Parameter]]]] = (
            weakref.WeakKeyDictionary()
        )
        self._restored: dict[str, dict[str, Any]] = {}
        self._stepped = False

    def _forget(self) -> None:
        """Steps are steps, whatever the mode of the forward."""

    @torch.no_grad()
    def _numbers(self) -> dict[str, dict[str, Any]]:
        rows = {}
        for name, state in self._state()["layers"].items():
            parameter = self._layers[name].parameter() if name in self._layers else None
            if parameter is None or parameter.numel() == 0:
                continue
            ratios = [ratio for ratio in state["ratios"] if math.isfinite(ratio)]
            values, weight = parameter.detach(), float(parameter.detach().abs().mean())
            rows[name] = {
                "ratio": sum(ratios) / len(ratios) if ratios else None,
                "first_ratio": ratios[0] if ratios else None,
                "steps": len(state["ratios"]),
                "weight_start": state["start"],
                "weight": weight,
                **state["counts"],
                "equal_rows": float(self._equal_rows(self._layers[name], values)),
                "equal_rows_start": state["equal"],
                "nonfinite": 0 if math.isfinite(weight) else int((~torch.isfinite(values)).sum()),
                "trainable": parameter.requires_grad,
                "owned": state["owned"],
                "stepped": self._stepped,
                "learning_rate": state["rate"],
                "gradient_left": parameter.grad is not None and bool(_is_left(parameter.grad)),
            }
        return rows

    def _state(self) -> dict[str, Any]:
        layers = {}
        for name, layer in self._layers.items():
            before = self._restored.get(name, _NOTHING)
            start = None if layer.start is None else float(layer.start)
            rate = before["rate"] if layer.rate is None else float(layer.rate)
            equal = None if layer.equal is None else float(layer.equal)
            layers[name] = {
                "ratios": [*before["ratios"], *(float(ratio) for ratio in layer.ratios)],
                "start": before["start"] if before["start"] is not None else start,
                "counts": {key: int(value) + before["counts"].get(key, 0) for key, value in layer.counts.items()},
                "owned": before["owned"] or layer.owned,
                "rate": rate,
                "equal": before["equal"] if before["equal"] is not None else equal,
            }
        return {"layers": layers, "stepped": self._stepped}

    def _load_state(self, state: Mapping[str, Any]) -> None:
        self._restored = {name: dict(layer) for name, layer in state["layers"].items()}
        self._stepped = bool(state["stepped"])

    def _unite(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Steps are the same in all processes: what the first one saw counts."""
        self._begin()
        self._load_state(states[0])


def equal_rows(weight: Tensor) -> Tensor:
    """Share of the rows (units, output channels) that equal another one but for rounding; 0 for a single row.

    Rows that are equal have equal sums of any kind, and rows that are not differ in one of three sums with any weights:
    the rows are never compared themselves.

    Args:
        weight: ``(units, ...)``; of a large one only the first rows are looked at.

    Returns:
        ``()``; 0 if there is a NaN or an infinity.
    """
    rows = weight.detach()[:_MOST_ROWS].flatten(1).float()
    if len(rows) < 2:
        return torch.zeros((), device=weight.device)
    sums = rows @ _probes(rows.shape[1], rows.device)
    size = sums.abs().amax().clamp(min=torch.finfo(torch.float32).tiny)
    ordered = sums[sums[:, 0].argsort()]
    same = ((ordered[1:] - ordered[:-1]).abs() <= _CLOSE * size).all(1)
    never = same.new_zeros(1)
    equal = (torch.cat([same, never]) | torch.cat([never, same])).float().mean()
    return torch.where(torch.isfinite(size), equal, 0.0)


@functools.lru_cache(maxsize=64)
def _probes(length: int, device: torch.device) -> Tensor:
    """Three fixed vectors of random numbers, ``(length, 3)``; torch's random state stays as it is."""
    return torch.randn(length, 3, generator=torch.Generator().manual_seed(length)).to(device)


def _is_left(gradient: Tensor | None) -> Tensor:
    """1 if a gradient is there and not zero, as ``()``, int64."""
    if gradient is None or gradient.numel() == 0:
        return torch.zeros((), dtype=torch.int64)
    values = gradient.coalesce().values() if gradient.layout == torch.sparse_coo else gradient
    return (largest(values) != 0).long() if values.numel() else torch.zeros((), dtype=torch.int64)
