"""The command line."""

import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner

from ignite_act import __version__, data, experiment, sweep
from ignite_act.activations import ACTIVATIONS
from ignite_act.cli import main
from ignite_act.config import RunConfig, StudyConfig
from ignite_act.findings import KINDS
from ignite_act.findings.measured import measurement

ROOT = Path(__file__).parents[1]
SETTINGS = set(StudyConfig.model_fields) - {"published"}  # that one is for files only
TINY = ["--hidden", "8", "--max-epochs", "1", "--batch-size", "256"]


@pytest.fixture
def invoke(tmp_path, monkeypatch):
    """Calls the command in an empty directory, on a terminal of 200 columns."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sweep, "CLUSTER_TIMEOUT", 0.5)
    return lambda *arguments: CliRunner().invoke(main, [str(argument) for argument in arguments])


def runs(tmp_path):
    """The finished runs below a directory."""
    return sorted(str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob("summary.json"))


def python(*arguments, **environment):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True, text=True, timeout=120, check=False, env={**os.environ, **environment},
    )  # fmt: skip


# Help


@pytest.mark.few(3)
@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["run", "--help"],
        ["activations", "--help"],
        ["findings", "--help"],
        ["inspect", "--help"],
        ["--version"],
        ["-h"],
    ],
)
def test_help_is_light(arguments):
    """Help and version are shown without importing torch, Ignite, scikit-learn or TensorBoard."""
    code = (
        "import sys; from ignite_act.cli import main\n"
        f"try: main({arguments!r})\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'torchvision', 'ignite', 'sklearn', 'numpy', 'tensorboardX', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = python("-W", "error", "-c", code)
    assert (done.returncode, done.stderr) == (0, "")
    assert ("Usage:" in done.stdout) or (__version__ in done.stdout)


def test_help_shows_every_option_and_default(invoke):
    """Every setting is an option with its default, those that depend on the data with one per data set."""
    text = " ".join(invoke("run", "--help").stdout.split())
    for name in SETTINGS:
        assert f"--{name.replace('_', '-')} " in text
    for flag in (
        "--config",
        "--output-dir",
        "--jobs",
        "--nproc-per-node",
        "--backend",
        "--cluster",
        "--resume",
        "--overwrite",
        "--fail-on",
        "-q, --quiet",
    ):
        assert flag in text
    assert "--fail-on [error|warning|info] end with exit code 3 if a run ends with a finding" in text
    assert text.count("[default: ") == len(SETTINGS) + 4
    for default in (
        "[default: digits]", "[default: 512,256,256,128; 5,5,5,5 for circles; 32,64 for a cnn]",
        "[default: 0.01 for digits, 0.0001 for circles, 0.01 for fashionmnist]", "[default: 0.9]", "[default: 42]",
        "[default: 50 for digits, 300 for circles, 50 for fashionmnist]", "[default: relu]", "[default: runs]",
        "[default: auto]", "[default: off]", "[default: on]", "[default: none]", "[default: 1]",
    ):  # fmt: skip
        assert default in text


# What works


def test_run(invoke, tmp_path):
    """A run shows an epoch line, its layers and sites, how it ended, and where to find everything."""
    done = invoke("run", *TINY, "--act", "leakyrelu:negative_slope=0.1", "--output-dir", "my runs")
    assert done.exit_code == 0, done.output
    name = "leakyrelu-negative_slope=0.1"
    assert runs(tmp_path) == [f"my runs/digits/{name}/seed-42"]
    output = done.stdout
    assert output.count("epoch 1/1 | loss train") == 1
    assert f"{name}: gradients, last epoch" in output
    assert f"{name}: activations of the best weights, all training samples" in " ".join(output.split())
    assert f"page           my runs/digits/{name}/seed-42/report.html\n" in output
    assert f"run directory  my runs/digits/{name}/seed-42\n" in output
    for part in ("layers.0", "layers.1", "layers.2", "mean |grad|", "digits: one seed", "all epochs"):
        assert part in output
    assert output.rstrip().endswith("--logdir 'my runs'")
    assert "tensorboard" in output.splitlines()[-1]
    assert done.stderr == ""
    assert (tmp_path / f"my runs/digits/{name}/seed-42/report.html").stat().st_size > 1e6


def test_sweep(invoke, tmp_path):
    """Several runs show a line each, the comparison, and where its files are; the epochs are in the logs."""
    done = invoke("run", *TINY, "--act", "tanh", "--act", "elu", "--seeds", 2, "--output-dir", "my runs")
    assert (done.exit_code, done.stderr) == (0, "")
    assert runs(tmp_path) == [f"my runs/digits/{act}/seed-{seed}" for act in ("elu", "tanh") for seed in (42, 43)]
    lines = [line.split(": test accuracy")[0] for line in done.stdout.splitlines() if line.startswith("[")]
    assert lines == ["[1/4] tanh, seed 42", "[2/4] elu, seed 42", "[3/4] tanh, seed 43", "[4/4] elu, seed 43"]
    for part in ("digits: 2 seeds", "difference", "learned", "verdict", "mean absolute gradient", "dead neurons"):
        assert part in done.stdout
    for name in ("comparison.md", "report.html"):
        assert f"  my runs/digits/{name}" in done.stdout
    folder = tmp_path / "my runs/digits"
    assert {path.name for path in folder.iterdir() if path.is_file()} == {
        "comparison.csv", "comparison.json", "comparison.md", "report.html",
    }  # fmt: skip
    assert "epoch 1/1 | loss train" not in done.stdout
    assert "epoch 1/1 | loss train" in (folder / "tanh/seed-43/train.log").read_text(encoding="utf-8")


def test_sweep_again(invoke, tmp_path):
    """The same sweep again keeps what is finished, says so, trains what is missing and compares all of it."""
    assert invoke("run", *TINY, "--act", "tanh", "--act", "elu", "-q").exit_code == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("summary.json")}
    done = invoke("run", *TINY, "--act", "tanh", "--act", "elu", "--act", "relu")
    assert (done.exit_code, done.stderr) == (0, "")
    assert "kept 2 of 3 runs, which are finished" in done.stdout
    assert next(line for line in done.stdout.splitlines() if line.startswith("[")).startswith("[1/1] relu, seed 42")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    comparison = json.loads((tmp_path / "runs/digits/comparison.json").read_text(encoding="utf-8"))
    assert {variant["name"] for variant in comparison[0]["variants"]} == {"tanh", "elu", "relu"}
    assert invoke("run", *TINY, "--act", "tanh", "--act", "elu", "--overwrite", "-q").exit_code == 0
    assert all(path.stat().st_mtime_ns != before[path] for path in before)


def test_sweep_with_other_settings(invoke, tmp_path):
    """A sweep over runs that were made with other settings is refused before anything is trained."""
    assert invoke("run", *TINY, "--act", "tanh", "-q").exit_code == 0
    before = sorted(tmp_path.rglob("*"))
    done = invoke("run", *TINY, "--act", "elu", "--act", "tanh", "--lr", "0.5")
    assert_refused(done, before, sorted(tmp_path.rglob("*")))
    assert "other settings (lr 0.01 -> 0.5)" in done.stderr


def test_failed_run(invoke, tmp_path, monkeypatch):
    """A run that fails does not end the sweep: it is in the lines and the tables, and the exit code is 1."""
    real = experiment.run

    def fail(config, *arguments, **options):
        if config.act == "elu":
            raise RuntimeError("the disk is on fire")
        return real(config, *arguments, **options)

    monkeypatch.setattr(experiment, "run", fail)
    done = invoke("run", *TINY, "--act", "tanh", "--act", "elu", "--act", "relu")
    assert done.exit_code == 1
    assert "[2/3] elu, seed 42: failed: RuntimeError: the disk is on fire" in done.stdout
    assert "1 of 3 runs failed" in done.stderr
    assert runs(tmp_path) == [f"runs/digits/{act}/seed-42" for act in ("elu", "relu", "tanh")]
    assert "failed" in done.stdout[done.stdout.index("digits: one seed") :]
    monkeypatch.setattr(experiment, "run", real)
    again = invoke("run", *TINY, "--act", "tanh", "--act", "elu", "--act", "relu")
    assert again.exit_code == 0
    assert "kept 2 of 3 runs" in again.stdout


def test_default_directory(invoke, tmp_path):
    """Without a place, runs/ is made."""
    assert invoke("run", *TINY, "-q").exit_code == 0
    assert runs(tmp_path) == ["runs/digits/relu/seed-42"]


def test_options_reach_the_run(invoke, tmp_path):
    """Every option ends in the run's configuration."""
    options = {
        "data": "circles", "model": "mlp", "hidden": "7,6", "style": "functional", "optimizer": "rmsprop", "lr": 0.125,
        "momentum": 0.5, "weight_decay": 0.25, "batch_size": 64, "max_epochs": 2, "patience": 1, "device": "cpu",
        "accumulate": 2, "clip_norm": 0.75, "every": 3, "seed": 7, "seeds": 1, "act": "swish", "data_root": "somewhere",
    }  # fmt: skip
    arguments = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
    done = invoke("run", *arguments, "--amp", "--no-diagnostics", "-q")
    assert done.exit_code == 0, done.output
    saved = yaml.safe_load(next(tmp_path.rglob("config.yaml")).read_text(encoding="utf-8"))["config"]
    assert {**saved, "seeds": 1} == {**options, "hidden": [7, 6], "amp": True, "diagnostics": False, "published": {}}
    assert set(saved) == set(StudyConfig.model_fields) - {"seeds"}


