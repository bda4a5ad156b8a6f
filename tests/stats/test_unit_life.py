from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ignite_act.activations import Intervals, get_activation, make_activation
from ignite_act.stats import UnitLife

pytestmark = pytest.mark.usefixtures("loops")

FLAT: dict[str, Intervals | None] = {
    "one-sided at 0": ((-math.inf, 0.0),),
    "one-sided": ((-math.inf, -0.3),),
    "two-sided": ((-math.inf, -0.3), (0.6, math.inf)),
    "inner": ((-0.5, 0.5),),
    "none": (),
    "unknown": None,
}
UNIT_SHAPES = [
    ((40, 6), -1),
    ((40, 6), 1),
    ((40, 5, 6), -1),
    ((40, 6, 5), 1),
    ((40, 6, 3, 2), 1),
    ((6, 40), 0),
    ((6,), -1),
]

BOUNDARIES: list[tuple[str, dict[str, float]]] = [
    ("relu", {}),
    ("relu6", {}),
    ("hardtanh", {"min_val": -0.125, "max_val": 0.75}),
    ("hardtanh", {"min_val": -0.1, "max_val": 0.7}),
    ("hardswish", {}),
    ("hardsigmoid", {}),
    ("hardshrink", {"lambd": 0.25}),
    ("hardshrink", {"lambd": 0.3}),
    ("softshrink", {"lambd": 0.25}),
    ("softshrink", {"lambd": 0.3}),
    ("threshold", {"threshold": 0.125, "value": -1.0}),
    ("threshold", {"threshold": 0.1, "value": -1.0}),
    ("threshold", {"threshold": -0.7, "value": -1.0}),
    ("elu", {"alpha": 0.0}),
    ("leakyrelu", {"negative_slope": 0.0}),
]


def stream(shape: tuple[int, ...], unit_dim: int) -> Tensor:
    """Values whose units are dead in different ways: below, above, within, on both sides, constant, alive."""
    values = 0.2 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    units = values.movedim(unit_dim, 0)
    units[0] = -units[0].abs() - 0.5
    units[1] = units[1].abs() + 0.7
    units[2] = torch.where(units[2] > 0, 5.0, -5.0)
    units[3] = 0.0
    units[4] = 1.25
    return values


def twin(values: Tensor, flat: Intervals | None, unit_dim: int) -> list[int]:
    """Dead units by the definition, in plain Python."""
    dead = []
    for index, unit in enumerate(values.movedim(unit_dim, 0).reshape(values.shape[unit_dim], -1).tolist()):
        if flat is None:
            is_dead = len(set(unit)) == 1
        else:
            is_dead = all(any(low <= value <= high for low, high in flat) for value in unit)
        if is_dead:
            dead.append(index)
    return dead


def of(values: Tensor, flat: Intervals | None, unit_dim: int = -1) -> UnitLife:
    life = UnitLife(values.shape[unit_dim], values.dtype)
    life.update(values, flat, unit_dim)
    return life


@pytest.mark.parametrize(("shape", "unit_dim"), UNIT_SHAPES)
@pytest.mark.parametrize("kind", FLAT)
def test_dead_units_equal_their_twin(kind: str, shape: tuple[int, ...], unit_dim: int) -> None:
    """A unit is dead if every one of its values lies on a flat piece, or is the same where that is unknown."""
    values, flat = stream(shape, unit_dim), FLAT[kind]
    assert of(values, flat, unit_dim).compute() == twin(values, flat, unit_dim)


@pytest.mark.parametrize("shape", [(10, 6, 4, 4), (10, 6, 1, 1), (1, 6, 4, 4)])
def test_memory_format_does_not_matter(shape: tuple[int, ...]) -> None:
    """Channels-last memory gives the same dead channels."""
    values, flat = stream(shape, 1), FLAT["one-sided at 0"]
    assert of(values.to(memory_format=torch.channels_last), flat, 1).compute() == twin(values, flat, 1)


