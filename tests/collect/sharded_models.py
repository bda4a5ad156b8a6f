"""Models whose weights two processes share: FSDP1, FSDP2, tensor parallelism, copies."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FullyShardedDataParallel,
    fully_shard,
)
from torch.distributed.tensor import Replicate, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)


class Net(nn.Module):
    """Layers whose sizes two processes cannot share evenly; the last one has a single row."""

    def __init__(self, hidden: int = 9) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(7, 5)
        self.block = nn.Sequential(nn.Linear(5, hidden), nn.ReLU(), nn.Linear(hidden, 3))
        self.last = nn.Linear(3, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.block(F.relu(self.first(x)))))


class Tied(nn.Module):
    """A weight that two layers share."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(7, 7), nn.Linear(7, 7)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x))).sum(1, keepdim=True)


def wrapped(model: nn.Module, **options: Any) -> FullyShardedDataParallel:
    return FullyShardedDataParallel(model, **{"device_id": torch.device("cpu"), "use_orig_params": True, **options})


def fsdp1(**options: Any) -> FullyShardedDataParallel:
    return wrapped(Net(), **options)


def nested() -> nn.Module:
    model = Net()
    model.block = wrapped(model.block)
    return wrapped(model)


def ignoring() -> nn.Module:
    model = Net()
    return wrapped(model, ignored_states=list(model.first.parameters()))


def ignoring_by_fsdp2() -> nn.Module:
    model = Net()
    return fsdp2(model, ignored_params=set(model.first.parameters()))


def fsdp2(model: nn.Module | None = None, mesh: tuple[int, ...] = (2,), **options: Any) -> nn.Module:
    model = Net() if model is None else model
    own = init_device_mesh("cpu", mesh, mesh_dim_names=("replicate", "shard")[-len(mesh) :])
    if isinstance(model, Net):
        fully_shard(model.block, mesh=own, **options)
    return fully_shard(model, mesh=own, **options)


def tensor_parallel() -> nn.Module:
    plan = {"block.0": ColwiseParallel(), "block.2": RowwiseParallel()}
    return parallelize_module(Net(8), init_device_mesh("cpu", (2,)), plan)


def copies() -> nn.Module:
    """Every process holds the whole of every parameter, as DTensors."""
    model, mesh = Net(), init_device_mesh("cpu", (2,))
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(distribute_tensor(parameter.data, mesh, [Replicate()])))
    return model


def frozen(model: Net) -> Net:
    model.first.requires_grad_(False)
    return model
