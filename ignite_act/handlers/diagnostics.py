"""The bundle: all diagnostics, one report an epoch, any number of outputs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from ignite.engine import Engine
from torch import nn
from torch.optim import Optimizer
from typing_extensions import Self

from ignite_act.collect import ActivationCollector, Collector, Coverage, DeadUnitCollector, GradientCollector
from ignite_act.handlers.base import WindowHandler
from ignite_act.handlers.stats import ACTIVATIONS_EVERY, ActivationStats, DeadNeurons, GradientStats, StatsHandler
from ignite_act.report import EpochReport, with_coarse_histogram
from ignite_act.sinks import FanOut, Sink

_PUBLISHED: dict[str, type[StatsHandler]] = {
    handler.default_name: handler for handler in (GradientStats, ActivationStats, DeadNeurons)
}


class Diagnostics(WindowHandler):
    """`GradientStats`, `ActivationStats` and `DeadNeurons` together, with one `EpochReport` an epoch.

    Args:
        model: the model.
        optimizer: see `GradientStats`.
        every: measure gradients and activations in one step of so many; by default gradients in every step and
            activations in one of ten. Dead neurons are always exact.
        sinks: where each report goes. A sink that fails is said once in the log and does not stop the training.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Iterable[Optimizer] | None = None,
        *,
        every: int | None = None,
        sinks: Iterable[Sink] = (),
    ) -> None:
        self._diagnostics: dict[str, Collector] = {
            "gradients": GradientCollector(model, optimizer, every=every or 1),
            "activations": ActivationCollector(model, every=every or ACTIVATIONS_EVERY),
            "dead_neurons": DeadUnitCollector(model),
        }
        super().__init__(list(self._diagnostics.values()))
        self._sinks = FanOut(sinks)
        self._evaluator: Engine | None = None
        self._report: EpochReport | None = None
        self._started = 0.0
        self._epoch = 0

    def attach(self, trainer: Engine, evaluator: Engine | None = None) -> Self:
        """Reports on the trainer's epochs from now on.

        Attach after the handler that runs the evaluator at ``EPOCH_COMPLETED``, so that its scores are in the report,
        and before handlers that read the diagnostics.

        Args:
            trainer: the engine whose steps are measured.
            evaluator: an engine whose ``state.metrics`` go into the report as ``"validation"`` scores.

        Returns:
            The handler, which detaches at the end of a ``with`` block.
        """
        self._attach(trainer, tuple(self._diagnostics))
        self._evaluator = evaluator
        return self

    @property
    def report(self) -> EpochReport | None:
        """The report of the last finished window; None before the first."""
        return self._report

    @property
    def coverage(self) -> dict[str, Coverage]:
        """Diagnostic -> what the last finished window saw and what not."""
        return {name: collector.coverage for name, collector in self._diagnostics.items()}

    @property
    def cost(self) -> float:
        """Share of the last window's wall time that measuring took (without the bare dispatch of the hooks)."""
        return self._report.cost if self._report is not None else 0.0

    def state_dict(self) -> dict[str, Any]:
        """The windows so far: tensors and plain types only."""
        return {name: collector.state_dict() for name, collector in self._diagnostics.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on with the windows of `state_dict`."""
        for name, collector in self._diagnostics.items():
            collector.load_state_dict(state[name])

    def detach(self) -> None:
        """Finishes an open window, removes every hook and event handler; doing it twice is fine."""
        super().detach()
        self._evaluator = None

    def _on_epoch_started(self, engine: Engine) -> None:
        super()._on_epoch_started(engine)
        self._started = time.perf_counter()
        self._epoch = engine.state.epoch

    def _publish(self, engine: Engine, partial: bool) -> None:
        seconds = sum(collector.seconds for collector in self._collectors)
        begin = time.perf_counter()
        results = {name: collector.finish(partial=partial) for name, collector in self._diagnostics.items()}
        for name, rows in results.items():
            metrics = _PUBLISHED[name].metrics
            engine.state.metrics[name] = {label: metrics(row) for label, row in rows.items()}
        now = time.perf_counter()
        self._report = EpochReport(
            epoch=self._epoch,
            iteration=engine.state.iteration,
            partial=partial,
            scores=scores(engine, self._evaluator),
            gradients=results["gradients"],
            activations={name: with_coarse_histogram(row) for name, row in results["activations"].items()},
            dead_neurons=results["dead_neurons"],
            coverage={name: coverage.to_dict() for name, coverage in self.coverage.items()},
            cost=(seconds + now - begin) / max(now - self._started, 1e-9),
        )
        self._sinks.write(self._report)


def scores(trainer: Engine, evaluator: Engine | None) -> dict[str, dict[str, float]]:
    """The plain numbers in the engines' metrics: name -> ``"train"`` or ``"validation"`` -> value."""
    numbers: dict[str, dict[str, float]] = {}
    for split, engine in (("train", trainer), ("validation", evaluator)):
        for name, value in engine.state.metrics.items() if engine is not None else ():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                numbers.setdefault(name, {})[split] = float(value)
    return numbers
