"""Every private name of torch, Ignite and Lightning that the package uses, one function each.

A test for each fails when a new version breaks it (``tests/test_internals.py`` and ``test_internals_of_watching.py``).
No function imports what the user's program has not imported: what was never loaded is not in use.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn, overrides
from torch._ops import OpOverload, OpOverloadPacket
from torch.autograd import graph
from torch.nn.modules import module as _module
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim import Optimizer
from torch.optim import optimizer as _optimizer_module
from torch.optim.optimizer import _global_optimizer_pre_hooks
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

_PLAIN = (Tensor, nn.Parameter)


class Piece(NamedTuple):
    """What FSDP1 made of a parameter.

    Attributes:
        shape: its shape before FSDP made it flat.
        sharded: whether every process holds another part of it (possibly none).
    """

    shape: torch.Size
    sharded: bool


_SAMPLES, _QUERIES = 2, 32
"""How many samples, and queries of each, are looked at in an attention."""
BATCH_NORM = _BatchNorm
"""The class of all modules that normalise over a batch."""
DROPOUT = _DropoutNd
"""The class of all modules that drop some of their input."""
NN_FUNCTIONS = torch._C._nn
"""Where `torch.nn.functional` keeps functions that it does not write in Python."""
SWITCH_GRADIENTS = torch._C._set_grad_enabled
"""The function that `torch.no_grad` calls as it begins and as it ends, through the function modes."""


def operators(name: str) -> tuple[OpOverloadPacket | OpOverload, ...]:
    """The operator of a name below the functions of torch, and its overloads; nothing where there is none."""
    packet = getattr(torch.ops.aten, name, None)
    if not isinstance(packet, OpOverloadPacket):
        return ()
    return (packet, *(getattr(packet, overload) for overload in packet.overloads()))


def is_operator(function: object) -> bool:
    """Whether a function is one overload of an operator, which is what compiled code calls."""
    return isinstance(function, OpOverload)


def arguments_of(packet: OpOverloadPacket | OpOverload) -> tuple[str, ...]:
    """The names of an operator's arguments; of the first of its overloads."""
    overload = getattr(packet, packet.overloads()[0]) if isinstance(packet, OpOverloadPacket) else packet
    return tuple(argument.name for argument in overload._schema.arguments)


def norm_of_each(tensors: list[Tensor], order: float, dtype: torch.dtype) -> Sequence[Tensor]:
    """The norm of each tensor, ``()``, in few operations; torch's public functions take one tensor at a time."""
    return torch._foreach_norm(tensors, order, dtype=dtype)


def is_compiling() -> bool:
    """Whether this is no real forward: torch.compile, torch.export or torch.jit.trace is recording it."""
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None


def is_recording() -> bool:
    """Whether operations are written down as a graph (``make_fx``) and not for their results."""
    return torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is not None


def is_recomputing() -> bool:
    """Whether autograd is running backward: activation checkpointing executes forwards a second time there."""
    return torch._C._current_graph_task_id() != -1


def backward_number() -> int:
    """A number for the backward that is running in this thread; -1 outside of one."""
    return torch._C._current_graph_task_id()


def without_functions() -> Any:
    """A block in which function modes and tensor subclasses do not see calls: measuring is none of the model's."""
    return torch._C.DisableTorchFunction()


def is_saving_elsewhere() -> bool:
    """Whether hooks pack what operations save for backward now, as checkpoints do: to look at it would unpack it."""
    return torch._C._autograd._top_saved_tensors_default_hooks(False) is not None


def number_of(node: Any) -> int:
    """The number of a node of the graph: nodes of one thread are numbered in the order they were made."""
    return int(node._sequence_nr())


def shape_of(node: Any) -> tuple[int, ...]:
    """The shape of the first result of a node of the graph; ``()`` where it cannot be told."""
    results = getattr(node, "_input_metadata", ()) if node is not None else ()
    return tuple(results[0].shape) if results else ()


def saved_tensor(node: Any, name: str) -> Tensor | None:
    """What a node of the graph has saved under a name, before its backward; None if it has not."""
    value = getattr(node, f"_saved_{name}", None)
    return value if isinstance(value, Tensor) else None


