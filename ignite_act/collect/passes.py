"""Tells when a layer, and when the whole model, has been called, with what went in and what came out."""

from __future__ import annotations

import contextlib
import weakref
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from ignite_act.collect import hooks
from ignite_act.collect.base import Collector
from ignite_act.collect.names import module_names, unwrap
from ignite_act.collect.scope import NOTHING_YET, forward_kind
from ignite_act.collect.structure import main_tensor, tensors_in
from ignite_act.guard import report_failure
from ignite_act.internals import (
    compiled_module,
    compiles_itself,
    flat_pieces,
    is_recomputing,
    is_recording,
    own_parameters,
    why_unreadable,
    without_functions,
)


class Place(NamedTuple):
    """A module of the model that is told of.

    Attributes:
        module: the module; another may have its id once it is gone.
        name: its qualified name; the class's for the model itself.
        has_weight: whether it owns a parameter of two or more dimensions: a layer.
    """

    module: weakref.ref[nn.Module]
    name: str
    has_weight: bool


class ModelCall(NamedTuple):
    """One forward of the whole model.

    Attributes:
        inputs: every tensor that went in, by position or by keyword, by its place in the arguments.
        outputs: every tensor that came out, by its place in the output.
    """

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]


class PassTap:
    """Tells observers of the calls within the forwards of one model; use `PassTap.of`."""

    _taps: ClassVar[weakref.WeakKeyDictionary[nn.Module, PassTap]] = weakref.WeakKeyDictionary()

    def __init__(self, model: nn.Module) -> None:
        self._model = weakref.ref(model)
        self._places: dict[int, Place] = {}
        self._inner: set[int] = set()  # ids of the modules inside whose calls never begin a forward of the model
        self._observers: list[weakref.ref[PassCollector]] = []
        self._live: tuple[PassCollector, ...] = ()
        self._closely: tuple[PassCollector, ...] = ()  # those of them that want every layer of this forward
        self.in_pass = False
        """Whether a forward of the model is under way."""
        self._owner: Callable[[], nn.Module | None] = _nobody  # whose call it is
        self._inside = False  # whether anything was seen inside of it
        self._wholes: dict[int, weakref.ref[nn.Module]] = {}
        self._compiled = ""
        self._expired = False
        self._unwatch: Callable[[], object] | None = None

    @classmethod
    def of(cls, model: nn.Module) -> PassTap:
        """The tap of a model: one for all observers."""
        tap = cls._taps.get(model)
        if tap is None:
            tap = cls._taps[model] = cls(model)
        return tap

    def add(self, observer: PassCollector) -> None:
        """Begins to tell an observer."""
        if all(own() is not observer for own in self._observers):
            self._observers.append(weakref.ref(observer, self._lose))
        self.expire()
        if self._unwatch is None:
            self._unwatch = hooks.watch(self)

    def remove(self, observer: PassCollector) -> None:
        """Stops telling an observer; with the last one the tap stops watching."""
        self._observers = [own for own in self._observers if own() not in (None, observer)]
        self._close_if_idle()

    def _lose(self, observer: weakref.ref[PassCollector]) -> None:
        """An observer has been deleted without a word."""
        self._observers = [own for own in self._observers if own is not observer]
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        if not self._observers and self._unwatch is not None:
            self._unwatch()
            self._unwatch = None
            self._end_pass()

    def give_up(self, what: str, reason: str) -> None:
        """Notes that watching failed, with every observer; the forward under way is left alone."""
        with contextlib.suppress(Exception):
            self._end_pass()
        for own in self._observers:
            observer = own()
            if observer is not None:
                observer.give_up(what, reason)

    @property
    def compiled(self) -> str:
        """Why calls inside of the model could not be seen; empty if they can."""
        if self._expired:
            self._survey()
        return self._compiled

    def expire(self) -> None:
        """Makes the next call look at the model's modules anew: once, however many observers begin a window."""
        self._end_pass()
        self._expired = True

    def _survey(self) -> None:
        model = self._model()
        self._expired = False
        self._places, self._inner = {}, set()
        self._wholes = {id(part): weakref.ref(part) for part in _whole_parts(model)} if model is not None else {}
        self._compiled = ""
        shapes = {key: len(piece.shape) for key, piece in flat_pieces(model).items()} if model is not None else {}
        for module, names in module_names(model).items() if model is not None else ():
            own = [own for own in own_parameters(module).values() if own is not None and _known(own)]
            has_weight = any(shapes.get(id(parameter), parameter.ndim) > 1 for parameter in own)
            single = next(module.children(), None) is None
            has_weight = has_weight and (single or module is not model)  # the model's output is told of anyway
            if has_weight or module is model or single:
                name = names[0] or type(module).__name__
                self._places[id(module)] = Place(weakref.ref(module), name, has_weight)
            if module is not model and id(module) not in self._wholes and compiled_module(module) is None:
                self._inner.add(id(module))
            if compiles_itself(module) or compiled_module(module) is not None:
                self._compiled = "it is compiled (torch.compile): calls inside are not seen"

    def enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """A forward begins; only one of the whole model matters."""
        if self._expired:
            self._survey()
        if self.in_pass and id(module) in self._inner:
            return
        if not self._begins_pass(module) or is_recomputing():
            return
        with without_functions():
            self._live, self.in_pass, self._closely = self._wanting(module), True, ()
            self._owner, self._inside = weakref.ref(module), False
            for observer in self._live:
                try:
                    if observer.begin_pass():
                        self._closely += (observer,)
                except Exception as error:
                    report_failure(observer, "some forwards", error)

    def leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        """A module has been called; after an exception nothing came out."""
        if self._expired:
            self._survey()
        owns_pass = self.in_pass and self._owner() is module
        place = self._place_of(module, owns_pass=owns_pass)
        if place is None or is_recomputing():
            return
        if owns_pass:
            observers = self._live
            if self._is_compiled(module) and not self._inside:
                self._compiled = "the model is compiled (torch.compile): calls inside are not seen"
            self._end_pass()
        else:
            # Parts of a model may be called by themselves.
            observers = self._closely if self.in_pass else self._wanting(module)
            self._inside = True
        if observers and output is not None:
            self._tell(observers, place, args, kwargs, output, owns_pass=owns_pass)

    def _tell(
        self,
        observers: tuple[PassCollector, ...],
        place: Place,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        output: Any,
        *,
        owns_pass: bool,
    ) -> None:
        with without_functions():
            result = main_tensor(output)
            given = main_tensor(args) if args else main_tensor(tuple(kwargs.values()))
            call = ModelCall(tensors_in((*args, kwargs)), tensors_in(output)) if owns_pass else None
            for observer in observers:
                try:
                    observer.after(place, given, result, call)
                except Exception as error:
                    report_failure(observer, "some forwards", error)

    def _begins_pass(self, module: nn.Module) -> bool:
        """Whether a call is one of the whole model: of itself, of its compiled version, of a part with all weights."""
        is_model = module is self._model()
        is_compiled = self._is_compiled(module)
        if not self.in_pass:
            return is_model or is_compiled or self._is_whole(module)
        owner = self._owner()  # if it is called again, its last call was broken off (Ctrl-C)
        return module is owner or is_compiled or (is_model and owner is not None and not self._is_compiled(owner))

    def _place_of(self, module: nn.Module, *, owns_pass: bool) -> Place | None:
        place = self._places.get(id(module))
        if place is not None and place.module() is module:
            return None if module is self._model() and self.in_pass and not owns_pass else place
        model = self._model()
        return self._places.get(id(model)) if owns_pass else None

    def _is_compiled(self, module: nn.Module) -> bool:
        """Whether a module is the compiled version of the model."""
        return compiled_module(module) is not None and unwrap(module) is self._model()

    def _is_whole(self, module: nn.Module) -> bool:
        """Whether a part of the model owns all of its weights, as the network in a `LightningModule`."""
        own = self._wholes.get(id(module))
        return own is not None and own() is module

    def _end_pass(self) -> None:
        self._live, self._closely, self.in_pass = (), (), False

    def _wanting(self, module: nn.Module) -> tuple[PassCollector, ...]:
        """The observers for which a forward of a module, the outermost one that is called, counts."""
        if is_recording():
            return ()
        kind = NOTHING_YET
        wanting = []
        for own in self._observers:
            observer = own()
            if observer is None:
                continue
            try:
                if observer.is_open():
                    kind = forward_kind(unwrap(module)) if kind == NOTHING_YET else kind
                    if observer.wants_pass(kind):
                        wanting.append(observer)
            except Exception as error:
                report_failure(observer, "some forwards", error)
        return tuple(wanting)


