"""The Lightning callback against the Ignite handler and plain twins."""

from __future__ import annotations

import copy
import csv
import gc
import importlib
import logging
import math
import pickle
import signal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import DataLoader

from ignite_act import Diagnostics, EpochRecorder, EpochReport
from ignite_act.internals import is_in_training_step, steps_of
from ignite_act.testing import Batch, SharedReLU, batches, global_hooks, make_trainer

pytest.importorskip("lightning", reason="Lightning is not installed (the extra lightning)")

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from ignite_act.lightning import DiagnosticsCallback

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '[a-z_]+' does not have many workers:UserWarning"),
    pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch:UserWarning"),
]
KINDS = ("gradients", "activations", "dead_neurons")


def network() -> SharedReLU:
    """The same weights each time, and one unit that is dead."""
    torch.manual_seed(0)
    net = SharedReLU()
    with torch.no_grad():
        net.layers[0].bias[0] = -100.0
    return net


class Lit(LightningModule):
    """A network in a LightningModule, with a validation loop."""

    def __init__(self, fail_at: int = -1) -> None:
        super().__init__()
        self.net = network()
        self.fail_at = fail_at

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        x, y = batch
        loss = F.cross_entropy(self.net(x), y)
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        self.log("temperature", 0.5)
        if self.global_step == self.fail_at:
            raise RuntimeError("boom")
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        x, y = batch
        self.train()  # so that the mode is not what tells validation from training
        with torch.enable_grad():
            self.log("val/loss", F.cross_entropy(self.net(10 * x), y))
        self.log("value_loss", 2.0)

    def configure_optimizers(self) -> SGD:
        return SGD(self.parameters(), lr=0.1)


class ListSink:
    """Keeps the reports."""

    def __init__(self) -> None:
        self.reports: list[EpochReport] = []

    def write(self, report: EpochReport) -> None:
        self.reports.append(report)


def loader(data: list[Batch] | None = None) -> DataLoader[Batch]:
    return DataLoader(data or batches(), batch_size=None)  # type: ignore[arg-type]


