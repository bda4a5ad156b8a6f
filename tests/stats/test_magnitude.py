from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ignite_act.stats import ABSENT, Magnitude, change, kernels, largest, magnitude

pytestmark = pytest.mark.usefixtures("loops")

G = torch.Generator().manual_seed(0)
TENSORS = {
    "float32": torch.randn(7, 5, generator=G),
    "float64": torch.randn(7, 5, generator=G).double(),
    "bfloat16": torch.randn(40, 50, generator=G).bfloat16(),
    "float16": (torch.randn(40, 50, generator=G) * 1e4).half(),
    "float8": torch.randn(40, 50, generator=G).to(torch.float8_e5m2),
    "complex64": torch.randn(3, 4, generator=G, dtype=torch.complex64),
    "complex128": torch.randn(30, 40, generator=G, dtype=torch.complex128),
    "transposed": torch.randn(7, 5, generator=G).t(),
    "scalar": torch.tensor(-2.5),
    "denormal": torch.full((3, 3), 1e-42),
    "huge": torch.full((40, 50), -1e36),
    "huge strided": torch.full((40, 100), 1e36)[:, ::2],
}
STEPS = [
    ([1.0, 3.0], [2.0, 4.0]),
    ([math.nan, 5.0], [math.nan, 9.0]),
    ([2.0, ABSENT], [8.0, ABSENT]),
    ([math.inf, 1.0], [math.inf, 1.5]),
    ([3.0, 0.0], [3.0, 0.0]),
]


def measure(tensors: list[Tensor | None], device: str = "cpu", piece: int = 1000) -> tuple[Tensor, Tensor]:
    sizes = torch.tensor([1 if x is None else max(x.numel(), 1) for x in tensors], device=device)
    return magnitude(tensors, sizes, torch.empty(piece, device=device))


def of(steps: list[int]) -> Magnitude:
    statistic = Magnitude(2)
    for number in steps:
        means, maxima = STEPS[number]
        statistic.update(torch.tensor(means), torch.tensor(maxima), iteration=number + 1)
    return statistic


def numbers(statistic: Magnitude) -> list[dict[str, object]]:
    return [
        {k: "nan" if isinstance(v, float) and math.isnan(v) else v for k, v in r.items()} for r in statistic.compute()
    ]


@pytest.mark.parametrize("piece", [1, 8, 35, 1000])
@pytest.mark.parametrize("name", TENSORS)
def test_magnitude_equals_its_twin(name: str, piece: int) -> None:
    """The numbers are x.abs().double().mean() and x.abs().max(), whatever the type and the size of the pieces."""
    x = TENSORS[name]
    means, maxima = measure([x], piece=piece)
    wide = x.to(torch.complex128 if x.is_complex() else torch.float64).abs()
    rel = 1e-12 if x.dtype in {torch.float64, torch.complex128} else 1e-6
    assert means.tolist() == pytest.approx([wide.mean().item()], rel=rel)
    assert maxima.tolist() == pytest.approx([wide.max().item()], rel=rel)


@pytest.mark.parametrize("layout", ["sparse_coo", "sparse_csr", "duplicates", "empty"])
def test_what_a_sparse_tensor_does_not_store_is_zero(layout: str) -> None:
    """A sparse gradient counts like its dense form, repeated indices summed."""
    dense = torch.tensor([[0.0, -2.0], [0.0, 0.0], [4.0, 0.0]])
    if layout == "sparse_coo":
        sparse: Tensor = dense.to_sparse()
    elif layout == "sparse_csr":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls it beta, once a process
            sparse = dense.to_sparse_csr()
    elif layout == "duplicates":
        sparse = torch.sparse_coo_tensor([[0, 0, 2], [1, 1, 0]], [1.0, -3.0, 4.0], (3, 2), check_invariants=False)
    else:
        sparse, dense = torch.sparse_coo_tensor(size=(3, 2), check_invariants=False), torch.zeros(3, 2)
    means, maxima = measure([sparse])
    assert (means.item(), maxima.item()) == (dense.abs().mean().item(), dense.abs().max().item())


def test_missing_and_empty_tensors_are_absent() -> None:
    """None and tensors without elements take no part."""
    means, maxima = measure([None, torch.empty(0, 3), torch.tensor([2.0, -4.0])])
    assert (means < 0).tolist() == [True, True, False]
    assert (means[2].item(), maxima[2].item()) == (3.0, 4.0)
    statistic = Magnitude(3)
    statistic.update(means, maxima, iteration=1)
    assert [row["steps"] for row in statistic.compute()] == [0, 0, 1]


