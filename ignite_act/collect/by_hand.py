"""Finds activation functions that are put together from other functions, so that the coverage can list them.

``torch.where(x > 0, x, 0)`` is an activation only if ``x`` comes from a layer and the result goes into the next one, or
is what the model returns. A search follows the values of one forward from layer to layer and drops what is no
activation by what happens to it: normalisations and softmax by hand, boxes, guards against a logarithm of zero,
positional encodings, random samples of a variance. It runs in a few forwards of a window, changes nothing, and holds
tensors weakly.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ignite_act.collect.fixed import FixedTensors, is_zero
from ignite_act.collect.functions import Arguments, Function, Keywords, first_argument, named, tensors_in, word
from ignite_act.collect.hand_values import NOTHING, HandFinding, Trace, joined, kind_of_clamp, memory_of
from ignite_act.internals import number_of

ADVICE = "put it into a module and choose that with sites="
UNSEEN = "what happens inside cannot be seen"


class Place(NamedTuple):
    """The module that is being executed."""

    name: str
    kind: str
    hidden_from: frozenset[int]

    @property
    def label(self) -> str:
        """Its name in the coverage."""
        return self.name or self.kind


class HandSearch:
    """Follows one forward.

    Args:
        fixed: what is known of parameters and constants.
        say: called with each finding once it is certain.
    """

    def __init__(self, fixed: FixedTensors, say: Callable[[HandFinding], None]) -> None:
        self._fixed = fixed
        self._say = say
        self._place = Place("", "", frozenset())
        self._traces: dict[int, tuple[weakref.ref[Tensor], Trace]] = {}
        self._by_memory: dict[object, Trace] = {}
        self._waves: dict[object, tuple[bool, list[HandFinding]]] = {}  # sines or cosines, by their memory
        self._first_node: int | None = None  # of this forward's part of the autograd graph

    def follow(
        self, place: Place, function: Function, args: Arguments, kwargs: Keywords, result: Any, *, is_site: bool
    ) -> None:
        """Takes note of one call; a site is the activation of its layer."""
        self._place = place
        if is_site:
            made = Trace(self._of(first_argument(args, kwargs)).hidden, object(), mixed=True)
        elif is_zero(function, args):
            made = Trace(is_zero=True)
        else:
            made = _RULES.get(function, HandSearch._pass)(self, function, args, kwargs)
        for tensor in tensors_in((result,)):
            self._keep(tensor, made)
        if result is None and args and isinstance(args[0], Tensor) and made.hidden:
            self._keep(args[0], made)  # target[index] = value

    def leave(self, place: Place, args: Arguments, output: Tensor | None, opaque: bool) -> None:
        """A module returns a tensor: by code that nobody saw, if it is new and no function made it."""
        if output is None or (opaque and self._of(output) is not NOTHING):
            return
        if opaque or self._is_unseen(output):
            if not opaque and not any(output is own for own in args):
                self._report_unseen(place, output)
            self._keep(output, Trace(hidden=True, origin=object()))

    def finish(self, outputs: Iterable[Tensor]) -> None:
        """The model returns: what was made by hand last is an activation, too."""
        for tensor in outputs:
            trace = self._of(tensor)
            if trace.close and trace.findings and trace.findings[-1].at_the_end:
                self._confirm(trace.findings[-1:])

    def _of(self, value: Any) -> Trace:
        entry = self._traces.get(id(value))
        if entry is not None and entry[0]() is value:
            return entry[1]
        if isinstance(value, Tensor) and _is_by_function(value):
            return self._by_memory.get(memory_of(value), NOTHING)
        return NOTHING

    def _keep(self, tensor: Tensor, trace: Trace) -> None:
        if trace.hidden and not tensor.dtype.is_floating_point and trace.form != "mask":
            trace = NOTHING
        self._traces[id(tensor)] = (weakref.ref(tensor), trace)
        if trace.hidden:
            self._by_memory[memory_of(tensor)] = trace
        if self._first_node is None and tensor.grad_fn is not None:
            self._first_node = number_of(tensor.grad_fn)

    def _confirm(self, findings: Iterable[HandFinding]) -> None:
        for finding in findings:
            if not finding.is_void:
                finding.is_void = True
                self._say(finding)

    def _bent(self, traces: Sequence[Trace], function: Function, what: str, **kind: bool) -> Trace:
        """The trace of a value that an activation by hand has made."""
        name = ".".join(part for part in (self._place.name, word(function)) if part)
        finding = HandFinding(
            name, f"an activation by hand ({what}) is not measured: {ADVICE}", self._place.hidden_from, **kind
        )
        trace = joined(traces)
        before = tuple(own for own in trace.findings if finding.weak or not own.weak)  # else it is a part of this one
        return trace._replace(findings=(*before, finding), close=True)

    # What functions do.

    def _pass(self, function: Function, args: Arguments, kwargs: Keywords) -> Trace:
        """A pooling, a gather: its first argument goes on. A function with a weight is a layer."""
        first = first_argument(args, kwargs)
        rest = tensors_in((*args[1:], *kwargs.values()))
        if any(self._fixed.is_weight(own) for own in rest) and not self._fixed.is_fixed(first):
            return self._enter_layer(function, args, kwargs)
        traces = [self._of(own) for own in tensors_in((first,))]
        return traces[0] if traces and traces[0].form == "mask" else joined(traces)

    def _keep_value(self, function: Function, args: Arguments, kwargs: Keywords) -> Trace:
        """The same value in another shape, type or place."""
        return self._of(first_argument(args, kwargs))

    def _gather_all(self, function: Function, args: Arguments, kwargs: Keywords) -> Trace:
        return joined([self._of(own) for own in tensors_in((*args, *kwargs.values()))])

    def _combine(self, function: Function, args: Arguments, kwargs: Keywords) -> Trace:
        """A sum or a product; with a number it is a multiple of the same value."""
        given = [*args, *kwargs.values()][:2]
        traces = [self._of(own) for own in given]
        hidden = [trace for trace in traces if trace.hidden]
        if not hidden:
            return NOTHING
        if len(hidden) == 2:
            return self._combine_two(function, hidden, given[0] is given[1])
        trace, other = hidden[0], given[1 - traces.index(hidden[0])]
        if isinstance(other, Tensor):
            return joined(hidden)._replace(origin=trace.origin, close=trace.close)
        if trace.form == "part" and function in _SUMS and abs(other) == 1:
            return trace._replace(form="sum")
        return trace

    def _combine_two(self, function: Function, traces: list[Trace], same: bool) -> Trace:
        made = joined(traces)._replace(close=any(trace.close for trace in traces))
        if traces[0].origin is not traces[1].origin:
            return made
        forms = {trace.form for trace in traces}
        if function in _SUMS:
            return made._replace(origin=traces[0].origin, form="sum" if forms == {"part"} else "")
        if "mask" in forms:
            return self._bent(traces, function, "a product with a mask of the value")
        if same and not traces[0].mixed:
            return self._bent(traces, function, "a square between layers", weak=True, at_the_end=False)
        return made

    def _divide(self, function: Function, args: Arguments, kwargs: Keywords) -> Trace:
        """``1 / (1 + exp(-x))`` and its like; what else is divided by is a norm."""
        given = [*args, *kwargs.values()][:2]
        if function in _BACKWARDS:
            given = [1, *given[:1]]  # a reciprocal, or 1 / x
        above, below = self._of(given[0]), self._of(given[-1])
        if below.form == "sum":
            return self._bent([above, below], function, "a quotient by 1 and a function of the value")
        if not below.hidden:
            return above._replace(form="")
        findings = tuple(own for own in below.findings if not own.weak)
        return joined([above, below._replace(findings=findings)])

    def _take_part(self, function: Function, args: Arguments, kwargs: Keywords) -> Trace:
        """An exponential, alone, is a scale or a weight of softmax; of a square, a bell."""
        trace = self._of(first_argument(args, kwargs))
        if any(own.weak and not own.is_void for own in trace.findings) and trace.close:
            return self._bent([trace], function, "an exponential of a power")
        return trace._replace(form="part", findings=(), close=False) if trace.hidden else NOTHING

    def _take_logarithm(self, function: Function, args: Arguments, kwargs: Keywords) -> Trace:
        trace = self._of(first_argument(args, kwargs))
        if trace.form == ("part" if function in _LOG1P else "sum") and not trace.findings:
            return self._bent([trace], function, "a logarithm of 1 and an exponential")
        return self._drop(function, args, kwargs)

    def _drop(self, function: Function, args: Arguments, kwargs: Keywords) -> Trace:
        """What has to be guarded against, or mixes the units: no activation so far."""
        return joined([self._of(first_argument(args, kwargs))])._replace(findings=())

    def _compare(self, function: Function, args: Arguments, kwargs: Keywords) -> Trace:
        given = [*args, *kwargs.values()][:2]
        trace, other = self._of(given[0]), given[-1]
        single = not isinstance(other, Tensor) or other.numel() == 1
        return Trace(True, trace.origin, "mask") if trace.hidden and single else NOTHING

    def _choose(self, function: Function, args: Arguments, kwargs: Keywords) -> Trace:
        """``where``, ``masked_fill`` or ``x[mask] = 0`` with a mask of the value itself."""
        traces = [self._of(own) for own in tensors_in((*args, *kwargs.values()))]
        masks = [trace.origin for trace in traces if trace.form == "mask"]
        values = [trace for trace in traces if trace.hidden and trace.form != "mask"]
        if any(mask is value.origin for mask in masks for value in values):
            return self._bent(values, function, "a choice by the sign of the value")
        return joined(values)

    def _take_extreme(self, function: Function, args: Arguments, kwargs: Keywords) -> Trace:
        traces = [self._of(own) for own in tensors_in((*args, *kwargs.values()))]
        if len(traces) != 2:
            return self._reduce(function, args, kwargs)
        hidden = [trace for trace in traces if trace.hidden]
        same = len(hidden) == 2 and hidden[0].origin is hidden[1].origin
        if same or (hidden and any(trace.is_zero for trace in traces)):
            return self._bent(hidden, function, "the larger or smaller of the value and 0 or a multiple")
        return joined(hidden)

    def _clamp(self, function: Function, args: Arguments, kwargs: Keywords) -> Trace:
        trace = self._of(first_argument(args, kwargs))
        bounds = dict(zip(("min", "max"), args[1:], strict=False)) | kwargs
        kind, at_the_end = kind_of_clamp(bounds.get("min"), bounds.get("max"), trace.mixed)
        return self._bent([trace], function, kind, at_the_end=at_the_end) if kind and trace.hidden else trace

    def _bend(self, function: Function, args: Arguments, kwargs: Keywords) -> Trace:
        trace = self._of(first_argument(args, kwargs))
        return self._bent([trace], function, "a function that is not known") if trace.hidden else NOTHING

    def _take_power(self, function: Function, args: Arguments, kwargs: Keywords) -> Trace:
        """A power or absolute value of a layer's output; of anything else it is arithmetic."""
        trace = self._of(first_argument(args, kwargs))
        power = args[1] if len(args) > 1 else kwargs.get("exponent", 2)
        if not trace.hidden or not isinstance(power, (int, float)) or power < 1:
            return self._drop(function, args, kwargs)
        if trace.mixed or trace.findings:
            form = "part" if function in _ABSOLUTE else ""
            return joined([trace])._replace(origin=trace.origin, form=form, close=trace.close)
        bent = self._bent([trace], function, "a power between layers", weak=True, at_the_end=False)
        return bent._replace(origin=trace.origin, form="part") if function in _ABSOLUTE else bent

    def _wave(self, function: Function, args: Arguments, kwargs: Keywords) -> Trace:
        """A sine or a cosine; both, of the same values, are an encoding of positions."""
        value, is_sine = first_argument(args, kwargs), function in _SINES
        trace = self._of(value)
        if not trace.hidden:
            return NOTHING
        bent = self._bent([trace], function, "a function that is not known")
        before, findings = self._waves.setdefault(memory_of(value), (is_sine, []))
        findings.append(bent.findings[-1])
        if before is not is_sine:
            for finding in findings:
                finding.is_void = True
        return bent

    def _reduce(self, function: Function, args: Arguments, kwargs: Keywords) -> Trace:
        trace = self._of(first_argument(args, kwargs))
        for finding in trace.findings:
            finding.is_void = finding.is_void or finding.weak
        if trace.form == "mask":
            return NOTHING
        return joined([trace])._replace(mixed=trace.mixed or function not in _POOLS)

    def _multiply(self, function: Function, args: Arguments, kwargs: Keywords) -> Trace:
        """A matrix product, a norm or a fused layer is a layer if it has a weight."""
        if any(self._fixed.is_weight(own) for own in tensors_in((*args, *kwargs.values()))):
            return self._enter_layer(function, args, kwargs)
        return self._gather_all(function, args, kwargs)

    def _enter_layer(self, function: Function, args: Arguments, kwargs: Keywords) -> Trace:
        for own in tensors_in((*args, *kwargs.values())):
            if self._is_unseen(own):
                self._report_unseen(self._place, own)
            self._confirm(self._of(own).findings)
        return Trace(True, object())

    def _gate(self, function: Function, args: Arguments, kwargs: Keywords) -> Trace:
        name = ".".join(part for part in (self._place.name, word(function)) if part)
        what = "a gate that mixes units" if word(function) == "glu" else "an activation in a fused kernel"
        self._say(HandFinding(name, f"{what} is not measured", self._place.hidden_from))
        return joined([self._of(first_argument(args, kwargs))])

    # Code that nobody sees.

    def report_scripted(self, place: Place, function: str) -> None:
        """A module can call a TorchScript function, and without an autograd graph nobody knows whether it does."""
        reason = f"TorchScript function {function}: {UNSEEN}"
        self._say(HandFinding(".".join(filter(None, (place.name, function))), reason, place.hidden_from))

    def _is_unseen(self, tensor: Tensor) -> bool:
        entry, node = self._traces.get(id(tensor)), tensor.grad_fn
        if node is None or self._first_node is None or (entry is not None and entry[0]() is tensor):
            return False
        if self._fixed.is_fixed(tensor) or (_is_by_function(tensor) and memory_of(tensor) in self._by_memory):
            return False
        return number_of(node) > self._first_node

    def _report_unseen(self, place: Place, tensor: Tensor) -> None:
        name = type(tensor.grad_fn).__name__
        reason = f"TorchScript, an extension or compiled code computes part of it ({name}): {UNSEEN}"
        self._say(HandFinding(place.label, reason, place.hidden_from))
        self._keep(tensor, Trace(True, object()))


