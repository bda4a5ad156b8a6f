"""What the diagnostics should say, found another way: from ATen operations below autograd, in float64.

The twin knows nothing of ignite_act. A dispatch mode sees each operation after autograd has taken note of it; the
operation's place in the model comes from the interpreter's stack. It keeps every number that it saw and computes at
the end. Functions that torch writes as arithmetic (``softsign``, ``tanhshrink``) cannot be told there.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from types import FrameType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

POINTWISE = {
    "relu": "relu", "threshold": "threshold", "hardtanh": "hardtanh", "hardswish": "hardswish", "silu": "silu",
    "gelu": "gelu", "sigmoid": "sigmoid", "tanh": "tanh", "leaky_relu": "leaky_relu", "elu": "elu", "celu": "celu",
    "softplus": "softplus", "hardsigmoid": "hardsigmoid", "mish": "mish", "_prelu_kernel": "prelu",
    "rrelu_with_noise": "rrelu", "log_sigmoid_forward": "logsigmoid", "hardshrink": "hardshrink",
    "softshrink": "softshrink",
}  # fmt: skip
"""Name of an ATen operation, without the underscore of the in-place form -> name of the function. Softmax mixes units
and is no site."""


def _hardtanh(z: Tensor, low: float = -1.0, high: float = 1.0) -> Tensor:
    return (z <= low) | (z >= high)


FLAT: dict[str, Callable[..., Tensor]] = {
    "relu": lambda z: z <= 0,
    "relu6": _hardtanh,
    "hardtanh": _hardtanh,
    "hardswish": lambda z: z <= -3,
    "hardsigmoid": lambda z: (z <= -3) | (z >= 3),
    "threshold": lambda z, threshold, value: z <= threshold,
    "hardshrink": lambda z, bound=0.5: z.abs() <= bound,
    "softshrink": lambda z, bound=0.5: z.abs() <= bound,
}
"""Where the derivative is exactly zero, given the input and the operation's other arguments."""


@dataclass
class Site:
    """Everything that one call of an activation function gave in the forwards of a window."""

    name: str
    function: str
    values: list[Tensor] = field(default_factory=list)  # flat, float64
    alive: Tensor = field(default_factory=lambda: torch.empty(0))  # per unit: the slope was not zero somewhere
    saturated: int = 0

    def add(self, other: Site) -> None:
        """Takes in what was seen elsewhere of the same site."""
        self.values += other.values
        self.saturated += other.saturated
        self.alive = self.alive | other.alive if self.alive.numel() else other.alive

    def numbers(self) -> dict[str, float]:
        """Count, mean, population deviation, extremes, fractions of zeros and of saturated values, of all at once."""
        x = torch.cat(self.values)
        return {
            "count": x.numel(),
            "mean": x.mean().item(),
            "std": x.std(correction=0).item(),
            "min": x.min().item(),
            "max": x.max().item(),
            "zero_fraction": (x == 0).double().mean().item(),
            "saturated_fraction": self.saturated / x.numel(),
        }

    @property
    def dead(self) -> list[int]:
        """Indices of the units whose slope was zero at every sample."""
        return (~self.alive).nonzero().flatten().tolist()


@dataclass
class _Call:
    module: int  # id
    function: str
    values: Tensor
    alive: Tensor
    saturated: Callable[[], int]  # to be asked where there is autograd again


