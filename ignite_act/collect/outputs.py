"""The model's output, and what the loss makes of it."""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from ignite_act.collect.names import clean
from ignite_act.collect.passes import PassCollector, is_sample
from ignite_act.stats.likelihood import Likelihood, as_rows

ROW = "output"
_VIEWS = ("View", "Squeeze", "Unsqueeze", "Reshape", "Transpose", "Permute", "Slice", "Select", "ToCopy", "Alias", "T")
_KEEPING = ("NativeDropout", "Mul", "MaxPool", "AvgPool", "AdaptiveAvgPool", "AdaptiveMaxPool", "Mean")
"""What may stand between a softmax and a layer that it feeds (in attention a product with the values does)."""
_NORMS = ("NativeBatchNorm", "CudnnBatchNorm", "NativeLayerNorm", "NativeGroupNorm")
_FUNCTIONS = {
    "Softmax": "softmax", "LogSoftmax": "log_softmax", "Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh",
    "LeakyRelu": "leaky_relu", "Elu": "elu", "Gelu": "gelu", "Silu": "silu", "Hardtanh": "hardtanh",
    "Hardsigmoid": "hardsigmoid", "Hardswish": "hardswish", "Softplus": "softplus", "Mish": "mish",
    "LogSigmoid": "logsigmoid", "Clamp": "clamp", "ClampMin": "clamp",
}  # fmt: skip
_INF = math.inf
_REACH = {
    "softmax": (0.0, 1.0), "sigmoid": (0.0, 1.0), "hardsigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0),
    "hardtanh": (-1.0, 1.0), "relu": (0.0, _INF), "softplus": (0.0, _INF), "log_softmax": (-_INF, 0.0),
    "logsigmoid": (-_INF, 0.0),
}  # fmt: skip


