"""The numbers of one epoch, frozen: everything that is shown or judged is read from here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

SCHEMA = 2
"""Version of the format of `EpochReport.to_dict`."""

Rows = Mapping[str, Mapping[str, Any]]
"""Name of a layer or site -> its plain numbers."""

Severity = Literal["info", "warning", "error"]

_OCTAVES = 10
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_NAMES = {"producer", "function", "hidden_softmax", "dropout_layer", "loss_applies", "applies_again",
          "takes_logarithms_of"}  # fmt: skip
"""What is a name, or a word, in `EpochReport.output`."""


@dataclass(frozen=True)
class Finding:
    """Something that is wrong in a training run, or worth knowing, and what shows it.

    Attributes:
        kind: one of `ignite_act.findings.KINDS`.
        severity: ``"error"``: the training cannot succeed like this; ``"warning"``: it is held back; ``"info"``: no
            harm.
        layer: the layer or site to blame; None where no single one is.
        since_epoch: the first epoch whose numbers show it.
        evidence: plain numbers and words: ``quantity`` (what was measured), ``value``, ``threshold``, and what else
            belongs to it.
        harm: what it does to the training as far as that can be seen.
        advice: one or two things to try.
        source: where the rule or its threshold comes from.
        cleared_epoch: the epoch in which it was over; None while it lasts.
    """

    kind: str
    severity: Severity
    layer: str | None
    since_epoch: int
    evidence: Mapping[str, Any]
    harm: str
    advice: tuple[str, ...]
    source: str
    cleared_epoch: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain types that any JSON reader takes."""
        return {name: _encoded(value) for name, value in vars(self).items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Finding:
        """The finding that `to_dict` came from.

        Raises:
            ValueError: if the data is none.
        """
        check_shape(_FindingShape, data)
        return cls(**{**data, "evidence": _decoded(data["evidence"]), "advice": tuple(data["advice"])})


@dataclass(frozen=True)
class EpochReport:
    """What was measured in one window, as plain numbers.

    Attributes:
        epoch: the engine's epoch, from 1.
        iteration: the engine's iteration at the end of the window.
        partial: whether the window was cut short.
        scores: metric -> split (``"train"``, ``"validation"``) -> value, as the engines published them.
        gradients: layer -> the row of `GradientStats.result`.
        activations: site -> the row of `ActivationStats.result`, its histogram with four bins per octave.
        dead_neurons: site -> the row of `DeadNeurons.result`.
        updates: layer -> what the optimizer did to its weight, see `UpdateCollector`.
        signal: ``"input"`` and every layer in the order of the calls -> magnitude of what came out, see
            `SignalCollector`.
        output: the model's output and what the loss makes of it, see `OutputCollector`; empty if it was not seen.
        loss: the training loss over the window, see `LossCollector`; empty if it is not known.
        findings: what is wrong, the cause before its consequences; those that were cleared in this epoch come last.
        coverage: diagnostic -> what was seen and what not.
        cost: share of the window's wall time that measuring took; 0 when read back: `JsonLinesSink` leaves it out.
    """

    epoch: int
    iteration: int
    partial: bool = False
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    gradients: Rows = field(default_factory=dict)
    activations: Rows = field(default_factory=dict)
    dead_neurons: Rows = field(default_factory=dict)
    updates: Rows = field(default_factory=dict)
    signal: Rows = field(default_factory=dict)
    output: Mapping[str, Any] = field(default_factory=dict)
    loss: Mapping[str, Any] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    coverage: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    cost: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain types that any JSON reader takes: non-finite numbers become the words NaN, Infinity, -Infinity."""
        return {"schema": SCHEMA, **{name: _encoded(value) for name, value in vars(self).items()}}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EpochReport:
        """The report that `to_dict` came from.

        Raises:
            ValueError: if the data is of another version of the format, or is no report.
        """
        schema = data.get("schema") if isinstance(data, Mapping) else None
        if schema != SCHEMA:
            raise ValueError(f"cannot read a report of schema {schema!r}, this is schema {SCHEMA}")
        values = {name: value if name in ("findings", "coverage") else _decoded(value) for name, value in data.items()}
        check_shape(_ReportShape, values)
        output = {name: data["output"][name] for name in _NAMES & set(values.setdefault("output", {}))}
        findings = tuple(map(Finding.from_dict, data["findings"]))
        del values["schema"]
        return cls(**{**values, "output": {**values["output"], **output}, "findings": findings})

    @property
    def gradient_ratio(self) -> float:
        """Mean absolute gradient of the first layer over that of the last; NaN if there are not two."""
        ratio = gradient_ratio(self.gradients)
        return math.nan if ratio is None else ratio

    @property
    def dead(self) -> int:
        """Dead units of all sites together."""
        return over_sites(self.dead_neurons, "dead")

    @property
    def units(self) -> int:
        """Units of all sites together."""
        return over_sites(self.dead_neurons, "units")


def gradient_ratio(gradients: Rows) -> float | None:
    """First layer over last; None where either is missing (no finite step) or the last one is zero."""
    means = [row["mean_abs"] for row in gradients.values()]
    first, last = (means[0], means[-1]) if len(means) > 1 else (None, None)
    return float(first / last) if first is not None and last else None


def over_sites(dead_neurons: Rows, key: str) -> int:
    """``"dead"`` or ``"units"`` of all sites together."""
    return sum(row[key] for row in dead_neurons.values())


def coarse_histogram(edges: list[float], counts: list[int]) -> tuple[list[float], list[int]]:
    """The same counts in at most about a hundred bins: four per octave over ten octaves, what is smaller together.

    The first and the last edge stay, so nothing is lost at the ends.
    """
    import numpy as np  # not for those who only want --help

    if not counts:
        return [], []
    bounds = np.array(edges)
    mantissas, _ = np.frexp(bounds)
    ends = (mantissas * 8 % 1 == 0) & (np.abs(bounds) >= max(abs(edges[0]), abs(edges[-1])) * 2.0**-_OCTAVES)
    ends[0] = ends[-1] = True
    totals = np.cumsum([0, *counts])[ends]
    return bounds[ends].tolist(), np.diff(totals).tolist()


def with_coarse_histogram(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `ActivationStats.result` with its histogram made coarse, as reports and summaries hold it."""
    edges, counts = coarse_histogram(row["edges"], row["counts"])
    return {**row, "edges": edges, "counts": counts}


def _encoded(value: Any) -> Any:
    if isinstance(value, Finding):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {str(name): _encoded(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encoded(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _decoded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _decoded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    return _NON_FINITE.get(value, value) if isinstance(value, str) else value


# What files must hold, so that whoever shows it can rely on it.

_LARGEST = 1e300


def _bounded(value: float) -> float:
    if _LARGEST < abs(value) < math.inf:
        raise ValueError("the number is too large")
    return value


Number = Annotated[float, AfterValidator(_bounded)]
"""NaN and infinities included; small enough to be added up and shown in percent."""
Finite = Annotated[Number, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, lt=2**53)]


class Shape(BaseModel):
    """Keys and types of stored data; numbers are numbers, not their words."""

    model_config = ConfigDict(strict=True)


class GradientShape(Shape):
    """A row of gradients, as far as it is read."""

    mean_abs: Number | None = None


class DeadShape(Shape):
    """A row of dead neurons, as far as it is read."""

    dead: Count
    units: Count


class HistogramShape(Shape):
    """The histogram of a row of activations; it may have been left out."""

    zero_fraction: Number | None = None
    edges: list[Finite] = []
    counts: list[Count] = []

    @model_validator(mode="after")
    def _is_histogram(self) -> HistogramShape:
        if len(self.edges) != (len(self.counts) + 1 if self.counts else 0):
            raise ValueError("a histogram has one edge more than counts")
        if any(high - low < 1 / _LARGEST for low, high in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError("the edges of a histogram increase")
        return self


class CoverageShape(Shape):
    """What a diagnostic saw, as far as it is read."""

    unseen: dict[str, str] = {}


class _UpdateShape(Shape):
    ratio: Number | None = None


class _ReportShape(Shape):
    model_config = ConfigDict(extra="forbid")

    schema_: int = Field(alias="schema")
    epoch: Count
    iteration: Count
    partial: bool = False
    scores: dict[str, dict[str, Number | None]] = {}
    gradients: dict[str, GradientShape] = {}
    activations: dict[str, HistogramShape] = {}
    dead_neurons: dict[str, DeadShape] = {}
    updates: dict[str, _UpdateShape] = {}
    signal: dict[str, dict[str, Any]] = {}
    output: dict[str, Any] = {}
    loss: dict[str, Any] = {}
    findings: list[Any]
    coverage: dict[str, CoverageShape] = {}
    cost: Number = 0.0


class _FindingShape(Shape):
    model_config = ConfigDict(extra="forbid")

    kind: str
    severity: Severity
    layer: str | None
    since_epoch: Count
    evidence: dict[str, Any]
    harm: str
    advice: list[str]
    source: str
    cleared_epoch: Count | None = None


def check_shape(shape: type[Shape], data: object) -> None:
    """Refuses data that has not the keys and types of a shape.

    Raises:
        ValueError: in one line, which names the first place that does not fit.
    """
    try:
        shape.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{place}: {first['msg'][:1].lower()}{first['msg'][1:]}" if place else first["msg"]) from error
