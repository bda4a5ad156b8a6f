"""The page of runs that are few, failed, different, incomplete or hostile."""

import shutil

import pytest
import yaml

from ignite_act.compare import compare, comparison_tables
from ignite_act.config import RunConfig
from ignite_act.experiment import run
from ignite_act.runs.stored import find_runs

HOSTILE = [
    "<b>bold</b> &amp; %{x}",
    '<a href="//x">link</a>',
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 2'>",
    '<a href="javascript:window.hacked=3">{{ 7 * 7 }}</a>',
]
NAMES = dict(zip(("layers.0", "layers.2", "layers.4", "layers.1", "layers.3"), HOSTILE, strict=True))
CURVES, GRADIENTS = "Learning curves", "Gradients, layer by layer"


def rename(row):
    """Layers and sites with hostile names."""
    quantities = ("gradients", "activations", "dead_neurons", "updates")
    return {**row, **{key: {NAMES[name]: value for name, value in row[key].items()} for key in quantities}}


@pytest.fixture(scope="module")
def hostile(copied, written, alter, make_finding):
    """The page of runs with HTML in everything that comes from outside."""
    runs = copied()
    evidence = {"quantity": HOSTILE[2], "value": HOSTILE[3], "threshold": HOSTILE[4], HOSTILE[0]: HOSTILE[1]}
    findings = [
        make_finding(HOSTILE[1], layer=HOSTILE[0], evidence=evidence, harm=HOSTILE[3], advice=HOSTILE).to_dict(),
        make_finding("vanishing_gradient", layer=HOSTILE[2]).to_dict(),
    ]
    for place in runs.glob("*/seed-*"):
        alter(place, rename, stop="odd", stop_reason=HOSTILE[0], findings=findings)
        config = yaml.safe_load((place / "config.yaml").read_text())
        config["versions"] = {HOSTILE[2]: HOSTILE[3]}
        config["config"]["data_root"] = HOSTILE[4]
        (place / "config.yaml").write_text(yaml.safe_dump(config))
    odd = runs.parent.with_name("<i>odd<i>")
    shutil.move(runs.parent, odd)
    (odd / "digits/relu/seed-2/config.yaml").write_text("versions: [")
    return written(odd)


def test_names_from_outside_stay_text(reader, hostile):
    """Names, reasons, versions and directories with HTML in them are shown as they are, and run nothing."""
    reader.read(hostile)
    assert reader.console() == []
    assert reader.run("return window.hacked") is None
    assert reader.all("main :is(b, i, img, a:not([href='#digits-depth']), main script:not([type]))") == []
    ticks = reader.run("return [...document.querySelectorAll('.xtick text')].map((tick) => tick.textContent)")
    assert {HOSTILE[0], HOSTILE[1], "…" + HOSTILE[2][-24:]} < set(ticks)
    assert set(HOSTILE[:3]) < set(reader.texts("h4"))
    reader.unfold()
    shown = reader.text()
    in_findings = reader.one(".findings").text
    assert [name for name in HOSTILE if name not in in_findings] == []
    assert [name for name in (*HOSTILE, "<i>odd<i>") if name not in shown] == []


@pytest.mark.slow
def test_names_from_outside_stay_text_at_the_pointer(reader, hostile):
    """What a figure shows at the pointer is text, too."""
    reader.read(hostile)
    script = """const figures = [...document.querySelectorAll("figure")];
        const figure = figures.find((figure) => figure.querySelector("h3").textContent === "Gradients by depth");
        const plot = figure.querySelector(".plot"), curveNumber = plot.data.findIndex((trace) => trace.name);
        Plotly.Fx.hover(plot, [{curveNumber, pointNumber: arguments[0]}]);"""
    shown = "return [...document.querySelectorAll('.hoverlayer text')].map((text) => text.textContent).join()"
    for index, name in enumerate(HOSTILE[:3]):
        reader.run(script, index)
        reader.wait(lambda name=name: name[-24:] in reader.run(shown))
        assert reader.all(".hoverlayer :is(a, [style*=bold])") == []


@pytest.fixture(scope="module")
def patchwork(copied, written, alter):
    """The page of runs with nothing in common: one has gaps, one is short, one did not learn, one is another net."""
    runs = copied()
    alter(runs / "relu" / "seed-1", lose)
    short = runs / "tanh" / "seed-1" / "epochs.jsonl"
    short.write_text("".join(short.read_text().splitlines(keepends=True)[:2]))
    leaky = runs / "leakyrelu-negative_slope=0.1"
    alter(leaky / "seed-1", lambda row: {**row, "scores": {"loss": {"train": 9.0}}}, learned=False)
    alter(leaky / "seed-2", lambda row: {**row, "gradients": {"head": row["gradients"]["layers.0"]}})
    return written(runs)


def lose(row):
    """A row that has NaN where the second epoch had numbers."""
    if row["epoch"] == 2:
        row["scores"]["loss"]["train"] = "NaN"
        row["gradients"]["layers.0"]["mean_abs"] = "NaN"
        row["activations"]["layers.1"].update(edges=[], counts=[], mean="NaN", zero_fraction="NaN")
    return row


@pytest.fixture(scope="module")
def mixed(reader, patchwork):
    """A reader who has that page open and leaves it as it is."""
    reader.read(patchwork)
    return reader


