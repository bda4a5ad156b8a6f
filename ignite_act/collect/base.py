"""What all collectors share: a window that is started, finished and stopped."""

from __future__ import annotations

import logging
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from typing_extensions import Self

from ignite_act.collect.names import unwrap
from ignite_act.collect.processes import gather, several
from ignite_act.errors import one_line
from ignite_act.guard import guarded, reason_of
from ignite_act.internals import compiled_frames

logger = logging.getLogger(__name__)

STATE_VERSION = 3


@dataclass(frozen=True)
class Coverage:
    """What a collector saw and what it could not see: silence is never health.

    Attributes:
        seen: names of the sites or layers that were measured.
        unseen: name -> why it was not, in words.
    """

    seen: tuple[str, ...] = ()
    unseen: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and dicts, as they go into a report."""
        return {"seen": list(self.seen), "unseen": dict(self.unseen)}


class Every:
    """True on the first of every ``n`` ticks; calls within one tick get one answer."""

    def __init__(self, n: int) -> None:
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise ValueError(f"every must be a whole number of at least 1, got {n!r}")
        self.n = n
        self.reset()

    def reset(self) -> None:
        """Makes the next tick the first one."""
        self.count = 0
        """Ticks so far."""
        self._tick: object = None
        self._answer = False

    def __call__(self, tick: object) -> bool:
        if tick is None or tick != self._tick:
            self._tick, self._answer = tick, self.count % self.n == 0
            self.count += 1
        return self._answer


class Collector(ABC):
    """Watches one model over windows and turns each window into numbers.

    ``start`` begins a window and puts the hooks in place, ``finish`` returns the window's numbers and begins the next
    one, ``pause`` stops counting until the next ``start``, ``stop`` takes the hooks away. As a context manager it
    starts and stops. It holds the model weakly (but keeps a ``ModuleDict`` or ``ModuleList``, in which several models
    may have been put together for it) and leaves nothing on it: the hooks are torch's global ones. They stay
    registered from the first ``start`` to ``stop``.

    No failure in a collector reaches the training: it is logged once and listed in the coverage.

    Args:
        model: the model; wrappers of data parallelism and of ``torch.compile`` are looked through.
        every: measure every N-th step.
    """

    def __init__(self, model: nn.Module, *, every: int = 1) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        model = unwrap(model)
        self._model = weakref.ref(model)
        self._container = model if isinstance(model, (nn.ModuleDict, nn.ModuleList)) else None  # made for this call
        self._every = Every(every)
        self._compiled_before = compiled_frames()
        self.gate: Callable[[], bool] = _always
        """Whether what happens now belongs to the window; an engine's handler narrows it to the engine's own steps."""
        self.clock: Callable[[], int | None] = _no_clock
        """The current iteration, where there is a notion of it."""
        self.started = False
        self._release: Callable[[], object] | None = None
        self._keep_window = False
        self._troubles: dict[str, str] = {}  # what failed in this window
        self._logged: set[str] = set()
        self._elsewhere: dict[str, str] = {}  # what other processes could not measure

    @property
    def model(self) -> nn.Module:
        """The watched model.

        Raises:
            ReferenceError: if it has been deleted.
        """
        model = self._model()
        if model is None:
            raise ReferenceError("the watched model no longer exists")
        return model

    def start(self) -> None:
        """Begins a window; a window restored by `load_state_dict` goes on instead."""
        if not self._keep_window:
            with guarded(self, "the beginning of a window"):
                self._begin()
        self._keep_window = False
        if self._release is None:
            self._release = self._hold()
        if not self.started:
            self.started = True
            with guarded(self, "the beginning of a window"):
                self._watch()

    def pause(self) -> None:
        """Counts nothing until the next `start`; the hooks stay registered."""
        if self.started:
            self.started = False
            with guarded(self, "the end of a window"):
                self._unwatch()

    def stop(self) -> None:
        """Takes the hooks away; doing it twice is fine."""
        self.pause()
        if self._release is not None:
            self._release()
            self._release = None

    def renew(self) -> None:
        """Forgets earlier windows: another training of the same model begins. A restored window is kept."""
        if not self._keep_window:
            with guarded(self, "the beginning of a window"):
                self._forget_windows()

    def finish(self, *, partial: bool = False, sync: bool = True) -> dict[str, dict[str, Any]]:
        """The numbers of the window, by name in the order of first use, and the beginning of the next window.

        Args:
            partial: whether the window was cut short; it is written into every row.
            sync: see `finish_together`.
        """
        return finish_together([self], partial=partial, sync=sync)[0]

    def finish_alone(self, *, partial: bool) -> dict[str, dict[str, Any]]:
        """`finish` with what this process knows."""
        rows: dict[str, dict[str, Any]] = {}
        unseen: dict[str, str] = {}
        with guarded(self, "the numbers of the window"):
            rows = {name: {**row, "partial": partial} for name, row in self._numbers().items()}
        with guarded(self, "what was not seen"):
            unseen = self._find_unseen(tuple(rows))
        unseen = {**unseen, **self._troubles, **self._elsewhere}
        self._coverage = Coverage(tuple(rows), {name: one_line(reason) for name, reason in unseen.items()})
        self._troubles, self._elsewhere = {}, {}
        with guarded(self, "the beginning of a window"):
            self._begin()
        return rows

    def shared_state(self) -> dict[str, Any]:
        """What the other processes need to know of the window."""
        return {"window": self._state(), "failed": self._failures()}

    def unite(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Makes the window that of all processes.

        Args:
            states: the `shared_state` of each, in the order of their ranks.
        """
        self._unite([state["window"] for state in states])
        for rank, state in enumerate(states):
            for name, reason in state["failed"].items():
                self._elsewhere.setdefault(name, f"in process {rank} {reason}")

    def not_united(self, reason: str) -> None:
        """Notes that the numbers of this window are those of this process alone."""
        self._elsewhere["other processes"] = reason

    def give_up(self, what: str, reason: str) -> None:
        """Notes that something could not be measured, for the coverage; the log says it once."""
        self._troubles.setdefault(what, reason)
        if what not in self._logged:
            self._logged.add(what)
            logger.warning("%s gives up %s: %s", type(self).__name__, what, reason)

    _coverage = Coverage()

    @property
    def coverage(self) -> Coverage:
        """What the last finished window saw and what not."""
        return self._coverage

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def state_dict(self) -> dict[str, Any]:
        """The unfinished window and what the next one needs of the last: tensors and plain types only."""
        return {"version": STATE_VERSION, **self._state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`; the next `start` goes on with the restored window.

        Raises:
            ValueError: if the state was written by another version of the format.
        """
        if state.get("version") != STATE_VERSION:
            raise ValueError(
                f"cannot read a collector state of version {state.get('version')!r}, this is version {STATE_VERSION}"
            )
        self._begin()
        self._load_state(state)
        self._keep_window = True

    def _unless_compiled(self, reason: str) -> str:
        """Why nothing was seen; names compiled code if there is any, which nothing else tells from no call at all."""
        # Code that was compiled before is compiled anew once the hooks are there.
        compiled = compiled_frames() > self._compiled_before
        return f"{reason}; in compiled code (torch.compile) it is not seen" if compiled else reason

    def _hold(self) -> Callable[[], object]:
        """Keeps the hooks registered that the collector needs; returns what lets them go."""
        return _nothing

    def _forget_windows(self) -> None:  # noqa: B027 - most collectors keep nothing
        """Drops what one window keeps for the next."""

    @abstractmethod
    def _begin(self) -> None:
        """Empties the statistics."""
        self._every.reset()

    @abstractmethod
    def _watch(self) -> None:
        """Puts the hooks in place."""

    @abstractmethod
    def _unwatch(self) -> None:
        """Takes the hooks away."""

    @abstractmethod
    def _numbers(self) -> dict[str, dict[str, Any]]:
        """Name -> plain numbers of the window."""

    @abstractmethod
    def _find_unseen(self, seen: tuple[str, ...]) -> dict[str, str]:
        """Name -> why it was not measured in the window."""

    @abstractmethod
    def _state(self) -> dict[str, Any]:
        """The window as tensors and plain types."""

    def _failures(self) -> dict[str, str]:
        """Name -> why measuring it failed, of what was given up in the window."""
        return {}

    @abstractmethod
    def _unite(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Replaces the window by what the ``_state`` of all processes add up to."""

    @abstractmethod
    def _load_state(self, state: Mapping[str, Any]) -> None:
        """Takes over what `_state` returned."""


def finish_together(
    collectors: Sequence[Collector], *, partial: bool = False, sync: bool = True
) -> list[dict[str, dict[str, Any]]]:
    """Finishes the window of several collectors.

    Where ``torch.distributed`` runs with more than one process, the numbers are those of all of them: the call is
    collective, every process makes it with the same collectors, also one that has seen no batch. If the others cannot
    be reached, the numbers are those of this process and the coverage says so.

    Args:
        collectors: of one model.
        partial: whether the window was cut short; it is written into every row.
        sync: whether to bring the processes together.

    Returns:
        For each what `Collector.finish` returns.
    """
    if sync and several():
        _bring_together(collectors)
    return [collector.finish_alone(partial=partial) for collector in collectors]


def _bring_together(collectors: Sequence[Collector]) -> None:
    """Gives every collector the window of all processes, or the reason why it has that of this one alone."""
    try:
        by_process: list[list[Mapping[str, Any] | str]] = gather([_shared(collector) for collector in collectors])
        by_collector = list(zip(*by_process, strict=True))
    except Exception as error:  # a process is gone or measures something else
        by_collector = [(reason_of(error),)] * len(collectors)
    told = set()
    for collector, states in zip(collectors, by_collector, strict=True):
        problem = next((state for state in states if isinstance(state, str)), "")
        if not problem:
            try:
                collector.unite([state for state in states if not isinstance(state, str)])
            except Exception as error:
                problem = reason_of(error)
        if problem:
            reason = f"the processes could not be brought together: {problem}"
            collector.not_united(reason)
            if reason not in told:
                told.add(reason)
                logger.warning("%s", reason)


def _shared(collector: Collector) -> Mapping[str, Any] | str:
    """The state of a window, or why there is none: the other processes are told, they must not wait."""
    try:
        return collector.shared_state()
    except Exception as error:
        return reason_of(error)


def _nothing() -> None:
    return None


def _always() -> bool:
    return True


def _no_clock() -> None:
    return None
