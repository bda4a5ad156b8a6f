"""One configuration -> one run directory."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, EarlyStopping
from ignite.handlers.tqdm_logger import ProgressBar
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from ignite_act import files
from ignite_act.collect.processes import gather
from ignite_act.config import RunConfig
from ignite_act.data import Data, Split, TensorLoader, load_data
from ignite_act.engines import create_evaluator, create_scaler, create_trainer
from ignite_act.errors import UserError, first_line
from ignite_act.handlers import ActivationStats, DeadNeurons, Diagnostics
from ignite_act.handlers.diagnostics import scores
from ignite_act.models import build_model
from ignite_act.processes import first, is_first
from ignite_act.report import EpochReport, over_sites, with_coarse_histogram
from ignite_act.runs import checkpoints
from ignite_act.runs.checkpoints import Resumable, RunSaver, resumable_checkpoint
from ignite_act.runs.directory import begin, check_run_directory, check_state, locked, log_file, recover, settings
from ignite_act.runs.fit import check_content, check_settings, check_weights
from ignite_act.runs.layout import BEST, CHECKPOINTS, LAST, LOG, REPORTS, SUMMARY, run_directory
from ignite_act.runs.stored import SCHEMA, is_finished, last_report, read_summary, run_reports, versions
from ignite_act.sinks import ConsoleSink, FanOut, JsonLinesSink, Sink, TensorBoardSink
from ignite_act.variants import activation_slug, check_activation, parse_activation

logger = logging.getLogger(__name__)

EVALUATION_BATCH = 1000
LEARNED_BELOW = 0.98
"""A run has started to learn once its validation loss is below this share of the best constant predictor's ..."""
LEARNED_ABOVE = 0.1
"""... or its validation accuracy by this much above: a network that is often right and too sure has a high loss."""


@dataclass(frozen=True)
class RunResult:
    """What a finished run leaves behind.

    Attributes:
        directory: the run directory.
        summary: the content of ``summary.json``.
        report: the report of the last epoch; None with the diagnostics off.
    """

    directory: Path
    summary: Mapping[str, Any]
    report: EpochReport | None


@dataclass
class _Parts:
    """Everything that a run consists of, made before anything is written."""

    config: RunConfig
    device: torch.device
    data: Data
    model: nn.Module
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    loader: TensorLoader


def prepare(config: RunConfig) -> _Parts:
    """Builds the parts of a run; the weights follow from the seed.

    Raises:
        UserError: if something that the configuration names cannot be had.
    """
    check_activation(config)
    device = _device(config.device)
    data = load_data(config.data, config.data_root).to(device)
    model = build_network(config, data, device)
    loader = TensorLoader(
        data.train,
        config.batch_size,
        shuffle=data.shuffle,
        drop_last=data.drop_last,
        seed=config.seed,
        rank=idist.get_rank(),
        processes=idist.get_world_size(),
    )
    check_shares(loader.batch_size, loader.processes)
    if not loader.drop_last:
        check_shares(len(loader.split) % loader.batch_size, loader.processes)
    if not is_first():  # what is random in the forward differs between processes
        torch.manual_seed(config.seed + idist.get_rank())
    scaler = create_scaler(device, amp=config.amp)
    return _Parts(config, device, data, model, _optimizer(config, model), scaler, loader)


def build_network(config: RunConfig, data: Data, device: torch.device | str = "cpu") -> nn.Module:
    """The network of a run before its first step; seeds torch's random state.

    Raises:
        UserError: if it cannot be built.
    """
    entry, parameters = parse_activation(config.act)
    torch.manual_seed(config.seed)
    try:
        model = build_model(
            config.model, data.train.x.shape[1:], config.hidden, data.outputs, entry.name, parameters, config.style
        )
        return model.to(device)
    except (ValueError, RuntimeError) as error:  # also a network that does not fit into the memory
        raise UserError(f"the network cannot be built: {first_line(error)}") from error


