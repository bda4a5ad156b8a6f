"""The registry of activation functions: name -> factory, and what is known of its derivative.

One dict, with the metadata beside the factory. An entry knows where its derivative is *exactly* zero (``flat``,
declared, because underflow cannot be told from flatness numerically) and where it is small (``saturated``, computed
from the function itself, so that it is right for every parameter value and for functions that users add).
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ignite_act.errors import first_line, quoted
from ignite_act.internals import NN_FUNCTIONS, arguments_of, operators

Interval = tuple[float, float]
"""Closed interval ``(low, high)`` of the pre-activation axis; the ends may be infinite."""

Intervals = tuple[Interval, ...]
Parameter = float | int | bool | str
Parameters = tuple[tuple[str, Parameter], ...]
"""Parameters of one use of a function, sorted by name: hashable, so that what follows from them is computed once."""

SATURATION_THRESHOLD = 0.05
"""A function is saturated where ``|f'(z)|`` is below this share of its maximum."""

_OPERATORS = {
    "logsigmoid": ("log_sigmoid",),
    "prelu": ("prelu", "_prelu_kernel"),
    "sigmoid": ("sigmoid", "sigmoid_", "special_expit"),
}
_NOT_PARAMETERS = {"inplace", "device", "dtype"}
_INF = math.inf


@dataclass(frozen=True)
class Call:
    """One function or tensor method that computes an activation in a ``forward``.

    Attributes:
        function: what ``torch.overrides`` reports, e.g. ``F.leaky_relu`` or ``torch.Tensor.relu_``.
        positional: names of the positional arguments after the input.
    """

    function: Callable[..., Any]
    positional: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Activation:
    """What is known of one activation function.

    Attributes:
        name: the identifier used in configs and on the command line.
        factory: makes the module; its keyword arguments are the function's parameters.
        description: one line for people.
        aliases: other names for the same function.
        flat: where the derivative is exactly zero, given the parameters: closed intervals of the pre-activation;
            ``()`` if nowhere; ``None`` if it is not known.
        flat_on_output: whether the output lies in ``flat`` exactly where the pre-activation does (true of functions
            that are the identity between their flat pieces), so that in-place calls can be judged.
        calls: the functional forms that a ``forward`` may use.
        functional: ``f(z, **parameters)`` for networks in functional style, where one exists.
        pointwise: false for functions that mix units (softmax): usable as an output, not measured as a site.
    """

    name: str
    factory: Callable[..., nn.Module]
    description: str
    aliases: tuple[str, ...] = ()
    flat: Callable[..., Intervals] | None = None
    flat_on_output: bool = False
    calls: tuple[Call, ...] = field(default=(), repr=False)
    functional: Callable[..., Tensor] | None = field(default=None, repr=False)
    pointwise: bool = True

    @functools.cached_property
    def parameters(self) -> dict[str, Parameter]:
        """Names and default values of the function's parameters."""
        signature = inspect.signature(self.factory)
        return {
            name: parameter.default
            for name, parameter in signature.parameters.items()
            if name not in _NOT_PARAMETERS
            and isinstance(parameter.default, (int, float, bool, str))
            and parameter.kind is not inspect.Parameter.VAR_KEYWORD
        }

    def flat_intervals(self, parameters: Mapping[str, Any] | None = None) -> Intervals | None:
        """Where the derivative is exactly zero.

        Args:
            parameters: values that differ from the defaults; names that the function does not have, and tensors, are
                ignored.

        Returns:
            Closed intervals of the pre-activation, ``()`` if the function has no flat piece, ``None`` if unknown.
        """
        return _flat_intervals(self, _frozen(parameters, self.parameters))

    def saturated_intervals(self, parameters: Mapping[str, Any] | None = None) -> Intervals:
        """Where ``|f'(z)|`` is below 5 % of its maximum.

        Args:
            parameters: values that differ from the defaults; names that the function does not have, and tensors, are
                ignored.

        Returns:
            Closed intervals of the pre-activation; ``()`` if there are none, the function is not element-wise, or
            it cannot be differentiated on its own.
        """
        return _saturated_intervals(self, _frozen(parameters, self.parameters))