class PassCollector(Collector):
    """A collector that is told of the calls of layers and of the model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._kind = NOTHING_YET
        self._pass_tap = PassTap.of(self.model)

    def is_open(self) -> bool:
        """Whether what happens now belongs to the window."""
        return self._model() is not None and self.gate()

    def wants_pass(self, kind: int) -> bool:
        """Whether a forward belongs to the window, which holds those of the highest kind (`forward_kind`)."""
        if kind > self._kind:
            if self._kind != NOTHING_YET:
                self._forget()
            self._kind = kind
        return kind == self._kind

    def after(self, place: Place, given: Tensor | None, result: Tensor | None, call: ModelCall | None) -> None:
        """Takes in one call; ``call`` is that of the whole model."""
        if result is not None and (reason := why_unreadable(result)):
            self.skip(place.name, reason)
            return
        if result is not None and place.has_weight:
            self.after_layer(place, given, result)
        elif result is not None and call is None:
            self.after_part(place.name, given, result)
        if call is not None:
            self.after_model(call)

    def skip(self, what: str, reason: str) -> None:
        """Notes what could not be seen and is no failure."""
        self._skipped.setdefault(what, reason)

    def begin_pass(self) -> bool:
        """A forward of the model begins; whether every call within it is wanted, or the model's alone."""
        return False

    def after_layer(self, place: Place, given: Tensor | None, result: Tensor) -> None:
        """A module that owns a weight has been called."""

    def after_part(self, name: str, given: Tensor | None, result: Tensor) -> None:
        """A module without submodules that owns no weight has been called."""

    @abstractmethod
    def after_model(self, call: ModelCall) -> None:
        """The whole model has been called."""

    @abstractmethod
    def _forget(self) -> None:
        """Drops what the window holds, for forwards of a kind that counts more."""

    def _begin(self) -> None:
        super()._begin()
        self._kind = NOTHING_YET
        self._skipped: dict[str, str] = {}
        if self.started:
            self._pass_tap.expire()

    def _hold(self) -> Callable[[], object]:
        return hooks.hold(self)

    def _watch(self) -> None:
        self._pass_tap.add(self)

    def _unwatch(self) -> None:
        self._pass_tap.remove(self)

    def _find_unseen(self, seen: tuple[str, ...]) -> dict[str, str]:
        return dict(self._skipped)


def is_sample(count: int) -> bool:
    """Whether the count-th of something is looked at closely: 1, 2, 4, 16, 64, ..., few of a window however long it is.

    >>> [count for count in range(1, 300) if is_sample(count)]
    [1, 2, 4, 16, 64, 256]
    """
    return count == 2 or (count & (count - 1) == 0 and count.bit_length() % 2 == 1)


def _whole_parts(model: nn.Module) -> Iterator[nn.Module]:
    """The parts of a model that own all of its weights, from the outside in."""
    weights = set(map(id, model.parameters()))
    part: nn.Module | None = model if weights else None
    while part is not None:
        part = next((child for child in part.children() if weights == set(map(id, child.parameters()))), None)
        if part is not None:
            yield part


def _nobody() -> None:
    return None


def _known(parameter: Tensor) -> bool:
    return not isinstance(parameter, nn.parameter.UninitializedParameter)