def run(
    config: RunConfig,
    output_dir: Path = Path("runs"),
    *,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> RunResult:
    """Trains one variant under early stopping and checkpointing, and writes its run directory.

    Args:
        config: what to train.
        output_dir: where the run directories are.
        resume: go on with a run that was interrupted; a finished one is returned as it is.
        overwrite: start over where a run exists.
        quiet: no progress bar and no line an epoch.

    Returns:
        The directory, the summary and the last report.

    Raises:
        UserError: if the configuration cannot be run, or a run exists and neither flag is given.
    """
    directory = run_directory(config, output_dir)

    def finished() -> RunResult | None:
        check_run_directory(config, directory, resume=resume, overwrite=overwrite)
        if not resume or not is_finished(directory, config):
            return None
        return RunResult(directory, read_summary(directory / SUMMARY), last_report(directory))

    result = first(finished)
    if result is not None:
        return result
    parts = prepare(config)
    with contextlib.ExitStack() as stack:

        def look() -> Resumable | None:
            stack.enter_context(locked(directory))
            if not overwrite:
                recover(directory)
            check_run_directory(config, directory, resume=resume, overwrite=overwrite)  # it may have changed until now
            return _state_to_go_on_from(directory, config) if resume else None

        def write() -> None:
            if found is None:
                begin(directory, config)
            else:
                begin(directory, config, last_epoch=found.epoch, damaged=found.damaged)
            stack.enter_context(log_file(directory / LOG))

        found = first(look)
        sinks, tensorboard = stack.enter_context(_outputs(directory, config, found, quiet=quiet))
        work = _Run(parts, directory, sinks, tensorboard, quiet=quiet)
        if found is not None:
            work.restore(found.checkpoint)
        first(write)  # only now, when everything stored has been checked
        return work.execute()


def _state_to_go_on_from(directory: Path, config: RunConfig) -> Resumable | None:
    check_state(directory)
    found = resumable_checkpoint(directory / CHECKPOINTS)
    if found is not None:
        check_settings(found.checkpoint, _state_settings(config))
    return found


class _Run:
    """The engines of a run and their handlers, in the order that matters."""

    def __init__(
        self, parts: _Parts, directory: Path, sinks: FanOut, tensorboard: TensorBoardSink, *, quiet: bool
    ) -> None:
        config, device = parts.config, parts.device
        self.parts = parts
        self.directory = directory
        self.tensorboard = tensorboard
        self.last_report: EpochReport | None = None
        self.begin = time.perf_counter()
        self.trainer = create_trainer(
            _data_parallel(parts.model),
            parts.optimizer,
            parts.data.task,
            device=device,
            amp=config.amp,
            accumulate=config.accumulate,
            clip_norm=config.clip_norm,
            scaler=parts.scaler,
        )
        self.evaluator = create_evaluator(parts.model, parts.data.task, device=device, amp=config.amp)
        self.trainer.logger = logging.Logger("trainer", logging.CRITICAL)  # what ends a run is said by who ends it
        self.state = _RunState(self.trainer, parts.model, config)
        self.early_stopping = EarlyStopping(config.patience or sys.maxsize, self._score, self.trainer)
        self.early_stopping.logger = logging.Logger("stopping", logging.WARNING)  # the stop reason is in the summary
        self.saver = RunSaver(directory / CHECKPOINTS)
        self.best = Checkpoint(
            {"model": parts.model, "run": self.state},
            self.saver,
            filename_pattern=BEST,
            score_function=self._score,
        )
        self.diagnostics = Diagnostics(parts.model, parts.optimizer, every=config.every, sinks=[sinks])
        self.resumable: dict[str, Any] = {
            "run": self.state,
            "model": parts.model,
            "optimizer": parts.optimizer,
            "scaler": parts.scaler,
            "trainer": self.trainer,
            "early_stopping": self.early_stopping,
            "best": self.best,
            "random": _RandomState(),
        }
        if config.diagnostics:
            self.resumable["diagnostics"] = self.diagnostics
        self.last = Checkpoint(self.resumable, self.saver, filename_pattern=LAST)
        self._bind(sinks)
        if not quiet and sys.stderr is not None and sys.stderr.isatty() and is_first():
            often = Events.ITERATION_COMPLETED(every=math.ceil(len(parts.loader) / 50))  # every step is redrawn
            ProgressBar(desc=activation_slug(config.act)).attach(self.trainer, event_name=often)

    def _bind(self, sinks: FanOut) -> None:
        """Binds the handlers; at the end of an epoch they run in this order."""
        trainer, evaluator = self.trainer, self.evaluator
        validation = _evaluation(self.parts.data.validation)
        trainer.add_event_handler(Events.EPOCH_STARTED, lambda: self.parts.loader.set_epoch(trainer.state.epoch))
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run(validation))
        evaluator.add_event_handler(Events.COMPLETED, self.best)
        evaluator.add_event_handler(Events.COMPLETED, self.early_stopping)
        if self.parts.config.diagnostics:
            self.diagnostics.attach(trainer, evaluator)
        else:
            trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: sinks.write(scores_report(trainer, evaluator)))
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._decide)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self.last)

    def execute(self) -> RunResult:
        """Trains from the beginning or from where `restore` has put it, then tests with the best weights."""
        if self.state.stop is None:
            with self.diagnostics:
                self.trainer.run(self.parts.loader, max_epochs=self.parts.config.max_epochs)
        elif self.parts.config.diagnostics:  # killed after its last epoch
            self.diagnostics.end()
        summary = self._summary()
        first(lambda: self._write(summary))
        return RunResult(self.directory, summary, first(lambda: self.last_report))

    def _write(self, summary: Mapping[str, Any]) -> None:
        self._write_outcome(summary)
        logger.info("%s; test %s", summary["stop_reason"], summary["test"])
        path = self.directory / SUMMARY
        try:  # last: a run is finished once its summary is there
            files.write(path, json.dumps(summary, indent=2, allow_nan=False) + "\n")
        except OSError as error:
            raise UserError(
                f"the training is done, but {path} cannot be written: {error.strerror}; make room, then --resume"
            ) from error

    def _write_outcome(self, summary: Mapping[str, Any]) -> None:
        try:
            self.tensorboard.write_outcome(_settings(self.parts.config), _outcome(summary))
        except OSError as error:
            logger.warning("the row of the HParams table cannot be written: %s", error)

    def restore(self, checkpoint: Mapping[str, Any]) -> None:
        """Resumes from a checkpoint.

        Raises:
            UserError: if it is not a state of this run.
        """
        check_weights(checkpoint, self.parts.model)
        others = [name for name in self.resumable if name not in ("model", "diagnostics")]
        own = {name: self.resumable[name].state_dict() for name in others}
        del own["run"]["finite"]  # earlier versions did not store it
        check_content(checkpoint, own, self.parts.optimizer, len(self.parts.loader))
        try:
            Checkpoint.load_objects(self.resumable, checkpoint)
        except Exception as error:  # each object raises in its own way for what is not its state
            raise UserError(f"the checkpoint cannot be used: {first_line(error)}; --overwrite starts over") from error
        if self.best.last_checkpoint is not None:
            first(self._check_best)
        self.begin -= self.state.seconds
        if self.state.stop == "all_epochs" and self.state.epoch < self.parts.config.max_epochs:
            self.state.stop = None
        elif self.state.stop is None and self.state.epoch >= self.parts.config.max_epochs:
            self.state.stop = "all_epochs"

    def _check_best(self) -> None:
        try:
            best = self.saver.best()
            check_settings(best, _state_settings(self.parts.config))
            check_weights(best, self.parts.model)
        except UserError as error:
            raise UserError(f"{error}: the weights of the best epoch are lost; --overwrite starts over") from error

    def _score(self, evaluator: Engine) -> float:
        """The score of the evaluation; weights that are not finite are never better, whatever they score."""
        weights = self.parts.model.state_dict().values()
        return _score(evaluator) if all(bool(weight.isfinite().all()) for weight in weights) else -math.inf

    def _decide(self, engine: Engine) -> None:
        """Whether this epoch was the last one, and why; the answer goes into the checkpoint."""
        self.state.epoch = engine.state.epoch
        self.state.seconds = time.perf_counter() - self.begin
        self.state.costs += self.diagnostics.cost
        if not math.isfinite(engine.state.metrics["loss"]):
            self.state.stop = "nonfinite"
            engine.terminate()
        elif self.early_stopping.counter >= self.early_stopping.patience:
            self.state.stop = "early_stopping"
        elif engine.state.epoch >= self.parts.config.max_epochs:
            self.state.stop = "all_epochs"

    def _summary(self) -> dict[str, Any]:
        """Tests with the best weights; everything in plain types."""
        config, data = self.parts.config, self.parts.data
        best = first(self.saver.best)
        self.parts.model.load_state_dict(best["model"])
        scores = {
            split: self._evaluate(samples) for split, samples in (("validation", data.validation), ("test", data.test))
        }
        inside = self._inside(data.train) if config.diagnostics else {"dead_neurons": {}, "activations": {}}
        return first(lambda: self._composed(best["run"]["epoch"], scores, inside))

    def _composed(self, best_epoch: int, scores: Mapping[str, Any], inside: Mapping[str, Any]) -> dict[str, Any]:
        config, constant = self.parts.config, constant_predictor(self.parts.data.validation.y)
        last, learned = None, False
        for report in run_reports(self.directory):  # there may be many
            last, learned = report, learned or has_learned(report, constant)
        self.last_report = last
        return {
            "schema": SCHEMA,
            "activation": activation_slug(config.act),
            "seed": config.seed,
            "epochs": self.state.epoch,
            "best_epoch": best_epoch,
            **scores,
            "last": {name: _finite(last.scores[name]["validation"]) if last else None for name in ("loss", "accuracy")},
            "constant_predictor": constant,
            "learned": learned,
            "stop": self.state.stop,
            "stop_reason": self._stop_reason(),
            **inside,
            "gradients": {name: _plain(row) for name, row in last.gradients.items()} if last else {},
            "findings": [finding.to_dict() for finding in self.diagnostics.all_findings],
            "coverage": dict(last.coverage) if last else {},
            "cost": self.state.costs / max(self.state.epoch, 1),
            "seconds": round(self.state.seconds, 3),
            "versions": versions(),
        }

    def _evaluate(self, samples: Split) -> dict[str, float | None]:
        self.evaluator = create_evaluator(
            self.parts.model, self.parts.data.task, device=self.parts.device, amp=self.parts.config.amp
        )
        metrics = self.evaluator.run(_evaluation(samples)).metrics
        return {name: _finite(metrics[name]) for name in ("loss", "accuracy")}

    def _inside(self, samples: Split) -> dict[str, Any]:
        """Dead neurons and activations of the fixed network over all training samples."""
        evaluator = create_evaluator(
            self.parts.model, self.parts.data.task, device=self.parts.device, amp=self.parts.config.amp
        )
        with DeadNeurons(self.parts.model) as dead, ActivationStats(self.parts.model, every=1) as activations:
            dead.attach(evaluator)
            activations.attach(evaluator)
            evaluator.run(_evaluation(samples))
        rows = {name: _plain(with_coarse_histogram(row)) for name, row in activations.result.items()}
        return {"dead_neurons": {name: _plain(row) for name, row in dead.result.items()}, "activations": rows}

    def _stop_reason(self) -> str:
        patience, epochs = self.parts.config.patience, self.state.epoch
        reasons = {
            "early_stopping": f"early stopping: no better validation accuracy for {patience} epochs",
            "all_epochs": f"all {epochs} epochs done",
            "nonfinite": f"the training loss became NaN or infinite in epoch {epochs}",
        }
        return reasons.get(self.state.stop or "", "interrupted")


