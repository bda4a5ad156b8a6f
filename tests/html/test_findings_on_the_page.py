"""What the comparison page says of findings, and where it shows their evidence."""

import base64
import re
import statistics

import pytest

from ignite_act.config import RunConfig
from ignite_act.experiment import run

RATIOS = {1: {1: 0.02, 2: 0.01, 3: None}, 2: {1: 0.04, 2: 0.0, 3: 0.001}}
"""Seed -> epoch -> update ratio."""


def with_updates(seed):
    """Gives each row the update ratios of the seed; the last layer has none."""

    def change(row):
        ratios = {"layers.0": RATIOS[seed][row["epoch"]], "layers.2": 1e-3 * row["epoch"], "layers.4": None}
        return {**row, "updates": {layer: {"ratio": ratio} for layer, ratio in ratios.items()}}

    return change


@pytest.fixture(scope="module")
def found(copied, written, alter, make_finding):
    """The page of runs in which something was found."""
    runs = copied()
    quantity = "gradient layers.0 / layers.4"
    vanishing = [
        make_finding("vanishing_gradient", "error", "layers.0", since, harm="learning has stalled",
                     advice=("take relu", "initialise wider"),
                     evidence={"quantity": quantity, "value": value, "threshold": 0.001, "iteration": 7})
        for since, value in ((1, 2.1e-5), (2, 3e-5))
    ]  # fmt: skip
    large = make_finding("update_too_large", "error", None, 1, cleared_epoch=2)
    info = make_finding("no_nonlinearity", "info", None, evidence={}, advice=(), harm="no harm")
    findings = {
        ("tanh", 1): [vanishing[0], make_finding("plateau", "warning", None, evidence={}), large],
        ("tanh", 2): [vanishing[1]],
        ("relu", 1): [info],
        ("relu", 2): [],
    }
    for place in runs.glob("*/seed-*"):
        act, seed = place.parent.name, int(place.name[-1])
        own = findings.get((act, seed), [])
        alter(place, with_updates(seed), findings=[finding.to_dict() for finding in own])
    return written(runs)


@pytest.fixture(scope="module")
def opened(reader, found):
    """A reader who has that page open, all figures drawn."""
    reader.read(found)
    return reader


@pytest.mark.slow
def test_findings_are_at_the_top_in_words(opened):
    """Between verdict and tables: severity, where, in which runs, since when, value beside threshold, harm, advice."""
    first, *others = opened.texts(".finding")
    assert first.splitlines() == [
        "ERROR layers.0: the gradient vanishes on its way back",
        "tanh, 2 of 2 seeds (1, 2), since epoch 1 to 2",
        "Measured",
        "gradient layers.0 / layers.4: 2.1e-05, 3e-05 (threshold 0.001)",
        "iteration 7",
        "Harm",
        "learning has stalled",
        "Try",
        "take relu",
        "initialise wider",
        "Shown in",
        "Gradients by depth",
    ]
    assert [other.splitlines()[0] for other in others] == [
        "WARNING the network never did better than a constant",
        "INFO no activation function between the layers",
        "ERROR updates too large",
    ]
    assert "tanh, 1 of 2 seeds (1), since epoch 1, over in epoch 2" in others[-1]
    text = opened.text()
    assert text.index(opened.texts(".verdict p")[-1]) < text.index("Findings") < text.index("test accuracy ", 300)
    assert opened.console() == []


def test_links_lead_to_the_figures(opened):
    """A link goes to the figure that shows the evidence; without such a figure there is no link."""
    figures = {link.text: link.get_attribute("href").split("#")[1] for link in opened.all(".finding a")}
    assert figures == {
        "Gradients by depth": "digits-depth", "Learning curves": "digits-learning",
        "Updates, layer by layer": "digits-updates",
    }  # fmt: skip
    for title, anchor in figures.items():
        assert opened.one(f"figure[id='{anchor}'] h3").text == title
    assert opened.all(".finding.info a") == []
    opened.click(opened.all(".finding a")[0])
    top = "return document.querySelector('#digits-depth').getBoundingClientRect().top"
    opened.wait(lambda: 0 <= opened.run(top) < 200)
    assert opened.all("figure:not([id])") != []  # a figure without evidence has no anchor