def trainer(*callbacks: Callback, **settings: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    checkpointing = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    return Trainer(**{
        **quiet, "devices": 1, "max_epochs": 2, "log_every_n_steps": 1, "enable_checkpointing": checkpointing,
        "callbacks": list(callbacks), **settings,
    })  # fmt: skip


def fit(module: LightningModule, *callbacks: Callback, ckpt_path: Any = None, **settings: Any) -> Trainer:
    own = trainer(*callbacks, **settings)
    own.fit(module, loader(), loader(batches(3, seed=1)), ckpt_path=ckpt_path)
    return own


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_left_by_others() -> None:
    gc.collect()


@pytest.fixture(autouse=True)
def _leave_nothing(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Every test leaves torch without hooks; Lightning is quiet, and Ctrl-C, which it switches off, works again."""
    caplog.set_level(logging.ERROR, "lightning.pytorch")
    interrupt = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, interrupt)
    assert global_hooks() == []


def numbers(report: EpochReport | None, prefix: str = "") -> dict[str, Any]:
    """What was measured, without times and scores, the names below a prefix."""
    assert report is not None
    coverage = {
        kind: {
            "seen": [name.removeprefix(prefix) for name in seen["seen"]],
            "unseen": {name.removeprefix(prefix): reason for name, reason in seen["unseen"].items()},
        }
        for kind, seen in report.coverage.items()
    }
    tables = {kind: {n.removeprefix(prefix): r for n, r in getattr(report, kind).items()} for kind in KINDS}
    return {"counters": (report.epoch, report.iteration, report.partial), "coverage": coverage, **tables}


def ignite_reports(epochs: int = 2, every: int | None = 1, data: list[Batch] | None = None) -> list[EpochReport]:
    model, sink = network(), ListSink()
    engine = make_trainer(model, SGD(model.parameters(), lr=0.1))
    with Diagnostics(model, every=every, sinks=[sink]).attach(engine):
        engine.run(data or batches(), max_epochs=epochs)
    return sink.reports


@pytest.mark.parametrize(("every", "validate"), [(1, 1.0), (None, 0.5), (3, 0.25)])
def test_the_numbers_are_those_of_the_ignite_handler(every: int | None, validate: float) -> None:
    """The same training has equal reports in both frameworks; validation and the sanity check do not count."""
    sink = ListSink()
    callback = DiagnosticsCallback(every=every, sinks=[sink])
    fit(Lit(), callback, num_sanity_val_steps=2, val_check_interval=validate)
    expected = ignite_reports(every=every)
    assert [numbers(report, "net.") for report in sink.reports] == [numbers(report) for report in expected]
    assert list(sink.reports[0].gradients) == ["net.layers.0", "net.layers.2", "net.layers.4"]
    assert list(sink.reports[0].dead_neurons) == ["net.layers.1", "net.layers.3"]
    assert callback.report is sink.reports[-1]
    assert {kind: coverage.to_dict() for kind, coverage in callback.coverage.items()} == callback.report.coverage
    assert 0 < callback.report.cost < 1


def test_the_iteration_of_a_nonfinite_gradient_is_that_of_ignite() -> None:
    """Batches are counted from 1 and over the epochs."""
    data = batches()
    data[2][0][0, 0] = math.inf
    callback = DiagnosticsCallback(every=1)
    own = trainer(callback, max_epochs=1)
    own.fit(Lit(), loader(data), loader())
    assert callback.report is not None
    assert callback.report.gradients["net.layers.0"]["first_nonfinite_iteration"] == 3
    assert repr(numbers(callback.report, "net.")) == repr(numbers(ignite_reports(1, data=data)[-1]))


class Meddler(Callback):
    """Runs the network in every hook around the training step, as callbacks that show predictions do."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        pl_module.net(100 * batch[0])

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int) -> None:
        pl_module.net(100 * batch[0])

    def on_before_backward(self, trainer: Trainer, pl_module: Any, loss: Tensor) -> None:
        pl_module.net(torch.ones(1, 4))


def test_forwards_of_other_callbacks_do_not_count() -> None:
    """Only what happens inside the training step is measured, wherever the other callback stands."""
    callback = DiagnosticsCallback(every=1)
    fit(Lit(), Meddler(), callback, Meddler())
    assert numbers(callback.report, "net.") == numbers(ignite_reports()[-1])


def test_accumulation_and_clipping() -> None:
    """The gradients are those that the optimizer consumes: accumulated over two batches, then clipped."""
    callback = DiagnosticsCallback(every=1)
    fit(Lit(), callback, accumulate_grad_batches=2, gradient_clip_val=0.01)
    model = network()
    optimizer = SGD(model.parameters(), lr=0.1)
    with EpochRecorder(model, every=1) as recorder:
        for _ in range(2):
            for number, (x, y) in enumerate(batches(), 1):
                (F.cross_entropy(model(x), y) / 2).backward()
                if number % 2 == 0:
                    nn.utils.clip_grad_norm_(model.parameters(), 0.01)
                    optimizer.step()
                    optimizer.zero_grad()
            expected = recorder.finish()
    found = numbers(callback.report, "net.")
    assert {kind: found[kind] for kind in KINDS} == {kind: numbers(expected)[kind] for kind in KINDS}
    assert found["gradients"]["layers.0"]["steps"] == 2
    assert found["counters"] == (2, 8, False)  # of batches, as in Ignite


def test_weights_are_the_same_with_and_without() -> None:
    """Watching does not change the training by one bit."""
    plain, watched = Lit(), Lit()
    fit(plain)
    fit(watched, DiagnosticsCallback(every=1))
    for ours, theirs in zip(watched.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_a_partial_report(error: type[BaseException]) -> None:
    """What was measured before reaches the sinks, the hooks are gone, and the callback can be used again."""
    sink = ListSink()
    callback, module = DiagnosticsCallback(every=1, sinks=[sink]), Lit(fail_at=6)

    class Interrupt(Callback):
        def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
            if trainer.global_step == 6:
                raise error("boom")

    with pytest.raises(error if error is RuntimeError else SystemExit):
        fit(module, callback, Interrupt())
    assert [numbers(report)["counters"] for report in sink.reports] == [(1, 4, False), (2, 6, True)]
    assert sink.reports[-1].gradients["net.layers.0"]["steps"] == 2
    assert sink.reports[-1].gradients["net.layers.0"]["partial"]
    assert sink.reports[-1].scores == {}
    assert global_hooks() == []
    fit(Lit(), callback)
    assert [numbers(report, "net.") for report in sink.reports[2:]] == [numbers(r) for r in ignite_reports()]


def test_an_epoch_that_is_cut_short_is_partial() -> None:
    """max_steps in the middle of an epoch, and an epoch whose rest is refused, are marked."""
    callback = DiagnosticsCallback()
    fit(Lit(), callback, max_steps=6)
    assert numbers(callback.report)["counters"] == (2, 6, True)

    class Refusing(Lit):
        def on_train_batch_start(self, batch: Batch, batch_idx: int) -> int | None:
            return -1 if batch_idx == 3 else None

    fit(Refusing(), callback, max_epochs=1)
    assert numbers(callback.report)["counters"] == (1, 4, True)


def test_several_fits() -> None:
    """The same trainer going on, and another model, give the reports of their own epochs."""
    sink = ListSink()
    callback, module = DiagnosticsCallback(every=1, sinks=[sink]), Lit()
    first = fit(module, callback, max_epochs=1)
    first.fit_loop.max_epochs = 2
    first.fit(module, loader(), loader())
    assert [numbers(report, "net.") for report in sink.reports] == [numbers(r) for r in ignite_reports()]
    with torch.no_grad():
        module.net.layers[0].bias[0] = 1.0
    first.fit_loop.max_epochs = 3
    first.fit(module, loader(), loader())
    assert sink.reports[2].dead_neurons["net.layers.1"]["revived"] == 1
    fit(Lit(), callback)
    assert [numbers(report, "net.") for report in sink.reports[3:]] == [numbers(r) for r in ignite_reports()]


class OldLightning(Callback):
    """Begins an epoch that is resumed in its middle once more, as some versions of Lightning do."""

    def __init__(self, other: Callback) -> None:
        self.other = other

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.other.on_train_epoch_start(trainer, pl_module)


@pytest.mark.parametrize("when", ["epoch", "middle", "validation"])
def test_state_travels_through_a_checkpoint(when: str, tmp_path: Path) -> None:
    """A fit that goes on from a checkpoint has the reports of the one that was not interrupted."""
    settings: dict[str, dict[str, Any]] = {
        "epoch": {"every_n_epochs": 1, "save_on_train_epoch_end": True},
        "middle": {"every_n_train_steps": 3},
        "validation": {"every_n_epochs": 1, "save_on_train_epoch_end": False},
    }
    saved = ModelCheckpoint(tmp_path, filename="{epoch}-{step}", save_top_k=-1, **settings[when])
    whole = ListSink()
    fit(Lit(), DiagnosticsCallback(every=1, sinks=[whole]), saved)
    path = tmp_path / ("epoch=0-step=3.ckpt" if when == "middle" else "epoch=0-step=4.ckpt")
    state = torch.load(path, weights_only=True)["callbacks"]["DiagnosticsCallback"]
    assert set(state) == {*KINDS, "updates", "signal", "output", "loss", "journal", "epoch"}
    resumed, data = ListSink(), batches()
    if when == "middle":
        data = [data[3], *data[:3]]  # the loader begins anew: its first batch is the one that is missing
    callback = DiagnosticsCallback(every=1, sinks=[resumed])
    own = trainer(callback, OldLightning(callback), max_epochs=1 if when == "middle" else 2)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Be aware that when using `ckpt_path`, callbacks", UserWarning)
        own.fit(Lit(), loader(data), loader(batches(3, seed=1)), ckpt_path=path)
    expected = {"epoch": whole.reports[1:], "middle": whole.reports[:1], "validation": whole.reports}[when]
    assert len(resumed.reports) == len(expected)
    for found, twin in zip(resumed.reports, expected, strict=True):
        for kind, tables in numbers(twin).items():
            assert_close(numbers(found)[kind], tables)


def assert_close(found: Any, expected: Any) -> None:
    """Equal, but for the last digits of numbers that were summed up in two parts."""
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for name in expected:
            assert_close(found[name], expected[name])
    else:
        assert found == (pytest.approx(expected, rel=1e-9) if isinstance(expected, float) else expected)


def test_scores_are_in_the_report() -> None:
    """Logged numbers are scores of the split that their prefix names, each once, without our own."""
    callback = DiagnosticsCallback()
    own = fit(Lit(), callback)
    assert callback.report is not None
    metrics = {name: float(value) for name, value in own.callback_metrics.items()}
    assert callback.report.scores == {
        "loss": {"train": metrics["train_loss_epoch"], "validation": metrics["val/loss"]},
        "temperature": {"train": 0.5},
        "value_loss": {"train": 2.0},
    }


def test_loggers_get_flat_numbers_once_per_epoch(tmp_path: Path) -> None:
    """A row an epoch, at the step of the epoch's other metrics, in the logger and among the callback metrics."""
    callback = DiagnosticsCallback(every=1)
    own = fit(Lit(), callback, logger=CSVLogger(tmp_path, version=""))
    assert callback.report is not None
    with (tmp_path / "lightning_logs/metrics.csv").open() as file:
        table = list(csv.DictReader(file))
    rows = [row for row in table if row["gradients/net.layers.0"]]
    assert [(row["epoch"], row["step"]) for row in rows] == [("0", "3"), ("1", "7")]
    assert {row["step"] for row in table if row["train_loss_epoch"]} == {"3", "7"}
    activations, dead = callback.report.activations, callback.report.dead_neurons
    expected = {
        **{f"gradients/{name}": row["mean_abs"] for name, row in callback.report.gradients.items()},
        **{
            f"activations/{name}/{key}": row[key]
            for name, row in activations.items()
            for key in ("mean", "std", "zero_fraction", "saturated_fraction")
        },
        **{f"dead_neurons/{name}": row["dead"] for name, row in dead.items()},
    }
    assert len(expected) == 3 + 2 * 4 + 2
    for name, value in expected.items():
        assert float(rows[-1][name]) == pytest.approx(value)
        assert float(own.callback_metrics[name]) == pytest.approx(value)


def test_early_stopping_and_checkpoints_can_monitor_the_numbers(tmp_path: Path) -> None:
    """Both come after us at the end of the training epoch, even if they stand before us in the list."""
    stopping = EarlyStopping("dead_neurons/net.layers.1", stopping_threshold=math.inf, check_on_train_epoch_end=True)
    best = ModelCheckpoint(tmp_path, monitor="gradients/net.layers.0", save_on_train_epoch_end=True)
    callback = DiagnosticsCallback(every=1)
    own = fit(Lit(), stopping, best, callback, max_epochs=5)
    assert own.current_epoch == 1
    assert callback.report is not None
    assert float(best.best_model_score) == pytest.approx(callback.report.gradients["net.layers.0"]["mean_abs"])
    assert not callback.report.partial


class TwoOptimizers(LightningModule):
    """Steps two optimizers by hand, the second every other batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = network(), network()
        self.automatic_optimization = False

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        x, y = batch
        for number, (net, optimizer) in enumerate(zip((self.first, self.second), self.optimizers(), strict=True)):
            if number == 0 or batch_idx % 2 == 0:
                optimizer.zero_grad()
                self.manual_backward(F.cross_entropy(net(x), y))
                optimizer.step()

    def configure_optimizers(self) -> list[SGD]:
        return [SGD(self.first.parameters(), lr=0.1), SGD(self.second.parameters(), lr=0.1)]


def test_manual_optimization() -> None:
    """Two optimizers and two forwards in one training step are seen like one of each."""
    callback = DiagnosticsCallback(every=1)
    own = trainer(callback)
    own.fit(TwoOptimizers(), loader())
    report, expected = callback.report, ignite_reports()[-1]
    assert report is not None
    assert numbers(report)["counters"] == (2, 8, False)
    for kind in KINDS:
        first = {name: row for name, row in getattr(report, kind).items() if name.startswith("first.")}
        rows = {name.removeprefix("first."): row for name, row in first.items()}
        if kind == "gradients":  # the number of a step is that of its batch
            assert report.gradients["second.layers.0"]["steps"] == 2
        assert rows == getattr(expected, kind)
        assert len(getattr(report, kind)) == 2 * len(rows)


def test_only_the_chosen_optimizers_are_followed() -> None:
    """`optimizer` means the same as in the Ignite handler, in every fit."""

    class Given(TwoOptimizers):
        def configure_optimizers(self) -> list[SGD]:
            return given

    module = Given()
    given = [SGD(net.parameters(), lr=0.1) for net in (module.first, module.second)]
    callback = DiagnosticsCallback(iter(given[:1]))
    for _ in range(2):
        trainer(callback).fit(module, loader())
        assert callback.report is not None
        assert list(callback.report.gradients) == ["first.layers.0", "first.layers.2", "first.layers.4"]
        callback = copy.copy(callback)  # which makes its own recorder


def test_only_global_rank_zero_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processes have the report, but do not hand it to the sinks."""
    monkeypatch.setattr(Trainer, "is_global_zero", False)
    sink = ListSink()
    callback = DiagnosticsCallback(sinks=[sink])
    fit(Lit(), callback)
    assert callback.report is not None
    assert sink.reports == []


def test_before_and_after() -> None:
    """Before a fit there is nothing; afterwards the callback can be copied and pickled, and copies start afresh."""
    callback = DiagnosticsCallback()
    assert (callback.report, callback.coverage, callback.state_dict()) == (None, {}, {})
    own = fit(Lit(), callback)
    report = callback.report
    own.validate(Lit(), loader(), verbose=False)
    assert callback.report is report
    for other in (copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))):
        assert other.report is None
        fit(Lit(), other)
        assert numbers(other.report) == numbers(report)


