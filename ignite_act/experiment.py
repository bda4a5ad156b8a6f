"""One configuration -> one run directory."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import platform
import re
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, DiskSaver, EarlyStopping
from ignite.handlers.tqdm_logger import ProgressBar
from torch import nn
from torch.optim import Optimizer

from ignite_act.activations import ACTIVATIONS, Activation, Parameter, get_activation, make_activation
from ignite_act.config import RunConfig, StudyConfig
from ignite_act.data import Data, Split, TensorLoader, load_data
from ignite_act.engines import create_evaluator, create_scaler, create_trainer
from ignite_act.errors import UserError
from ignite_act.handlers import ActivationStats, DeadNeurons, Diagnostics
from ignite_act.handlers.diagnostics import scores
from ignite_act.models import MLP, build_model
from ignite_act.report import EpochReport, coarse_histogram
from ignite_act.sinks import ConsoleSink, FanOut, JsonLinesSink, Sink, TensorBoardSink, json_line, read_reports

logger = logging.getLogger(__name__)

SCHEMA = 1
"""Version of ``summary.json`` and of the checkpoints."""

EVALUATION_BATCH = 1000
_PACKAGES = ("ignite-act", "torch", "torchvision", "pytorch-ignite", "tensorboardX", "numpy", "scikit-learn")
_MAY_DIFFER = {"max_epochs", "patience", "device", "output_dir", "data_root"}
"""Settings that a resumed run may change."""


_PARAMETER = re.compile(r"[\w.+-]+")
"""A parameter's value, which also becomes a part of a path."""


def parse_activation(text: str) -> tuple[Activation, dict[str, Parameter]]:
    """The activation and the parameters of ``"leakyrelu:negative_slope=0.1"``.

    Raises:
        UserError: if there is no such activation or it has no such parameters.
    """
    name, colon, listed = text.partition(":")
    parameters: dict[str, Parameter] = {}
    for item in listed.split(",") if colon else ():
        key, _, value = (part.strip() for part in item.partition("="))
        if not key or not _PARAMETER.fullmatch(value):
            raise UserError(f"an activation's parameters are written name:parameter=value, got {text!r}")
        if key in parameters:
            raise UserError(f"parameter {key!r} is given twice in {text!r}")
        parameters[key] = _scalar(value)
    try:
        entry = get_activation(name.strip())
        make_activation(entry.name, **parameters)
    except ValueError as error:
        raise UserError(str(error)) from error
    if not entry.pointwise:
        raise UserError(f"{entry.name} mixes the units of a layer: it is for outputs, not for hidden layers")
    return entry, parameters


def activation_slug(text: str) -> str:
    """The name of an activation in a path: ``leakyrelu`` or ``leakyrelu-negative_slope=0.1``.

    Raises:
        UserError: see `parse_activation`.
    """
    entry, parameters = parse_activation(text)
    return "-".join([entry.name, *(f"{name}={value}" for name, value in sorted(parameters.items()))])


def expand_study(study: StudyConfig) -> list[RunConfig]:
    """The runs of a study: ``all`` becomes every activation for hidden layers; every variant comes once.

    Raises:
        UserError: if an activation does not exist or cannot be used as it is asked for.
    """
    wanted: list[str] = []
    for act in study.act:
        everything = [name for name, entry in ACTIVATIONS.items() if entry.pointwise]
        if study.style == "functional":
            everything = [name for name in everything if ACTIVATIONS[name].functional is not None]
        wanted.extend(everything if act == "all" else [act])
    unique = {activation_slug(act): act for act in wanted}
    runs = study.runs(tuple(unique.values()))
    for config in runs:
        check_activation(config)
    return runs


def check_activation(config: RunConfig) -> None:
    """Tries the activation on layers of the configured widths: torch refuses some parameters only when it computes.

    Raises:
        UserError: if the function refuses its parameters or has no form in the configured style.
    """
    entry, parameters = parse_activation(config.act)
    try:
        with torch.random.fork_rng(devices=[]):
            for width in sorted(set(config.hidden)):
                MLP(1, [width], 1, entry.name, parameters, config.style)(torch.zeros(2, 1)).sum().backward()
    except (ValueError, RuntimeError, OverflowError) as error:
        raise UserError(f"activation {config.act!r}: {_first_line(error)}") from error


