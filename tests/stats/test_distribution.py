from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ignite_act.stats import Distribution
from ignite_act.stats import distribution as module
from ignite_act.stats.distribution import flattened

pytestmark = pytest.mark.usefixtures("loops")

G = torch.Generator().manual_seed(0)
NORMAL = torch.randn(1200, generator=G)
STREAMS = {
    "normal": NORMAL,
    "mean 1e4, std 1": 1e4 + NORMAL,
    "negative": -NORMAL.abs() - 1,
    "with zeros": NORMAL.relu(),
    "with NaN and Inf": torch.cat([torch.tensor([torch.nan] * 5), NORMAL, torch.tensor([torch.inf, -torch.inf])]),
    "only NaN": torch.full((12,), torch.nan),
    "constant": torch.full((300,), 0.1),
    "one value": torch.tensor([3.5]),
    "huge": NORMAL * 1e37,
    "tiny": NORMAL * 1e-37,
    "denormal": NORMAL * 1e-41,
    "bfloat16": NORMAL.bfloat16(),
    "float16": (NORMAL * 1e4).half(),
    "float64": (1e8 + NORMAL.double() * 1e-3),
    "huge float64": NORMAL.double() * 1e100,
}


def twin(values: Tensor) -> dict[str, Any]:
    """The definitions in plain numpy."""
    x = values.double().numpy().ravel()
    finite = x[np.isfinite(x)]
    some = len(finite) > 0
    return {
        "count": len(x),
        "mean": finite.mean() if some else math.nan,
        "std": finite.std() if some else math.nan,
        "min": finite.min() if some else math.nan,
        "max": finite.max() if some else math.nan,
        "zero_fraction": (x == 0).mean(),
        "nonfinite": len(x) - len(finite),
    }


def of(values: Tensor, batches: int = 1) -> Distribution:
    distribution = Distribution(values.dtype)
    for part in values.chunk(batches):
        distribution.update(part)
    return distribution


def assert_same(one: dict[str, Any], other: dict[str, Any], *, rel: float = 1e-9) -> None:
    for name in other:
        if name in {"count", "nonfinite", "min", "max", "counts", "edges", "zero_fraction", "saturated_fraction"}:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)
        else:
            scale = 0.0 if math.isnan(other["std"]) else other["std"]  # the mean may be 0
            assert one[name] == pytest.approx(other[name], rel=rel, abs=1e-9 * scale, nan_ok=True), name


@pytest.mark.parametrize("batches", [1, 7])
@pytest.mark.parametrize("name", STREAMS)
def test_every_number_equals_its_twin(name: str, batches: int) -> None:
    """Count, mean, population std, extremes, zeros and non-finite values are those of numpy in float64."""
    values = STREAMS[name]
    numbers = of(values, batches).compute()
    assert_same(dict(numbers), twin(values))
    assert sum(numbers["counts"]) == numbers["count"] - numbers["nonfinite"]


@pytest.mark.parametrize("name", STREAMS)
def test_the_histogram_covers_every_finite_value(name: str) -> None:
    """Nothing is clipped away: the outer edges enclose the extremes."""
    numbers = of(STREAMS[name]).compute()
    edges = numbers["edges"]
    if numbers["counts"]:
        assert len(edges) == len(numbers["counts"]) + 1
        assert edges[0] <= numbers["min"]
        assert edges[-1] >= numbers["max"]
        assert edges == sorted(set(edges))
    else:
        assert name == "only NaN"


@pytest.mark.few(50)
@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("cuts", [(0, 0), (1, 1), (1, 5), (5, 600), (600, 601)])
def test_any_split_merges_to_the_whole(name: str, cuts: tuple[int, int]) -> None:
    """Merging is associative, and whatever the split it gives the statistic of the whole stream."""
    values = STREAMS[name]
    parts = [values[: cuts[0]], values[cuts[0] : cuts[1]], values[cuts[1] :]]
    whole = dict(of(values).compute())
    left, right = [of(part) for part in parts], [of(part) for part in parts]
    left[0].merge(left[1])
    left[0].merge(left[2])
    right[1].merge(right[2])
    right[0].merge(right[1])
    assert_same(dict(left[0].compute()), whole)
    assert_same(dict(right[0].compute()), whole)


@pytest.mark.parametrize("name", STREAMS)
def test_merging_with_empty_changes_nothing(name: str) -> None:
    """An empty distribution is the neutral element, on either side."""
    values = STREAMS[name]
    whole = dict(of(values).compute())
    full, empty = of(values), Distribution(values.dtype)
    full.merge(Distribution(values.dtype))
    empty.merge(full)
    assert_same(dict(full.compute()), whole, rel=0)
    assert_same(dict(empty.compute()), whole, rel=0)