class _RunState:
    """What a checkpoint says of the run it belongs to."""

    def __init__(self, trainer: Engine, model: nn.Module, config: RunConfig) -> None:
        self._trainer = trainer
        self._model = model
        self._settings = _state_settings(config)
        self.epoch = 0
        self.seconds = 0.0
        self.costs = 0.0
        """Sum over the epochs of the share of the time that measuring took."""
        self.stop: str | None = None

    def state_dict(self) -> dict[str, Any]:
        return {
            "schema": checkpoints.SCHEMA,
            "settings": self._settings,
            "finite": all(bool(weight.isfinite().all()) for weight in self._model.state_dict().values()),
            "epoch": self._trainer.state.epoch,
            "seconds": self.seconds,
            "costs": self.costs,
            "stop": self.stop,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.epoch = int(state["epoch"])
        self.seconds = float(state["seconds"])
        self.costs = float(state["costs"])
        self.stop = state["stop"]


class _RandomState:
    """torch's random state of every process, on the host and on the GPUs."""

    def state_dict(self) -> dict[str, Any]:
        own = {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}
        return {"processes": gather(own) if idist.get_world_size() > 1 else [own]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        own = state["processes"][idist.get_rank()]
        torch.set_rng_state(own["cpu"].cpu())
        if len(own["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all([item.cpu() for item in own["cuda"]])


def _state_settings(config: RunConfig) -> dict[str, Any]:
    """What a checkpoint must agree in with the run that goes on."""
    return {**settings(config), "processes": idist.get_world_size()}


def check_shares(size: int, processes: int) -> None:
    """Refuses a batch that the processes cannot share equally: the mean of their gradients would be another one.

    Raises:
        UserError: if it cannot be shared.
    """
    if size % processes:
        raise UserError(
            f"{processes} processes cannot share a batch of {size} samples equally: "
            "choose another --batch-size or another number of processes"
        )


def _data_parallel(model: nn.Module) -> nn.Module:
    if idist.get_world_size() == 1:
        return model
    on_gpu = idist.device().type == "cuda"
    return DistributedDataParallel(model, device_ids=[idist.get_local_rank()] if on_gpu else None)


def _evaluation(samples: Split) -> TensorLoader:
    """The share of this process of what is evaluated."""
    return TensorLoader(samples.share(idist.get_rank(), idist.get_world_size()), EVALUATION_BATCH)


def constant_predictor(y: torch.Tensor) -> dict[str, float]:
    """What the best prediction that ignores the inputs scores.

    Args:
        y: targets, classes as whole numbers of any type and shape.

    Returns:
        Its cross-entropy in nats, which is the entropy of the classes, and its accuracy, the share of the largest.
    """
    shares = torch.unique(y, return_counts=True)[1].double() / y.numel()
    return {"loss": float(-(shares * shares.log()).sum()), "accuracy": float(shares.max())}


def has_learned(report: EpochReport, constant: Mapping[str, float]) -> bool:
    """Whether the scores of an epoch are clearly better than those of the best constant predictor."""
    loss, accuracy = (report.scores.get(name, {}).get("validation", math.nan) for name in ("loss", "accuracy"))
    return loss < LEARNED_BELOW * constant["loss"] or accuracy > constant["accuracy"] + LEARNED_ABOVE


def _score(evaluator: Engine) -> float:
    """What early stopping and the best checkpoint maximise: validation accuracy; non-finite is never better."""
    loss, accuracy = evaluator.state.metrics["loss"], evaluator.state.metrics["accuracy"]
    return accuracy if math.isfinite(loss) and math.isfinite(accuracy) else -math.inf


def scores_report(trainer: Engine, evaluator: Engine) -> EpochReport:
    """A report with the scores alone, for a run without diagnostics."""
    return EpochReport(trainer.state.epoch, trainer.state.iteration, scores=scores(trainer, evaluator))


def _optimizer(config: RunConfig, model: nn.Module) -> Optimizer:
    parameters, lr, decay = model.parameters(), config.lr, config.weight_decay
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr, momentum=config.momentum, weight_decay=decay)
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(parameters, lr, momentum=config.momentum, weight_decay=decay)
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, lr, weight_decay=decay)


def _device(name: str) -> torch.device:
    if idist.get_world_size() > 1 and name in ("auto", idist.device().type):
        return idist.device()
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, there in available.items() if there))
    if not available[name]:
        raise UserError(
            f"device {name} is not available here (available: {', '.join(k for k in available if available[k])})"
        )
    return torch.device(name)