@pytest.mark.parametrize("kind", FLAT)
@pytest.mark.parametrize("cuts", [(1, 2), (1, 30), (20, 39)])
def test_any_split_merges_to_the_whole(kind: str, cuts: tuple[int, int]) -> None:
    """Updates and merges in any grouping, with empty ones among them, give the dead units of the whole stream."""
    values, flat = stream((40, 6), -1), FLAT[kind]
    parts = [values[: cuts[0]], values[cuts[0] : cuts[1]], values[cuts[1] :]]
    updated = UnitLife(6)
    for part in parts:
        updated.update(part, flat, -1)
    left, right = [of(part, flat) for part in parts], [of(part, flat) for part in parts]
    left[0].merge(left[1])
    left[0].merge(left[2])
    left[0].merge(UnitLife(6))
    right[1].merge(right[2])
    right[0].merge(right[1])
    empty = UnitLife(6)
    empty.merge(right[0])
    assert updated.compute() == left[0].compute() == right[0].compute() == empty.compute() == twin(values, flat, -1)


def test_alive_once_is_alive() -> None:
    """A unit that is dead in one batch and alive in another is alive."""
    life = UnitLife(2)
    for row in ([-1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]):
        life.update(torch.tensor([row]), FLAT["one-sided at 0"], -1)
    assert life.compute() == [0]


@pytest.mark.parametrize("kind", ["one-sided at 0", "one-sided", "two-sided", "inner", "unknown"])
def test_a_unit_that_produced_nan_is_not_called_dead(kind: str) -> None:
    """NaN is never death, before or after dead batches."""
    life = UnitLife(2)
    for row in ([0.0, 0.0], [math.nan, 0.0], [0.0, 0.0]):
        life.update(
            torch.tensor([row]) - (0.4 if kind == "one-sided" else 0.9 if kind == "two-sided" else 0.0), FLAT[kind], -1
        )
    assert life.compute() == [1]


@pytest.mark.parametrize(
    ("name", "parameters", "dtype"),
    [
        (name, parameters, dtype)
        for name, parameters in BOUNDARIES
        for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
        # Torch's own kernels disagree on how an end that half precision cannot hold is rounded.
        if dtype.itemsize > 2 or all(value * 8 % 1 == 0 for value in parameters.values())
    ],
)
def test_the_boundary_is_exact_in_every_type(name: str, parameters: dict[str, float], dtype: torch.dtype) -> None:
    """On and beside every boundary a unit is dead exactly where autograd's derivative is zero in that type."""
    entry = get_activation(name)
    flat = entry.flat_intervals(parameters)
    assert flat
    ends = torch.tensor([end for piece in flat for end in piece if math.isfinite(end)], dtype=torch.float64).to(dtype)
    bits = ends.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[ends.element_size()])
    neighbours = [(bits + step).view(dtype) for step in (-2, -1, 0, 1, 2)]
    z = torch.cat([*(item[item.isfinite()] for item in neighbours), ends.new_tensor([-9.0, -0.01, 0.0, 0.01, 9.0])])
    z = z.detach().requires_grad_()
    y = make_activation(name, **parameters)(z)
    (slope,) = torch.autograd.grad(y.sum(), z)
    life = of((y if entry.flat_on_output else z).detach()[None], flat)
    assert life.compute() == torch.nonzero(slope == 0).flatten().tolist()


def test_the_state_round_trips_in_the_middle_of_a_stream() -> None:
    """A stream interrupted by state_dict and from_state_dict gives the dead units of the uninterrupted one."""
    values = stream((40, 6), -1)
    for flat in FLAT.values():
        resumed = UnitLife.from_state_dict(of(values[:20], flat).state_dict())
        resumed.update(values[20:], flat, -1)
        assert resumed.compute() == twin(values, flat, -1)


def test_an_empty_batch_changes_nothing() -> None:
    """A batch without samples neither kills nor revives."""
    life = of(torch.tensor([[-1.0, 1.0]]), FLAT["one-sided at 0"])
    life.update(torch.empty(0, 2), FLAT["one-sided at 0"], -1)
    assert life.compute() == [0]


def test_updating_never_synchronises_with_the_host() -> None:
    """`update` runs on the meta device, where reading any value is an error."""
    life = UnitLife(4, device="meta")
    for flat in FLAT.values():
        life.update(F.relu(torch.randn(3, 4, device="meta")), flat, -1)
    assert life.peak.shape == (4,)