@pytest.mark.parametrize("name", STREAMS)
def test_the_state_round_trips_in_the_middle_of_a_stream(name: str) -> None:
    """A stream interrupted by state_dict and from_state_dict gives the numbers of the uninterrupted one."""
    values = STREAMS[name]
    first, second = values[: len(values) // 2], values[len(values) // 2 :]
    through = of(first)
    through.update(second)
    state = of(first).state_dict()
    assert all(isinstance(item, (Tensor, int, float, bool)) for item in state.values())
    resumed = Distribution.from_state_dict(state)
    resumed.update(second)
    assert_same(dict(resumed.compute()), dict(through.compute()), rel=0)


def test_empty_is_a_value() -> None:
    """Without values the count is 0, the rest NaN, the histogram empty; an empty update changes nothing."""
    distribution = Distribution()
    distribution.update(torch.empty(0, 3))
    numbers = distribution.compute()
    assert (numbers["count"], numbers["nonfinite"], numbers["edges"], numbers["counts"]) == (0, 0, [], [])
    assert all(math.isnan(numbers[name]) for name in ("mean", "std", "min", "max", "zero_fraction"))  # type: ignore[literal-required]


def test_known_numbers_come_out_exactly() -> None:
    """For a handful of small whole numbers every statistic is exact."""
    distribution = Distribution()
    distribution.update(torch.tensor([[0.0, 2.0], [4.0, 2.0]]))
    numbers = distribution.compute()
    assert (numbers["count"], numbers["mean"], numbers["std"]) == (4, 2.0, math.sqrt(2))
    assert (numbers["min"], numbers["max"], numbers["zero_fraction"], numbers["nonfinite"]) == (0.0, 4.0, 0.25, 0)


def test_saturated_values_are_counted_on_the_pre_activation() -> None:
    """A value is saturated if its pre-activation lies in one of the closed intervals; NaN lies in none."""
    z = torch.tensor([-torch.inf, -3.0, -2.0, 0.0, 2.0, 3.0, 4.0, torch.nan])
    distribution = Distribution()
    distribution.update(torch.tanh(z), saturated=(z, ((-math.inf, -2.0), (2.0, 3.0))))
    assert distribution.compute()["saturated_fraction"] == 5 / 8


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_counters_go_beyond_24_bits(dtype: torch.dtype) -> None:
    """2**33 values are counted one by one, where a float32 counter stops at 2**24."""
    distribution = of(torch.tensor([0.0, 1.0, 1.0, 2.0], dtype=dtype))
    for _ in range(31):
        distribution.merge(distribution)
    distribution.update(torch.tensor([0.0], dtype=dtype))
    numbers = distribution.compute()
    assert numbers["count"] == sum(numbers["counts"]) == 2**33 + 1
    assert numbers["zero_fraction"] == (2**31 + 1) / (2**33 + 1)
    assert numbers["std"] == pytest.approx(math.sqrt(0.5), rel=1e-9)


def test_a_far_mean_costs_no_precision() -> None:
    """At mean 1e4 and deviation 1 the deviation agrees with float64 numpy to nine digits over many batches."""
    generator = torch.Generator().manual_seed(3)
    batches = [1e4 + torch.randn(256, 16, generator=generator) for _ in range(20)]
    distribution = Distribution()
    for batch in batches:
        distribution.update(batch)
    assert distribution.compute()["std"] == pytest.approx(torch.cat(batches).double().numpy().std(), rel=1e-9)


@pytest.mark.parametrize("layout", ["transposed", "strided", "expanded", "scalar"])
def test_layout_does_not_matter(layout: str) -> None:
    """Views of any stride are measured like their contiguous copies."""
    views = {
        "transposed": NORMAL.view(30, 40).t(),
        "strided": NORMAL[::3],
        "expanded": NORMAL[:4, None].expand(4, 6),
        "scalar": NORMAL[0],
    }
    view = views[layout]
    assert_same(dict(of(view.reshape(-1)).compute()), twin(view.contiguous()))
    distribution = Distribution()
    distribution.update(view)
    assert_same(dict(distribution.compute()), twin(view.contiguous()))


@pytest.mark.parametrize("name", STREAMS)
def test_pieces_do_not_matter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is too large to be read at once is read piece by piece: a network's first output fills gigabytes."""
    monkeypatch.setattr(module, "PIECE", 500)
    values = STREAMS[name]
    distribution = Distribution(values.dtype)
    distribution.update(values)
    assert_same(dict(distribution.compute()), twin(values))


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 1, 4, 5), (1, 3, 1, 1), (2, 3), (7,), ()])
def test_no_copy_is_made_of_values_without_gaps(shape: tuple[int, ...]) -> None:
    """They are read as they lie in memory, be it channels last or transposed; gaps are left out."""
    plain = torch.randn(shape, generator=G)
    views = [plain, plain.mT if plain.ndim > 1 else plain]
    views += [plain.contiguous(memory_format=torch.channels_last)] if plain.ndim == 4 else []
    for view in views:
        flat = flattened(view)
        assert flat.data_ptr() == view.data_ptr()
        assert torch.equal(flat.sort().values, view.flatten().sort().values)
    gaps = NORMAL[:16].view(4, 4)[:, :3]
    assert torch.equal(flattened(gaps), gaps.flatten())
    assert flattened(gaps[:, 0]).is_contiguous()


def test_values_are_not_changed() -> None:
    """Measuring leaves the tensor as it was, and does not keep its graph."""
    values = STREAMS["with NaN and Inf"].clone().requires_grad_()
    before = values.detach().clone()
    distribution = of(values)
    assert torch.equal(values.detach().nan_to_num(7.0), before.nan_to_num(7.0))
    assert not distribution.sums.requires_grad


def test_updating_never_synchronises_with_the_host() -> None:
    """`update` runs on the meta device, where reading any value is an error."""
    values = torch.randn(4, 5, device="meta")
    distribution = Distribution(values.dtype, "meta")
    distribution.update(values, saturated=(values, ((-math.inf, 0.0), (1.0, 2.0))))
    distribution.update(values)
    assert distribution.count == 40


@pytest.mark.parametrize("values", [1e6 + NORMAL, 1e4 + 1e-3 * NORMAL.double()])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_first_batch_without_finite_values_costs_no_precision(values: Tensor, bad: float) -> None:
    """The deviation around a far mean is as exact when the first values of the stream are all NaN or infinite."""
    first = torch.full((8,), bad, dtype=values.dtype)
    distribution = of(first)
    for part in values.chunk(3):
        distribution.update(part)
    assert_same(dict(distribution.compute()), twin(torch.cat([first, values])))
