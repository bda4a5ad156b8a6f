"""Everything that is private to torch and that the collectors need: one function each, one canary test each.

No function imports a part of torch that the user's program has not imported: what was never loaded is not in use.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_PLAIN = (Tensor, nn.Parameter)


class Piece(NamedTuple):
    """What FSDP1 made of a parameter.

    Attributes:
        shape: its shape before FSDP made it flat.
        sharded: whether every process holds another part of it (possibly none).
    """

    shape: torch.Size
    sharded: bool


def local_part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor; the tensor itself if that is all of it.

    The local shard of a DTensor, and the result of an asynchronous collective. It never starts a collective, and
    gradients do not flow through it.
    """
    if type(tensor) in _PLAIN:
        return tensor
    part: Any = tensor
    if _is_dtensor(tensor):
        with torch.no_grad():
            part = part.to_local()
    asynchronous = _loaded("torch.distributed._functional_collectives", "AsyncCollectiveTensor")
    if asynchronous is not None and isinstance(part, asynchronous):
        part = part.wait()
    return part


def is_sharded(parameter: Tensor) -> bool:
    """Whether this process holds only a part of a parameter: by FSDP1, FSDP2 or tensor parallelism.

    A parameter of one dimension below FSDP1 counts as sharded, also with ``NO_SHARD``; `flat_pieces` knows better.
    """
    if type(parameter) in _PLAIN:
        return parameter.ndim <= 1 and is_flattened(parameter)
    if not _is_dtensor(parameter):
        return False
    return any(not p.is_replicate() and not p.is_partial() and size > 1 for p, size in _placements(parameter))


def is_partial(tensor: Tensor) -> bool:
    """Whether a DTensor holds terms of a sum (or of another reduction) that have not been brought together."""
    if type(tensor) in _PLAIN or not _is_dtensor(tensor):
        return False
    return any(placement.is_partial() and size > 1 for placement, size in _placements(tensor))


def is_wrapped(tensor: Tensor) -> bool:
    """Whether a tensor lives inside a transform of ``torch.func`` (``vmap``, ``grad``, ...) and ends with it."""
    return torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def is_unreadable(tensor: Tensor) -> bool:
    """Whether a tensor has no values: on the meta device, fake, or a functional one of a compiler's tracing."""
    tensor = local_part(tensor)
    if tensor.is_meta or torch._is_functional_tensor(tensor):
        return True
    kinds = (
        _loaded("torch._subclasses.fake_tensor", "FakeTensor"),
        _loaded("torch._subclasses.functional_tensor", "FunctionalTensor"),
    )
    return any(kind is not None and isinstance(tensor, kind) for kind in kinds)


def is_flattened(parameter: Tensor) -> bool:
    """Whether FSDP1 has made a parameter a part of a flat one."""
    return bool(getattr(parameter, "_fsdp_flattened", False))


def is_flat(parameter: Tensor) -> bool:
    """Whether a parameter is FSDP1's flat one, which stands for many (``use_orig_params=False``)."""
    return bool(getattr(parameter, "_is_flat_param", False))


def flat_pieces(model: nn.Module) -> dict[int, Piece]:
    """What FSDP1 made of the parameters of a model (``use_orig_params=True``), by their ids."""
    pieces = {}
    for handle in _flat_handles(model):
        flat = handle.flat_param
        parameters, shapes = getattr(flat, "_params", None) or (), getattr(flat, "_shapes", ())
        for parameter, shape in zip(parameters, shapes, strict=False):
            pieces[id(parameter)] = Piece(torch.Size(shape), bool(getattr(handle, "uses_sharded_strategy", True)))
    return pieces


def _flat_handles(model: nn.Module) -> Iterator[Any]:
    wrapper = _loaded("torch.distributed.fsdp", "FullyShardedDataParallel")
    for module in model.modules() if wrapper is not None else ():
        handle = getattr(module, "_handle", None) if isinstance(module, wrapper) else None
        if hasattr(handle, "flat_param"):  # None where there is nothing to shard
            yield handle


def _placements(tensor: Tensor) -> list[tuple[Any, int]]:
    """The placement of a DTensor on each dimension of its mesh, with the size of that dimension."""
    own: Any = tensor
    return [(placement, own.device_mesh.size(number)) for number, placement in enumerate(own.placements)]


def _is_dtensor(tensor: Tensor) -> bool:
    kind = _loaded("torch.distributed.tensor", "DTensor")
    return kind is not None and isinstance(tensor, kind)


def _loaded(module: str, name: str) -> Any:
    """A name of a module of torch; None where the module is not loaded or has no such name."""
    return getattr(sys.modules.get(module), name, None)
