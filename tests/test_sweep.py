"""Many runs side by side."""

import io
import itertools
import json
import os
import sys
import threading
import time

import pytest
import torch
from rich.console import Console

from ignite_act import experiment, sweep
from ignite_act.activations import ACTIVATIONS
from ignite_act.config import StudyConfig
from ignite_act.errors import UserError
from ignite_act.progress import SweepProgress
from ignite_act.runs.directory import OccupiedError, begin, locked
from ignite_act.runs.stored import find_runs, read_run
from ignite_act.variants import expand_study


@pytest.fixture
def study():
    """Makes the runs of a sweep that takes a second."""

    def make(**settings):
        base = {"act": ("relu", "tanh"), "hidden": (16,), "batch_size": 128, "max_epochs": 2, "lr": 0.05}
        return expand_study(StudyConfig(**{**base, **settings}))

    return make


def scores(run):
    """Everything in a summary that follows from the training."""
    return {name: run.summary[name] for name in ("test", "validation", "best_epoch", "gradients", "dead_neurons")}


def names(runs):
    return sorted((run.config["act"], run.config["seed"]) for run in runs)


# What makes variants comparable


@pytest.mark.few(2)
@pytest.mark.parametrize("style", ["module", "shared", "functional"])
@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_same_initial_weights(style, model):
    """With one seed, every activation starts from the same weights wherever shapes agree; another seed has others."""
    acts = [name for name, entry in ACTIVATIONS.items() if entry.pointwise]
    if style == "functional":
        acts = [name for name in acts if ACTIVATIONS[name].functional is not None]
    study = StudyConfig(act=tuple(acts), hidden=(6, 4), style=style, model=model, seeds=2)
    weights = {}
    for config in expand_study(study):
        state = experiment.prepare(config).model.state_dict()
        weights[config.act, config.seed] = [value for value in state.values() if value.dim() > 1]
    for (act, seed), mine in weights.items():
        assert len(mine) == 3
        assert all(map(torch.equal, mine, weights["relu", seed])), act
    assert not torch.equal(weights["relu", 42][0], weights["relu", 43][0])


def test_same_split_and_order(study):
    """All runs have the same split; with one seed all variants see the same batches, with another seed others."""
    first, second, other = (experiment.prepare(config) for config in study(seeds=2)[:3])
    for part in ("train", "validation", "test"):
        assert torch.equal(getattr(first.data, part).x, getattr(other.data, part).x)
    batches = [torch.cat([y for _, y in parts.loader]) for parts in (first, second, other)]
    assert torch.equal(batches[0], batches[1])
    assert not torch.equal(batches[0], batches[2])


def test_seed_by_seed(study):
    """A sweep trains all variants of a seed before the next seed, so that what is there early can be compared."""
    runs = [(config.seed, config.act) for config in study(seeds=3, seed=7)]
    assert runs == list(itertools.product((7, 8, 9), ("relu", "tanh")))


