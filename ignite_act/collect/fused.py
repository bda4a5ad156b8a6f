"""Modules inside of which calls cannot be seen: fused kernels and compiled code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

FUSING = (nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.MultiheadAttention)
"""Modules that torch may compute in one kernel."""

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
    if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
        return "it is compiled by torch.compile: calls inside may not be seen"
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return "its activations are computed inside a fused kernel"
    if isinstance(module, nn.GLU):
        return "a gate that mixes units is not measured"
    return ""


def scripted_functions(module: nn.Module) -> list[str]:
    """Names of the TorchScript functions that a module's forward can call: no mode and no hook sees those calls."""
    forward = getattr(type(module).forward, "__wrapped__", type(module).forward)
    code = getattr(forward, "__code__", None)
    if code is None:
        return []
    known = {name: forward.__globals__.get(name) for name in code.co_names}
    known |= dict(zip(code.co_varnames[: code.co_argcount][::-1], (forward.__defaults__ or ())[::-1], strict=False))
    known |= forward.__kwdefaults__ or {}
    known |= {name: cell.cell_contents for name, cell in zip(code.co_freevars, forward.__closure__ or (), strict=False)}
    known |= vars(module)
    return [str(own.name) for own in known.values() if isinstance(own, torch.jit.ScriptFunction)]
