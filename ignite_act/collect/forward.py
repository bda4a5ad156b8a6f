"""Sees every call of an activation function in the forwards of a model, without touching the model.

Two of torch's own mechanisms do it. Global module hooks say which module is being executed; a `TorchFunctionMode`
around the outermost forward sees every torch function called from Python, so that ``nn.ReLU()``, ``F.relu(x)`` and
``x.relu_()`` are one thing. Both are in place only while somebody watches, and the mode only during a forward.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ignite_act.activations import Activation, RecognisedCall, recognised_call, recognised_module
from ignite_act.collect.by_hand import HandSearch
from ignite_act.collect.calls import Frame, ModuleInfo, SiteCall, SiteKey, SiteObserver, place_of
from ignite_act.collect.fixed import FixedTensors
from ignite_act.collect.fused import FUSING, is_fused, scripted_functions, why_opaque
from ignite_act.collect.hand_values import HandFinding
from ignite_act.collect.hooks import watch
from ignite_act.collect.layout import ChannelAxes
from ignite_act.collect.names import module_names
from ignite_act.collect.scope import forward_kind
from ignite_act.collect.structure import main_tensor, tensors_in
from ignite_act.guard import guarded, is_running, report_failure
from ignite_act.internals import (
    SWITCH_GRADIENTS,
    is_compiling,
    is_nested_call,
    is_operator,
    is_recomputing,
    is_recording,
    remove_function_mode,
    version,
)


class _Site(NamedTuple):
    """A call of an activation function that begins."""

    observers: tuple[SiteObserver, ...]
    parameters: Mapping[str, Any]
    pre_activation: Tensor | None
    unit_dim: int | None


class ForwardTap:
    """Tells observers of every activation call in the forwards of one model; use `ForwardTap.of`."""

    _taps: ClassVar[weakref.WeakKeyDictionary[nn.Module, ForwardTap]] = weakref.WeakKeyDictionary()

    def __init__(self, model: nn.Module) -> None:
        self._model = weakref.ref(model)
        self._infos: dict[int, ModuleInfo] = {}  # by the ids of the modules that are in the model
        self._followed: dict[int, ModuleInfo] = {}  # without the modules in which there can be no site
        self._observers: list[weakref.ref[SiteObserver]] = []
        self._live: tuple[SiteObserver, ...] = ()
        self._depth = 0
        self._stack: list[Frame] = []
        self._known: dict[int, ModuleInfo] = {}  # by their numbers, also of modules that have been replaced since
        self._calls: dict[int, int] = {}  # module -> calls in this forward
        self._most_calls: dict[int, int] = {}  # module -> most calls in one forward
        self._modules: list[weakref.ref[nn.Module]] = []
        self._foreign: set[int] = set()  # modules that are called in the model's forwards and are not part of it
        self._keys: dict[SiteKey, int] = {}  # in the order of first call, with the window of the last one
        self._window = 0
        self._expired = False
        self._mode = _CallMode(self)
        self._mode_entered = False
        self._suspended_by: nn.Module | None = None  # the module around which the mode is taken away
        self._thread = 0
        self.fused: set[int] = set()
        """Numbers of the modules whose calls were left to torch's fused kernels."""
        self._unwatch: Callable[[], object] | None = None
        self._guard = guarded(_InCall(self), "some calls")
        self._fixed = FixedTensors()
        self.axes = ChannelAxes(self._fixed.is_weight)
        self._search: HandSearch | None = None  # in a few forwards of a window
        self._seen_forwards: dict[int, int] = {}  # of this window, by the id of the observer
        self.of_parameters: set[int] = set()
        """Numbers of the activation modules that were called for a parameter, as of a temperature."""

    @classmethod
    def of(cls, model: nn.Module) -> ForwardTap:
        """The tap of a model: one for all observers, so that watching twice costs once."""
        tap = cls._taps.get(model)
        if tap is None:
            tap = cls._taps[model] = cls(model)
        return tap

    def add(self, observer: SiteObserver) -> None:
        """Begins to tell an observer; the first one puts the hooks in place."""
        if all(own() is not observer for own in self._observers):
            self._observers.append(weakref.ref(observer, self._forget))
        self.refresh()
        if self._unwatch is None:
            self._unwatch = watch(self)

    def remove(self, observer: SiteObserver) -> None:
        """Stops telling an observer; with the last one the hooks go."""
        self._observers = [own for own in self._observers if own() not in (None, observer)]
        self._close_if_idle()

    def _forget(self, observer: weakref.ref[SiteObserver]) -> None:
        """An observer has been deleted without a word."""
        self._observers = [own for own in self._observers if own is not observer]
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        if not self._observers and self._unwatch is not None:
            self._unwatch()
            self._unwatch = None
            self._end_forward()

    def labels(self) -> dict[SiteKey, str]:
        """Every site seen so far with its name, in the order of first call (design: "site")."""
        labels: dict[SiteKey, str] = {}
        used: dict[str, int] = {}
        present = {info.number for info in self._infos.values()}
        for key, window in self._keys.items():
            if key.module not in present and window != self._window:
                continue  # the module was replaced before it was called again
            info = self._known[key.module]
            names, most = info.names, self._most_calls[key.module]
            name = names[key.module_call] if most == len(names) else names[0]
            label = ".".join(part for part in (name, key.function) if part) or info.kind.__name__
            used[label] = used.get(label, 0) + 1
            labels[key] = label if used[label] == 1 else f"{label}#{used[label]}"
        return labels

    @property
    def modules(self) -> Mapping[int, ModuleInfo]:
        """What is known of every module that was in the model in this window, by its number."""
        return self._known

    def expire(self) -> None:
        """Makes the next forward look at the modules anew: they may have been replaced between two windows."""
        self._expired = True

    def refresh(self) -> None:
        """Looks at the model's modules anew: what they are, and who measures them from the outside."""
        model = self._model()
        if model is None:
            return
        self._end_forward()  # a forward that was broken off (Ctrl-C) may have left it open
        self._expired = False
        self._window += 1
        self._foreign.clear()
        self._known.clear()
        self._seen_forwards.clear()
        self.of_parameters.clear()
        self._survey(model)
        self._keys = {key: window for key, window in self._keys.items() if key.module in self._known}
        self._most_calls = {number: most for number, most in self._most_calls.items() if number in self._known}

    def _survey(self, model: nn.Module) -> None:
        self._infos, self._followed, self._modules = {}, {}, []
        observers = self._alive()
        for module, names in module_names(model).items():
            activation_fn = recognised_module(module)
            if activation_fn is not None and not activation_fn.calls:
                whole_for = frozenset(map(id, observers))  # a registered class that torch does not know
            else:
                whole_for = frozenset(id(o) for o in observers if o.chooses_module(module, names))
            number = _number_of(module)
            may_fuse = isinstance(module, FUSING)
            info = ModuleInfo(number, type(module), names, activation_fn, whole_for, why_opaque(module), may_fuse)
            self._infos[id(module)] = self._known[number] = info
            # Once it is deleted, another module may be given its id.
            self._modules.append(weakref.ref(module, functools.partial(_dropped, weakref.ref(self), id(module), info)))
            if module is model or whole_for or not _is_inert(module, activation_fn):
                self._followed[id(module)] = info

    def enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """A module's forward begins."""
        if self._expired and self._depth == 0:
            self.refresh()
        info = self._followed.get(id(module))
        if info is None and self._live and id(module) not in self._infos and threading.get_ident() == self._thread:
            info = self._unknown(module)
        if info is None or is_recomputing():
            return
        if self._depth:
            if threading.get_ident() != self._thread:
                self._note("forwards in other threads", "another forward of the model was running at the same time")
                return
            if module is self._model() and not is_nested_call(module):
                self._end_forward()  # Ctrl-C has broken off the last forward
        if self._depth == 0:
            self._begin_forward(module, args)
            if self._live and module is not self._model():
                self._note_outside(info)
        self._depth += 1
        if self._live:
            self._push(module, info, args)
            if info.may_fuse:
                self._step_aside(module)

    def _step_aside(self, module: nn.Module) -> None:
        """Takes the mode away for a module that torch would compute otherwise below one."""
        if is_fused(module):
            self.fused.add(_number_of(module))
            if self._mode_entered:
                self._suspended_by = module
                self._leave_mode()

    def _unknown(self, module: nn.Module) -> ModuleInfo | None:
        """What is to be known of a module that was not in the model when that was looked at: it may be by now."""
        model = self._model()
        if id(module) not in self._foreign:
            if model is not None and any(own is module for own in model.modules()):
                self._survey(model)
                return self._followed.get(id(module))
            self._foreign.add(id(module))
        if isinstance(module, FUSING) and not is_recomputing():
            self._step_aside(module)
        return None

    def _note(self, what: str, reason: str) -> None:
        for observer in self._live:
            observer.note(what, reason)

    def _note_outside(self, info: ModuleInfo) -> None:
        model = self._model()
        holds_models = isinstance(model, (nn.ModuleDict, nn.ModuleList)) or hasattr(model, "training_step")  # Lightning
        if holds_models and "." not in info.names[0] and info.activation_fn is None:
            return  # a model in a module that is made to hold some
        self._note(
            f"{type(model).__name__} outside its forward",
            f"parts of it were called there ({info.names[0]}, ...): function calls between them are not seen, and "
            "several calls of one part count as one site",
        )

    def _push(self, module: nn.Module, info: ModuleInfo, args: tuple[Any, ...]) -> None:
        own, stack = info.number, self._stack
        number = self._calls.get(own, 0)
        self._calls[own] = number + 1
        if number >= self._most_calls.get(own, 0):
            self._most_calls[own] = number + 1
        frame = Frame(module, info, number, stack[-1].hidden_from if stack else frozenset())
        if info.whole_for:
            frame.hidden_from = frame.hidden_from | info.whole_for
            if args and isinstance(args[0], Tensor):
                frame.pre_activation = args[0]
                frame.version = version(args[0])
        stack.append(frame)
        if self._search is not None and not torch.is_grad_enabled():
            for name in scripted_functions(module):
                self._search.report_scripted(place_of(frame), name)

    def leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        """A module's forward ends, by a return or by an exception."""
        if self._depth == 0 or is_recomputing() or threading.get_ident() != self._thread:
            return
        if module is self._suspended_by:
            self._suspended_by = None
            self._enter_mode()
        if id(module) not in self._followed:
            return
        self._depth -= 1
        while self._live and self._stack:  # frames above are left over from exceptions that no hook was told of
            frame = self._stack.pop()
            if frame.module is module:
                self._see_output(frame, args, output)
                if frame.info.whole_for:
                    self._emit_whole(frame, output)
                break
        if self._depth == 0:
            self._end_forward()

    def call(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Executes one torch function on behalf of the model, once, whatever fails around it."""
        known, site = None, None
        with self._guard:
            known = recognised_call(function)
            if known is not None:
                site = self._site_of(known, function, args, kwargs)
        result = function(*args, **kwargs)
        with self._guard:
            self._follow(function, args, kwargs, result, is_site=site is not None)
            if known is not None and site is not None and isinstance(result, Tensor):
                frame = self._stack[-1]
                key = self._key(frame, known.label if frame.info.activation_fn is None else "")
                call = SiteCall(key, known.activation_fn, site.parameters, site.pre_activation, result, site.unit_dim)
                _tell(site.observers, call)
        return result

    def _site_of(
        self, known: RecognisedCall, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> _Site | None:
        """What is to be known of a site before its function is called; None if it is no site for anybody."""
        observers = self._observers_here()
        before = args[0] if args else kwargs.get("input", kwargs.get("self"))
        if not observers or not self._is_activation(function, before):
            return None
        parameters = {**dict(zip(known.positional, args[1:], strict=False)), **kwargs} if args[1:] else kwargs
        pre_activation = before
        if known.in_place or parameters.get("inplace") or "out" in kwargs:
            wanted = any(observer.needs_pre_activation(known.activation_fn) for observer in observers)
            pre_activation = before.detach().clone() if wanted and isinstance(before, Tensor) else None
        return _Site(observers, parameters, pre_activation, self.axes.of(before))

    def _follow(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Any, *, is_site: bool
    ) -> None:
        """Keeps track of channels, of what follows from parameters alone and of activations by hand."""
        if self.axes.concerns(function):
            self.axes.follow(function, args, kwargs, result)
            if self.axes.trouble:
                self._note("channels of some calls", f"following them failed: {self.axes.trouble}")
                self.axes.trouble = ""
        if not self._stack:
            return
        frame = self._stack[-1]
        if self._fixed.concerns(frame.owns, args):
            self._fixed.follow(frame.module, function, args, kwargs, result)
        if self._search is not None and not frame.info.opaque:
            self._search.follow(place_of(frame), function, args, kwargs, result, is_site=is_site)

    def _is_activation(self, function: Callable[..., Any], value: Any) -> bool:
        """Whether a function of this is a site: one of parameters is the same for every sample."""
        frame = self._stack[-1]
        if frame.info.opaque and is_operator(function):
            return False  # compiled code, of which most kinds are not seen
        if not self._fixed.is_weight(value, frame.module):
            return True
        if frame.info.activation_fn is not None:
            self.of_parameters.add(frame.info.number)
        return False

    def _see_output(self, frame: Frame, args: tuple[Any, ...], output: Any) -> None:
        """A module returns: what it has made out of sight is known by its shape."""
        result = output if isinstance(output, Tensor) else None
        if args:
            self.axes.hand_on(args[0], result)
        if self._search is not None:
            self._search.leave(place_of(frame), args, result, bool(frame.info.opaque or frame.info.whole_for))
            if not self._stack:
                self._search.finish(iter(tensors_in(output).values()))

    def _say(self, finding: HandFinding) -> None:
        for observer in self._live:
            if id(observer) not in finding.hidden_from:
                observer.note(finding.name, finding.reason)

    def _observers_here(self) -> tuple[SiteObserver, ...]:
        """The observers for which a call in the module that is being executed is a site."""
        if not self._stack:
            return ()
        hidden_from = self._stack[-1].hidden_from
        return tuple(own for own in self._live if id(own) not in hidden_from) if hidden_from else self._live

    def _alive(self) -> list[SiteObserver]:
        return [observer for own in self._observers if (observer := own()) is not None]

    def _begin_forward(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._thread = threading.get_ident()
        self._live = () if is_recording() else self._wanting(module)
        if self._live:
            self._calls.clear()
            self._fixed.clear(args)
            self._search = HandSearch(self._fixed, self._say) if self._wants_search() else None
            self._enter_mode()

    def _wanting(self, module: nn.Module) -> tuple[SiteObserver, ...]:
        """The observers for which a forward of a module, the outermost one that is called, counts."""
        kind, wanting = None, []
        for observer in self._alive():
            try:
                if observer.is_open():
                    kind = forward_kind(module) if kind is None else kind
                    if observer.wants_forward(kind):
                        wanting.append(observer)
            except Exception as error:
                report_failure(observer, "some forwards", error)
        return tuple(wanting)

    def give_up(self, what: str, reason: str, *, in_call: bool = False) -> None:
        """Notes that watching failed, with every observer; the forward under way is left alone.

        Inside a call torch has taken the mode away for a moment, and puts it back: it goes when the forward ends.
        """
        self._live = ()
        if not in_call:
            with contextlib.suppress(Exception):
                self._end_forward()
        for observer in self._alive():
            observer.give_up(what, reason)

    def _wants_search(self) -> bool:
        """Whether one of the observers sees its 1st, 2nd, 4th, 8th, ... forward of the window."""
        wanted = False
        for own in map(id, self._live):
            count = self._seen_forwards[own] = self._seen_forwards.get(own, 0) + 1
            wanted = wanted or count & (count - 1) == 0
        return wanted

    def _end_forward(self) -> None:
        self._leave_mode()
        self._suspended_by = None
        self._depth = 0
        self._live = ()
        self._stack.clear()
        self.axes.clear()
        self._fixed.clear()
        self._search = None

    def _enter_mode(self) -> None:
        if not self._mode_entered:
            self._mode_entered = True
            self._mode.__enter__()

    def _leave_mode(self) -> None:
        if self._mode_entered:
            self._mode_entered = False
            remove_function_mode(self._mode)

    def _emit_whole(self, frame: Frame, output: Any) -> None:
        result = main_tensor(output)
        outer = self._stack[-1].hidden_from if self._stack else frozenset()
        own = frame.info.whole_for - outer
        observers = tuple(observer for observer in self._live if id(observer) in own)
        if result is None or not observers:
            return
        before = frame.pre_activation
        if before is not None and _is_overwritten(before, frame.version, result):
            before = None
        unit_dim = self.axes.of(result)
        if unit_dim == -1 and before is not None and before.ndim == result.ndim:
            unit_dim = self.axes.of(before)
        call = SiteCall(self._key(frame, ""), frame.info.activation_fn, vars(frame.module), before, result, unit_dim)
        _tell(observers, call)

    def _key(self, frame: Frame, label: str) -> SiteKey:
        number = frame.counts.get(label, 0)
        frame.counts[label] = number + 1
        key = SiteKey(frame.info.number, frame.call, label, number)
        self._keys[key] = self._window
        return key


class _InCall:
    """Answers for what fails around a call of the user's."""

    def __init__(self, tap: ForwardTap) -> None:
        self._tap = weakref.ref(tap)

    def give_up(self, what: str, reason: str) -> None:
        """See `ForwardTap.give_up`."""
        tap = self._tap()
        if tap is not None:
            tap.give_up(what, reason, in_call=True)


def _tell(observers: tuple[SiteObserver, ...], call: SiteCall) -> None:
    for observer in observers:
        try:
            observer.observe(call)
        except Exception as error:
            try:
                observer.fail(call.key, error)
            except Exception as another:
                report_failure(observer, "some activations", another)


_numbers: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()
_counter = itertools.count()


def _number_of(module: nn.Module) -> int:
    number = _numbers.get(module)
    if number is None:
        number = _numbers[module] = next(_counter)
    return number


def _dropped(tap: weakref.ref[ForwardTap], identity: int, info: ModuleInfo, module: weakref.ref[nn.Module]) -> None:
    own = tap()
    if own is not None and own._infos.get(identity) is info:
        own._infos.pop(identity)
        own._followed.pop(identity, None)


def _is_inert(module: nn.Module, activation_fn: Activation | None) -> bool:
    """Whether a module certainly calls no activation function: torch's own single layers.

    A container is none: where it is called by itself (``model.features(x)``), it is the forward that holds its
    children together.
    """
    if activation_fn is not None or not type(module).__module__.startswith("torch.nn.modules."):
        return False
    return next(module.children(), None) is None


def _is_overwritten(before: Tensor, old_version: int, result: Tensor) -> bool:
    if before.is_inference():  # does not count its versions
        return before.untyped_storage().data_ptr() == result.untyped_storage().data_ptr()
    return version(before) != old_version


_calls = 0


def calls() -> int:
    """Torch functions of models that were seen so far in this process, for the cost."""
    return _calls


class _CallMode(TorchFunctionMode):
    def __init__(self, tap: ForwardTap) -> None:
        super().__init__()
        self._tap = weakref.ref(tap)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        global _calls
        if func is SWITCH_GRADIENTS:  # at once: Ctrl-C in our code would leave them switched off
            return func(*args, **(kwargs or {}))
        tap = None if is_compiling() else self._tap()
        if tap is None:
            return func(*args, **(kwargs or {}))
        _calls += not is_running()  # our own calls are in the time of the block
        return tap.call(func, args, kwargs or {})
