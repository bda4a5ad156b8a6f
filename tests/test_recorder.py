"""The collecting core without a framework."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ignite_act import Diagnostics, EpochRecorder
from ignite_act.report import EpochReport
from ignite_act.testing import FunctionalMLP, ResidualCNN, SharedReLU, batches, make_trainer


def comparable(report: EpochReport | None) -> dict[str, Any]:
    assert report is not None
    data = report.to_dict()
    return {name: repr(data[name]) for name in ("epoch", "gradients", "activations", "dead_neurons", "coverage")}


def setup(kind: type[nn.Module]) -> tuple[nn.Module, torch.optim.Optimizer, list[Any]]:
    torch.manual_seed(0)
    model = kind()
    data = batches()
    if kind is ResidualCNN:
        data = [(torch.randn(4, 1, 8, 8), y[:4]) for _, y in data]
    return model, torch.optim.SGD(model.parameters(), lr=0.05), data


@pytest.mark.parametrize("every", [None, 1])
@pytest.mark.parametrize("kind", [SharedReLU, FunctionalMLP, ResidualCNN])
def test_a_plain_loop_has_the_numbers_of_the_handler(kind: type[nn.Module], every: int | None) -> None:
    """One ``with`` and one call an epoch give the reports that `Diagnostics` gives, an evaluation in between or not."""
    model, optimizer, data = setup(kind)
    trainer = make_trainer(model, optimizer)
    expected = []
    diagnostics = Diagnostics(model, every=every).attach(trainer)
    for epochs in (1, 2):
        trainer.run(data, max_epochs=epochs)
        expected.append(comparable(diagnostics.report))
    model, optimizer, data = setup(kind)
    reports = []
    with EpochRecorder(model, every=every) as recorder:
        for _ in range(2):
            model.train()
            for x, y in data:
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
                recorder.record_loss(loss)
            model.eval()
            with torch.no_grad():
                model(data[0][0])
            reports.append(comparable(recorder.finish()))
    assert reports == expected


def test_epochs_are_counted_unless_they_are_given() -> None:
    """The number of a report is one more than that of the last."""
    model = nn.ReLU()
    with EpochRecorder(model) as recorder:
        assert [recorder.finish(epoch=epoch).epoch for epoch in (None, None, 7, None)] == [1, 2, 7, 8]
        assert recorder.report is not None
        assert recorder.report.epoch == 8


# Findings


def learnable(n: int = 10) -> list[Any]:
    weight = torch.randn(4, 3, generator=torch.Generator().manual_seed(9))
    return [(x, (x @ weight).argmax(1)) for x, _ in batches(n, size=32)]


def train(model: nn.Module, recorder: EpochRecorder, epochs: int = 1, lr: float = 0.3) -> list[EpochReport]:
    """A plain loop that tells its loss."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    reports = []
    for _ in range(epochs):
        for x, y in learnable():
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            recorder.record_loss(loss)
        reports.append(recorder.finish())
    return reports


def network(*, dead: bool = False) -> SharedReLU:
    torch.manual_seed(0)
    model = SharedReLU(hidden=16)
    if dead:
        with torch.no_grad():
            model.layers[0].bias.fill_(-100.0)
    return model


def kinds(findings: Any) -> list[str]:
    return [finding.kind for finding in findings]


@pytest.mark.parametrize("dead", [True, False])
def test_a_plain_loop_has_the_findings_of_the_handler(dead: bool) -> None:
    """With `record_loss` in every step and `end` at the end, a loop has the loss and the findings of `Diagnostics`."""
    model = network(dead=dead)
    with EpochRecorder(model) as recorder:
        reports = train(model, recorder, epochs=4)
        assert kinds(recorder.findings) == kinds(reports[-1].findings)
        ended = recorder.end()
    twin = network(dead=dead)
    trainer = make_trainer(twin, torch.optim.SGD(twin.parameters(), lr=0.3))
    with Diagnostics(twin).attach(trainer) as diagnostics:
        trainer.run(learnable(), max_epochs=4)
    assert ended is recorder.report is not None
    assert ended.findings == diagnostics.report.findings
    assert ended.loss == diagnostics.report.loss
    assert recorder.all_findings == diagnostics.all_findings
    assert ("plateau" in kinds(ended.findings)) == dead
    assert ("dead_units" in kinds(finding for finding in reports[0].findings if finding.severity == "error")) == dead


def test_record_loss() -> None:
    """Numbers and tensors of one element are taken in, each as it was then; between windows nothing is."""
    model, place = network(), torch.zeros(())
    recorder = EpochRecorder(model)
    recorder.record_loss(9.0)  # no window is open
    with recorder:
        values: list[Any] = [0.5, 1, torch.tensor([[0.25]]), torch.tensor(2.0, dtype=torch.bfloat16), place]
        for value in values:
            recorder.record_loss(value)
        place.fill_(7.0)
        assert recorder.finish().loss["course"] == [0.5, 1.0, 0.25, 2.0, 0.0]
        assert recorder.finish().loss == {}
        recorder.record_loss(0.75)
    recorder.record_loss(9.0)
    assert recorder.finish().loss["course"] == [0.75]


