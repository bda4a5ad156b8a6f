"""The window of a handler: from ``EPOCH_STARTED`` to ``EPOCH_COMPLETED`` of the engine it is attached to."""

from __future__ import annotations

import functools
import logging
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, TypeVar

from ignite.engine import Engine, Events, RemovableEventHandle
from typing_extensions import Self

from ignite_act.collect import Collector
from ignite_act.guard import guarded, harmless
from ignite_act.handlers import exceptions, stepping
from ignite_act.internals import firing_engines

logger = logging.getLogger(__name__)

_names_in_use: weakref.WeakKeyDictionary[Engine, set[str]] = weakref.WeakKeyDictionary()


Method = TypeVar("Method", bound=Callable[..., Any])


def on_own_engine(what: str) -> Callable[[Method], Method]:
    """Makes a method a handler of the engine that is attached to: nothing it does ends the run.

    A deep copy of the engine has the same handlers, and Ignite gives them the original: who fires is found in the
    stack. The events of a copy mean nothing.

    Args:
        what: what is being done, in words for the log.
    """

    def wrap(method: Method) -> Method:
        @functools.wraps(method)
        def call(self: WindowHandler, engine: Engine, *args: Any, **kwargs: Any) -> None:
            with guarded(self, what):
                own = self._engine() if self._engine is not None else None
                if engine is own and next(firing_engines(), own) is own:
                    method(self, engine, *args, **kwargs)

        return call  # type: ignore[return-value]

    return wrap


class WindowHandler(ABC):
    """Starts and finishes collectors with the epochs of an engine.

    A window that does not reach its end is finished all the same and marked partial: at ``TERMINATE``, ``COMPLETED``,
    the next ``EPOCH_STARTED``, on `detach` and when an exception ends the run, which goes on to the user.
    Of forwards only those inside the engine's own step are measured, so evaluators that run in its handlers do not
    count; of optimizer steps every one within the window. The hooks stay registered from the first window of a run to
    its end.

    A run of the engine that starts from its beginning is another training: what the handler kept of an earlier one
    (findings, which units were dead) is forgotten, unless it was restored for this run.
    """

    def __init__(self, collectors: Iterable[Collector]) -> None:
        self._collectors = tuple(collectors)
        self._engine: weakref.ref[Engine] | None = None
        self._handles: list[RemovableEventHandle] = []
        self._names: tuple[str, ...] = ()
        self._cut_short = False
        self._logged: set[str] = set()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copy of the engine holds the handler itself, which answers to the original alone."""
        return self

    @property
    def attached(self) -> bool:
        """Whether the handler is attached to an engine."""
        return bool(self._handles)

    def _attach(self, engine: Engine, names: tuple[str, ...]) -> Self:
        if not isinstance(engine, Engine):
            raise TypeError(f"{type(self).__name__} attaches to an ignite Engine, got {type(engine).__name__}")
        if self.attached:
            raise RuntimeError(f"this {type(self).__name__} is attached already; detach it first, or make another one")
        taken = _names_in_use.setdefault(engine, set())
        for name in names:
            if name in taken:
                raise ValueError(f"the engine already has a handler that publishes {name!r}; attach with another name=")
        taken.update(names)
        self._names = names
        self._engine = weakref.ref(engine)
        gate, clock = stepping.ask(engine), _clock(self._engine)
        for collector in self._collectors:
            collector.gate, collector.clock = gate, clock
        self._handles = [
            engine.add_event_handler(Events.STARTED, self._on_started),
            engine.add_event_handler(Events.EPOCH_STARTED, self._on_epoch_started),
            engine.add_event_handler(Events.TERMINATE_SINGLE_EPOCH, self._on_cut_short),
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._on_epoch_completed),
            engine.add_event_handler(Events.TERMINATE, self._on_stop),
            engine.add_event_handler(Events.COMPLETED, self._on_stop),
        ]
        exceptions.listen(engine, self._on_exception)
        return self

    def detach(self) -> None:
        """Finishes an open window, removes every hook and event handler; doing it twice is fine."""
        engine = self._engine() if self._engine is not None else None
        if engine is not None:
            self._finish(engine, partial=True, sync=False)
            exceptions.forget(engine, self._on_exception)
            stepping.leave(engine)
            _names_in_use.get(engine, set()).difference_update(self._names)
        self._stop()
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._engine = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    def give_up(self, what: str, reason: str) -> None:
        """Notes that something failed that is no collector's; the log says it once."""
        if what not in self._logged:
            self._logged.add(what)
            logger.warning("%s gives up %s: %s", type(self).__name__, what, reason)

    @property
    def _open(self) -> bool:
        return any(collector.started for collector in self._collectors)

    @on_own_engine("the start of a run")
    def _on_started(self, engine: Engine) -> None:
        if engine.state.iteration == 0:
            self._renew()

    def _renew(self) -> None:
        for collector in self._collectors:
            collector.renew()

    @on_own_engine("the start of an epoch")
    def _on_epoch_started(self, engine: Engine) -> None:
        self._finish(engine, partial=True, sync=False)
        self._cut_short = False
        self._start(engine)

    def _start(self, engine: Engine) -> None:
        for collector in self._collectors:
            collector.start()

    @on_own_engine("the end of an epoch")
    def _on_cut_short(self, engine: Engine, iter_counter: int) -> None:  # Ignite insists on the second name
        self._cut_short = True

    @on_own_engine("the end of an epoch")
    def _on_epoch_completed(self, engine: Engine) -> None:
        self._finish(engine, partial=self._cut_short)

    @on_own_engine("the end of the run")
    def _on_stop(self, engine: Engine) -> None:
        self._finish(engine, partial=True)
        self._stop()

    @harmless("the end of the run")
    def _on_exception(self, engine: Engine) -> None:
        self._finish(engine, partial=True, sync=False)
        self._stop()

    def _stop(self) -> None:
        for collector in self._collectors:
            collector.stop()

    def _finish(self, engine: Engine, *, partial: bool, sync: bool = True) -> None:
        if self._open:
            for collector in self._collectors:
                collector.pause()
            with guarded(self, "the end of a window"):
                self._publish(engine, partial=partial, sync=sync)

    @abstractmethod
    def _publish(self, engine: Engine, *, partial: bool, sync: bool) -> None:
        """Finishes the collectors' window and hands the numbers on.

        Args:
            engine: the engine attached to.
            partial: whether the window was cut short.
            sync: whether the other processes finish theirs now, too.
        """


def _clock(engine: weakref.ref[Engine]) -> Callable[[], int | None]:
    def iteration() -> int | None:
        own = engine()
        return own.state.iteration if own is not None else None

    return iteration