def attention_of(node: Any) -> Tensor | None:
    """The weights with which a node of the graph mixes values, ``(..., queries, keys)``: of a few samples and queries.

    None if it is no attention: neither a softmax over the last of three dimensions or more, nor torch's fused one.
    """
    name = type(node).__name__
    if name.startswith("SoftmaxBackward"):
        result = node._saved_result
        last = node._saved_dim in (result.ndim - 1, 2**64 - 1, -1)
        return result[:_SAMPLES, ..., _chosen(result), :].detach() if result.ndim > 2 and last else None
    if not name.startswith("ScaledDotProduct") or not hasattr(node, "_saved_query"):
        return None
    query, key = (own[:_SAMPLES].detach() for own in (node._saved_query, node._saved_key))
    if query.ndim == 4 and query.shape[1] > key.shape[1]:  # groups of queries share their keys
        key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    rows = _chosen(query)
    scale, mask = getattr(node, "_saved_scale", None), getattr(node, "_saved_attn_mask", None)
    mask = getattr(node, "_saved_attn_bias", None) if mask is None else mask
    scores = query[..., rows, :].float() @ key.float().mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    if isinstance(mask, Tensor):
        mask = mask[:_SAMPLES] if mask.ndim == scores.ndim and len(mask) > 1 else mask
        mask = mask[..., rows, :] if mask.shape[-2] > 1 else mask
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    if getattr(node, "_saved_is_causal", False):
        later = torch.arange(key.shape[-2], device=key.device) > rows.unsqueeze(1)
        scores = scores.masked_fill(later, -math.inf)
    return scores.softmax(-1)


def _chosen(values: Tensor) -> Tensor:
    """Places of some rows of ``(..., rows, columns)``, evenly spread: all of a long text would fill the memory."""
    rows = values.shape[-2]
    return torch.linspace(0, rows - 1, min(rows, _QUERIES), device=values.device).long()


def version(tensor: Tensor) -> int:
    """Grows with every change in place; -1 for tensors of inference mode, which do not count."""
    return -1 if tensor.is_inference() else tensor._version


def own_parameters(module: nn.Module) -> Mapping[str, Tensor | None]:
    """A module's own parameters, or what stands in for them, without those of its children."""
    return module._parameters


def own_buffers(module: nn.Module) -> Mapping[str, Tensor | None]:
    """A module's own buffers, without those of its children."""
    return module._buffers


def is_nested_call(module: nn.Module) -> bool:
    """Whether a module's call, just begun, stands inside another call of the same module."""
    code, calls = nn.Module._call_impl.__code__, 0
    frame: FrameType | None = sys._getframe()
    while frame is not None and calls < 2:
        calls += frame.f_code is code and frame.f_locals.get("self") is module
        frame = frame.f_back
    return calls > 1


def compiled_module(module: nn.Module) -> nn.Module | None:
    """The module below ``torch.compile(module)``; None for any other."""
    children = module._modules
    return children["_orig_mod"] if "_orig_mod" in children else None  # noqa: SIM401 - TorchScript's has no `get`


def compiles_itself(module: nn.Module) -> bool:
    """Whether ``module.compile()`` was called: then no hook of its runs."""
    return getattr(module, "_compiled_call_impl", None) is not None


def compiled_frames() -> int:
    """How many pieces of code torch.compile has compiled in this process."""
    counters = _loaded("torch._dynamo.utils", "counters")
    return int(counters["frames"]["ok"]) if counters is not None else 0


def global_hooks() -> list[object]:
    """Every hook for all modules and all optimizers that is in place, whoever registered it."""
    tables = (
        _module._global_forward_hooks,
        _module._global_forward_pre_hooks,
        _module._global_forward_hooks_always_called,
        _module._global_backward_hooks,
        _optimizer_module._global_optimizer_pre_hooks,
        _optimizer_module._global_optimizer_post_hooks,
    )
    return [hook for table in tables for hook in table.values()]


_numbers: dict[Callable[..., Any], int] = {}
"""Hook -> the number that it had when it was registered first."""


def register_forward_pre_hook(hook: Callable[..., None]) -> Callable[[], None]:
    """Registers a global forward pre-hook; returns what removes it."""
    handle = register_module_forward_pre_hook(hook)
    return _renumbered(hook, handle, [_module._global_forward_pre_hooks])


def register_forward_hook(hook: Callable[..., None]) -> Callable[[], None]:
    """Registers a global forward hook that gets keyword arguments and runs after an exception, too.

    Returns:
        What removes it. torch's own handle would leave an entry behind.
    """
    handle = register_module_forward_hook(hook, with_kwargs=True, always_call=True)
    tables: list[dict[int, Any]] = [
        _module._global_forward_hooks,
        _module._global_forward_hooks_with_kwargs,
        _module._global_forward_hooks_always_called,
    ]
    return _renumbered(hook, handle, tables)