class OutputCollector(PassCollector):
    """Range and variation of the model's output, whether it is made of probabilities, and what the loss does with it.

    Looked at in a few forwards of the window (see `is_sample`). The loss is recognised by the gradient that it
    sends back into the output (`stats.likelihood`), so no code of the user's has to tell of it. The one row is called
    ``output`` and holds:

    - ``units``, ``forwards`` (looked at), ``min``, ``max``;
    - ``variation``: largest standard deviation of a unit over the samples of a forward, and ``scale``, the largest
      absolute value;
    - ``probabilities``: share of the rows that are not negative and add up to 1 (of one unit: between 0 and 1);
    - ``function``, ``producer``: the activation function that made the output and the module it was called in, or "";
    - ``hidden_softmax``: the softmax that fed a layer, or ""; ``dropout``, ``dropout_layer``: the largest rate of a
      dropout module of the model, and its name;
    - ``backwards``: how many gradients were seen; ``loss_applies``: ``"softmax"``, ``"sigmoid"``, ``"nothing"`` (a
      likelihood of probabilities), ``"unknown"``, None if no gradient was seen; ``maximised``: whether the step goes
      away from the targets;
    - ``constant_loss``: the best loss of a prediction that ignores the inputs, the entropy of the targets in nats;
      ``first_loss``, ``mean_loss``: the loss of the first step and of all steps looked at, if it is what it seems to be
      and a mean over the samples; ``accuracy``: share of right answers in them; ``majority``: share of the largest
      class; ``entropy_within``: mean entropy of the targets of a step, far below ``constant_loss`` if they are sorted;
    - ``blocked``: share of the outputs that are exactly 0 and that the loss wants below;
    - if the loss is a mean squared error: ``squared_loss``, of the first step looked at, ``target_variance``, which is
      the loss of a constant prediction, ``target_variance_maximised``, the same if it is maximised, and ``beyond``, the
      share of targets out of reach of the output's function.
    """

    _made: dict[int, tuple[str, weakref.ref[Tensor]]]
    _seen: list[Tensor]  # of each forward (axes, numbers)
    _units: list[int]
    _likelihoods: dict[int, Likelihood]

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._begin()

    def begin_pass(self) -> bool:
        """Counts the forwards; a few of them are looked at."""
        self._made, self._softmax = {}, ""
        self._forwards += 1
        self._looking = is_sample(self._forwards)
        return self._looking

    def after_layer(self, name: str, given: Tensor | None, result: Tensor) -> None:
        """Sees whether the layer was fed with a softmax."""
        if not self._looking:
            return
        self._made[id(result)] = (name, weakref.ref(result))
        if given is not None and self._function_of(given, through=_KEEPING) == "softmax":
            self._hidden_softmax = self._softmax or "softmax"

    def after_part(self, name: str, given: Tensor | None, result: Tensor) -> None:
        """Remembers which module made a tensor."""
        if self._looking:
            self._made[id(result)] = (name, weakref.ref(result))
            if result is not given and type(result.grad_fn).__name__.startswith("Softmax"):
                self._softmax = name

    def after_model(self, given: Tensor | None, result: Tensor) -> None:
        """Takes in the output, and waits for its gradient."""
        if not self._looking or not result.is_floating_point() or result.numel() == 0:
            return
        self._function = self._function_of(result) or ""
        self._producer = self._maker(result)
        axes = [-1] if result.ndim < 3 else [-1, 1]
        rows = {axis: as_rows(result, axis).clone() for axis in axes}  # the output may be overwritten before backward
        self._seen.append(torch.stack([_numbers_of(item) for item in rows.values()]))
        self._units = [item.shape[1] for item in rows.values()]
        if result.requires_grad:
            reach = _REACH.get(self._function, (-math.inf, math.inf))
            own = weakref.ref(self)

            def backward(gradient: Tensor) -> None:
                collector = own()
                if collector is not None:
                    collector.after_backward(rows, gradient, reach)

            result.register_hook(backward)

    def after_backward(self, rows: Mapping[int, Tensor], gradient: Tensor, reach: tuple[float, float]) -> None:
        """Takes in the gradient of an output, whose rows are given for each axis that may be that of the units."""
        with self.timed(), torch.no_grad(), torch._C.DisableTorchFunction():
            try:
                for axis, values in rows.items():
                    known = self._likelihoods.setdefault(axis, Likelihood(values.shape[1]))
                    if known.units == values.shape[1]:
                        known.update(values, as_rows(gradient, axis), gradient.numel(), reach)
            except Exception as error:
                self.give_up(f"reading the output's gradient failed: {type(error).__name__}: {error}")

    def _maker(self, tensor: Tensor) -> str:
        name, made = self._made.get(id(tensor), ("", None))
        return name if made is not None and made() is tensor else ""

    def _function_of(self, tensor: Tensor, through: Sequence[str] = ()) -> str | None:
        """The activation function that made a tensor, seen through changes of shape."""
        node = tensor.grad_fn
        for _ in range(6):
            if node is None:
                return None
            name = type(node).__name__.partition("Backward")[0].lstrip("_").removeprefix("Unsafe")
            if name in _FUNCTIONS:
                return _FUNCTIONS[name]
            parents = [parent for parent, _ in node.next_functions if parent is not None]
            if through and parents and name.startswith(_NORMS):
                parents = parents[:1]  # the others are its weight and bias
            elif len(parents) != 1 or not name.startswith((*_VIEWS, *through)):
                return None
            node = parents[0]
        return None

    def _begin(self) -> None:
        super()._begin()
        self._trouble = ""
        self._forget()

    def _forget(self) -> None:
        self._forwards = 0
        self._looking = False
        self._made = {}
        self._seen = []
        self._units = []
        self._likelihoods = {}
        self._function = self._producer = self._hidden_softmax = self._softmax = ""

    def _numbers(self) -> dict[str, dict[str, Any]]:
        if not self._seen:
            return {}
        kept = [seen for seen in self._seen if seen.shape == self._seen[-1].shape]
        seen = torch.stack([item.cpu() for item in kept])  # (forwards, axes, numbers)
        loss, axis = self._loss()
        index = 1 if axis == 1 and seen.shape[1] > 1 else 0
        low, high, variation, scale, probabilities = seen[:, index].unbind(1)
        rate, dropout = max(((m.p, name) for name, m in self.model.named_modules() if isinstance(m, _DropoutNd)),
                            default=(0.0, ""))  # fmt: skip
        return {
            ROW: {
                "units": self._units[min(index, len(self._units) - 1)],
                "forwards": len(kept),
                "min": float(low.min()),
                "max": float(high.max()),
                "variation": float(variation.max()),
                "scale": float(scale.max()),
                "probabilities": float(probabilities.mean()),
                "function": self._function,
                "producer": self._producer,
                "hidden_softmax": self._hidden_softmax,
                "dropout": float(rate),
                "dropout_layer": clean(dropout),
                "backwards": max((item.steps for item in self._likelihoods.values()), default=0),
                **loss,
            }
        }

    def _loss(self) -> tuple[dict[str, Any], int]:
        """What is known of the loss, and the axis of the classes that it goes with."""
        computed = {axis: item.compute() for axis, item in self._likelihoods.items()}
        axis = max(computed, key=lambda axis: _certainty(computed[axis]), default=-1)
        return computed.get(axis, Likelihood(1).compute()), axis

    def _state(self) -> dict[str, Any]:
        return {
            "forwards": self._forwards,
            "seen": [seen.cpu().clone() for seen in self._seen],
            "units": list(self._units),
            "likelihoods": {axis: item.state_dict() for axis, item in self._likelihoods.items()},
            "words": [self._function, self._producer, self._hidden_softmax],
            "precedence": self._precedence,
        }

    def _load_state(self, state: Mapping[str, Any]) -> None:
        self._forwards = int(state["forwards"])
        self._seen = list(state["seen"])
        self._units = list(state["units"])
        self._likelihoods = {axis: Likelihood(**item) for axis, item in state["likelihoods"].items()}
        self._function, self._producer, self._hidden_softmax = state["words"]
        self._precedence = int(state["precedence"])

    def _unite(self, states: Sequence[Mapping[str, Any]]) -> None:
        first, *others = [state for state in states if state["seen"]] or states
        self._load_state(first)
        for state in others:
            self._seen += state["seen"]
            for axis, item in state["likelihoods"].items():
                if axis in self._likelihoods:
                    self._likelihoods[axis].merge(Likelihood(**item))


def _numbers_of(rows: Tensor) -> Tensor:
    """Lowest, highest, variation, scale and share of probability vectors of outputs ``(rows, units)``: ``(5,)``."""
    low, high = torch.aminmax(rows)
    if rows.shape[1] > 1:
        probable = ((rows.sum(1) - 1).abs() < 1e-3) & (rows >= 0).all(1)
    else:
        probable = ((rows >= 0) & (rows <= 1))[:, 0]
    variation = rows.std(0, correction=0).amax() if len(rows) > 1 else torch.full_like(low, math.nan)
    return torch.stack([low, high, variation, torch.maximum(-low, high), probable.float().mean()])


def _certainty(loss: Mapping[str, Any]) -> int:
    return (loss["loss_applies"] not in (None, "unknown")) + 2 * (loss["constant_loss"] is not None)
