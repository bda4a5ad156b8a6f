"""One configuration -> one run directory."""

import dataclasses
import io
import json
import logging
import math

import pytest
import torch
import yaml
from ignite.engine import Engine, Events
from run_directories import (
    FILES,
    SEVERAL,
    accuracies,
    assert_equal,
    assert_same_run,
    checkpoint,
    epochs,
    files,
    recorded,
    summary,
)
from scipy.stats import entropy
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from ignite_act import activations, experiment
from ignite_act.activations import ACTIVATIONS, register_activation
from ignite_act.config import RunConfig, StudyConfig
from ignite_act.data import load_data
from ignite_act.errors import UserError
from ignite_act.experiment import constant_predictor, has_learned, prepare, run
from ignite_act.report import EpochReport
from ignite_act.runs.checkpoints import load_checkpoint
from ignite_act.runs.layout import run_directory
from ignite_act.sinks import ConsoleSink, read_reports
from ignite_act.variants import activation_slug, expand_study, parse_activation


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of three epochs; tests only look at it."""
    config = RunConfig(hidden=(16, 8), batch_size=128, lr=0.05, max_epochs=3)
    return run(config, tmp_path_factory.mktemp("runs"), quiet=True)


# The run directory


def test_files(finished):
    """A run leaves exactly the files of the design."""
    assert finished.directory.parts[-3:] == ("digits", "relu", "seed-42")
    assert files(finished.directory) == sorted(SEVERAL | {"events.out"})


def test_one_report_an_epoch(finished):
    """epochs.jsonl has one report per epoch, with scores, gradients, activations and dead neurons of every layer."""
    reports = read_reports(finished.directory / "epochs.jsonl")
    assert [report.epoch for report in reports] == [1, 2, 3]
    assert [report.iteration for report in reports] == [9, 18, 27]
    assert reports[-1] == finished.report
    for report in reports:
        assert not report.partial
        assert {name: set(splits) for name, splits in report.scores.items()} == {
            "loss": {"train", "validation"},
            "accuracy": {"train", "validation"},
        }
        assert list(report.gradients) == ["layers.0", "layers.2", "layers.4"]
        assert {row["steps"] for row in report.gradients.values()} == {9}
        assert list(report.activations) == list(report.dead_neurons) == ["layers.1", "layers.3"]
        assert [row["units"] for row in report.dead_neurons.values()] == [16, 8]
    assert 0 < finished.summary["cost"] < 1


def test_config_file(finished, tmp_path):
    """config.yaml holds the resolved settings, from which the run can be had again, the versions and the command."""
    saved = yaml.safe_load((finished.directory / "config.yaml").read_text(encoding="utf-8"))
    config = RunConfig(hidden=(16, 8), batch_size=128, lr=0.05, max_epochs=3)
    assert RunConfig(**saved["config"]) == config
    assert set(saved["config"]) == set(RunConfig.model_fields)
    assert {"python", "torch", "pytorch-ignite", "ignite-act"} <= set(saved["versions"])
    assert saved["command"]


def test_best_checkpoint(finished):
    """best.pt holds the weights of the first epoch with the highest validation accuracy."""
    scores = accuracies(finished.directory)
    best = load_checkpoint(finished.directory / "checkpoints" / "best.pt")
    assert best["run"]["epoch"] == finished.summary["best_epoch"] == 1 + scores.index(max(scores))
    config = RunConfig(**yaml.safe_load((finished.directory / "config.yaml").read_text(encoding="utf-8"))["config"])
    model = prepare(config).model
    model.load_state_dict(best["model"])
    data = load_data("digits")
    for name, part in (("validation", data.validation), ("test", data.test)):
        with torch.no_grad():
            right = (model(part.x).argmax(1) == part.y).sum().item()
        assert finished.summary[name]["accuracy"] == right / 300
    assert finished.summary["validation"]["accuracy"] == max(scores)


def test_best_is_the_first_maximum(tmp_path, tiny):
    """Over many epochs with ties, the first best one is kept, not a later equal one."""
    result = run(tiny(max_epochs=25, lr=0.3, diagnostics=False, patience=0), tmp_path, quiet=True)
    scores = accuracies(result.directory)
    assert scores.count(max(scores)) > 1
    assert result.summary["best_epoch"] == 1 + scores.index(max(scores))


def test_summary_of_the_fixed_network(finished):
    """Dead neurons and activations in the summary are those of the best weights over all training samples."""
    best = load_checkpoint(finished.directory / "checkpoints" / "best.pt")["model"]
    x = load_data("digits").train.x.flatten(1)
    for layer, site in (("layers.0", "layers.1"), ("layers.2", "layers.3")):
        x = torch.relu(x @ best[f"{layer}.weight"].T + best[f"{layer}.bias"])
        dead = (x == 0).all(0)
        row = finished.summary["dead_neurons"][site]
        assert (row["dead"], row["units"]) == (int(dead.sum()), len(dead))
        assert row["indices"] == dead.nonzero().flatten().tolist()
        row = finished.summary["activations"][site]
        assert row["count"] == x.numel() == sum(row["counts"])
        assert row["mean"] == pytest.approx(float(x.double().mean()), rel=1e-4)
        assert row["std"] == pytest.approx(float(x.double().std(correction=0)), rel=1e-4)
        assert row["zero_fraction"] == pytest.approx(float((x == 0).double().mean()), abs=1e-4)


def test_summary(finished):
    """summary.json is what `run` returns, in plain JSON, with a stop reason in words."""
    text = (finished.directory / "summary.json").read_text(encoding="utf-8")
    assert json.loads(text) == dict(finished.summary)
    assert finished.summary["stop_reason"] == "all 3 epochs done"
    assert {"best_epoch", "validation", "test", "stop_reason", "findings", "coverage", "seconds", "cost"} <= set(
        finished.summary
    )


def test_log(finished):
    """train.log has a line per epoch and the stop reason."""
    lines = (finished.directory / "train.log").read_text(encoding="utf-8").splitlines()
    assert [f"epoch {epoch}/3" in line for epoch, line in enumerate(lines[:3], start=1)] == [True] * 3
    assert "all 3 epochs done" in lines[-1]


def test_tensorboard(finished):
    """TensorBoard reads the tags of the design back: scalars, histograms and the charts, once an epoch."""
    accumulator = recorded(finished.directory)
    tags = accumulator.Tags()
    assert {
        "loss/train", "loss/validation", "accuracy/train", "accuracy/validation",
        "gradients/layers/0", "gradients/layers/2", "gradients/layers/4",
        "dead_neurons/layers/1", "dead_neurons/layers/3",
    } <= set(tags["scalars"])  # fmt: skip
    assert set(tags["histograms"]) == {"activations/layers/1", "activations/layers/3"}
    assert "custom_scalars__config__" in tags["tensors"]
    reports = read_reports(finished.directory / "epochs.jsonl")
    for tag, value in {
        "loss/validation": lambda report: report.scores["loss"]["validation"],
        "gradients/layers/2": lambda report: report.gradients["layers.2"]["mean_abs"],
        "dead_neurons/layers/1": lambda report: report.dead_neurons["layers.1"]["dead"],
    }.items():
        events = accumulator.Scalars(tag)
        assert [event.step for event in events] == [1, 2, 3]
        assert [event.value for event in events] == pytest.approx([value(report) for report in reports], rel=1e-6)
    for event, report in zip(accumulator.Histograms("activations/layers/1"), reports, strict=True):
        row = report.activations["layers.1"]
        assert (event.step, event.histogram_value.num) == (report.epoch, row["count"])
        assert sum(event.histogram_value.bucket) == row["count"]


def test_hparams(finished, tmp_path, tiny):
    """TensorBoard's HParams tab has a row for a run: its main settings, those that are not the default, its outcome."""
    directory = run(tiny(act="leakyrelu:negative_slope=0.1", clip_norm=0.5), tmp_path, quiet=True).directory
    accumulator = recorded(directory)
    plugin = accumulator.summary_metadata["_hparams_/session_start_info"].plugin_data
    start = HParamsPluginData.FromString(plugin.content).session_start_info.hparams
    assert {name: value.string_value or value.number_value for name, value in start.items()} == {
        "act": "leakyrelu-negative_slope=0.1", "batch_size": 128, "data": "digits", "hidden": "16", "lr": 0.05,
        "model": "mlp", "optimizer": "sgd", "seed": 42, "clip_norm": 0.5,
    }  # fmt: skip
    result = summary(directory)
    for tag, value in {
        "test_accuracy": result["test"]["accuracy"],
        "best_epoch": result["best_epoch"],
        "dead_neurons": sum(row["dead"] for row in result["dead_neurons"].values()),
    }.items():
        (event,) = accumulator.Scalars(f"outcome/{tag}")
        assert (event.step, event.value) == (0, pytest.approx(value))
    ends = HParamsPluginData.FromString(accumulator.summary_metadata["_hparams_/session_end_info"].plugin_data.content)
    assert ends.session_end_info.status == 1


