"""The distribution of the activations of every site."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ignite_act.activations import Activation, Intervals
from ignite_act.collect.calls import SiteCall
from ignite_act.collect.names import Patterns
from ignite_act.collect.sites import SiteCollector
from ignite_act.stats import Distribution, SaturatedUnits
from ignite_act.stats.base import Statistic


class SiteNumbers(Statistic):
    """The distribution of a site's output, and how often each of its units was saturated."""

    def __init__(self, distribution: Distribution, saturated: SaturatedUnits) -> None:
        self.distribution = distribution
        self.saturated = saturated

    def merge(self, other: SiteNumbers) -> None:
        """Takes in what another one has seen of the same site."""
        self.distribution.merge(other.distribution)
        self.saturated.merge(other.saturated)

    def state_dict(self) -> dict[str, Any]:
        """The state of both."""
        return {"distribution": self.distribution.state_dict(), "saturated": self.saturated.state_dict()}


class ActivationCollector(SiteCollector[SiteNumbers]):
    """Count, mean, population deviation, extremes, zero and saturated fraction, histogram of every site's output.

    A value is saturated where ``|f'(z)|`` is below 5 % of its maximum (`Activation.saturated_intervals`); where that
    is not known (a hand-written module, PReLU's learned slope) none is. Where the axis of the units is not known,
    ``units`` is 0. Arguments: see `SiteCollector`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        sites: Patterns = None,
        every: int = 1,
        unit_dim: int | Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(model, sites=sites, every=every, unit_dim=unit_dim)

    def needs_pre_activation(self, activation_fn: Activation) -> bool:
        """The saturated intervals are intervals of the pre-activation."""
        return True

    def _make(self, call: SiteCall) -> SiteNumbers:
        values = call.activation
        units = SaturatedUnits(self._units_of(call), values.device)
        return SiteNumbers(Distribution(values.dtype, values.device), units)

    def _units_of(self, call: SiteCall) -> int:
        """How many units there are; 0 if their axis is not known."""
        axis = self.unit_dim(call)
        if axis is None:
            return 0
        return call.activation.shape[axis] if call.activation.ndim else 1

    def _update(self, statistic: SiteNumbers, call: SiteCall) -> None:
        intervals: Intervals = ()
        if call.activation_fn is not None and call.pre_activation is not None:
            intervals = call.activation_fn.saturated_intervals(call.parameters)
        saturated = (call.pre_activation, intervals) if call.pre_activation is not None and intervals else None
        statistic.distribution.update(call.activation, saturated=saturated)
        axis = self.unit_dim(call)
        alike = self._units_of(call) == statistic.saturated.units  # a sequence of another length has other units
        if axis is not None and alike and saturated is not None and saturated[0].shape == call.activation.shape:
            statistic.saturated.update(saturated[0], intervals, axis)

    def _row(self, name: str, statistic: SiteNumbers) -> dict[str, Any]:
        units = statistic.saturated
        return {
            **statistic.distribution.compute(),
            "units": units.units,
            "saturated_units": units.compute(),
            "both_ends": units.both_ends,
        }

    def _restore(self, state: Mapping[str, Any]) -> SiteNumbers:
        return SiteNumbers(
            Distribution.from_state_dict(state["distribution"]), SaturatedUnits.from_state_dict(state["saturated"])
        )
