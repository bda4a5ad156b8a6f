from __future__ import annotations

import logging
import math
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from ignite.metrics import Accuracy
from torch.optim import SGD

from ignite_act import ActivationStats, DeadNeurons, Diagnostics, EpochReport, GradientStats
from ignite_act.testing import SharedReLU, TupleLSTM, batches, make_evaluator, make_trainer


class ListSink:
    """Keeps the reports."""

    def __init__(self) -> None:
        self.reports: list[EpochReport] = []

    def write(self, report: EpochReport) -> None:
        self.reports.append(report)


class BrokenSink:
    """Fails on every report, as a full disk does."""

    def write(self, report: EpochReport) -> None:
        raise OSError("no space left on device")


def setup() -> tuple[SharedReLU, Engine]:
    torch.manual_seed(0)
    model = SharedReLU()
    return model, make_trainer(model, SGD(model.parameters(), lr=0.1))


def test_the_bundle_has_the_numbers_of_the_three_handlers() -> None:
    """One attach gives what the three handlers give alone, in the report and in the engine's metrics."""
    model, trainer = setup()
    alone = {
        "gradients": GradientStats(model).attach(trainer, "g"),
        "activations": ActivationStats(model, every=1).attach(trainer, "a"),
        "dead_neurons": DeadNeurons(model).attach(trainer, "d"),
    }
    bundle = Diagnostics(model, every=1).attach(trainer)
    assert bundle.report is None
    assert bundle.cost == 0.0
    trainer.run(batches(), max_epochs=2)
    report = bundle.report
    assert report is not None
    assert (report.epoch, report.iteration, report.partial) == (2, 8, False)
    assert report.gradients == alone["gradients"].result
    assert report.dead_neurons == alone["dead_neurons"].result
    for site, row in alone["activations"].result.items():
        shown = report.activations[site]
        assert {**shown, "edges": 0, "counts": 0} == {**row, "edges": 0, "counts": 0}
        assert sum(shown["counts"]) == row["count"] - row["nonfinite"]
    for name, short in (("gradients", "g"), ("activations", "a"), ("dead_neurons", "d")):
        assert trainer.state.metrics[name] == trainer.state.metrics[short]
        assert report.coverage[name] == alone[name].coverage.to_dict()
        assert bundle.coverage[name] == alone[name].coverage
    assert 0.0 < bundle.cost < 1.0


@pytest.mark.parametrize(("every", "expected"), [(None, 2), (1, 12), (3, 4)])
def test_every_samples_gradients_and_activations(every: int | None, expected: int) -> None:
    """Activations come from one step of ten unless `every` says otherwise; dead neurons are always exact."""
    model, trainer = setup()
    bundle = Diagnostics(model, every=every).attach(trainer)
    trainer.run(batches(12))
    assert bundle.report is not None
    assert bundle.report.activations["layers.1"]["count"] == expected * 8 * 6
    assert bundle.report.gradients["layers.0"]["steps"] == (12 if every is None else expected)


def test_scores_of_both_engines_are_in_the_report() -> None:
    """The evaluator's metrics are validation scores, the trainer's plain numbers are training scores."""
    model, trainer = setup()
    evaluator = make_evaluator(model)
    Accuracy().attach(evaluator, "accuracy")

    @trainer.on(Events.EPOCH_COMPLETED)
    def evaluate(engine: Engine) -> None:
        engine.state.metrics["loss"] = 0.5
        engine.state.metrics["text"] = "not a number"
        evaluator.run(batches(2))

    bundle = Diagnostics(model).attach(trainer, evaluator)
    trainer.run(batches())
    assert bundle.report is not None
    assert bundle.report.scores == {
        "loss": {"train": 0.5},
        "accuracy": {"validation": evaluator.state.metrics["accuracy"]},
    }