@pytest.mark.parametrize("name", ["best", "last"])
def test_checkpoints_are_plain(finished, name):
    """Checkpoints hold tensors and plain types: they load without executing anything."""
    content = torch.load(finished.directory / "checkpoints" / f"{name}.pt", weights_only=True)
    assert content["run"]["settings"]["act"] == "relu"
    assert content["model"]["layers.0.weight"].shape == (16, 64)


# What training is


def test_same_seed_same_result(finished, tmp_path):
    """The same configuration gives identical results, whatever the random state was."""
    torch.manual_seed(12345)
    again = run(RunConfig(hidden=(16, 8), batch_size=128, lr=0.05, max_epochs=3), tmp_path, quiet=True)
    assert_same_run(finished.directory, again.directory)


def test_other_seed_other_result(finished, tmp_path):
    """Another seed gives other weights, in another directory."""
    other = run(RunConfig(hidden=(16, 8), batch_size=128, lr=0.05, max_epochs=3, seed=43), tmp_path, quiet=True)
    assert other.directory.name == "seed-43"
    assert other.summary["gradients"] != finished.summary["gradients"]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"act": "rrelu", "optimizer": "adam", "every": 1, "accumulate": 2},
        {"model": "cnn", "hidden": (4,), "style": "functional", "max_epochs": 1},
        {"data": "circles", "hidden": (5, 5), "amp": True},
    ],
    ids=["mlp", "random", "cnn", "circles"],
)
def test_watching_changes_nothing(tmp_path, tiny, settings):
    """With and without diagnostics, weights, optimizer, scores and random state are bit-identical."""
    on, off = (
        run(tiny(**{**settings, "diagnostics": watch}), tmp_path / str(watch), quiet=True) for watch in (True, False)
    )
    mine, other = checkpoint(on.directory), checkpoint(off.directory)
    for part in ("model", "optimizer", "random", "early_stopping"):
        assert_equal(mine[part], other[part], part)
    assert accuracies(on.directory) == accuracies(off.directory)
    assert on.summary["test"] == off.summary["test"]
    assert on.report.gradients
    assert not off.report.gradients


