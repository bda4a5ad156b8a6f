"""The magnitude of what goes into the model and comes out of each layer, at every forward."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ignite_act.collect.passes import PassCollector, is_sample
from ignite_act.stats import ABSENT, Distribution, Magnitude

INPUT, OUTPUT = "input", "output"


class SignalCollector(PassCollector):
    """Largest absolute value of the input, of every layer's output and of the model's, over all forwards.

    A layer is a module that owns a weight of two or more dimensions. A row holds ``first_max_abs`` (of the window's
    first forward), ``mean_max_abs`` (mean over the forwards), ``max_abs`` (over all of them), ``calls``, ``nonfinite``
    (forwards with a NaN or an infinity, left out of the others) and ``first_nonfinite_iteration``. The row of the
    input holds ``mean`` and ``std`` besides (population, over a few forwards), and whether it is ``continuous``: whole
    numbers of a type that has no others are tokens.
    """

    _names: dict[str, int]
    _pending: dict[str, Tensor]  # what came out in the forward under way
    _first: dict[str, Tensor]
    _peaks: Magnitude | None
    _forwards: int
    _input: Distribution

    def __init__(self, model: nn.Module) -> None:
        self._names: dict[str, int] = {}
        super().__init__(model)
        self._begin()

    def begin_pass(self) -> None:
        """Takes in what an earlier forward left, which may have been broken off."""
        self._flush()

    def after_layer(self, name: str, given: Tensor | None, result: Tensor) -> None:
        """Notes the largest absolute value that came out."""
        self._note(name, result)

    def after_model(self, given: Tensor | None, result: Tensor) -> None:
        """Notes input and output, and takes in the forward."""
        self._forwards += 1
        if given is not None and given.is_floating_point():
            self._note(INPUT, given)
            if is_sample(self._forwards):
                self._input.update(given)
        elif given is not None:
            self._tokens = True
        self._note(OUTPUT, result)
        self._flush()

    def _note(self, name: str, values: Tensor) -> None:
        if not values.is_floating_point() or values.numel() == 0:
            return
        low, high = torch.aminmax(values.detach())  # NaN if there is one
        known = self._pending.get(name)
        peak = torch.maximum(-low, high)
        self._pending[name] = peak if known is None else torch.maximum(known, peak)

    def _flush(self) -> None:
        if not self._pending:
            return
        for name in self._pending:
            self._names.setdefault(name, len(self._names))
        device = next(iter(self._pending.values())).device
        absent = torch.full((), ABSENT, device=device)
        rows = [self._pending.get(name, absent) for name in self._names]
        peaks = torch.stack([row.to(device, torch.float32) for row in rows])
        iteration = self.clock() or max(self._forwards, 1)
        if self._peaks is None:
            self._peaks = Magnitude(len(rows), device)
        known = len(self._peaks.total)
        if known < len(rows):  # a layer that no earlier forward has called
            self._peaks = self._peaks.rearranged([*range(known), *[None] * (len(rows) - known)])
        self._peaks.update(peaks, peaks, iteration)
        self._first = self._first or dict(zip(self._names, peaks, strict=True))
        self._pending = {}

    def _begin(self) -> None:
        super()._begin()
        self._forget()

    def _forget(self) -> None:
        self._names = {}
        self._pending = {}
        self._first = {}
        self._peaks = None
        self._forwards = 0
        self._input = Distribution()
        self._tokens = False

    def _numbers(self) -> dict[str, dict[str, Any]]:
        self._flush()
        numbers = self._peaks.compute() if self._peaks is not None else []
        first = {name: float(value) for name, value in self._first.items()}
        rows = {
            name: {
                "first_max_abs": first.get(name, math.nan),
                "mean_max_abs": row["mean_abs"],
                "max_abs": row["max_abs"],
                "calls": row["steps"],
                "nonfinite": row["nonfinite"],
                "first_nonfinite_iteration": row["first_nonfinite_iteration"],
            }
            for name, row in zip(self._names, numbers, strict=True)
        }
        if INPUT in rows:
            given = self._input.compute()
            rows[INPUT] |= {"mean": given["mean"], "std": given["std"], "continuous": not self._tokens}
        order = (INPUT, *(name for name in rows if name not in (INPUT, OUTPUT)), OUTPUT)
        return {name: rows[name] for name in order if name in rows}

    def _state(self) -> dict[str, Any]:
        self._flush()
        return {
            "names": list(self._names),
            "peaks": self._peaks.state_dict() if self._peaks is not None else {},
            "first": {name: float(value) for name, value in self._first.items()},
            "forwards": self._forwards,
            "input": self._input.state_dict(),
            "tokens": self._tokens,
            "precedence": self._precedence,
        }

    def _load_state(self, state: Mapping[str, Any]) -> None:
        self._take_over(state, _restored(state, state["names"]))

    def _unite(self, states: Sequence[Mapping[str, Any]]) -> None:
        names = list(dict.fromkeys(name for state in states for name in state["names"]))
        peaks = [item for state in states if (item := _restored(state, names)) is not None]
        united = Magnitude(len(names))
        united.unite(peaks)
        inputs = Distribution()
        for state in states:
            inputs.merge(Distribution.from_state_dict(state["input"]))
        first = {name: value for state in reversed(states) for name, value in state["first"].items()}
        merged = {**states[0], "names": names, "first": first, "tokens": any(state["tokens"] for state in states)}
        self._take_over({**merged, "input": inputs.state_dict()}, united if peaks else None)

    def _take_over(self, state: Mapping[str, Any], peaks: Magnitude | None) -> None:
        self._names = {name: index for index, name in enumerate(state["names"])}
        self._peaks = peaks
        self._first = {name: torch.tensor(value) for name, value in state["first"].items()}
        self._forwards = int(state["forwards"])
        self._input = Distribution.from_state_dict(state["input"])
        self._tokens = bool(state["tokens"])
        self._precedence = int(state["precedence"])
        self._pending = {}


def _restored(state: Mapping[str, Any], names: Sequence[str]) -> Magnitude | None:
    """The peaks of a state, in the order of some names."""
    if not state["peaks"]:
        return None
    peaks = Magnitude(len(state["names"]))
    peaks.load_state_dict(state["peaks"])
    rows = {name: row for row, name in enumerate(state["names"])}
    return peaks.rearranged([rows.get(name) for name in names])