def test_config_with_override(invoke, tmp_path):
    """Options override the file."""
    Path("study.yaml").write_text("act: [tanh, elu]\nhidden: [8]\nmax_epochs: 9\nseed: 3\n", encoding="utf-8")
    done = invoke("run", "--config", "study.yaml", "--max-epochs", 1, "--act", "relu6", "-q")
    assert done.exit_code == 0, done.output
    assert runs(tmp_path) == ["runs/digits/relu6/seed-3"]
    saved = yaml.safe_load(next(tmp_path.rglob("config.yaml")).read_text(encoding="utf-8"))["config"]
    assert (saved["hidden"], saved["max_epochs"]) == ([8], 1)


@pytest.mark.slow
@pytest.mark.parametrize("style", ["module", "functional"])
def test_all(invoke, tmp_path, style):
    """`--act all` trains every activation that the style has, and the last table has a row for each."""
    done = invoke("run", *TINY, "--act", "all", "--style", style)
    assert done.exit_code == 0, done.output
    names = {
        name
        for name, entry in ACTIVATIONS.items()
        if entry.pointwise and (style == "module" or entry.functional is not None)
    }
    assert runs(tmp_path) == sorted(f"runs/digits/{name}/seed-42" for name in names)
    table = done.stdout[done.stdout.rindex("digits: one seed") :]
    assert names <= {line.split()[0] for line in table.splitlines() if line.split()}


