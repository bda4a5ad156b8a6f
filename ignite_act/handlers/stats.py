"""The three diagnostics as Ignite handlers: what each publishes of its collector's numbers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from ignite.engine import Engine
from torch import nn
from torch.optim import Optimizer
from typing_extensions import Self

from ignite_act.collect import ActivationCollector, Collector, Coverage, DeadUnitCollector, GradientCollector
from ignite_act.collect.names import Patterns
from ignite_act.handlers.base import WindowHandler
from ignite_act.recorder import ACTIVATIONS_EVERY


class StatsHandler(WindowHandler):
    """A collector bound to an engine, with one entry in ``engine.state.metrics``."""

    default_name: ClassVar[str]

    def __init__(self, collector: Collector, *, sync: bool) -> None:
        super().__init__([collector])
        self._collector = collector
        self._sync = sync
        self._result: dict[str, dict[str, Any]] = {}

    def attach(self, engine: Engine, name: str | None = None) -> Self:
        """Measures the engine's epochs from now on.

        Attach before handlers that read the metrics at ``EPOCH_COMPLETED``: Ignite calls handlers in the order in
        which they were attached.

        Args:
            engine: a trainer or an evaluator.
            name: key in ``engine.state.metrics``; by default the handler's own.

        Returns:
            The handler, which detaches at the end of a ``with`` block.

        Raises:
            RuntimeError: if it is attached already.
            ValueError: if the name is in use on this engine.
        """
        return self._attach(engine, (name or self.default_name,))

    @property
    def result(self) -> dict[str, dict[str, Any]]:
        """All numbers of the last finished window by name, in the order of first use; empty before the first."""
        return self._result

    @property
    def coverage(self) -> Coverage:
        """What the last finished window saw and what not."""
        return self._collector.coverage

    def state_dict(self) -> dict[str, Any]:
        """The window so far: tensors and plain types only."""
        return self._collector.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on with the window of `state_dict`."""
        self._collector.load_state_dict(state)

    @staticmethod
    @abstractmethod
    def metrics(row: Mapping[str, Any]) -> Any:
        """What is published of one row of the result."""

    def _publish(self, engine: Engine, *, partial: bool, sync: bool) -> None:
        self._result = self._collector.finish(partial=partial, sync=sync and self._sync)
        engine.state.metrics[self._names[0]] = {name: self.metrics(row) for name, row in self._result.items()}


class GradientStats(StatsHandler):
    """Mean absolute gradient of every layer over the optimizer steps of each epoch.

    It is in units of the loss per unit of the weight. The gradient is the one that the optimizer consumes: after
    accumulation, unscaled under mixed precision, after the all-reduce of data-parallel training, after clipping. Each
    optimizer step weighs the same. Steps that a loss scaler skips are counted in ``skipped_steps``; steps with a NaN or
    an infinity in a layer are counted in that layer's ``nonfinite`` and left out of its mean.

    ``engine.state.metrics["gradients"]`` is ``{layer: mean_abs}``. A row of ``result`` holds ``mean_abs``,
    ``max_abs``, ``nonfinite``, ``steps``, ``skipped_steps``, ``first_nonfinite_iteration`` and ``partial``.

    Args:
        model: the model.
        optimizer: measure at the steps of this optimizer, or of these, only; by default of every
            ``torch.optim.Optimizer`` that owns parameters of the model.
        layers: qualified names, globs or module types; by default every tensor of two or more dimensions.
        every: measure one optimizer step in so many.
        sync: see `Diagnostics`.

    Raises:
        TypeError: if the model is no module, an optimizer no optimizer, or a pattern neither a string nor a type.
        ValueError: if ``every`` is not a whole number of at least 1.

    Source: gradients of every layer as a means to see why deep networks do not train, Glorot and Bengio 2010.
    """

    default_name = "gradients"

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Iterable[Optimizer] | None = None,
        *,
        layers: Patterns = None,
        every: int = 1,
        sync: bool = True,
    ) -> None:
        super().__init__(GradientCollector(model, optimizer, layers=layers, every=every), sync=sync)

    @staticmethod
    def metrics(row: Mapping[str, Any]) -> float:
        """The mean absolute gradient."""
        return float(row["mean_abs"])


class ActivationStats(StatsHandler):
    """Distribution of the activations of every site in each epoch.

    ``engine.state.metrics["activations"]`` is ``{site: {"mean", "std", "zero_fraction", "saturated_fraction"}}``. A
    row of ``result`` holds besides ``count``, ``min``, ``max``, ``nonfinite``, ``partial`` and a histogram of every
    finite value: ``edges`` (B + 1, increasing) and ``counts`` (B). ``std`` is the population deviation over all
    elements of the window, whatever their shape. ``saturated_units`` of the ``units`` were saturated on more than 99 %
    of the samples (a position of a feature map is one); ``both_ends`` says whether the function is saturated at both
    ends of its axis, as sigmoid and tanh are.

    Args:
        model: the model.
        sites: qualified names, globs or module types; by default everything recognised.
        every: measure one iteration in so many, beginning with the first of the epoch.
        sync: see `Diagnostics`.

    Raises:
        TypeError: if the model is no module, or a pattern neither a string nor a type.
        ValueError: if ``every`` is not a whole number of at least 1.

    Source: distributions of activations and their saturation over training, Glorot and Bengio 2010.
    """

    default_name = "activations"

    def __init__(
        self, model: nn.Module, *, sites: Patterns = None, every: int = ACTIVATIONS_EVERY, sync: bool = True
    ) -> None:
        super().__init__(ActivationCollector(model, sites=sites, every=every), sync=sync)

    @staticmethod
    def metrics(row: Mapping[str, Any]) -> dict[str, float]:
        """Mean, standard deviation, zero and saturated fraction."""
        return {name: row[name] for name in ("mean", "std", "zero_fraction", "saturated_fraction")}


class DeadNeurons(StatsHandler):
    """Units whose derivative was exactly zero on every sample of the epoch.

    Exact over every sample of the window, never from a sample of batches. Of a convolution a unit is a channel, dead
    if it is dead at every position. ``engine.state.metrics["dead_neurons"]`` is ``{site: dead}``. A row of ``result``
    holds ``dead``, ``units``, ``fraction``, ``indices`` of the dead units, ``born`` and ``revived`` (how many were not
    dead in the window before, and how many no longer are) and ``partial``.

    Args:
        model: the model.
        sites: qualified names, globs or module types; by default everything recognised.
        unit_dim: axis of the units where the rule (last axis; axis 1 behind a convolution) is not wanted: one axis for
            all sites, or a mapping from name or glob to axis.
        sync: see `Diagnostics`.

    Raises:
        TypeError: if the model is no module, or a pattern neither a string nor a type.

    Source: units that are zero for every input, "dying ReLU", Lu, Shin, Su and Karniadakis 2019.
    """

    default_name = "dead_neurons"

    def __init__(
        self,
        model: nn.Module,
        *,
        sites: Patterns = None,
        unit_dim: int | Mapping[str, int] | None = None,
        sync: bool = True,
    ) -> None:
        super().__init__(DeadUnitCollector(model, sites=sites, unit_dim=unit_dim), sync=sync)

    @staticmethod
    def metrics(row: Mapping[str, Any]) -> int:
        """The number of dead units."""
        return int(row["dead"])