def test_a_loss_with_a_graph_is_let_go() -> None:
    """What is kept of a loss does not hold the graph of its step."""

    class Saved:
        def __init__(self, tensor: torch.Tensor) -> None:
            self.tensor = tensor

    saved: weakref.WeakSet[Saved] = weakref.WeakSet()

    def pack(tensor: torch.Tensor) -> Saved:
        packed = Saved(tensor.detach())
        saved.add(packed)
        return packed

    model = network()
    x, y = learnable()[0]
    with EpochRecorder(model) as recorder, torch.autograd.graph.saved_tensors_hooks(pack, lambda packed: packed.tensor):
        loss = F.cross_entropy(model(x), y)
        recorder.record_loss(loss)
        assert len(saved) > 0
        del loss
        assert len(saved) == 0


@pytest.mark.parametrize("loss", [None, "low", torch.ones(3), {"los": 1.0}, [], True, 1j])
def test_what_is_no_loss(loss: Any) -> None:
    """Training does not die of it; the coverage says so, for the window in which it was."""
    model = network()
    with EpochRecorder(model) as recorder:
        recorder.record_loss(loss)
        report = recorder.finish()
        assert report.loss == {}
        said = report.coverage["loss"]["unseen"]["the loss of some steps"]
        assert said == f"it is not a single number: {type(loss).__name__}"
        recorder.record_loss(0.5)
        again = recorder.finish()
        assert again.loss["course"] == [0.5]
        assert "loss" not in again.coverage


def test_no_loss() -> None:
    """A reason that the loop gives is in the coverage."""
    model = network()
    with EpochRecorder(model) as recorder:
        recorder.no_loss("it is on the moon")
        assert recorder.finish().coverage["loss"]["unseen"] == {"the loss of some steps": "it is on the moon"}


def test_the_end_of_nothing() -> None:
    """Before the first report there is none at the end, and no finding."""
    model = network()
    with EpochRecorder(model) as recorder:
        assert recorder.end() is None
        assert (recorder.findings, recorder.all_findings) == ((), ())
        recorder.add_scores({"loss": {"validation": 1.0}})
        assert recorder.report is None


def test_the_end_of_a_healthy_run_changes_nothing() -> None:
    """If the end brings nothing new, the last report is the one that was written."""
    model = network()
    with EpochRecorder(model) as recorder:
        last = train(model, recorder, epochs=3)[-1]
        assert recorder.end() is last


def test_scores_that_are_known_later() -> None:
    """`add_scores` gives them to the last report; its findings stay, the next ones know of them."""
    model, twin = network(), network()
    with EpochRecorder(model) as recorder, EpochRecorder(twin) as other:
        for epoch in range(8):
            before = train(model, recorder)[-1]
            scores = {"loss": {"validation": 0.5 + 0.4 * epoch}, "accuracy": {"train": 1.0, "validation": 0.4}}
            recorder.add_scores(scores)
            assert recorder.report is not None
            assert recorder.report.scores == scores
            assert (recorder.report.findings, recorder.report.loss) == (before.findings, before.loss)
            assert before.scores == {}
        assert "overfitting" in kinds(recorder.report.findings)
        other.load_state_dict(recorder.state_dict())
        assert recorder.end().findings
        other.end()
        assert other.all_findings == recorder.all_findings


def test_what_is_over_comes_last() -> None:
    """`all_findings` are those that stand, then those that were cleared; `findings` are those that stand."""
    model = network(dead=True)
    with EpochRecorder(model) as recorder:
        train(model, recorder, epochs=2)
        with torch.no_grad():
            model.layers[0].bias.zero_()
        train(model, recorder, epochs=2)
        over = [finding for finding in recorder.all_findings if finding.cleared_epoch is not None]
        assert recorder.all_findings == (*recorder.findings, *over)
        assert ("dead_units", "layers.1", 1, 3) in [
            (item.kind, item.layer, item.since_epoch, item.cleared_epoch) for item in over
        ]


def test_a_loop_that_is_resumed(tmp_path: Any) -> None:
    """From a file of plain types, findings and the numbers of the epochs go on where they were."""
    model, straight = network(dead=True), []
    with EpochRecorder(model) as recorder:
        straight += train(model, recorder, epochs=3)
        torch.save({"recorder": recorder.state_dict(), "model": model.state_dict()}, tmp_path / "state.pt")
        known = recorder.all_findings
        straight += train(model, recorder, epochs=2)
        ended = recorder.end()
    state, twin = torch.load(tmp_path / "state.pt", weights_only=True), network()
    twin.load_state_dict(state["model"])
    other = EpochRecorder(twin)
    other.load_state_dict(state["recorder"])
    assert (other.all_findings, other.report) == (known, None)
    with other:
        resumed = train(twin, other, epochs=2)
        assert [report.epoch for report in resumed] == [4, 5]
        assert [report.findings for report in resumed] == [report.findings for report in straight[3:]]
        assert other.end().findings == ended.findings