def test_a_checkpoint_that_was_only_tested_is_not_resumed(tmp_path: Path) -> None:
    """`trainer.validate(ckpt_path=...)` loads the callbacks, too, but the next fit begins its own window."""
    saved = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=3)
    callback = DiagnosticsCallback(every=1)
    own = fit(Lit(), callback, saved, max_epochs=1)
    own.validate(Lit(), loader(), ckpt_path=tmp_path / "step=3.ckpt", verbose=False)
    fit(Lit(), callback, max_epochs=1)
    assert numbers(callback.report, "net.") == numbers(ignite_reports(1)[-1])


def test_without_lightning_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The import names the extra."""
    for name in ("lightning", "lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "ignite_act.lightning")
    with pytest.raises(ImportError, match=r"pip install ignite-act\[lightning\]"):
        importlib.import_module("ignite_act.lightning")


# Findings


class Notes(ListSink):
    """Keeps the ends, too."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[EpochReport] = []

    def end(self, report: EpochReport) -> None:
        self.ends.append(report)


class Learner(Lit):
    """Returns its loss in one of the ways that Lightning knows; its first layer may be dead."""

    def __init__(self, how: str = "tensor", *, dead: bool = False) -> None:
        super().__init__()
        self.how, self.losses = how, []
        if dead:
            with torch.no_grad():
                self.net.layers[0].bias.fill_(-100.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.losses.append(loss.item())
        return {"tensor": loss, "dictionary": {"loss": loss, "y": 1}, "none": None}[self.how]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))


