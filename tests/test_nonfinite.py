"""NaN and infinities anywhere: nothing crashes, and the first place and iteration are told."""

import json
import logging
import math

import pytest
import torch
from ignite.engine import Events
from run_directories import recorded
from torch import nn

from ignite_act import Diagnostics
from ignite_act.data import TensorLoader
from ignite_act.experiment import _Run, run
from ignite_act.html import write_report
from ignite_act.runs.checkpoints import load_checkpoint
from ignite_act.runs.stored import read_run
from ignite_act.sinks import ConsoleSink, JsonLinesSink, TensorBoardSink, read_reports
from ignite_act.testing import FunctionalMLP, ResidualCNN, Transformer, batches, make_trainer

VALUES = [math.nan, math.inf, -math.inf]
MODELS = [FunctionalMLP, ResidualCNN, Transformer]


def poison_input(model, value):
    return model.register_forward_pre_hook(lambda module, args: (args[0].clone().fill_(value), *args[1:]))


def poison_activation(model, value):
    layer = [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))][1]
    return layer.register_forward_hook(lambda module, args, output: output * value)


def poison_output(model, value):
    return model.register_forward_hook(lambda module, args, output: output + value)


def poison_gradient(model, value):
    weight = next(parameter for parameter in model.parameters() if parameter.ndim > 1)
    return weight.register_hook(lambda gradient: gradient * value)


def poison_weight(model, value):
    with torch.no_grad():
        next(parameter for parameter in model.parameters() if parameter.ndim > 1).view(-1)[0] = value


POISONS = [poison_input, poison_activation, poison_output, poison_gradient, poison_weight]


def inputs_of(make):
    """Four batches for a model."""
    if make is FunctionalMLP:
        return batches()
    inputs = torch.randn(4, 8, 1, 8, 8) if make is ResidualCNN else torch.randint(10, (4, 8, 5))
    return [(x, torch.randint(3, (8,))) for x in inputs]


@pytest.mark.few(8)
@pytest.mark.parametrize("value", VALUES, ids=str)
@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("make", MODELS)
def test_nothing_crashes(tmp_path, caplog, make, poison, value):
    """Whatever becomes non-finite, at the first or at a later iteration: all is measured, written, judged and read."""
    if make is Transformer and poison is poison_input:
        pytest.skip("tokens are whole numbers")
    for iteration in (1, 6):
        torch.manual_seed(0)
        model = make()
        trainer = make_trainer(model, torch.optim.Adam(model.parameters(), 1e-3))
        data, place, told = inputs_of(make), tmp_path / str(iteration), []
        trainer.add_event_handler(
            Events.ITERATION_STARTED(once=iteration), lambda engine, model=model: poison(model, value)
        )
        sinks = [JsonLinesSink(place / "epochs.jsonl"), TensorBoardSink(place), ConsoleSink(told.append)]
        place.mkdir()
        with Diagnostics(model, sinks=sinks).attach(trainer) as diagnostics:
            trainer.run(data, max_epochs=3)
        sinks[1].close()
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
        reports = read_reports(place / "epochs.jsonl")
        assert [report.epoch for report in reports] == [1, 2, 3]
        assert len(recorded(place).Scalars("gradients/" + tag_of(reports[0]))) == 3
        assert not [*diagnostics.coverage["gradients"].unseen]
        if math.isnan(value) or poison in (poison_output, poison_weight):
            finding = next(f for f in diagnostics.all_findings if f.kind == "nonfinite")
            assert finding.severity == "error"
            assert finding.evidence["value"] == iteration, finding
            assert finding.since_epoch == math.ceil(iteration / 4)


def tag_of(report):
    return next(iter(report.gradients)).replace(".", "/")


@pytest.mark.few(3)
@pytest.mark.parametrize("value", VALUES, ids=str)
@pytest.mark.parametrize("poison", [poison_gradient, poison_weight])
@pytest.mark.parametrize("act", ["relu", "tanh"])  # tanh makes finite numbers of infinite ones
def test_the_experiment_stops(tmp_path, tiny, monkeypatch, act, poison, value):
    """A run whose loss is no number any more stops with the finding; the best weights are those of a good epoch."""
    real = _Run._bind

    def bind(self, sinks):
        real(self, sinks)
        self.trainer.add_event_handler(Events.EPOCH_STARTED(once=3), lambda: poison(self.parts.model, value))

    monkeypatch.setattr(_Run, "_bind", bind)
    result = run(tiny(act=act, max_epochs=6, patience=0), tmp_path, quiet=True)
    best = load_checkpoint(result.directory / "checkpoints/best.pt")
    assert best["run"]["epoch"] <= 2
    assert all(tensor.isfinite().all() for tensor in best["model"].values())
    assert math.isfinite(result.summary["test"]["loss"])
    json.loads((result.directory / "summary.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert write_report([read_run(result.directory)], tmp_path / "report.html").stat().st_size > 1_000_000
    assert "nonfinite" in [finding["kind"] for finding in result.summary["findings"]]
    if math.isnan(value) or poison is poison_gradient:
        assert (result.summary["stop"], result.summary["epochs"]) == ("nonfinite", 3)


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_data_that_are_no_numbers(tmp_path, tiny, monkeypatch, value):
    """A single value in the training data is enough to stop a run; the record says at which iteration."""
    real = TensorLoader.__iter__

    def iterate(self):
        for number, (x, y) in enumerate(real(self)):
            if self.shuffle and (self.epoch, number) == (2, 4):
                x = x.clone()
                x[3, 0, 5, 5] = value
            yield x, y

    monkeypatch.setattr(TensorLoader, "__iter__", iterate)
    result = run(tiny(max_epochs=5, patience=0), tmp_path, quiet=True)
    assert (result.summary["stop"], result.summary["epochs"]) == ("nonfinite", 2)
    finding = next(item for item in result.summary["findings"] if item["kind"] == "nonfinite")
    assert (finding["since_epoch"], finding["evidence"]["value"]) == (2, 14)
    assert result.summary["best_epoch"] == 1
