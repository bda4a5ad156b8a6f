"""What the comparison page shows of ordinary runs, and that it shows the right numbers."""

import itertools
import json
import re
import statistics

import numpy as np
import plotly.graph_objects as go
import pytest

from ignite_act.compare import compare
from ignite_act.compare.tables import scores_table
from ignite_act.errors import UserError
from ignite_act.html import write_report
from ignite_act.runs.stored import find_runs


@pytest.fixture(scope="module")
def opened(reader, page):
    """A reader who has the page open and leaves it as it is."""
    reader.scroll(page)
    return reader


@pytest.fixture
def relu(trained, epochs):
    """Epoch by epoch what both seeds of the variant measured."""
    return list(zip(*(epochs(trained / "relu" / f"seed-{seed}") for seed in (1, 2)), strict=True))


def over_epochs(rows, read, middle=statistics.mean):
    """What a line through the middle of the seeds should be, to the digits that a drawing has."""
    return pytest.approx({row[0]["epoch"]: middle([read(run) for run in row]) for row in rows}, rel=1e-3)


@pytest.fixture
def updated(relu):
    """How many layers have a row of updates."""
    return len(relu[0][0]["updates"])


def test_every_figure_is_drawn_and_nothing_goes_wrong(opened, updated):
    """Scrolled through, the page draws every figure and writes nothing to the console."""
    assert len(opened.all(".plot")) == 4 + 3 + 1 + updated + 2 + 2 + 2
    assert opened.console() == []


def test_headings_and_captions_tell_what_is_shown(opened, updated):
    """The page has a title, a language, headings in order, and a caption below every figure."""
    headings = opened.all("h1, h2, h3, h4")
    levels = [int(heading.tag_name[1]) for heading in headings]
    assert [heading.text for heading in headings[:3]] == ["Activation functions compared", "digits", "Findings"]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert opened.browser.title == "Activation functions compared"
    assert opened.one("html").get_attribute("lang") == "en"
    assert len(opened.texts("figcaption")) == 6 + bool(updated)
    assert all(opened.texts("figcaption"))
    assert "Dead: the derivative of the activation function was exactly zero" in opened.text()


def test_figures_say_only_what_plotly_knows(page, updated):
    """Every attribute of a trace or layout that the page hands to Plotly is one that Plotly has."""
    panels = re.findall(r'<script type="application/json">(.*?)</script>', page.read_text(encoding="utf-8"))
    assert len(panels) == 14 + updated
    for panel in map(json.loads, panels):
        go.Figure(data=panel["data"], layout=panel["layout"])


def test_a_page_needs_no_network(opened, page):
    """Nothing is fetched, linked or embedded from elsewhere, and the browser is told to refuse it."""
    assert opened.run("return performance.getEntriesByType('resource').map((entry) => entry.name)") == []
    assert opened.all("[src], [href]:not([href^='#']), [srcset], link, base, iframe, object") == []
    policy = opened.one("meta[http-equiv=Content-Security-Policy]").get_attribute("content")
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "http" not in policy
    opened.run("fetch('https://example.org').catch(() => document.title = 'refused')")
    opened.wait(lambda: opened.browser.title == "refused")
    assert len(opened.console()) > 0
    assert page.stat().st_size < 6e6


def test_words_are_those_of_the_terminal(opened, trained):
    """The table has the words of the terminal's, and the verdict stands above it."""
    (comparison,) = compare(find_runs([trained])[0])
    table = scores_table(comparison)
    rows = opened.one("table").find_elements("tag name", "tr")
    cells = [tuple(cell.text for cell in row.find_elements("css selector", "th, td")) for row in rows]
    assert cells == [table.headings, *table.rows]
    assert opened.texts(".verdict p")[0].startswith(f"{comparison.best.name} is best: test accuracy ")


@pytest.mark.parametrize("metric", ["loss", "accuracy"])
@pytest.mark.parametrize(("title", "split"), [("training", "train"), ("validation", "validation")])
def test_learning_curves_are_means_of_the_scores(opened, relu, title, split, metric):
    """A learning curve is the mean over the seeds of what the reports say."""
    shown = opened.line("Learning curves", f"{title} {metric}", "relu")
    assert {int(epoch): value for epoch, value in shown.items()} == over_epochs(
        relu, lambda row: row["scores"][metric][split]
    )


