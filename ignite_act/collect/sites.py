"""What collectors of activation sites share: selection, sampling, one statistic a site."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from torch import nn

from ignite_act.activations import Activation, recognised_module
from ignite_act.collect import hooks
from ignite_act.collect.base import Collector
from ignite_act.collect.calls import ModuleInfo, SiteCall, SiteKey
from ignite_act.collect.forward import ForwardTap
from ignite_act.collect.names import Pattern, Patterns, as_patterns, is_glob, matches
from ignite_act.collect.scope import NOTHING_YET
from ignite_act.guard import reason_of
from ignite_act.internals import is_wrapped
from ignite_act.stats.base import Statistic

logger = logging.getLogger(__name__)

S = TypeVar("S", bound=Statistic)


_NO_AXIS = "its units' axis is not known: the channels were split or mixed with other axes; give unit_dim"


class _Choice(NamedTuple):
    """What the names of a module, or of a function called in it, mean for the user's choices."""

    info: ModuleInfo | None  # of the module as it was then
    selected: bool  # as far as can be said before the forward is over
    axis: int | None  # of the units; None to go by the rule


class SiteCollector(Collector, Generic[S]):
    """One statistic for each activation site of a model (design: "site").

    A diagnostic of activations is a subclass with four short methods: make a statistic, update it with a call, turn
    it into numbers, restore it.

    Args:
        model: the model.
        sites: qualified names, globs or module types; by default everything recognised. A chosen module that is no
            known activation is measured as one site, whatever it calls inside; a glob chooses only those that have
            no submodules and do not come from ``torch.nn``.
        every: measure the forwards of one iteration in so many.
        unit_dim: axis of the units where the rule (last axis; axis 1 behind a convolution) is not wanted: one axis
            for all sites, or a mapping from name or glob to axis.
    """

    needs_units: ClassVar[bool] = False
    """Whether there is nothing to measure where the units' axis is not known."""

    def __init__(
        self,
        model: nn.Module,
        *,
        sites: Patterns = None,
        every: int = 1,
        unit_dim: int | Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(model, every=every)
        self._patterns = as_patterns(sites, "sites")
        self._unit_dim = unit_dim
        self._statistics: dict[SiteKey, S] = {}
        self._restored: dict[str, S] = {}
        self._choices: dict[tuple[int, str], _Choice] = {}  # by module and function
        self._failed: dict[SiteKey, str] = {}
        self._lost: dict[str, str] = {}
        self._notes: dict[str, str] = {}
        self._said: set[str] = set()
        self._kind_of_forward = NOTHING_YET
        self._forwards = 0
        self._warned = False
        self._tap = ForwardTap.of(self.model)

    # What a diagnostic defines.

    @abstractmethod
    def _make(self, call: SiteCall) -> S:
        """An empty statistic for a site that is seen for the first time in the window."""

    @abstractmethod
    def _update(self, statistic: S, call: SiteCall) -> None:
        """Takes in one call; synchronises nothing with the host."""

    @abstractmethod
    def _row(self, name: str, statistic: S) -> dict[str, Any]:
        """The site's numbers."""

    @abstractmethod
    def _restore(self, state: Mapping[str, Any]) -> S:
        """A statistic from its ``state_dict``."""

    # What the tap calls.

    def is_open(self) -> bool:
        """Whether what happens now belongs to the window."""
        return self._model() is not None and self.gate()

    def wants_forward(self, kind: int) -> bool:
        """Whether a forward belongs to the window and is one of the sampled ones.

        A window holds forwards of one kind, the highest that came (`forward_kind`): what a lower one has left in it is
        dropped when a higher one comes, and later lower ones are left out.
        """
        if kind < self._kind_of_forward:
            return False
        if kind > self._kind_of_forward:
            self._kind_of_forward = kind
            self._statistics.clear()
            self._restored.clear()
            self._every.reset()
        self._forwards += 1
        return self._every(self.clock())

    def needs_pre_activation(self, activation_fn: Activation) -> bool:
        """Whether the input of the function must survive an in-place call."""
        return not activation_fn.flat_on_output

    def chooses_module(self, module: nn.Module, names: list[str]) -> bool:
        """Whether a module that is no known activation is to be measured as one site."""
        if self._patterns is None or recognised_module(module) is not None:
            return False
        kind = type(module)
        own = not kind.__module__.startswith("torch.nn") and next(module.children(), None) is None
        return any(
            matches(pattern, name, kind) for pattern in self._patterns for name in names if own or not is_glob(pattern)
        )

    def observe(self, call: SiteCall) -> None:
        """Takes one call into the site's statistic."""
        if call.activation.numel() == 0 or call.key in self._failed or not self._selects_early(call.key):
            return
        if is_wrapped(call.activation):
            self._failed[call.key] = "it was called below a function transform (torch.func)"
            return
        if not call.activation.is_floating_point():
            self._failed[call.key] = f"its output is {call.activation.dtype}, not real floating-point numbers"
            return
        if self.needs_units and self.unit_dim(call) is None:
            self._failed[call.key] = _NO_AXIS
            self._statistics.pop(call.key, None)
            return
        statistic = self._statistics.get(call.key)
        if statistic is None:
            statistic = self._statistics[call.key] = self._make(call)
        self._update(statistic, call)

    def fail(self, key: SiteKey, error: Exception) -> None:
        """Gives a site up for this window; the coverage says why, and the log, once."""
        self._failed[key] = f"measuring it failed: {reason_of(error)}"
        self._statistics.pop(key, None)
        name = self._place_of(key)
        if name not in self._said:
            self._said.add(name)
            logger.warning("%s gives up %s: %s", type(self).__name__, name, self._failed[key])

    def note(self, what: str, reason: str) -> None:
        """Keeps what could not be seen and is no site, for the coverage."""
        self._notes.setdefault(what, reason)

    def unit_dim(self, call: SiteCall) -> int | None:
        """The axis of the units in a call, as chosen or by the rule, counted from the end; None if it is not known."""
        ndim = call.activation.ndim
        if self._unit_dim is None or ndim == 0:
            return call.unit_dim if ndim else -1
        if isinstance(self._unit_dim, int):
            axis = self._unit_dim
        else:
            chosen = self._choice(call.key).axis
            if chosen is None:
                return call.unit_dim
            axis = chosen
        if not -ndim <= axis < ndim:
            raise ValueError(f"unit_dim {axis} does not exist in an activation of shape {tuple(call.activation.shape)}")
        return axis if axis < 0 else axis - ndim

    # The window.

    def _begin(self) -> None:
        super()._begin()
        self._statistics = {}
        self._restored = {}
        self._choices = {}
        self._failed = {}
        self._lost = {}
        self._notes.clear()
        self._kind_of_forward = NOTHING_YET
        self._forwards = 0
        if self.started:
            self._tap.expire()

    def _hold(self) -> Callable[[], object]:
        return hooks.hold(self)

    def _watch(self) -> None:
        self._tap.add(self)

    def _unwatch(self) -> None:
        self._tap.remove(self)

    def _window(self) -> dict[str, S]:
        """The window's statistics by name, those of a restored window merged in."""
        failed = self._failures()
        window: dict[str, S] = {name: item for name, item in self._restored.items() if name not in failed}
        for key, label in self._tap.labels().items():
            statistic = self._statistics.get(key)
            if statistic is None or label in failed or not self._selects(label, key):
                continue
            if label in window:
                restored = self._restore(window[label].state_dict())
                restored.merge(statistic)
                statistic = restored
            window[label] = statistic
        return window

    def _numbers(self) -> dict[str, dict[str, Any]]:
        rows = {}
        for name, statistic in self._window().items():
            try:
                rows[name] = self._row(name, statistic)
            except Exception as error:
                self._lost[name] = f"its numbers could not be read: {reason_of(error)}"
        return rows

    def _find_unseen(self, seen: tuple[str, ...]) -> dict[str, str]:
        labels, measured = self._tap.labels(), set(seen)
        unseen = self._failures()
        called = {key.module for key, label in labels.items() if label in measured or label in unseen}
        called |= self._tap.of_parameters
        for number, info in self._tap.modules.items():
            reason = info.opaque
            if number in self._tap.fused and issubclass(info.kind, nn.TransformerEncoderLayer) and number not in called:
                reason = "in eval mode torch may compute it in one fused kernel, which watching would switch off"
            elif info.activation_fn is not None and info.activation_fn.pointwise and number not in called:
                reason = (
                    "it was not called in this window, or only where it cannot be seen (compiled code, replicas), "
                    "or its own forward calls no function that is known"
                )
            names = [name or info.kind.__name__ for name in info.names]
            chosen = self._patterns is None or any(matches(p, n, info.kind) for p in self._patterns for n in names)
            if reason and chosen and names[0] not in measured:
                unseen[names[0]] = reason
        for pattern in self._patterns or ():
            if not any(self._fits(pattern, key, label) for key, label in labels.items()):
                name = pattern if isinstance(pattern, str) else pattern.__name__
                unseen.setdefault(name, "no activation function that was called fits this choice")
        for key, label in labels.items():
            if label not in measured and not _is_within(unseen, label) and self._selects(label, key):
                unseen.setdefault(label, "it was called before, but with no values in this window")
        unseen.update(self._notes)
        if not seen and not unseen:
            unseen[type(self.model).__name__] = self._why_nothing()
            if not self._warned:
                self._warned = True
                logger.warning("%s measured nothing: %s", type(self).__name__, self._why_nothing())
        return unseen

    def _why_nothing(self) -> str:
        if not self._forwards:
            return self._unless_compiled("no forward of the model was seen in this window")
        return self._unless_compiled("no activation function was called in the model's forwards")

    def _selects_early(self, key: SiteKey) -> bool:
        """Whether a site may be selected, as far as can be said before the forward is over."""
        return self._patterns is None or self._choice(key).selected

    def _choice(self, key: SiteKey) -> _Choice:
        """What the user's choices say of a call; the names, which may be many, are gone through once a window."""
        info, place = self._tap.modules.get(key.module), (key.module, key.function)
        known = self._choices.get(place)
        if known is None or known.info is not info:
            names, kind = self._candidate_names(key), self._kind(key)
            patterns = [own.split("#")[0] if isinstance(own, str) else own for own in self._patterns or ()]
            axes = self._unit_dim.items() if isinstance(self._unit_dim, Mapping) else ()
            known = self._choices[place] = _Choice(
                info,
                any(matches(pattern, name, kind) for pattern in patterns for name in names),
                next((axis for own, axis in axes if any(matches(own, name, None) for name in names)), None),
            )
        return known

    def _selects(self, label: str, key: SiteKey) -> bool:
        """Whether a pattern fits the site's final name, or its name without the number of the call, or its type."""
        return self._patterns is None or any(self._fits(pattern, key, label) for pattern in self._patterns)

    def _fits(self, pattern: Pattern, key: SiteKey, label: str) -> bool:
        return matches(pattern, label, self._kind(key)) or matches(pattern, label.split("#")[0], None)

    def _kind(self, key: SiteKey) -> type | None:
        info = self._tap.modules.get(key.module)
        return info.kind if info else None

    def _place_of(self, key: SiteKey) -> str:
        """Where a site is, in words that need no look at the others: its name without the number of the call."""
        info = self._tap.modules.get(key.module)
        return ".".join(filter(None, (info.names[0], key.function))) or info.kind.__name__ if info else "a site"

    def _candidate_names(self, key: SiteKey) -> list[str]:
        """The names that a site may have: its module's, or the function's below it."""
        info = self._tap.modules.get(key.module)
        return [".".join(part for part in (name, key.function) if part) for name in info.names] if info else []

    def _state(self) -> dict[str, Any]:
        sites = {name: statistic.state_dict() for name, statistic in self._window().items()}
        return {"sites": sites, "failed": self._failures(), "ticks": self._every.count, "kind": self._kind_of_forward}

    def _failures(self) -> dict[str, str]:
        labels = self._tap.labels()
        return {**{labels[key]: reason for key, reason in self._failed.items() if key in labels}, **self._lost}

    def _unite(self, states: Sequence[Mapping[str, Any]]) -> None:
        highest = max(state["kind"] for state in states)
        sites: dict[str, S] = {}
        for state in states:
            for name, item in state["sites"].items() if state["kind"] == highest else ():
                statistic = self._restore(item)
                if name in sites:
                    sites[name].merge(statistic)
                else:
                    sites[name] = statistic
        self._restored, self._statistics = sites, {}

    def _load_state(self, state: Mapping[str, Any]) -> None:
        self._restored = {name: self._restore(item) for name, item in state["sites"].items()}
        self._lost = dict(state["failed"])
        self._kind_of_forward = int(state["kind"])
        self._every.count = state["ticks"]


def _is_within(places: Collection[str], label: str) -> bool:
    """Whether a site is inside one of some modules.

    >>> _is_within({"layers.0"}, "layers.0.relu"), _is_within({"layers.0"}, "layers.0")
    (True, False)
    """
    return any(label[:end] in places for end, character in enumerate(label) if character == ".")
