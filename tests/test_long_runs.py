"""Long runs and large networks: what an epoch costs does not depend on how many there were, and a site costs what a
site costs. Work is counted in function calls, never in time."""

from __future__ import annotations

import gc
import io
import itertools
import logging
import math
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from ignite.engine import Engine, Events
from ignite.metrics import Accuracy, Loss
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from ignite_act import Diagnostics, EpochRecorder
from ignite_act.collect import ActivationCollector
from ignite_act.report import EpochReport
from ignite_act.sinks import JsonLinesSink, Sink, TensorBoardSink
from ignite_act.sinks.json_lines import read_reports

pytestmark = pytest.mark.slow

FEATURES = 8


class Counted:
    """Counts the calls of functions, Python's and C's, in its block."""

    calls = 0

    def __enter__(self) -> Counted:
        gc.disable()  # finalizers of others come when they like
        sys.setprofile(self._count)
        return self

    def __exit__(self, *exception: object) -> None:
        sys.setprofile(None)
        gc.enable()

    def _count(self, frame: FrameType, event: str, argument: object) -> None:
        self.calls += event in ("call", "c_call")


# Many epochs.


@dataclass
class Course:
    """What was measured of a run after some of its epochs: epoch -> number."""

    objects: dict[int, int] = field(default_factory=dict)
    traced: dict[int, int] = field(default_factory=dict)
    resident: dict[int, int] = field(default_factory=dict)
    state: dict[int, int] = field(default_factory=dict)
    lines: dict[int, int] = field(default_factory=dict)
    events: dict[int, int] = field(default_factory=dict)
    calls: dict[int, int] = field(default_factory=dict)


def train(directory: Path, epochs: int, *, looked_at: set[int], counted: set[int], traced_from: int = 0) -> Course:
    """Trains a tiny model with everything on: both files, an evaluator, gradients and activations in every step."""
    torch.manual_seed(0)
    x = torch.randn(64, 4)
    y = (x[:, 0] + 0.3 * torch.randn(64) > 0).long()
    batches = [(x[:32], y[:32]), (x[32:], y[32:])]
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)

    def step(engine: Engine, batch: tuple[Tensor, Tensor]) -> float:
        model.train()
        optimizer.zero_grad()
        loss = F.cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        return loss.item()

    def predict(engine: Engine, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        model.eval()
        with torch.no_grad():
            return model(batch[0]), batch[1]

    trainer, evaluator = Engine(step), Engine(predict)
    Loss(F.cross_entropy).attach(evaluator, "loss")
    Accuracy().attach(evaluator, "accuracy")
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run(batches))
    events = TensorBoardSink(directory)
    sinks: list[Sink] = [JsonLinesSink(directory / "epochs.jsonl"), events]
    diagnostics = Diagnostics(model, optimizer, every=1, sinks=sinks).attach(trainer, evaluator)
    course, counter = Course(), Counted()

    @trainer.on(Events.EPOCH_COMPLETED)
    def look(engine: Engine) -> None:
        epoch = engine.state.epoch
        if epoch in counted:
            counter.__exit__()
            course.calls[epoch] = counter.calls
        if epoch in looked_at:
            gc.collect()
            course.objects[epoch] = len(gc.get_objects())
            course.resident[epoch] = resident()
            if tracemalloc.is_tracing():
                course.traced[epoch] = tracemalloc.get_traced_memory()[0]
            course.lines[epoch] = (directory / "epochs.jsonl").stat().st_size
            course.events[epoch] = sum(path.stat().st_size for path in directory.glob("events.out.*"))
            file = io.BytesIO()
            torch.save(diagnostics.state_dict(), file)
            course.state[epoch] = file.tell()
        if epoch == traced_from:
            tracemalloc.start()
        if epoch + 1 in counted:
            counter.calls = 0
            counter.__enter__()

    gc.collect()
    gc.freeze()  # what was there before is not looked at
    try:
        with diagnostics:
            trainer.run(batches, max_epochs=epochs)
    finally:
        gc.unfreeze()
        sys.setprofile(None)
        tracemalloc.stop()
        events.close()
    return course


def resident() -> int:
    """Memory of this process, in pages; 0 where the system does not say."""
    path = Path("/proc/self/statm")
    return int(path.read_text().split()[1]) if path.exists() else 0


def growth(sizes: dict[int, int], *epochs: int) -> list[int]:
    """What was added between one epoch and the next of those given."""
    return [sizes[end] - sizes[begin] for begin, end in itertools.pairwise(epochs)]


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Course:
    """Three hundred epochs."""
    directory = tmp_path_factory.mktemp("run")
    return train(directory, 300, looked_at={140, 150, 225, 240, 300}, counted={148, 149, 298, 299}, traced_from=170)


