"""Canaries: each fails when a new torch changes something private that the collectors rely on."""

from __future__ import annotations

import importlib
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch._subclasses.functional_tensor import FunctionalTensor, FunctionalTensorMode
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.overrides import TorchFunctionMode

from ignite_act.internals import (
    SWITCH_GRADIENTS,
    Piece,
    flat_pieces,
    is_distributed,
    is_flat,
    is_flattened,
    is_partial,
    is_saving_elsewhere,
    is_sharded,
    is_unreadable,
    is_wrapped,
    local_part,
    why_unreadable,
)

PLAIN = torch.arange(6.0).reshape(3, 2)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeviceMesh]:
    """Two processes, of which this is the first and there is no second: enough for what needs no collective."""
    importlib.import_module("torch.testing._internal.distributed.fake_pg")  # registers the backend
    store = distributed.FileStore(str(tmp_path_factory.mktemp("store") / "store"), 2)
    distributed.init_process_group("fake", store=store, rank=0, world_size=2)
    yield init_device_mesh("cpu", (2,))
    distributed.destroy_process_group()


def placed(mesh: DeviceMesh, placement: Any, part: Tensor = PLAIN) -> DTensor:
    return DTensor.from_local(part.clone(), mesh, [placement], run_check=False)


def test_the_local_part_of_a_dtensor(mesh: DeviceMesh) -> None:
    """It is the shard of this process, also of a parameter and inside enabled gradients; no collective is needed."""
    for placement in (Shard(0), Shard(1), Replicate(), Partial()):
        tensor = placed(mesh, placement).requires_grad_()
        part = local_part(tensor)
        assert type(part) is Tensor
        assert torch.equal(part, PLAIN)
        assert not part.requires_grad or part.is_leaf
    assert torch.equal(local_part(nn.Parameter(placed(mesh, Shard(0)))), PLAIN)


def test_the_local_part_of_an_asynchronous_collective(mesh: DeviceMesh) -> None:
    """It is the result, a plain tensor."""
    from torch.distributed._functional_collectives import AsyncCollectiveTensor

    for tensor in (AsyncCollectiveTensor(PLAIN.clone()), placed(mesh, Shard(0), AsyncCollectiveTensor(PLAIN.clone()))):
        part = local_part(tensor)
        assert type(part) is Tensor
        assert torch.equal(part, PLAIN)


@pytest.mark.parametrize("tensor", [PLAIN, nn.Parameter(PLAIN), torch.zeros(()), PLAIN.to_sparse(), PLAIN.to("meta")])
def test_ordinary_tensors_are_themselves(tensor: Tensor) -> None:
    """Their local part is the same object; they are neither sharded nor partial nor wrapped."""
    assert local_part(tensor) is tensor
    assert not is_sharded(tensor)
    assert not is_partial(tensor)
    assert not is_wrapped(tensor)
    assert not is_flat(tensor)
    assert not is_flattened(tensor)
    assert is_unreadable(tensor) == tensor.is_meta


def test_a_subclass_of_the_users_own_is_itself() -> None:
    """A tensor of a type that we do not know is left as it is."""

    class Own(Tensor):
        pass

    tensor = PLAIN.as_subclass(Own)
    assert local_part(tensor) is tensor
    assert (is_sharded(tensor), is_partial(tensor), is_unreadable(tensor)) == (False, False, False)


def test_shards_copies_and_sums_are_told_apart(mesh: DeviceMesh) -> None:
    """A shard is sharded, a term of a sum is partial, a copy is neither; over one process all are whole."""
    found = {type(p): (is_sharded(placed(mesh, p)), is_partial(placed(mesh, p))) for p in (Shard(0), Shard(1))}
    assert set(found.values()) == {(True, False)}
    assert (is_sharded(placed(mesh, Replicate())), is_partial(placed(mesh, Replicate()))) == (False, False)
    assert (is_sharded(placed(mesh, Partial())), is_partial(placed(mesh, Partial()))) == (False, True)
    flat = init_device_mesh("cpu", (1, 2))
    tensor = DTensor.from_local(PLAIN, flat, [Shard(0), Replicate()], run_check=False)
    assert (is_sharded(tensor), is_partial(tensor)) == (False, False)


