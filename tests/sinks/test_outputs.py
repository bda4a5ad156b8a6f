from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ignite_act.report import EpochReport, coarse_histogram
from ignite_act.sinks import ConsoleSink, FanOut, JsonLinesSink, TensorBoardSink, json_line, read_reports
from ignite_act.sinks.console import epoch_line
from ignite_act.stats import Distribution

VALUES = torch.randn(1000, generator=torch.Generator().manual_seed(0)).relu()


def row_of(values: torch.Tensor) -> dict[str, Any]:
    distribution = Distribution()
    distribution.update(values)
    row: dict[str, Any] = {**distribution.compute()}
    row["edges"], row["counts"] = coarse_histogram(row["edges"], row["counts"])
    return row


def report(epoch: int = 1, **changes: Any) -> EpochReport:
    numbers: dict[str, Any] = {
        "scores": {"loss": {"train": 0.25, "validation": 0.5}, "accuracy": {"validation": 0.75}},
        "gradients": {
            "layers.0": {"mean_abs": 0.001 * epoch, "nonfinite": 0},
            "layers.2": {"mean_abs": 0.004, "nonfinite": 0},
        },
        "activations": {"layers.1": row_of(VALUES)},
        "dead_neurons": {"layers.1": {"dead": epoch, "units": 512}},
    }
    return EpochReport(epoch, 10 * epoch, **{**numbers, **changes})


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[TensorBoardSink]:
    sink = TensorBoardSink(tmp_path)
    yield sink
    sink.close()


def read(path: Path) -> EventAccumulator:
    events = EventAccumulator(str(path), size_guidance={"scalars": 0, "histograms": 0, "tensors": 0})
    events.Reload()
    return events


# JSON lines


def test_json_lines_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    """One line a report, each line plain JSON, all of them read back unchanged."""
    path = tmp_path / "epochs.jsonl"
    sink = JsonLinesSink(path)
    reports = [report(1), report(2, scores={"loss": {"train": math.nan}}), report(3, partial=True)]
    assert not path.exists()
    for item in reports:
        sink.write(item)
    lines = path.read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]
    assert repr(read_reports(path)) == repr(reports)


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    """A kill in the middle of a write costs the last line only."""
    path = tmp_path / "epochs.jsonl"
    path.write_text(json_line(report(1)) + json_line(report(2))[:100])
    assert read_reports(path) == [report(1)]


def test_a_broken_line_before_the_last_is_an_error(tmp_path: Path) -> None:
    """A file that is no record is refused with the number of the line."""
    path = tmp_path / "epochs.jsonl"
    path.write_text(json_line(report(1)) + "{\n" + json_line(report(2)))
    with pytest.raises(ValueError, match="line 2 is not a report"):
        read_reports(path)


def test_an_empty_file_has_no_reports(tmp_path: Path) -> None:
    """A run that was killed in its first epoch has a readable record."""
    path = tmp_path / "epochs.jsonl"
    path.touch()
    assert read_reports(path) == []


# The console


@pytest.mark.parametrize(
    ("changes", "max_epochs", "line"),
    [
        (
            {},
            50,
            "epoch  7/50 | loss train 0.2500 val 0.5000 | accuracy val 0.7500 | gradient first/last 1.8"
            " | dead neurons 7/512",
        ),
        (
            {"scores": {}, "gradients": {}, "dead_neurons": {}},
            None,
            "epoch 7",
        ),
        (
            {
                "scores": {"loss": {"train": math.nan}},
                "dead_neurons": {},
                "gradients": {"a": {"mean_abs": 1.0, "nonfinite": 3}, "b": {"mean_abs": 2e-9, "nonfinite": 1}},
                "partial": True,
            },
            7,
            "epoch 7/7 | loss train nan | gradient first/last 5e+08 | non-finite gradients in a, b | (partial)",
        ),
    ],
)
def test_the_line_of_an_epoch(changes: dict[str, Any], max_epochs: int | None, line: str) -> None:
    """Scores, gradient ratio, dead neurons and what is wrong stand in one line."""
    assert epoch_line(report(7, **changes), max_epochs) == line


