"""The collecting core without a framework."""

from __future__ import annotations

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
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
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