@pytest.mark.parametrize("columns", [80, 200])
def test_activations(invoke, monkeypatch, columns):
    """`activations` lists every entry with its name in one piece, its aliases and its flat region."""
    monkeypatch.setenv("COLUMNS", str(columns))
    done = invoke("activations")
    assert (done.exit_code, done.stderr) == (0, "")
    first = {line.split()[0] for line in done.stdout.splitlines() if line.split()}
    assert set(ACTIVATIONS) <= first
    assert "swish" in done.stdout
    lines = done.stdout.splitlines()
    relu6 = next(number for number, line in enumerate(lines) if line.split()[:1] == ["relu6"])
    assert lines[relu6].count("z <= 0") == 2
    assert lines[relu6 + 1].count("z >= 6") == 2


@pytest.mark.parametrize("columns", [80, 200])
def test_findings(invoke, monkeypatch, columns):
    """`findings` lists every kind in the order of cause and consequence, with its figures and the command for them."""
    monkeypatch.setenv("COLUMNS", str(columns))
    done = invoke("findings")
    assert (done.exit_code, done.stderr) == (0, "")
    first = [line.split()[0] for line in done.stdout.splitlines() if line.split()]
    assert [word for word in first if word in KINDS] == list(KINDS)
    counted = measurement()
    said = " ".join(done.stdout.split())
    assert said.endswith(f"counted by {counted.command}, {counted.when}")
    assert counted.healthy >= 40
    for kind, own in counted.kinds.items():
        assert 0 <= own.first <= own.runs
        text = said.split(f"{kind} {' '.join(KINDS[kind].meaning.split())}")[1]
        right = f"right first in {own.first}/{own.runs} faulty runs, " if own.runs else ""
        needs = f"needs: {KINDS[kind].needs} {right}false alarm in {own.alarms}/{counted.healthy} healthy runs"
        assert text.strip().startswith(needs)


def test_quiet(invoke):
    """`--quiet` prints nothing."""
    done = invoke("run", *TINY, "--quiet", "--act", "relu", "--act", "tanh")
    assert (done.exit_code, done.output) == (0, "")


