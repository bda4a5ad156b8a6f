"""Histograms of reports as curves."""

import json
from types import SimpleNamespace

import pytest
import torch

from ignite_act.html.distributions import Histogram, distribution_figure
from ignite_act.html.history import Histories, History
from ignite_act.html.styles import styles
from ignite_act.report import EpochReport, with_coarse_histogram
from ignite_act.stats import Distribution

NORMAL = torch.randn(2000, generator=torch.Generator().manual_seed(0))
TENSORS = {
    "normal": NORMAL,
    "relu": NORMAL.relu(),
    "zeros": torch.zeros(100),
    "minus zeros": -torch.zeros(100),
    "one number": torch.full((100,), 0.5),
    "negative": -NORMAL.abs() - 1,
    "negative or zero": -NORMAL.relu(),
    "huge": NORMAL.abs() * 1e38,
    "tiny": NORMAL * 1e-38,
    "almost all zero": torch.cat([torch.zeros(10_000), torch.ones(1)]),
    "not finite in part": torch.cat([NORMAL, torch.tensor([torch.nan, torch.inf])]),
}


def row(values):
    """The row of a report for some values."""
    distribution = Distribution()
    distribution.update(values)
    return with_coarse_histogram(distribution.compute())


def figure(**variants):
    """The figure of one site, one epoch and one run a variant."""
    looks = styles(variants)
    histories = [
        History(looks[name], SimpleNamespace(), [[EpochReport(1, 1, activations={"site": values})]], [])
        for name, values in variants.items()
    ]
    return distribution_figure(Histories(histories, [1], []))


@pytest.mark.parametrize("name", TENSORS)
def test_zeros_and_the_rest_are_everything(name):
    """The share of exact zeros is that of the values, and the curve holds all the others."""
    values = TENSORS[name]
    histogram = Histogram(row(values))
    finite = values[values.isfinite()]
    assert histogram.zeros == pytest.approx(float((finite == 0).double().mean()), abs=1e-9)
    assert histogram.shares(histogram.edges).sum() == pytest.approx(1 - histogram.zeros)


@pytest.mark.parametrize("name", TENSORS)
def test_anything_can_be_drawn_alone_and_with_others(name):
    """Whatever the activations are, the figure is of finite numbers and every variant has a row in it."""
    for variants in (
        {"odd": row(TENSORS[name])},
        {"odd": row(TENSORS[name]), "normal": row(NORMAL), "relu": row(NORMAL.relu())},
    ):
        (panel,) = figure(**variants).panels
        json.dumps(panel.plain(), allow_nan=False)
        curves = [trace for trace in panel.traces if "name" in trace]
        assert len(curves) == len(variants)
        assert all(len(trace["x"]) == len(trace["y"]) for trace in curves)
        assert all(
            after >= before for trace in curves for before, after in zip(trace["x"][:-1], trace["x"][1:], strict=True)
        )


def test_a_variant_that_explodes_leaves_the_others_their_axis():
    """Where the values of one variant are far larger than those of the others, the axis stays with the others."""
    (panel,) = figure(small=row(NORMAL), middle=row(2 * NORMAL), exploded=row(NORMAL * 1e6)).panels
    low, high = panel.layout["xaxis"]["range"]
    assert -40 < low < -4
    assert 4 < high < 40


def test_nothing_finite_is_no_row():
    """A site that gave nothing finite has no row; without any there is no figure."""
    nothing = row(torch.tensor([torch.nan]))
    assert figure(nothing=nothing) is None
    (panel,) = figure(nothing=nothing, normal=row(NORMAL)).panels
    assert [trace["name"] for trace in panel.traces if "name" in trace] == ["normal"]
