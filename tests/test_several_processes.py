"""Runs that several processes train together."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from run_directories import assert_equal, checkpoint, epochs, files, only_run, recorded, summary

from ignite_act.config import RunConfig
from ignite_act.data import Split, TensorLoader
from ignite_act.errors import UserError
from ignite_act.experiment import run
from ignite_act.sinks import read_reports

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
CAPTURED = {"capture_output": True, "text": True}
TINY = {"hidden": (8,), "batch_size": 128, "lr": 0.05, "max_epochs": 3}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def together(place, settings, *how, launcher=(sys.executable,)):
    """Trains in two processes; returns the run directory."""
    place.mkdir(exist_ok=True)
    done = subprocess.run([*launcher, HERE / "together.py", place, json.dumps(settings), *how], **CAPTURED, check=False)
    assert done.returncode == 0, done.stderr
    return only_run(place)


def weights(place):
    return [torch.load(place / f"weights-{rank}.pt", weights_only=True) for rank in (0, 1)]


# The same experiment


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A run that stops early, trained by two processes."""
    place = tmp_path_factory.mktemp("two")
    settings = {**TINY, "lr": 1.0, "patience": 2, "max_epochs": 20}
    return place, settings, together(place, settings)


@pytest.fixture(scope="module")
def one(two, tmp_path_factory):
    """The same run, trained by one process with the same batches."""
    return run(RunConfig(**two[1]), tmp_path_factory.mktemp("one"), quiet=True).directory


def test_weights_are_equal(two):
    """All processes end with the same weights, bit for bit."""
    first, second = weights(two[0])
    assert_equal(first, second)


def test_one_process_writes(two, one):
    """There is one report an epoch, one event file, and no file that a run of one process has not."""
    assert files(two[2]) == files(one)
    stopped = summary(two[2])["epochs"]
    assert [report.epoch for report in read_reports(two[2] / "epochs.jsonl")] == [*range(1, stopped + 1)]
    assert [event.step for event in recorded(two[2]).Scalars("loss/train")] == [*range(1, stopped + 1)]


def close(mine, other, where=""):
    """Nested numbers are equal but for rounding; whole numbers and words exactly."""
    assert_equal(mine, other, where, tolerance=2e-3)


def test_statistics_are_those_of_one_process(two, one):
    """Scores, gradients, activations, dead neurons and findings are those of one process with the same batches."""
    assert_same_statistics(two[2], one, epochs=2)  # with this learning rate rounding grows from epoch to epoch


@pytest.mark.parametrize("settings", [{}, {"act": "tanh", "optimizer": "adam", "lr": 0.01, "accumulate": 2}])
def test_so_is_the_summary(tmp_path, settings):
    """Where rounding does not grow, the last epoch and the summary are those of one process, too."""
    second = together(tmp_path / "two", {**TINY, **settings})
    first = run(RunConfig(**{**TINY, **settings}), tmp_path / "one", quiet=True).directory
    assert_same_statistics(second, first, epochs=TINY["max_epochs"])
    for part in ("test", "validation", "best_epoch", "epochs", "stop", "dead_neurons", "learned"):
        close(summary(second)[part], summary(first)[part], part)


def assert_same_statistics(directory, straight, epochs):
    """The first reports of two runs are equal but for rounding."""
    reports = (read_reports(place / "epochs.jsonl")[:epochs] for place in (directory, straight))
    pairs = list(zip(*reports, strict=True))
    assert len(pairs) == epochs
    for mine, other in pairs:
        for part in ("scores", "gradients", "dead_neurons", "updates", "coverage"):
            close(dict(getattr(mine, part)), dict(getattr(other, part)), part)
        for site, row in mine.activations.items():
            same = other.activations[site]
            assert (row["count"], row["units"]) == (same["count"], same["units"])
            close(
                [row[name] for name in ("mean", "std", "min", "max")],
                [same[name] for name in ("mean", "std", "min", "max")],
            )
        assert [(f.kind, f.layer, f.severity) for f in mine.findings] == [
            (f.kind, f.layer, f.severity) for f in other.findings
        ]


def test_stopping_is_decided_together(two, one):
    """Early stopping ends all processes in the same epoch, which is that of one process."""
    assert summary(two[2])["stop"] == summary(one)["stop"] == "early_stopping"


def test_torchrun(two, tmp_path):
    """torchrun starts the same experiment: the same bits."""
    other = together(tmp_path / "torchrun", two[1], "torchrun", launcher=TORCHRUN)
    assert epochs(other) == epochs(two[2])
    assert_equal(weights(tmp_path / "torchrun")[1], weights(two[0])[0])


