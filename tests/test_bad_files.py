"""Whatever lies in a run directory: it is shown as it is, or left out and said in one line."""

import json
import logging
import math
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ignite_act import data
from ignite_act.cli import main
from ignite_act.config import RunConfig
from ignite_act.errors import UserError
from ignite_act.experiment import run
from ignite_act.html import write_report
from ignite_act.report import EpochReport, Finding
from ignite_act.runs.stored import find_runs, read_run, read_summary, run_reports

HOSTILE = [
    "<script>alert(1)</script>", "</script><img src=x onerror=alert(2)>", "<!--<script>", "]]>", "<b>bold</b>",
    '" onmouseover="alert(3)', "' autofocus onfocus='alert(4)", "{{ 7 * 7 }}", "{% raw %}", "../../x", "/etc/passwd",
    "x" * 5000, "\udcff", "\ud83d", "\x1b[31mred", "line\nbreak", "\u202e", "", "NaN", "Infinity", "1", "=1+1", "&lt;",
]  # fmt: skip
hostile = st.sampled_from(HOSTILE) | st.text(max_size=10)
numbers = st.sampled_from([0, -1, 1, 2**31, 2**64, 10**400, 1e308, -1e308, 5e-324, 0.5, math.nan, math.inf, -math.inf])
scalars = st.none() | st.booleans() | numbers | hostile
values = scalars | st.lists(scalars, max_size=3) | st.dictionaries(hostile, scalars, max_size=2)
FILES = ["summary.json", "epochs.jsonl", "config.yaml"]
CONTENTS = [
    b"", b"\n\n", b"null", b"[]", b"{}", b"5", b"NaN", b'"x"', b'{"schema": 2}', b'{"schema": 2}\n{"schema": 2}\n',
    b"config: {}", b"config: {}\nversions: {}", b"config: []\nversions: {}", b"\xff\xfe", b"\0",
]  # fmt: skip