class RecognisedCall(NamedTuple):
    """A function or tensor method that computes an activation.

    Attributes:
        activation_fn: the activation.
        positional: names of the positional arguments after the input.
        label: the function's name in the name of a site.
        in_place: whether it overwrites its input whatever the arguments.
    """

    activation_fn: Activation
    positional: tuple[str, ...]
    label: str
    in_place: bool


ACTIVATIONS: dict[str, Activation] = {}
"""Every known activation function by its name, in the order of registration."""

_NAMES: dict[str, str] = {}  # normalised name or alias -> name
_CALLS: dict[Callable[..., Any], RecognisedCall] = {}
_MODULES: dict[type[nn.Module], Activation] = {}

Factory = TypeVar("Factory", bound=Callable[..., nn.Module])


def register_activation(
    name: str,
    factory: Callable[..., nn.Module] | None = None,
    *,
    description: str = "",
    aliases: tuple[str, ...] = (),
    flat: Intervals | Callable[..., Intervals] | None = None,
    flat_on_output: bool = False,
    calls: tuple[Call, ...] = (),
    functional: Callable[..., Tensor] | None = None,
    pointwise: bool = True,
) -> Any:
    """Adds an activation function to the registry, as a call or as a decorator of a module class.

    If ``factory`` is a module class, its instances are recognised as one site each in every watched model.

    Args:
        name: identifier for configs and the command line; letters, digits, ``_`` and ``-``.
        factory: module class or function that makes a module; omitted in the decorator form.
        description: one line for people.
        aliases: other names.
        flat: intervals where the derivative is exactly zero, or a function from the parameters to them; ``()`` for
            none. By default it is unknown, and a unit is called dead if its output is one and the same number.
        flat_on_output, calls, functional, pointwise: see `Activation`.

    Returns:
        The factory, so that the decorator leaves the class as it was.

    Raises:
        ValueError: if the name or an alias is taken or is not a plain identifier.
    """
    if factory is None:
        return functools.partial(
            register_activation,
            name,
            description=description,
            aliases=aliases,
            flat=flat,
            flat_on_output=flat_on_output,
            calls=calls,
            functional=functional,
            pointwise=pointwise,
        )
    for label in (name, *aliases):
        if not label.replace("_", "").replace("-", "").isalnum():
            raise ValueError(f"an activation's name consists of letters, digits, '_' and '-', got {label!r}")
        if _normalised(label) in _NAMES:
            raise ValueError(f"the activation name {label!r} is taken by {_NAMES[_normalised(label)]!r}")
    if flat is not None and not callable(flat):
        intervals = flat

        def flat(**_: Any) -> Intervals:
            return intervals

    entry = Activation(
        name,
        factory,
        description or inspect.getdoc(factory) or name,
        aliases,
        flat,
        flat_on_output,
        calls,
        functional,
        pointwise,
    )
    ACTIVATIONS[name] = entry
    _NAMES.update({_normalised(label): name for label in (name, *aliases)})
    for call in calls:
        word = getattr(call.function, "__name__", name).split(".")[0]  # of an operator, without its overload
        _CALLS[call.function] = RecognisedCall(entry, call.positional, word.strip("_"), word.endswith("_"))
    if isinstance(factory, type) and issubclass(factory, nn.Module):
        _MODULES[factory] = entry
    return factory


def get_activation(name: str) -> Activation:
    """The entry for a name or alias; case, ``_`` and ``-`` do not matter.

    Raises:
        ValueError: if there is none; the message lists near matches.
    """
    key = _normalised(name)
    if key in _NAMES:
        return ACTIVATIONS[_NAMES[key]]
    near = difflib.get_close_matches(key[:100], _NAMES, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(sorted({_NAMES[match] for match in near}))}?" if near else ""
    raise ValueError(
        f"unknown activation {quoted(name)}{': ' + hint if hint else ''} (all of them: {', '.join(ACTIVATIONS)})"
    )


def make_activation(name: str, **parameters: Parameter) -> nn.Module:
    """A new module for a name and its parameters, e.g. ``make_activation("leakyrelu", negative_slope=0.1)``.

    Raises:
        ValueError: if the name, a parameter's name or its value does not fit.
    """
    entry = get_activation(name)
    check_parameters(entry, parameters)
    try:
        return entry.factory(**parameters)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise ValueError(f"activation {entry.name!r} refuses {quoted(parameters)}: {first_line(error)}") from error