class Manual(Learner):
    """Steps by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.optimizers().zero_grad()
        self.manual_backward(loss)
        self.optimizers().step()
        return loss


def learnable(n: int = 10, seed: int = 0) -> list[Batch]:
    weight = torch.randn(4, 3, generator=torch.Generator().manual_seed(9))
    return [(x, (x @ weight).argmax(1)) for x, _ in batches(n, size=32, seed=seed)]


def watch(module: Learner, epochs: int = 4, **settings: Any) -> tuple[DiagnosticsCallback, Notes]:
    notes = Notes()
    callback = DiagnosticsCallback(every=1, sinks=[notes])
    trainer(callback, max_epochs=epochs, **settings).fit(module, loader(learnable()), loader(learnable(2, seed=1)))
    return callback, notes


@pytest.mark.parametrize("dead", [True, False])
def test_the_findings_are_those_of_the_ignite_handler(dead: bool) -> None:
    """The same training has the same loss and findings in both frameworks, at the end of every epoch and of all."""
    callback, notes = watch(Learner(dead=dead))
    model, twin = Learner(dead=dead).net, Notes()
    engine = make_trainer(model, SGD(model.parameters(), lr=0.1))
    with Diagnostics(model, every=1, sinks=[twin]).attach(engine) as diagnostics:
        engine.run(learnable(), max_epochs=4)

    def told(report: EpochReport) -> list[tuple[str, str, str | None, int]]:
        found = [item for item in report.findings if item.severity != "info"]
        return [(f.kind, f.severity, f.layer and f.layer.removeprefix("net."), f.since_epoch) for f in found]

    assert list(map(told, notes.reports)) == list(map(told, twin.reports))
    assert list(map(told, notes.ends)) == list(map(told, twin.ends))
    assert [report.loss["course"] for report in notes.reports] == [report.loss["course"] for report in twin.reports]
    assert len(notes.ends) == 1
    assert notes.ends[0] is callback.report
    assert callback.findings == callback.report.findings
    assert len(callback.findings) == len(diagnostics.findings)
    kinds = [finding.kind for finding in callback.findings if finding.severity != "info"]
    assert (kinds[:1], "plateau" in kinds) == ((["dead_units"], True) if dead else ([], False))


@pytest.mark.parametrize("how", ["tensor", "dictionary"])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_loss_is_what_the_step_returned(how: str, accumulate: int) -> None:
    """Also where Lightning divides it, to accumulate gradients."""
    module = Learner(how)
    _, notes = watch(module, epochs=2, accumulate_grad_batches=accumulate)
    for report, losses in zip(notes.reports, (module.losses[:10], module.losses[10:]), strict=True):
        assert report.loss["course"] == pytest.approx(losses, rel=1e-6)
        assert (report.loss["steps"], report.loss["nonfinite"]) == (10, 0)


def test_the_loss_of_manual_optimization() -> None:
    """It is the output of the step."""
    module = Manual()
    _, notes = watch(module, epochs=1)
    assert notes.reports[0].loss["course"] == module.losses


def test_a_step_without_a_loss() -> None:
    """Where the step returns none, none is known, and nothing fails."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`training_step` returned `None`", UserWarning)
        _, notes = watch(Learner("none"), epochs=1)
    assert notes.reports[0].loss == {}


