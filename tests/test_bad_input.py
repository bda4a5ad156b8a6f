"""Whatever a configuration file or a command line holds: it runs, or is refused in one line."""

import os
import string
import tempfile
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ignite_act import cli, data, experiment, sweep
from ignite_act.activations import ACTIVATIONS
from ignite_act.check import windows
from ignite_act.config import LARGEST_SEED, StudyConfig, load_study
from ignite_act.errors import UserError
from ignite_act.runs.directory import check_run_directory
from ignite_act.runs.layout import run_directory
from ignite_act.variants import activation_slug, expand_study, parse_activation

LONGEST = 255
"""Bytes of a file name that every usual file system takes."""


def examples(number):
    """The same examples each time, as many as that."""
    return settings(
        max_examples=number,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )


HOSTILE_WORDS = [
    "", " ", ".", "..", "../../x", "/etc/passwd", "a/b", "a\\b", "nan", "inf", "-1", "1e999", "9" * 400, "0x" + "f" * 9,
    "yes", "null", "~", "\x1b[31mred", "line\nbreak", "\u2028", "\u202e", "\udcff", "é" * 300, "x" * 300, "=1+1",
    "<script>alert(1)</script>", "{{ 7 * 7 }}", "__class__", "relu", "digits", "all", "\u0663\u0661", "cnn", "circles",
]  # fmt: skip
text = st.text(max_size=40) | st.sampled_from(HOSTILE_WORDS)
few = st.integers() | st.floats() | st.sampled_from([0, -1, 2**31 - 1, 2**31, 2**64, 10**400, 5e-324, 1e308])
numbers = few | st.integers(4000, 6000).map(lambda digits: 16**digits)
scalars = st.none() | st.booleans() | numbers | text | st.binary(max_size=8) | st.dates() | st.datetimes()
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text | numbers, inner, max_size=3),
    max_leaves=6,
)
fitting = {
    "data": st.sampled_from(["digits", "circles", "fashionmnist"]),
    "model": st.sampled_from(["mlp", "cnn"]),
    "hidden": st.lists(st.integers(1, 8), min_size=1, max_size=3),
    "act": st.lists(st.sampled_from(["relu", "elu:alpha=0.5", "all"]), min_size=1, max_size=2),
    "seed": st.integers(0, LARGEST_SEED),
    "seeds": st.integers(1, 3),
    "lr": st.floats(1e-9, 1e9),
    "published": st.dictionaries(st.sampled_from(["relu", "tanh", "nosuch"]), st.just({"dead": 1}), max_size=2),
}
keys = st.sampled_from(sorted(StudyConfig.model_fields))
mappings = st.tuples(
    st.fixed_dictionaries({}, optional=fitting), st.dictionaries(keys | text, values, max_size=3)
).map(lambda parts: {**parts[0], **parts[1]})  # fmt: skip


def refused(error):
    """The message of an error is one line that says something."""
    said = str(error)
    assert 0 < len(said) < 10_000
    assert said.isprintable()  # and so in one line


def loaded(path, overrides=()):
    """The study, or None if it is refused as it should be."""
    try:
        study = load_study(path, dict(overrides))
    except UserError as error:
        refused(error)
        return None
    assert isinstance(study, StudyConfig)
    return study


# Configurations


@pytest.mark.slow
@examples(200)
@given(mappings)
def test_any_mapping(given_values):
    """Known keys with any values and unknown keys make a study or a refusal; a study expands to runs or a refusal."""
    study = loaded(None, given_values)
    if study is None:
        return
    try:
        runs = expand_study(study.model_copy(update={"seeds": 1}))
    except UserError as error:
        refused(error)
        return
    assert runs
    for config in runs:
        assert_inside(config)
        yaml.safe_dump(config.model_dump(mode="json"))


@pytest.mark.parametrize("key", sorted(StudyConfig.model_fields))
@pytest.mark.parametrize("around", [lambda value: value, lambda value: [True, value], lambda value: {"relu": value}])
def test_numbers_that_are_too_long_to_be_written(key, around):
    """A whole number of more digits than Python writes is refused like any other."""
    assert loaded(None, {key: around(16**6000)}) is None


TRAPS = [
    "!!python/object/apply:os.mkdir ['{trap}']",
    "!!python/object/new:os.mkdir ['{trap}']",
    "!!python/object/apply:subprocess.check_call [['mkdir', '{trap}']]",
    "!!python/name:os.system",
    "!!python/module:os",
    "!!python/tuple [1]",
    "!!python/object:ignite_act.config.StudyConfig {{}}",
]
BOMB = "\n".join([
    "a0: &a0 [x, x, x, x, x, x, x, x, x]",
    *(f"a{n}: &a{n} [{', '.join(9 * [f'*a{n - 1}'])}]" for n in range(1, 12)),
])  # fmt: skip
MERGE_BOMB = "\n".join([
    "a0: &a0 {lr: 0.1, seed: 1}",
    *(f"a{n}: &a{n} {{<<: [{', '.join(9 * [f'*a{n - 1}'])}]}}" for n in range(1, 12)),
])  # fmt: skip