def _renumbered(hook: Callable[..., None], handle: RemovableHandle, tables: list[dict[int, Any]]) -> Callable[[], None]:
    """Gives a hook the number that it had before: compiled code is compiled anew for every other one."""
    number = _numbers.setdefault(hook, handle.id)
    for table in tables:
        table[number] = table.pop(handle.id)

    def remove() -> None:
        for table in tables:
            table.pop(number, None)

    return remove


def backward_roots() -> tuple[Any, ...] | None:
    """The tensors of which the running backward was asked for the gradient; None where they cannot be told.

    Backward runs in the thread that asked for it, or, for tensors on a GPU, in a thread of its own while the other one
    waits. They are looked up in the frame that waits.
    """
    found = _roots_below(sys._getframe())
    if found is not None:
        return found
    waiting = [roots for frame in sys._current_frames().values() if (roots := _roots_below(frame)) is not None]
    return waiting[0] if len(waiting) == 1 else None


def _roots_below(frame: FrameType | None) -> tuple[Any, ...] | None:
    code = graph._engine_run_backward.__code__
    while frame is not None:
        if frame.f_code is code:
            roots = frame.f_locals["t_outputs"]
            return tuple(roots) if isinstance(roots, (tuple, list)) else None
        frame = frame.f_back
    return None


def has_step_pre_hooks(optimizer: Optimizer) -> bool:
    """Whether an optimizer has hooks of its own that run before its step."""
    return bool(optimizer._optimizer_step_pre_hooks)


def step_pre_hooks_after(own: int) -> bool:
    """Whether a hook of all optimizers runs before a step, but after one of ours.

    Args:
        own: the number of our handle.
    """
    return next(reversed(_global_optimizer_pre_hooks), own) != own


def is_nested_step(optimizer: Optimizer) -> bool:
    """Whether an optimizer's hook has been called by a step inside another step of the same optimizer.

    Torch puts a function of its own, with the hooks, around the ``step`` of every class of which there is an instance:
    around that of a subclass, and around that of its base, which ``super().step()`` calls.
    """
    frame: FrameType | None = sys._getframe()
    around = 0
    while frame is not None:
        is_step = frame.f_code.co_name == "wrapper" and frame.f_code.co_filename == _optimizer_module.__file__
        around += is_step and frame.f_locals.get("self") is optimizer
        frame = frame.f_back
    return around > 1


def is_being_called(owner: object) -> bool:
    """Whether a method of an object is being executed in this thread."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_locals.get("self") is owner:
            return True
        frame = frame.f_back
    return False


def firing_engines() -> Iterator[Any]:
    """The Ignite engines whose event handlers are running in this thread, the innermost first."""
    engine = _loaded("ignite.engine", "Engine")
    code = engine._fire_event.__code__ if engine is not None else None
    frame: FrameType | None = sys._getframe() if code is not None else None
    while frame is not None:
        if frame.f_code is code:
            yield frame.f_locals["self"]
        frame = frame.f_back


def is_in_training_step(module: Any) -> bool:
    """Whether Lightning is calling a module's ``training_step``; ``self.log`` goes by the same name."""
    return bool(module._current_fx_name == "training_step")


def steps_of(trainer: Any) -> int:
    """The number of batches that Lightning's trainer has stepped on: its loggers use it as the step."""
    return int(trainer.fit_loop.epoch_loop._batches_that_stepped)


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


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is of torch's own types and has values, as nearly all are and do."""
    if type(tensor) not in _PLAIN or is_wrapped(tensor):
        return False
    return not tensor.is_meta and not torch._is_functional_tensor(tensor)


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


def why_unreadable(tensor: Tensor) -> str:
    """Why the values of a tensor cannot be read and kept; empty if they can."""
    if is_plain(tensor):
        return ""
    if is_wrapped(tensor):
        return "it lives inside a function transform (torch.func)"
    return "it has no values: it is on the meta device, or a stand-in for a tensor" if is_unreadable(tensor) else ""


def is_distributed(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor."""
    return type(tensor) not in _PLAIN and _is_dtensor(tensor)


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


def remove_function_mode(mode: TorchFunctionMode) -> None:
    """Takes a mode off the stack, also from below modes that were entered after it and not left."""
    above = []
    stack = overrides._get_current_function_mode_stack()
    if not any(entered is mode for entered in stack):
        return
    while (top := overrides._pop_mode()) is not mode:
        above.append(top)
    for other in reversed(above):
        overrides._push_mode(other)