def check_parameters(entry: Activation, parameters: Mapping[str, Parameter]) -> None:
    """Refuses parameters that the function does not have or that are of another kind than its defaults.

    Raises:
        ValueError: saying which parameters there are.
    """
    known = entry.parameters
    for name, value in parameters.items():
        if name not in known:
            names = ", ".join(f"{key}={default}" for key, default in known.items()) or "none"
            raise ValueError(f"activation {entry.name!r} has no parameter {quoted(name)} (it has: {names})")
        if isinstance(known[name], str) != isinstance(value, str):
            kind = "a word" if isinstance(known[name], str) else "a number"
            raise ValueError(f"parameter {name!r} of activation {entry.name!r} is {kind}, got {quoted(value)}")
        if isinstance(known[name], bool) != isinstance(value, bool):
            kind = "true or false" if isinstance(known[name], bool) else "a number"
            raise ValueError(f"parameter {name!r} of activation {entry.name!r} is {kind}, got {quoted(value)}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"parameter {name!r} of activation {entry.name!r} must be finite, got {quoted(value)}")


def recognised_call(function: Callable[..., Any]) -> RecognisedCall | None:
    """What is known of a function or tensor method if it computes an activation."""
    return _CALLS.get(function)


def labels_of_calls() -> set[str]:
    """The names that sites of functions have: ``relu``, ``leaky_relu``, ..."""
    return {call.label for call in _CALLS.values()}


def recognised_module(module: nn.Module) -> Activation | None:
    """The activation that a module is known to compute, by its type; ``nn.Identity`` is a placeholder and has none."""
    if isinstance(module, nn.Identity):
        return None
    for kind in type(module).__mro__:
        if kind in _MODULES:
            return _MODULES[kind]
    return None


def _normalised(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def _frozen(parameters: Mapping[str, Any] | None, known: Mapping[str, Parameter]) -> Parameters:
    """The parameters that the function has and that are plain values; learned ones (PReLU's weight) are tensors."""
    if not parameters or not known:
        return ()
    plain = ((name, value) for name, value in parameters.items() if name in known)
    return tuple(sorted((name, value) for name, value in plain if isinstance(value, (bool, int, float, str))))


@functools.lru_cache(maxsize=256)
def _flat_intervals(entry: Activation, parameters: Parameters) -> Intervals | None:
    return None if entry.flat is None else entry.flat(**{**entry.parameters, **dict(parameters)})


@functools.lru_cache(maxsize=256)
def _saturated_intervals(entry: Activation, parameters: Parameters) -> Intervals:
    if not entry.pointwise:
        return ()
    # It is asked for inside users' forwards: a thread of its own knows nothing of their inference mode, autocast,
    # checkpoints and function transforms.
    with ThreadPoolExecutor(max_workers=1) as thread, contextlib.suppress(Exception):
        return thread.submit(_solve_saturation, entry, parameters).result()
    return ()  # a function that cannot be differentiated on its own: not known


def _solve_saturation(entry: Activation, parameters: Parameters) -> Intervals:
    with torch.random.fork_rng(devices=[]):
        return _find_saturation(entry, parameters)


def _find_saturation(entry: Activation, parameters: Parameters) -> Intervals:
    module = entry.factory(**dict(parameters)).double().eval()
    positive = torch.logspace(-9, 6, 30_001, dtype=torch.float64)
    grid = torch.cat([-positive.flip(0), torch.zeros(1, dtype=torch.float64), positive])
    slope = _abs_derivative(module, grid)
    limit = SATURATION_THRESHOLD * float(slope.max())
    small = slope < limit
    change = torch.nonzero(small[1:] != small[:-1]).flatten().tolist()
    edges = [_crossing(module, limit, float(grid[i]), float(grid[i + 1])) for i in change]
    if bool(small[0]):
        edges.insert(0, -_INF)
    if bool(small[-1]):
        edges.append(_INF)
    return tuple(zip(edges[::2], edges[1::2], strict=True))


def _abs_derivative(module: nn.Module, points: Tensor) -> Tensor:
    with torch.enable_grad():
        z = points.detach().clone().requires_grad_()
        (slope,) = torch.autograd.grad(module(z).sum(), z)
    return slope.abs()


def _crossing(module: nn.Module, limit: float, low: float, high: float) -> float:
    """The saturated end of the step between two neighbouring points of the grid, by bisection."""
    low_is_small = bool(_abs_derivative(module, torch.tensor([low], dtype=torch.float64)) < limit)
    for _ in range(60):
        middle = (low + high) / 2
        is_small = bool(_abs_derivative(module, torch.tensor([middle], dtype=torch.float64)) < limit)
        low, high = (middle, high) if is_small == low_is_small else (low, middle)
    return low if low_is_small else high


def _no_flat(**_: Any) -> Intervals:
    return ()


def _below(limit: float) -> Intervals:
    return ((-_INF, limit),)


def _outside(low: float, high: float) -> Intervals:
    return ((-_INF, low), (high, _INF))


def _calls(name: str, *positional: str, extra: tuple[Callable[..., Any], ...] = ()) -> tuple[Call, ...]:
    """Everything in torch that is called ``name`` or ``name_``: functional, function, method and operator."""
    places = (F, torch, torch.Tensor, torch.special)
    forms = (name, f"{name}_")
    found = [getattr(place, form) for form in forms for place in places if hasattr(place, form)]
    calls = {function: Call(function, positional) for function in (*found, *extra)}
    for form in _OPERATORS.get(name, forms):
        calls = {call.function: call for call in _operators(form)} | calls
    return tuple(calls.values())


def _operators(form: str) -> Iterator[Call]:
    """An operator below the functions, and what ``torch.nn.functional`` calls for it, with arguments of their own."""
    found = operators(form)
    if not found:
        return
    positional = arguments_of(found[0])[1:]
    for function in (getattr(NN_FUNCTIONS, form, None), *found):
        if function is not None:
            yield Call(function, positional)


def _identity(z: Tensor) -> Tensor:
    return z


def _threshold(z: Tensor, threshold: float = 0.0, value: float = 0.0) -> Tensor:
    return F.threshold(z, threshold, value)


class Threshold(nn.Threshold):
    """``nn.Threshold`` with defaults, so that it can be chosen by name alone."""

    def __init__(self, threshold: float = 0.0, value: float = 0.0, inplace: bool = False) -> None:
        super().__init__(threshold, value, inplace)


def _register_torch() -> None:
    register = register_activation
    register(
        "relu",
        nn.ReLU,
        description="max(0, z); dies where z <= 0 on every sample",
        flat=_below(0.0),
        flat_on_output=True,
        calls=_calls("relu", "inplace"),
        functional=F.relu,
    )
    register(
        "leakyrelu",
        nn.LeakyReLU,
        description="z, or negative_slope * z below zero",
        flat=lambda negative_slope, **_: _below(0.0) if negative_slope == 0 else (),
        flat_on_output=True,
        calls=_calls("leaky_relu", "negative_slope", "inplace"),
        functional=F.leaky_relu,
    )
    register(
        "elu",
        nn.ELU,
        description="z, or alpha * (exp(z) - 1) below zero",
        flat=lambda alpha, **_: _below(0.0) if alpha == 0 else (),
        flat_on_output=True,
        calls=_calls("elu", "alpha", "inplace"),
        functional=F.elu,
    )
    register(
        "silu",
        nn.SiLU,
        description="z * sigmoid(z), also called Swish",
        aliases=("swish",),
        flat=_no_flat,
        calls=_calls("silu", "inplace"),
        functional=F.silu,
    )
    register(
        "tanh",
        nn.Tanh,
        description="hyperbolic tangent; saturates at both ends",
        flat=_no_flat,
        calls=_calls("tanh"),
        functional=torch.tanh,
    )
    register(
        "sigmoid",
        nn.Sigmoid,
        description="1 / (1 + exp(-z)); saturates at both ends, slope at most 1/4",
        aliases=("logistic",),
        flat=_no_flat,
        calls=_calls("sigmoid", extra=(torch.special.expit,)),
        functional=torch.sigmoid,
    )
    register(
        "gelu",
        nn.GELU,
        description="z * Phi(z), Phi the normal distribution function",
        flat=_no_flat,
        calls=_calls("gelu"),
        functional=F.gelu,
    )
    register(
        "relu6",
        nn.ReLU6,
        description="ReLU that stops at 6",
        flat=_outside(0.0, 6.0),
        flat_on_output=True,
        calls=_calls("relu6", "inplace"),
        functional=F.relu6,
    )
    register(
        "prelu",
        nn.PReLU,
        description="LeakyReLU whose slope is learned",
        flat=_no_flat,
        calls=_calls("prelu", "weight"),
    )
    register(
        "rrelu",
        nn.RReLU,
        description="LeakyReLU whose slope is random while training",
        flat=lambda lower, upper, **_: _below(0.0) if lower == upper == 0 else (),
        calls=_calls("rrelu", "lower", "upper", "training", "inplace"),
    )
    register(
        "selu",
        nn.SELU,
        description="scaled ELU that keeps mean 0 and variance 1",
        flat=_no_flat,
        calls=_calls("selu", "inplace"),
        functional=F.selu,
    )
    register(
        "celu",
        nn.CELU,
        description="ELU with a continuous derivative",
        flat=_no_flat,
        calls=_calls("celu", "alpha", "inplace"),
        functional=F.celu,
    )
    register(
        "mish",
        nn.Mish,
        description="z * tanh(softplus(z))",
        flat=_no_flat,
        calls=_calls("mish", "inplace"),
        functional=F.mish,
    )
    register(
        "hardswish",
        nn.Hardswish,
        description="piecewise approximation of Swish; flat below -3",
        flat=_below(-3.0),
        calls=_calls("hardswish", "inplace"),
        functional=F.hardswish,
    )
    register(
        "hardsigmoid",
        nn.Hardsigmoid,
        description="piecewise linear sigmoid; flat outside (-3, 3)",
        flat=_outside(-3.0, 3.0),
        calls=_calls("hardsigmoid", "inplace"),
        functional=F.hardsigmoid,
    )
    register(
        "hardtanh",
        nn.Hardtanh,
        description="z between min_val and max_val, constant outside",
        flat=lambda min_val, max_val, **_: _outside(min_val, max_val),
        flat_on_output=True,
        calls=_calls("hardtanh", "min_val", "max_val", "inplace"),
        functional=F.hardtanh,
    )
    register(
        "hardshrink",
        nn.Hardshrink,
        description="z, or 0 between -lambd and lambd",
        flat=lambda lambd, **_: ((-lambd, lambd),),
        calls=_calls("hardshrink", "lambd"),
        functional=F.hardshrink,
    )
    register(
        "softshrink",
        nn.Softshrink,
        description="z moved towards 0 by lambd, 0 in between",
        flat=lambda lambd, **_: ((-lambd, lambd),),
        calls=_calls("softshrink", "lambd"),
        functional=F.softshrink,
    )
    register(
        "tanhshrink", nn.Tanhshrink, description="z - tanh(z)", flat=_no_flat, calls=_calls("tanhshrink"),
        functional=F.tanhshrink,
    )  # fmt: skip
    register(
        "softplus",
        nn.Softplus,
        description="log(1 + exp(beta * z)) / beta, a smooth ReLU",
        flat=_no_flat,
        calls=_calls("softplus", "beta", "threshold"),
        functional=F.softplus,
    )
    register(
        "softsign",
        nn.Softsign,
        description="z / (1 + |z|); saturates slowly",
        flat=_no_flat,
        calls=_calls("softsign"),
        functional=F.softsign,
    )
    register(
        "logsigmoid",
        nn.LogSigmoid,
        description="log(sigmoid(z))",
        flat=_no_flat,
        calls=_calls("logsigmoid"),
        functional=F.logsigmoid,
    )
    register(
        "threshold",
        Threshold,
        description="z, or value where z <= threshold",
        flat=lambda threshold, **_: _below(threshold),
        calls=_calls("threshold", "threshold", "value", "inplace", extra=(getattr(F, "_threshold", F.threshold),)),
        functional=_threshold,
    )
    register("identity", nn.Identity, description="no activation: the network is linear", aliases=("linear", "none"),
             flat=_no_flat, functional=_identity)  # fmt: skip
    register("softmax", functools.partial(nn.Softmax, dim=-1), description="for outputs only: mixes the units",
             flat=None, functional=functools.partial(F.softmax, dim=-1), pointwise=False)  # fmt: skip
    _MODULES[nn.Threshold] = ACTIVATIONS["threshold"]


_register_torch()
