"""Every private name of torch that the collectors use, one function each.

A test for each fails when a new version of torch breaks it (``tests/collect/test_torch_internals.py``).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import graph
from torch.nn.modules import module as _module
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_pre_hooks
from torch.utils.hooks import RemovableHandle


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


def version(tensor: Tensor) -> int:
    """Grows with every change in place; -1 for tensors of inference mode, which do not count."""
    return -1 if tensor.is_inference() else tensor._version


def compiled_module(module: nn.Module) -> nn.Module | None:
    """The module below ``torch.compile(module)``; None for any other."""
    return module._modules.get("_orig_mod")


def compiles_itself(module: nn.Module) -> bool:
    """Whether ``module.compile()`` was called: then no hook of its runs."""
    return getattr(module, "_compiled_call_impl", None) is not None


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


def is_being_called(owner: object) -> bool:
    """Whether a method of an object is being executed in this thread."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_locals.get("self") is owner:
            return True
        frame = frame.f_back
    return False


def local_part(tensor: Tensor) -> Tensor:
    """What this process holds of a distributed tensor; any other tensor itself."""
    return tensor._local_tensor if hasattr(tensor, "_local_tensor") else tensor


def is_unreadable(tensor: Tensor) -> str:
    """Why the values of a tensor cannot be read; empty if they can."""
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        return "it was computed below a function transform (torch.func)"
    if tensor.is_meta:
        return "it is on the meta device and has no values"
    return ""