@pytest.mark.slow
def test_runs_with_nothing_in_common_make_a_page(mixed):
    """Whatever is missing or different, every figure is drawn and nothing goes wrong."""
    assert mixed.console() == []
    assert all(map(mixed.is_drawn, mixed.all(".plot")))


@pytest.mark.slow
@pytest.mark.parametrize("place", [(CURVES, "training loss"), (GRADIENTS, "layers.0")])
def test_nan_is_a_gap(mixed, place):
    """A NaN in a report leaves a gap in the line, and the rest is drawn."""
    assert [value is None for value in mixed.line(*place, "relu").values()] == [False, True, False]


@pytest.mark.slow
def test_seeds_that_trained_longer_go_on_alone(mixed):
    """A mean ends where the first of its seeds stopped; the other goes on as a thin line, and the caption says so."""
    assert len(mixed.line(CURVES, "training loss", "tanh")) == 2
    assert [2, 3] in [trace["x"] for trace in mixed.traces(CURVES)["training loss"] if trace["name"] is None]
    assert "Thin lines: single seeds that trained longer." in mixed.text()


@pytest.mark.slow
def test_what_did_not_learn_is_drawn_apart(mixed):
    """A run that did not start to learn while others did is a thin dotted line, and not in the mean."""
    traces, name = mixed.traces(CURVES)["training loss"], "leakyrelu-negative_slope=0.1"
    assert [9, 9, 9] in [trace["y"] for trace in traces if trace["name"] is None]
    assert max(mixed.line(CURVES, "training loss", name).values()) < 5
    assert f"{name} started to learn with 1 of 2 seeds" in mixed.text()
    assert "Thin dotted lines: runs that failed or did not start to learn" in mixed.text()


def test_networks_may_differ(mixed):
    """Variants with other layers than the rest appear where they have something to show."""
    figure = mixed.traces(GRADIENTS)
    assert {trace["name"] for trace in figure["head"]} - {None} == {"leakyrelu-negative_slope=0.1"}
    assert {trace["name"] for trace in figure["layers.2"]} - {None} == {"relu", "tanh"}


@pytest.mark.slow
def test_one_run_is_shown_alone(reader, runs, written):
    """A page of one run is about that network: one row, its figures, no switches, and it says that it is one run."""
    reader.read(written(runs / "relu" / "seed-1"))
    assert reader.browser.title == "Inside a network with relu"
    (table,) = comparison_tables(compare(find_runs([runs / "relu" / "seed-1"])[0])[0])
    rows = reader.one("table").find_elements("tag name", "tr")
    assert [tuple(cell.text for cell in row.find_elements("css selector", "th, td")) for row in rows] == [
        table.headings, *table.rows,
    ]  # fmt: skip
    assert reader.console() == []
    assert reader.all(".switches") == []
    assert "This is one run: another seed gives another number." in reader.text()


@pytest.mark.slow
def test_failed_runs_are_named(reader, runs, written, fail):
    """A variant that failed has no curves, but a place in the verdict and, with its reason, in the list of runs."""
    for place in (*runs.glob("tanh/seed-*"), runs / "relu" / "seed-1"):
        fail(place)
    reader.read(written(runs))
    assert reader.console() == []
    assert "tanh failed." in reader.text()
    assert "relu started to learn with 1 of 2 seeds, 1 failed" in reader.text()
    assert "tanh" not in {trace["name"] for trace in reader.traces(CURVES)["training loss"]}
    reader.unfold()
    assert "the disk is full" in reader.text()


@pytest.mark.slow
def test_only_failed_runs_make_a_page(reader, runs, written, fail):
    """If every run failed, the page says so and what ran."""
    for place in runs.glob("*/seed-*"):
        fail(place)
    reader.read(written(runs))
    assert reader.console() == []
    assert "No variant started to learn." in reader.text()
    assert reader.all(".findings") == []


@pytest.mark.slow
def test_runs_without_diagnostics_have_learning_curves(reader, runs, written, alter):
    """Where nothing was measured inside, there is no empty figure, and the page says why."""
    nothing = {"gradients": {}, "activations": {}, "dead_neurons": {}, "coverage": {}}
    for place in runs.glob("*/seed-*"):
        alter(place, lambda row: {**row, **nothing, "updates": {}}, **nothing, findings=[])
    reader.read(written(runs))
    assert reader.console() == []
    assert reader.texts("figure h3") == [CURVES, "The activation functions"]
    assert "Nothing was measured inside the networks of " in reader.text()
    assert reader.all(".findings") == []


@pytest.mark.slow
def test_every_data_set_has_a_section(reader, runs, written):
    """Runs on two data sets make two sections under the same switches."""
    run(RunConfig(data="circles", batch_size=250, max_epochs=2, seed=1, device="cpu"), runs.parent, quiet=True)
    reader.read(written(runs.parent))
    assert reader.console() == []
    assert reader.texts("h2") == ["circles", "digits"]
    assert len(reader.all("[data-switch]")) == 3


@pytest.mark.slow
def test_what_cannot_be_read_is_said(reader, runs, written):
    """A run whose reports cannot be read, and one that has not ended, are named with the reason."""
    (runs / "relu" / "seed-1" / "epochs.jsonl").write_text("nonsense\nnonsense\n")
    (runs / "relu" / "seed-2" / "summary.json").unlink()
    reader.open(written(runs))
    assert "Not in the figures: " in reader.text()
    assert "holds an unfinished run" in reader.text()
