"""Runs that are killed, interrupted and terminated."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from run_directories import assert_ended_as, checkpoint, only_run, summary

from ignite_act.config import RunConfig
from ignite_act.experiment import run
from ignite_act.runs.layout import run_directory
from ignite_act.sinks import read_reports

HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.parametrize("kills", [6, 40])
def test_killed_runs(tmp_path, kills):
    """Whatever SIGKILL strikes, the resumed run ends as the one that was left alone: nothing is lost, nothing is twice.

    The kills of three variants (early stopping; a random function with Adam and accumulation; a loss scaler) strike at
    random moments, and every second one while something is written.
    """
    command = [sys.executable, HERE / "killing.py", tmp_path, str(kills)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    struck = json.loads(done.stdout)
    assert {name: len(places) for name, places in struck.items()} == dict.fromkeys(("sgd", "adam", "scaler"), kills)
    for name, places in struck.items():
        assert Counter(places)["any moment"] == kills // 2
        assert {"checkpoint", "report line"} <= set(places)
        killed = sorted(path.name for path in (tmp_path / name).glob("killed-*"))
        for other in ("counted", *killed):
            assert_ended_as(only_run(tmp_path / name / other), only_run(tmp_path / name / "straight"))
    stopped = only_run(tmp_path / "sgd" / "straight")
    assert summary(stopped)["stop"] == "early_stopping"
    scaled = checkpoint(only_run(tmp_path / "scaler" / "straight"))
    assert scaled["scaler"]["scale"] > 1


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "terminated"),
    ],
)
def test_ends_cleanly(tmp_path, number, code, said, jobs):
    """Ctrl-C and SIGTERM end a run, and the jobs of a sweep, with one line and a state that is resumed."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what is in the background without
    acts = ("tanh", "relu")[:jobs]
    command = [sys.executable, "-m", "ignite_act", "run", "--hidden", "8", "--quiet", "--jobs", str(jobs)]
    command += ["--output-dir", tmp_path, *(word for act in acts for word in ("--act", act))]
    with subprocess.Popen(
        [*command, "--max-epochs", "100000", "--patience", "0"], stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            wait_for(lambda: len([*tmp_path.glob("*/*/*/checkpoints/previous.pt")]) == jobs)  # all are in epoch three
            process.send_signal(number)
            line, *rest = process.communicate(timeout=60)[1].splitlines()
        finally:
            process.kill()
    assert line == f"{said}: the same command with --resume goes on after the last finished epoch"
    assert not [other for other in rest if "resource_tracker" not in other and "warnings.warn" not in other]  # loky's
    assert process.returncode == code
    for act in acts:
        config = RunConfig(act=act, hidden=(8,), patience=0, max_epochs=1)
        done = len(read_reports(run_directory(config, tmp_path) / "epochs.jsonl"))
        resumed = run(config, tmp_path, resume=True, quiet=True)
        assert resumed.summary["epochs"] in (done - 1, done)


def wait_for(condition):
    """Waits until something is true."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
