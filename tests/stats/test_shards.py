"""Parts of tensors in several processes: what they add up to is what one process sees of the whole tensors."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from ignite_act.stats import ABSENT, Magnitude, ShardedMagnitude, magnitude
from ignite_act.stats.shards import KEPT

SPLITS = {"even": (6, 6, 6), "uneven": (7, 10, 1), "with an empty part": (11, 0, 7), "all in one": (0, 18, 0)}


def steps_of(number: int, seed: int = 0) -> Tensor:
    return torch.randn(number, 18, generator=torch.Generator().manual_seed(seed)).double()


def part_of(steps: Sequence[Tensor], first: int = 1) -> ShardedMagnitude:
    """The statistic of a process that sees these parts of the tensors, one row."""
    statistic = ShardedMagnitude(1)
    statistic.sizes[:] = steps[0].numel() if steps else 0
    for number, values in enumerate(steps, first):
        sizes = torch.tensor([max(values.numel(), 1)])
        statistic.update(*magnitude([values], sizes, torch.empty(8)), iteration=number, step=number)
    return statistic


def united(parts: Sequence[Magnitude]) -> dict[str, object]:
    whole = ShardedMagnitude(1)
    whole.unite(parts)
    return whole.compute()[0]


def twin(steps: Sequence[Tensor]) -> dict[str, object]:
    """The definition: mean over the finite steps of mean(|x|) of the whole tensor."""
    sizes = [values.abs() for values in steps]
    finite = [values for values in sizes if values.isfinite().all()]
    broken = [number for number, values in enumerate(sizes, 1) if not values.isfinite().all()]
    mean = sum(values.mean().item() for values in finite) / max(len(finite), 1)
    return {
        "mean_abs": pytest.approx(mean, rel=1e-12) if finite else math.nan,
        "max_abs": max(v.max().item() for v in finite) if finite else math.nan,
        "nonfinite": len(broken),
        "steps": len(steps),
        "first_nonfinite_iteration": broken[0] if broken else None,
    }


def check(row: dict[str, object], steps: Sequence[Tensor]) -> None:
    for name, expected in twin(steps).items():
        value = row[name]
        assert value == expected or (math.isnan(value) and math.isnan(expected)), (name, value, expected)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("number", [1, 5, 31, 32, 33, 100, 200])
def test_parts_add_up_to_the_whole(split: str, number: int) -> None:
    """The mean of the parts, weighted by their sizes, is the mean of the whole tensor; maximum and steps are, too."""
    steps = steps_of(number)
    check(united([part_of(own) for own in zip(*(x.split(SPLITS[split]) for x in steps), strict=True)]), steps)


@pytest.mark.parametrize(
    ("broken", "huge"),
    [
        ({3: [0]}, {3: [17]}),
        ({3: [0], 7: [17], 9: [0, 17]}, {3: [17], 7: [0]}),
        ({number: range(18) for number in range(20, 60)} | {19: [17]}, {19: [0]}),
        ({number: [5] for number in range(40, 60)}, {}),
        ({number: [17] for number in range(60)}, {}),
    ],
)
@pytest.mark.parametrize("split", SPLITS)
def test_a_step_that_is_not_finite_in_one_part_counts_in_none(
    split: str, broken: dict[int, Sequence[int]], huge: dict[int, Sequence[int]]
) -> None:
    """What another part held in a step with a NaN, often a huge number, is in neither the mean nor the maximum."""
    steps = steps_of(60)
    for number, values in enumerate(steps):
        values[list(huge.get(number, ()))] = 1e30
        values[list(broken.get(number, ()))] = math.nan
    check(united([part_of(own) for own in zip(*(x.split(SPLITS[split]) for x in steps), strict=True)]), steps)


def test_a_nan_for_ever_after_is_aligned_however_long_the_window() -> None:
    """A NaN that begins in one part and is everywhere from the next step on is located exactly in a long window."""
    steps = steps_of(500)
    steps[100, 0], steps[100, 17] = math.inf, 1e30
    steps[101:] = math.nan
    check(united([part_of(own) for own in zip(*(x.split((9, 9)) for x in steps), strict=True)]), steps)


def test_a_gradient_that_one_part_did_not_have_is_no_broken_step() -> None:
    """A step in which a process had no gradient is not counted as non-finite by the others."""
    first, second = steps_of(6), steps_of(6, seed=1)
    short = part_of(list(second))
    lone = ShardedMagnitude(1)
    lone.sizes[:] = 18
    for number, values in enumerate(first, 1):
        mean, peak = (values.abs().mean(), values.abs().max()) if number != 4 else (torch.tensor(ABSENT),) * 2
        lone.update(mean.reshape(1), peak.reshape(1), number, number)
    row = united([lone, short])
    assert (row["nonfinite"], row["steps"]) == (0, 6)
    own = torch.cat([first[:3], first[4:]]).abs().mean()
    assert row["mean_abs"] == pytest.approx((own + second.abs().mean()).item() / 2)


@pytest.mark.parametrize("split", [0, 1, 40, 70, 99, 130])
def test_any_split_of_the_steps_gives_the_same(split: int) -> None:
    """A window that was interrupted and merged is the whole window, and still is aligned with the other parts."""
    steps = steps_of(130)
    steps[129, 0], steps[129, 17], steps[90, 0], steps[90, 17] = math.nan, 1e20, math.inf, 1e20
    left, right = ([own[:9] for own in steps], [own[9:] for own in steps])
    halves = []
    for side in (left, right):
        begin, end = part_of(side[:split]), part_of(side[split:], split + 1)
        resumed = ShardedMagnitude(1)
        resumed.load_state_dict(begin.state_dict())
        resumed.merge(end)
        halves.append(resumed)
    check(united(halves), list(steps))


def test_alone_it_is_a_magnitude() -> None:
    """By itself it gives the numbers of `Magnitude`, merged with empty ones and rearranged as well."""
    steps = steps_of(90)
    steps[4, 3] = math.nan
    plain, own = Magnitude(1), part_of(list(steps))
    for number, values in enumerate(steps, 1):
        plain.update(*magnitude([values], torch.tensor([18]), torch.empty(8)), iteration=number)
    own.merge(ShardedMagnitude(1))
    own.merge(Magnitude(1))
    other = ShardedMagnitude(1)
    other.merge(own)
    for statistic in (own, other, copy.deepcopy(own).rearranged([None, 0]).rearranged([1])):
        row, expected = statistic.compute()[0], plain.compute()[0]
        assert row["mean_abs"] == pytest.approx(expected["mean_abs"], rel=1e-12)
        assert {**row, "mean_abs": 0} == {**expected, "mean_abs": 0}
    check(united([own]), list(steps))


def test_a_process_without_steps_holds_nothing_up() -> None:
    """A part that saw no step changes nothing; whole tensors cannot be put together with parts."""
    steps = steps_of(3)
    check(united([ShardedMagnitude(1), part_of(list(steps)), Magnitude(1)]), list(steps))
    whole = Magnitude(1)
    whole.update(torch.ones(1), torch.ones(1), 1)
    with pytest.raises(ValueError, match="whole ones"):
        united([whole, part_of(list(steps))])


def test_what_is_remembered_is_bounded() -> None:
    """A row remembers its last finite and its first non-finite steps, no more."""
    steps = steps_of(3 * KEPT)
    steps[::2] = math.nan
    own = part_of(list(steps))
    own.compute()
    assert sorted(own.recent_steps[0].tolist())[1:] == list(range(KEPT + 2, 3 * KEPT + 1, 2))
    assert own.broken_steps[0, :KEPT].tolist() == list(range(1, 2 * KEPT, 2))


def test_updating_never_synchronises_with_the_host() -> None:
    """Updates run on the meta device, where reading any value is an error."""
    statistic = ShardedMagnitude(2, "meta")
    for step in range(100):
        statistic.update(torch.ones(2, device="meta"), torch.ones(2, device="meta"), step)
    assert statistic.total.shape == (2,)
