"""The page of inspected networks."""

import itertools
import json
import re
from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
import pytest

from ignite_act.config import RunConfig
from ignite_act.errors import UserError
from ignite_act.html.inspection import gradient_figure, write_inspection
from ignite_act.html.styles import styles
from ignite_act.inspection import InspectedNetwork, Subject, inspect_subjects, inspection_tables, stored_subjects

DEPTH, GRADIENTS = "Gradients by depth", "Distributions of the gradients"
ACTIVATIONS, DEAD = "Distributions of the activations", "Dead neurons"
HOSTILE = [
    "<b>bold</b> &amp; %{x} {{ 7 * 7 }}",
    "<img src=x onerror='window.hacked = 2'>",
    "<script>window.hacked = 1</script>",
    '<a href="javascript:window.hacked=3">x</a>',
]


@pytest.fixture(scope="module")
def networks():
    """Fresh networks with two hidden layers."""
    acts = ("relu", "sigmoid", "leakyrelu:negative_slope=0.1")
    return inspect_subjects([Subject(RunConfig(hidden=(64, 32), act=act)) for act in acts])


@pytest.fixture(scope="module")
def inside(networks, tmp_path_factory):
    """The page of the networks."""
    return write_inspection(networks, tmp_path_factory.mktemp("page") / "inside.html")


@pytest.fixture(scope="module")
def opened(reader, inside):
    """A reader who has the page open, all figures drawn; for tests that leave it as it is."""
    reader.read(inside)
    return reader


def test_everything_is_drawn_and_nothing_goes_wrong(opened):
    """The page has a drawing a layer and a site, depth and dead neurons in one each, and a quiet console."""
    assert len(opened.all(".plot")) == 1 + 3 + 2 + 1
    assert opened.console() == []
    assert opened.texts("h1, h2, h3") == ["Inside 3 networks", "digits", DEPTH, GRADIENTS, ACTIVATIONS, DEAD]
    assert all(opened.texts("figcaption"))
    assert list(opened.traces(GRADIENTS)) == ["layers.0", "layers.2", "layers.4"]
    assert list(opened.traces(ACTIVATIONS)) == ["layers.1", "layers.3"]


def test_figures_say_only_what_plotly_knows(networks, tmp_path):
    """Every attribute of a trace or layout is one that Plotly has."""
    page = write_inspection(networks, tmp_path / "inside.html").read_text(encoding="utf-8")
    panels = re.findall(r'<script type="application/json">(.*?)</script>', page)
    assert len(panels) == 7
    for panel in map(json.loads, panels):
        go.Figure(data=panel["data"], layout=panel["layout"])


def test_gradients_by_depth(opened, networks):
    """A line is the mean absolute gradient of each layer."""
    for network in networks:
        rows = network.inspection.gradients
        expected = {layer: row["mean_abs"] for layer, row in rows.items()}
        assert opened.line(DEPTH, "", network.name) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("layer", ["layers.0", "layers.2", "layers.4"])
def test_distributions_of_gradients(opened, networks, layer):
    """A curve is the density of the elements in even bins about zero, to the largest one; gaps where there are none."""
    for network in networks:
        (curve,) = (trace for trace in opened.traces(GRADIENTS)[layer] if trace["name"] == network.name)
        row, bins = network.inspection.gradients[layer], list(itertools.pairwise(curve["x"]))
        densities = [density or 0 for density in curve["y"][:-1]]
        shares = np.array([density * (high - low) for (low, high), density in zip(bins, densities, strict=True)])
        assert shares.sum() == pytest.approx(1, rel=1e-3)
        mean = np.average([sum(pair) / 2 for pair in bins], weights=shares)
        assert mean == pytest.approx(row["mean"], abs=row["std"] / 20)
        assert curve["x"][-1] == pytest.approx(max(-row["min"], row["max"]), rel=0.04)
        assert curve["x"][0] == -curve["x"][-1]
        assert 0 not in curve["y"]


def test_gradients_are_drawn_alike_on_both_sides(networks):
    """A mirrored distribution is drawn as the mirrored curve, wherever the largest element lies."""
    for network in networks:
        row = network.inspection.gradients["layers.4"]
        mirrored = {**row, "edges": [-edge for edge in reversed(row["edges"])], "counts": row["counts"][::-1]}
        found = replace(network.inspection, gradients={"layers.4": row, "mirrored": mirrored})
        figure = gradient_figure([replace(network, inspection=found)], styles([network.name]))
        (curve,), (other,) = (panel.traces for panel in figure.panels)
        densities, others = ([density or 0 for density in trace["y"][:-1]] for trace in (curve, other))
        assert other["x"] == curve["x"]
        assert others == pytest.approx(densities[::-1], rel=2e-3)