class Twin(TorchDispatchMode):
    """Reads the forwards that run inside its ``with`` block, one forward a block.

    Args:
        model: its names name the sites.
        axis: of the units.
        hidden: classes into whose forward it does not look.
    """

    def __init__(self, model: nn.Module, axis: int, hidden: Iterable[type[nn.Module]] = ()) -> None:
        super().__init__()
        self._names: dict[int, list[str]] = {}
        self._modules = dict(model.named_modules(remove_duplicate=False))
        for name, module in self._modules.items():
            self._names.setdefault(id(module), []).append(name)
        self._axis = axis
        self._hidden = tuple(hidden)
        self._looking = True
        self._calls: list[_Call] = []
        self.sites: dict[str, Site] = {}
        """Name -> site, in the order of first call."""
        self._called: set[str] = set()

    @property
    def empty(self) -> set[str]:
        """Names of the calls that never had any values: an expert without tokens."""
        return self._called - set(self.sites)

    def __enter__(self) -> Twin:
        self._calls = []
        self._patches = ExitStack()
        for kind in self._hidden:
            self._patches.enter_context(patch.object(kind, "forward", self._unobserved(kind.forward)))
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        self._patches.close()
        often, seen = Counter(call.module for call in self._calls), Counter[int]()
        labels = Counter[str]()
        for call in self._calls:
            names = self._names[call.module]
            name = names[seen[call.module]] if often[call.module] == len(names) else names[0]
            seen[call.module] += 1
            if not _is_activation(self._modules[name]):
                name = f"{name}.{call.function}".removeprefix(".")
            labels[name] += 1
            label = name if labels[name] == 1 else f"{name}#{labels[name]}"
            self._called.add(label)
            if call.values.numel():
                site = self.sites.setdefault(label, Site(label, call.function))
                site.add(Site(label, call.function, [call.values], call.alive, call.saturated()))

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        function = POINTWISE.get(func.overloadpacket.__name__.removesuffix("_"))
        if function is None or not self._looking:
            return func(*args, **(kwargs or {}))
        z = args[0].detach().clone()
        result = func(*args, **(kwargs or {}))
        y = result[0] if isinstance(result, tuple) else result  # log_sigmoid_forward has a buffer
        if function == "hardtanh" and tuple(args[1:3]) == (0, 6):
            function = "relu6"
        elif function == "elu" and len(args) > 2 and args[2] != 1:
            function = "selu"
        flat = FLAT[function](z, *args[1:]) if function in FLAT else torch.zeros_like(z, dtype=torch.bool)
        others = [axis for axis in range(y.ndim) if axis != self._axis % y.ndim]
        slopes = partial(_saturated, func, z, args[1:], kwargs or {}) if function not in ("prelu", "rrelu") else int
        alive = (~flat).any(others) if others else ~flat
        self._calls.append(_Call(self._place(), function, y.detach().double().flatten().clone(), alive, slopes))
        return result

    def _place(self) -> int:
        """Id of the innermost module whose method is being executed."""
        frame: FrameType | None = sys._getframe(2)
        while frame is not None:
            module = frame.f_locals.get("self")
            if isinstance(module, nn.Module) and id(module) in self._names:
                return id(module)
            frame = frame.f_back
        raise RuntimeError("an activation function was called outside the model")

    def _unobserved(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        def unobserved(*args: Any, **kwargs: Any) -> Any:
            self._looking = False
            try:
                return forward(*args, **kwargs)
            finally:
                self._looking = True

        return unobserved


GRID = torch.linspace(-20, 20, 40_001, dtype=torch.float64)
_steepest: dict[str, float] = {}  # by function and arguments


def _saturated(function: Any, z: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """How many slopes are below 5 % of the steepest there is (learned and random slopes have no steepest)."""

    def slopes(at: Tensor) -> Tensor:
        with torch.enable_grad():
            at = at.detach().double().requires_grad_()
            y = function(at * 1, *args, **kwargs)  # a copy, for functions that work in place
            y = y[0] if isinstance(y, tuple) else y
            return torch.autograd.grad(y.sum(), at)[0].abs()

    key = f"{function} {args} {kwargs}"
    if key not in _steepest:
        _steepest[key] = slopes(GRID).max().item()
    return int((slopes(z) < 0.05 * _steepest[key]).sum()) if z.numel() else 0


def _is_activation(module: nn.Module) -> bool:
    """Whether a module is one of torch's activation functions, of which a call has no other name than the module's."""
    kind = type(module)
    return kind.__module__ == "torch.nn.modules.activation" and kind is not nn.MultiheadAttention


def gradients(model: nn.Module) -> dict[str, float]:
    """Layer -> mean absolute gradient now, of every parameter of two dimensions or more that has one."""
    return {
        name.removesuffix(".weight"): p.grad.abs().double().mean().item()
        for name, p in model.named_parameters()
        if p.ndim > 1 and p.grad is not None
    }
