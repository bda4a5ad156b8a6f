"""The magnitude of what goes into the model and comes out of each layer, at every forward."""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

import torch
from torch import Tensor, nn

from ignite_act.collect.backward import BackwardSignal
from ignite_act.collect.passes import ModelCall, PassCollector, Place, is_sample
from ignite_act.internals import local_part, why_unreadable
from ignite_act.stats import ABSENT, Distribution, Magnitude, largest
from ignite_act.stats.base import on_device
from ignite_act.stats.magnitude import stacked, totals_and_maxima

INPUT, OUTPUT = "input", "output"


class Origin(TypedDict):
    """Where the first output arose that is not finite.

    Attributes:
        weight: whether the layer owned a parameter that was not finite.
        module: the module that made it of finite numbers; empty if it was none.
        behind, ahead: the calls of modules between which it arose otherwise; ``behind`` is empty if there was none.
    """

    weight: bool
    module: str
    behind: str
    ahead: str


class _Reading(NamedTuple):
    """What one call put out: sum and maximum of the absolute values, as ``()``, and how many there are."""

    total: Tensor
    peak: Tensor
    elements: int


class SignalCollector(PassCollector):
    """Absolute values of the input, of every layer's output and of the model's, at every call.

    A layer is a module that owns a weight of two or more dimensions. A row holds ``mean_abs`` (mean over the calls of
    mean(\\|x\\|)), ``max_abs`` (over all of them), ``first_max_abs`` (of the window's first forward, 0 where that did
    not call the layer), ``calls``, ``nonfinite`` (calls with a NaN or an infinity, left out of the others),
    ``first_nonfinite_iteration``, and of layers ``backward``: the backward signal of a few forwards (see
    `collect.backward`), None where no gradient came back. The row of the input holds ``mean`` and ``std`` besides
    (population, over a few forwards), and whether it is ``continuous``: whole numbers of a type that has no others are
    tokens.

    A layer whose output was not finite, or the model's, has ``origin``: of the first such call, see `Origin`. It is
    None elsewhere, and on a GPU, where looking would be waiting.
    """

    _names: dict[str, int]
    _waiting: dict[int, _Reading]  # values of the forward under way that cannot be read in one pass
    _first: Tensor | None  # largest values of the first forward
    _sizes: Magnitude | None
    _forwards: int
    _iteration: int
    _input: Distribution
    _backward: BackwardSignal
    _origins: dict[str, Origin]
    _others: dict[str, Tensor]  # inputs beside the data -> their largest absolute value in the first forward
    _behind: str  # the layer that was called last, and what has been called since
    _parts: list[tuple[str, weakref.ref[Tensor] | None, weakref.ref[Tensor]]]

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._begin()

    def begin_pass(self) -> bool:
        """Every layer is wanted."""
        self._look_at_the_clock()
        self._following = is_sample(self._forwards + 1)
        self._behind, self._parts = "", []
        return True

    def after_layer(self, place: Place, given: Tensor | None, result: Tensor) -> None:
        """Reads what came out, be it of a part that is called by itself."""
        if not self._pass_tap.in_pass:
            self._look_at_the_clock()
        name = place.name
        self._read(name, result)
        if self._is_new_break(name):
            self._origins[name] = self._origin(name, place.module(), given)
        self._behind, self._parts = name, []
        if self._following and result.is_floating_point() and result.numel():
            self._backward.follow(self, name, result)

    def after_part(self, name: str, given: Tensor | None, result: Tensor) -> None:
        """Remembers what was called since the last layer."""
        if self._pass_tap.in_pass and result.is_cpu:
            before = None if given is None or given is result else weakref.ref(given)
            self._parts.append((name, before, weakref.ref(result)))

    def after_model(self, call: ModelCall) -> None:
        """Reads input and outputs, and ends the forward."""
        self._forwards += 1
        self._following = False
        given = _data_among(call.inputs)
        if given is None:
            self.skip("input", "no tensor went into the model")
        elif given.is_floating_point() and not why_unreadable(given):
            self._read(INPUT, given)
            if not self._others:
                others = {place: own for place, own in call.inputs.items() if own is not given and _is_number(own)}
                self._others = {
                    place.partition(".")[2] or place: largest(local_part(own.detach().float()))
                    for place, own in others.items()
                }
            if is_sample(self._forwards):
                self._input.follow(given.device)
                self._input.update(local_part(given))
        else:
            self._tokens = True
        outputs = [tensor for tensor in call.outputs.values() if not why_unreadable(tensor)]
        for tensor in [tensor for tensor in outputs if tensor.ndim] or outputs:
            self._read(OUTPUT, tensor)
        if self._is_new_break(OUTPUT):
            self._origins[OUTPUT] = self._origin(OUTPUT, None, None)
        self._behind, self._parts = "", []
        self._take_in()
        if self._first is None and self._sizes is not None:
            self._first = self._sizes.peaks()

    def _is_new_break(self, name: str) -> bool:
        """Whether the last call is the first of the window that was not finite, as far as the host knows."""
        row = self._names.get(name)
        if row is None or self._sizes is None or name in self._origins:
            return False
        if row in self._waiting:
            total = self._waiting[row].total
            return total.is_cpu and not math.isfinite(total.numpy())  # the sum is finite only if every value is
        return row < self._sizes.rows and bool(self._sizes.is_broken(row))

    def _origin(self, name: str, module: nn.Module | None, given: Tensor | None) -> Origin:
        """Looks at what was called since the last layer, as far as autograd or the model still holds it."""
        if module is not None and any(map(_is_broken, module.parameters(recurse=False))):
            return Origin(weight=True, module=name, behind="", ahead="")
        behind = self._behind
        for part, before, result in self._parts:
            entered, made = before() if before is not None else None, result()
            if entered is not None and _is_broken(entered):
                return Origin(weight=False, module="", behind=behind, ahead=part)
            if made is not None and _is_broken(made):
                return Origin(weight=False, module=part, behind="", ahead="")
            behind = behind if made is None else part
        if name == OUTPUT or (given is not None and _is_broken(given)):
            return Origin(weight=False, module="", behind=behind, ahead=name)
        return Origin(weight=False, module=name, behind="", ahead="")

    def _look_at_the_clock(self) -> None:
        now = self.clock() or self._forwards + 1
        if now != self._iteration:
            self._take_in()  # what a forward has left that was broken off
            self._iteration = now

    def _read(self, name: str, values: Tensor) -> None:
        if not values.is_floating_point() or values.numel() == 0:
            return
        values = local_part(values)
        if values.numel() == 0:
            return
        if self._sizes is None:
            self._sizes = Magnitude(self._room(), values.device)
        row = self._names.setdefault(name, len(self._names))
        if row < self._sizes.rows and self._sizes.read_one(row, values, self._iteration):
            return
        if row in self._waiting:
            self._take_in()
        [(total, peak)] = totals_and_maxima([values])
        self._waiting[row] = _Reading(total, peak, values.numel())

    def _take_in(self) -> None:
        """Adds the calls that are waiting."""
        if not self._waiting or self._sizes is None:
            return
        if len(self._names) > self._sizes.rows:  # layers that were not there when the window began
            known = self._sizes.rows
            self._sizes = self._sizes.rearranged([*range(known), *[None] * (2 * len(self._names) - known)])
        totals, peaks, sizes = zip(*self._waiting.values(), strict=True)
        device = totals[-1].device
        if self._sizes.total.device != device:
            self._sizes.follow(device)
        rows, elements = on_device([list(self._waiting), sizes], device)
        numbers = torch.stack([stacked(totals, device) / elements, stacked(peaks, device).to(self._sizes.total.dtype)])
        both = torch.full((2, len(self._sizes.total)), ABSENT, dtype=numbers.dtype, device=device)
        both[:, rows] = numbers
        self._sizes.update(both[0], both[1], self._iteration)
        self._waiting = {}

    def _room(self) -> int:
        """Rows for all layers, the input and the output."""
        return sum(1 for _ in self.model.modules()) + 2

    def _begin(self) -> None:
        super()._begin()
        self._forget()

    def _forget(self) -> None:
        self._names = {}
        self._waiting = {}
        self._first = None
        self._sizes = None
        self._forwards = 0
        self._iteration = 1
        self._input = Distribution()
        self._others = {}
        self._tokens = False
        self._following = False  # whether the forward under way is looked at on its way back, too
        self._backward = BackwardSignal()
        self._origins = {}
        self._behind, self._parts = "", []

    def _numbers(self) -> dict[str, dict[str, Any]]:
        self._take_in()
        numbers = self._sizes.compute() if self._sizes is not None else []
        first = self._first.tolist() if self._first is not None else []
        first += [0.0] * (len(numbers) - len(first))
        backward = self._backward.compute()
        rows = {
            name: {
                "first_max_abs": first[row],
                "mean_abs": numbers[row]["mean_abs"],
                "max_abs": numbers[row]["max_abs"],
                "calls": numbers[row]["steps"],
                "nonfinite": numbers[row]["nonfinite"],
                "first_nonfinite_iteration": numbers[row]["first_nonfinite_iteration"],
                "backward": backward.get(name),
                "origin": self._origins.get(name),
            }
            for name, row in self._names.items()
        }
        if INPUT in rows:
            given = self._input.compute()
            others = {place: float(value) for place, value in self._others.items()}
            rows[INPUT] |= {
                "mean": given["mean"],
                "std": given["std"],
                "continuous": not self._tokens,
                "others": others,
            }
        order = (INPUT, *(name for name in rows if name not in (INPUT, OUTPUT)), OUTPUT)
        return {name: rows[name] for name in order if name in rows}

    def _find_unseen(self, seen: tuple[str, ...]) -> dict[str, str]:
        unseen = super()._find_unseen(seen)
        if self._pass_tap.compiled:
            unseen.setdefault("layers", self._pass_tap.compiled)
        elif not self._names:
            nothing = "no forward of the model or of one of its layers was seen in this window"
            unseen.setdefault("layers", self._unless_compiled(nothing))
        return unseen

    def _state(self) -> dict[str, Any]:
        self._take_in()
        return {
            "names": list(self._names),
            "sizes": self._sizes.state_dict() if self._sizes is not None else {},
            "first": self._first.cpu().clone() if self._first is not None else None,
            "forwards": self._forwards,
            "input": self._input.state_dict(),
            "others": {place: value.cpu().clone() for place, value in self._others.items()},
            "tokens": self._tokens,
            "backward": self._backward.state_dict(),
            "origins": dict(self._origins),
            "kind": self._kind,
        }

    def _load_state(self, state: Mapping[str, Any]) -> None:
        self._take_over(state, _restored(state, state["names"]))

    def _unite(self, states: Sequence[Mapping[str, Any]]) -> None:
        names = list(dict.fromkeys(name for state in states for name in state["names"]))
        sizes = [item for state in states if (item := _restored(state, names)) is not None]
        united = Magnitude(len(names))
        united.unite(sizes)
        inputs = Distribution()
        for state in states:
            inputs.merge(Distribution.from_state_dict(state["input"]))
        firsts = [_first_of(state, names) for state in states if state["first"] is not None]
        first = torch.stack(firsts).amax(0) if firsts else None
        tokens = any(state["tokens"] for state in states)
        backward = BackwardSignal.united(state["backward"] for state in states).state_dict()
        origins = {name: own for state in reversed(states) for name, own in state["origins"].items()}
        merged = {**states[0], "names": names, "first": first, "tokens": tokens, "backward": backward}
        merged["origins"] = origins
        self._take_over({**merged, "input": inputs.state_dict()}, united if sizes else None)

    def _take_over(self, state: Mapping[str, Any], sizes: Magnitude | None) -> None:
        self._names = {name: index for index, name in enumerate(state["names"])}
        self._sizes = sizes
        self._first = state["first"]
        self._forwards = int(state["forwards"])
        self._input = Distribution.from_state_dict(state["input"])
        self._others = dict(state["others"])
        self._tokens = bool(state["tokens"])
        self._backward = BackwardSignal.united([state["backward"]])
        self._origins = dict(state["origins"])
        self._kind = int(state["kind"])
        self._waiting = {}