@pytest.mark.parametrize("layer", ["layers.0", "layers.4"])
def test_gradients_are_medians_of_the_reports(opened, relu, layer):
    """A layer's gradient is the median over the seeds, in all epochs and over the depth in the last one."""
    expected = over_epochs(relu, lambda row: row["gradients"][layer]["mean_abs"], statistics.median)
    assert opened.line("Gradients, layer by layer", layer, "relu") == expected
    assert opened.line("Gradients by depth", "", "relu")[layer] == pytest.approx(expected.expected[3], rel=1e-3)


def test_dead_neurons_are_shares_of_the_units(opened, relu):
    """Dead neurons are the mean share of a site's units; a variant that never had one is named and not drawn."""
    expected = over_epochs(relu, lambda row: row["dead_neurons"]["layers.1"]["dead"] / 16)
    assert opened.line("Dead neurons", "layers.1, 16 units", "relu") == expected
    assert {trace["name"] for trace in opened.traces("Dead neurons")["layers.1, 16 units"]} <= {"relu", None}
    assert "No unit was dead in any epoch with" in opened.text()


def test_a_distribution_is_the_mean_histogram_without_its_zeros(opened, relu):
    """A curve is the mean density of its runs without exact zeros, scaled to its peak; the zeros are given in words."""
    rows = [run["activations"]["layers.1"] for run in relu[-1]]
    curve = next(
        trace for trace in opened.traces("Distributions of the activations")["layers.1"] if trace["name"] == "relu"
    )
    bins = list(itertools.pairwise(curve["x"][1:-1]))
    heights = np.array(curve["y"][1:-2]) - curve["y"][0]
    density = np.array([statistics.mean(share(row, *bin) for row in rows) / (bin[1] - bin[0]) for bin in bins])
    assert heights / heights.max() == pytest.approx(density / density.max(), abs=0.01)
    zeros = statistics.mean(row["zero_fraction"] for row in rows)
    assert f"relu, {100 * zeros:.3g} % zeros" in opened.run(
        "return [...document.querySelectorAll('.textpoint')].map((t) => t.textContent)"
    )


def share(row, start, end):
    """The share of a histogram's values between two places, without exact zeros, the rest spread evenly in its bins."""
    total = 0.0
    for (low, high), count in zip(itertools.pairwise(row["edges"]), row["counts"], strict=True):
        kept = count - round(row["zero_fraction"] * row["count"]) if low == 0 else count
        total += kept * max(0.0, min(high, end) - max(low, start)) / (high - low)
    return total / row["count"]


def test_functions_have_the_parameters_of_the_variants(opened):
    """Functions and derivatives are drawn with the variants' own parameters."""
    title, leaky = "The activation functions", "leakyrelu-negative_slope=0.1"
    assert opened.line(title, "function", leaky)[-2] == -0.2
    assert opened.line(title, "derivative", leaky)[-2] == 0.1
    assert opened.line(title, "derivative", leaky)[2] == 1
    assert opened.line(title, "function", "tanh")[1] == pytest.approx(np.tanh(1), abs=1e-4)


def test_a_variant_looks_the_same_everywhere(opened):
    """In all figures and beside its switch a variant has one colour, and no other variant has it."""
    script = """return [...document.querySelectorAll(".plot")].flatMap((plot) =>
        plot.data.filter((trace) => trace.line?.color).map((trace) => [trace.meta, trace.line.color]))"""
    swatches = [label.find_element("css selector", "path") for label in opened.all(".switches label")]
    colors = {(number, swatch.get_attribute("stroke")) for number, swatch in enumerate(swatches)}
    assert {tuple(pair) for pair in opened.run(script)} == colors
    assert len({color for _, color in colors}) == 3


def test_a_place_that_cannot_be_written_is_the_users(trained, tmp_path):
    """If the file cannot be written, the user is told, and nothing is left behind."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_report(find_runs([trained])[0], tmp_path / "file" / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
