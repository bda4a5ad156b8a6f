"""Switches, slider, screens and paper."""

import base64
import re

import pytest
from selenium.webdriver.common.keys import Keys

TITLE = "Distributions of the activations"
VISIBLE = """return [...document.querySelectorAll(".plot")].map((plot) =>
    [...new Set(plot._fullData.filter((trace) => trace.visible === true).map((trace) => trace.meta))].sort())"""
RIGHT_ENDS = """return [...document.querySelectorAll(".plot svg.main-svg")].map((svg) =>
    svg.getBoundingClientRect().right - document.body.getBoundingClientRect().left)"""


@pytest.mark.slow
def test_a_switch_hides_its_variant_everywhere_and_brings_it_back(opened):
    """A switch takes one variant out of all figures and dims its rows; used again, by keyboard, it brings it back."""
    before, marks = opened.run(VISIBLE), len(opened.all(".plot svg .trace"))
    assert before.count([0, 1, 2]) == len(before) - 2  # only one variant ever had a dead unit
    switch = opened.one("[data-switch='0']")
    switch.click()
    assert opened.run(VISIBLE) == [[number for number in panel if number != 0] for panel in before]
    assert len(opened.all(".plot svg .trace")) < marks
    assert {row.get_attribute("data-variant") for row in opened.all("tr.off")} == {"0"}
    switch.send_keys(Keys.SPACE)
    assert opened.run(VISIBLE) == before
    assert len(opened.all(".plot svg .trace")) == marks
    assert opened.all("tr.off") == []


@pytest.mark.slow
def test_a_switch_holds_for_figures_not_drawn_yet(reader, page):
    """A variant that is switched off stays away from figures that come into view later."""
    reader.open(page)
    reader.one("[data-switch='1']").click()
    for plot in reader.all(".plot"):
        reader.run("arguments[0].scrollIntoView()", plot)
        reader.wait(lambda plot=plot: reader.run("return Boolean(arguments[0]._fullData)", plot))
    assert not any(1 in panel for panel in reader.run(VISIBLE))


@pytest.mark.slow
def test_one_button_shows_nothing_and_another_everything(opened):
    """The buttons beside the switches turn all variants off and on."""
    before = opened.run(VISIBLE)
    opened.one("[data-all=off]").click()
    assert not any(opened.run(VISIBLE))
    opened.one("[data-all=on]").click()
    assert opened.run(VISIBLE) == before
    assert opened.console() == []


@pytest.mark.slow
def test_what_is_left_fills_its_axis(opened):
    """Drawings of a quantity share one axis, which fits the variants that are shown."""
    ranges = "return [...document.querySelectorAll('.plot')].slice(4, 7).map((plot) => plot.layout.yaxis.range)"
    first, *others = opened.run(ranges)
    assert others == [first, first]
    for number in (0, 1):
        opened.one(f"[data-switch='{number}']").click()
    alone, *others = opened.run(ranges)
    assert others == [alone, alone]
    assert alone != first
    assert first[0] <= alone[0] < alone[1] <= first[1]


@pytest.mark.slow
def test_the_slider_shows_another_epoch(opened):
    """The slider, moved by keyboard, changes all distributions and says which epoch is shown."""
    slider, output, last = opened.one("[type=range]"), opened.one(".slider output"), opened.traces(TITLE)
    lines = "return [...document.querySelectorAll('.plot.rows .js-fill')].map((path) => path.getAttribute('d'))"
    drawn = opened.run(lines)
    assert output.text == "3"
    assert slider.accessible_name.startswith("Epoch")
    slider.send_keys(Keys.ARROW_LEFT)
    assert output.text == "2"
    assert slider.get_attribute("aria-valuetext") == "epoch 2"
    changed = opened.traces(TITLE)
    curves = [(site, index) for site, traces in last.items() for index, trace in enumerate(traces) if trace["name"]]
    assert len(curves) == 2 * 3
    assert all(changed[site][index]["y"] != last[site][index]["y"] for site, index in curves)
    assert all(now != before for now, before in zip(opened.run(lines), drawn, strict=True))
    slider.send_keys(Keys.END)
    assert opened.traces(TITLE) == last


@pytest.mark.slow
def test_distributions_can_be_played(opened):
    """The button beside the slider goes through the epochs and stops at the last one."""
    button, output = opened.one(".slider button"), opened.one(".slider output")
    opened.click(button)
    assert (button.text, output.text) == ("Pause", "1")
    opened.wait(lambda: button.text == "Play")
    assert output.text == "3"


@pytest.mark.few(1)
@pytest.mark.parametrize("width", [390, 768])
def test_no_screen_is_too_narrow(opened, width):
    """On a phone and on a tablet nothing is wider than the screen but tables, which scroll by themselves."""
    size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    opened.command("Emulation.setDeviceMetricsOverride", size)
    opened.wait(lambda: max(opened.run(RIGHT_ENDS)) <= width)
    opened.unfold()
    assert opened.run("return document.documentElement.scrollWidth") == width


@pytest.mark.slow
def test_print_draws_everything(reader, page):
    """Printed before anything was scrolled into view, the page has all figures; afterwards it is as it was."""
    reader.open(page)
    assert not all(map(reader.is_drawn, reader.all(".plot")))
    pdf = base64.b64decode(reader.command("Page.printToPDF", {"preferCSSPageSize": True})["data"])
    assert pdf.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) > 2
    assert all(map(reader.is_drawn, reader.all(".plot")))
    assert reader.all("details[open]") == []


@pytest.mark.slow
def test_paper_shows_everything_at_its_own_width(opened):
    """On paper no figure is too wide, tables are unfolded, and the switches are a key to what is shown."""
    opened.one("[data-switch='2']").click()
    opened.command("Emulation.setEmulatedMedia", {"media": "print"})
    opened.run("window.dispatchEvent(new Event('beforeprint'))")
    assert max(opened.run(RIGHT_ENDS)) < 681  # 180 mm
    assert not any(part.is_displayed() for part in opened.all(".switches input, .slider, button"))
    assert [label.is_displayed() for label in opened.all(".switches label")] == [True, True, False]
    assert len(opened.all("details[open]")) == len(opened.all("details")) > 0
    opened.run("window.dispatchEvent(new Event('afterprint'))")
    opened.command("Emulation.setEmulatedMedia", {"media": ""})
    assert max(opened.run(RIGHT_ENDS)) > 900
