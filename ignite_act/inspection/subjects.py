"""Which networks are looked at: fresh ones as a configuration describes them, and those that runs have left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ignite_act.config import RunConfig, StudyConfig
from ignite_act.data import Data, TensorLoader, find_fashion_mnist, load_data
from ignite_act.engines import loss_function
from ignite_act.errors import UserError, first_line
from ignite_act.experiment import EVALUATION_BATCH, build_network
from ignite_act.inspection.network import Inspection, inspect_network
from ignite_act.runs.checkpoints import load_checkpoint
from ignite_act.runs.stored import is_begun, read_config
from ignite_act.variants import activation_slug, check_activation, expand_study

GRADIENT_BATCH = 256
ACTIVATION_BATCH = 1024


@dataclass(frozen=True)
class Subject:
    """A network that can be built.

    Attributes:
        config: of its run.
        epoch: after which the weights were stored; 0 for the fresh network.
        source: the checkpoint; of a fresh network the directory of its run, if there is one.
        weights: the state of the model; None for the fresh network.
    """

    config: RunConfig
    epoch: int = 0
    source: Path | None = None
    weights: Mapping[str, Tensor] | None = None


@dataclass(frozen=True)
class InspectedNetwork:
    """What was found in one network.

    Attributes:
        name: tells it apart from the others that are shown.
        config: of its run.
        epoch: after which the weights were stored; 0 for the fresh network.
        source: see `Subject`.
        inspection: the numbers.
    """

    name: str
    config: RunConfig
    epoch: int
    source: Path | None
    inspection: Inspection

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        return {
            "name": self.name,
            "epoch": self.epoch,
            "source": None if self.source is None else str(self.source),
            "config": self.config.model_dump(mode="json", exclude={"published"}),
            **self.inspection.to_dict(),
        }


def fresh_subjects(study: StudyConfig) -> list[Subject]:
    """The networks that a study would begin to train with its first seed.

    Raises:
        UserError: if an activation does not exist or cannot be used as it is asked for.
    """
    return [Subject(config) for config in expand_study(study.model_copy(update={"seeds": 1}))]


def stored_subjects(places: Iterable[Path], data_root: Path | None = None) -> list[Subject]:
    """The networks of some runs.

    Args:
        places: a run directory stands for its fresh network and for the best one, a directory above run directories
            for all of them, a checkpoint in a run directory for itself. What is named twice comes once.
        data_root: where FashionMNIST lies or is downloaded to, if it does not lie where the run had it.

    Raises:
        UserError: if there is no run or no checkpoint that can be read.
    """
    subjects: dict[Path, Subject] = {}
    for place in (directory for given in places for directory in _run_directories(given)):
        directory, checkpoint = _locate(place)
        config = _read_config(directory, data_root)
        if checkpoint != place:
            subjects.setdefault(directory.resolve(), Subject(config, source=directory))
        subjects.setdefault(checkpoint.resolve(), _trained(config, checkpoint))
    return list(subjects.values())


def inspect_subjects(
    subjects: Sequence[Subject],
    *,
    gradient_batch: int = GRADIENT_BATCH,
    activation_batch: int = ACTIVATION_BATCH,
    whole: bool = False,
) -> list[InspectedNetwork]:
    """Measures networks on the training samples of their data, on the CPU; see `inspect_network` for the modes.

    The gradients are those of the first batch that a run of the same seed and this batch size would take; the
    activations those of the first samples. Dead neurons are always judged by all training samples.

    Args:
        subjects: the networks.
        gradient_batch: samples for the gradients.
        activation_batch: samples for the distribution of the activations.
        whole: take all training samples for both, the gradients in batches of ``gradient_batch``.

    Raises:
        UserError: if a network cannot be built or its data cannot be had.
    """
    loaded: dict[tuple[str, Path | None], Data] = {}
    inspected = []
    for name, subject in zip(_names(subjects), subjects, strict=True):
        config = subject.config
        key = config.data, config.data_root
        if key not in loaded:
            loaded[key] = load_data(*key)
        data = loaded[key]
        order = TensorLoader(data.train, gradient_batch, shuffle=data.shuffle, seed=config.seed)
        everything = TensorLoader(data.train, EVALUATION_BATCH)
        first = TensorLoader(data.train, activation_batch)
        with torch.random.fork_rng(devices=[]):
            found = inspect_network(
                build(subject, data),
                loss_function(data.task),
                gradients=order if whole else [next(iter(order))],
                activations=everything if whole else [next(iter(first))],
                dead_neurons=everything,
            )
        inspected.append(InspectedNetwork(name, config, subject.epoch, subject.source, found))
    return inspected


def build(subject: Subject, data: Data) -> nn.Module:
    """The network, on the CPU: as a run of its configuration begins, then with the stored weights; seeds torch.

    Raises:
        UserError: if it cannot be built or the weights do not fit.
    """
    check_activation(subject.config)
    model = build_network(subject.config, data)
    if subject.weights is not None:
        try:
            model.load_state_dict(subject.weights)
        except (RuntimeError, TypeError, AttributeError) as error:
            raise UserError(f"{subject.source} does not fit the config.yaml of its run: {first_line(error)}") from error
    return model


def _run_directories(place: Path) -> list[Path]:
    """Those below a directory; the place itself if there are none, or it is one, or no directory."""
    try:
        if not place.is_dir() or (place / "config.yaml").is_file():
            return [place]
        folders = (path.parent for path in place.rglob("config.yaml"))
        return sorted(folder for folder in folders if is_begun(folder)) or [place]
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {place}: {first_line(error)}") from error


def _locate(place: Path) -> tuple[Path, Path]:
    """A run directory and its best checkpoint, or a checkpoint and the directory of its run.

    Raises:
        UserError: if the place is neither.
    """
    try:
        is_file, exists = place.is_file(), place.exists()
        directory = place.absolute().parent.parent if is_file else place
        is_run = (directory / "config.yaml").is_file()
        checkpoint = place if is_file else place / "checkpoints" / "best.pt"
        trained = checkpoint.is_file()
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {place}: {first_line(error)}") from error
    if not exists:
        raise UserError(f"there is no {place}: a run directory, or a checkpoint in one, was expected")
    if not is_run and is_file:
        raise UserError(f"{place} is no checkpoint of a run: those are called checkpoints/best.pt in a run directory")
    if not is_run:
        raise UserError(f"there is no run in {place}: a run directory has a config.yaml")
    if not trained:
        raise UserError(f"{place} has no weights yet: {checkpoint.name} is written after the first epoch")
    return directory, checkpoint


def _trained(config: RunConfig, checkpoint: Path) -> Subject:
    stored = load_checkpoint(checkpoint)
    try:
        return Subject(config, int(stored["run"]["epoch"]), checkpoint, dict(stored["model"]))
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{checkpoint} holds no weights of a run") from error


def _read_config(directory: Path, data_root: Path | None) -> RunConfig:
    config, _ = read_config(directory / "config.yaml")
    if data_root is None and config.data_root is not None and find_fashion_mnist(config.data_root):
        return config
    return config.model_copy(update={"data_root": data_root})  # nothing is downloaded to where a file says


def _names(subjects: Sequence[Subject]) -> list[str]:
    """The shortest names that are all different: activation and epoch, then with the seed, then the places."""
    stored = any(subject.source for subject in subjects)
    slugs = [activation_slug(subject.config.act) for subject in subjects]
    states = [f"epoch {subject.epoch}" if subject.weights is not None else "fresh" for subject in subjects]
    if not stored:
        return slugs
    seeds = [subject.config.seed for subject in subjects]
    for names in (
        [f"{slug}, {state}" for slug, state in zip(slugs, states, strict=True)],
        [f"{slug}, seed {seed}, {state}" for slug, seed, state in zip(slugs, seeds, states, strict=True)],
    ):
        if len(set(names)) == len(names):
            return names
    return [f"{subject.source}, {state}" for subject, state in zip(subjects, states, strict=True)]