def test_every_step_weighs_the_same() -> None:
    """The mean is over steps; non-finite steps are counted, located and left out; absent ones do not exist."""
    assert numbers(of([0, 1, 2, 3, 4])) == [
        {"mean_abs": 2.0, "max_abs": 8.0, "nonfinite": 2, "steps": 5, "first_nonfinite_iteration": 2},
        {"mean_abs": 9 / 4, "max_abs": 9.0, "nonfinite": 0, "steps": 4, "first_nonfinite_iteration": None},
    ]


def test_without_finite_steps_there_is_no_mean() -> None:
    """Mean and maximum are NaN, never 0, where no step was finite."""
    row = Magnitude(1).compute()[0]
    assert math.isnan(row["mean_abs"])
    assert math.isnan(row["max_abs"])
    assert (row["steps"], row["nonfinite"], row["first_nonfinite_iteration"]) == (0, 0, None)
    assert numbers(of([1]))[0] == {
        "mean_abs": "nan", "max_abs": "nan", "nonfinite": 1, "steps": 1, "first_nonfinite_iteration": 2
    }  # fmt: skip


@pytest.mark.parametrize("split", [(0, 0), (0, 3), (1, 2), (2, 5), (5, 5)])
def test_any_split_merges_to_the_whole(split: tuple[int, int]) -> None:
    """Merging is associative, and whatever the split it gives the statistic of the whole stream."""
    everything = list(range(len(STEPS)))
    parts = [everything[: split[0]], everything[split[0] : split[1]], everything[split[1] :]]
    left, right = [of(part) for part in parts], [of(part) for part in parts]
    left[0].merge(left[1])
    left[0].merge(left[2])
    right[1].merge(right[2])
    right[0].merge(right[1])
    assert numbers(left[0]) == numbers(right[0]) == numbers(of(everything))


def test_merging_with_empty_changes_nothing() -> None:
    """An empty statistic is the neutral element, on either side."""
    full, empty = of([0, 1, 2]), Magnitude(2)
    full.merge(Magnitude(2))
    empty.merge(full)
    assert numbers(full) == numbers(empty) == numbers(of([0, 1, 2]))


def test_counters_go_beyond_24_bits() -> None:
    """Steps are whole numbers where a float32 would have stopped counting, and the mean stays exact."""
    statistic = of([0])
    for _ in range(30):
        statistic.merge(statistic)
    statistic.update(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 4.0]), iteration=7)
    row = statistic.compute()[0]
    assert (row["steps"], row["mean_abs"]) == (2**30 + 1, 1.0)


def test_the_state_round_trips_in_the_middle_of_a_stream() -> None:
    """A stream interrupted by state_dict and load_state_dict gives the numbers of the uninterrupted one."""
    resumed = Magnitude(2)
    resumed.load_state_dict(of([0, 1]).state_dict())
    for number in (2, 3):
        means, maxima = STEPS[number]
        resumed.update(torch.tensor(means), torch.tensor(maxima), iteration=number + 1)
    assert numbers(resumed) == numbers(of([0, 1, 2, 3]))
    with pytest.raises(KeyError):
        Magnitude(2).load_state_dict({"total": torch.zeros(2)})


def test_updating_never_synchronises_with_the_host() -> None:
    """`magnitude` and `update` run on the meta device, where reading any value is an error."""
    gradients = [torch.randn(3, 4, device="meta"), None, torch.randn(2, device="meta")]
    statistic = Magnitude(3, "meta")
    for step in range(100):
        statistic.update(*measure(gradients, "meta"), iteration=step)
    assert statistic.total.shape == (3,)


def test_the_sign_and_nan_of_a_gradient_count() -> None:
    """The largest absolute value may be negative, and a single NaN shows in both numbers."""
    means, maxima = measure([torch.tensor([1.0, -4.0]), torch.tensor([1.0, math.nan]), torch.tensor([-1.0, -3.0])])
    assert means.tolist()[::2] == [2.5, 2.0]
    assert maxima.tolist()[::2] == [4.0, 3.0]
    assert means[1].isnan()
    assert maxima[1].isnan()


def test_loading_replaces_what_was_there() -> None:
    """A loaded state is the whole state: steps that were taken before do not come back."""
    statistic = of([0])
    statistic.load_state_dict(of([4]).state_dict())
    assert numbers(statistic) == numbers(of([4]))


