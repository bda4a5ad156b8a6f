"""Saturated units in the rows of the activation collector."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ignite_act.activations import get_activation
from ignite_act.collect import ActivationCollector
from ignite_act.testing import ChannelsLastBlock, Gate, InPlaceCNN, SharedReLU, batches

pytestmark = pytest.mark.usefixtures("loops")


def twin(name: str, pre_activations: list[Tensor], unit_dim: int) -> tuple[int, int]:
    """Units, and how many of them lie in the saturated intervals on more than 99 % of their samples."""
    values = torch.cat([z.movedim(unit_dim, 0).flatten(1) for z in pre_activations], 1)
    inside = torch.zeros_like(values, dtype=torch.bool)
    for low, high in get_activation(name).saturated_intervals({}):
        inside |= (values >= low) & (values <= high)
    return len(values), int((inside.double().mean(1) > 0.99).sum())


def shown(row: dict[str, Any]) -> tuple[int, int, bool]:
    return row["units"], row["saturated_units"], row["both_ends"]


@pytest.mark.parametrize(
    ("act", "name", "both_ends"),
    [(nn.Tanh(), "tanh", True), (nn.Sigmoid(), "sigmoid", True), (nn.ReLU(inplace=True), "relu", False)],
)
def test_units_equal_their_twin(act: nn.Module, name: str, both_ends: bool) -> None:
    """A row tells the units of a site, how many are saturated over the whole window, and at how many ends."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), act)
    with torch.no_grad():
        model[0].bias[:3] = torch.tensor([-30.0, 30.0, -30.0])
        inputs = [x for x, _ in batches(5)]
        expected = twin(name, [model[0](x) for x in inputs], -1)
        with ActivationCollector(model) as collector:
            for x in inputs:
                model(x)
            row = collector.finish()["1"]
    assert shown(row) == (*expected, both_ends)
    assert 0 < row["saturated_units"] < 8


def test_units_of_a_convolution_are_channels() -> None:
    """Behind a convolution a unit is a channel, whose positions are its samples, also in place and channels last."""
    torch.manual_seed(0)
    model = InPlaceCNN()
    with torch.no_grad():
        model.conv1.bias[0], model.conv2.bias[1:3] = -50.0, -50.0
        x = torch.randn(3, 1, 9, 9)
        first = model.conv1(x)
        second = model.conv2(F.hardswish(first))
        with ActivationCollector(model) as collector:
            model(x)
            rows = collector.finish()
    assert shown(rows["act1"]) == (*twin("hardswish", [first], 1), False) == (4, 1, False)
    assert shown(rows["relu"]) == (*twin("relu", [second], 1), False) == (4, 2, False)
    with ActivationCollector(block := ChannelsLastBlock()) as collector:
        block(torch.randn(2, 1, 5, 5))
        rows = collector.finish()
    assert {name: row["units"] for name, row in rows.items()} == {"act": 6, "last": 4}


def test_units_along_a_chosen_axis() -> None:
    """`unit_dim` says which axis the units are on."""
    model = nn.Sequential(nn.Tanh())
    x = torch.zeros(5, 3)
    x[1], x[2, :2] = 9.0, -9.0
    for unit_dim, expected in ((0, (5, 1)), (-1, (3, 0))):
        with ActivationCollector(model, unit_dim=unit_dim) as collector:
            model(x)
            assert shown(collector.finish()["0"]) == (*expected, True)


def test_a_function_that_is_not_known_has_no_saturated_units() -> None:
    """Where the derivative is not known nothing is called saturated, but the units are counted."""
    model = nn.Sequential(Gate())
    with ActivationCollector(model, sites=Gate) as collector:
        model(torch.full((4, 5), -50.0))
        assert shown(collector.finish()["0"]) == (5, 0, False)


def test_a_shared_module_has_units_at_each_of_its_places() -> None:
    """Two calls of one object are two sites with units of their own."""
    model = SharedReLU()
    with torch.no_grad():
        model.layers[0].bias.fill_(-50.0)
        model.layers[2].bias.fill_(50.0)
        with ActivationCollector(model) as collector:
            model(batches(1)[0][0])
            rows = collector.finish()
    assert [row["saturated_units"] for row in rows.values()] == [6, 0]


@pytest.mark.parametrize("lengths", [(9, 5, 9), (5, 9, 5), (64, 4096, 64)])
def test_sequences_of_changing_length(lengths: tuple[int, int, int]) -> None:
    """Where the last axis is a length that changes, the distribution holds all values, the units those of the first."""
    model = nn.Sequential(nn.Tanh())
    with ActivationCollector(model) as collector:
        for length in lengths:
            model(torch.full((2, length), 9.0 if length == lengths[0] else 0.0))
        row = collector.finish()["0"]
    assert not collector.coverage.unseen
    assert row["count"] == 2 * sum(lengths)
    assert shown(row) == (lengths[0], lengths[0], True)


def test_a_window_restored_in_its_middle_counts_on(tmp_path: Any) -> None:
    """Counts survive a file of plain types: a unit is judged over the samples before and after."""
    model = nn.Sequential(nn.Tanh())
    before, after = torch.tensor([[9.0, 9.0, 0.0]] * 60), torch.tensor([[9.0, 0.0, 9.0]] * 2)
    with ActivationCollector(model) as collector:
        model(before)
        torch.save(collector.state_dict(), tmp_path / "state.pt")
        assert collector.finish()["0"]["saturated_units"] == 2
    resumed = ActivationCollector(model)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    with resumed:
        model(after)
        assert shown(resumed.finish()["0"]) == (3, 1, True)
        model(after)
        assert shown(resumed.finish()["0"]) == (3, 2, True)


def test_windows_of_two_processes_add_up() -> None:
    """United, a unit is judged over the samples of all processes, and functions keep their ends."""
    model = nn.Sequential(nn.Tanh())
    states = []
    for x in (torch.full((99, 2), 9.0), torch.tensor([[9.0, 0.0]])):
        with ActivationCollector(model) as collector:
            model(x)
            states.append(collector.shared_state())
    collector.unite(states)
    assert shown(collector.finish()["0"]) == (2, 1, True)
