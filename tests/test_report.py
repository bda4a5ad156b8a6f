from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

from ignite_act.report import SCHEMA, EpochReport, coarse_histogram
from ignite_act.stats import FloatHistogram

REPORT = EpochReport(
    epoch=3,
    iteration=120,
    partial=True,
    scores={"loss": {"train": 0.5, "validation": math.nan}},
    gradients={"fc1": {"mean_abs": math.inf, "nonfinite": 2}, "fc2": {"mean_abs": -math.inf, "nonfinite": 0}},
    activations={"relu": {"mean": 0.1, "edges": [0.0, 1.0, 2.0], "counts": [3, 4]}},
    dead_neurons={"relu": {"dead": 2, "units": 5}, "relu#2": {"dead": 1, "units": 7}},
    coverage={"gradients": {"seen": ["fc1"], "unseen": {"fc3": "it is frozen"}}},
    cost=0.01,
)


def gradients(*means: float) -> EpochReport:
    return EpochReport(1, 1, gradients={str(number): {"mean_abs": mean} for number, mean in enumerate(means)})


def test_a_report_round_trips_through_plain_json() -> None:
    """Any JSON reader takes it, non-finite numbers included, and from_dict gives the same report back."""
    text = json.dumps(REPORT.to_dict(), allow_nan=False)
    assert repr(EpochReport.from_dict(json.loads(text))) == repr(REPORT)


def test_nonfinite_numbers_are_words() -> None:
    """NaN and infinities are spelled out, as JSON has no numbers for them."""
    data = REPORT.to_dict()
    assert data["schema"] == SCHEMA
    assert data["scores"]["loss"]["validation"] == "NaN"
    assert [row["mean_abs"] for row in data["gradients"].values()] == ["Infinity", "-Infinity"]


@pytest.mark.parametrize("schema", [0, SCHEMA + 1, None])
def test_another_version_is_refused(schema: int | None) -> None:
    """A report of another format is an error that names both versions."""
    with pytest.raises(ValueError, match=f"schema {schema}, this is schema {SCHEMA}"):
        EpochReport.from_dict({**REPORT.to_dict(), "schema": schema})


def test_a_report_is_frozen() -> None:
    """A report is data: its fields cannot be set."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        REPORT.epoch = 4  # type: ignore[misc]


def test_units_are_summed_over_sites() -> None:
    """`dead` and `units` count all sites together."""
    assert (REPORT.dead, REPORT.units) == (3, 12)
    assert (gradients().dead, gradients().units) == (0, 0)


@pytest.mark.parametrize(
    ("means", "ratio"), [((0.5, 9.0, 2.0), 0.25), ((1.0,), math.nan), ((), math.nan), ((1.0, 0.0), math.nan)]
)
def test_the_gradient_ratio_is_first_over_last(means: tuple[float, ...], ratio: float) -> None:
    """The ratio is that of the first layer to the last, NaN where there are not two or the last is 0."""
    assert gradients(*means).gradient_ratio == pytest.approx(ratio, nan_ok=True)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_coarse_histogram_loses_no_count(scale: float, seed: int) -> None:
    """Coarse bins are unions of fine ones: the same counts between the same ends, in about a hundred bins."""
    values = scale * torch.randn(5000, generator=torch.Generator().manual_seed(seed))
    fine = FloatHistogram()
    fine.update(values)
    edges, counts = fine.compute(values.min().item(), values.max().item())
    coarse, sums = coarse_histogram(edges, counts)
    assert len(coarse) == len(sums) + 1 <= 110
    assert (coarse[0], coarse[-1], sum(sums)) == (edges[0], edges[-1], 5000)
    assert set(coarse) <= set(edges)
    for low, high, total in zip(coarse[:-1], coarse[1:], sums, strict=True):
        inside = [count for edge, count in zip(edges[:-1], counts, strict=True) if low <= edge < high]
        assert total == sum(inside)


def test_an_empty_histogram_stays_empty() -> None:
    """Without counts there are no bins."""
    assert coarse_histogram([], []) == ([], [])


def test_one_bin_stays_one_bin() -> None:
    """A constant activation has one bin, whatever its value."""
    for value in (0.0, 3.7, -2.5):
        fine = FloatHistogram()
        fine.update(torch.full((7,), value))
        assert coarse_histogram(*fine.compute(value, value))[1] == [7]