def test_tensors_of_function_transforms_are_wrapped() -> None:
    """Inside ``vmap`` and ``grad`` of ``torch.func`` a tensor is wrapped, outside it is not."""
    seen = []

    def note(x: Tensor) -> Tensor:
        seen.append(is_wrapped(x))
        return x.sum()

    torch.func.vmap(note)(PLAIN)
    torch.func.grad(note)(PLAIN)
    note(PLAIN)
    assert seen == [True, True, False]


def test_tensors_without_values_are_unreadable(mesh: DeviceMesh) -> None:
    """So are those on the meta device, fake and functional ones, also as the parts of a DTensor."""
    with FakeTensorMode():
        fake = torch.zeros(2)
    with FunctionalTensorMode():
        functional = FunctionalTensor.to_functional(PLAIN.clone())
    below = torch._to_functional_tensor(PLAIN.clone())
    for tensor in (PLAIN.to("meta"), fake, functional, below, placed(mesh, Shard(0), PLAIN.to("meta"))):
        assert is_unreadable(tensor)
    assert not is_unreadable(placed(mesh, Shard(0)))


@pytest.mark.parametrize("original", [True, False])
def test_what_fsdp_makes_flat_keeps_its_shape_elsewhere(mesh: DeviceMesh, original: bool) -> None:
    """The shapes before FSDP1 are known by parameter; with ``use_orig_params=False`` one flat parameter is left."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = FullyShardedDataParallel(
            nn.Linear(3, 4), device_id=torch.device("cpu"), use_orig_params=original, sync_module_states=False
        )
    parameters = dict(model.named_parameters())
    assert all(is_flattened(parameter) and is_sharded(parameter) for parameter in parameters.values())
    if original:
        names = {"_fsdp_wrapped_module.weight": (4, 3), "_fsdp_wrapped_module.bias": (4,)}
        assert {name: flat_pieces(model)[id(p)] for name, p in parameters.items()} == {
            name: Piece(torch.Size(shape), sharded=True) for name, shape in names.items()
        }
        assert not any(map(is_flat, parameters.values()))
    else:
        assert [is_flat(parameter) for parameter in parameters.values()] == [True]
        assert flat_pieces(model) == {}


def test_fsdp_that_does_not_shard_is_known(mesh: DeviceMesh) -> None:
    """With ``NO_SHARD`` every process holds the whole."""
    from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = FullyShardedDataParallel(
            nn.Linear(3, 4),
            device_id=torch.device("cpu"),
            use_orig_params=True,
            sharding_strategy=ShardingStrategy.NO_SHARD,
        )
    assert {piece.sharded for piece in flat_pieces(model).values()} == {False}


def test_nothing_is_imported_that_is_not_in_use() -> None:
    """Asking about tensors of a program that is not distributed loads no part of torch.distributed."""
    program = (
        "import sys, torch; from ignite_act import internals as t; before = set(sys.modules)\n"
        "x = torch.zeros(2); m = torch.nn.Linear(1, 1)\n"
        "t.local_part(x), t.is_sharded(x), t.is_partial(x), t.is_wrapped(x), t.is_unreadable(x), t.flat_pieces(m)\n"
        "print(sorted(set(sys.modules) - before))"
    )
    root = Path(__file__).parents[1]
    result = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_no_grad_switches_gradients_by_the_function_that_is_known() -> None:
    seen = []

    class Mode(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    with Mode(), torch.no_grad():
        pass
    assert seen
    assert set(seen) == {SWITCH_GRADIENTS}


def test_why_a_tensor_cannot_be_read(mesh: DeviceMesh) -> None:
    """The reason names the transform or the missing values; a readable tensor has none, a DTensor is one."""
    reasons: list[str] = []
    torch.func.vmap(lambda x: (reasons.append(why_unreadable(x)), x)[1])(PLAIN)
    assert "torch.func" in reasons[0]
    assert "meta" in why_unreadable(PLAIN.to("meta"))
    assert why_unreadable(PLAIN) == ""
    assert (is_distributed(placed(mesh, Shard(0))), is_distributed(PLAIN)) == (True, False)


def test_what_is_saved_elsewhere_is_known() -> None:
    assert not is_saving_elsewhere()
    with torch.autograd.graph.save_on_cpu():
        assert is_saving_elsewhere()