def test_no_findings_before_the_first_fit() -> None:
    """There are none, and no error."""
    assert DiagnosticsCallback().findings == ()


def test_an_exception_has_no_end_but_findings() -> None:
    """When the step raises, the partial report has the findings; the run was not ended, so its end is not judged."""

    class Refusing(Learner):
        def training_step(self, batch: Batch, batch_idx: int) -> Any:
            x, y = batch
            loss = super().training_step((x / (self.global_step != 13), y), batch_idx)
            if not math.isfinite(self.losses[-1]):
                raise ValueError("NaN is refused")
            return loss

    notes = Notes()
    callback = DiagnosticsCallback(every=1, sinks=[notes])
    with pytest.raises(ValueError, match="refused"):
        trainer(callback, max_epochs=3).fit(Refusing(), loader(learnable()), loader(learnable(2, seed=1)))
    assert [report.partial for report in notes.reports] == [False, True]
    found = notes.reports[-1].findings[0]
    assert (found.kind, found.layer, found.since_epoch, found.evidence["iteration"]) == (
        "nonfinite", "net.layers.0", 2, 14,
    )  # fmt: skip
    assert callback.findings == tuple(item for item in notes.reports[-1].findings if item.cleared_epoch is None)
    assert notes.ends == []


def test_findings_travel_through_a_checkpoint(tmp_path: Path) -> None:
    """A fit that goes on from a checkpoint has the findings of the one that was not interrupted."""
    saved = ModelCheckpoint(tmp_path, filename="{epoch}", every_n_epochs=1, save_top_k=-1)
    whole, notes = DiagnosticsCallback(every=1, sinks=[expected := Notes()]), Notes()
    data = loader(learnable()), loader(learnable(2, seed=1))
    trainer(whole, saved, max_epochs=5).fit(Learner(dead=True), *data)
    resumed = DiagnosticsCallback(every=1, sinks=[notes])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Be aware that when using `ckpt_path`, callbacks", UserWarning)
        trainer(resumed, max_epochs=5).fit(Learner(dead=True), *data, ckpt_path=tmp_path / "epoch=2.ckpt")
    assert [report.epoch for report in notes.reports] == [4, 5]
    assert [report.findings for report in notes.reports] == [report.findings for report in expected.reports[3:]]
    assert [report.findings for report in notes.ends] == [report.findings for report in expected.ends]
    assert "plateau" in [finding.kind for finding in resumed.findings]


def test_lightning_says_which_hook_it_calls_and_how_many_steps_it_made() -> None:
    """Canaries: what `internals` asks of Lightning."""
    found = []

    class Asking(Lit):
        def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
            found.append(is_in_training_step(self))
            return super().training_step(batch, batch_idx)

        def on_train_epoch_end(self) -> None:
            found.append(is_in_training_step(self))

    own = fit(Asking(), max_epochs=1, limit_train_batches=3)
    assert found == [True, True, True, False]
    assert steps_of(own) == 3