def _dumped(value):
    """The value in YAML, with Python's tags where it needs them."""
    try:
        return yaml.dump(value)
    except ValueError:  # too many digits to be written
        return ""


tags = st.sampled_from(["!!int", "!!float", "!!bool", "!!timestamp", "!!binary", "!!set", "!!omap", "!!pairs", "!x"])
scalar_words = st.sampled_from([
    "''", "x", "[1]", "{a: 1}", "1:1.5", ":".join(["1"] * 300) + ".5", "2001-99-99", "0x" + "f" * 6000, ".nan", "é",
    "9999-12-31 23:59:59 -99:99", '"\\ud800"', '"\\0"', "1_0", "1e5", "&x [*x]", "&x {a: *x}", "|\n  block", "? [a]",
])  # fmt: skip
yaml_texts = (
    st.text(max_size=60)
    | st.text(alphabet=string.printable + "&*!|>?-:[]{}#%@`", max_size=60)
    | st.builds("{}: {} {}\n".format, keys, tags, scalar_words)
    | st.builds("{}: {}\n".format, keys, scalar_words)
    | st.builds("{}: {}\n{}\n".format, keys, scalar_words, st.text(max_size=20))
    | (values | mappings).map(_dumped)
    | st.builds("{}: {}{}".format, keys, st.sampled_from(["[", "{a: ", "- "]).flatmap(
        lambda opening: st.integers(1, 3000).map(lambda depth: depth * opening)), text)
)  # fmt: skip
contents = yaml_texts.map(lambda written: written.encode("utf-8", "surrogatepass")) | st.binary(max_size=60)


@pytest.fixture(scope="module")
def study_file(tmp_path_factory):
    return tmp_path_factory.mktemp("study") / "study.yaml"


@pytest.mark.slow
@examples(250)
@given(contents)
@example(BOMB.encode() + b"\nhidden: *a11\n")
@example(BOMB.encode() + b"\ndata: *a11\n")
@example(BOMB.encode() + b"\npublished: *a11\nact: *a11\n")
@example(MERGE_BOMB.encode() + b"\n<<: *a11\n")
@example("-\n''\u0378\n".encode())
@example(b"lr: !!bool x\n")
@example(b"lr: !!int ''\n")
@example(b"lr: !!timestamp x\n")
@example(b"seed: 0x" + b"f" * 6000)
def test_any_file(study_file, content):
    """Any bytes in a file make a study or a refusal: no tag, alias, number, nesting or encoding does anything else."""
    study_file.write_bytes(content)
    loaded(study_file)


@examples(60)
@given(st.sampled_from(TRAPS), keys, st.sampled_from(["{key}: {trap}", "{key}: [{trap}]", "{trap}: 1", "{trap}"]))
@example("!!python/tuple [1]", "hidden", "{key}: {trap}")
def test_no_tag_is_executed(study_file, trap, key, where):
    """A tag that would make an object of Python's, or call something, is refused, and nothing is called."""
    target = study_file.with_name("executed")
    study_file.write_text(where.format(key=key, trap=trap.format(trap=target)), encoding="utf-8")
    assert loaded(study_file) is None
    assert not target.exists()


def test_merges_mean_what_yaml_says(study_file):
    """A merged mapping gives its pairs, those beside it win, and of several the first does."""
    study_file.write_text(
        "<<: [{lr: 0.5, momentum: 0.5, seed: 3}, {lr: 0.25, momentum: 0.25, patience: 2}]\nmomentum: 0.125\n",
        encoding="utf-8",
    )
    study = load_study(study_file, {})
    assert (study.lr, study.momentum, study.seed, study.patience) == (0.5, 0.125, 3, 2)


# Activations

parameters = st.sampled_from(sorted({name for entry in ACTIVATIONS.values() for name in entry.parameters} | {"x", ""}))
odd_values = st.sampled_from(["..", "...", "a..b", "-", "+", ".", "1.", "..1", "1_0", "true", "9" * 300, "0" * 300])
short_values = st.text(alphabet="0123456789.-+eE_ x/\\٣１", max_size=12)
acts = text | st.builds(
    "{}{}{}".format,
    st.sampled_from(sorted(ACTIVATIONS)) | text,
    st.sampled_from([":", "", " : ", "::"]),
    st.lists(st.builds("{}={}".format, parameters, odd_values | short_values | text), max_size=3).map(",".join),
)
likely_acts = st.builds(
    "{}={}".format,
    st.sampled_from([f"{name}:{parameter}" for name, entry in ACTIVATIONS.items() for parameter in entry.parameters]),
    odd_values | few | short_values,
)


