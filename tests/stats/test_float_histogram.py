from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ignite_act.stats import FloatHistogram, kernels
from ignite_act.stats import histogram as module

pytestmark = pytest.mark.usefixtures("loops")

STREAMS = {
    "normal": torch.randn(5000, generator=torch.Generator().manual_seed(0)),
    "shifted": 1e4 + torch.randn(5000, generator=torch.Generator().manual_seed(1)),
    "log-normal": torch.randn(5000, generator=torch.Generator().manual_seed(2)).mul(3).exp(),
    "huge and tiny": torch.tensor([-3e38, -1e-40, -0.0, 0.0, 1e-45, 1e-38, 1.0, 3.4e38]),
    "constant": torch.full((100,), 2.5),
}


def histogram(values: Tensor) -> FloatHistogram:
    result = FloatHistogram(values.dtype)
    result.update(values)
    return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", STREAMS)
def test_counts_are_those_of_numpy(name: str, dtype: torch.dtype) -> None:
    """Between the edges lie as many values as numpy counts there, and every finite value is counted."""
    values = STREAMS[name].to(dtype)
    edges, counts = histogram(values).compute()
    assert len(edges) == len(counts) + 1
    assert edges == sorted(set(edges))
    assert sum(counts) == len(values)
    # A bin of negative values is closed above: mirrored, it is one of numpy's, which are closed below.
    positive = np.sort(values[values > 0].double().numpy())
    negative = np.sort(-values[values < 0].double().numpy())
    for (low, high), count in zip(itertools.pairwise(edges), counts, strict=True):
        if low > 0:
            assert count == np.searchsorted(positive, high, "left") - np.searchsorted(positive, low, "left")
        elif high < 0:
            assert count == np.searchsorted(negative, -low, "left") - np.searchsorted(negative, -high, "left")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 7, 63, 64, 65, 128, 1000, 4999])