def run_directory(config: RunConfig, output_dir: Path) -> Path:
    """``<output_dir>/<data>/<activation>/seed-<n>``."""
    return output_dir / config.data / activation_slug(config.act) / f"seed-{config.seed}"


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
    entry, parameters = parse_activation(config.act)
    device = _device(config.device)
    data = load_data(config.data, config.data_root).to(device)
    torch.manual_seed(config.seed)
    try:
        model = build_model(
            config.model, data.train.x.shape[1:], config.hidden, data.outputs, entry.name, parameters, config.style
        )
        model.to(device)
    except (ValueError, RuntimeError) as error:  # also a network that does not fit into the memory
        raise UserError(f"the network cannot be built: {_first_line(error)}") from error
    loader = TensorLoader(
        data.train, config.batch_size, shuffle=data.shuffle, drop_last=data.drop_last, seed=config.seed
    )
    scaler = create_scaler(device, amp=config.amp)
    return _Parts(config, device, data, model, _optimizer(config, model), scaler, loader)


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
    check_run_directory(config, directory, resume=resume, overwrite=overwrite)
    if resume and _is_finished(directory, config):
        return RunResult(directory, _read_json(directory / "summary.json"), _last_report(directory))
    parts = prepare(config)
    checkpoint = _resumable_checkpoint(directory) if resume else None
    _make_run_directory(directory, config, keep=checkpoint is not None)
    with _log_file(directory / "train.log"), _outputs(directory, config, checkpoint, quiet=quiet) as sinks:
        return _Run(parts, directory, sinks, quiet=quiet).execute(checkpoint)


def _resumable_checkpoint(directory: Path) -> dict[str, Any] | None:
    path = directory / "checkpoints" / "last.pt"
    return load_checkpoint(path) if path.exists() else None


