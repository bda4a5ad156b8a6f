"""Tells when a layer, and when the whole model, has been called, with what went in and what came out."""

from __future__ import annotations

import logging
import time
import weakref
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ignite_act.collect.base import Collector
from ignite_act.collect.forward import first_tensor, is_recomputing, is_recording
from ignite_act.collect.hooks import watch
from ignite_act.collect.names import module_names

logger = logging.getLogger(__name__)


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


class PassTap:
    """Tells observers of the calls within the forwards of one model; use `PassTap.of`.

    The hooks are torch's global ones, in place only while somebody watches.
    """

    _taps: ClassVar[weakref.WeakKeyDictionary[nn.Module, PassTap]] = weakref.WeakKeyDictionary()

    def __init__(self, model: nn.Module) -> None:
        self._model = weakref.ref(model)
        self._places: dict[int, Place] = {}
        self._observers: list[weakref.ref[PassCollector]] = []
        self._live: tuple[PassCollector, ...] = ()
        self._closely: tuple[PassCollector, ...] = ()  # those of them that want every layer of this forward
        self.in_pass = False
        """Whether a forward of the model is under way."""
        self._unwatch: Callable[[], object] | None = None

    @classmethod
    def of(cls, model: nn.Module) -> PassTap:
        """The tap of a model: one for all observers."""
        tap = cls._taps.get(model)
        if tap is None:
            tap = cls._taps[model] = cls(model)
        return tap

    def add(self, observer: PassCollector) -> None:
        """Begins to tell an observer; the first one puts the hooks in place."""
        if all(own() is not observer for own in self._observers):
            self._observers.append(weakref.ref(observer))
        self.survey()
        if self._unwatch is None:
            self._unwatch = watch(self)

    def remove(self, observer: PassCollector) -> None:
        """Stops telling an observer; with the last one the hooks go."""
        self._observers = [own for own in self._observers if own() not in (None, observer)]
        if not self._observers and self._unwatch is not None:
            self._unwatch()
            self._unwatch = None
            self._end_pass()

    def survey(self) -> None:
        """Looks at the model's modules anew."""
        model = self._model()
        self._end_pass()
        self._places = {}
        for module, names in module_names(model).items() if model is not None else ():
            has_weight = any(parameter.ndim > 1 for parameter in module.parameters(recurse=False) if _known(parameter))
            single = next(module.children(), None) is None
            has_weight = has_weight and (single or module is not model)  # the model's output is told of anyway
            if has_weight or module is model or single:
                name = names[0] or type(module).__name__
                self._places[id(module)] = Place(weakref.ref(module), name, has_weight)

    def enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """A forward begins; only the model's own matters."""
        if module is self._model() and not is_recomputing():
            self._live, self.in_pass = self._wanting(), True
            self._closely = tuple(observer for observer in self._live if observer.begin_pass())

    def leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """A module has been called; after an exception nothing came out."""
        place = self._places.get(id(module))
        if place is None or place.module() is not module or is_recomputing():
            return
        is_model = module is self._model()
        observers = self._live if is_model else self._closely
        if not self.in_pass:
            observers = self._wanting()  # parts of a model may be called by themselves
        if is_model:
            self._end_pass()
        result = first_tensor(output) if observers else None
        if result is not None:
            given = first_tensor(args)
            with torch._C.DisableTorchFunction():  # the measuring is none of the model's calls
                for observer in observers:
                    observer.after(place, given, result, is_model=is_model)

    def _end_pass(self) -> None:
        self._live, self._closely, self.in_pass = (), (), False

    def _wanting(self) -> tuple[PassCollector, ...]:
        if is_recording():
            return ()
        alive = (observer for own in self._observers if (observer := own()) is not None)
        return tuple(observer for observer in alive if observer.wants_pass())


class PassCollector(Collector):
    """A collector that is told of the calls of layers and of the model. Failures in it never reach the training."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._precedence = 0
        self._trouble = ""
        self._pass_tap = PassTap.of(self.model)

    def wants_pass(self) -> bool:
        """Whether the forward that begins now belongs to the window; see `SiteCollector.wants_forward`."""
        model = self._model()
        if model is None or not self.gate():
            return False
        precedence = 2 if model.training else int(torch.is_grad_enabled())
        if precedence > self._precedence:
            self._precedence = precedence
            self._forget()
        return precedence == self._precedence

    def after(self, place: Place, given: Tensor | None, result: Tensor, *, is_model: bool) -> None:
        """Takes in one call; training never dies of it."""
        begin = time.perf_counter()
        try:
            if place.has_weight:
                self.after_layer(place.name, given, result)
            elif not is_model:
                self.after_part(place.name, given, result)
            if is_model:
                self.after_model(given, result)
        except Exception as error:
            self.give_up(f"measuring {place.name} failed: {type(error).__name__}: {error}")
        self.seconds += time.perf_counter() - begin

    def give_up(self, trouble: str) -> None:
        """Notes that something could not be measured; the log says it once."""
        if not self._trouble:
            logger.warning("%s: %s", type(self).__name__, trouble)
        self._trouble = trouble

    def begin_pass(self) -> bool:
        """A forward of the model begins; whether every call within it is wanted, or the model's alone."""
        return False

    def after_layer(self, name: str, given: Tensor | None, result: Tensor) -> None:
        """A module that owns a weight has been called."""

    def after_part(self, name: str, given: Tensor | None, result: Tensor) -> None:
        """A module without submodules that owns no weight has been called."""

    @abstractmethod
    def after_model(self, given: Tensor | None, result: Tensor) -> None:
        """The whole model has been called."""

    @abstractmethod
    def _forget(self) -> None:
        """Drops what the window holds, for forwards of a kind that counts more."""

    def _begin(self) -> None:
        super()._begin()
        self._precedence = 0
        if self.started:
            self._pass_tap.survey()

    def _watch(self) -> None:
        self._pass_tap.add(self)

    def _unwatch(self) -> None:
        self._pass_tap.remove(self)

    def _find_unseen(self, seen: tuple[str, ...]) -> dict[str, str]:
        return {"some forwards": self._trouble} if self._trouble else {}


def is_sample(count: int) -> bool:
    """Whether the count-th of something is looked at closely: 1, 2, 4, 16, 64, ..., few of a window however long it is.

    >>> [count for count in range(1, 300) if is_sample(count)]
    [1, 2, 4, 16, 64, 256]
    """
    return count == 2 or (count & (count - 1) == 0 and count.bit_length() % 2 == 1)


def _known(parameter: nn.Parameter) -> bool:
    return not isinstance(parameter, nn.parameter.UninitializedParameter)