def test_memory_stays(course: Course) -> None:
    """After 300 epochs there are as many objects as after 150, and no more bytes than after 240: nothing keeps the
    reports."""
    assert course.objects[300] - course.objects[150] < 100
    assert course.traced[300] - course.traced[240] < 50_000


def test_files_grow_by_the_same_in_every_epoch(course: Course) -> None:
    """What an epoch adds to ``epochs.jsonl`` and to the event file does not become more."""
    for sizes, bound in ((course.lines, 1.01), (course.events, 1.03)):
        before, after = growth(sizes, 150, 225, 300)
        assert 0 < after < bound * before


def test_the_state_stays(course: Course) -> None:
    """What a checkpoint holds of the diagnostics is as large after 300 epochs as after 150."""
    assert course.state[300] < 1.02 * course.state[150]


def test_an_epoch_stays_as_much_work(course: Course) -> None:
    """An epoch late in the run, its evaluation and its outputs included, makes as many calls as an earlier one."""
    early = sum(calls for epoch, calls in course.calls.items() if epoch < 150)
    late = sum(calls for epoch, calls in course.calls.items() if epoch > 150)
    assert early > 0
    assert late == pytest.approx(early, rel=0.02)


@pytest.mark.timeout(1500)
def test_thousands_of_epochs(tmp_path: Path) -> None:
    """2,500 epochs (two minutes): memory is flat, no file grows faster, no epoch is more work."""
    looked_at = range(250, 2501, 250)
    counted = {*range(240, 245), *range(2490, 2495)}
    course = train(tmp_path, 2500, looked_at=set(looked_at), counted=counted)
    assert max(course.objects.values()) - course.objects[250] < 100
    assert max(course.resident.values()) - course.resident[250] < 1000  # pages: 4 MB
    assert course.state[2500] < 1.02 * course.state[250]
    for sizes in (course.lines, course.events):
        first, *others = growth(sizes, *looked_at)
        assert max(others) < 1.1 * first
    early, late = (sum(course.calls[at + i] for i in range(5)) for at in (240, 2490))
    assert 0 < late < 1.02 * early  # a trained network has other histograms, with fewer bins
    assert len(read_reports(tmp_path / "epochs.jsonl")) == 2500


# Many sites.


class Modules(nn.Module):
    """So many layers, each with an activation module of its own."""

    def __init__(self, sites: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(FEATURES, FEATURES) for _ in range(sites))
        self.acts = nn.ModuleList(nn.ReLU() for _ in range(sites))

    def forward(self, x: Tensor) -> Tensor:
        """Of the shape of the input; neither grows nor shrinks with the depth."""
        out = x
        for place, layer in enumerate(self.layers):
            out = x + self.act(place, layer(out))
        return out

    def act(self, place: int, values: Tensor) -> Tensor:
        """The activation function behind a layer."""
        return self.acts[place](values)


class Shared(Modules):
    """One ReLU is called everywhere."""

    def __init__(self, sites: int) -> None:
        super().__init__(sites)
        self.acts = nn.ReLU()  # type: ignore[assignment]

    def act(self, place: int, values: Tensor) -> Tensor:
        return self.acts(values)


class Functional(Shared):
    """``F.relu`` is called everywhere."""

    def act(self, place: int, values: Tensor) -> Tensor:
        return F.relu(values)


class Tied(Modules):
    """One ReLU has as many names as it has calls."""

    def __init__(self, sites: int) -> None:
        super().__init__(sites)
        self.acts = nn.ModuleList([nn.ReLU()] * sites)


class Dead(Modules):
    """Every unit is dead."""

    def act(self, place: int, values: Tensor) -> Tensor:
        return self.acts[place](values - 1000.0)


class Broken(Modules):
    """Every weight is NaN."""

    def __init__(self, sites: int) -> None:
        super().__init__(sites)
        for parameter in self.parameters():
            nn.init.constant_(parameter, math.nan)


class Idle(Functional):
    """Has activation modules that it never calls."""

    def __init__(self, sites: int) -> None:
        super().__init__(sites)
        self.acts = nn.ModuleList(nn.ReLU() for _ in range(sites))


STYLES: dict[str, Callable[[int], Modules]] = {"modules": Modules, "shared": Shared, "functional": Functional}


