"""The bundle: all diagnostics, one report an epoch, any number of outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from torch import nn
from torch.optim import Optimizer
from typing_extensions import Self

from ignite_act.collect import Coverage
from ignite_act.collect.loss import loss_of
from ignite_act.findings import Finding, Thresholds
from ignite_act.guard import guarded, harmless, reason_of
from ignite_act.handlers.base import WindowHandler, on_own_engine
from ignite_act.handlers.stats import ActivationStats, DeadNeurons, GradientStats, StatsHandler
from ignite_act.recorder import EpochRecorder
from ignite_act.report import EpochReport
from ignite_act.sinks import FanOut, Sink
from ignite_act.sinks.tensorboard import write_by

_PUBLISHED: tuple[type[StatsHandler], ...] = (GradientStats, ActivationStats, DeadNeurons)


class Diagnostics(WindowHandler):
    """`GradientStats`, `ActivationStats` and `DeadNeurons` together, with one `EpochReport` an epoch.

    Args:
        model: the model.
        optimizer: see `GradientStats`.
        every: measure gradients and activations in one step of so many; by default gradients in every step and
            activations in one of ten. Dead neurons are always exact.
        sinks: where each report goes, from the first process only. A sink that fails is said once in the log and does
            not stop the training.
        sync: in data-parallel runs, give every process the numbers of all of them. At the end of a window this is a
            collective call: every process has to run the engine. False measures each process by itself.
        output_transform: the loss in the trainer's output, which many findings join with what is seen inside: a number
            or a tensor with one element, None if there is none. By default a number, a tensor, ``output["loss"]`` or
            the first of a tuple.
        thresholds: where a measured value begins to be a finding.

    Raises:
        TypeError: if the model is no module or an optimizer no optimizer.
        ValueError: if ``every`` is not a whole number of at least 1.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Iterable[Optimizer] | None = None,
        *,
        every: int | None = None,
        sinks: Iterable[Sink] = (),
        sync: bool = True,
        output_transform: Callable[[Any], Any] = loss_of,
        thresholds: Thresholds | None = None,
    ) -> None:
        self._recorder = EpochRecorder(model, optimizer, every=every, sync=sync, thresholds=thresholds)
        self._output_transform = output_transform
        super().__init__(self._recorder.collectors.values())
        self._sinks = FanOut(sinks)
        self._evaluator: Engine | None = None
        self._evaluated = 0
        self._epoch = 0

    def attach(self, trainer: Engine, evaluator: Engine | None = None) -> Self:
        """Reports on the trainer's epochs from now on.

        Attach after the handler that runs the evaluator at ``EPOCH_COMPLETED``, so that its scores are in the report,
        and before handlers that read the diagnostics. (Scores that come later are known to the findings of the next
        epoch.)

        Args:
            trainer: the engine whose steps are measured.
            evaluator: an engine whose ``state.metrics`` go into the report as ``"validation"`` scores.

        Returns:
            The handler, which detaches at the end of a ``with`` block.

        Raises:
            RuntimeError: if it is attached already.
            ValueError: if the engine has a handler that publishes under one of the same names.
        """
        self._attach(trainer, tuple(handler.default_name for handler in _PUBLISHED))
        self._handles.append(trainer.add_event_handler(Events.ITERATION_COMPLETED, self._on_iteration_completed))
        self._evaluator = evaluator
        self._evaluated = 0
        if evaluator is not None:
            self._handles.append(evaluator.add_event_handler(Events.COMPLETED, self._on_evaluated))
        return self

    @property
    def report(self) -> EpochReport | None:
        """The report of the last finished window; None before the first."""
        return self._recorder.report

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is wrong as far as is known now, causes before consequences; also in ``engine.state.findings``."""
        return self._recorder.findings

    @property
    def all_findings(self) -> tuple[Finding, ...]:
        """What stands, and then what was found and is over by now."""
        return self._recorder.all_findings

    @property
    def coverage(self) -> dict[str, Coverage]:
        """Diagnostic -> what the last finished window saw and what not; ``"sinks"``, which of them have failed."""
        failed = {"sinks": Coverage((), self._sinks.failed)} if self._sinks.failed else {}
        return {**self._recorder.coverage, **failed}

    @property
    def cost(self) -> float:
        """Share of the last window's wall time that watching took."""
        return self.report.cost if self.report is not None else 0.0

    def end(self) -> None:
        """Judges the run as a whole; when the trainer completes it does so by itself."""
        report = self._recorder.end()
        if report is not None and idist.get_rank() == 0:
            self._sinks.end(report)

    def state_dict(self) -> dict[str, Any]:
        """The windows so far: tensors and plain types only."""
        return self._recorder.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on with the windows of `state_dict`."""
        self._recorder.load_state_dict(state)

    def detach(self) -> None:
        """Finishes an open window, removes every hook and event handler; doing it twice is fine."""
        super().detach()
        self._evaluator = None

    def __call__(self, engine: Engine, logger: Any, event_name: Any) -> None:
        """Writes the last report through Ignite's ``TensorboardLogger``, histograms included.

        In Ignite's own manner: ``tb_logger.attach(trainer, diagnostics, Events.EPOCH_COMPLETED)``, after `attach`. The
        numbers alone go to any logger by ``attach_output_handler(..., metric_names="all")``.

        Raises:
            TypeError: if the logger does not write TensorBoard's histograms.
        """
        writer = getattr(logger, "writer", None)
        if not hasattr(writer, "add_histogram_raw"):
            raise TypeError(
                f"{type(logger).__name__} takes no histograms; use its attach_output_handler(..., metric_names='all')"
            )
        if self.report is not None:
            write_by(writer, self.report)

    @on_own_engine("the start of a run")
    def _on_started(self, engine: Engine) -> None:
        super()._on_started(engine)
        self._evaluated = 0  # the epochs of another run have the same numbers
        engine.state.findings = self.findings  # type: ignore[attr-defined]

    def _renew(self) -> None:
        self._recorder.renew()

    def _start(self, engine: Engine) -> None:
        self._recorder.start()
        self._epoch = engine.state.epoch
        engine.state.findings = self.findings  # type: ignore[attr-defined]

    @on_own_engine("the loss of a step")
    def _on_iteration_completed(self, engine: Engine) -> None:
        try:
            loss = self._output_transform(engine.state.output)
        except Exception as error:
            self._recorder.no_loss(f"output_transform failed: {reason_of(error)}")
            return
        if loss is not None:
            self._recorder.record_loss(loss)
        elif self._output_transform is not loss_of:
            self._recorder.no_loss("output_transform returned None")
        else:
            returned = type(engine.state.output).__name__
            self._recorder.no_loss(f"the step returned no loss ({returned}): say with output_transform= where it is")

    @harmless("the scores of the evaluator")
    def _on_evaluated(self, evaluator: Engine) -> None:
        trainer = self._engine() if self._engine is not None else None
        if trainer is not None and evaluator is self._evaluator:
            self._evaluated = trainer.state.epoch
            if not self._open and self.report is not None and self.report.epoch == trainer.state.epoch:
                self._recorder.add_scores(scores(trainer, evaluator))

    @on_own_engine("the end of the run")
    def _on_stop(self, engine: Engine) -> None:
        super()._on_stop(engine)
        if engine.last_event_name is Events.COMPLETED or engine.should_terminate == "skip_completed":
            self.end()
            engine.state.findings = self.findings  # type: ignore[attr-defined]

    def _publish(self, engine: Engine, *, partial: bool, sync: bool) -> None:
        report = self._recorder.finish(
            epoch=self._epoch,
            iteration=engine.state.iteration,
            scores=scores(engine, self._evaluator if self._evaluated == self._epoch else None),
            partial=partial,
            sync=sync,
        )
        for handler in _PUBLISHED:
            with guarded(self, f"publishing {handler.default_name}"):
                rows = getattr(report, handler.default_name)
                engine.state.metrics[handler.default_name] = {name: handler.metrics(row) for name, row in rows.items()}
        engine.state.findings = self.findings  # type: ignore[attr-defined]
        if idist.get_rank() == 0:
            self._sinks.write(report)
        self._recorder.written()


def scores(trainer: Engine, evaluator: Engine | None) -> dict[str, dict[str, float]]:
    """The plain numbers in the engines' metrics: name -> ``"train"`` or ``"validation"`` -> value."""
    numbers: dict[str, dict[str, float]] = {}
    for split, engine in (("train", trainer), ("validation", evaluator)):
        for name, value in engine.state.metrics.items() if engine is not None else ():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                numbers.setdefault(name, {})[split] = float(value)
    return numbers