def test_again(invoke, tmp_path):
    """The same command again says what is there and how to go on; the flags go on and start over."""
    assert invoke("run", *TINY, "-q").exit_code == 0
    content = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    again = invoke("run", *TINY)
    assert again.exit_code == 2
    assert again.stderr.count("\n") == 1
    assert again.stderr.startswith("error: runs/digits/relu/seed-42 holds a finished run of 1 epoch")
    assert all(flag in again.stderr for flag in ("--resume", "--overwrite", "--output-dir"))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == content
    resumed = invoke("run", *TINY[:2], "--max-epochs", 3, *TINY[4:], "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert [line[:9] for line in resumed.stdout.splitlines() if line.startswith("epoch")] == ["epoch 2/3", "epoch 3/3"]
    assert invoke("run", *TINY, "--overwrite", "-q").exit_code == 0
    assert len((tmp_path / "runs/digits/relu/seed-42/epochs.jsonl").read_text(encoding="utf-8").splitlines()) == 1


def test_resume_finishes_a_study(invoke, tmp_path):
    """With --resume, finished variants are kept and the missing ones are trained; all are in the table."""
    assert invoke("run", *TINY, "-q").exit_code == 0
    before = (tmp_path / "runs/digits/relu/seed-42/summary.json").stat().st_mtime_ns
    done = invoke("run", *TINY, "--resume", "--act", "relu", "--act", "tanh")
    assert done.exit_code == 0, done.output
    assert runs(tmp_path) == ["runs/digits/relu/seed-42", "runs/digits/tanh/seed-42"]
    assert (tmp_path / "runs/digits/relu/seed-42/summary.json").stat().st_mtime_ns == before
    assert "kept 1 of 2 runs" in done.stdout


def test_interrupt(invoke, monkeypatch):
    """Ctrl-C ends with 130 and says how to go on."""

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "run", interrupt)
    done = invoke("run", *TINY)
    assert done.exit_code == 130
    assert done.stderr.count("\n") == 1
    assert "--resume" in done.stderr