def test_the_console_writes_one_line_a_report(capsys: pytest.CaptureFixture[str]) -> None:
    """The line goes to the given function, by default to standard output."""
    lines: list[str] = []
    ConsoleSink(lines.append, max_epochs=9).write(report(2))
    assert lines == [epoch_line(report(2), 9)]
    ConsoleSink().write(report(2))
    assert capsys.readouterr().out == epoch_line(report(2)) + "\n"


def test_the_console_shows_layers_and_sites() -> None:
    """With tables there is a line for every layer and for every site, with its dead neurons if they are known."""
    row = {"mean": 0.25, "std": 0.5, "min": 0.0, "max": 2.0, "zero_fraction": 0.5, "saturated_fraction": 0.25}
    lines: list[str] = []
    changes = {
        "gradients": {"fc": {"mean_abs": 0.125, "max_abs": 1.5, "steps": 9, "skipped_steps": 1, "nonfinite": 2}},
        "activations": {"relu": {**row, "nonfinite": 0}, "tanh": {**row, "nonfinite": 3}},
        "dead_neurons": {"relu": {"dead": 4, "units": 64}},
    }
    ConsoleSink(lines.append, tables=True).write(report(1, **changes))
    text = "\n".join(lines).splitlines()
    assert text[0] == epoch_line(report(1, **changes))
    assert [line.split() for line in text if line.startswith((" fc ", " relu ", " tanh "))] == [
        ["fc", "0.125", "1.5", "9", "1", "2"],
        ["relu", "0.25", "0.5", "0", "2", "50.00", "%", "25.00", "%", "4/64", "0"],
        ["tanh", "0.25", "0.5", "0", "2", "50.00", "%", "25.00", "%", "-", "3"],
    ]


def test_names_in_tables_are_text() -> None:
    """No terminal obeys the name of a layer or of a site."""
    lines: list[str] = []
    gradients = {"\x1b[31mfc\r": {"mean_abs": 1.0, "max_abs": 1.0, "steps": 1, "skipped_steps": 0, "nonfinite": 0}}
    row = dict.fromkeys(("mean", "std", "min", "max", "zero_fraction", "saturated_fraction", "nonfinite"), 0)
    ConsoleSink(lines.append, tables=True).write(report(1, gradients=gradients, activations={"\u202erelu\x9b": row}))
    text = "\n".join(lines)
    assert all(character.isprintable() or character == "\n" for character in text)
    assert "\\x1b[31mfc" in text
    assert "\\u202erelu" in text


def test_the_console_says_once_what_was_not_measured() -> None:
    """What could not be seen is said when it first happens, and again if the reason changes."""
    lines: list[str] = []
    sink = ConsoleSink(lines.append)
    for epoch, reason in enumerate(("it is fused", "it is fused", "it was not called"), 1):
        coverage = {"dead_neurons": {"seen": [], "unseen": {"encoder.0": reason}}}
        sink.write(report(epoch, coverage=coverage))
    assert [line for line in lines if not line.startswith("epoch")] == [
        "dead neurons: encoder.0 was not measured: it is fused",
        "dead neurons: encoder.0 was not measured: it was not called",
    ]


# The fan-out


def test_a_sink_that_fails_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    """The first failure of a sink is logged, later ones are silent, and every other sink gets every report."""

    class Broken:
        def write(self, report: EpochReport) -> None:
            raise OSError("disk full")

    lines: list[str] = []
    sinks = FanOut([Broken(), ConsoleSink(lines.append)])
    with caplog.at_level(logging.WARNING):
        sinks.write(report(1))
        sinks.write(report(2))
    assert len(lines) == 2
    assert [record.getMessage() for record in caplog.records] == ["Broken cannot write reports: OSError: disk full"]


# TensorBoard


def test_every_quantity_has_its_scalar(sink: TensorBoardSink, tmp_path: Path) -> None:
    """The tags are those of the design, with slashes for dots, and the steps are the epochs."""
    for epoch in (1, 2, 3):
        sink.write(report(epoch))
    events = read(tmp_path)
    assert set(events.Tags()["scalars"]) == {
        "loss/train",
        "loss/validation",
        "accuracy/validation",
        "gradients/layers/0",
        "gradients/layers/2",
        "dead_neurons/layers/1",
        "zero_fraction/layers/1",
        "saturated_fraction/layers/1",
        "activation_mean/layers/1",
    }
    gradients = events.Scalars("gradients/layers/0")
    assert [event.step for event in gradients] == [1, 2, 3]
    assert [event.value for event in gradients] == pytest.approx([0.001, 0.002, 0.003])
    assert [event.value for event in events.Scalars("dead_neurons/layers/1")] == [1, 2, 3]
    assert events.Scalars("loss/validation")[0].value == 0.5