def check_run_directory(config: RunConfig, directory: Path, *, resume: bool = False, overwrite: bool = False) -> None:
    """Refuses a directory whose run would be mixed with another.

    Raises:
        UserError: if a run exists and neither flag is given, or the one to resume had other settings.
    """
    try:
        exists = (directory / "config.yaml").exists()
    except OSError as error:
        raise UserError(f"cannot read {directory}: {error.strerror}") from error
    if not exists or overwrite:
        return
    if not resume:
        epochs = len(_reports(directory))
        state = "finished" if (directory / "summary.json").exists() else "unfinished"
        raise UserError(
            f"{directory} holds {'an' if state == 'unfinished' else 'a'} {state} run of {epochs} epochs: "
            "--resume goes on with it, --overwrite starts over, --output-dir takes another place"
        )
    try:
        saved = dict(yaml.safe_load((directory / "config.yaml").read_text(encoding="utf-8"))["config"])
        saved["act"] = activation_slug(saved["act"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, UserError) as error:
        raise UserError(f"{directory / 'config.yaml'} cannot be read; --overwrite starts over") from error
    mine = {**config.model_dump(mode="json"), "act": activation_slug(config.act)}
    different = [
        f"{name} {saved.get(name)!r} -> {value!r}"
        for name, value in mine.items()
        if name not in _MAY_DIFFER and saved.get(name) != value
    ]
    if different:
        raise UserError(
            f"{directory} was run with other settings ({', '.join(different)}): "
            "--resume with the same ones, or --overwrite to start over"
        )


class _Run:
    """The engines of a run and their handlers, in the order that matters."""

    def __init__(self, parts: _Parts, directory: Path, sinks: FanOut, *, quiet: bool) -> None:
        config, device = parts.config, parts.device
        self.parts = parts
        self.directory = directory
        self.begin = time.perf_counter()
        self.trainer = create_trainer(
            parts.model,
            parts.optimizer,
            parts.data.task,
            device=device,
            amp=config.amp,
            accumulate=config.accumulate,
            clip_norm=config.clip_norm,
            scaler=parts.scaler,
        )
        self.evaluator = create_evaluator(parts.model, parts.data.task, device=device, amp=config.amp)
        self.state = _RunState(self.trainer, activation_slug(config.act))
        self.early_stopping = EarlyStopping(config.patience or sys.maxsize, _score, self.trainer)
        self.early_stopping.logger.setLevel(logging.WARNING)  # the stop reason is in the summary
        saver = _ReplacingSaver(directory / "checkpoints", require_empty=False)
        self.best = Checkpoint(
            {"model": parts.model, "run": self.state}, saver, filename_pattern="best.pt", score_function=_score
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
        self.last = Checkpoint(self.resumable, saver, filename_pattern="last.pt")
        self._bind(sinks)
        if not quiet and sys.stderr.isatty():
            often = Events.ITERATION_COMPLETED(every=math.ceil(len(parts.loader) / 50))  # every step is redrawn
            ProgressBar(desc=activation_slug(config.act)).attach(self.trainer, event_name=often)

    def _bind(self, sinks: FanOut) -> None:
        """Binds the handlers; at the end of an epoch they run in this order."""
        trainer, evaluator = self.trainer, self.evaluator
        validation = TensorLoader(self.parts.data.validation, EVALUATION_BATCH)
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

    def execute(self, checkpoint: Mapping[str, Any] | None) -> RunResult:
        """Trains from the beginning or from a checkpoint, then tests with the best weights."""
        if checkpoint is not None:
            self._restore(checkpoint)
        if self.state.stop is None:
            with self.diagnostics:
                self.trainer.run(self.parts.loader, max_epochs=self.parts.config.max_epochs)
        summary = self._summary()
        _write_atomically(self.directory / "summary.json", json.dumps(summary, indent=2, allow_nan=False) + "\n")
        logger.info("%s; test %s", summary["stop_reason"], summary["test"])
        return RunResult(self.directory, summary, _last_report(self.directory))

    def _restore(self, checkpoint: Mapping[str, Any]) -> None:
        Checkpoint.load_objects(self.resumable, checkpoint)
        self.begin -= self.state.seconds
        if self.state.stop == "all_epochs" and self.state.epoch < self.parts.config.max_epochs:
            self.state.stop = None
        elif self.state.stop is None and self.state.epoch >= self.parts.config.max_epochs:
            self.state.stop = "all_epochs"

    def _decide(self, engine: Engine) -> None:
        """Whether this epoch was the last one, and why; the answer goes into the checkpoint."""
        self.state.epoch = engine.state.epoch
        self.state.seconds = time.perf_counter() - self.begin
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
        best = load_checkpoint(self.directory / "checkpoints" / "best.pt")
        self.parts.model.load_state_dict(best["model"])
        scores = {
            split: self._evaluate(samples) for split, samples in (("validation", data.validation), ("test", data.test))
        }
        inside = self._inside(data.train) if config.diagnostics else {"dead_neurons": {}, "activations": {}}
        reports = _reports(self.directory)
        last = reports[-1] if reports else None
        return {
            "schema": SCHEMA,
            "activation": activation_slug(config.act),
            "seed": config.seed,
            "epochs": self.state.epoch,
            "best_epoch": best["run"]["epoch"],
            **scores,
            "stop": self.state.stop,
            "stop_reason": self._stop_reason(),
            **inside,
            "gradients": {name: _plain(row) for name, row in last.gradients.items()} if last else {},
            "findings": [],
            "coverage": dict(last.coverage) if last else {},
            "cost": sum(report.cost for report in reports) / max(len(reports), 1),
            "seconds": round(self.state.seconds, 3),
            "versions": _versions(),
        }

    def _evaluate(self, samples: Split) -> dict[str, float | None]:
        self.evaluator = create_evaluator(
            self.parts.model, self.parts.data.task, device=self.parts.device, amp=self.parts.config.amp
        )
        metrics = self.evaluator.run(TensorLoader(samples, EVALUATION_BATCH)).metrics
        return {name: _finite(metrics[name]) for name in ("loss", "accuracy")}

    def _inside(self, samples: Split) -> dict[str, Any]:
        """Dead neurons and activations of the fixed network over all training samples."""
        evaluator = create_evaluator(
            self.parts.model, self.parts.data.task, device=self.parts.device, amp=self.parts.config.amp
        )
        with DeadNeurons(self.parts.model) as dead, ActivationStats(self.parts.model, every=1) as activations:
            dead.attach(evaluator)
            activations.attach(evaluator)
            evaluator.run(TensorLoader(samples, EVALUATION_BATCH))
        rows = {}
        for name, row in activations.result.items():
            edges, counts = coarse_histogram(row["edges"], row["counts"])
            rows[name] = _plain({**row, "edges": edges, "counts": counts})
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

    def __init__(self, trainer: Engine, activation: str) -> None:
        self._trainer = trainer
        self.activation = activation
        self.epoch = 0
        self.seconds = 0.0
        self.stop: str | None = None

    def state_dict(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "activation": self.activation,
            "epoch": self._trainer.state.epoch,
            "seconds": self.seconds,
            "stop": self.stop,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.epoch = int(state["epoch"])
        self.seconds = float(state["seconds"])
        self.stop = state["stop"]


class _RandomState:
    """torch's random state, on the host and on the GPUs."""

    def state_dict(self) -> dict[str, Any]:
        return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        torch.set_rng_state(state["cpu"].cpu())
        if len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all([item.cpu() for item in state["cuda"]])


class _ReplacingSaver(DiskSaver):
    """Replaces a file of the same name in one step; Ignite would delete the old one before it writes the new one."""

    def remove(self, filename: str) -> None:
        """Nothing: the new file takes the old one's place."""


def _score(evaluator: Engine) -> float:
    """What early stopping and the best checkpoint maximise: validation accuracy; non-finite is never better."""
    loss, accuracy = evaluator.state.metrics["loss"], evaluator.state.metrics["accuracy"]
    return accuracy if math.isfinite(loss) and math.isfinite(accuracy) else -math.inf


def scores_report(trainer: Engine, evaluator: Engine) -> EpochReport:
    """A report with the scores alone, for a run without diagnostics."""
    return EpochReport(trainer.state.epoch, trainer.state.iteration, scores=scores(trainer, evaluator))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of a run: tensors and plain types, nothing in it is executed.

    Raises:
        UserError: if it cannot be read or is of another version.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        schema = checkpoint["run"]["schema"]
    except Exception as error:  # torch raises many kinds for a file that is none of its own
        raise UserError(
            f"the checkpoint {path} cannot be read: {_first_line(error)}; --overwrite starts over"
        ) from error
    if schema != SCHEMA:
        raise UserError(f"the checkpoint {path} has version {schema!r}, this program reads {SCHEMA}")
    return checkpoint


def _optimizer(config: RunConfig, model: nn.Module) -> Optimizer:
    parameters, lr, decay = model.parameters(), config.lr, config.weight_decay
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr, momentum=config.momentum, weight_decay=decay)
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(parameters, lr, momentum=config.momentum, weight_decay=decay)
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, lr, weight_decay=decay)


def _device(name: str) -> torch.device:
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, there in available.items() if there))
    if not available[name]:
        raise UserError(
            f"device {name} is not available here (available: {', '.join(k for k in available if available[k])})"
        )
    return torch.device(name)