def test_script(tmp_path):
    """scripts/run.py trains, from any directory."""
    done = python(ROOT / "scripts/run.py", *TINY, "--act", "tanh", "--output-dir", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert runs(tmp_path) == ["digits/tanh/seed-42"]
    assert "tanh: gradients, last epoch" in done.stdout


@pytest.mark.parametrize("command", [[ROOT / "scripts/run.py"], ["-m", "ignite_act", "run"]])
def test_exit_code(tmp_path, command):
    """A user's error ends the process with exit code 2 and one line on stderr."""
    done = python(*command, *TINY, "--lr", "-1", "--output-dir", tmp_path / "out")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: lr: input should be greater than 0, got -1.0\n"
    assert list(tmp_path.iterdir()) == []


# Findings


@pytest.fixture
def found(monkeypatch):
    """Makes runs end with findings in their summaries: activation -> those of each of its runs."""
    real = experiment.run

    def make(findings):
        def run(config, *arguments, **options):
            result = real(config, *arguments, **options)
            path = result.directory / "summary.json"
            own = [finding.to_dict() for finding in findings.get(config.act, ())]
            path.write_text(json.dumps({**json.loads(path.read_text()), "findings": own}))
            return result

        monkeypatch.setattr(experiment, "run", run)

    return make


def test_findings_of_a_run(invoke, found, make_finding):
    """The findings of a single run stand in a table with what to try, and in a line that counts them."""
    over = make_finding("exploding", layer="layers.2", cleared_epoch=3)
    found({"relu": [make_finding("loss_rising", "error", None), make_finding(), over]})
    done = invoke("run", *TINY)
    assert (done.exit_code, done.stderr) == (0, "")
    table = done.stdout[done.stdout.index("relu: findings") :]
    for part in ("the loss is maximised", "dead neurons", "0.625 / 0.5", "take leakyrelu", "2, over in 3"):
        assert part in table
    assert "\nfindings       1 error, 1 warning (1 cleared)\n" in table


def test_findings_of_a_sweep(invoke, found, make_finding):
    """The findings of several runs stand in one table after the comparison, here and in `compare`."""
    found({"tanh": [make_finding()], "elu": [make_finding("loss_rising", "error", None)]})
    done = invoke("run", *TINY, "--act", "tanh", "--act", "elu", "--seeds", 2)
    assert (done.exit_code, done.stderr) == (0, "")
    for output in (done.stdout, invoke("compare", "runs").stdout):
        table = output[output.index("digits: findings") :]
        rows = [" ".join(line.split()) for line in table.splitlines()]
        assert "tanh 42, 43 warning dead neurons layers.1 2" in rows
        assert "elu 42, 43 error the loss is maximised - 2" in rows
    assert "\nfindings       2 errors, 2 warnings\n" in done.stdout
    assert done.stdout.index("digits: 2 seeds") < done.stdout.index("digits: findings")


@pytest.mark.parametrize("acts", [["relu"], ["relu", "tanh"]])
def test_no_findings(invoke, found, acts):
    """Where nothing was found, one line says so; where nothing was looked for, none does."""
    found({})
    options = [part for act in acts for part in ("--act", act)]
    done = invoke("run", *TINY, *options)
    assert "\nfindings       none\n" in done.stdout
    assert ": findings" not in done.stdout
    assert "findings" not in invoke("run", *TINY, *options, "--no-diagnostics", "--overwrite").stdout


@pytest.mark.few(4)
@pytest.mark.parametrize(
    ("fail_on", "severity", "code"),
    [
        ("error", "error", 3), ("error", "warning", 0), ("warning", "error", 3), ("warning", "warning", 3),
        ("warning", "info", 0), ("info", "info", 3), ("info", "cleared", 0), (None, "error", 0),
    ],
)  # fmt: skip
@pytest.mark.parametrize("acts", [["relu"], ["tanh", "relu"]])
def test_fail_on(invoke, found, make_finding, fail_on, severity, code, acts):
    """With --fail-on, a finding of that severity or a worse one at the end of any run is exit code 3 and a line."""
    over = severity == "cleared"
    found({"relu": [make_finding(cleared_epoch=2) if over else make_finding(severity=severity)]})
    options = ["--fail-on", fail_on] if fail_on else []
    done = invoke("run", *TINY, "-q", *options, *(part for act in acts for part in ("--act", act)))
    assert (done.exit_code, done.stdout) == (code, "")
    said = f"--fail-on {fail_on}: relu seed 42 layers.1: dead neurons ({severity})\n"
    assert done.stderr == (said if code else "")


def test_fail_on_many(invoke, found, make_finding):
    """The line names a few findings and counts the rest."""
    found({"relu": [make_finding(layer=f"layers.{number}") for number in range(9)]})
    done = invoke("run", *TINY, "-q", "--fail-on", "warning")
    assert done.exit_code == 3
    assert done.stderr.count("\n") == 1
    assert done.stderr.count("dead neurons") == 5
    assert done.stderr.endswith("; and 4 more\n")


def test_failed_runs_go_before_findings(invoke, monkeypatch, found, make_finding):
    """If a run failed, the exit code is 1, whatever was found in others."""
    found({"tanh": [make_finding(severity="error")]})
    prepared = experiment.run

    def fail(config, *arguments, **options):
        if config.act == "elu":
            raise RuntimeError("the disk is on fire")
        return prepared(config, *arguments, **options)

    monkeypatch.setattr(experiment, "run", fail)
    options = ["run", *TINY, "--act", "tanh", "--fail-on", "error", "-q"]
    assert invoke(*options, "--act", "elu").exit_code == 1
    assert invoke(*options, "--act", "relu").exit_code == 3


# Bad input

LONG = "9" * 5000
BAD_OPTIONS = [
    *(["--act", act] for act in (
        "nosuch", "", " ", ":", "../../x", "/etc/passwd", "relu:", "relu:=", "relu:x=1", "softmax", "re\nlu",
        "leakyrelu:negative_slope=nan", "leakyrelu:negative_slope=[1]", "leakyrelu:negative_slope=",
        "leakyrelu:negative_slope=1e999", f"leakyrelu:negative_slope={LONG}", "leakyrelu:negative_slope=" + "9" * 50,
        "leakyrelu:negative_slope=!!python/object/apply:os.mkdir [out]", "gelu:approximate=../../x", "celu:alpha=0",
        "rrelu:lower=2,upper=1", "prelu:num_parameters=3", "prelu:num_parameters=-1",
    )),
    ["--act", "all", "--act", "nosuch"],
    ["--act", "relu", "--act", "rrelu", "--style", "functional"],
    *(["--hidden", hidden] for hidden in ("", ",", "0", "-5", "8,x", "8;8", "1.5", "nan", LONG, "65537")),
    *(["--lr", lr] for lr in ("", "0", "-1", "nan", "inf", "-inf", "1e999", "fast", "1e-999")),
    *(["--momentum", momentum] for momentum in ("-0.1", "1", "nan", "inf")),
    *(["--weight-decay", decay] for decay in ("-1", "nan", "inf")),
    *(["--clip-norm", norm] for norm in ("0", "-1", "nan", "inf", "")),
    *(["--seed", seed] for seed in ("-1", "1.5", "nan", "", str(2**31), str(2**64), "x")),
    *([flag, number] for flag in ("--batch-size", "--max-epochs", "--accumulate", "--every")
      for number in ("0", "-1", "1.5", "", "many")),
    ["--patience", "-1"],
    ["--data", "mnist"], ["--data", ""], ["--model", "rnn"], ["--style", "loud"], ["--optimizer", "lion"],
    ["--device", "tpu"], ["--model", "cnn", "--data", "circles"],
    *([flag, number] for flag in ("--seeds", "--jobs") for number in ("0", "-1", "1.5", "", "many")),
    ["--seeds", "10001"], ["--seed", str(2**31 - 1), "--seeds", "2"], ["--jobs", "2", "--cluster", "tcp://127.0.0.1:1"],
    ["--cluster", "tcp://127.0.0.1:1"], ["--cluster", "nonsense://x"], ["--cluster", ""],
    ["--resume", "--overwrite"], ["--nonsense"], ["stray"],
    ["--fail-on", "fatal"], ["--fail-on", ""], ["--fail-on", "error", "--no-diagnostics"],
    ["--output-dir", ""], ["--output-dir", "file"], ["--output-dir", "file/below"], ["--output-dir", "x" * 300],
    ["--config", ""], ["--config", "missing.yaml"], ["--config", "file"], ["--config", "file/x.yaml"],
    ["--config", "line\nbreak.yaml"], ["--config", "unknown.yaml"], ["--config", "trap.yaml"], ["--config", "cut.yaml"],
    ["--config", "bytes.yaml"], ["--config", "types.yaml"], ["--config", "acts.yaml"],
]  # fmt: skip


def assert_refused(done, before, after):
    """Exit code 2, one line (or click's usage error), no traceback, nothing made."""
    assert done.exit_code == 2, done.output
    assert isinstance(done.exception, SystemExit)
    assert "Traceback" not in done.output
    lines = done.stderr.splitlines()
    if lines[0].startswith("Usage: "):
        assert sum(line.startswith("Error: ") for line in lines) == 1
    else:
        assert len(lines) == 1
        assert lines[0].startswith("error: ")
        assert len(lines[0]) > len("error: ")
    assert after == before


@pytest.mark.parametrize("options", BAD_OPTIONS, ids=lambda options: " ".join(options)[:50].replace("\n", " "))
def test_bad_input(invoke, tmp_path, options):
    """Bad input gives one clear line and exit code 2; nothing is made."""
    for name, content in {
        "file": b"not: [a mapping",
        "unknown.yaml": b"nope: 1\nalso: 2\n",
        "trap.yaml": b"act: !!python/object/apply:os.mkdir ['executed']\n",
        "cut.yaml": b"lr: [0.1",
        "bytes.yaml": b"\x80\x81",
        "types.yaml": b"hidden: {8: 8}\nlr: true\nseed: [1]\n",
        "acts.yaml": b"act: [relu, '../../x']\n",
    }.items():
        (tmp_path / name).write_bytes(content)
    before = sorted(tmp_path.rglob("*"))
    done = invoke("run", *TINY, *options)
    assert_refused(done, before, sorted(tmp_path.rglob("*")))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--act", "lekyrelu"], "did you mean leakyrelu"),
        (["--lr", "-1"], "lr: input should be greater than 0, got -1.0"),
        (["--hidden", ""], "hidden: "),
        (["--act", "leakyrelu:slope=1"], "has no parameter 'slope' (it has: negative_slope=0.01)"),
        (["--act", "softmax"], "softmax mixes the units of a layer"),
    ],
)
def test_bad_input_is_explained(invoke, options, said):
    """The line says what was given, what is expected and what is near."""
    assert said in invoke("run", *TINY, *options).stderr


