from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ignite_act.activations import ACTIVATIONS, make_activation
from ignite_act.collect import DeadUnitCollector
from ignite_act.testing import Gate, HandWrittenReLU, ResidualCNN, batches, train

pytestmark = pytest.mark.usefixtures("loops")

ONE_SIDED = {"relu", "hardswish", "threshold"}
TWO_SIDED = {"relu6", "hardtanh", "hardsigmoid"}
INNER = {"hardshrink", "softshrink"}
BIASES = torch.tensor([-9.0, 9.0, -0.1, 0.0, 0.0, -0.5])


def awkward(act: nn.Module) -> nn.Sequential:
    """A layer whose units are always low, always high, always -0.1, alive, dead in most batches, and anything."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), act, nn.Linear(6, 3))
    with torch.no_grad():
        model[0].weight[2] = 0.0
        model[0].weight[3] *= 5
        model[0].bias.copy_(BIASES)
    return model


def twin(model: nn.Sequential, inputs: list[Tensor]) -> list[int]:
    """Dead units by the definition: autograd's derivative of the second module is 0 at every sample."""
    linear, act = model[0], copy.deepcopy(model[1]).double()  # in float32 a derivative may underflow
    if hasattr(act, "inplace"):
        act.inplace = False
    alive = torch.zeros(linear.out_features, dtype=torch.bool)
    for x in inputs:
        z = linear(x).detach().double().requires_grad_()
        (slope,) = torch.autograd.grad(act(z).sum(), z)
        alive |= (slope != 0).flatten(0, -2).any(0)
    return torch.nonzero(~alive).flatten().tolist()


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize(
    "name", [name for name, entry in ACTIVATIONS.items() if entry.pointwise and name != "identity"]
)
def test_dead_units_equal_their_twin(name: str, inplace: bool) -> None:
    """Over several batches a unit is dead exactly if autograd's derivative is zero at every sample of every batch."""
    act = make_activation(name)
    if inplace:
        act.inplace = True  # type: ignore[assignment]
    model = awkward(act)
    inputs = [x for x, _ in batches(5)]
    with torch.no_grad(), DeadUnitCollector(model) as collector:
        for x in inputs:
            model(x)
        row = collector.finish()["1"]
    expected = twin(model, inputs)
    assert row["indices"] == expected
    assert (row["dead"], row["units"], row["fraction"]) == (len(expected), 6, len(expected) / 6)
    kind = name in ONE_SIDED, name in TWO_SIDED, name in INNER
    known = {(True, False, False): {0}, (False, True, False): {0, 1}, (False, False, True): {2}}.get(kind, set())
    assert known <= set(expected)
    assert bool(known) == bool(expected)


def test_dead_in_one_batch_and_alive_in_another_is_alive() -> None:
    """Death is over every sample of the window, not of a batch."""
    model = nn.Sequential(nn.ReLU())
    with DeadUnitCollector(model) as collector:
        for row in ([-1.0, -1.0, 0.0], [-1.0, 2.0, 0.0], [-3.0, -1.0, 0.0]):
            model(torch.tensor([row]))
        assert collector.finish()["0"]["indices"] == [0, 2]


def test_a_training_network_equals_its_twin() -> None:
    """While the weights change, the dead units are those of the forwards that happened."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
    with torch.no_grad():
        model[0].bias -= 1.5
        model[2].bias -= 0.5
    data = batches(6, size=4)
    alive = {"1": torch.zeros(16, dtype=torch.bool), "3": torch.zeros(16, dtype=torch.bool)}
    shadow = copy.deepcopy(model)
    for batch in data:
        with torch.no_grad():
            for name, depth in (("1", 2), ("3", 4)):
                alive[name] |= (shadow[:depth](batch[0]) != 0).any(0)
        train(shadow, [batch])
    with DeadUnitCollector(model) as collector:
        train(model, data)
        rows = collector.finish()
    for name, mask in alive.items():
        assert rows[name]["indices"] == torch.nonzero(~mask).flatten().tolist()
    assert rows["1"]["dead"] > 0


def test_dead_channels_are_dead_at_every_position() -> None:
    """A channel of a convolution is dead only if it is dead at every position of every sample."""
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU())
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, 0.0, 1.0]).view(3, 1, 1, 1))
        model[0].bias.copy_(torch.tensor([0.0, -1.0, -0.5]))
    images = torch.zeros(2, 1, 4, 4)
    images[1, 0, 3, 2] = 0.75  # one position of one sample
    with DeadUnitCollector(model) as collector:
        model(images)
        assert collector.finish()["1"]["indices"] == [1]


def test_a_reused_module_has_separate_sites() -> None:
    """The two calls of one ReLU object have their own dead channels."""
    torch.manual_seed(0)
    model = ResidualCNN()
    with torch.no_grad():
        model.block.bn1.bias[1] = -50.0
        model.stem.bias[2] = -500.0
    with DeadUnitCollector(model) as collector:
        model(torch.randn(2, 1, 8, 8))
        rows = collector.finish()
    assert {name: row["indices"] for name, row in rows.items()} == {"block.relu": [1], "block.relu#2": [2]}


@pytest.mark.parametrize("inplace", [False, True])
def test_zeros_of_a_dropout_are_no_death(inplace: bool) -> None:
    """A unit that a dropout blanks behind its activation function is not dead."""
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Dropout(0.99, inplace=inplace))
    with torch.no_grad():
        model[0].bias.fill_(50.0)
    torch.manual_seed(0)
    with DeadUnitCollector(model) as collector:
        assert (model(torch.randn(2, 4)) == 0).any()
        assert collector.finish()["1"]["dead"] == 0


@pytest.mark.parametrize("kind", [HandWrittenReLU, Gate])
def test_an_unknown_derivative_means_constant_output(kind: type[nn.Module]) -> None:
    """A hand-written module's unit is dead if its output is one and the same number at every sample."""
    model = awkward(kind())
    with DeadUnitCollector(model, sites=kind) as collector:
        outputs = [model[:2](x) for x, _ in batches(4)]
        row = collector.finish()["1"]
    values = torch.cat(outputs)
    assert row["indices"] == [unit for unit in range(6) if len(values[:, unit].unique()) == 1]
    assert 2 in row["indices"]
    assert 1 not in row["indices"]