def test_every_epoch_goes_to_every_sink_once(caplog: pytest.LogCaptureFixture) -> None:
    """Sinks get one report an epoch; one that fails is said once in the log, and training goes on."""
    model, trainer = setup()
    first, last = ListSink(), ListSink()
    Diagnostics(model, sinks=[first, BrokenSink(), last]).attach(trainer)
    with caplog.at_level(logging.WARNING, "ignite_act"):
        trainer.run(batches(), max_epochs=3)
    assert [report.epoch for report in first.reports] == [1, 2, 3]
    assert first.reports == last.reports
    assert [record.getMessage() for record in caplog.records if record.name.startswith("ignite_act")] == [
        "BrokenSink cannot write reports: OSError: no space left on device"
    ]


def test_a_run_that_breaks_leaves_a_partial_report() -> None:
    """Nothing is lost: what was measured before an exception reaches the sinks, marked partial."""
    model, trainer = setup()
    sink = ListSink()

    @trainer.on(Events.ITERATION_COMPLETED(once=6))
    def fail(engine: Engine) -> None:
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"), Diagnostics(model, sinks=[sink]).attach(trainer):
        trainer.run(batches(), max_epochs=3)
    assert [(report.epoch, report.iteration, report.partial) for report in sink.reports] == [
        (1, 4, False),
        (2, 6, True),
    ]
    assert sink.reports[-1].gradients["layers.0"]["steps"] == 2


def test_what_could_not_be_seen_is_in_the_report() -> None:
    """The coverage of every diagnostic travels in the report."""
    model = TupleLSTM()
    trainer = make_trainer(model, SGD(model.parameters(), lr=0.1))
    bundle = Diagnostics(model).attach(trainer)
    trainer.run([(torch.randn(2, 5, 4), torch.tensor([0, 1]))])
    assert bundle.report is not None
    assert bundle.report.coverage["dead_neurons"]["seen"] == []
    assert "fused kernel" in bundle.report.coverage["dead_neurons"]["unseen"]["lstm"]
    assert "head" in bundle.report.coverage["gradients"]["seen"]


def test_the_report_survives_its_dictionary() -> None:
    """A report of a run with a NaN loss goes through to_dict and from_dict unchanged."""
    model, trainer = setup()
    with torch.no_grad():
        model.layers[0].bias[0] = math.nan
    bundle = Diagnostics(model).attach(trainer)
    trainer.run(batches())
    assert bundle.report is not None
    assert repr(EpochReport.from_dict(bundle.report.to_dict())) == repr(bundle.report)
    assert bundle.report.gradients["layers.0"]["nonfinite"] == 4


def test_bundle_and_handler_cannot_share_a_name() -> None:
    """The bundle publishes under the three default names, which then are taken."""
    model, trainer = setup()
    bundle = Diagnostics(model).attach(trainer)
    with pytest.raises(ValueError, match="already"):
        DeadNeurons(model).attach(trainer)
    with pytest.raises(RuntimeError, match="attached already"):
        bundle.attach(trainer)


def test_a_window_resumed_in_its_middle_equals_the_uninterrupted_one(tmp_path: Any) -> None:
    """The state of the bundle, through a file of plain types, lets another process finish the window."""
    data = batches(5)

    def make() -> tuple[Diagnostics, Engine]:
        torch.manual_seed(0)
        model = SharedReLU()
        trainer = make_trainer(model, SGD(model.parameters(), lr=0.0))
        return Diagnostics(model, every=2).attach(trainer), trainer

    whole, trainer = make()
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED(once=3), lambda: torch.save(whole.state_dict(), tmp_path / "state.pt")
    )
    trainer.run(data)
    resumed, other = make()
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    other.run(data[3:])
    assert whole.report is not None
    assert resumed.report is not None
    for field in ("gradients", "activations", "dead_neurons"):
        for name, row in getattr(whole.report, field).items():
            for key, value in row.items():
                expected = pytest.approx(value, rel=1e-9) if isinstance(value, float) else value
                assert getattr(resumed.report, field)[name][key] == expected, (field, name, key)
