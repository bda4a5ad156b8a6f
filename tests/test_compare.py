"""Runs -> tables."""

from pathlib import Path

import pytest

from ignite_act.compare import variant_rows
from ignite_act.experiment import RunResult, run


def result(activation="relu", accuracy=0.5, gradients=(2.0, 4.0), dead=((1, 16), (2, 8))):
    """The result of a made-up run."""
    sites = {f"layers.{2 * k + 1}": {"dead": count, "units": units} for k, (count, units) in enumerate(dead)}
    summary = {
        "activation": activation,
        "seed": 42,
        "test": {"accuracy": accuracy, "loss": 0.25},
        "validation": {"accuracy": 0.75, "loss": 0.5},
        "epochs": 5,
        "best_epoch": 3,
        "gradients": {f"layers.{2 * k}": {"mean_abs": value, "steps": 9} for k, value in enumerate(gradients)},
        "dead_neurons": sites,
        "activations": {site: {"mean": 0.5} for site in sites},
        "seconds": 1.5,
        "cost": 0.01,
        "stop_reason": "all 5 epochs done",
    }
    return RunResult(Path("runs") / activation, summary, None)


def test_variant_row():
    """A row has the numbers of the summary, the gradient ratio first/last and all dead neurons."""
    assert variant_rows([result()]) == [
        {
            "activation": "relu",
            "seed": 42,
            "test_accuracy": 0.5,
            "test_loss": 0.25,
            "validation_accuracy": 0.75,
            "epochs": 5,
            "best_epoch": 3,
            "gradient_ratio": 0.5,
            "dead": 3,
            "units": 24,
            "seconds": 1.5,
            "cost": 0.01,
            "stop_reason": "all 5 epochs done",
            "directory": Path("runs/relu"),
        }
    ]


def test_best_first():
    """The best test accuracy comes first, equal ones keep their order, what has none comes last."""
    scores = {"a": 0.5, "b": None, "c": 0.75, "d": 0.5, "e": 0.0}
    rows = variant_rows([result(name, score) for name, score in scores.items()])
    assert [row["activation"] for row in rows] == ["c", "a", "d", "e", "b"]


@pytest.mark.parametrize(
    ("gradients", "ratio"),
    [
        ((1.0, 2.0, 4.0), 0.25),
        ((0.0, 2.0), 0.0),
        ((2.0, 0.0), None),
        ((0.0, 0.0), None),
        ((None, 2.0), None),
        ((2.0, None), None),
        ((None, None), None),
        ((2.0,), None),
        ((), None),
    ],
)
def test_gradient_ratio(gradients, ratio):
    """The ratio is None where there are not two layers, the last has none, or no step was finite."""
    assert variant_rows([result(gradients=gradients)])[0]["gradient_ratio"] == ratio


def test_nothing():
    """No runs give no rows, a run without diagnostics has no dead neurons and no units."""
    assert variant_rows([]) == []
    row = variant_rows([result(gradients=(), dead=())])[0]
    assert (row["dead"], row["units"]) == (0, 0)


def test_real_runs(tmp_path, tiny):
    """Real summaries have what the tables need."""
    results = [run(tiny(act=act, max_epochs=1), tmp_path, quiet=True) for act in ("relu", "tanh")]
    rows = variant_rows(results)
    assert {row["activation"] for row in rows} == {"relu", "tanh"}
    assert rows[0]["test_accuracy"] >= rows[1]["test_accuracy"]
    for item in results:
        gradients = [row["mean_abs"] for row in item.summary["gradients"].values()]
        row = next(row for row in rows if row["directory"] == item.directory)
        assert row["gradient_ratio"] == gradients[0] / gradients[-1]
        assert list(item.summary["activations"]) == ["layers.1"]