def test_damaged_data(invoke, tmp_path, monkeypatch):
    """A data root with damaged files is refused before anything is made."""
    monkeypatch.setattr(data, "DEBIAN_FASHION_MNIST", tmp_path / "none")
    root = tmp_path / "root"
    root.mkdir()
    for name in data._FASHION_FILES:
        (root / f"{name}.gz").write_bytes(gzip.compress(b"\0" * 100)[:-10])
    before = sorted(tmp_path.rglob("*"))
    done = invoke("run", *TINY, "--data", "fashionmnist", "--data-root", root)
    assert_refused(done, before, sorted(tmp_path.rglob("*")))
    assert str(root) in done.stderr


def test_missing_data(invoke, tmp_path, monkeypatch):
    """Without FashionMNIST and without a network, the line names the three ways, and nothing is made."""

    def refuse(*_, **__):
        raise OSError("no network in tests")

    monkeypatch.setattr(data, "DEBIAN_FASHION_MNIST", tmp_path / "none")
    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", refuse)
    done = invoke("run", *TINY, "--data", "fashionmnist", "--data-root", "root")
    assert_refused(done, [], sorted(tmp_path.rglob("*")))
    for part in ("--data-root", "dataset-fashion-mnist", "network"):
        assert part in done.stderr


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_unwritable_directory(invoke, tmp_path):
    """A directory without write permission is refused."""
    (tmp_path / "locked").mkdir(mode=0o500)
    done = invoke("run", *TINY, "--output-dir", "locked")
    assert_refused(done, [tmp_path / "locked"], sorted(tmp_path.rglob("*")))