def test_trains_as_plain_torch(tmp_path, tiny):
    """The trained weights are bit for bit those of a plain loop over the same batches."""
    config = tiny(act="tanh", momentum=0.9)
    result = run(config, tmp_path, quiet=True)
    parts = prepare(config)
    optimizer = torch.optim.SGD(parts.model.parameters(), 0.05, momentum=0.9)
    for epoch in (1, 2, 3):
        parts.loader.set_epoch(epoch)
        for x, y in parts.loader:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(parts.model(x), y).backward()
            optimizer.step()
    saved = checkpoint(result.directory)["model"]
    assert all(torch.equal(saved[name], tensor) for name, tensor in parts.model.state_dict().items())


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop"])
@pytest.mark.parametrize("data", ["digits", "circles"])
def test_optimizers(tmp_path, tiny, data, optimizer):
    """Every optimizer trains, with weight decay, on every embedded data set."""
    config = tiny(data=data, optimizer=optimizer, weight_decay=1e-4, lr=1e-3, max_epochs=1, diagnostics=False)
    result = run(config, tmp_path, quiet=True)
    assert 0 < result.summary["test"]["accuracy"] <= 1
    group = checkpoint(result.directory)["optimizer"]["param_groups"][0]
    assert (group["lr"], group["weight_decay"]) == (1e-3, 1e-4)


@pytest.mark.parametrize("patience", [1, 2, 4])
def test_early_stopping(tmp_path, tiny, patience):
    """Training stops at the epoch where the best validation accuracy is `patience` epochs old, and says so."""
    settings = {"max_epochs": 25, "lr": 0.3, "diagnostics": False}
    scores = accuracies(run(tiny(**settings, patience=0), tmp_path / "all", quiet=True).directory)
    assert len(scores) == 25
    best, stop = 0, 25
    for epoch, score in enumerate(scores, start=1):
        if best == 0 or score > scores[best - 1]:
            best = epoch
        if epoch - best >= patience:
            stop = epoch
            break
    assert stop < 25
    result = run(tiny(**settings, patience=patience), tmp_path / "stopped", quiet=True)
    assert accuracies(result.directory) == scores[:stop]
    assert (result.summary["epochs"], result.summary["best_epoch"]) == (stop, best)
    assert result.summary["stop"] == "early_stopping"
    assert result.summary["stop_reason"] == f"early stopping: no better validation accuracy for {patience} epochs"


@pytest.mark.parametrize("diagnostics", [True, False])
def test_nonfinite_loss(tmp_path, tiny, diagnostics):
    """A loss that becomes NaN ends the run with its reason, a readable record and a best.pt that loads."""
    config = tiny(act="relu", hidden=(16, 16), lr=1e30, max_epochs=5, diagnostics=diagnostics)
    result = run(config, tmp_path, quiet=True)
    assert result.summary["epochs"] == 1
    assert result.summary["stop_reason"] == "the training loss became NaN or infinite in epoch 1"
    assert math.isnan(read_reports(result.directory / "epochs.jsonl")[0].scores["loss"]["train"])
    assert load_checkpoint(result.directory / "checkpoints" / "best.pt")["run"]["epoch"] == 1
    assert files(result.directory) == sorted(FILES | {"events.out"})
    assert run(config, tmp_path, resume=True, quiet=True).summary == result.summary