def examples(number):
    """The same examples each time, as many as that."""
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=number, derandomize=True, database=None, deadline=None, suppress_health_check=checks)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two short runs, one of which has findings; tests look at them and copy them."""
    place = tmp_path_factory.mktemp("trained")
    for act in ("relu", "tanh"):
        run(RunConfig(hidden=(4, 3), batch_size=256, max_epochs=2, lr=0.1, act=act, device="cpu"), place, quiet=True)
    return place


@pytest.fixture
def place(trained, tmp_path_factory, monkeypatch):
    """A copy of the runs with a finding in each, made anew at every call, in the current directory."""

    def refuse(*_, **__):
        raise OSError("no network in tests")

    outer = tmp_path_factory.mktemp("outer")
    monkeypatch.setattr(data, "DEBIAN_FASHION_MNIST", outer / "none")
    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", refuse)
    monkeypatch.chdir(outer)

    def make():
        shutil.rmtree(outer / "runs", ignore_errors=True)
        shutil.copytree(trained, outer / "runs", ignore=shutil.ignore_patterns("events.*", "last.pt", "previous.pt"))
        return outer / "runs"

    return make


def content(directory, name):
    """What a file of a run holds, in plain types."""
    text = (directory / name).read_text(encoding="utf-8")
    if name == "config.yaml":
        return yaml.safe_load(text)
    return [json.loads(line) for line in text.splitlines()] if name == "epochs.jsonl" else json.loads(text)


def write(directory, name, changed):
    """Writes it back."""
    if name == "config.yaml":
        text = yaml.safe_dump(changed)
    else:
        rows = changed if name == "epochs.jsonl" and isinstance(changed, list) else [changed]
        text = "".join(json.dumps(row) + "\n" for row in rows)
    (directory / name).write_text(text, encoding="utf-8")


def places_in(tree, path=()):
    """The way to every part of nested plain types; of long lists to the first few."""
    if isinstance(tree, (dict, list)):
        parts = tree.items() if isinstance(tree, dict) else list(enumerate(tree))[:3]
        for key, value in parts:
            yield (*path, key)
            yield from places_in(value, (*path, key))


FINDING = Finding("dead_units", "warning", "layers.1", 1, {"value": 0.5}, "none", ("lower the rate",), "test").to_dict()


@st.composite
def changes(draw):
    """Something that is done to one place of a file: it is removed, renamed, or gets another value."""
    share, how = draw(st.floats(0, 1, exclude_max=True)), draw(st.sampled_from(["remove", "rename", "replace", "word"]))
    name, value = draw(hostile), draw(values)

    def change(tree):
        ways = list(places_in(tree))
        *above, last = ways[int(share * len(ways))]
        for key in above:
            tree = tree[key]
        old = tree.pop(last)
        if how == "rename":
            last, value_now = (name, old) if isinstance(tree, dict) else (last, value)
        else:
            value_now = str(old) if how == "word" else value
        if how != "remove":
            tree.insert(last, value_now) if isinstance(tree, list) else tree.update({last: value_now})

    return change


def set_to(**values):
    """A change of what stands at the top of a file, or in each of its lines."""

    def change(tree):
        for row in tree if isinstance(tree, list) else [tree]:
            row.update(values)

    return change


mutations = st.lists(st.tuples(st.sampled_from(FILES), changes()), min_size=1, max_size=3)


def mutate(directory, mutation):
    """Changes the files of a run, in which there is a finding."""
    trees = {name: content(directory, name) for name in FILES}
    trees["summary.json"]["findings"] = [dict(FINDING)]
    for row in trees["epochs.jsonl"]:
        row["findings"] = [dict(FINDING)]
    for name, change in mutation:
        if trees[name]:
            change(trees[name])
    for name, tree in trees.items():
        write(directory, name, tree)


def call(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def assert_shown_or_refused(done, left_out):
    """It ran, or said in one line what was wrong; what was left out has a line of its own; never a traceback."""
    assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
    assert "Traceback" not in done.output
    assert done.exit_code in (0, 2)
    lines = done.stderr.splitlines()
    said = [line for line in lines if not line.startswith("left out: ")]
    assert [line[:7] for line in said] == (["error: "] if done.exit_code else [])
    assert len(lines) - len(said) <= left_out
    assert "--overwrite" not in done.stderr
    assert "\x1b" not in done.output


class Elements(HTMLParser):
    """What a page is made of: tags with their attributes' names, and the texts of its programs."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.programs, self.data, self._inside = set(), set(), [], [], None
        self.values = set()
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes |= {(tag, name) for name, _ in attributes}
        self.values |= {value for name, value in attributes if name in ("href", "src", "style") and value}
        if tag == "script":
            self._inside = self.data if ("type", "application/json") in attributes else self.programs

    def handle_data(self, text):
        if self._inside is not None:
            self._inside.append(text)

    def handle_endtag(self, tag):
        if tag == "script":
            self._inside = None


@pytest.fixture(scope="module")
def untouched(trained, tmp_path_factory):
    """The elements of the page of runs that nobody has touched, a finding and what was left out included."""
    copy = Path(shutil.copytree(trained, tmp_path_factory.mktemp("untouched") / "runs"))
    for directory in copy.glob("digits/*/*"):
        mutate(directory, [])
    runs, _ = find_runs([copy])
    page = write_report(runs, copy / "page.html", left_out={Path("there"): "the reason"})
    return Elements(page.read_text(encoding="utf-8"))


def assert_harmless(page, untouched):
    """The page has nothing that an untouched one has not; its figures are JSON, without what Plotly takes for HTML."""
    found = Elements(page.read_text(encoding="utf-8"))
    assert found.tags <= untouched.tags
    assert found.attributes <= untouched.attributes
    assert found.programs == untouched.programs
    assert all(value.startswith(("#digits-", "#circles-", "#fashionmnist-", "--rows: ")) for value in found.values)
    for text in found.data:
        figure = json.loads(text, parse_constant=pytest.fail)
        assert set(figure) == {"data", "layout", "frames", "scale"}
        assert "<" not in json.dumps(figure)


