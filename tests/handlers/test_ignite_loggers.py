"""Ignite's own loggers take what the handlers publish; what they wrote is read back."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar, TensorboardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from ignite_act import ActivationStats, DeadNeurons, Diagnostics, GradientStats
from ignite_act.testing import SharedReLU, batches, make_trainer


def setup() -> tuple[nn.Module, Engine]:
    torch.manual_seed(0)
    model = SharedReLU()
    return model, make_trainer(model, torch.optim.SGD(model.parameters(), lr=0.1))


def read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "histograms": 0})
    events.Reload()
    return events


def flat(metrics: dict[str, Any], prefix: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, value in metrics.items():
        found.update(flat(value, f"{prefix}/{name}") if isinstance(value, dict) else {f"{prefix}/{name}": value})
    return found


@pytest.mark.parametrize("single", [True, False])
def test_every_published_number_reaches_a_logger(single: bool, tmp_path: Path) -> None:
    """``metric_names="all"`` writes each number under its names, without a warning."""
    model, trainer = setup()
    for handler in (GradientStats(model), ActivationStats(model), DeadNeurons(model)) if single else ():
        handler.attach(trainer)
    if not single:
        Diagnostics(model).attach(trainer)
    with TensorboardLogger(log_dir=tmp_path) as logger:
        logger.attach_output_handler(trainer, Events.EPOCH_COMPLETED, tag="train", metric_names="all")
        trainer.run(batches(), max_epochs=2)
    expected = flat(trainer.state.metrics, "train")
    events = read(tmp_path)
    assert len(expected) == 3 + 2 * 4 + 2
    assert set(events.Tags()["scalars"]) == set(expected)
    for tag, value in expected.items():
        assert events.Scalars(tag)[-1].value == pytest.approx(value, rel=1e-6)
        assert len(events.Scalars(tag)) == 2


def test_the_progress_bar_shows_them() -> None:
    """Ignite's progress bar takes them all."""
    model, trainer = setup()
    GradientStats(model).attach(trainer)
    out = io.StringIO()
    ProgressBar(file=out, ncols=200).attach(trainer, metric_names="all")
    trainer.run(batches(), max_epochs=2)
    shown = re.findall(r"gradients_layers\.2=([\d.e-]+)", out.getvalue())
    assert float(shown[-1]) > 0


def test_the_bundle_is_a_log_handler(tmp_path: Path) -> None:
    """``tb_logger.attach(trainer, diagnostics, event)`` writes every report, histograms included."""
    model, trainer = setup()
    diagnostics = Diagnostics(model, every=1).attach(trainer)
    with TensorboardLogger(log_dir=tmp_path) as logger:
        logger.attach(trainer, diagnostics, Events.EPOCH_COMPLETED)
        trainer.run(batches(), max_epochs=3)
    events, report = read(tmp_path), diagnostics.report
    assert report is not None
    assert [event.step for event in events.Scalars("gradients/layers/2")] == [1, 2, 3]
    assert events.Scalars("gradients/layers/2")[-1].value == pytest.approx(report.gradients["layers.2"]["mean_abs"])
    histogram = events.Histograms("activations/layers/1")[-1].histogram_value
    assert histogram.num == report.activations["layers.1"]["count"]
    assert histogram.bucket[1:] == report.activations["layers.1"]["counts"]


def test_an_event_filter_chooses_the_reports(tmp_path: Path) -> None:
    """Ignite's event filters say when a report is written."""
    model, trainer = setup()
    diagnostics = Diagnostics(model).attach(trainer)
    with TensorboardLogger(log_dir=tmp_path) as logger:
        logger.attach(trainer, diagnostics, Events.EPOCH_COMPLETED(every=2))
        trainer.run(batches(), max_epochs=5)
    assert [event.step for event in read(tmp_path).Scalars("gradients/layers/2")] == [2, 4]


def test_before_the_first_report_nothing_is_written(tmp_path: Path) -> None:
    """A logger that is called early is no error."""
    model, trainer = setup()
    diagnostics = Diagnostics(model).attach(trainer)
    with TensorboardLogger(log_dir=tmp_path) as logger:
        logger.attach(trainer, diagnostics, Events.STARTED)
        trainer.run(batches())
    assert read(tmp_path).Tags()["scalars"] == []


def test_a_logger_without_histograms_is_refused() -> None:
    """The error says what to do instead."""
    model, trainer = setup()
    diagnostics = Diagnostics(model).attach(trainer)
    bar = ProgressBar(file=io.StringIO())
    trainer.add_event_handler(Events.EPOCH_COMPLETED, diagnostics, bar, Events.EPOCH_COMPLETED)
    with pytest.raises(TypeError, match=r"ProgressBar takes no histograms; use its attach_output_handler"):
        trainer.run(batches())