@pytest.mark.parametrize("launcher", [[sys.executable, "-m", "ignite_act"], [*TORCHRUN, "-m", "ignite_act"]])
def test_command_line(tmp_path, launcher):
    """Both ways work on the command line, and what is shown is shown once."""
    options = ["--hidden", "8", "--batch-size", "128", "--max-epochs", "1", "--output-dir", tmp_path]
    own = [] if "torch.distributed.run" in launcher else ["--nproc-per-node", "2"]
    done = subprocess.run([*launcher, "run", *options, *own], **CAPTURED, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 1/1") == done.stdout.count("run directory") == 1
    assert checkpoint(only_run(tmp_path))["run"]["settings"]["processes"] == 2


def test_a_sweep(tmp_path):
    """Several runs are trained one after the other, each by all processes."""
    command = [sys.executable, "-m", "ignite_act", "run", "--hidden", "8", "--max-epochs", "1", "--batch-size", "128"]
    command += [
        "--output-dir",
        tmp_path,
        "--act",
        "relu",
        "--act",
        "tanh",
        "--nproc-per-node",
        "2",
        "--backend",
        "gloo",
    ]
    done = subprocess.run(command, **CAPTURED, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert [path.parent.parent.name for path in sorted(tmp_path.glob("*/*/*/summary.json"))] == ["relu", "tanh"]


# What is lost, and what is not


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_is_killed(tmp_path, rank):
    """The others are ended at once, with an error that names it; what was done is resumed to the same bits."""
    settings = {**TINY, "act": "rrelu", "optimizer": "adam", "lr": 0.01, "patience": 0}
    place = tmp_path / "killed"
    place.mkdir()
    process = subprocess.Popen(
        [sys.executable, HERE / "together.py", place, json.dumps({**settings, "max_epochs": 100_000})],
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not [*place.glob("*/*/*/checkpoints/previous.pt")]:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    children = started_by(process.pid)
    os.kill(children[rank], signal.SIGKILL)
    begin = time.monotonic()
    said = process.communicate(timeout=120)[1]
    assert time.monotonic() - begin < 60
    assert process.returncode == 1
    assert f"process {rank} of 2 was killed by SIGKILL" in said or "has lost the others" in said
    assert all(not Path(f"/proc/{child}").exists() for child in children)
    settings["max_epochs"] = len(read_reports(only_run(place) / "epochs.jsonl")) + 2
    straight = together(tmp_path / "straight", settings)
    resumed = together(place, settings)
    assert epochs(resumed) == epochs(straight)
    assert_equal(weights(place)[1], weights(tmp_path / "straight")[1])


def started_by(process):
    """The training processes that a process has started, in the order of their ranks."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text(encoding="utf-8").split()
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.mark.timeout(320)
@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_process_falls_silent(tmp_path, rank):
    """A process that hangs is given up after the stated time, here five seconds: torch would wait for half an hour."""
    done = subprocess.run(
        [sys.executable, HERE / "together.py", tmp_path, json.dumps(TINY), rank], **CAPTURED, check=False, timeout=300
    )
    assert done.returncode == 1
    assert "has lost the others" in done.stderr


# What is refused


def test_another_number_of_processes_is_refused(two, tmp_path):
    """A run is resumed by as many processes as it began with, or refused with both numbers."""
    (two[2] / "summary.json").rename(tmp_path / "summary.json")
    try:
        with pytest.raises(UserError, match="processes 2 -> 1"):
            run(RunConfig(**{**two[1], "max_epochs": 30}), two[0], resume=True, quiet=True)
    finally:
        (tmp_path / "summary.json").rename(two[2] / "summary.json")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--nproc-per-node", "3"], "3 processes cannot share a batch of 32 samples equally"),
        (["--nproc-per-node", "257"], "Invalid value for '--nproc-per-node'"),
        (["--nproc-per-node", "2", "--jobs", "2"], "--nproc-per-node trains one run after the other"),
        (["--nproc-per-node", "2", "--act", "nosuch"], "unknown activation"),
    ],
)
def test_refused(tmp_path, options, said):
    """What cannot be done in several processes is refused in one line, by one of them."""
    command = [sys.executable, "-m", "ignite_act", "run", "--output-dir", tmp_path, *options]
    done = subprocess.run(command, **CAPTURED, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


def test_torchrun_refuses_a_sweep(tmp_path):
    """One of the processes says what torchrun cannot do here."""
    command = [*TORCHRUN, "-m", "ignite_act", "run", "--act", "relu", "--act", "tanh", "--output-dir", tmp_path]
    done = subprocess.run(command, **CAPTURED, check=False)
    assert done.returncode != 0
    assert done.stderr.count("error: torchrun trains a single run") == 1


# Shares of the data


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(("samples", "batch", "processes"), [(24, 8, 2), (24, 6, 3), (20, 8, 4)])
def test_shares_of_a_batch(shuffle, samples, batch, processes):
    """The shares of all processes are the batches of one, none twice, for every epoch."""
    split = Split(torch.arange(samples), torch.arange(samples) * 10)
    for epoch in (1, 2):
        loaders = [
            TensorLoader(split, batch, shuffle=shuffle, seed=3, rank=rank, processes=processes)
            for rank in (0, *range(processes))
        ]
        whole = TensorLoader(split, batch, shuffle=shuffle, seed=3)
        for loader in (whole, *loaders):
            loader.set_epoch(epoch)
        assert {len(loader) for loader in loaders} == {len(whole)}
        for (x, y), *shares in zip(whole, *loaders[1:], strict=True):
            assert sorted(torch.cat([own for own, _ in shares]).tolist()) == sorted(x.tolist())
            assert len({len(own) for own, _ in shares}) == 1
            assert torch.equal(torch.cat([own for _, own in shares]), torch.cat([own for own, _ in shares]) * 10)
            assert torch.equal(y, x * 10)