def _make_run_directory(directory: Path, config: RunConfig, *, keep: bool) -> None:
    """The directory with ``config.yaml``; what an earlier run left is removed unless it is kept.

    Raises:
        UserError: if it cannot be written.
    """
    try:
        (directory / "checkpoints").mkdir(parents=True, exist_ok=True)
        if not keep:
            for pattern in ("epochs.jsonl", "summary.json", "train.log", "events.out.*", "checkpoints/*.pt"):
                for path in directory.glob(pattern):
                    path.unlink()
        record = {"config": config.model_dump(mode="json"), "versions": _versions(), "command": shlex.join(sys.argv)}
        _write_atomically(directory / "config.yaml", yaml.safe_dump(record, sort_keys=False))
    except OSError as error:
        raise UserError(f"cannot write {directory}: {error.strerror}") from error


def _is_finished(directory: Path, config: RunConfig) -> bool:
    path = directory / "summary.json"
    if not path.exists():
        return False
    summary = _read_json(path)
    return not (summary["stop"] == "all_epochs" and summary["epochs"] < config.max_epochs)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise ValueError(f"it has version {content['schema']!r}, this program reads {SCHEMA}")
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {_first_line(error)}; --overwrite starts over") from error
    return dict(content)


def _reports(directory: Path) -> list[EpochReport]:
    path = directory / "epochs.jsonl"
    try:
        return read_reports(path) if path.exists() else []
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {_first_line(error)}; --overwrite starts over") from error


def _last_report(directory: Path) -> EpochReport | None:
    return next(reversed(_reports(directory)), None)


@contextlib.contextmanager
def _outputs(
    directory: Path, config: RunConfig, checkpoint: Mapping[str, Any] | None, *, quiet: bool
) -> Iterator[FanOut]:
    """The sinks of a run; what was written after the checkpoint is taken back."""
    epoch = checkpoint["run"]["epoch"] if checkpoint is not None else None
    path = directory / "epochs.jsonl"
    if epoch is not None:
        kept = [line for report in _reports(directory) if report.epoch <= epoch for line in [json_line(report)]]
        _write_atomically(path, "".join(kept))
    tensorboard = TensorBoardSink(directory, purge_after=epoch)
    sinks: list[Sink] = [JsonLinesSink(path), tensorboard, ConsoleSink(logger.info, config.max_epochs)]
    if not quiet:
        sinks.append(ConsoleSink(max_epochs=config.max_epochs))
    try:
        yield FanOut(sinks)
    finally:
        tensorboard.close()


@contextlib.contextmanager
def _log_file(path: Path) -> Iterator[None]:
    """What the package logs goes into the file, too."""
    package = logging.getLogger("ignite_act")
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = package.level
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    try:
        yield
    finally:
        package.removeHandler(handler)
        package.setLevel(level)
        handler.close()


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _scalar(text: str) -> Parameter:
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return {"true": True, "false": False}.get(text.lower(), text)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with None for NaN, as JSON wants it."""
    return {key: _finite(item) if isinstance(item, float) else item for key, item in row.items()}