# Looking inside

RUN = "runs/digits/relu/seed-42"


@pytest.fixture(scope="module")
def short_run(tmp_path_factory):
    """The directory of a short run."""
    config = RunConfig(hidden=(16,), batch_size=128, max_epochs=1)
    return experiment.run(config, tmp_path_factory.mktemp("short"), quiet=True).directory


@pytest.fixture
def stored(short_run, tmp_path):
    """The run in the current directory."""
    return Path(shutil.copytree(short_run, tmp_path / RUN))


def test_inspect(invoke):
    """Without a place, fresh networks are shown beside each other, and what the numbers were measured on."""
    done = invoke("inspect", "--hidden", "16,8", "--act", "relu", "--act", "tanh", "--activation-batch", "100")
    assert (done.exit_code, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines if line[:1] in (["relu"], ["tanh"])] == ["relu", "tanh"] * (1 + 3 + 2)
    for part in ("digits: networks", "gradients of the loss of 256 samples, in training mode", "layers.4", "layers.3",
                 "activations of 100 samples, dead neurons over 1,197, in evaluation mode", "/16", "█"):  # fmt: skip
        assert part in done.stdout
    (dead,) = (line[3] for line in lines if line[:1] == ["relu"] and len(line) == 4)
    assert dead.endswith("/24")


def test_inspect_a_run(invoke, stored, tmp_path):
    """A run directory, also by the directory above, shows the fresh network before the trained one; files on demand."""
    before = sorted((tmp_path / "runs").rglob("*"))
    files = ["--output", "new/inside.html", "--json", "numbers.json"]
    done = invoke("inspect", "runs", "--data-root", "elsewhere", "--whole", *files)
    assert (done.exit_code, done.stderr) == (0, "")
    names = [line.split("  ")[0] for line in map(str.strip, done.stdout.splitlines()) if line.startswith("relu, ")]
    assert names == ["relu, fresh", "relu, epoch 1"] * (1 + 2 + 1)
    assert done.stdout.endswith("page           new/inside.html\nnumbers        numbers.json\n")
    assert (tmp_path / "new/inside.html").stat().st_size > 1e6
    fresh, best = json.loads((tmp_path / "numbers.json").read_text(encoding="utf-8"))["networks"]
    assert fresh["source"] == "runs/digits/relu/seed-42"
    assert best["source"] == "runs/digits/relu/seed-42/checkpoints/best.pt"
    assert best["config"]["data_root"] == "elsewhere"
    assert best["samples"]["gradients"] == 1197
    assert best["loss"] < fresh["loss"]
    assert sorted((tmp_path / "runs").rglob("*")) == before


def test_inspect_the_first_seed_of_a_study(invoke):
    """Of a study of many seeds the networks of the first one are shown; what cannot be measured is said once."""
    Path("study.yaml").write_text("act: [identity, relu]\nhidden: [8]\nseeds: 5\nseed: 7\n", encoding="utf-8")
    done = invoke("inspect", "--config", "study.yaml", "--json", "numbers.json")
    assert (done.exit_code, done.stderr) == (0, "")
    networks = json.loads(Path("numbers.json").read_text(encoding="utf-8"))["networks"]
    assert [(network["name"], network["config"]["seed"]) for network in networks] == [("identity", 7), ("relu", 7)]
    assert done.stdout.count("identity: dead neurons: MLP was not measured: no activation function was called") == 1


def test_inspect_without_unicode():
    """A terminal that cannot show blocks gets other marks; nothing is said beside what the tables say."""
    arguments = ["inspect", "--hidden", "4", "--act", "relu", "--act", "identity"]
    done = CliRunner(charset="ascii").invoke(main, arguments)
    assert (done.exit_code, done.stderr) == (0, "")
    assert "@" in done.stdout
    assert done.stdout.isascii()


def test_inspect_interrupt(invoke, monkeypatch):
    """Ctrl-C says nothing of a flag that the command has not."""

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("ignite_act.inspection.inspect_subjects", interrupt)
    done = invoke("inspect", "--hidden", "4")
    assert (done.exit_code, done.stderr) == (130, "interrupted\n")


