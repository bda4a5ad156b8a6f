"""Trainings of two processes (joined by gloo) that share the weights: FSDP1, FSDP2, tensor parallelism.

Each returns the rows, what was unseen, and a twin that knows nothing of ours: the whole gradients before each step.
"""

from __future__ import annotations

import contextlib
import json
import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine
from sharded_models import (
    Net,
    Tied,
    copies,
    frozen,
    fsdp1,
    fsdp2,
    ignoring,
    ignoring_by_fsdp2,
    nested,
    tensor_parallel,
    wrapped,
)
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FullyShardedDataParallel,
    MixedPrecision,
    MixedPrecisionPolicy,
    ShardingStrategy,
)
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor
from torch.distributed.tensor.parallel import (
    SequenceParallel,
    parallelize_module,
)
from torch.optim import SGD, Optimizer

from ignite_act import GradientStats
from ignite_act.collect import GradientCollector, base
from ignite_act.stats import kernels

STEPS, BATCH = 4, 8
Twin = dict[str, list[tuple[float, float]]]  # layer -> mean and maximum of the whole gradient at every step


LAYERS, BIASES = ["first", "block.0", "block.2", "last"], ["first.bias", "block.0.bias", "block.2.bias"]


def batch(step: int, rank: int | None) -> tuple[Tensor, Tensor]:
    """The samples of one step that a process gets; all of them for None."""
    generator = torch.Generator().manual_seed(step)
    x, y = torch.randn(2 * BATCH, 7, generator=generator), torch.randn(2 * BATCH, 1, generator=generator)
    return (x, y) if rank is None else (x[rank::2], y[rank::2])


def note_whole(model: nn.Module, twin: Twin) -> None:
    """Brings every gradient together and notes its mean and maximum: a collective call."""
    for full_name, parameter in model.named_parameters():
        gradient = parameter.grad
        if isinstance(parameter, DTensor):
            sizes = torch.tensor([-1.0]) if gradient is None else gradient.full_tensor().abs().double()
            total, count, peak = sizes.sum(), sizes.numel(), sizes.max()
        else:
            sizes = torch.zeros(0) if gradient is None else gradient.abs().double()
            sums = torch.tensor([sizes.sum(), sizes.numel()], dtype=torch.float64)
            peak = sizes.max() if sizes.numel() else torch.tensor(0.0, dtype=torch.float64)
            if distributed.is_initialized():
                distributed.all_reduce(sums)
                distributed.all_reduce(peak, distributed.ReduceOp.MAX)
            total, count = sums.tolist()
        name = full_name.replace("_fsdp_wrapped_module.", "").removesuffix(".weight")
        if count:
            twin.setdefault(name, []).append((float(total) / count, float(peak)))


def sgd(model: nn.Module, lr: float = 0.05) -> Optimizer:
    return SGD(model.parameters(), lr, foreach=False)


def steps(
    model: nn.Module, rank: int | None, optimizer: Optimizer, *, accumulate: Any = None, before: Any = None
) -> Twin:
    """Some steps of training; what the whole gradients were."""
    twin: Twin = {}
    for step in range(STEPS):
        optimizer.zero_grad()
        if accumulate is not None:
            with accumulate(model):
                x, y = batch(100 + step, rank)
                (model(x) - y).square().mean().backward()
        x, y = batch(step, rank)
        (model(x) - y).square().mean().backward()
        if before is not None:
            before(model, step)
        note_whole(model, twin)
        optimizer.step()
    return twin


def finished(collector: GradientCollector, twin: Twin, *, sync: bool = True) -> dict[str, Any]:
    rows = collector.finish(sync=sync)
    return {"rows": rows, "unseen": dict(collector.coverage.unseen), "twin": twin}


def watched(
    model: nn.Module, rank: int | None, *, layers: Any = None, sync: bool = True, lr: float = 0.05, **options: Any
) -> dict[str, Any]:
    with GradientCollector(model, layers=layers) as collector:
        return finished(collector, steps(model, rank, sgd(model, lr), **options), sync=sync)


def reduce_ignored(model: nn.Module, step: int) -> None:
    """What FSDP leaves to the user: the gradients of what it ignores."""
    for name, parameter in model.named_parameters():
        if "first" in name:
            distributed.all_reduce(parameter.grad)
            parameter.grad /= 2


@contextlib.contextmanager
def without_sync(model: Any) -> Iterator[None]:
    model.set_requires_gradient_sync(False)
    yield
    model.set_requires_gradient_sync(True)


def break_one(model: nn.Module, step: int) -> None:
    """At one step a NaN in the part of the second process, while that of the first one is huge."""
    if step == 1:
        parameter = dict(model.named_parameters())[next(n for n, _ in model.named_parameters() if "block.0.w" in n)]
        gradient = parameter.grad.to_local() if isinstance(parameter.grad, DTensor) else parameter.grad
        gradient[0] = math.nan if distributed.get_rank() else 1e25


