"""Made-up runs."""

from pathlib import Path

import pytest

from ignite_act.config import RunConfig
from ignite_act.experiment import run
from ignite_act.runs.stored import StoredRun
from ignite_act.variants import activation_slug


def stored(
    act="relu",
    seed=42,
    accuracy=0.5,
    *,
    learned=True,
    error=None,
    root="runs",
    gradients=(2.0, 4.0),
    dead=((1, 16), (2, 8)),
    summary=None,
    **settings,
):
    """A run as its directory would tell of it; with an error, one that failed."""
    config = RunConfig(**{"act": act, "seed": seed, "hidden": (16, 8), **settings}).model_dump(mode="json")
    slug = activation_slug(act)
    directory = Path(root) / config["data"] / slug / f"seed-{seed}"
    content = {"schema": 2, "activation": slug, "seed": seed, "epochs": 5, "best_epoch": 3}
    if error is not None:
        return StoredRun(directory, config, {}, {**content, "stop": "failed", "stop_reason": error})
    content |= {
        "test": {"accuracy": accuracy, "loss": 0.25},
        "last": {"accuracy": 0.75, "loss": 0.5},
        "learned": learned,
        "stop": "all_epochs",
        "stop_reason": "all 5 epochs done",
        "seconds": 1.5,
        "gradients": {f"layers.{2 * k}": {"mean_abs": value} for k, value in enumerate(gradients)},
        "dead_neurons": {f"layers.{2 * k + 1}": {"dead": n, "units": units} for k, (n, units) in enumerate(dead)},
        **(summary or {}),
    }
    return StoredRun(directory, config, {}, content)


@pytest.fixture(autouse=True)
def empty_directory(tmp_path, monkeypatch):
    """Made-up runs have no files: nothing may be found where their directories would be."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The directory of real runs: two variants with two seeds, and one run that becomes non-finite."""
    directory = tmp_path_factory.mktemp("runs")
    for act, seed, lr in (("relu", 1, 0.1), ("relu", 2, 0.1), ("tanh", 1, 0.1), ("tanh", 2, 0.1), ("elu", 1, 1e30)):
        config = RunConfig(act=act, seed=seed, lr=lr, hidden=(16, 8), batch_size=128, max_epochs=2)
        run(config, directory, quiet=True)
    return directory


@pytest.fixture
def made():
    """Makes one run."""
    return stored


@pytest.fixture
def study():
    """Makes the runs of variants, seeds counted from 42: activation -> test accuracy of each seed.

    None is a run that failed; a seed's accuracy of at most 0.1 is that of a run that did not start to learn.
    """

    failed = {"error": "OSError: no"}

    def make(accuracies, **settings):
        return [
            stored(act, seed, value, **(failed if value is None else {"learned": value > 0.1}), **settings)
            for act, values in accuracies.items()
            for seed, value in enumerate(values, start=42)
        ]

    return make