def test_a_gpu_counts_what_the_cpu_counts(dtype: torch.dtype, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every count is that of the plain loop, whatever is left of the last row and the last piece; most are zeros."""
    special = torch.tensor([math.nan, -math.nan, math.inf, -math.inf, -0.0, 1e-45, 3e38, -3e38], dtype=dtype)
    values = torch.cat([STREAMS["normal"].relu().to(dtype), special])[-size:]
    bits = values.view(torch.int32 if dtype == torch.float32 else torch.int64)
    expected = torch.zeros(len(FloatHistogram(dtype).counts), dtype=torch.int64)
    for code in (bits >> FloatHistogram(dtype).drop).tolist():
        expected[code + len(expected) // 2] += 1
    monkeypatch.setattr(kernels, "on_host", lambda tensor: False)
    for piece in (100, 64, 1 << 24):
        monkeypatch.setattr(module, "PIECE", piece)
        found = FloatHistogram(dtype)
        for _ in range(2):
            found.update(values)
        assert torch.equal(found.counts, 2 * expected)


@pytest.mark.parametrize(("dtype", "copies"), [(torch.float32, 64), (torch.float64, 8)])
def test_a_gpu_counts_equal_neighbours_apart(dtype: torch.dtype, copies: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It adds to one address at a time: of so many neighbours no two are counted at the same one."""
    monkeypatch.setattr(kernels, "on_host", lambda tensor: False)
    places = []

    class Places(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
            if func is torch.ops.aten.scatter_add_.default:
                places.append(args[2].clone())
            return func(*args, **(kwargs or {}))

    with Places():
        FloatHistogram(dtype).update(torch.zeros(1000, dtype=dtype))
    neighbours = [part for place in places for part in place.split(copies)]
    assert sum(map(len, neighbours)) == 1000
    assert all(len(part.unique()) == len(part) for part in neighbours)


@pytest.mark.parametrize("name", ["normal", "shifted", "log-normal"])
@pytest.mark.parametrize("q", [0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99])
def test_quantiles_are_right_within_five_percent(name: str, q: float) -> None:
    """A quantile read off the cumulated counts is within 5 % of the true one."""
    values = STREAMS[name]
    edges, counts = histogram(values).compute()
    read = np.interp(q, np.concatenate([[0], np.cumsum(counts) / sum(counts)]), edges)
    true = np.quantile(values.numpy(), q)
    assert read == pytest.approx(true, rel=0.05, abs=1e-3 if name == "normal" else None)


def test_known_values_fall_into_known_bins() -> None:
    """Bins are 1/32 of an octave wide, and a bin of positive values holds its lower edge."""
    edges, counts = histogram(torch.tensor([1.0, 1.0, 1.03125, 2.0])).compute()
    assert counts[0] == 2
    assert edges[:3] == [1.0, 1.03125, 1.0625]
    assert sum(counts) == 4
    assert edges[-2] == 2.0


def test_given_extremes_are_the_outer_edges() -> None:
    """The outer edges are the true minimum and maximum where they are known."""
    edges, counts = histogram(torch.tensor([-1.7, 0.0, 2.3])).compute(-1.7, 2.3)
    assert (edges[0], edges[-1]) == (-1.7, 2.3)
    assert sum(counts) == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nonfinite_values_are_counted_apart(dtype: torch.dtype) -> None:
    """NaN of either sign and both infinities are in `nonfinite` and in no bin."""
    nan = torch.tensor(float("nan"), dtype=dtype)
    values = torch.stack([nan, -nan, nan * 0, nan + torch.inf, torch.tensor(1.0, dtype=dtype)])
    values = torch.cat([values, torch.tensor([torch.inf, -torch.inf], dtype=dtype)])
    result = histogram(values)
    assert int(result.nonfinite) == 6
    assert sum(result.compute()[1]) == 1


def test_an_empty_histogram_has_no_bins() -> None:
    """Without finite values there are no edges."""
    assert FloatHistogram().compute() == ([], [])
    assert histogram(torch.tensor([torch.nan])).compute() == ([], [])


@pytest.mark.parametrize("name", STREAMS)
def test_any_split_merges_to_the_whole(name: str) -> None:
    """Merging is exact, associative, and an empty histogram changes nothing."""
    values = STREAMS[name]
    whole = histogram(values)
    a, b, c = (histogram(part) for part in (values[:3], values[3:5], values[5:]))
    b.merge(c)
    a.merge(b)
    a.merge(FloatHistogram())
    empty = FloatHistogram()
    empty.merge(a)
    assert torch.equal(a.counts, whole.counts)
    assert torch.equal(empty.counts, whole.counts)


def test_counters_go_beyond_24_bits() -> None:
    """Counts are whole numbers where a float32 would have stopped counting."""
    result = histogram(torch.tensor([1.0, 1.0, 1.0, -2.0]))
    for _ in range(30):
        result.merge(result)
    result.update(torch.tensor([1.0]))
    counts = result.compute()[1]
    assert (counts[0], counts[-1]) == (2**30, 3 * 2**30 + 1)


def test_types_do_not_mix() -> None:
    """Histograms of different floating-point types have different bins and refuse to merge."""
    with pytest.raises(ValueError, match=r"cannot merge a histogram of torch.float64 into one of torch.float32"):
        FloatHistogram().merge(FloatHistogram(torch.float64))


def test_the_state_round_trips() -> None:
    """A loaded state gives the same numbers, and is a copy."""
    source = histogram(STREAMS["normal"])
    target = FloatHistogram()
    target.load_state_dict(source.state_dict())
    expected = source.compute()
    source.update(torch.ones(3))
    assert target.compute() == expected


@pytest.mark.parametrize(
    ("values", "edges", "counts"),
    [
        ([-1.0, -1.0, -0.96875, 1.0], [-1.03125, -1.0, -0.984375, -0.96875], [2, 0, 1]),  # Hardtanh
        ([-3.0, -2.5], [-3.0625, -3.0], [1]),
        ([-1.0, 0.0, 0.0], [-1.03125, -1.0], [1]),  # ELU
    ],
)
def test_known_extremes_make_no_bin_without_width(values: list[float], edges: list[float], counts: list[int]) -> None:
    """An extreme on the far edge of its bin leaves the bin its width, and zero has no sign."""
    found, tallies = histogram(torch.tensor(values)).compute(min(values), max(values))
    assert (found[: len(edges)], tallies[: len(counts)]) == (edges, counts)
    assert all(low < high for low, high in itertools.pairwise(found))
    assert all(math.copysign(1.0, edge) > 0 for edge in found if edge == 0)