@pytest.mark.slow
@examples(400)
@given(acts | likely_acts)
@example("gelu:approximate=..")
@example("gelu:approximate=a/b")
@example("prelu:init=18446744073709551616")
@example("leakyrelu:negative_slope=" + "9" * 300)
@example("leakyrelu:negative_slope=" + "0" * 300)
def test_any_activation(act):
    """An activation is refused, or its name in a path is one plain file name that names the same function again."""
    try:
        entry, chosen = parse_activation(act)
    except UserError as error:
        refused(error)
        with pytest.raises(UserError):
            activation_slug(act)
        return
    slug = activation_slug(act)
    assert 0 < len(slug.encode()) <= LONGEST - len(".1234567.tmp")
    assert slug.isprintable()
    assert not set(slug) & set("/\\:<>\"'|?*")
    assert ".." not in slug
    name, dash, listed = slug.partition("-")
    assert (name, bool(dash)) == (entry.name, bool(chosen))
    assert all(f"{key}={value}" in listed for key, value in chosen.items())


def assert_inside(config):
    """The directory of a run is three levels below the output directory, whatever the run is called."""
    place = Path("/somewhere/out")
    directory = run_directory(config, place)
    assert directory.parents[2] == place
    assert directory == Path(os.path.normpath(directory))


@examples(150)
@given(st.lists(acts | likely_acts, max_size=3), fitting["data"], fitting["seed"])
def test_runs_stay_in_the_output_directory(listed, name, seed):
    """Of any activations, those that a study accepts have their directories strictly inside of the output directory."""
    try:
        runs = expand_study(StudyConfig(act=("relu", *listed), data=name, seed=seed, hidden=(2,)))
    except (UserError, ValueError) as error:
        refused(error)
        return
    for config in runs:
        assert_inside(config)


@examples(100)
@given(st.integers(1, 10**9) | st.sampled_from([10**400, 2**64]))
def test_any_number_of_steps(steps):
    """A check makes at least as many steps as asked for, in at most ten windows, and no window too many."""
    count, length = windows(steps)
    assert 1 <= count <= 10
    assert (count - 1) * length < steps <= count * length


# Command lines


class FarEnoughError(UserError):
    """Everything was checked, and the training would begin."""


def _argument(value):
    """A word that a shell can pass: no NUL, which ends it."""
    return str(value).replace("\0", "")


words = (text | st.integers() | st.floats() | st.sampled_from([2**31, 2**64, 10**400])).map(_argument)
FILES = [
    "study.yaml",
    "model.py:Net",
    "model.py:data",
    "model.py:wrong",
    "model.py:",
    "runs",
    "empty",
    "file",
    "file/x",
]


def _values(parameter):
    """What fits an option or argument, and what does not."""
    kinds = [words, words, st.sampled_from(FILES)]
    if isinstance(parameter.type, click.Choice):
        kinds.append(st.sampled_from(list(parameter.type.choices)))
    if parameter.name in ("act", "data", "model"):
        kinds.append(st.sampled_from(["relu", "circles", "tanh", "leakyrelu:negative_slope=0.1"]))
    if parameter.name in ("lr", "hidden", "seed", "seeds", "steps", "jobs"):
        kinds.append(st.integers(1, 4).map(str))
    return st.one_of(kinds)


def _part(parameter):
    """An option with a value, or the value of an argument."""
    if isinstance(parameter, click.Argument):
        return _values(parameter).map(lambda value: [value])
    names = st.sampled_from([*parameter.opts, *parameter.secondary_opts])
    if parameter.is_flag:
        return names.map(lambda name: [name])
    return st.tuples(names, _values(parameter)).map(list)


def command_lines(command, *always):
    """Lines of a command: some of its options and arguments, sometimes with other words between them."""
    known = [part for part in cli.main.commands[command].params if part.name not in ("help", "cluster")]
    parts = st.one_of([_part(parameter) for parameter in known])
    stray = words.map(lambda word: [word])
    listed = st.lists(st.one_of(parts, parts, parts, parts, stray), max_size=5)
    return listed.map(lambda found: [command, *always, *(word for part in found for word in part)])


MODEL = """
import torch
Net = lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
data = lambda: (torch.zeros(20, 64), torch.zeros(20).long())
wrong = lambda: 1 / 0
"""