BAD_INSPECTIONS = [
    ["nosuch"], [""], ["empty"], ["file"], ["x" * 300], ["file/below"], [f"{RUN}/config.yaml"], [f"{RUN}/checkpoints"],
    ["loose.pt"], ["garbage/checkpoints/best.pt"], ["garbage"], ["badconfig"], ["noweights"], ["other"], ["strange"],
    [RUN, "nosuch"], [RUN, "--act", "relu"], [RUN, "--seed", "42"], [RUN, "--config", "study.yaml"],
    ["--act", "nosuch"], ["--act", "softmax"], ["--act", "rrelu", "--style", "functional"], ["--hidden", "0"],
    ["--data", "mnist"], ["--seed", "-1"], ["--model", "cnn", "--data", "circles"], ["--config", "missing.yaml"],
    ["--gradient-batch", "0"], ["--activation-batch", "many"], ["--lr", "0.1"], ["--nonsense"],
    ["--output", ""], ["--output", "empty"], ["--output", "file/x.html"], ["--output", "x" * 300], ["--output"],
    ["--json", "empty"], ["--json", "file/x.json"], ["--json", "same", "--output", "same"],
    ["--output", "fine.html", "--json", "file/x.json"], ["--json", "fine.json", "--output", "empty"],
]  # fmt: skip


@pytest.fixture
def places(stored, tmp_path):
    """Damaged and foreign places beside a good run."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_bytes(b"x")
    shutil.copy(stored / "checkpoints" / "best.pt", tmp_path / "loose.pt")
    for name in ("garbage", "badconfig", "noweights", "other", "strange"):
        shutil.copytree(stored, tmp_path / name)
    (tmp_path / "garbage/checkpoints/best.pt").write_bytes(b"no checkpoint")
    (tmp_path / "badconfig/config.yaml").write_text("config: {hidden: [x]}", encoding="utf-8")
    (tmp_path / "noweights/checkpoints/best.pt").unlink()
    config = (stored / "config.yaml").read_text(encoding="utf-8")
    (tmp_path / "other/config.yaml").write_text(config.replace("- 16\n", "- 17\n"), encoding="utf-8")
    best = torch.load(stored / "checkpoints/best.pt", weights_only=True)
    torch.save({**best, "model": 5}, tmp_path / "strange/checkpoints/best.pt")


@pytest.mark.usefixtures("places")
@pytest.mark.parametrize("options", BAD_INSPECTIONS, ids=lambda options: " ".join(options)[:50])
def test_bad_inspection(invoke, tmp_path, options):
    """Bad input gives one clear line and exit code 2; nothing is made, not even the output that could be."""
    before = sorted(tmp_path.rglob("*"))
    done = invoke("inspect", *options)
    assert_refused(done, before, sorted(tmp_path.rglob("*")))
    assert done.stdout == ""


@pytest.mark.usefixtures("places")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["nosuch"], "there is no nosuch: a run directory, or a checkpoint in one, was expected"),
        (["empty"], "there is no run in empty: a run directory has a config.yaml"),
        (["loose.pt"], "loose.pt is no checkpoint of a run"),
        (["noweights"], "noweights has no weights yet: best.pt is written after the first epoch"),
        (["other"], "other/checkpoints/best.pt does not fit the config.yaml of its run"),
        (["strange"], "strange/checkpoints/best.pt holds no weights of a run"),
        ([RUN, "--act", "relu", "--seed", "1"], f"{RUN} brings its own network: leave out --act, --seed"),
        (["--json", "file/x"], "cannot write file/x: nothing can be made in "),
    ],
)
def test_bad_inspection_is_explained(invoke, options, said):
    """The line says what was given and what was expected."""
    assert said in invoke("inspect", *options).stderr


@pytest.mark.parametrize(
    ("arguments", "path"), [([], "activations.html"), (["plots/curves.html"], "plots/curves.html")]
)
def test_activations_plot(invoke, tmp_path, arguments, path):
    """`activations --plot` writes the page, by default into the current directory, and says where it is."""
    done = invoke("activations", "--plot", *arguments)
    assert (done.exit_code, done.output) == (0, f"page           {path}\n")
    assert [found for found in tmp_path.rglob("*") if found.is_file()] == [tmp_path / path]


@pytest.mark.parametrize("path", [".", "", "file/x.html", "x" * 300])
def test_activations_plot_refused(invoke, tmp_path, path):
    """A place where no page can be written is refused in one line."""
    (tmp_path / "file").write_bytes(b"x")
    done = invoke("activations", "--plot", path)
    assert_refused(done, [tmp_path / "file"], sorted(tmp_path.rglob("*")))