def test_zero_is_sparsity_where_the_function_has_no_flat_piece() -> None:
    """A LeakyReLU or tanh unit that is always 0 is not dead: its derivative is not zero."""
    for act in (nn.LeakyReLU(), nn.Tanh(), nn.GELU()):
        model = nn.Sequential(act)
        with DeadUnitCollector(model) as collector:
            model(torch.zeros(3, 2))
            assert collector.finish()["0"]["dead"] == 0


def test_parameters_of_the_call_count() -> None:
    """Flat pieces follow the parameters, given as a module's attributes or as arguments of a call."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.Hardtanh(-2.0, 2.0)

        def forward(self, x: Tensor) -> Tensor:
            nn.functional.leaky_relu(x, 0.0)
            nn.functional.leaky_relu(x, negative_slope=0.1)
            nn.functional.threshold(x, -1.0, 7.0)
            return self.act(x)

    model = Model()
    with DeadUnitCollector(model) as collector:
        model(torch.tensor([[-3.0, -1.5, -0.5, 0.5, 1.5, 3.0]]))
        rows = collector.finish()
    assert {name: row["indices"] for name, row in rows.items()} == {
        "leaky_relu": [0, 1, 2],
        "leaky_relu#2": [],
        "threshold": [0, 1],
        "act": [0, 5],
    }


def test_births_and_revivals_compare_two_windows() -> None:
    """`born` are dead now and were not in the window before, `revived` the reverse; the first window has neither."""
    model = nn.Sequential(nn.ReLU())
    windows = [[-1.0, -1.0, 1.0, 1.0], [-1.0, 1.0, -1.0, 1.0], [-1.0, 1.0, -1.0, 1.0], [1.0, 1.0, 1.0, 1.0]]
    with DeadUnitCollector(model) as collector:
        rows = []
        for window in windows:
            model(torch.tensor([window]))
            rows.append(collector.finish()["0"])
    assert [(row["dead"], row["born"], row["revived"]) for row in rows] == [(2, 0, 0), (2, 1, 1), (2, 0, 0), (0, 0, 2)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_floating_point_type_is_judged(dtype: torch.dtype) -> None:
    """Half and double precision give the same dead units."""
    model = nn.Sequential(nn.ReLU6())
    with DeadUnitCollector(model) as collector:
        model(torch.tensor([[-1.0, 3.0, 7.0], [-2.0, 7.0, 8.0]], dtype=dtype))
        assert collector.finish()["0"]["indices"] == [0, 2]


def test_a_batch_without_samples_is_no_window() -> None:
    """An empty batch neither kills nor lists a site as seen."""
    model = nn.Sequential(nn.ReLU())
    with DeadUnitCollector(model) as collector:
        model(torch.empty(0, 3))
        assert collector.finish() == {}
        model(torch.empty(0, 3))
        model(torch.ones(1, 3))
        assert collector.finish()["0"]["dead"] == 0


def state_round_trip(source: DeadUnitCollector, target: DeadUnitCollector, path: Any) -> None:
    torch.save(source.state_dict(), path)
    target.load_state_dict(torch.load(path, weights_only=True))


def test_a_window_resumed_in_its_middle_equals_the_uninterrupted_one(tmp_path: Any) -> None:
    """The state carries the open window and what births need, through a file of plain types."""
    data = [torch.zeros(2, 4), *(x for x, _ in batches(5, size=2))]
    uninterrupted, first, second = (
        nn.Sequential(nn.Linear(4, 8), act, nn.Linear(8, 3)) for act in (nn.ReLU6(), nn.ReLU6(), nn.ReLU6())
    )
    nn.init.constant_(uninterrupted[0].bias, -0.01)  # every unit is dead on zeros, and only there
    first.load_state_dict(uninterrupted.state_dict())
    second.load_state_dict(uninterrupted.state_dict())
    with DeadUnitCollector(uninterrupted) as whole:
        uninterrupted(data[0])
        whole.finish()
        for x in data[1:]:
            uninterrupted(x)
        expected = whole.finish()
    with DeadUnitCollector(first) as before:
        first(data[0])
        before.finish()
        for x in data[1:3]:
            first(x)
        after = DeadUnitCollector(second)
        state_round_trip(before, after, tmp_path / "state.pt")
    with after:
        for x in data[3:]:
            second(x)
        assert after.finish() == expected
    assert expected["1"]["revived"] > 0


def test_a_state_of_another_version_is_refused() -> None:
    """Loading says which version was given and which is known."""
    with pytest.raises(ValueError, match="version 99"):
        DeadUnitCollector(nn.ReLU()).load_state_dict({"version": 99})
