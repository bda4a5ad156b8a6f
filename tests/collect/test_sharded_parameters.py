"""Parameters of which each of two processes holds a part: rows are those of the whole gradients.

Every row is compared with twins that know nothing of ours: the whole gradient brought together by torch before each
step, and, where the arithmetic is the same, one process that trains on the whole batch.
"""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from sharded_models import Net
from sharding import CHOSEN, LAYERS, SAME_AS_ONE, SAME_AS_TORCH, Twin, sgd, steps, work
from torch import multiprocessing

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes has measured in every scenario."""
    folder = tmp_path_factory.mktemp("shards")
    multiprocessing.spawn(work, (str(folder),), nprocs=2)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def check(rows: dict[str, Any], twin: Twin, layers: list[str]) -> None:
    """The definition: mean over the finite steps of mean(|g|) of the whole gradient, and the largest |g| there."""
    assert list(rows) == layers
    for name, row in rows.items():
        finite = [(mean, peak) for mean, peak in twin[name] if math.isfinite(mean)]
        assert row["mean_abs"] == pytest.approx(sum(mean for mean, _ in finite) / len(finite), rel=1e-5)
        assert row["max_abs"] == pytest.approx(max(peak for _, peak in finite), rel=1e-5)
        assert (row["steps"], row["nonfinite"]) == (len(twin[name]), len(twin[name]) - len(finite))


@pytest.mark.parametrize("name", SAME_AS_ONE)
def test_the_whole_gradient_is_what_one_process_measures(together: Any, name: str) -> None:
    """However the weights are shared, both processes have the numbers of one that trains on the whole batch."""
    model = Net(8 if name == "tensor parallel" else 9)
    twin = steps(model, None, sgd(model))
    for result in together:
        check(result[name]["rows"], twin, LAYERS)
        assert result[name]["unseen"] == {}


@pytest.mark.parametrize("name", [*SAME_AS_TORCH, *CHOSEN])
def test_the_whole_gradient_is_what_torch_brings_together(together: Any, name: str) -> None:
    """Mixed precision, accumulation, clipping, evaluations, resumed windows, ties and choices are looked through."""
    for result in together:
        check(result[name]["rows"], result[name]["twin"], CHOSEN[name][1] if name in CHOSEN else LAYERS)
        assert result[name]["unseen"] == {}
    assert together[0][name]["rows"] == together[1][name]["rows"]


@pytest.mark.parametrize("name", ["fsdp1 broken", "fsdp2 broken"])
def test_a_step_broken_in_one_part_is_broken(together: Any, name: str) -> None:
    """A NaN in one process's part makes the step one of the non-finite ones, and what the other held is left out."""
    for result in together:
        row = result[name]["rows"]["block.0"]
        assert (row["nonfinite"], row["first_nonfinite_iteration"], row["steps"]) == (3, 2, 4)
        assert row["max_abs"] < 1e3
        assert result[name]["rows"]["block.2"]["nonfinite"] == 2


def test_a_flat_parameter_is_named(together: Any) -> None:
    """A parameter that stands for many is no layer: the coverage says what to do."""
    for result in together:
        assert result["fsdp1 flat"]["rows"] == {}
        (name, reason), *others = result["fsdp1 flat"]["unseen"].items()
        assert (name, others) == ("_flat_param", [])
        assert "use_orig_params=True" in reason


def test_layers_whose_shape_is_out_of_reach_are_named(together: Any) -> None:
    """Inside FSDP the weights are flat and nothing says what they were: the coverage says what to watch."""
    for result in together:
        assert result["fsdp1 from below"]["rows"] == {}
        assert set(LAYERS) <= set(result["fsdp1 from below"]["unseen"])
        assert "watch the model that FSDP returned" in result["fsdp1 from below"]["unseen"]["block.0"]


@pytest.mark.parametrize("name", ["fsdp1 alone", "fsdp1 unreachable", "fsdp2 alone"])
def test_what_one_process_knows_is_called_that(together: Any, name: str) -> None:
    """Without the others the rows are those of this process's parts, and the coverage says so."""
    for result in together:
        rows, unseen = result[name]["rows"], result[name]["unseen"]
        assert unseen["other shards"].endswith("sharded layers are those of this process's shards")
        assert all("no part of it" in unseen[layer] for layer in LAYERS if layer not in rows)
        assert set(rows) | set(unseen) >= set(LAYERS)
    assert together[0][name]["rows"] != together[1][name]["rows"]


def test_sums_that_are_not_final_are_named(together: Any) -> None:
    """A gradient that the optimizer's step still has to add up is listed; the other layers are measured."""
    for result in together:
        assert list(result["partial"]["rows"]) == ["out"]
        assert "partial sum" in result["partial"]["unseen"]["norm"]


@pytest.mark.parametrize("name", ["fsdp1 frozen", "fsdp2 frozen"])
def test_frozen_layers_are_listed_by_every_process(together: Any, name: str) -> None:
    """A frozen layer is frozen also where a process holds nothing of it."""
    for result in together:
        check(result[name]["rows"], result[name]["twin"], LAYERS[1:])
        assert result[name]["unseen"] == {"first": "it is frozen (requires_grad is False)"}
