"""The page with the curves of the activation functions."""

import json
import math
import re

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from torch import nn

from ignite_act import activations as registry
from ignite_act.activations import ACTIVATIONS, make_activation, register_activation
from ignite_act.errors import UserError
from ignite_act.html.activations import pre_activations, write_activations
from ignite_act.html.functions import sample

TITLE = "Functions and derivatives"
CURVED = [name for name, entry in ACTIVATIONS.items() if entry.pointwise]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return write_activations(tmp_path_factory.mktemp("page") / "new" / "activations.html")


@pytest.fixture(scope="module")
def panels(page):
    """Function -> what is drawn of it."""
    text = page.read_text(encoding="utf-8")
    figures = map(json.loads, re.findall(r'<script type="application/json">(.*?)</script>', text))
    return dict(zip(CURVED, figures, strict=True))


def ends(name):
    """Finite ends of the flat pieces."""
    return [end for piece in ACTIVATIONS[name].flat_intervals() for end in piece if math.isfinite(end)]


@pytest.mark.parametrize("name", CURVED)
def test_samples(name):
    """Samples are the function in evaluation mode; slopes agree with finite differences away from kinks."""
    kinks = {0.0, *ends(name), *(-end for end in ends(name))}
    z = torch.linspace(-7.9, 7.9, 200, dtype=torch.float64)
    z = z[[all(abs(point - kink) > 1e-3 for kink in kinks) for point in z.tolist()]]
    values, slopes = map(np.array, sample(name, z))
    module = make_activation(name).double().eval()
    with torch.no_grad():
        assert values.tolist() == module(z).tolist()
        differences = (module(z + 1e-6) - module(z - 1e-6)).numpy() / 2e-6
    assert slopes == pytest.approx(differences, abs=1e-8, rel=1e-6)


@pytest.mark.parametrize("name", CURVED)
def test_flat_pieces_are_shaded(name, panels):
    """The slope is exactly zero where the drawing is shaded, all over, and the shading reaches the edge of the axis."""
    layout, shapes = panels[name]["layout"], panels[name]["layout"]["shapes"]
    low, high = layout["xaxis"]["range"]
    assert len(shapes) == len(ACTIVATIONS[name].flat_intervals())
    for shape, piece in zip(shapes, ACTIVATIONS[name].flat_intervals(), strict=True):
        assert (shape["x0"], shape["x1"]) == (max(piece[0], low), min(piece[1], high))
        _, slopes = sample(name, torch.linspace(shape["x0"], shape["x1"], 50, dtype=torch.float64)[1:-1])
        assert set(slopes) == {0.0}
    assert all(low < end < high for end in ends(name))


def test_curves(panels):
    """A drawing has the function and its derivative over the same axis."""
    function, derivative = panels["sigmoid"]["data"]
    assert (function["name"], derivative["name"]) == ("function", "derivative")
    z = np.array(function["x"])
    assert derivative["x"] == function["x"] == sorted(function["x"])
    assert (z[0], z[-1]) == (-5, 5)
    expected = 1 / (1 + np.exp(-z))
    assert function["y"] == pytest.approx(expected, rel=1e-3)
    assert derivative["y"] == pytest.approx(expected * (1 - expected), rel=1e-2)


@pytest.mark.parametrize(("name", "part", "before", "after"), [("relu", 1, 0, 1), ("hardshrink", 0, 0, 0.5)])
def test_jumps_are_vertical(panels, name, part, before, after):
    """Where a curve jumps it is drawn on both sides of the place."""
    curve = panels[name]["data"][part]
    end = ends(name)[-1]
    values = [y for x, y in zip(curve["x"], curve["y"], strict=True) if abs(x - end) < 1e-6]
    assert (values[0], values[-1]) == (before, after)


def test_pre_activations():
    """Points increase and lie on both sides of every kink, each once."""
    z = pre_activations(5.0, [0.0, 3.0])
    assert torch.all(z[1:] > z[:-1])
    assert (z[0], z[-1]) == (-5, 5)
    for kink in (-3.0, 0.0, 3.0):
        place = int((z == kink).nonzero())
        assert kink - 1e-8 < z[place - 1] < kink < z[place + 1] < kink + 1e-8


def test_figures_say_only_what_plotly_knows(panels):
    """Every attribute of a trace or layout is one that Plotly has."""
    for panel in panels.values():
        go.Figure(data=panel["data"], layout=panel["layout"])


@pytest.mark.slow
def test_the_page(reader, page):
    """Every function is drawn and described; the switches are for functions and derivatives; softmax is named."""
    reader.read(page)
    assert reader.console() == []
    assert reader.texts("h4") == CURVED
    rows = [row.text for row in reader.all("tbody tr")]
    assert [row.split()[0] for row in rows] == CURVED
    (relu6,) = (row for row in rows if row.startswith("relu6"))
    assert relu6.count("z <= 0, z >= 6") == 2
    assert "Not drawn: softmax (softmax mixes the units" in reader.text()
    reader.one("[data-switch='1']").click()
    shown = """return [...document.querySelectorAll(".plot")].flatMap((plot) =>
        plot._fullData.filter((trace) => trace.visible === true).map((trace) => trace.name))"""
    assert set(reader.run(shown)) == {"function"}


@pytest.fixture
def registered(monkeypatch):
    """A registry whose additions are forgotten."""
    for table in ("ACTIVATIONS", "_NAMES", "_MODULES"):
        monkeypatch.setattr(registry, table, dict(getattr(registry, table)))
    monkeypatch.setattr("ignite_act.html.activations.ACTIVATIONS", registry.ACTIVATIONS)


@pytest.mark.slow
@pytest.mark.usefixtures("registered")
def test_functions_of_users(reader, tmp_path):
    """A registered function is drawn with gaps where it has no value; one that fails is named; HTML stays text."""
    hostile = "<img src=x onerror='window.hacked = 1'>"

    @register_activation("root", description=hostile)
    class Root(nn.Module):
        def forward(self, z):
            return z.sqrt()

    @register_activation("broken", description="never works", flat=())
    class Broken(nn.Module):
        def forward(self, z):
            raise RuntimeError(hostile)

    reader.open(write_activations(tmp_path / "activations.html"))
    assert reader.console() == []
    assert reader.run("return window.hacked") is None
    assert reader.texts("h4")[-1] == "root"
    assert "root unknown" in " ".join(reader.all("tbody tr")[-1].text.split())
    assert f"Not drawn: broken ({hostile})" in reader.text()
    assert hostile in reader.all("tbody tr")[-1].text
    text = (tmp_path / "activations.html").read_text(encoding="utf-8")
    root = json.loads(re.findall(r'<script type="application/json">(.*?)</script>', text)[-1])
    values = root["data"][0]["y"]
    assert values[0] is None
    assert values[-1] == pytest.approx(math.sqrt(5), rel=1e-3)


def test_a_page_that_cannot_be_written(tmp_path):
    """A place that cannot be written is the user's error."""
    with pytest.raises(UserError, match="cannot write"):
        write_activations(tmp_path)