def test_distributions_of_activations(opened, networks):
    """A row is the density of the activations about their mean; exact zeros are given in words."""
    for network in networks:
        (curve,) = (trace for trace in opened.traces(ACTIVATIONS)["layers.1"] if trace["name"] == network.name)
        row = network.inspection.activations["layers.1"]
        edges, heights = np.array(curve["x"][1:-1]), np.array(curve["y"][1:-2]) - curve["y"][0]
        mean = np.average((edges[1:] + edges[:-1]) / 2, weights=heights * np.diff(edges))
        assert mean == pytest.approx(row["mean"] / (1 - row["zero_fraction"]), rel=0.02)
    words = opened.run("return [...document.querySelectorAll('.textpoint')].map((text) => text.textContent)")
    zeros = networks[0].inspection.activations["layers.1"]["zero_fraction"]
    assert f"relu, {100 * zeros:.3g} % zeros" in words
    assert "sigmoid" in words


def test_dead_neurons(opened, networks):
    """A bar is the share of dead units, with the numbers on it."""
    row = networks[0].inspection.dead_neurons["layers.3"]
    assert row["dead"] > 0
    assert opened.line(DEAD, "", "relu")["layers.3"] == pytest.approx(row["dead"] / 32, rel=1e-3)
    assert opened.line(DEAD, "", "sigmoid") == {"layers.1": 0, "layers.3": 0}
    assert f"{row['dead']}/32" in opened.run(
        "return [...document.querySelectorAll('.bartext')].map((text) => text.textContent)"
    )


@pytest.mark.slow
def test_words_are_those_of_the_terminal(opened, networks):
    """The tables have the words of the terminal's, without the shapes, each row with its network."""
    opened.unfold()
    overview, layers, sites = inspection_tables(networks, marks="")
    shown = [
        [
            tuple(cell.text for cell in row.find_elements("css selector", "th, td"))
            for row in table.find_elements("css selector", "tr")
        ]
        for table in opened.all("table")
    ]
    assert shown[0] == [overview.headings, *overview.rows]
    for found, table in zip(shown[1:], (layers, sites), strict=False):
        swapped = [(row[1], row[0], *row[2:]) for row in (table.headings, *table.rows)]
        assert found == swapped
    assert shown[3][1:] == [(network.name, "mlp", "64, 32", network.config.act, "42", "fresh") for network in networks]


def test_a_switch_hides_a_network_everywhere(opened):
    """A switch takes a network out of all figures and dims its rows; the axes fit what is left."""
    reach = "return Math.max(...document.querySelectorAll('.plot')[3].layout.xaxis.range)"
    before = opened.run(reach)
    opened.one("[data-switch='1']").click()
    visible = """return [...document.querySelectorAll(".plot")].map((plot) =>
        plot._fullData.filter((trace) => trace.visible === true).map((trace) => trace.meta))"""
    assert {number for panel in opened.run(visible) for number in panel} == {0, 2}
    assert {row.get_attribute("data-variant") for row in opened.all("tr.off")} == {"1"}
    assert opened.run(reach) < before / 2
    opened.one("[data-all=on]").click()
    assert opened.run(reach) == before
    assert opened.console() == []