def evaluated(model: nn.Module, rank: int) -> dict[str, Any]:
    """Two windows; a forward without a backward, after which FSDP2 leaves other parameters in place, ends each."""
    optimizer = sgd(model)
    with GradientCollector(model) as collector:
        for _ in range(2):
            twin = steps(model, rank, optimizer)
            with torch.no_grad():
                model(batch(0, rank)[0])
            result = finished(collector, twin)
    return result


def resumed(model: nn.Module, rank: int) -> dict[str, Any]:
    """A window that another collector goes on with."""
    optimizer = sgd(model)
    with GradientCollector(model) as collector:
        twin = steps(model, rank, optimizer)
        state = collector.state_dict()
    again = GradientCollector(model)
    again.load_state_dict(state)
    with again:
        for name, measured in steps(model, rank, optimizer).items():
            twin[name] += measured
        return finished(again, twin)


def below_an_engine(rank: int) -> dict[str, Any]:
    """A handler that is told a layer, by the name that it has without FSDP."""
    model = fsdp1()
    optimizer, twin = sgd(model), Twin()

    def step(engine: Engine, number: int) -> None:
        optimizer.zero_grad()
        x, y = batch(number, rank)
        (model(x) - y).square().mean().backward()
        note_whole(model, twin)
        optimizer.step()

    trainer = Engine(step)
    handler = GradientStats(model, layers=["block.0.weight"]).attach(trainer)
    trainer.run(range(STEPS))
    return {"rows": handler.result, "unseen": dict(handler.coverage.unseen), "twin": twin}


def several_optimizers(model: nn.Module, rank: int) -> dict[str, Any]:
    """One optimizer a layer: a process may hold nothing of what one of them steps, and still counts its steps.

    The layer in the middle breaks in one process after a step of an optimizer of which that one holds nothing.
    """
    owned = [[p for n, p in model.named_parameters() if name in n] for name in ("last", "block", "first")]
    optimizers = [SGD(parameters, 0.0, foreach=False) for parameters in owned]
    twin = Twin()
    with GradientCollector(model) as collector:
        for step in range(STEPS):
            model.zero_grad()
            x, y = batch(step, rank)
            (model(x) - y).square().mean().backward()
            break_one(model, step)
            note_whole(model, twin)
            for optimizer in optimizers:
                optimizer.step()
        return finished(collector, twin)


def unreachable(rank: int) -> dict[str, Any]:
    """The processes cannot be brought together at the end of the window."""

    def gather(state: Any) -> Any:
        raise RuntimeError("connection lost\nand more")

    model, real = fsdp1(), base.gather
    base.gather = gather
    try:
        return watched(model, rank)
    finally:
        base.gather = real


def partial_gradients() -> dict[str, Any]:
    """Sequence parallelism: the gradient of a norm is a sum that only the optimizer's step brings together."""

    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.norm, self.out = nn.LayerNorm((4, 7)), nn.Linear(7, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.norm(x))

    mesh = init_device_mesh("cpu", (2,))
    model = Normed()
    parallelize_module(model, mesh, {"norm": SequenceParallel(sequence_dim=0, use_local_output=True)})
    optimizer = SGD(model.parameters(), lr=0.05, foreach=False)
    with GradientCollector(model) as collector:
        for step in range(2):
            optimizer.zero_grad()
            torch.manual_seed(step)
            model(torch.randn(3, 4, 7)).square().mean().backward()
            optimizer.step()
        return finished(collector, {})


def watched_copies() -> dict[str, Any]:
    """Copies on DTensors take DTensors in and give DTensors out."""
    model, mesh = copies(), init_device_mesh("cpu", (2,))
    optimizer, twin = SGD(model.parameters(), lr=0.05), Twin()
    with GradientCollector(model) as collector:
        for step in range(STEPS):
            optimizer.zero_grad()
            x, y = (distribute_tensor(part, mesh, [Replicate()]) for part in batch(step, None))
            (model(x) - y).square().mean().backward()
            note_whole(model, twin)
            optimizer.step()
        return finished(collector, twin)


def watched_from_below(rank: int) -> dict[str, Any]:
    """The module inside FSDP is watched instead of what FSDP returned."""
    model = fsdp1()
    with GradientCollector(model.module) as collector:
        return finished(collector, steps(model, rank, sgd(model)))