@pytest.mark.parametrize(
    ("loss", "accuracy", "score"),
    [
        (0.5, 0.25, 0.25),
        (math.nan, 0.99, -math.inf),
        (math.inf, 0.99, -math.inf),
        (0.5, math.nan, -math.inf),
        (0.5, math.inf, -math.inf),
    ],
)
def test_nonfinite_is_never_better(loss, accuracy, score):
    """What early stopping and the best checkpoint maximise is the accuracy, and nothing where a value is not finite."""
    evaluator = Engine(lambda *_: None)
    evaluator.state.metrics = {"loss": loss, "accuracy": accuracy}
    assert experiment._score(evaluator) == score


def test_finite_weights_are_kept(tmp_path, tiny, monkeypatch):
    """When the weights become NaN in a later epoch, the run ends there and best.pt holds finite ones."""
    real = experiment._Run._bind

    def bind(self, sinks):
        real(self, sinks)

        def poison():
            with torch.no_grad():
                self.parts.model.layers[0].weight.fill_(math.nan)

        self.trainer.add_event_handler(Events.EPOCH_STARTED(once=3), poison)

    monkeypatch.setattr(experiment._Run, "_bind", bind)
    result = run(tiny(max_epochs=5), tmp_path, quiet=True)
    assert result.summary["epochs"] == 3
    assert result.summary["best_epoch"] < 3
    best = load_checkpoint(result.directory / "checkpoints" / "best.pt")
    assert all(tensor.isfinite().all() for tensor in best["model"].values())


# Going on and starting over

RESUMED = {
    "sgd": {},
    "random": {"act": "rrelu", "optimizer": "adam", "lr": 0.01},
    "cnn": {"model": "cnn", "hidden": (4,), "act": "prelu", "optimizer": "rmsprop", "lr": 0.01, "clip_norm": 1.0},
    "amp": {"amp": True, "accumulate": 2, "every": 2, "act": "swish"},
    "off": {"diagnostics": False},
    "circles": {"data": "circles", "hidden": (5, 5)},
}


@pytest.mark.few(3)
@pytest.mark.parametrize("settings", RESUMED.values(), ids=RESUMED)
def test_resume_is_exact(tmp_path, tiny, settings):
    """Three epochs and a resume to five equal five epochs in one go, bit for bit."""
    straight = run(tiny(**settings, max_epochs=5, patience=0), tmp_path / "straight", quiet=True)
    first = run(tiny(**settings, max_epochs=3, patience=0), tmp_path / "resumed", quiet=True)
    assert first.summary["epochs"] == 3
    torch.rand(100)
    resumed = run(tiny(**settings, max_epochs=5, patience=0), tmp_path / "resumed", resume=True, quiet=True)
    assert resumed.summary["epochs"] == 5
    assert epochs(straight.directory) == epochs(resumed.directory)
    assert summary(straight.directory) == summary(resumed.directory)
    for name in ("last", "best"):
        assert_equal(checkpoint(straight.directory, name), checkpoint(resumed.directory, name), name)
    for tag in ("loss/train", "accuracy/validation"):
        values = [[(event.step, event.value) for event in recorded(result.directory).Scalars(tag)]
                  for result in (straight, resumed)]  # fmt: skip
        assert values[0] == values[1]
        assert [step for step, _ in values[0]] == [1, 2, 3, 4, 5]


class Killed(BaseException):
    """What a signal does to a run."""


def kill_in_sink(monkeypatch, epoch):
    """Dies while the reports of an epoch are written."""
    real = ConsoleSink.write

    def write(self, report):
        if report.epoch == epoch:
            raise Killed
        real(self, report)

    monkeypatch.setattr(ConsoleSink, "write", write)


def kill_in_step(monkeypatch, epoch):
    """Dies in the middle of an epoch."""
    real = experiment.TensorLoader.__iter__

    def iterate(self):
        for number, batch in enumerate(real(self)):
            if self.shuffle and self.epoch == epoch and number == 4:
                raise Killed
            yield batch

    monkeypatch.setattr(experiment.TensorLoader, "__iter__", iterate)


def kill_in_save(monkeypatch, epoch):
    """Dies while a checkpoint is written."""
    real = torch.save
    calls = []

    def save(content, *args, **kwargs):
        if content.get("run", {}).get("epoch") == epoch:
            calls.append(epoch)
            if len(calls) == 2 or "trainer" in content:
                raise Killed
        real(content, *args, **kwargs)

    monkeypatch.setattr(torch, "save", save)