@pytest.mark.slow
def test_the_page_fits_a_phone(reader, inside):
    """Nothing is wider than the window of a phone."""
    phone = {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    drawings = "return [...document.querySelectorAll('.plot svg.main-svg')].map((svg) => svg.getBoundingClientRect())"
    reader.read(inside)
    reader.command("Emulation.setDeviceMetricsOverride", phone)
    reader.wait(lambda: reader.run("return document.documentElement.scrollWidth") == 360)
    reader.wait(lambda: all(box["right"] <= 360 for box in reader.run(drawings)))


@pytest.mark.slow
def test_names_from_outside_stay_text(reader, networks, tmp_path):
    """Names of networks, layers, sites, places and reasons with HTML in them are shown as they are, and run nothing."""
    found = networks[0].inspection
    renamed = replace(
        found,
        gradients=dict(zip(HOSTILE, found.gradients.values(), strict=False)),
        activations=dict(zip(HOSTILE, found.activations.values(), strict=False)),
        dead_neurons=dict(zip(HOSTILE, found.dead_neurons.values(), strict=False)),
        coverage={"gradients": {"seen": [], "unseen": {HOSTILE[3]: HOSTILE[2]}}},
    )
    config = networks[0].config
    hostile = [InspectedNetwork(name, config, 1, tmp_path / name, renamed) for name in HOSTILE[:3]]
    reader.read(write_inspection(hostile, tmp_path / "inside.html"))
    reader.unfold()
    assert reader.console() == []
    assert reader.run("return window.hacked") is None
    assert reader.all("main :is(b, i, a, img, main script:not([type]))") == []
    assert set(HOSTILE[:3]) <= set(reader.texts("h4"))
    for name in HOSTILE:
        assert name in reader.text()
    ticks = """const figures = [...document.querySelectorAll("figure")];
        const figure = figures.find((figure) => figure.querySelector("h3").textContent === arguments[0]);
        return [...figure.querySelectorAll(".xtick text")].map((tick) => tick.textContent);"""
    shown = "return [...document.querySelectorAll('.hoverlayer text')].map((text) => text.textContent)"
    for title in (DEPTH, DEAD):
        assert reader.run(ticks, title) == HOSTILE[: 3 if title == DEPTH else 2]
        reader.run(
            """const figures = [...document.querySelectorAll("figure")];
            const figure = figures.find((figure) => figure.querySelector("h3").textContent === arguments[0]);
            const plot = figure.querySelector(".plot");
            plot.scrollIntoView({block: "center"});
            Plotly.Fx.hover(plot, [{curveNumber: 0, pointNumber: 1}]);""",
            title,
        )
        reader.wait(lambda: any("<b>bold" in text for text in reader.run(shown)))
        assert any(HOSTILE[1][:20] in text for text in reader.run(shown))
    assert reader.all(".hoverlayer a, .xtick a") == []


@pytest.mark.slow
def test_before_and_after(reader, trained, tmp_path):
    """A run's page lays the trained network over the fresh one and says where the weights come from."""
    place = trained / "relu" / "seed-1"
    networks = inspect_subjects(stored_subjects([place]))
    reader.read(write_inspection(networks, tmp_path / "inside.html"))
    assert reader.console() == []
    names = [network.name for network in networks]
    assert [name.split(",")[0] for name in names] == ["relu", "relu"]
    assert [trace["name"] for trace in reader.traces(DEPTH)[""]] == names
    reader.unfold()
    assert str(place / "checkpoints" / "best.pt") in reader.text()


@pytest.mark.slow
def test_one_network(reader, networks, tmp_path):
    """One network needs no switches."""
    reader.open(write_inspection(networks[:1], tmp_path / "inside.html"))
    assert reader.console() == []
    assert reader.all(".switches") == []
    assert reader.texts("h1") == ["Inside the network"]


@pytest.mark.slow
def test_odd_networks(reader, networks, tmp_path):
    """Gradients that are zero everywhere are named; networks without sites or finite numbers leave no empty figure."""
    subjects = [Subject(RunConfig(hidden=(16, 16), act=act)) for act in ("hardshrink:lambd=100", "identity")]
    zero, linear = inspect_subjects(subjects)
    reader.read(write_inspection([*networks, zero, linear], tmp_path / "inside.html"))
    assert reader.console() == []
    assert "zero or none is finite: hardshrink-lambd=100 (layers.0, layers.2, layers.4)." in reader.text()
    assert {trace["name"] for trace in reader.traces(GRADIENTS)["layers.0"]}.isdisjoint({zero.name})
    assert reader.line(DEAD, "", zero.name) == {"layers.1": 1, "layers.3": 1}
    assert "identity: activations: MLP was not measured" in reader.text()
    reader.open(write_inspection([linear], tmp_path / "linear.html"))
    assert reader.texts("h3") == [DEPTH, GRADIENTS]
    nothing = {"edges": [], "counts": [], "nonfinite": 8, **dict.fromkeys(("mean", "std", "min", "max", "mean_abs"))}
    broken = {
        name: {site: {**row, **nothing} for site, row in getattr(zero.inspection, name).items()}
        for name in ("gradients", "activations")
    }
    lost = replace(zero, inspection=replace(zero.inspection, loss=None, dead_neurons={}, **broken))
    reader.read(write_inspection([lost], tmp_path / "lost.html"))
    assert reader.texts("h3") == []
    assert "non-finite" in reader.run("return document.body.textContent")
    assert reader.console() == []


@pytest.mark.slow
def test_two_data_sets(reader, networks, tmp_path):
    """Every data set has a section; the switches are for all of them."""
    (circles,) = inspect_subjects([Subject(RunConfig(data="circles", act="tanh"))])
    reader.open(write_inspection([*networks, circles], tmp_path / "inside.html"))
    assert reader.console() == []
    assert reader.texts("h2") == ["digits", "circles"]
    assert len(reader.all("[data-switch]")) == 4
    sections = [section.find_element("css selector", "tbody") for section in reader.all("section")]
    assert [[row.split()[0] for row in section.text.splitlines()] for section in sections] == [
        [network.name for network in networks], ["tanh"],
    ]  # fmt: skip


def test_a_page_that_cannot_be_written(networks, tmp_path):
    """A place that cannot be written is the user's error."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_inspection(networks, tmp_path / "file" / "inside.html")
