from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ignite_act.activations import Intervals
from ignite_act.stats import SaturatedUnits, kernels

INTERVALS: dict[str, Intervals] = {
    "one end": ((-math.inf, -0.5),),
    "both ends": ((-math.inf, -0.5), (0.75, math.inf)),
    "two below": ((-math.inf, -1.0), (-0.5, -0.25)),
    "a middle": ((-0.25, 0.25),),
    "everything": ((-math.inf, math.inf),),
    "none": (),
}
SHAPES = [
    ((400, 6), -1),
    ((400, 6), 1),
    ((80, 5, 6), -1),
    ((80, 6, 5), 1),
    ((80, 6, 3, 2), 1),
    ((6, 400), 0),
    ((6,), -1),
    ((1, 6, 1, 1), -3),
]


def stream(shape: tuple[int, ...], unit_dim: int) -> Tensor:
    """Values whose units are saturated always, but for one sample in 100 or in 200, never, and NaN."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    units = values.movedim(unit_dim, 0).unsqueeze(-1)
    for unit, value in ((0, -0.5), (1, 0.75), (2, 5.0), (3, -5.0), (5, 0.0)):  # bounds are inside
        units[unit] = value
    flat = units.reshape(shape[unit_dim], -1)
    if flat.shape[1] >= 400:
        flat[2, ::100] = 0.5  # exactly 99 % saturated where 5.0 is
        flat[3, ::200] = 0.5
        flat[4, ::7] = math.nan
    moved = flat.reshape(units.squeeze(-1).shape).movedim(0, unit_dim)
    return moved.contiguous()


def twin(values: Tensor, intervals: Intervals, unit_dim: int) -> tuple[list[int], int]:
    """Counts and saturated units by the definition, in plain Python."""
    units = values.movedim(unit_dim, 0).reshape(values.shape[unit_dim], -1).tolist()
    counts = [sum(any(low <= value <= high for low, high in intervals) for value in unit) for unit in units]
    return counts, sum(count > 0.99 * len(unit) for count, unit in zip(counts, units, strict=True))


def of(values: Tensor, intervals: Intervals, unit_dim: int = -1) -> SaturatedUnits:
    statistic = SaturatedUnits(values.shape[unit_dim])
    statistic.update(values, intervals, unit_dim)
    return statistic


def state(statistic: SaturatedUnits) -> tuple[object, ...]:
    return statistic.units, statistic.samples, statistic.counts.tolist(), statistic.both_ends, statistic.compute()


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("intervals", INTERVALS)
@pytest.mark.parametrize(("shape", "unit_dim"), SHAPES)
def test_counts_equal_their_twin(shape: tuple[int, ...], unit_dim: int, intervals: str, dtype: torch.dtype) -> None:
    """A unit is saturated if over 99 % of its samples and positions lie in the closed intervals; NaN never does."""
    values = stream(shape, unit_dim).to(dtype)
    statistic = of(values, INTERVALS[intervals], unit_dim)
    counts, saturated = twin(values, INTERVALS[intervals], unit_dim)
    assert statistic.counts.tolist() == counts
    assert statistic.compute() == saturated
    assert statistic.samples == values.numel() // 6
    assert statistic.both_ends == (intervals in {"both ends", "everything"})


@pytest.mark.usefixtures("loops")
def test_the_stream_has_units_on_both_sides_of_the_threshold() -> None:
    """Of units saturated on 100, 99 and 99.5 % of the samples the first and the last count."""
    values = stream((400, 6), -1)
    assert of(values, INTERVALS["both ends"]).counts.tolist()[:4] == [400, 400, 396, 398]
    assert of(values, INTERVALS["both ends"]).compute() == 3


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("layout", ["transposed", "channels last", "strided", "expanded"])
def test_the_order_in_memory_does_not_matter(layout: str) -> None:
    """Views are counted like their copies, also where they are part of a graph."""
    generator = torch.Generator().manual_seed(1)
    values, unit_dim = {
        "transposed": (torch.randn(7, 64, generator=generator).t(), -1),
        "channels last": (torch.randn(8, 7, 3, 5, generator=generator).to(memory_format=torch.channels_last), 1),
        "strided": (torch.randn(64, 14, generator=generator)[:, ::2], -1),
        "expanded": (torch.randn(7, generator=generator).expand(64, 7), -1),
    }[layout]
    part_of_a_graph = values.detach().requires_grad_() * 1.0
    for view in (values, part_of_a_graph):
        statistic = of(view, INTERVALS["both ends"], unit_dim)
        assert statistic.counts.tolist() == twin(values, INTERVALS["both ends"], unit_dim)[0]
        assert not statistic.counts.requires_grad


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize(("value", "count"), [(-2.0, 1), (2.0, 0), (math.nan, 0)])
def test_a_single_number_is_a_unit(value: float, count: int) -> None:
    """A tensor without axes is one sample of one unit."""
    statistic = SaturatedUnits(1)
    statistic.update(torch.tensor(value), INTERVALS["one end"], -1)
    assert (statistic.samples, statistic.counts.tolist()) == (1, [count])


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("shape", [(12, 8), (12, 4), (6, 4)])
def test_another_number_of_units_is_refused(shape: tuple[int, int]) -> None:
    """Units that were not there are an error, and the counts stay as they are."""
    statistic = of(torch.full((12, 6), -1.0), INTERVALS["one end"])
    before = state(statistic)
    with pytest.raises(ValueError, match=f"of 6 units was given {shape[1]}"):
        statistic.update(torch.full(shape, -1.0), INTERVALS["one end"], -1)
    assert state(statistic) == before


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("split", [(0, 0), (0, 100), (3, 399), (400, 400)])
def test_any_split_merges_to_the_whole(split: tuple[int, int]) -> None:
    """Merging is associative, and whatever the split it gives the statistic of the whole stream."""
    values, intervals = stream((400, 6), -1), INTERVALS["both ends"]
    parts = values[: split[0]], values[split[0] : split[1]], values[split[1] :]
    left, right = ([of(part, intervals) for part in parts] for _ in range(2))
    left[0].merge(left[1])
    left[0].merge(left[2])
    right[1].merge(right[2])
    right[0].merge(right[1])
    assert state(left[0]) == state(right[0]) == state(of(values, intervals))


def test_merging_with_empty_changes_nothing() -> None:
    """An empty statistic is the neutral element, on either side; it has no saturated units."""
    values, intervals = stream((400, 6), -1), INTERVALS["both ends"]
    full, empty = of(values, intervals), SaturatedUnits(6)
    assert empty.compute() == 0
    full.merge(SaturatedUnits(6))
    empty.merge(full)
    assert state(full) == state(empty) == state(of(values, intervals))


@pytest.mark.usefixtures("loops")
def test_the_state_round_trips_in_the_middle_of_a_stream() -> None:
    """A stream interrupted by state_dict gives the numbers of the whole one, and the state is a copy."""
    values, intervals = stream((400, 6), -1), INTERVALS["both ends"]
    first = of(values[:150], intervals)
    saved = first.state_dict()
    first.update(values[150:], intervals, -1)
    resumed = SaturatedUnits.from_state_dict(saved)
    assert resumed.samples == 150
    resumed.update(values[150:], intervals, -1)
    assert state(resumed) == state(first) == state(of(values, intervals))


def test_counts_go_beyond_24_bits() -> None:
    """Samples are whole numbers where a float32 would have stopped counting."""
    statistic = of(torch.full((1, 2), -1.0), INTERVALS["one end"])
    for _ in range(30):
        statistic.merge(statistic)
    statistic.update(torch.full((1, 2), 1.0), INTERVALS["one end"], -1)
    assert (statistic.samples, statistic.counts.tolist()) == (2**30 + 1, [2**30, 2**30])


def test_updating_never_synchronises_with_the_host() -> None:
    """`update` runs on the meta device, where reading any value is an error."""
    statistic = SaturatedUnits(3, "meta")
    statistic.update(torch.zeros(5, 3, device="meta"), INTERVALS["both ends"], -1)
    assert statistic.counts.shape == (3,)


@pytest.mark.parametrize("after", [4, 1], ids=["units before another axis", "units last"])
def test_the_loop_as_plain_python(after: int) -> None:
    """Compiled or not, `count_inside_units` counts the same, on top of what is there, and NaN lies in no interval."""
    loops = kernels.compiled()
    if loops is None:
        pytest.skip("numba is not installed")
    x = np.random.default_rng(0).normal(size=(5, 3, after)).astype(np.float32)
    x[0, 1, -1], x[1, 2, 0], x[2, 0, 0], x[3, 0, 0] = math.nan, math.inf, -math.inf, 0.5
    for low, high in ((-math.inf, 0.5), (0.5, math.inf), (-0.25, 0.25), (-math.inf, math.inf)):
        plain, compiled = np.full(3, 100), np.full(3, 100)
        kernels.count_inside_units(x, low, high, plain)
        loops.count_inside_units(x, low, high, compiled)
        assert plain.tolist() == compiled.tolist() == (100 + ((x >= low) & (x <= high)).sum((0, 2))).tolist()