@pytest.mark.few(2)
@pytest.mark.parametrize("kill", [kill_in_sink, kill_in_step, kill_in_save])
@pytest.mark.parametrize("epoch", [1, 4])
def test_killed_run_resumes_exactly(tmp_path, tiny, kill, epoch):
    """A run that dies anywhere leaves readable files and is resumed to the result it would have had."""
    config = tiny(act="rrelu", optimizer="adam", lr=0.01, max_epochs=5, patience=0)
    straight = run(config, tmp_path / "straight", quiet=True)
    with pytest.MonkeyPatch.context() as patch:
        kill(patch, epoch)
        with pytest.raises(Killed):
            run(config, tmp_path / "killed", quiet=True)
    directory = run_directory(config, tmp_path / "killed")
    assert not (directory / "summary.json").exists()
    with pytest.raises(UserError, match="unfinished run of"):
        run(config, tmp_path / "killed", quiet=True)
    resumed = run(config, tmp_path / "killed", resume=True, quiet=True)
    assert epochs(resumed.directory) == epochs(straight.directory)
    assert summary(resumed.directory) == summary(straight.directory)
    assert_equal(checkpoint(resumed.directory), checkpoint(straight.directory))
    assert [event.step for event in recorded(directory).Scalars("loss/train")] == [1, 2, 3, 4, 5]
    assert {name for name in files(directory) if name != "events.out"} == SEVERAL


def test_resumed_early_stopping(tmp_path, tiny):
    """Early stopping counts over an interruption."""
    settings = {"lr": 0.3, "diagnostics": False, "patience": 4}
    straight = run(tiny(**settings, max_epochs=25), tmp_path / "straight", quiet=True)
    stop = straight.summary["epochs"]
    run(tiny(**settings, max_epochs=stop - 2), tmp_path / "resumed", quiet=True)
    resumed = run(tiny(**settings, max_epochs=25), tmp_path / "resumed", resume=True, quiet=True)
    assert summary(resumed.directory) == summary(straight.directory)


def test_resume_of_a_finished_run(tmp_path, tiny):
    """Resuming a finished run returns it and touches nothing."""
    config = tiny(max_epochs=2)
    first = run(config, tmp_path, quiet=True)
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in tmp_path.rglob("*")}
    second = run(config, tmp_path, resume=True, quiet=True)
    assert dict(second.summary) == dict(first.summary)
    assert second.report == first.report
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in tmp_path.rglob("*")} == before


def test_resume_of_nothing(tmp_path, tiny):
    """Where nothing is to be resumed, the run begins."""
    assert run(tiny(max_epochs=1), tmp_path, resume=True, quiet=True).summary["epochs"] == 1


def test_resume_with_fewer_epochs(tmp_path, tiny):
    """An interrupted run that is resumed with fewer epochs than it has done ends with what it has."""
    with pytest.MonkeyPatch.context() as patch:
        kill_in_step(patch, 4)
        with pytest.raises(Killed):
            run(tiny(max_epochs=5), tmp_path, quiet=True)
    result = run(tiny(max_epochs=2), tmp_path, resume=True, quiet=True)
    assert result.summary["epochs"] == 3
    assert result.summary["stop_reason"] == "all 3 epochs done"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"lr": 0.5}, "lr 0.05 -> 0.5"),
        ({"hidden": (4,)}, "hidden [16] -> [4]"),
        ({"optimizer": "adam", "clip_norm": 1.0}, "optimizer 'sgd' -> 'adam', clip_norm None -> 1.0"),
        ({"batch_size": 64}, "batch_size 128 -> 64"),
        ({"diagnostics": False}, "diagnostics True -> False"),
    ],
)
def test_resume_with_other_settings(tmp_path, tiny, changed, said):
    """Settings that would make another run are refused, naming what differs, and nothing is touched."""
    directory = run(tiny(max_epochs=1), tmp_path, quiet=True).directory
    before = files(directory)
    with pytest.raises(UserError, match="was run with other settings") as caught:
        run(tiny(**{"max_epochs": 2, **changed}), tmp_path, resume=True, quiet=True)
    assert f"({said})" in str(caught.value)
    assert files(directory) == before
    assert len(epochs(directory)) == 1


def test_an_alias_is_the_same_run(tmp_path, tiny):
    """An activation's alias names the same run, also to resume."""
    run(tiny(act="swish", max_epochs=1), tmp_path, quiet=True)
    resumed = run(tiny(act="SiLU", max_epochs=2), tmp_path, resume=True, quiet=True)
    assert resumed.summary["epochs"] == 2


def test_existing_run_is_refused(tmp_path, tiny):
    """Running the same thing again says what is there and how to go on, and touches nothing."""
    directory = run(tiny(max_epochs=1), tmp_path, quiet=True).directory
    content = (directory / "epochs.jsonl").read_bytes()
    with pytest.raises(UserError) as caught:
        run(tiny(max_epochs=1), tmp_path, quiet=True)
    for part in (str(directory), "finished run of 1 epoch", "--resume", "--overwrite", "--output-dir"):
        assert part in str(caught.value)
    assert (directory / "epochs.jsonl").read_bytes() == content