# Running


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Two variants, two seeds, one after the other."""
    configs = expand_study(
        StudyConfig(act=("relu", "tanh"), hidden=(16,), batch_size=128, max_epochs=2, lr=0.05, seeds=2)
    )
    place = tmp_path_factory.mktemp("alone")
    return list(sweep.plan(configs, place, resume=True).run())


def test_one_after_the_other(alone, tmp_path, study):
    """A sweep with one job gives what each run gives by itself, in the order asked for."""
    assert [(run.config["act"], run.config["seed"]) for run in alone] == [
        ("relu", 42), ("tanh", 42), ("relu", 43), ("tanh", 43),
    ]  # fmt: skip
    single = experiment.run(study(seeds=2)[3], tmp_path, quiet=True)
    assert scores(read_run(single.directory)) == scores(alone[3])


@pytest.fixture(scope="module")
def with_one_thread(tmp_path_factory):
    """The scores of the same runs, each with one thread."""
    configs = expand_study(
        StudyConfig(act=("relu", "tanh"), hidden=(16,), batch_size=128, max_epochs=2, lr=0.05, seeds=2)
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        runs = list(sweep.plan(configs, tmp_path_factory.mktemp("one_thread"), resume=True).run())
    finally:
        torch.set_num_threads(threads)
    return {run.directory.parts[-2:]: scores(run) for run in runs}


@pytest.mark.slow
def test_side_by_side(with_one_thread, tmp_path, study):
    """Jobs side by side give the same runs and, with as many threads, the same numbers."""
    runs = sweep.plan(study(seeds=2), tmp_path, resume=True).run(jobs=max(2, os.cpu_count() or 1))
    assert {run.directory.parts[-2:]: scores(run) for run in runs} == with_one_thread


@pytest.mark.slow
def test_threads_are_divided(tmp_path, study, monkeypatch):
    """Every job has its share of the cores."""

    def write_threads(config, output_dir, *, overwrite=False):
        from pathlib import Path

        import torch

        Path(output_dir, f"{config.act}-{config.seed}").write_text(f"{torch.get_num_threads()}")
        raise InterruptedError  # nothing is to be read back

    monkeypatch.setattr(sweep, "train", write_threads)
    monkeypatch.setattr(sweep.joblib, "cpu_count", lambda: 4)
    with pytest.raises(InterruptedError):
        list(sweep.plan(study(act="relu"), tmp_path, resume=True).run(jobs=2))
    assert (tmp_path / "relu-42").read_text() == "2"


def test_one_at_a_time_in_a_process(tmp_path, study):
    """Two threads of a process that train (a Dask worker with two threads) give what one gives."""
    configs = study()
    expected = [scores(run) for run in sweep.plan(configs, tmp_path / "alone", resume=True).run()]
    threads = [threading.Thread(target=sweep.train, args=(config, tmp_path / "both")) for config in configs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    both = sweep.plan(configs, tmp_path / "both", resume=True).kept
    assert [scores(run) for run in both] == expected


# What is there already


def test_finished_runs_are_kept(tmp_path, study):
    """Finished runs with the same settings are kept as they are, unfinished ones go on, missing ones are trained."""
    configs = study(act=("relu", "tanh", "elu"), max_epochs=3)
    first, second, third = configs
    experiment.run(first, tmp_path, quiet=True)
    directory = experiment.run(second, tmp_path, quiet=True).directory
    whole = scores(read_run(directory))
    lines = (directory / "epochs.jsonl").read_bytes()
    (directory / "summary.json").unlink()  # as if it had been killed at the very end
    plan = sweep.plan(configs, tmp_path, resume=True)
    assert (plan.configs, names(plan.kept)) == ((second, third), [("relu", 42)])
    runs = list(plan.run())
    assert [run.config["act"] for run in runs] == ["tanh", "elu"]
    assert scores(runs[0]) == whole
    assert (directory / "epochs.jsonl").read_bytes() == lines
    assert sweep.plan(configs, tmp_path, resume=True).configs == ()
    assert list(sweep.plan(configs, tmp_path, resume=True).run(jobs=2, cluster=None)) == []


def test_more_epochs(tmp_path, study):
    """With more epochs than before, runs that did all of theirs go on."""
    list(sweep.plan(study(), tmp_path, resume=True).run())
    plan = sweep.plan(study(max_epochs=3), tmp_path, resume=True)
    assert len(plan.configs) == 2
    assert [run.summary["epochs"] for run in plan.run()] == [3, 3]


def test_overwrite(tmp_path, study):
    """With overwrite everything is trained again."""
    list(sweep.plan(study(), tmp_path, resume=True).run())
    plan = sweep.plan(study(lr=0.01), tmp_path, overwrite=True)
    assert (len(plan.configs), plan.kept) == (2, ())
    assert [run.config["lr"] for run in plan.run()] == [0.01, 0.01]


def test_refused_without_leave(tmp_path, study):
    """Without resume and overwrite, what is there is left alone."""
    list(sweep.plan(study(act="relu"), tmp_path, resume=True).run())
    with pytest.raises(UserError, match="holds a finished run"):
        sweep.plan(study(), tmp_path)


# What goes wrong


def fail_elu(error):
    """Training that fails for elu only."""
    real = experiment.run

    def run(config, *arguments, **options):
        if config.act == "elu":
            raise error
        return real(config, *arguments, **options)

    return run


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("out of memory\nand more"), "RuntimeError: out of memory"),
        (UserError("no such thing"), "UserError: no such thing"),
        (ValueError(""), "ValueError: ValueError"),
    ],
)
def test_a_failure_is_a_result(tmp_path, study, monkeypatch, error, reason):
    """A run that fails is recorded with reason and traceback, the others are trained; next time it is tried again."""
    configs = study(act=("relu", "elu", "tanh"))
    with monkeypatch.context() as patch:
        patch.setattr(experiment, "run", fail_elu(error))
        runs = list(sweep.plan(configs, tmp_path, resume=True).run())
    assert [run.failed for run in runs] == [False, True, False]
    failed = runs[1]
    assert failed.summary["stop_reason"] == reason
    assert (failed.summary["activation"], failed.summary["seed"], failed.summary["epochs"]) == ("elu", 42, 0)
    assert "Traceback" in (failed.directory / "train.log").read_text(encoding="utf-8")
    plan = sweep.plan(configs, tmp_path, resume=True)
    assert [config.act for config in plan.configs] == ["elu"]
    assert [run.failed for run in plan.run()] == [False]


def test_a_failure_in_the_middle_keeps_the_epochs(tmp_path, study, monkeypatch):
    """A run that fails after an epoch says how far it came, and goes on from there next time."""
    from ignite_act.engines import create_trainer

    configs = study(act="relu", max_epochs=4)
    whole = scores(next(sweep.plan(configs, tmp_path / "whole", resume=True).run()))

    def failing(*arguments, **options):
        trainer = create_trainer(*arguments, **options)

        @trainer.on(experiment.Events.EPOCH_STARTED(once=3))
        def fail():
            raise RuntimeError("cut")

        return trainer

    with monkeypatch.context() as patch:
        patch.setattr(experiment, "create_trainer", failing)
        (failed,) = sweep.plan(configs, tmp_path / "cut", resume=True).run()
    assert (failed.failed, failed.summary["stop_reason"]) == (True, "RuntimeError: cut")
    assert failed.summary["epochs"] >= 2
    (mended,) = sweep.plan(configs, tmp_path / "cut", resume=True).run()
    assert scores(mended) == whole


def test_a_failure_with_damaged_files(tmp_path, study, monkeypatch):
    """A run whose files are damaged becomes a failure, too."""
    configs = study(act="relu")
    directory = experiment.run(configs[0], tmp_path, quiet=True).directory
    (directory / "summary.json").unlink()
    (directory / "epochs.jsonl").write_text("nonsense\n{}\n", encoding="utf-8")
    (run,) = sweep.plan(configs, tmp_path, resume=True).run()
    assert run.failed
    assert "epochs.jsonl" in run.summary["stop_reason"]


@pytest.fixture
def processes_die(monkeypatch):
    """Training takes its process along: for elu always, for gelu once."""

    def train(config, output_dir, *, overwrite=False):  # sent to the processes as it stands here
        import os
        from pathlib import Path

        from ignite_act import sweep
        from ignite_act.runs.directory import begin, locked
        from ignite_act.runs.layout import run_directory

        died = Path(output_dir, config.act)
        if config.act == "elu" or (config.act == "gelu" and not died.exists()):
            with locked(run_directory(config, output_dir)):
                begin(run_directory(config, output_dir), config)
            died.touch()
            os._exit(9)
        return sweep.train(config, output_dir, overwrite=overwrite)

    monkeypatch.setattr(sweep, "train", train)


@pytest.mark.slow
def test_a_process_that_dies(tmp_path, study, processes_die):
    """Where a process dies, its run is tried once more, alone; a second death is its result. No other run is lost."""
    acts = ("elu", "relu")
    runs = list(sweep.plan(study(act=acts), tmp_path, resume=True).run(jobs=2))
    assert sorted(run.config["act"] for run in runs) == sorted(acts)
    assert [run.config["act"] for run in runs if run.failed] == ["elu"]
    assert "terminated" in next(run.summary["stop_reason"] for run in runs if run.failed)


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_process_that_dies_before_it_begins(tmp_path, study, monkeypatch):
    """A run that takes its process along before it has written anything is a failure, and the sweep ends."""

    def train(config, output_dir, *, overwrite=False):  # sent to the processes as it stands here
        import os

        from ignite_act import sweep

        if config.act == "elu":
            os._exit(9)
        return sweep.train(config, output_dir, overwrite=overwrite)

    monkeypatch.setattr(sweep, "train", train)
    runs = list(sweep.plan(study(act=("elu", "relu")), tmp_path, resume=True).run(jobs=2))
    assert {run.summary["activation"]: run.failed for run in runs} == {"elu": True, "relu": False}
    assert len(runs) == 2


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_process_that_dies_while_runs_are_started_over(tmp_path, study, monkeypatch):
    """The others are started over all the same, and the run that took its process along keeps what was there."""
    old = study(act=("elu", "relu"))
    list(sweep.plan(old, tmp_path).run())

    def train(config, output_dir, *, overwrite=False):  # sent to the processes as it stands here
        import os

        from ignite_act import sweep

        if config.act == "elu":
            os._exit(9)
        return sweep.train(config, output_dir, overwrite=overwrite)

    monkeypatch.setattr(sweep, "train", train)
    new = [config.model_copy(update={"lr": 0.02}) for config in reversed(old)]
    with pytest.raises(OccupiedError, match="elu"):
        list(sweep.plan(new, tmp_path, overwrite=True).run(jobs=2))
    stored = {run.config["act"]: run for run in find_runs([tmp_path])[0]}
    assert {act: run.config["lr"] for act, run in stored.items()} == {"elu": old[0].lr, "relu": 0.02}
    assert not any(run.failed for run in stored.values())


def test_missing_data_is_said_before_anything(tmp_path, study, monkeypatch):
    """Without the data nothing is made."""

    def refuse(*_):
        raise UserError("no data")

    monkeypatch.setattr(sweep, "load_data", refuse)
    with pytest.raises(UserError, match="no data"):
        sweep.plan(study(), tmp_path / "runs", resume=True)
    assert list(tmp_path.iterdir()) == []
    assert len(sweep.plan(study(), tmp_path / "runs", resume=True, check_data=False).configs) == 2


# A cluster


@pytest.fixture(scope="module")
def cluster():
    """A Dask cluster of two workers on this machine."""
    distributed = pytest.importorskip("distributed", reason="Dask is not installed (the extra cluster)")
    import dask

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
        ) as made,
    ):
        yield made


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Dask's own
def test_cluster(cluster, with_one_thread, tmp_path, study):
    """On a cluster the same runs come out, trained by its workers."""
    runs = list(sweep.plan(study(seeds=2), tmp_path, resume=True).run(cluster=cluster.scheduler_address))
    assert {run.directory.parts[-2:]: scores(run) for run in runs} == with_one_thread


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Dask's own
def test_a_worker_that_dies(cluster, tmp_path, study, processes_die):
    """A worker that dies does not take the sweep along: what it trained becomes a failure, or is trained elsewhere."""
    plan = sweep.plan(study(act=("relu", "elu", "tanh")), tmp_path, resume=True)
    runs = {run.config["act"]: run for run in plan.run(cluster=cluster.scheduler_address)}
    assert sorted(runs) == ["elu", "relu", "tanh"]
    assert "KilledWorker" in runs["elu"].summary["stop_reason"]
    assert not runs["relu"].failed


@pytest.mark.few(1)
@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense", ""])
def test_no_cluster(tmp_path, study, monkeypatch, address):
    """A cluster that does not answer is a user's error."""
    pytest.importorskip("distributed", reason="Dask is not installed (the extra cluster)")
    monkeypatch.setattr(sweep, "CLUSTER_TIMEOUT", 0.5)
    with pytest.raises(UserError, match=f"no Dask scheduler answers at '{address}'"):
        list(sweep.plan(study(), tmp_path, resume=True).run(cluster=address))