@contextlib.contextmanager
def _outputs(
    directory: Path, config: RunConfig, found: Resumable | None, *, quiet: bool
) -> Iterator[tuple[FanOut, TensorBoardSink]]:
    """All sinks of a run, which the first process writes to, and the one of TensorBoard."""
    tensorboard = TensorBoardSink(directory, purge_after=found.epoch if found is not None else None)
    lines = JsonLinesSink(directory / REPORTS)
    sinks: list[Sink] = [lines, tensorboard, ConsoleSink(logger.info, config.max_epochs)]
    if not quiet:
        sinks.append(ConsoleSink(max_epochs=config.max_epochs))
    try:
        yield FanOut(sinks if is_first() else ()), tensorboard
    finally:
        tensorboard.close()


def _settings(config: RunConfig) -> dict[str, Any]:
    """What may explain the outcome of a run: the main settings, and others where they are not the default."""
    fields = {name: field.default for name, field in RunConfig.model_fields.items() if name not in _NO_CAUSE}
    chosen = config.model_dump(mode="json", include=set(fields))
    shown = {name: value for name, value in chosen.items() if name in _MAIN or value != fields[name]}
    return {**shown, "act": activation_slug(config.act)}


_MAIN = {"act", "batch_size", "data", "hidden", "lr", "model", "optimizer", "seed"}
_NO_CAUSE = {"published", "data_root", "device", "diagnostics", "every", "max_epochs", "patience"}


def _outcome(summary: Mapping[str, Any]) -> dict[str, float | None]:
    """The numbers by which runs are compared."""
    return {
        "test_accuracy": summary["test"]["accuracy"],
        "test_loss": summary["test"]["loss"],
        "validation_accuracy": summary["validation"]["accuracy"],
        "best_epoch": summary["best_epoch"],
        "epochs": summary["epochs"],
        "seconds": summary["seconds"],
        "dead_neurons": over_sites(summary["dead_neurons"], "dead"),
    }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with None for NaN, as JSON wants it."""
    return {key: _finite(item) if isinstance(item, float) else item for key, item in row.items()}