def test_many_steps_are_one_mean() -> None:
    """A hundred steps give the mean, the maximum and the first non-finite iteration of all of them."""
    means = torch.rand(100, 2, generator=G)
    means[70, 0] = math.nan
    statistic = Magnitude(2)
    for step, row in enumerate(means):
        statistic.update(row, 2 * row, iteration=step + 1)
    first, second = statistic.compute()
    assert first["mean_abs"] == pytest.approx(means[:, 0].double().nanmean().item(), rel=1e-6)
    assert second["mean_abs"] == pytest.approx(means[:, 1].double().mean().item(), rel=1e-6)
    assert second["max_abs"] == 2 * means[:, 1].max().item()
    assert (first["nonfinite"], first["first_nonfinite_iteration"], first["steps"]) == (1, 71, 100)


def test_a_mean_is_finite_wherever_every_value_is() -> None:
    """A sum beyond the range of float32 is no non-finite step: the mean of such values is what they are."""
    means, maxima = measure([torch.full((100, 100), 1e35)])
    statistic = Magnitude(1)
    statistic.update(means, maxima, iteration=1)
    row = statistic.compute()[0]
    assert (row["mean_abs"], row["max_abs"]) == pytest.approx((1e35, 1e35), rel=1e-6)
    assert (row["nonfinite"], row["first_nonfinite_iteration"]) == (0, None)


def test_rows_can_be_rearranged() -> None:
    """Every number goes with its row, a new row is empty, and the stream goes on in the new order."""
    first, second = numbers(of([0, 1, 2]))
    statistic = of([0, 1, 2]).rearranged([1, None, 0])
    assert numbers(statistic) == [second, numbers(Magnitude(1))[0], first]
    for number in (3, 4):
        (a, b), (c, d) = STEPS[number]
        statistic.update(torch.tensor([b, ABSENT, a]), torch.tensor([d, ABSENT, c]), iteration=number + 1)
    assert numbers(statistic)[::2] == numbers(of([0, 1, 2, 3, 4]))[::-1]


def test_steps_that_were_just_read_are_rearranged_too() -> None:
    """What has been read and is not summed yet goes with its row, too."""
    statistic = Magnitude(2)
    gradients = {0: torch.tensor([1.0, -3.0]), 1: torch.tensor([math.nan])}
    if not statistic.read(gradients, 4):
        statistic.update(*measure(list(gradients.values())), iteration=4)
    expected = numbers(statistic.rearranged([1, 0]))
    assert expected == numbers(statistic)[::-1]
    assert (expected[1]["mean_abs"], expected[0]["first_nonfinite_iteration"]) == (2.0, 4)


def test_tensors_of_many_types_are_read_together() -> None:
    """Each has its own numbers, in its own row, whatever the types of the others; NaN and infinity do not spread."""
    tensors: list[Tensor | None] = [*TENSORS.values(), None, torch.empty(0), *reversed(TENSORS.values())]
    for bad in (math.nan, math.inf, -math.inf):
        tensors += [torch.tensor([1.0, bad, 2.0], dtype=kind) for kind in (torch.float32, torch.float16, torch.float64)]
    means, maxima = measure(tensors)
    for row, tensor in enumerate(tensors):
        if tensor is None or not tensor.numel():
            assert means[row] == maxima[row] == ABSENT
            continue
        wide = tensor.to(torch.complex128 if tensor.is_complex() else torch.float64).abs()
        assert means[row].item() == pytest.approx(wide.mean().item(), rel=1e-6, nan_ok=True)
        assert maxima[row].item() == pytest.approx(wide.max().item(), rel=1e-6, nan_ok=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_on_a_gpu_many_tensors_cost_what_two_do(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch reads several tensors in one operation, under a private name: this fails when that changes."""
    monkeypatch.setattr(kernels, "on_host", lambda tensor: False)

    class Operations(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
            counted.extend([func] if all(result.alias_info is None for result in func._schema.returns) else [])
            return func(*args, **(kwargs or {}))

    costs = []
    for number in (2, 30):
        counted: list[Any] = []  # without views
        tensors: list[Tensor | None] = [torch.randn(3, 4).to(dtype) for _ in range(number)]
        with Operations():
            measure(tensors)
        costs.append(len(counted))
    assert costs[0] == costs[1] < 10


def test_numbers_of_eight_bits_are_widened() -> None:
    """Largest value and change of float8 tensors are those of the same numbers as float32."""
    before, after = (torch.randn(4, 5, generator=G).to(torch.float8_e4m3fn) for _ in range(2))
    assert torch.equal(largest(before), before.float().abs().amax())
    expected = change(before.float(), after.float(), before.float())
    assert torch.stack(change(before, after, before)).tolist() == pytest.approx(torch.stack(expected).tolist())
