"""Tells handlers that an engine's run is ending in an exception, without swallowing it.

Ignite fires neither ``EPOCH_COMPLETED`` nor ``COMPLETED`` then, and a handler of ``EXCEPTION_RAISED`` would take the
exception away from the user. So the method that decides about it is wrapped, on the one engine, while somebody
listens.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from typing import Any, cast

from ignite.engine import Engine

from ignite_act import guard

logger = logging.getLogger(__name__)

Listener = Callable[[Engine], None]
_METHOD = "_handle_exception"

_listeners: weakref.WeakKeyDictionary[Engine, list[weakref.WeakMethod[Listener]]] = weakref.WeakKeyDictionary()


def listen(engine: Engine, listener: Listener) -> None:
    """Calls a bound method, held weakly, when an exception leaves the engine's loop, before anybody else."""
    listeners = _listeners.setdefault(engine, [])
    listeners.append(weakref.WeakMethod(listener))
    if _METHOD not in vars(engine) and hasattr(engine, _METHOD):
        setattr(engine, _METHOD, _Telling(engine))


def forget(engine: Engine, listener: Listener) -> None:
    """Ends `listen`; with the last listener the engine is as it was."""
    listeners = _listeners.get(engine, [])
    listeners[:] = [known for known in listeners if known() not in (None, listener)]
    if not listeners:
        vars(engine).pop(_METHOD, None)


class _Telling:
    """Stands in for the method of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = weakref.ref(engine)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A copy of the engine has no listeners: it gets the method itself."""
        engine = self._engine()
        copied = memo.get(id(engine))
        return getattr(type(copied), _METHOD).__get__(copied) if copied is not None else _Telling(cast(Engine, engine))

    def __call__(self, error: BaseException) -> None:
        own = self._engine()
        if own is None:
            raise error
        guard.stop()
        if not isinstance(error, GeneratorExit):  # an interrupted run that is given up: no error
            for known in list(_listeners.get(own, [])):
                listener = known()
                try:
                    if listener is not None:
                        listener(own)
                except Exception:  # the user's exception is the one to be seen
                    logger.warning("the unfinished window could not be reported", exc_info=True)
        getattr(type(own), _METHOD)(own, error)
