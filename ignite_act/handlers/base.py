"""The window of a handler: from ``EPOCH_STARTED`` to ``EPOCH_COMPLETED`` of the engine it is attached to."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from types import TracebackType

from ignite.engine import Engine, Events, RemovableEventHandle
from typing_extensions import Self

from ignite_act.collect import Collector
from ignite_act.handlers import exceptions

_names_in_use: weakref.WeakKeyDictionary[Engine, set[str]] = weakref.WeakKeyDictionary()


class WindowHandler(ABC):
    """Starts and finishes collectors with the epochs of an engine.

    A window that does not reach its end is finished all the same and marked partial: at ``TERMINATE``, ``COMPLETED``,
    the next ``EPOCH_STARTED``, on `detach` and when an exception ends the run, which goes on to the user.
    Of forwards only those inside the engine's own step are measured, so evaluators that run in its handlers do not
    count; of optimizer steps every one within the window.
    """

    def __init__(self, collectors: Iterable[Collector]) -> None:
        self._collectors = tuple(collectors)
        self._engine: weakref.ref[Engine] | None = None
        self._handles: list[RemovableEventHandle] = []
        self._names: tuple[str, ...] = ()
        self._cut_short = False

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
        gate, clock = _gate(self._engine), _clock(self._engine)
        for collector in self._collectors:
            collector.gate, collector.clock = gate, clock
        self._handles = [
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
            _names_in_use.get(engine, set()).difference_update(self._names)
        for collector in self._collectors:
            collector.stop()
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

    @property
    def _open(self) -> bool:
        return any(collector.started for collector in self._collectors)

    def _on_epoch_started(self, engine: Engine) -> None:
        self._finish(engine, partial=True, sync=False)
        self._cut_short = False
        self._start(engine)

    def _start(self, engine: Engine) -> None:
        for collector in self._collectors:
            collector.start()

    def _on_cut_short(self, engine: Engine, iter_counter: int) -> None:  # Ignite insists on the second name
        self._cut_short = True

    def _on_epoch_completed(self, engine: Engine) -> None:
        self._finish(engine, partial=self._cut_short)

    def _on_stop(self, engine: Engine) -> None:
        self._finish(engine, partial=True)

    def _on_exception(self, engine: Engine) -> None:
        self._finish(engine, partial=True, sync=False)

    def _finish(self, engine: Engine, *, partial: bool, sync: bool = True) -> None:
        if self._open:
            for collector in self._collectors:
                collector.stop()
            self._publish(engine, partial=partial, sync=sync)

    @abstractmethod
    def _publish(self, engine: Engine, *, partial: bool, sync: bool) -> None:
        """Finishes the collectors' window and hands the numbers on.

        Args:
            engine: the engine attached to.
            partial: whether the window was cut short.
            sync: whether the other processes finish theirs now, too.
        """


def _gate(engine: weakref.ref[Engine]) -> Callable[[], bool]:
    def in_step() -> bool:
        own = engine()
        if own is None:
            return False
        last = own.last_event_name  # the user's own events may be fired inside the step
        return last is Events.ITERATION_STARTED or not isinstance(last, Events)

    return in_step


def _clock(engine: weakref.ref[Engine]) -> Callable[[], int | None]:
    def iteration() -> int | None:
        own = engine()
        return own.state.iteration if own is not None else None

    return iteration