def epoch_of(model: nn.Module, directory: Path, prepare: Callable[[EpochRecorder], object]) -> tuple[int, int, Any]:
    """The calls that two steps make, those that the end of an epoch makes, and the report."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    x, y = torch.randn(16, FEATURES), torch.randint(0, FEATURES, (16,))
    events = TensorBoardSink(directory)
    sinks: list[Sink] = [JsonLinesSink(directory / "epochs.jsonl"), events]
    recorder = EpochRecorder(model, optimizer, every=1)
    prepare(recorder)

    def steps() -> None:
        recorder.start()
        for _ in range(2):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            recorder.record_loss(loss)

    def end() -> EpochReport:
        recorder.stop()
        report = recorder.finish()
        for sink in sinks:
            sink.write(report)
        return report

    steps()
    end()
    with Counted() as step_calls:
        steps()
    with Counted() as end_calls:
        report = end()
    events.close()
    return step_calls.calls, end_calls.calls, report


def assert_linear(
    make: Callable[[int], nn.Module],
    directory: Path,
    few: int = 100,
    prepare: Callable[[EpochRecorder], object] = lambda recorder: None,
) -> EpochReport:
    """Four times the sites are at most 4.4 times the work, in a step as at the end of an epoch."""
    torch.manual_seed(0)
    found = []
    for number in (few, 4 * few):
        (directory / str(number)).mkdir()
        found.append(epoch_of(make(number), directory / str(number), prepare))
    (steps, ends, _), (more_steps, more_ends, report) = found
    assert more_steps / steps <= 4.4
    assert more_ends / ends <= 4.4
    assert isinstance(report, EpochReport)
    return report


@pytest.mark.parametrize("style", ["functional", "modules", "shared"])
def test_a_site_costs_what_a_site_costs(style: str, tmp_path: Path) -> None:
    """The work grows as the number of the sites, whether modules are called, one module many times, or functions."""
    report = assert_linear(STYLES[style], tmp_path)
    assert len(report.activations) == len(report.dead_neurons) == 400


@pytest.mark.parametrize("model", [Broken, Dead, Idle])
def test_trouble_everywhere_costs_as_much_as_elsewhere(model: type[Modules], tmp_path: Path) -> None:
    """Also where every site has something wrong with it, the work grows as the number of the sites."""
    report = assert_linear(model, tmp_path, 50)
    if model is Dead:
        assert sum(finding.kind == "dead_units" for finding in report.findings) == 200
    if model is Broken:
        assert [finding.kind for finding in report.findings][:1] == ["nonfinite"]
    if model is Idle:
        assert len(report.coverage["activations"]["unseen"]) == 200


def test_measuring_that_fails_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where measuring fails at every site, the work grows as the number of the sites."""
    logging.getLogger("ignite_act.collect.sites").addFilter(drop := lambda record: False)

    def prepare(recorder: EpochRecorder) -> None:
        def fail(*_: object) -> None:
            raise ValueError("on purpose")

        monkeypatch.setattr(recorder.collectors["activations"], "_update", fail)

    try:
        report = assert_linear(Modules, tmp_path, 50, prepare)
    finally:
        logging.getLogger("ignite_act.collect.sites").removeFilter(drop)
    assert len(report.coverage["activations"]["unseen"]) == 200
    assert not report.activations


@pytest.mark.parametrize(
    "choice",
    [
        {},
        {"sites": ("acts.*", "layers.*")},
        {"unit_dim": {"layers.*": 0, "acts": 0}},
    ],
)
def test_a_module_with_many_names(choice: dict[str, Any], tmp_path: Path) -> None:
    """One ReLU put into every place of a list has as many names; to choose sites or axes by name costs no more."""

    def prepare(recorder: EpochRecorder) -> None:
        model = recorder.collectors["activations"].model
        recorder.collectors["activations"] = ActivationCollector(model, **choice)

    report = assert_linear(Tied, tmp_path, 50, prepare)
    assert list(report.activations) == [f"acts.{place}" for place in range(200)]


@pytest.mark.parametrize("style", STYLES)
def test_a_thousand_sites(style: str, tmp_path: Path) -> None:
    """A network with 1,000 sites is measured, judged and written in full, for four times the work of 250."""
    report = assert_linear(STYLES[style], tmp_path, 250)
    names = {"modules": "acts.{}", "shared": "acts#{}", "functional": "relu#{}"}
    expected = [names[style].format(place + (style != "modules")) for place in range(1000)]
    if style != "modules":
        expected[0] = expected[0].removesuffix("#1")
    assert list(report.activations) == list(report.dead_neurons) == expected
    assert len(report.gradients) == len(report.updates) == 1000
    assert [kept.activations.keys() for kept in read_reports(tmp_path / "1000" / "epochs.jsonl")] == [
        report.activations.keys()
    ] * 2
    events = EventAccumulator(str(tmp_path / "1000")).Reload()
    assert len([tag for tag in events.Tags()["scalars"] if tag.startswith("dead_neurons/")]) == 1000
    assert len(events.Tags()["histograms"]) == 1000