@pytest.mark.slow
@examples(70)
@given(mutations)
@example([("summary.json", set_to(activation="\x1b[31m\ud83d"))])
@example([("summary.json", set_to(gradients={"\x1b]0;title": None}))])
def test_changed_files_are_compared_or_left_out(place, mutation):
    """`compare` over a run whose files were changed shows it, or leaves it out with the reason."""
    runs = place()
    mutate(runs / "digits/relu/seed-42", mutation)
    done = call("compare", runs)
    assert_shown_or_refused(done, left_out=1)
    for name in ("comparison.csv", "comparison.json", "comparison.md"):
        text = (runs / name).read_text(encoding="utf-8")
        if name.endswith("json"):
            compared = json.loads(text, parse_constant=pytest.fail)
            shown = sum(len(variant["runs"]) for data in compared for variant in data["variants"])
            assert shown + done.stderr.count("left out: ") == 2
    assert {path.name for path in runs.iterdir()} == {"digits", "comparison.csv", "comparison.json", "comparison.md"}


@pytest.mark.slow
@examples(35)
@given(mutations)
@example([("summary.json", set_to(activation="<script>alert(1)</script>"))])
@example([("summary.json", set_to(gradients={"<b>bold</b>": None}))])
@example([("epochs.jsonl", set_to(scores={"loss": {"train": math.nan}}))])
def test_changed_files_do_no_harm_on_the_page(place, untouched, mutation):
    """`report` over a run whose files were changed writes a page with nothing in it but what pages have."""
    runs = place()
    directory = runs / "digits/relu/seed-42"
    mutate(directory, mutation)
    assert_shown_or_refused(call("report", runs), left_out=1)
    assert_harmless(runs / "report.html", untouched)
    assert str(directory) in (runs / "report.html").read_text(encoding="utf-8")
    assert {path.name for path in runs.iterdir()} == {"digits", "report.html"}


@pytest.mark.slow
@examples(14)
@given(st.lists(hostile, min_size=12, max_size=12))
@example(12 * ["\x1b[31mred"])
@example(12 * ['" onmouseover="alert(3)'])
@example(12 * ["</script><script>alert(1)</script>"])
def test_hostile_names_do_no_harm_on_the_page(place, untouched, names):
    """Hostile words everywhere that a word may stand: the run is shown, and the page holds them as text only."""
    runs = place()
    directory = runs / "digits/relu/seed-42"
    layer, site, kind, quantity, harm, advice, reason, where, activation, stop, package, version = names
    finding = {
        **FINDING, "kind": kind, "layer": layer, "harm": harm, "advice": [advice], "source": harm,
        "evidence": {"quantity": quantity, "value": advice, "threshold": harm, kind: layer},
    }  # fmt: skip
    summary = content(directory, "summary.json")
    summary.update(activation=activation, stop=stop, stop_reason=reason, findings=[finding])
    if stop == "failed":
        summary["stop"] = "odd"
    summary["coverage"] = {where: {"seen": [layer], "unseen": {site: reason}}}
    rows = content(directory, "epochs.jsonl")
    for tree in (summary, *rows):
        for quantity_of, name in (("gradients", layer), ("activations", site), ("dead_neurons", site)):
            tree[quantity_of] = {name + key: row for key, row in tree[quantity_of].items()}
    for row in rows:
        row["updates"] = {layer + key: value for key, value in row["updates"].items()}
    write(directory, "summary.json", summary)
    write(directory, "epochs.jsonl", rows)
    config = content(directory, "config.yaml")
    config["versions"] = {package: version}
    config["config"]["data_root"] = where
    write(directory, "config.yaml", config)
    done = call("report", runs)
    assert (done.exit_code, done.stderr) == (0, "")
    assert_harmless(runs / "report.html", untouched)
    assert call("report", directory).exit_code == 0
    assert_harmless(directory / "report.html", untouched)
    assert_shown_or_refused(call("compare", runs), left_out=0)


@pytest.mark.slow
@examples(25)
@given(st.lists(st.tuples(st.sampled_from(FILES), changes()), min_size=1, max_size=2))
@example([("config.yaml", set_to(versions={"\x1b]0;title": 5}))])
@example([("config.yaml", lambda tree: tree["config"].update(hidden=[2]))])
def test_changed_files_are_inspected_or_refused(place, mutation):
    """`inspect` over a run whose files were changed shows its networks, or says in one line why it cannot."""
    runs = place()
    directory = runs / "digits/relu/seed-42"
    mutate(directory, mutation)
    done = call("inspect", directory, "--json", runs / "numbers.json")
    assert_shown_or_refused(done, left_out=0)
    if done.exit_code == 0:
        assert len(json.loads((runs / "numbers.json").read_text(encoding="utf-8"))["networks"]) == 2
    logging.getLogger("ignite_act.collect").handlers.clear()