def test_severities_are_told_apart_without_colour(opened):
    """Each severity has its word, its colour and its kind of line; what was cleared has no colour of its own."""
    look = """return [...document.querySelectorAll('.finding')].map((item) => [
        item.querySelector('strong').textContent, getComputedStyle(item).borderLeftStyle,
        getComputedStyle(item.querySelector('strong')).color])"""
    error, warning, info, over = opened.run(look)
    for part in range(3):
        assert len({error[part], warning[part], info[part]}) == 3
    grey = opened.run("return getComputedStyle(document.querySelector('figcaption')).color")
    assert over[2] == grey
    assert opened.run("return getComputedStyle(document.querySelector('.finding.over')).color") == grey


@pytest.mark.slow
def test_findings_are_dimmed_with_their_variant(opened):
    """A switch dims the findings of its variant, too."""
    label = next(label for label in opened.all(".switches label") if label.text == "tanh")
    switch = label.find_element("css selector", "input")
    opened.click(switch)
    number = switch.get_attribute("data-switch")
    assert {item.get_attribute("data-variant") for item in opened.all(".finding.off")} == {number}
    assert len(opened.all(".finding.off")) == 3
    opened.click(switch)
    assert opened.all(".finding.off") == []


@pytest.mark.slow
def test_paper_has_the_findings(reader, found):
    """A page with findings can be printed; the words stand without a background that printers leave out."""
    reader.open(found)
    reader.command("Emulation.setEmulatedMedia", {"media": "print"})
    assert all(item.is_displayed() for item in reader.all(".finding strong"))
    transparent = "rgba(0, 0, 0, 0)"
    assert {item.value_of_css_property("background-color") for item in reader.all(".finding strong")} == {transparent}
    reader.command("Emulation.setEmulatedMedia", {"media": ""})
    pdf = base64.b64decode(reader.command("Page.printToPDF", {"preferCSSPageSize": True})["data"])
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) > 2


def test_updates_are_medians_of_the_reports(opened):
    """A layer's update ratio is the median over the seeds; missing ones and zeros are gaps, all gaps no drawing."""
    title = "Updates, layer by layer"
    assert list(opened.traces(title)) == ["layers.0", "layers.2"]
    middle = statistics.median((0.02, 0.04))
    assert opened.line(title, "layers.0", "relu") == {1: middle, 2: None}
    assert opened.line(title, "layers.2", "relu") == pytest.approx({1: 1e-3, 2: 2e-3, 3: 3e-3})
    plots = opened.all("#digits-updates .plot")
    assert [opened.run("return arguments[0].layout.yaxis.type", plot) for plot in plots] == ["log", "log"]
    assert all(map(opened.is_drawn, plots))


@pytest.mark.slow
def test_every_section_has_anchors_of_its_own(reader, runs, written, alter, make_finding):
    """Two comparisons on a page: links of each lead to figures of the same section, no anchor is there twice."""
    run(RunConfig(data="circles", batch_size=250, max_epochs=2, seed=1, device="cpu"), runs.parent, quiet=True)
    for place in runs.parent.glob("*/*/seed-1"):
        alter(place, findings=[make_finding().to_dict()])
    reader.open(written(runs.parent))
    anchors = reader.run("return [...document.querySelectorAll('[id]')].map((element) => element.id)")
    assert len(anchors) == len(set(anchors))
    script = """return [...document.querySelectorAll('.finding a')].map((link) =>
        document.querySelector(link.getAttribute('href')).closest('section') === link.closest('section'))"""
    assert reader.run(script) == [True] * 4
    assert reader.run("return [...new Set([...document.querySelectorAll('.finding a')].map((a) => a.hash))]") == [
        "#circles-dead", "#digits-dead",
    ]  # fmt: skip


@pytest.mark.slow
def test_nothing_found_is_said(reader, runs, written, alter):
    """Without a finding the page says so, and that this is about what was measured."""
    for place in runs.glob("*/seed-*"):
        alter(place, findings=[])
    reader.open(written(runs))
    assert "Nothing was found. That covers what was measured" in reader.one(".findings").text
    assert "listed below" not in reader.one(".findings").text
    unseen = {"gradients": {"seen": [], "unseen": {"head": "it is frozen"}}}
    alter(runs / "relu" / "seed-1", coverage=unseen)
    reader.open(written(runs))
    assert "What could not be measured is listed below." in reader.one(".findings").text
    assert "it is frozen" in reader.text()


def test_findings_fit_a_phone(reader, found):
    """On a phone no finding is wider than the screen."""
    width = 390
    reader.open(found)
    size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    reader.command("Emulation.setDeviceMetricsOverride", size)
    ends = "return [...document.querySelectorAll('.finding *')].map((part) => part.getBoundingClientRect().right)"
    reader.wait(lambda: max(reader.run(ends)) <= width)