@pytest.fixture
def called(tmp_path_factory, monkeypatch):
    """Calls the command in a directory of its own, up to the training; what is written lies in that directory."""
    outer = tmp_path_factory.mktemp("outer")

    def refuse(*_, **__):
        raise OSError("no network in tests")

    def run(config, place, *, resume=False, overwrite=False, quiet=False):
        check_run_directory(config, run_directory(config, place), resume=resume, overwrite=overwrite)
        experiment.prepare(config)
        raise FarEnoughError("far enough")

    def train(self, **_):
        raise FarEnoughError("far enough")
        yield

    def launch(*_, **__):
        raise FarEnoughError("far enough")

    monkeypatch.setattr(experiment, "run", run)
    monkeypatch.setattr("ignite_act.processes.launch", launch)
    monkeypatch.setattr(sweep.Sweep, "run", train)
    monkeypatch.setattr(data, "DEBIAN_FASHION_MNIST", outer / "none")
    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", refuse)
    monkeypatch.setenv("HOME", str(outer))
    monkeypatch.setattr("ignite_act.check.WINDOWS", 1)

    def call(arguments):
        with tempfile.TemporaryDirectory(dir=outer) as place:
            inner = Path(place) / "a" / "b"
            (inner / "empty").mkdir(parents=True)
            (inner / "file").write_text("x", encoding="utf-8")
            (inner / "model.py").write_text(MODEL, encoding="utf-8")
            (inner / "broken.py").write_text("1 / 0", encoding="utf-8")
            (inner / "study.yaml").write_text("act: [tanh, elu]\nhidden: [2]\n", encoding="utf-8")
            monkeypatch.chdir(inner)
            done = CliRunner().invoke(cli.main, arguments)
            monkeypatch.chdir(outer)
            assert {path.name for path in outer.iterdir()} == {Path(place).name}
            return done

    return call


def assert_ran_or_refused(done, codes=(0, 2)):
    """It ran, or said in one line why it did not; never a traceback."""
    assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
    assert "Traceback" not in done.output
    assert done.exit_code in codes
    if done.exit_code == 2:
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: ")
        assert len(line) > len("error: ")
        assert line.isprintable() or "\\" in line


@pytest.mark.slow
@examples(120)
@given(command_lines("run", "--hidden", "4"))
@example(["run", "--hidden", "4", "--every", str(10**30), "--batch-size", str(10**30), "--patience", str(10**30)])
@example(["run", "--data-root", "\udcff", "--data", "fashionmnist"])
@example(["run", "--output-dir", "\udcff\x1b"])
@example(["run", "--output-dir", 300 * "x"])
@example(["run", "--batch-size", str(10**9), "--nproc-per-node", str(10**9)])
@example(["run", "--data", "fashionmnist"])
@example(["run", "--config", "line\nbreak\x07.yaml"])
def test_any_line_of_run(called, line):
    """Any options of `run` are checked up to the training, or refused in one line."""
    assert_ran_or_refused(called(line))


@pytest.mark.slow
@examples(40)
@given(command_lines("check"), st.sampled_from([[], ["model.py:Net", "--steps", "1", "--batch-size", "4"]]))
@example(["check", "--seed", str(2**70)], ["model.py:Net", "--steps", "1"])
@example(["check", "--lr", "nan"], ["model.py:Net", "--steps", "1"])
@example(["check"], ["model.py:wrong"])
@example(["check"], ["broken.py:Net"])
@example(["check", "--data", "model.py:wrong"], ["model.py:Net"])
def test_any_line_of_check(called, line, more):
    """Any options of `check` run a few steps, or are refused in one line."""
    few = [*line, *more, "--steps", "2"] if "--steps" in line else [*line, *more]
    assert_ran_or_refused(called(few), codes=(0, 1, 2, 3))


@examples(40)
@given(command_lines("inspect"), st.sampled_from([[], ["--hidden", "2", "--data", "circles", "--model", "mlp"]]))
@example(["inspect", "--config", "line\nbreak\x07.yaml"], [])
def test_any_line_of_inspect(called, line, more):
    """Any options of `inspect` show networks, or are refused in one line."""
    assert_ran_or_refused(called([*line, *more]))


@pytest.mark.slow
@examples(120)
@given(st.sampled_from(["compare", "report", "activations"]).flatmap(command_lines))
@example(["activations", "--plot", "\udcff.html"])
@example(["activations", "--plot", "file/page.html"])
def test_any_line_of_the_others(called, line):
    """Any options of the commands that only show something are refused in one line, or show it."""
    assert_ran_or_refused(called(line))


@examples(80)
@given(st.lists(words, min_size=1, max_size=4))
@example(["run", "--no\nsuch"])
@example(["activations", "\x1b]0;title"])
def test_any_words(called, line):
    """Words without sense are refused in one line."""
    assert_ran_or_refused(called(line))