def _is_broken(tensor: Tensor) -> bool:
    if why_unreadable(tensor) or not (tensor.is_floating_point() or tensor.is_complex()):
        return False
    return not bool(local_part(tensor).detach().isfinite().all())


def _is_number(tensor: Tensor) -> bool:
    return tensor.dtype != torch.bool and not tensor.is_complex() and tensor.numel() > 0 and not why_unreadable(tensor)


def _data_among(inputs: Mapping[str, Tensor]) -> Tensor | None:
    """The tensor that is the data: the largest, the first of several; masks and numbers of rows are smaller or bool."""
    numbers = [tensor for tensor in inputs.values() if tensor.dtype != torch.bool]
    return max(numbers or inputs.values(), key=Tensor.numel, default=None)


def _restored(state: Mapping[str, Any], names: Sequence[str]) -> Magnitude | None:
    """The numbers of a state, in the order of some names."""
    if not state["sizes"]:
        return None
    sizes = Magnitude(len(state["sizes"]["total"]))
    sizes.load_state_dict(state["sizes"])
    rows = {name: row for row, name in enumerate(state["names"])}
    return sizes.rearranged([rows.get(name) for name in names])


def _first_of(state: Mapping[str, Any], names: Sequence[str]) -> Tensor:
    """The largest values of a state's first forward, in the order of some names."""
    values = dict(zip(state["names"], state["first"].tolist(), strict=False))
    return torch.tensor([values.get(name, 0.0) for name in names])
