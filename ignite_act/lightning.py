"""All diagnostics as a callback of Lightning: one report an epoch, the same numbers as the Ignite handler."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer

from ignite_act import guard
from ignite_act.collect import Coverage
from ignite_act.collect.loss import loss_of
from ignite_act.findings import Finding
from ignite_act.internals import is_in_training_step, steps_of
from ignite_act.recorder import EpochRecorder
from ignite_act.report import EpochReport
from ignite_act.sinks import FanOut, Sink

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
else:
    try:
        from lightning.pytorch import Callback
    except ImportError:
        try:
            from pytorch_lightning import Callback
        except ImportError as error:
            raise ImportError("DiagnosticsCallback needs Lightning: pip install ignite-act[lightning]") from error

_PREFIX = re.compile("(?:train(?:ing)?|(val(?:id(?:ation)?)?))[_/](?=.)")
_PUBLISHED = {
    "gradients": {"": "mean_abs"},
    "activations": {f"/{name}": name for name in ("mean", "std", "zero_fraction", "saturated_fraction")},
    "dead_neurons": {"": "dead"},
}


class DiagnosticsCallback(Callback):
    """Gradients, activations and dead neurons of a LightningModule, with one `EpochReport` for each training epoch.

    What the modules' forwards call is seen, not a function that ``training_step`` itself calls. Forwards count inside
    ``training_step`` only, so neither validation, which runs inside the training epoch, nor the
    sanity check before it; optimizer steps count from the start of the epoch to its end. An epoch that was cut short
    (``max_steps``, ``should_stop``, an exception) is marked partial. The report's iteration is the number of batches.

    Scores are the numbers of ``trainer.callback_metrics`` as they stand when the epoch ends: ``val_loss``,
    ``val/loss`` and the like are the validation score ``loss``; ``train_loss``, and whatever has no such prefix, are
    training scores. What the module logs in its own ``on_train_epoch_end`` comes too late, and after an exception
    there are none.

    The loggers get ``gradients/<layer>``, ``activations/<site>/mean`` (``std``, ``zero_fraction``,
    ``saturated_fraction``) and ``dead_neurons/<site>`` once per epoch, at the step of the other metrics of the epoch.
    They are in ``trainer.callback_metrics``, too. Lightning calls ``EarlyStopping`` and ``ModelCheckpoint`` after all
    other callbacks at the end of the training epoch, so they can monitor them, wherever they stand in the list. If they
    look after validation instead (``val_check_interval`` or ``check_val_every_n_epoch`` is set), the numbers there are
    those of the epoch before.

    Args:
        optimizer: measure at the steps of this optimizer, or of these, only; by default of every one that owns
            parameters of the module.
        every: measure gradients and activations in one step of so many; by default gradients in every step and
            activations in one of ten. Dead neurons are always exact.
        sinks: where each report goes, from global rank 0 only. A sink that fails is said once in the log and does not
            stop the training.
        sync: in data-parallel runs, give every process the numbers of all of them.
    """

    def __init__(
        self,
        optimizer: Optimizer | Iterable[Optimizer] | None = None,
        *,
        every: int | None = None,
        sinks: Iterable[Sink] = (),
        sync: bool = True,
    ) -> None:
        if not isinstance(optimizer, Optimizer | None):
            optimizer = tuple(optimizer)  # for every fit
        self._settings: dict[str, Any] = {"optimizer": optimizer, "every": every, "sync": sync}
        self._sinks = FanOut(sinks)
        self._recorder: EpochRecorder | None = None
        self._module: weakref.ref[LightningModule] | None = None  # the one that the recorder watches
        self._loaded: dict[str, Any] = {}
        self._epoch = 0

    @property
    def report(self) -> EpochReport | None:
        """The report of the last finished window; None before the first."""
        return self._recorder.report if self._recorder is not None else None

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is wrong as far as is known now, causes before consequences."""
        return self._recorder.findings if self._recorder is not None else ()

    @property
    def coverage(self) -> dict[str, Coverage]:
        """Diagnostic -> what the last finished window saw and what not; empty before the first fit."""
        return self._recorder.coverage if self._recorder is not None else {}

    def state_dict(self) -> dict[str, Any]:
        """The windows so far: tensors and plain types only."""
        return self._loaded or (self._recorder.state_dict() if self._recorder is not None else {})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with the windows of `state_dict` in the next fit."""
        self._loaded = state_dict

    def __getstate__(self) -> dict[str, Any]:
        """Copies watch nothing: strategies that spawn processes pickle their callbacks."""
        return {**vars(self), "_recorder": None, "_module": None}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes the recorder; resumes a window: in the middle of an epoch there is no ``on_train_epoch_start``."""
        if self._recorder is None or self._module is None or self._module() is not pl_module:
            self._recorder = EpochRecorder(pl_module, **self._settings)
            self._module = weakref.ref(pl_module)
        for collector in self._recorder.collectors.values():
            collector.gate, collector.clock = _gate(self._module), _clock(weakref.ref(trainer))
        if trainer.fit_loop.total_batch_idx < 0:  # another training of the module; the same one going on has batches
            self._recorder.renew()
        if self._loaded:
            self._recorder.load_state_dict(self._loaded)
            self._loaded = {}
            self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins the window."""
        self._epoch = trainer.current_epoch + 1
        if self._recorder is not None and not self._recorder.started:
            self._recorder.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Takes in the loss of a step."""
        loss = loss_of(outputs)
        if loss is not None and self._recorder is not None:
            # Lightning has divided it by the number of batches whose gradients it adds up.
            parts = trainer.accumulate_grad_batches if pl_module.automatic_optimization else 1
            self._recorder.record_loss(loss * parts if parts > 1 else loss)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Turns the window into a report, for the sinks and the loggers."""
        batches = trainer.fit_loop.epoch_loop.batch_progress
        partial = not batches.is_last_batch or batches.current.completed < batches.current.ready  # a batch was refused
        report = self._finish(trainer, _scores(trainer.callback_metrics), partial=partial, sync=True)
        if report is None:
            return
        numbers = _flat(report)
        # As LearningRateMonitor does it: `log_dict` would cost in every later batch and warn in data-parallel runs.
        trainer.callback_metrics.update({name: torch.tensor(float(value)) for name, value in numbers.items()})
        for logger in trainer.loggers:
            step = steps_of(trainer) - 1  # that of Lightning's own epoch metrics
            logger.log_metrics({"epoch": trainer.current_epoch, **numbers}, step=step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judges the run as a whole."""
        self._end(trainer)
        report = self._recorder.end() if self._recorder is not None else None
        if report is not None and trainer.is_global_zero:
            self._sinks.end(report)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leaves a partial report."""
        guard.stop()
        self._end(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Finishes an open window; no hook is left."""
        self._end(trainer)
        self._loaded = {}  # by `trainer.test(ckpt_path=...)`, say: not for the next fit

    def _end(self, trainer: Trainer) -> None:
        self._finish(trainer, {}, partial=True, sync=False)
        if self._recorder is not None:
            self._recorder.stop()

    def _finish(
        self, trainer: Trainer, scores: Mapping[str, Mapping[str, float]], *, partial: bool, sync: bool
    ) -> EpochReport | None:
        if self._recorder is None or not self._recorder.started:
            return None
        self._recorder.pause()
        iteration = trainer.fit_loop.total_batch_idx + 1
        report = self._recorder.finish(
            epoch=self._epoch, iteration=iteration, scores=scores, partial=partial, sync=sync
        )
        if trainer.is_global_zero:
            self._sinks.write(report)
        self._recorder.written()
        return report


