"""The model's outputs, and what the loss makes of them."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ignite_act.collect.attention import sharpness
from ignite_act.collect.graphs import Reading, function_of, mark, reading
from ignite_act.collect.latents import information
from ignite_act.collect.layers import find_layers
from ignite_act.collect.loss_graph import NOTHING, LossFacts, loss_facts
from ignite_act.collect.names import clean
from ignite_act.collect.passes import ModelCall, PassCollector, Place, is_sample
from ignite_act.guard import guarded
from ignite_act.internals import BATCH_NORM, DROPOUT, backward_number, is_distributed, why_unreadable, without_functions
from ignite_act.stats.guesses import TINY
from ignite_act.stats.likelihood import ANYWHERE, NAMES, Likelihood, as_rows

ROW = "output"
_KEEPING = ("NativeDropout", "Mul", "MaxPool", "AvgPool", "AdaptiveAvgPool", "AdaptiveMaxPool", "Mean")
"""What may stand between a softmax and a layer that it feeds (in attention a product with the values does)."""
_EVEN = 1e-3
_INF = math.inf
_REACH = {
    "softmax": (0.0, 1.0), "sigmoid": (0.0, 1.0), "hardsigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0),
    "hardtanh": (-1.0, 1.0), "relu": (0.0, _INF), "softplus": (0.0, _INF), "log_softmax": (-_INF, 0.0),
    "logsigmoid": (-_INF, 0.0),
}  # fmt: skip

_NO_LIKELIHOOD = {
    "loss_applies": "unknown",
    **dict.fromkeys(("maximised", "constant_loss", "first_loss", "mean_loss", "accuracy", "majority", "entropy",
                     "entropy_within")),
}  # fmt: skip


@dataclass
class _Head:
    """One tensor of the output, over the forwards of a window that were looked at.

    Attributes:
        seen: of each forward ``(axes, numbers)``, see `_numbers_of`.
        units: for each axis that may be that of the units.
        likelihoods: axis -> what the gradients say of the loss.
        function, producer: the activation function that made it, and the module it was called in.
        read, fed: backwards whose loss read it, and backwards in which other layers read it first.
        facts: what the loss does with it.
    """

    seen: list[Tensor] = field(default_factory=list)
    units: list[int] = field(default_factory=list)
    likelihoods: dict[int, Likelihood] = field(default_factory=dict)
    function: str = ""
    producer: str = ""
    read: int = 0
    fed: int = 0
    facts: LossFacts = NOTHING

    def loss(self) -> tuple[dict[str, Any], int]:
        """What is known of the loss, and the axis of the classes that it goes with."""
        computed = {axis: item.compute() for axis, item in self.likelihoods.items()}
        axis = max(computed, key=lambda axis: _certainty(computed[axis]), default=-1)
        return computed.get(axis) or dict.fromkeys(NAMES), axis

    def row(self, loss: dict[str, Any], axis: int) -> dict[str, Any]:
        """The numbers of this output; see `OutputCollector`.

        Args:
            loss, axis: see `loss`.
        """
        kept = [seen for seen in self.seen if seen.shape == self.seen[-1].shape]
        seen = torch.stack([item.cpu() for item in kept])  # (forwards, axes, numbers)
        if self.facts.distance:
            loss = loss | _NO_LIKELIHOOD
        index = 1 if axis == 1 and seen.shape[1] > 1 else 0
        low, high, variation, scale, probabilities, spread, uneven = seen[:, index].unbind(1)
        return {
            "units": self.units[min(index, len(self.units) - 1)],
            "forwards": len(kept),
            "min": float(low.min()),
            "max": float(high.max()),
            "variation": float(variation.max()),
            "scale": float(scale.max()),
            "probabilities": float(probabilities.mean()),
            "spread": float(spread.max()),
            "unit_norm": bool((uneven < _EVEN).all()),
            "function": self.function,
            "producer": self.producer,
            "backwards": max((item.steps for item in self.likelihoods.values()), default=0),
            **loss,
            **self.facts._asdict(),
        }

    def merge(self, other: _Head) -> None:
        """Takes in what another process has seen of the same output."""
        self.seen += other.seen
        self.read += other.read
        self.fed += other.fed
        for axis, item in other.likelihoods.items():
            if axis in self.likelihoods:
                self.likelihoods[axis].merge(item)
            else:
                self.likelihoods[axis] = item

    def state(self) -> dict[str, Any]:
        """Tensors and plain types."""
        return {
            **vars(self),
            "seen": [seen.cpu().clone() for seen in self.seen],
            "units": list(self.units),
            "likelihoods": {axis: item.state_dict() for axis, item in self.likelihoods.items()},
            "facts": tuple(self.facts),
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> _Head:
        """From its ``state``."""
        likelihoods = {axis: Likelihood(**item) for axis, item in state["likelihoods"].items()}
        lists = {"seen": list(state["seen"]), "units": list(state["units"])}
        return cls(**{**state, **lists, "likelihoods": likelihoods, "facts": LossFacts(*state["facts"])})


class _Look:
    """One forward that is looked at, until its backwards are over. It keeps no part of the graph alive."""

    def __init__(self, outputs: Mapping[str, Tensor]) -> None:
        self.places = tuple(outputs)
        self.number = mark(outputs)
        self._known: tuple[int, Reading, LossFacts] | None = None

    def reading(self, own: Iterable[nn.Parameter]) -> tuple[Reading, LossFacts]:
        """Which outputs the loss of the running backward reads, and what it does with them."""
        backward = backward_number()
        if self._known is None or self._known[0] != backward:
            found, operations = reading(self.number, self.places, {id(parameter) for parameter in own})
            self._known = backward, found, loss_facts(operations)
        return self._known[1:]


class OutputCollector(PassCollector):
    """Range and variation of the model's output, whether it is made of probabilities, and what the loss does with it.

    Looked at in a few forwards of the window (see `is_sample`). Every tensor of the output is followed. The one that
    is judged is the one that the loss reads: it is found in the graph of autograd when its gradient comes. A scalar is
    a loss, and no output to be judged; what other layers or products of matrices read first, outside of the forward, is
    a hidden value. The loss is recognised by the gradient that it sends back (`stats.likelihood`), so no code of the
    user's has to tell of it. The one row is called ``output`` and holds:

    - ``place``: where the tensor stands in the output, "" for a tensor by itself; ``heads``: place -> the same numbers
      for each of the others that a loss reads;
    - ``units``, ``forwards`` (looked at), ``min``, ``max``;
    - ``variation``: largest standard deviation of a unit over the samples of a forward, and ``scale``, the largest
      absolute value;
    - ``spread``: variance of the directions of the rows, 0 to 1, and ``unit_norm``, whether all have the same norm;
    - ``probabilities``: share of the rows that are not negative and add up to 1 (of one unit: between 0 and 1);
    - ``function``, ``producer``: the activation function that made the output and the module it was called in, or "";
    - ``hidden_softmax``: the softmax that fed a layer, or ""; ``dropout``, ``dropout_layer``: the largest rate of a
      dropout module of the model, and its name;
    - ``latents``: layer -> nats that the drawn values which it is given tell of their sample, see `collect.latents`;
      ``normed``: batch norm module -> the most values of a channel that it took a mean over;
    - ``attention``: layer -> share of the queries that it makes, in the first forward, whose attention gives all but
      1 % to one key;
    - ``backwards``: how many gradients were seen; ``loss_applies``: ``"softmax"``, ``"sigmoid"``, ``"nothing"`` (a
      likelihood of probabilities), ``"unknown"``, None if no gradient was seen; ``maximised``: whether the step goes
      away from the targets;
    - ``constant_loss``: the best loss of a prediction that ignores the inputs, the entropy of the targets in nats;
      ``first_loss``, ``mean_loss``: the loss of the first step and of all steps looked at, if it is what it seems to be
      and a mean over the samples; ``accuracy``: share of right answers in them; ``majority``: share of the largest
      class; ``entropy_within``: mean entropy of the targets of a step, far below ``entropy``, that of all, if they are
      sorted;
    - ``applies_again``, ``takes_logarithms_of``, ``normalises``, ``distance``, ``pairs``: what the loss does with the
      output, see `collect.loss_graph`;
    - ``rows``: how many of its rows had a gradient in a step, the mean; ``blocked``: share of the outputs that are
      exactly 0 and that the loss wants below;
    - if the loss is a mean squared error: ``squared_loss``, of the first step looked at, ``target_variance``, which is
      the loss of a constant prediction, ``target_variance_maximised``, the same if it is maximised, and ``beyond``, the
      share of targets out of reach of the output's function; ``one_target``: whether each step has one target for all
      of its samples;
    - ``linear_loss``: the loss of the first step if it is a sum of outputs with constant factors, as `NLLLoss` is, and
      ``logarithms``: whether the outputs of each row are logarithms of probabilities.
    """

    _made: dict[int, tuple[str, weakref.ref[Tensor]]]
    _heads: dict[str, _Head]
    _scalars: list[str]  # outputs of no dimension
    _attention: dict[str, Tensor]  # of the first forward
    _latents: dict[str, Tensor]  # layer -> nats that the drawn values it is given tell of the sample
    _norms: set[str]  # the batch norm modules that are training
    _normed: dict[str, int]  # of those: values of a channel that a mean was taken over

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._begin()

    def begin_pass(self) -> bool:
        """Counts the forwards; a few of them are looked at."""
        self._made, self._softmax = {}, ""
        self._forwards += 1
        self._looking = is_sample(self._forwards)
        if self._looking:
            self._norms = {clean(name) for name, m in self.model.named_modules()
                           if isinstance(m, BATCH_NORM) and m.training}  # fmt: skip
        return self._looking

    def after_layer(self, place: Place, given: Tensor | None, result: Tensor) -> None:
        """Sees whether the layer was fed with a softmax."""
        if not self._looking:
            return
        self._made[id(result)] = (place.name, weakref.ref(result))
        if given is None:
            return
        if function_of(given, through=_KEEPING) == "softmax":
            self._hidden_softmax = self._softmax or "softmax"
        with guarded(self, "values that are drawn"), torch.no_grad():
            nats = information(given)
            if nats is not None:
                self._latents[place.name] = nats

    def after_part(self, name: str, given: Tensor | None, result: Tensor) -> None:
        """Remembers which module made a tensor."""
        if self._looking:
            self._made[id(result)] = (name, weakref.ref(result))
            if name in self._norms and given is not None and given.ndim > 1:
                self._normed[name] = max(self._normed.get(name, 0), given.numel() // given.shape[1])
            if result is not given and type(result.grad_fn).__name__.startswith("Softmax"):
                self._softmax = name

    def after_model(self, call: ModelCall) -> None:
        """Takes in the outputs, and waits for their gradients."""
        if not self._looking:
            return
        self._scalars = [place for place, tensor in call.outputs.items() if tensor.ndim == 0]
        if self._forwards == 1:
            with guarded(self, "how sharp attention is"), torch.no_grad():
                layers = {key: layer.name for key, layer in find_layers(self.model, None).chosen.items()}
                self._attention = sharpness(call.outputs.values(), layers)
        outputs = {place: tensor for place, tensor in call.outputs.items() if self._is_judged(place, tensor)}
        rows = {place: self._take_in(place, tensor) for place, tensor in outputs.items()}
        waiting = {place: tensor for place, tensor in outputs.items() if tensor.grad_fn is not None}
        if waiting:
            look, own = _Look(waiting), weakref.ref(self)
            for place, tensor in waiting.items():
                tensor.register_hook(_Backward(own, look, place, rows[place]))
        for place, tensor in outputs.items():
            if tensor.requires_grad and tensor.grad_fn is None:  # a hook would stay on it for ever
                self.skip(f"gradient of the output {place}".rstrip(), "it is a parameter of the model itself")

    def _is_judged(self, place: str, tensor: Tensor) -> bool:
        if not tensor.is_floating_point() or tensor.numel() == 0 or tensor.ndim == 0:
            return False
        reason = why_unreadable(tensor) or ("it is a distributed tensor" if is_distributed(tensor) else "")
        if reason:
            self.skip(f"output {place}".rstrip(), reason)
        return not reason

    def _take_in(self, place: str, tensor: Tensor) -> dict[int, Tensor]:
        """Reads one output; returns its rows for each axis that may be that of the units."""
        head = self._heads.setdefault(place, _Head())
        head.function = function_of(tensor) or ""
        head.producer = self._maker(tensor)
        axes = [-1] if tensor.ndim < 3 else [-1, 1]
        rows = {axis: as_rows(tensor, axis).clone() for axis in axes}  # may be overwritten before backward
        head.units = [item.shape[1] for item in rows.values()]
        head.seen.append(torch.stack([_numbers_of(item) for item in rows.values()]))
        return rows

    def after_backward(self, look: _Look, place: str, rows: Mapping[int, Tensor], gradient: Tensor) -> None:
        """Takes in the gradient of an output, whose rows are given for each axis that may be that of the units."""
        head = self._heads.get(place)
        if head is None:
            return
        found, facts = look.reading(self.model.parameters())
        head.fed += place in found.fed
        head.facts = facts
        if place not in found.read:
            return
        head.read += 1
        reach = _REACH.get(head.function, ANYWHERE)
        for axis, values in rows.items():
            known = head.likelihoods.setdefault(axis, Likelihood(values.shape[1]))
            if known.units == values.shape[1]:
                known.update(values, as_rows(gradient, axis), gradient.numel(), reach)

    def _maker(self, tensor: Tensor) -> str:
        name, made = self._made.get(id(tensor), ("", None))
        return name if made is not None and made() is tensor else ""

    def _begin(self) -> None:
        super()._begin()
        self._forget()

    def _forget(self) -> None:
        self._forwards = 0
        self._looking = False
        self._made = {}
        self._heads = {}
        self._scalars = []
        self._hidden_softmax = self._softmax = ""
        self._attention = {}
        self._latents = {}
        self._norms = set()
        self._normed = {}

    def _numbers(self) -> dict[str, dict[str, Any]]:
        heads = {place: head for place, head in self._heads.items() if head.seen}
        if not heads:
            return {}
        losses = {place: head.loss() for place, head in heads.items()}
        # The one that is judged: the loss reads it, and can be told.
        main = max(heads, key=lambda place: (heads[place].read > 0, _certainty(losses[place][0])))
        others = {place: head.row(*losses[place]) for place, head in heads.items() if head.read and place != main}
        rate, dropout = max(((m.p, name) for name, m in self.model.named_modules() if isinstance(m, DROPOUT)),
                            default=(0.0, ""))  # fmt: skip
        return {
            ROW: {
                "place": main,
                **heads[main].row(*losses[main]),
                "hidden_softmax": self._hidden_softmax,
                "dropout": float(rate),
                "dropout_layer": clean(dropout),
                "heads": others,
                "latents": {clean(name): float(nats) for name, nats in self._latents.items()},
                "normed": dict(self._normed),
                "attention": {clean(name): float(share) for name, share in self._attention.items()},
            }
        }

    def _find_unseen(self, seen: tuple[str, ...]) -> dict[str, str]:
        unseen = super()._find_unseen(seen)
        if not self._forwards:
            nothing = "no forward of the whole model was seen in this window"
            reason = self._pass_tap.compiled or self._unless_compiled(nothing)
            unseen.setdefault("output", reason)
        elif not seen and self._scalars:
            unseen["output"] = "the model returns only its loss: its predictions are not seen"
        for place, head in self._heads.items():
            if head.fed and not head.read:
                name = f"output {place}".rstrip()
                unseen[name] = "other layers or products read it before the loss: what becomes of it is not judged"
        return unseen

    def _state(self) -> dict[str, Any]:
        return {
            "forwards": self._forwards,
            "heads": {place: head.state() for place, head in self._heads.items()},
            "scalars": list(self._scalars),
            "hidden_softmax": self._hidden_softmax,
            "attention": {name: share.cpu().clone() for name, share in self._attention.items()},
            "latents": {name: nats.cpu().clone() for name, nats in self._latents.items()},
            "normed": dict(self._normed),
            "kind": self._kind,
        }

    def _load_state(self, state: Mapping[str, Any]) -> None:
        self._forwards = int(state["forwards"])
        self._heads = {place: _Head.restored(head) for place, head in state["heads"].items()}
        self._scalars = list(state["scalars"])
        self._hidden_softmax = str(state["hidden_softmax"])
        self._attention = dict(state["attention"])
        self._latents = dict(state["latents"])
        self._normed = dict(state["normed"])
        self._kind = int(state["kind"])

    def _unite(self, states: Sequence[Mapping[str, Any]]) -> None:
        first, *others = [state for state in states if state["heads"]] or states
        self._load_state(first)
        for state in others:
            for place, head in state["heads"].items():
                if place in self._heads:
                    self._heads[place].merge(_Head.restored(head))
                else:
                    self._heads[place] = _Head.restored(head)


class _Backward:
    """A hook on one output: hands its gradient to the collector, which it holds weakly."""

    def __init__(self, own: weakref.ref[OutputCollector], look: _Look, place: str, rows: Mapping[int, Tensor]) -> None:
        self._own, self._look, self._place, self._rows = own, look, place, rows

    def __call__(self, gradient: Tensor) -> None:
        collector = self._own()
        if collector is not None:
            with guarded(collector, "the gradient of the output"), torch.no_grad(), without_functions():
                collector.after_backward(self._look, self._place, self._rows, gradient)


def _numbers_of(rows: Tensor) -> Tensor:
    """Of outputs ``(rows, units)``: lowest, highest, variation, scale, share of probability vectors, spread of the
    directions and how uneven the norms of the rows are: ``(7,)``."""
    low, high = torch.aminmax(rows)
    if rows.shape[1] > 1:
        probable = ((rows.sum(1) - 1).abs() < 1e-3) & (rows >= 0).all(1)
    else:
        probable = ((rows >= 0) & (rows <= 1))[:, 0]
    variation = rows.std(0, correction=0).amax() if len(rows) > 1 else torch.full_like(low, math.nan)
    square = rows.square().sum(1)
    spread = 1 - F.normalize(rows, dim=1).mean(0).square().sum()
    uneven = (square - square.mean()).abs().amax() / square.mean().clamp(min=TINY)
    return torch.stack([low, high, variation, torch.maximum(-low, high), probable.float().mean(), spread, uneven])


def _certainty(loss: Mapping[str, Any]) -> int:
    return (loss["loss_applies"] not in (None, "unknown")) + 2 * (loss["constant_loss"] is not None)