def test_overwrite(tmp_path, tiny):
    """Starting over leaves nothing of the old run."""
    config = tiny(max_epochs=3)
    run(config, tmp_path, quiet=True)
    again = run(tiny(max_epochs=1, lr=0.01), tmp_path, overwrite=True, quiet=True)
    fresh = run(tiny(max_epochs=1, lr=0.01), tmp_path / "fresh", quiet=True)
    assert_same_run(again.directory, fresh.directory)
    assert len((again.directory / "train.log").read_text(encoding="utf-8").splitlines()) == 2
    assert [event.step for event in recorded(again.directory).Scalars("loss/train")] == [1]


@pytest.mark.few(6)
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.yaml", b"config: ["),
        ("config.yaml", b""),
        ("config.yaml", b"config: 5"),
        ("config.yaml", b"\xff\xfe"),
        ("summary.json", b"{"),
        ("summary.json", b"[1]"),
        ("summary.json", b"{}"),
        ("epochs.jsonl", b"garbage\nmore\n"),
        ("epochs.jsonl", b"[]\n[]\n"),
        ("epochs.jsonl", b'{"schema":99}\n'),
        ("checkpoints/last.pt", b"garbage"),
        ("checkpoints/last.pt", b""),
    ],
)
@pytest.mark.parametrize("resume", [True, False])
def test_damaged_run(tmp_path, tiny, name, content, resume):
    """A run directory with a damaged file is refused in one line that names it, and --overwrite starts over."""
    directory = run(tiny(max_epochs=1, diagnostics=False), tmp_path, quiet=True).directory
    (directory / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        run(tiny(max_epochs=2, diagnostics=False), tmp_path, resume=resume, quiet=True)
    assert "--overwrite" in str(caught.value)
    if resume:
        assert str(directory / name) in str(caught.value)
    assert "\n" not in str(caught.value)
    result = run(tiny(max_epochs=2, diagnostics=False), tmp_path, overwrite=True, quiet=True)
    assert len(epochs(result.directory)) == 2


# What cannot be run


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"act": "nosuch"}, "unknown activation 'nosuch'"),
        ({"act": "rellu"}, "did you mean .*relu"),
        ({"act": "prelu:num_parameters=3"}, "prelu:num_parameters=3"),
        ({"act": "rrelu", "style": "functional"}, "no functional form"),
        ({"device": "cuda"}, "device cuda is not available here"),
    ],
)
def test_refused_before_anything_is_written(tmp_path, tiny, monkeypatch, settings, message):
    """What cannot be run is refused before anything is written."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=message):
        run(tiny(**settings), tmp_path / "runs", quiet=True)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("place", ["file", "file/below", "x" * 300])
def test_unwritable_place(tmp_path, tiny, place):
    """A place that cannot be written is refused with the system's reason."""
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(UserError, match=r"Not a directory|File name too long"):
        run(tiny(), tmp_path / place, quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_network_that_does_not_fit(tmp_path, tiny, monkeypatch):
    """A network that torch cannot allocate is refused in one line."""

    def build(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory\nand more lines")

    monkeypatch.setattr(experiment, "build_model", build)
    with pytest.raises(UserError, match=r"cannot be built: DefaultCPUAllocator: can't allocate memory$"):
        run(tiny(), tmp_path / "runs", quiet=True)
    assert not (tmp_path / "runs").exists()


# Activations as text

SLUGS = {
    "relu": "relu",
    "ReLU": "relu",
    " relu ": "relu",
    "swish": "silu",
    "leaky_relu": "leakyrelu",
    "leakyrelu:negative_slope=0.1": "leakyrelu-negative_slope=0.1",
    "leakyrelu: negative_slope = 0.1": "leakyrelu-negative_slope=0.1",
    "leakyrelu:negative_slope=1e-1": "leakyrelu-negative_slope=0.1",
    "hardtanh:min_val=-2,max_val=2.5": "hardtanh-max_val=2.5-min_val=-2",
    "gelu:approximate=tanh": "gelu-approximate=tanh",
}


@pytest.mark.parametrize(("text", "slug"), SLUGS.items(), ids=SLUGS)
def test_slug(text, slug):
    """However an activation is written, its run directory has one name."""
    assert activation_slug(text) == slug


BAD_ACTS = [
    "", " ", ":", "relu:", "relu:=", "relu:=1", "relu:x", "relu:,", "relu:inplace=true", "nosuch", "../../x", "a/b",
    "softmax", "all", "leakyrelu:slope=0.1", "leakyrelu:negative_slope", "leakyrelu:negative_slope=",
    "leakyrelu:negative_slope=nan", "leakyrelu:negative_slope=.nan", "leakyrelu:negative_slope=inf",
    "leakyrelu:negative_slope=-inf", "leakyrelu:negative_slope=1e400", "leakyrelu:negative_slope=[1]",
    "leakyrelu:negative_slope=true", "leakyrelu:negative_slope=x", "leakyrelu:negative_slope=0.1,",
    "leakyrelu:negative_slope=0.1,negative_slope=0.2", "leakyrelu:negative_slope=!!python/name:os.system",
    "gelu:approximate=1", "gelu:approximate=../../x", "hardtanh:min_val=2,max_val=1", "relu:negative_slope=0.1",
]  # fmt: skip


@pytest.mark.parametrize("text", BAD_ACTS)
def test_bad_activation(text):
    """What is not an activation for hidden layers is refused in one line."""
    with pytest.raises(UserError) as caught:
        parse_activation(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("gelu:approximate=nonsense", (8,)),
        ("rrelu:lower=2,upper=1", (8,)),
        ("softshrink:lambd=-1", (8,)),
        ("celu:alpha=0", (8,)),
        ("leakyrelu:negative_slope=" + "9" * 50, (8,)),
        ("leakyrelu:negative_slope=" + "9" * 5000, (8,)),
        ("prelu:num_parameters=8", (8, 4)),
        ("prelu:num_parameters=0", (8,)),
        ("prelu:num_parameters=-1", (8,)),
        ("prelu:num_parameters=1.5", (8,)),
    ],
    ids=lambda value: str(value)[:40],
)
@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_parameters_that_torch_refuses(text, hidden, model):
    """Parameters that torch refuses only when it computes are refused before the first run of a study begins."""
    with pytest.raises(UserError) as caught:
        expand_study(StudyConfig(act=("relu", text), hidden=hidden, model=model))
    assert "\n" not in str(caught.value)


def test_trying_an_activation_draws_nothing():
    """Checking a study leaves torch's random state alone."""
    before = torch.get_rng_state()
    expand_study(StudyConfig(act=("rrelu",), hidden=(8,)))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("style", ["module", "shared", "functional"])
def test_all(style):
    """`all` is every activation for hidden layers that the style has."""
    names = [config.act for config in expand_study(StudyConfig(act=("all",), hidden=(8,), style=style))]
    expected = [name for name, entry in ACTIVATIONS.items() if entry.pointwise]
    if style == "functional":
        expected = [name for name in expected if ACTIVATIONS[name].functional is not None]
        assert "rrelu" not in names
    assert names == expected


def test_every_variant_once():
    """A variant that is asked for under several names is run once."""
    study = StudyConfig(act=("swish", "relu", "silu", "RELU", "leakyrelu:negative_slope=0.10",
                             "leakyrelu:negative_slope=0.1"), hidden=(8,))  # fmt: skip
    assert [activation_slug(config.act) for config in expand_study(study)] == [
        "silu", "relu", "leakyrelu-negative_slope=0.1",
    ]  # fmt: skip


def test_own_activation(tmp_path, tiny):
    """A registered activation trains like a built-in one, with its parameters."""

    @register_activation("test-squared-relu", flat=((-math.inf, 0.0),))
    class SquaredReLU(torch.nn.Module):
        def __init__(self, scale: float = 1.0) -> None:
            super().__init__()
            self.scale = scale

        def forward(self, z):
            return self.scale * torch.relu(z).square()

    try:
        result = run(tiny(act="test_squared_relu:scale=0.5", max_epochs=1), tmp_path, quiet=True)
    finally:
        ACTIVATIONS.pop("test-squared-relu")
        activations._NAMES.pop("testsquaredrelu")
        activations._MODULES.pop(SquaredReLU)
    assert result.directory.parent.name == "test-squared-relu-scale=0.5"
    assert list(result.summary["dead_neurons"]) == ["layers.1"]


# Manners


def test_quiet(tmp_path, tiny, capfd):
    """A quiet run prints nothing."""
    run(tiny(max_epochs=1), tmp_path, quiet=True)
    assert capfd.readouterr() == ("", "")


def test_a_line_an_epoch(tmp_path, tiny, capfd):
    """A run says one line an epoch: losses, accuracy, gradient ratio and dead neurons."""
    run(tiny(max_epochs=2, hidden=(16, 8)), tmp_path)
    lines = capfd.readouterr().out.splitlines()
    assert [line[:9] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    for part in ("loss train", "val", "accuracy train", "gradient first/last", "dead neurons"):
        assert all(part in line for line in lines)


def test_progress_bar(tmp_path, tiny, monkeypatch):
    """On a terminal there is a progress bar."""

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    run(tiny(max_epochs=1, act="tanh"), tmp_path)
    assert "tanh" in terminal.getvalue()
    assert "/9]" in terminal.getvalue()


def test_logging_is_left_as_it_was(tmp_path, tiny, monkeypatch):
    """A run adds no lasting handler to any logger and leaves the levels alone, also those of Ignite."""
    names = [None, "ignite_act", "ignite.engine.engine.Engine", "ignite.handlers.early_stopping.EarlyStopping"]
    for name in names[2:]:
        monkeypatch.setattr(logging.getLogger(name), "level", logging.ERROR - 1)
    before = [(list(logging.getLogger(name).handlers), logging.getLogger(name).level) for name in names]
    run(tiny(max_epochs=1), tmp_path, quiet=True)
    assert [(list(logging.getLogger(name).handlers), logging.getLogger(name).level) for name in names] == before


def test_result_is_frozen(finished):
    """What a run returns does not change."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        finished.summary = {}


# Whether a run learned anything


@pytest.mark.parametrize(
    ("y", "loss", "accuracy"),
    [
        (torch.arange(10), math.log(10), 0.1),
        (torch.tensor([3, 3, 3]), 0.0, 1.0),
        (torch.tensor([[0.0], [1.0], [1.0], [1.0]]), -0.25 * math.log(0.25) - 0.75 * math.log(0.75), 0.75),
        (torch.tensor([0, 0, 5, 5], dtype=torch.int32), math.log(2), 0.5),
    ],
)
def test_constant_predictor(y, loss, accuracy):
    """The best constant prediction scores the entropy of the classes, and the share of the largest one."""
    assert constant_predictor(y) == {"loss": pytest.approx(loss), "accuracy": accuracy}


def test_no_constant_prediction_is_better():
    """Whatever else is predicted for all samples alike has a higher cross-entropy."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, 7, (1000,), generator=generator)
    logits = y.bincount().double().log()
    best = torch.nn.functional.cross_entropy(logits.expand(1000, 7), y).item()
    assert constant_predictor(y)["loss"] == pytest.approx(best) == entropy(y.bincount().numpy())
    for shift in torch.randn(20, 7, generator=generator) / 10:
        assert torch.nn.functional.cross_entropy((logits + shift).expand(1000, 7), y).item() > best


LEARNING = {
    "learned": ({}, True),
    "a tiny step": ({"lr": 1e-9}, False),
    "a plateau": ({"act": "sigmoid", "hidden": (16, 16, 16)}, False),
    "not finite": ({"lr": 1e30}, False),
    "circles": ({"data": "circles", "lr": 0.1, "act": "tanh"}, True),
    "circles, a plateau": ({"data": "circles", "act": "sigmoid", "lr": 1e-3}, False),
    "without diagnostics": ({"diagnostics": False}, True),
}


@pytest.mark.parametrize(("settings", "learned"), LEARNING.values(), ids=LEARNING)
def test_learned(tmp_path, tiny, settings, learned):
    """A run learned if in any epoch its validation loss is 2 % below that of the best constant prediction, or its
    accuracy 10 points above."""
    config = tiny(**settings)
    result = run(config, tmp_path, quiet=True)
    y = load_data(config.data).validation.y
    assert result.summary["constant_predictor"] == constant_predictor(y)
    counts = y.unique(return_counts=True)[1].numpy()
    scores = [report.scores for report in read_reports(result.directory / "epochs.jsonl")]
    low = [row["loss"]["validation"] < 0.98 * entropy(counts) for row in scores]
    right = [row["accuracy"]["validation"] > counts.max() / counts.sum() + 0.1 for row in scores]
    assert result.summary["learned"] is learned
    assert learned == any(low + right)


@pytest.mark.parametrize(
    ("loss", "accuracy", "learned"),
    [
        (0.99, 0.25, False), (0.97, 0.25, True), (5.0, 0.34, False), (5.0, 0.36, True), (math.nan, 0.25, False),
        (math.nan, math.nan, False), (math.inf, 0.9, True), (0.5, 0.1, True),
    ],
)  # fmt: skip
def test_an_epoch_that_learned(loss, accuracy, learned):
    """A low loss tells that something was learned, and so does a high accuracy of a network that is too sure."""
    report = EpochReport(1, 1, scores={"loss": {"validation": loss}, "accuracy": {"validation": accuracy}})
    assert has_learned(report, {"loss": 1.0, "accuracy": 0.25}) is learned
    assert has_learned(EpochReport(1, 1), {"loss": 1.0, "accuracy": 0.25}) is False


def test_what_was_learned_may_be_lost(tmp_path, tiny, monkeypatch):
    """A run that fell back to the constant prediction has learned all the same; `last` says where it ended."""
    real = experiment._Run._bind

    def bind(self, sinks):
        real(self, sinks)

        def forget():
            for parameter in self.parts.model.parameters():
                torch.nn.init.zeros_(parameter)
            self.parts.optimizer.param_groups[0]["lr"] = 0.0

        self.trainer.add_event_handler(Events.EPOCH_STARTED(once=3), forget)

    monkeypatch.setattr(experiment._Run, "_bind", bind)
    summary = run(tiny(max_epochs=3), tmp_path, quiet=True).summary
    assert summary["learned"] is True
    assert summary["last"]["loss"] == pytest.approx(math.log(10), rel=1e-6)
    assert summary["last"]["loss"] > summary["constant_predictor"]["loss"]


def test_last_scores(finished):
    """The last scores are those on the validation set after the last epoch."""
    scores = read_reports(finished.directory / "epochs.jsonl")[-1].scores
    assert finished.summary["last"] == {name: scores[name]["validation"] for name in ("loss", "accuracy")}
