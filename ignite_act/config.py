"""One typed configuration: a YAML file, with command-line options over it, validated in one place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, ValidationError, model_validator
from yaml.constructor import ConstructorError

from ignite_act.errors import UserError, one_line, quoted
from ignite_act.files import read_text

DataName = Literal["digits", "circles", "fashionmnist"]
Style = Literal["module", "shared", "functional"]
Metric = Literal["test_accuracy", "test_loss", "last_accuracy", "last_loss", "dead"]
"""What can be set beside a published number: test scores and dead neurons with the best weights, or validation scores
after the last epoch."""
LARGEST_SEED = 2**31 - 1
LARGEST = 1 << 20
"""Limit in bytes for a configuration file; parsing YAML is slow."""
WIDEST = 65536
"""Units of a layer."""
MOST = 10**9
"""Of what is counted: samples, steps, epochs."""

PER_DATA: dict[str, dict[str, Any]] = {
    "digits": {"optimizer": "sgd", "lr": 0.01, "batch_size": 32, "max_epochs": 50, "patience": 7},
    "circles": {"optimizer": "adam", "lr": 1e-4, "batch_size": 32, "max_epochs": 300, "patience": 0},
    "fashionmnist": {"optimizer": "sgd", "lr": 0.01, "batch_size": 256, "max_epochs": 50, "patience": 7},
}
"""Defaults that depend on the data; those of circles and fashionmnist are the reference studies'."""

_HIDDEN = {"mlp": (512, 256, 256, 128), "cnn": (32, 64)}


_MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """YAML's plain types.

    A merge (``<<``) keeps each pair once, so that a few lines cannot fill the memory, and of several mappings the first
    wins, as YAML says: PyYAML up to 6.0.3 does not do the one, 6.0.4 not the other.
    """

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Puts the pairs of merged mappings into a mapping, before its own, which win."""
        given = node.value
        node.value = [pair for pair in given if pair[0].tag != _MERGE]
        pairs: list[tuple[yaml.Node, yaml.Node]] = []
        for merged in (value for key, value in given if key.tag == _MERGE):
            for mapping in reversed(merged.value if isinstance(merged, yaml.SequenceNode) else [merged]):
                if not isinstance(mapping, yaml.MappingNode):
                    raise ConstructorError(None, None, "only mappings can be merged", mapping.start_mark)
                self.flatten_mapping(mapping)
                pairs += mapping.value
        last = {(id(key), id(value)): (key, value) for key, value in reversed([*pairs, *node.value])}
        node.value = list(last.values())[::-1]
        super().flatten_mapping(node)


def _split_numbers(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _word(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _holds_bool(value: Any) -> bool:
    return any(isinstance(item, bool) for item in (value if isinstance(value, (list, tuple)) else [value]))


class Settings(BaseModel):
    """What every run of a study shares."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    data: DataName = Field("digits", description="data set; digits and circles are embedded")
    data_root: Path | None = Field(None, description="where fashionmnist lies or is downloaded to")
    model: Literal["mlp", "cnn"] = Field("mlp", description="multilayer perceptron, or a small CNN with batch norm")
    hidden: Annotated[tuple[Annotated[int, Field(ge=1, le=WIDEST)], ...], BeforeValidator(_split_numbers)] = Field(
        min_length=1, description="widths of the hidden layers (cnn: channels), separated by commas"
    )
    style: Style = Field(
        "module", description="one activation module per place, one shared module in every place, or functional calls"
    )
    optimizer: Literal["sgd", "adam", "adamw", "rmsprop"] = Field(description="optimizer")
    lr: float = Field(gt=0, le=1e30, allow_inf_nan=False, description="learning rate")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd and rmsprop")
    weight_decay: float = Field(0.0, ge=0, le=1e30, allow_inf_nan=False, description="weight decay")
    batch_size: int = Field(ge=1, le=MOST, description="samples in a batch")
    max_epochs: int = Field(ge=1, le=MOST, description="train for at most so many epochs")
    patience: int = Field(
        ge=0, le=MOST, description="stop after so many epochs without a better validation accuracy; 0: never"
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="where to compute")
    amp: bool = Field(False, description="mixed precision (float16 on GPUs, bfloat16 on CPUs)")
    accumulate: int = Field(1, ge=1, le=MOST, description="batches whose gradients make one optimizer step")
    clip_norm: float | None = Field(
        None, gt=0, le=1e30, allow_inf_nan=False, description="clip the gradients' norm to this"
    )
    diagnostics: bool = Field(True, description="measure what happens inside the network")
    every: int | None = Field(
        None,
        ge=1,
        le=MOST,
        description="measure in one step of so many; without it gradients in all, activations in one of 10",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, given: Any) -> Any:
        """Defaults that depend on the data or the model."""
        if not isinstance(given, Mapping):
            return given
        for name, value in given.items():
            field = cls.model_fields.get(name)
            if field is not None and field.annotation is not bool and _holds_bool(value):  # YAML's yes, on, true
                raise ValueError(f"{name}: {quoted(value)} is a yes or no, not what is expected here")
        data, model = (_word(given.get(name, default)) for name, default in (("data", "digits"), ("model", "mlp")))
        filled = {**PER_DATA.get(data, {}), **given}
        hidden = (5, 5, 5, 5) if data == "circles" else _HIDDEN.get(model, ())
        return {"hidden": hidden, **filled}

    @model_validator(mode="after")
    def _fits_together(self) -> Settings:
        if self.data == "circles" and self.model == "cnn":
            raise ValueError("the circles are points in a plane, a cnn needs images: choose another data set or mlp")
        return self