SAME_AS_ONE: dict[str, Callable[[int], Any]] = {  # what one process that trains on the whole batch would measure
    "fsdp1": lambda rank: watched(fsdp1(), rank),
    "fsdp1 nested": lambda rank: watched(nested(), rank),
    "fsdp1 gathered": lambda rank: watched(fsdp1(sharding_strategy=ShardingStrategy.SHARD_GRAD_OP), rank),
    "fsdp1 not sharding": lambda rank: watched(fsdp1(sharding_strategy=ShardingStrategy.NO_SHARD), rank),
    "fsdp1 ignoring a layer": lambda rank: watched(ignoring(), rank, before=reduce_ignored),
    "fsdp2": lambda rank: watched(fsdp2(), rank),
    "fsdp2 gathered": lambda rank: watched(fsdp2(reshard_after_forward=False), rank),
    "fsdp2 ignoring a layer": lambda rank: watched(ignoring_by_fsdp2(), rank, before=reduce_ignored),
    "fsdp2 offloading": lambda rank: watched(fsdp2(offload_policy=CPUOffloadPolicy(pin_memory=False)), rank),
    "fsdp2 with copies": lambda rank: watched(fsdp2(mesh=(2, 1)), rank),
    "fsdp2 on a mesh of two dimensions": lambda rank: watched(fsdp2(mesh=(1, 2)), rank),
    "tensor parallel": lambda rank: watched(tensor_parallel(), None),
    "copies": lambda rank: watched_copies(),
}
SAME_AS_TORCH: dict[str, Callable[[int], Any]] = {  # what torch brings together
    "fsdp1 mixed": lambda rank: watched(fsdp1(mixed_precision=MixedPrecision(torch.bfloat16, torch.float32)), rank),
    "fsdp1 low gradients": lambda rank: watched(
        fsdp1(mixed_precision=MixedPrecision(torch.bfloat16, keep_low_precision_grads=True)), rank, lr=0.0
    ),
    "fsdp1 accumulating": lambda rank: watched(fsdp1(), rank, accumulate=FullyShardedDataParallel.no_sync),
    "fsdp1 clipping": lambda rank: watched(fsdp1(), rank, before=lambda model, step: model.clip_grad_norm_(0.01)),
    "fsdp1 evaluated": lambda rank: evaluated(fsdp1(), rank),
    "fsdp1 resumed": lambda rank: resumed(fsdp1(), rank),
    "fsdp1 broken": lambda rank: watched(fsdp1(), rank, before=break_one, lr=0.0),
    "fsdp1 with several optimizers": lambda rank: several_optimizers(fsdp1(), rank),
    "fsdp2 with several optimizers": lambda rank: several_optimizers(fsdp2(), rank),
    "fsdp2 mixed": lambda rank: watched(fsdp2(mp_policy=MixedPrecisionPolicy(torch.bfloat16, torch.float32)), rank),
    "fsdp2 accumulating": lambda rank: watched(fsdp2(), rank, accumulate=without_sync),
    "fsdp2 clipping": lambda rank: watched(
        fsdp2(), rank, before=lambda model, step: nn.utils.clip_grad_norm_(model.parameters(), 0.01)
    ),
    "fsdp2 evaluated": lambda rank: evaluated(fsdp2(), rank),
    "fsdp2 resumed": lambda rank: resumed(fsdp2(), rank),
    "fsdp2 broken": lambda rank: watched(fsdp2(), rank, before=break_one, lr=0.0),
}
CHOSEN: dict[str, tuple[Callable[[int], Any], list[str]]] = {
    "fsdp1 tied": (lambda rank: watched(wrapped(Tied()), rank, layers="second"), ["first"]),
    "fsdp2 tied": (lambda rank: watched(fsdp2(Tied()), rank, layers="second"), ["first"]),
    "fsdp1 biases": (lambda rank: watched(fsdp1(), rank, layers="*.bias"), BIASES),
    "fsdp2 biases": (lambda rank: watched(fsdp2(), rank, layers="*.bias"), BIASES),
    "fsdp1 by type": (lambda rank: watched(nested(), rank, layers=nn.Linear), LAYERS),
    "fsdp1 below an engine": (below_an_engine, ["block.0"]),
}
OTHERS: dict[str, Callable[[int], Any]] = {
    "fsdp1 frozen": lambda rank: watched(wrapped(frozen(Net())), rank),
    "fsdp2 frozen": lambda rank: watched(fsdp2(frozen(Net())), rank),
    "fsdp1 flat": lambda rank: watched(fsdp1(use_orig_params=False), rank),
    "fsdp1 from below": lambda rank: watched_from_below(rank),
    "fsdp1 alone": lambda rank: watched(fsdp1(), rank, sync=False),
    "fsdp1 unreachable": unreachable,
    "fsdp2 alone": lambda rank: watched(fsdp2(), rank, sync=False),
    "partial": lambda rank: partial_gradients(),
}


def work(rank: int, folder: str) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    kernels.compiled = lambda: None  # loading numba takes longer than everything else here
    chosen = {name: scenario for name, (scenario, _) in CHOSEN.items()}
    scenarios = {**SAME_AS_ONE, **SAME_AS_TORCH, **chosen, **OTHERS}
    results = {name: scenario(rank) for name, scenario in scenarios.items()}
    (Path(folder) / f"{rank}.json").write_text(json.dumps(results))
    distributed.destroy_process_group()
