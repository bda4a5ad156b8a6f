"""The distribution of the activations of every site."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ignite_act.activations import Activation, Intervals
from ignite_act.collect.forward import SiteCall
from ignite_act.collect.names import Patterns
from ignite_act.collect.sites import SiteCollector
from ignite_act.stats import Distribution


class ActivationCollector(SiteCollector[Distribution]):
    """Count, mean, population deviation, extremes, zero and saturated fraction, histogram of every site's output.

    A value is saturated where ``|f'(z)|`` is below 5 % of its maximum (`Activation.saturated_intervals`); where that
    is not known (a hand-written module, PReLU's learned slope) none is. Arguments: see `SiteCollector`.
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

    def _make(self, call: SiteCall) -> Distribution:
        return Distribution(call.activation.dtype, call.activation.device)

    def _update(self, statistic: Distribution, call: SiteCall) -> None:
        intervals: Intervals = ()
        if call.activation_fn is not None and call.pre_activation is not None:
            intervals = call.activation_fn.saturated_intervals(call.parameters)
        saturated = (call.pre_activation, intervals) if call.pre_activation is not None and intervals else None
        statistic.update(call.activation, saturated=saturated)

    def _row(self, name: str, statistic: Distribution) -> dict[str, Any]:
        return {**statistic.compute()}

    def _restore(self, state: Mapping[str, Any]) -> Distribution:
        return Distribution.from_state_dict(state)
