"""Modules inside of which calls cannot be seen: fused kernels and compiled code."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from types import FunctionType
from typing import Any

import torch
from torch import nn

from ignite_act.activations import labels_of_calls
from ignite_act.internals import compiled_module, compiles_itself

FUSING = (nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.MultiheadAttention)
"""Modules that torch may compute in one kernel."""

_OPERATOR = re.compile(r"(?:aten|prim)::(\w+)")
_BENDING = {"erf", "sin", "exp", "clamp", "clamp_min", "where", "maximum", "max", "CallFunction"}
_OWN_PARAMETERS = ("in_proj_weight", "in_proj_bias")  # of attention, that torch looks at before it fuses
_PARTS = ("self_attn", "out_proj", "linear1", "linear2", "norm1", "norm2")


def is_fused(module: nn.Module) -> bool:
    """Whether torch may compute a fusing module in one kernel now, which it would not do below a function mode."""
    if module.training:
        return False
    if not torch.is_grad_enabled():
        return True
    return not any(parameter.requires_grad for parameter in _checked(module))


def _checked(module: Any) -> Iterator[nn.Parameter]:
    """The parameters of which torch asks that none has a gradient."""
    if isinstance(module, nn.TransformerEncoder):
        module = module.layers[0]
    yield from (own for name in _OWN_PARAMETERS if isinstance(own := getattr(module, name, None), nn.Parameter))
    for part in (getattr(module, name, None) for name in _PARTS):
        if isinstance(part, nn.MultiheadAttention):
            yield from _checked(part)
        elif isinstance(part, nn.Module):
            yield from part.parameters(recurse=False)


def why_opaque(module: nn.Module) -> str:
    """Why what happens inside a module cannot be seen; empty if it can."""
    if isinstance(module, torch.jit.ScriptModule):
        return "it is compiled by TorchScript: calls inside cannot be seen"
    if compiled_module(module) is not None or compiles_itself(module):
        return "it is compiled by torch.compile: calls inside may not be seen"
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return "its activations are computed inside a fused kernel"
    if isinstance(module, nn.GLU):
        return "a gate that mixes units is not measured"
    return ""


def scripted_functions(module: nn.Module) -> list[str]:
    """Names of the TorchScript functions with an activation that a module's forward can call: nobody sees the calls."""
    bending = _BENDING | labels_of_calls()
    found: dict[str, None] = {}
    waiting = [(type(module).forward, 0), *((own, 1) for own in vars(module).values())]
    for own, depth in waiting:
        if isinstance(own, torch.jit.ScriptFunction) and not bending.isdisjoint(_OPERATOR.findall(str(own.graph))):
            found[str(own.name)] = None
        elif isinstance(own, FunctionType) and depth < 3:
            waiting += [(used, depth + 1) for used in _used_by(own)]
    return list(found)


def _used_by(function: FunctionType) -> Iterator[Any]:
    """What a function's code can reach by a name of its own."""
    yield from (function.__globals__.get(name) for name in function.__code__.co_names)
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # not filled yet
            yield cell.cell_contents
