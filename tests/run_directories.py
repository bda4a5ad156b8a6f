"""Looks into run directories and compares them."""

import json

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ignite_act.sinks import read_reports

FILES = {
    "config.yaml",
    "epochs.jsonl",
    "summary.json",
    "train.log",
    "checkpoints/best.pt",
    "checkpoints/last.pt",
    ".lock",
}
SEVERAL = FILES | {"checkpoints/previous.pt"}  # of a run of several epochs
TIMES = {"seconds", "cost"}


def files(directory):
    """What lies in a run directory; the event file under one name."""
    names = [str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()]
    return sorted("events.out" if name.startswith("events.out.tfevents.") else name for name in names)


def epochs(directory):
    """The lines of epochs.jsonl: nothing in them depends on the clock."""
    return (directory / "epochs.jsonl").read_bytes().splitlines()


def summary(directory):
    """summary.json, but for what depends on the clock."""
    content = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
    return {key: value for key, value in content.items() if key not in TIMES}


def accuracies(directory):
    """The validation accuracy of every epoch."""
    return [report.scores["accuracy"]["validation"] for report in read_reports(directory / "epochs.jsonl")]


def checkpoint(directory, name="last"):
    """A checkpoint, but for what depends on the clock."""
    content = torch.load(directory / "checkpoints" / f"{name}.pt", weights_only=True)
    assert {content["run"].pop(name) >= 0 for name in ("seconds", "costs")} == {True}
    return content


def assert_equal(mine, other, where="", tolerance=None):
    """Two nested structures are equal, tensors bit for bit; other numbers too, or to a relative tolerance."""
    assert type(mine) is type(other), where
    if isinstance(mine, torch.Tensor):
        assert mine.dtype == other.dtype, where
        assert torch.equal(mine, other) or torch.equal(mine.isnan(), other.isnan()), where
    elif isinstance(mine, dict):
        assert list(mine) == list(other), where
        for key in mine:
            assert_equal(mine[key], other[key], f"{where}/{key}", tolerance)
    elif isinstance(mine, (list, tuple)):
        assert len(mine) == len(other), where
        for index, pair in enumerate(zip(mine, other, strict=True)):
            assert_equal(*pair, f"{where}/{index}", tolerance)
    elif isinstance(mine, float) and tolerance is not None:
        assert mine == pytest.approx(other, rel=tolerance, abs=1e-5, nan_ok=True), where
    else:
        assert mine == other or mine != mine, where


def assert_same_run(mine, other):
    """Two run directories are equal in everything that does not depend on the clock."""
    assert files(mine) == files(other)
    assert epochs(mine) == epochs(other)
    assert summary(mine) == summary(other)
    for name in ("last", "best"):
        assert_equal(checkpoint(mine, name), checkpoint(other, name), name)


def assert_ended_as(mine, other):
    """A run that was killed and resumed is one that was left alone: weights, scores, reports, TensorBoard's lines."""
    assert set(files(mine)) == set(files(other))
    assert epochs(mine) == epochs(other)
    assert summary(mine) == summary(other)
    for name in ("last", "best", "previous"):
        assert_equal(checkpoint(mine, name), checkpoint(other, name), f"{mine} {name}")
    numbers = [report.epoch for report in read_reports(other / "epochs.jsonl")]
    assert [event.step for event in recorded(mine).Scalars("loss/train")] == numbers


def recorded(directory):
    """What TensorBoard reads from a run directory."""
    accumulator = EventAccumulator(str(directory), size_guidance={"scalars": 0, "histograms": 0, "tensors": 0})
    accumulator.Reload()
    return accumulator


def only_run(place):
    """The one run directory below a place."""
    (config,) = place.glob("*/*/*/config.yaml")
    return config.parent