@pytest.mark.slow
@examples(25)
@given(st.sampled_from(FILES), st.binary(max_size=30) | st.sampled_from(CONTENTS))
@example("summary.json", b"[" * 100_000)
@example("epochs.jsonl", b"[" * 100_000 + b"\n{}\n")
@example("config.yaml", b"config: " + b"[" * 3000)
@example("summary.json", b'{"schema": ' + b"9" * 5000 + b"}")
@example("config.yaml", b"config: &a [*a]\nversions: {}\n")
@example("config.yaml", b"versions: {x: &a [*a]}\nconfig: {}\n")
def test_any_bytes_in_a_file(place, name, written):
    """Any bytes in a file of a run: it is left out, or shown; another run is shown all the same."""
    runs = place()
    (runs / "digits/relu/seed-42" / name).write_bytes(written)
    for command in ("compare", "report"):
        done = call(command, runs)
        assert_shown_or_refused(done, left_out=1)
        assert done.exit_code == 0


@pytest.mark.parametrize("name", ["gradients", "test", "stop_reason", "activation", "seconds", "dead_neurons"])
def test_a_summary_without_a_field_is_left_out(place, name):
    """A run whose summary lacks what is shown is left out, and the reason names the field."""
    runs = place()
    directory = runs / "digits/relu/seed-42"
    summary = content(directory, "summary.json")
    del summary[name]
    write(directory, "summary.json", summary)
    done = call("compare", runs)
    assert done.exit_code == 0
    assert done.stderr == f"left out: {directory}/summary.json cannot be read: {name}: field required\n"


def test_a_config_of_another_program_is_no_run(place):
    """A config.yaml of another program is not spoken of; asked for directly, it is said that there is no run."""
    runs = place()
    for name, text in {"site": "title: x\n", "list": "- 1\n", "own": "config: {a: 1}\n", "half": "a: ["}.items():
        (runs / name).mkdir()
        (runs / name / "config.yaml").write_text(text, encoding="utf-8")
        assert call("compare", runs / name).stderr == f"error: there is no finished run in {runs / name}\n"
        with pytest.raises(UserError, match=r"holds no run$"):
            read_run(runs / name)
    assert call("compare", runs).stderr == ""
    assert call("inspect", runs).exit_code == 0
    (runs / "digits/relu/seed-42/summary.json").unlink()
    assert call("compare", runs).stderr == f"left out: {runs}/digits/relu/seed-42 holds an unfinished run\n"


def test_only_who_can_start_over_is_told_to(place):
    """A damaged file names --overwrite where a training is to go on, and not where runs are only looked at."""
    directory = place() / "digits/relu/seed-42"
    for name, to_go_on, to_look in (
        ("epochs.jsonl", lambda place: list(run_reports(place)), lambda place: read_run(place).reports()),
        ("summary.json", lambda place: read_summary(place / "summary.json"), read_run),
    ):
        (directory / name).write_text("nonsense\nnonsense\n", encoding="utf-8")
        with pytest.raises(UserError, match=r"cannot be read: .*; --overwrite starts over$"):
            to_go_on(directory)
        with pytest.raises(UserError, match=r"cannot be read: ((?!--overwrite).)*$"):
            to_look(directory)


WORDS = st.sampled_from(["NaN", "Infinity", "-Infinity", "layers.0"])


@examples(40)
@given(WORDS, WORDS, st.sampled_from([1.5, math.nan, math.inf, -math.inf]))
def test_names_that_look_like_numbers_stay_names(name, other, number):
    """A layer called NaN is a layer, wherever a report names it; a number that is NaN comes back as one."""
    finding = Finding("plateau", "info", name, 1, {"value": number}, other, (name,), other)
    report = EpochReport(
        1, 1,
        gradients={name: {"mean_abs": number}},
        output={"producer": name, "dropout_layer": other, "scale": number},
        coverage={"gradients": {"seen": [name, other], "unseen": {name: other}}},
        findings=(finding,),
    )  # fmt: skip
    back = EpochReport.from_dict(json.loads(json.dumps(report.to_dict(), allow_nan=False)))
    assert repr(back) == repr(report)