def test_a_histogram_holds_every_value(sink: TensorBoardSink, tmp_path: Path) -> None:
    """The histogram read back has the report's bins, and moments that are those of the values."""
    sink.write(report(4))
    row = report().activations["layers.1"]
    (event,) = read(tmp_path).Histograms("activations/layers/1")
    histogram = event.histogram_value
    assert event.step == 4
    assert histogram.num == 1000 == sum(histogram.bucket)
    assert (histogram.min, histogram.max) == (row["min"], row["max"])
    assert histogram.sum == pytest.approx(VALUES.double().sum().item())
    assert histogram.sum_squares == pytest.approx(VALUES.double().square().sum().item())
    # A bucket ends at its limit and begins at the limit before it; the first one is empty and closes at the minimum.
    assert list(histogram.bucket_limit) == pytest.approx(row["edges"])
    assert list(histogram.bucket) == [0, *row["counts"]]
    assert len(histogram.bucket) == len(histogram.bucket_limit)


def test_nonfinite_numbers_break_nothing(sink: TensorBoardSink, tmp_path: Path) -> None:
    """NaN scores and gradients are written as they are; a site without finite values has no histogram."""
    nothing = row_of(torch.full((5,), math.nan))
    huge = row_of(torch.tensor([1e38, -1e38]))
    for row in (huge,):
        row["std"] = 1e300  # whose square no float holds
    sink.write(report(1, scores={"loss": {"train": math.nan}}, activations={"a": nothing, "b": huge}))
    sink.write(report(2))
    events = read(tmp_path)
    assert math.isnan(events.Scalars("loss/train")[0].value)
    assert math.isnan(events.Scalars("activation_mean/a")[0].value)
    assert events.Tags()["histograms"] == ["activations/layers/1"]


def test_one_chart_draws_all_layers_of_a_quantity(sink: TensorBoardSink, tmp_path: Path) -> None:
    """The custom-scalars layout has a chart per quantity, whose pattern fits the tags that are written."""
    sink.write(report(1))
    sink.close()
    events = read(tmp_path)
    layout = events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0].decode("latin1")
    for title in ("mean absolute gradient", "dead neurons", "zero fraction", "saturated fraction", "mean activation"):
        assert title in layout
    for pattern in ("^gradients/.+", "^dead_neurons/.+", "^loss/.+", "^accuracy/.+"):
        assert pattern.replace("_", r"\_") in layout or pattern in layout


def test_a_resumed_run_hides_what_it_repeats(tmp_path: Path) -> None:
    """Epochs after `purge_after` that the interrupted writer left are replaced."""
    first = TensorBoardSink(tmp_path)
    for epoch in (1, 2, 3):
        first.write(report(epoch))
    first.close()
    second = TensorBoardSink(tmp_path, purge_after=1)
    second.write(report(2, gradients={"layers.0": {"mean_abs": 9.0, "nonfinite": 0}}))
    second.close()
    values = [(event.step, event.value) for event in read(tmp_path).Scalars("gradients/layers/0")]
    assert values == [(1, pytest.approx(0.001)), (2, 9.0)]


def test_a_closed_file_takes_no_report(tmp_path: Path) -> None:
    """Closing twice is fine; a report after that is an error, not silence."""
    sink = TensorBoardSink(tmp_path)
    sink.close()
    sink.close()
    with pytest.raises(ValueError, match="closed"):
        sink.write(report(1))


def test_reports_are_on_disk_when_write_returns(sink: TensorBoardSink, tmp_path: Path) -> None:
    """A kill after an epoch loses nothing of it: each report is flushed."""
    sink.write(report(1))
    assert read(tmp_path).Scalars("loss/train")[0].value == 0.25
