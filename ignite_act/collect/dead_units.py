"""Units whose derivative is exactly zero on every sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ignite_act.collect.calls import SiteCall
from ignite_act.collect.names import Patterns
from ignite_act.collect.sites import SiteCollector
from ignite_act.stats import UnitLife


class DeadUnitCollector(SiteCollector[UnitLife]):
    """Dead units of every site, exactly, over every sample of the window.

    A unit is dead if the derivative of its activation function is exactly zero at every sample: for ReLU, if its
    output is 0 on all of them. Where the derivative is not known, it is dead if its output is one and the same number
    at every sample. A unit of a convolution is a channel. A unit that produced NaN is not called dead.

    Args:
        model: the model.
        sites, unit_dim: see `SiteCollector`.
    """

    needs_units = True

    def __init__(
        self, model: nn.Module, *, sites: Patterns = None, unit_dim: int | Mapping[str, int] | None = None
    ) -> None:
        super().__init__(model, sites=sites, unit_dim=unit_dim)
        self._before: dict[str, list[int]] = {}

    def _make(self, call: SiteCall) -> UnitLife:
        axis = self.unit_dim(call)
        units = call.activation.shape[axis] if call.activation.ndim and axis is not None else 1
        return UnitLife(units, call.activation.dtype, call.activation.device)

    def _update(self, statistic: UnitLife, call: SiteCall) -> None:
        fn = call.activation_fn
        flat = None if fn is None else fn.flat_intervals(call.parameters)
        values = call.activation
        if flat and fn is not None and not fn.flat_on_output:
            if call.pre_activation is None:
                flat = None  # overwritten inside a hand-written module: judged by its output
            else:
                values = call.pre_activation
        axis = self.unit_dim(call)
        if axis is not None:
            statistic.update(values.detach(), flat, axis)

    def _row(self, name: str, statistic: UnitLife) -> dict[str, Any]:
        dead = statistic.compute()
        before = set(self._before.get(name, dead))
        return {
            "dead": len(dead),
            "units": statistic.units,
            "fraction": len(dead) / statistic.units,
            "indices": dead,
            "born": len(set(dead) - before),
            "revived": len(before - set(dead)),
        }

    def finish_alone(self, *, partial: bool) -> dict[str, dict[str, Any]]:
        """The numbers of the window; the dead units are remembered for births and revivals in the next one."""
        rows = super().finish_alone(partial=partial)
        self._before = {name: row["indices"] for name, row in rows.items()}
        return rows

    def _forget_windows(self) -> None:
        self._before = {}

    def _restore(self, state: Mapping[str, Any]) -> UnitLife:
        return UnitLife.from_state_dict(state)

    def _state(self) -> dict[str, Any]:
        return {**super()._state(), "before": {name: list(indices) for name, indices in self._before.items()}}

    def _load_state(self, state: Mapping[str, Any]) -> None:
        super()._load_state(state)
        self._before = {name: list(indices) for name, indices in state["before"].items()}