class RunConfig(Settings):
    """One run: one activation function, one seed."""

    act: str = Field("relu", description="activation function")
    seed: int = Field(42, ge=0, le=LARGEST_SEED, description="seed of the weights and of the order of the batches")
    published: dict[Metric, FiniteFloat] = Field({}, description="what others report for this variant")


class StudyConfig(Settings):
    """A set of variants, as a file or a command line asks for it."""

    act: Annotated[tuple[str, ...], BeforeValidator(_listed)] = Field(
        ("relu",), min_length=1, description="activation function, repeatable; name:parameter=value, or all"
    )
    seed: int = Field(42, ge=0, le=LARGEST_SEED, description="seed of the weights and of the order of the batches")
    seeds: int = Field(1, ge=1, le=10_000, description="train every variant with so many seeds, counted from --seed")
    published: dict[str, dict[Metric, FiniteFloat]] = Field(
        {}, description="activation function -> what others report for it, shown beside the results"
    )

    @model_validator(mode="after")
    def _seeds_exist(self) -> StudyConfig:
        if self.seed + self.seeds - 1 > LARGEST_SEED:
            raise ValueError(f"the largest seed is {LARGEST_SEED}, {self.seeds} seeds from {self.seed} go beyond it")
        return self

    def runs(self, activations: tuple[str, ...]) -> list[RunConfig]:
        """One run for each seed and each of the given activation functions; all variants of a seed come together."""
        shared = self.model_dump(exclude={"act", "seed", "seeds", "published"})
        return [
            RunConfig(**shared, act=act, seed=seed)
            for seed in range(self.seed, self.seed + self.seeds)
            for act in activations
        ]


def load_study(path: Path | None, overrides: Mapping[str, Any]) -> StudyConfig:
    """The configuration of a YAML file (optional) with overrides.

    Args:
        path: YAML file with the keys of `StudyConfig`.
        overrides: values that replace those of the file.

    Raises:
        UserError: if the file cannot be read or something in it, or in the overrides, is not valid.
    """
    given = {**(read_yaml(path) if path is not None else {}), **overrides}
    try:
        return StudyConfig(**given)
    except ValidationError as error:
        where = f"{path}: " if path is not None else ""
        raise UserError(where + "; ".join(_problems(error, StudyConfig, given))) from error


def run_config(given: Mapping[str, Any]) -> RunConfig:
    """The configuration of a run from plain types.

    Raises:
        UserError: if something in it is not valid.
    """
    try:
        return RunConfig(**given)
    except ValidationError as error:
        raise UserError("; ".join(_problems(error, RunConfig, given))) from error


def read_yaml(path: Path) -> dict[str, Any]:
    """The pairs of a YAML file, in plain types; nothing in it is executed.

    Raises:
        UserError: if it cannot be read or holds anything else.
    """
    try:
        text = read_text(path, LARGEST)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not valid YAML: {one_line(error)}") from error
    try:
        return parse_yaml(text)
    except UserError as error:
        raise UserError(f"{path} {error}") from error


def parse_yaml(text: str) -> dict[str, Any]:
    """The pairs of a text in YAML, in plain types; nothing in it is executed.

    Raises:
        UserError: if it holds anything else; the message continues a sentence that begins with the file's name.
    """
    try:
        content = yaml.load(text, _Loader)
    except Exception as error:  # PyYAML raises many kinds for a value that does not fit its tag
        raise UserError(f"is not valid YAML: {one_line(error)}") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError(f"must hold 'key: value' pairs, got {type(content).__name__}")
    return content


def _problems(error: ValidationError, kind: type[Settings], given: Mapping[str, Any]) -> list[str]:
    """One problem a key, the first one; what is said of a key that nobody gave only follows from the others."""
    unknown = sorted(name for name in given if name not in kind.model_fields)
    problems: dict[str, str] = {}
    for item in error.errors():
        name = str(item["loc"][0]) if item["loc"] else ""
        if name not in unknown and (name in given or not name):
            message = item["msg"].removeprefix("Value error, ")
            message = message[:1].lower() + message[1:]
            problems.setdefault(name, f"{name}: {message}, got {quoted(given[name])}" if name else message)
    listed = []
    if unknown:
        names, known = ", ".join(map(quoted, unknown)), ", ".join(kind.model_fields)
        listed = [f"unknown {'keys' if len(unknown) > 1 else 'key'} {names} (known: {known})"]
    return [*listed, *problems.values()]