def _flat(report: EpochReport) -> dict[str, float]:
    """What the loggers get of a report."""
    return {
        f"{diagnostic}/{name}{suffix}": row[key]
        for diagnostic, keys in _PUBLISHED.items()
        for name, row in getattr(report, diagnostic).items()
        for suffix, key in keys.items()
    }


def _scores(metrics: Mapping[str, torch.Tensor]) -> dict[str, dict[str, float]]:
    """Metric -> ``"train"`` or ``"validation"`` -> value, without our own and what Lightning logs a second time."""
    scores: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        if name.partition("/")[0] in _PUBLISHED or re.sub("_(step|epoch)$", "", name) in metrics.keys() - {name}:
            continue
        prefix = _PREFIX.match(name)
        split = "validation" if prefix and prefix[1] else "train"
        scores.setdefault(name[prefix.end() :] if prefix else name, {})[split] = float(value)
    return scores


def _gate(module: weakref.ref[LightningModule]) -> Callable[[], bool]:
    def in_training_step() -> bool:
        own = module()
        return own is not None and is_in_training_step(own)

    return in_training_step


def _clock(trainer: weakref.ref[Trainer]) -> Callable[[], int | None]:
    def iteration() -> int | None:
        own = trainer()
        return own.fit_loop.total_batch_idx + 1 if own is not None else None

    return iteration
