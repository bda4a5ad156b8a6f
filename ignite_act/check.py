"""Judges a model of the user's: a few hundred steps of training with all diagnostics, without a loop of the user's."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from ignite.engine import Events
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from ignite_act.data import Data, Split, TensorLoader, load_data
from ignite_act.engines import create_evaluator, create_trainer
from ignite_act.errors import UserError, foreign, quoted
from ignite_act.handlers import Diagnostics
from ignite_act.report import EpochReport, Finding
from ignite_act.sinks import Sink

WINDOWS = 10
"""Reports that the steps of a check are divided into."""
_VALIDATION = 1000
_OWN_SPLIT = 0.8  # of data of the user's that is trained on
OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": lambda parameters, lr: torch.optim.SGD(parameters, lr, momentum=0.9),
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


@dataclass(frozen=True)
class Checked:
    """What a check found.

    Attributes:
        findings: those that stand at its end, causes before consequences, then those that were cleared.
        report: of the last window; None if not a single step could be made.
        steps: that were made.
        error: what ended it early; empty if nothing did.
    """

    findings: tuple[Finding, ...]
    report: EpochReport | None
    steps: int
    error: str = ""


def check(
    model: nn.Module,
    data: Data,
    *,
    optimizer: str | Optimizer = "adam",
    lr: float = 1e-3,
    batch_size: int = 32,
    steps: int = 300,
    seed: int = 42,
    sinks: Iterable[Sink] = (),
) -> Checked:
    """Trains a model for some steps and judges what is seen.

    The steps are divided into ten windows, each with a report and a look at the validation samples. The loss is
    cross-entropy of logits, or binary cross-entropy for two classes with one logit.

    Args:
        model: takes ``(N, ...)`` and gives one logit a class; it is trained.
        data: what to train on; images are flattened if the model asks for it.
        optimizer: by name, or one that owns the model's parameters.
        lr: learning rate of an optimizer that is made here.
        batch_size: samples in a step.
        steps: how many to make; rounded up to whole windows.
        seed: of the order of the samples and of what is random in the model's forward.
        sinks: see `Diagnostics`.

    Raises:
        UserError: if the model cannot be called with the data, or gives outputs of another shape, or cannot be trained.
    """
    torch.manual_seed(seed)
    with foreign("the model cannot be trained"):
        data = _fitting(model, data)
        if isinstance(optimizer, str):
            optimizer = _made(optimizer, model, lr)
    with foreign("the model cannot be watched"):
        return _checked(model, data, optimizer, batch_size, steps, seed, sinks)


def _checked(
    model: nn.Module, data: Data, optimizer: Optimizer, batch_size: int, steps: int, seed: int, sinks: Iterable[Sink]
) -> Checked:
    count, window = windows(steps)
    trainer = create_trainer(model, optimizer, data.task, device=torch.device("cpu"))
    evaluator = create_evaluator(model, data.task, device=torch.device("cpu"))
    held_out = Split(data.validation.x[:_VALIDATION], data.validation.y[:_VALIDATION])
    validation = TensorLoader(held_out, _VALIDATION)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run(validation))
    loader = TensorLoader(data.train, batch_size, shuffle=True, drop_last=True, seed=seed)
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda: loader.set_epoch(trainer.state.epoch))
    error = ""
    with Diagnostics(model, every=1, sinks=sinks).attach(trainer, evaluator) as diagnostics:
        try:
            with foreign():
                trainer.run(loader, max_epochs=count, epoch_length=window)
        except UserError as problem:
            error = f"step {trainer.state.iteration}: {problem}"
            if not isinstance(problem.__cause__ or problem, Exception):  # the user's code asked to exit
                raise UserError(error) from problem
    if not error and trainer.state.iteration < count * window:
        error = f"step {trainer.state.iteration}: the training ended early"
    return Checked(diagnostics.all_findings, diagnostics.report, trainer.state.iteration, error)


def windows(steps: int) -> tuple[int, int]:
    """How many windows so many steps make, and the steps of each: at least as many together.

    >>> windows(300), windows(4), windows(15)
    ((10, 30), (4, 1), (8, 2))
    """
    length = max(1, -(-steps // WINDOWS))
    return -(-steps // length), length


def _made(name: str, model: nn.Module, lr: float) -> Optimizer:
    if not (math.isfinite(lr) and lr > 0):
        raise UserError(f"the learning rate must be a finite number above 0, got {lr}")
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        raise UserError("the model has no parameter that can be trained (requires_grad is False for all of them)")
    return OPTIMIZERS[name](trainable, lr)


def _fitting(model: nn.Module, data: Data) -> Data:
    """The data in the shapes that the model takes and gives.

    Raises:
        UserError: if there are none.
    """
    flat = _converted(data, lambda split: Split(split.x.flatten(1), split.y))
    problems = []
    for candidate in (data, flat) if data.train.x.ndim > 2 else (data,):
        x = candidate.train.x[:2]
        try:
            with foreign(str(tuple(x.shape))):
                output = _first_output(model, x)
        except UserError as error:
            problems.append(str(error))
            continue
        if not isinstance(output, Tensor):
            raise UserError(f"the model returned {type(output).__name__}: a tensor of logits is expected")
        return _with_targets(candidate, output)
    raise UserError(f"the model cannot be called with inputs of shape {'; nor '.join(problems)}")


def _first_output(model: nn.Module, x: Tensor) -> Any:
    """The output of a model that is as it was afterwards, its random state and statistics included."""
    was_training = model.training
    state = {name: copy.deepcopy(value) for name, value in model.state_dict().items() if not is_lazy(value)}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            return model.eval()(x)
        finally:
            model.train(was_training)
            model.load_state_dict(state, strict=False)  # a lazy layer keeps the weights that it has now


def _with_targets(data: Data, output: Tensor) -> Data:
    expected = "(N, 1) or (N,)" if data.task == "binary" else f"(N, {data.outputs})"
    shape = tuple(output.shape)
    if data.task == "binary" and shape == (2,):
        return _converted(data, lambda split: Split(split.x, split.y.flatten()))
    if data.task == "binary" and shape == (2, 2):  # two logits for two classes
        classes = _converted(data, lambda split: Split(split.x, split.y.flatten().long()))
        return replace(classes, task="classification", outputs=2)
    if shape == ((2, 1) if data.task == "binary" else (2, data.outputs)):
        return data
    found = f"({', '.join(['N', *map(str, shape[1:])])})" if shape else "a single number"
    raise UserError(f"the model gives outputs of shape {found}, {data.name} needs {expected}")


def _converted(data: Data, convert: Callable[[Split], Split]) -> Data:
    return replace(data, train=convert(data.train), validation=convert(data.validation), test=convert(data.test))


def load_object(target: str) -> Any:
    """What a target like ``my_module:build_model`` or ``path/to/file.py:build_model`` names.

    Raises:
        UserError: if there is no such thing, or its module cannot be imported.
    """
    place, colon, name = target.rpartition(":")
    if not colon or not place or not name:
        raise UserError(f"{quoted(target)} does not name anything: MODULE:NAME is expected, my_module:build_model say")
    module = _load_module(place)
    found: Any = module
    with foreign(f"{target} cannot be had"):
        for part in name.split("."):
            if not hasattr(found, part):
                known = sorted(own for own in vars(module) if not own.startswith("_"))
                raise UserError(f"{place} has no {quoted(name)} (it has: {', '.join(known) or 'nothing'})")
            found = getattr(found, part)
    return found


def _load_module(place: str) -> ModuleType:
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    with foreign(f"{place} cannot be imported"):
        if not place.endswith(".py"):
            return importlib.import_module(place)
        path = Path(place)
        name = f"checked_{path.stem}"  # random.py must not take the place of the library's
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None or not path.is_file():
            raise UserError(f"there is no file {place}")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module


def load_model(target: str, seed: int = 42) -> nn.Module:
    """The model that a target names: a module, or something that makes one when it is called without arguments.

    Raises:
        UserError: if it does not.
    """
    found = load_object(target)
    if isinstance(found, nn.Module):
        return found
    if not callable(found):
        raise UserError(
            f"{target} is {type(found).__name__}: a torch.nn.Module or a function that makes one is expected"
        )
    torch.manual_seed(seed)
    with foreign(f"{target}() failed"):
        made = found()
    if not isinstance(made, nn.Module):
        raise UserError(f"{target}() returned {type(made).__name__}: a torch.nn.Module is expected")
    return made


def load_own_data(target: str, data_root: Path | None = None) -> Data:
    """A data set by its name, or from a function that a target names: ``(x, y)``, of which a fifth is held out.

    Raises:
        UserError: if it cannot be had.
    """
    if ":" not in target:
        return load_data(target, data_root)
    found = load_object(target)
    with foreign(f"{target}() failed"):
        pair = found() if callable(found) else found
    with foreign(f"the data of {target} cannot be used"):
        return _own_data(target, pair)


def _own_data(target: str, pair: Any) -> Data:
    if not isinstance(pair, Sequence) or len(pair) != 2 or not all(isinstance(part, Tensor) for part in pair):
        raise UserError(f"{target} must give two tensors, inputs and targets")
    x, y = pair
    inputs, targets = (len(part) if part.ndim else 1 for part in (x, y))
    if inputs != targets or inputs < 10:
        raise UserError(
            f"{target} gives {inputs} inputs and {targets} targets: as many of both, at least 10, are expected"
        )
    if y.numel() != len(y) or y.is_complex():
        raise UserError(
            f"{target} gives targets of shape {tuple(y.shape)} and type {y.dtype}: "
            "a class (a whole number), or 0.0 or 1.0, is expected for each input"
        )
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    parts = order.split([int(_OWN_SPLIT * len(x)), len(x) - int(_OWN_SPLIT * len(x))])
    if y.is_floating_point():
        if not bool(((y == 0) | (y == 1)).all()):
            raise UserError(f"the targets of {target} must be classes (whole numbers), or 0.0 and 1.0")
        y = y.reshape(len(y), 1).float()
        train, held_out = (Split(x[part], y[part]) for part in parts)
        return Data(target, train, held_out, held_out, "binary", outputs=1)
    y = y.flatten().long()
    if int(y.min()) < 0:
        raise UserError(f"the targets of {target} must be classes, counted from 0: there is {int(y.min())}")
    train, held_out = (Split(x[part], y[part]) for part in parts)
    return Data(target, train, held_out, held_out, "classification", outputs=int(y.max()) + 1)