def _is_by_function(tensor: Tensor) -> bool:
    """Whether a custom autograd function made a tensor: it is then another object than the one seen inside."""
    return isinstance(tensor.grad_fn, torch.autograd.function.BackwardCFunction)


_SUMS = named("add", "add_", "sub", "sub_", "rsub", "__rsub__", "__radd__", "__add__", "__sub__", "subtract")
_PRODUCTS = named("mul", "mul_", "multiply", "multiply_", "__mul__", "__rmul__")
_DIVISIONS = named("div", "div_", "divide", "true_divide", "__truediv__", "__rtruediv__", "__rdiv__", "reciprocal")
_BACKWARDS = named("__rtruediv__", "__rdiv__", "reciprocal")
_ABSOLUTE = named("abs", "absolute")
_SINES = named("sin", "sin_")
_LOG1P = named("log1p")
_LAYERS = named(
    "linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution",
    "embedding", "embedding_bag", "bilinear", "multi_head_attention_forward",
)  # fmt: skip
_WEIGHED = named(
    "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "mv", "addmm", "addbmm", "baddbmm", "einsum", "tensordot",
    "batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm", "scaled_dot_product_attention", "lstm",
    "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell",
)  # fmt: skip
_SAME = named(
    "view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "permute", "transpose", "movedim", "contiguous",
    "clone", "detach", "to", "type", "type_as", "float", "half", "bfloat16", "double", "view_as", "reshape_as",
    "expand", "expand_as", "neg", "neg_", "negative", "alias", "positive", "t",
)  # fmt: skip
_ALL = named("cat", "concat", "concatenate", "stack", "hstack", "vstack", "lerp", "addcmul", "addcdiv", "index_add")
_REDUCTIONS = named(
    "sum", "mean", "norm", "vector_norm", "var", "std", "var_mean", "std_mean", "amax", "amin", "cumsum", "prod",
    "logsumexp", "median", "nansum", "nanmean", "softmax", "log_softmax",
)  # fmt: skip
_POOLS = named("avg_pool1d", "avg_pool2d", "avg_pool3d", "mean")
_GUARDED = named(
    "sqrt", "sqrt_", "rsqrt", "logit", "acos", "asin", "log2", "log10", "normalize", "cross_entropy", "nll_loss",
    "mse_loss", "l1_loss", "smooth_l1_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits", "kl_div",
)  # fmt: skip
_RULES: dict[Function, Callable[[HandSearch, Function, Arguments, Keywords], Trace]] = {
    function: rule
    for functions, rule in (
        (_LAYERS, HandSearch._enter_layer),
        (_WEIGHED, HandSearch._multiply),
        (_SAME, HandSearch._keep_value),
        (_ALL, HandSearch._gather_all),
        (_SUMS | _PRODUCTS, HandSearch._combine),
        (_DIVISIONS, HandSearch._divide),
        (named("exp", "exp_", "expm1", "exp2"), HandSearch._take_part),
        (named("log", "log_", "log1p"), HandSearch._take_logarithm),
        (named("gt", "ge", "lt", "le", "greater", "less", "__gt__", "__ge__", "__lt__", "__le__"), HandSearch._compare),
        (named("where", "masked_fill", "masked_fill_", "__setitem__"), HandSearch._choose),
        (named("maximum", "minimum", "max", "min", "fmax", "fmin"), HandSearch._take_extreme),
        (named("clamp", "clamp_", "clamp_min", "clamp_min_", "clip", "clip_"), HandSearch._clamp),
        (named("erf", "erf_", "erfc", "ndtr", "atan", "arctan", "asinh", "arcsinh", "sinc"),
         HandSearch._bend),
        (named("pow", "pow_", "__pow__", "square", "square_", "abs", "absolute"), HandSearch._take_power),
        (_SINES | named("cos", "cos_"), HandSearch._wave),
        (_REDUCTIONS | _POOLS, HandSearch._reduce),
        (_GUARDED, HandSearch._drop),
        (named("glu", "_addmm_activation", "cudnn_convolution_relu", "cudnn_convolution_add_relu"), HandSearch._gate),
    )
    for function in functions
}  # fmt: skip