def test_without_dask(tmp_path, study, monkeypatch):
    """Without Dask the error says what to install."""
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UserError, match=r"ignite-act\[cluster\]"):
        list(sweep.plan(study(), tmp_path, resume=True).run(cluster="tcp://127.0.0.1:1"))


# What is shown


def test_progress(tmp_path, study, alone):
    """The display counts runs that ended and shows the epochs of those under way."""
    configs = study(max_epochs=8)
    plan = sweep.plan(configs, tmp_path, resume=True)
    console = Console(record=True, width=100, file=io.StringIO())
    with SweepProgress(plan, console) as progress:
        directory = plan.directory(configs[1])
        with locked(directory):
            begin(directory, configs[1])
        (directory / "epochs.jsonl").write_text("{}\n{}\n", encoding="utf-8")
        progress.show(alone[0])
        console.print(progress._render())
        text = console.export_text()
    assert "1/2 runs" in text
    assert "tanh, seed 42: epoch 2/8" in text
    assert "relu, seed 42: epoch" not in text
    assert "[1/2] relu, seed 42: test accuracy" in text
    assert "left" in text


def test_under_way(tmp_path, study):
    """A run is under way from its first file to its summary; one that an earlier sweep left is not."""
    config = study(act="relu")[0]
    plan = sweep.plan([config], tmp_path, resume=True)
    assert not plan.under_way(config)
    with locked(plan.directory(config)):
        begin(plan.directory(config), config)
    assert plan.under_way(config)
    old = time.time() - 60
    os.utime(plan.directory(config) / ".lock", (old, old))
    for _ in range(20):  # a file's time is that of the clock's last tick unless it is set
        again = sweep.plan([config], tmp_path, resume=True)
        with locked(plan.directory(config)):
            assert again.under_way(config)
    with locked(plan.directory(config)):
        (plan.directory(config) / "summary.json").write_text(json.dumps({}), encoding="utf-8")
    assert not plan.under_way(config)
