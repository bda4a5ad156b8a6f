"""Several processes that train one network together, each on its share of every batch."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import ignite.distributed as idist
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, start_processes

from ignite_act.errors import LostProcessError, UserError, echo, error_line, first_line

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

TIMEOUT = timedelta(minutes=5)
"""How long the processes wait for one that says nothing; one that dies is noticed at once."""
FAILED = 2
"""Exit code of a process whose error has been shown."""

Result = TypeVar("Result")


def is_first() -> bool:
    """Whether this process writes the files and talks to the user: the only one, or that of rank 0."""
    return bool(idist.get_rank() == 0)


def first(work: Callable[[], Result]) -> Result:
    """Does something in the first process alone; its result, or its `UserError`, is that of all of them."""
    if idist.get_world_size() == 1:
        return work()
    outcome: list[Any] = [None, None]
    if is_first():
        try:
            outcome = [work(), None]
        except UserError as error:
            outcome = [None, error]
    dist.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def default_backend() -> str:
    """``"nccl"`` where there are GPUs, else ``"gloo"``."""
    return "nccl" if torch.cuda.is_available() else "gloo"


@contextlib.contextmanager
def together(backend: str) -> Iterator[None]:
    """Joins the processes that torchrun, or `launch`, has started.

    Raises:
        UserError: if the backend does not work here.
        LostProcessError: if another process died or fell silent.
    """
    try:
        idist.initialize(backend, timeout=TIMEOUT)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"the backend {backend} does not work here: {first_line(error)}") from error
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not _is_lost(error):
            raise
        raise LostProcessError(f"process {idist.get_rank()} has lost the others: {first_line(error)}") from error
    finally:
        with contextlib.suppress(RuntimeError):
            idist.finalize()


def _is_lost(error: RuntimeError) -> bool:
    """Whether gloo, which has no exceptions of its own, says that a connection is gone."""
    return any(word in str(error) for word in ("Connection closed by peer", "Connection reset", "Timed out", "gloo"))


def launch(work: Callable[[], object], *, processes: int, backend: str) -> None:
    """Does something in so many processes of this machine at once, and waits for all of them.

    Args:
        work: can be pickled.
        processes: how many.
        backend: of ``torch.distributed``.

    Raises:
        SystemExit: if a process ended with an error that it has shown.
        LostProcessError: if one died; the others are ended.
    """
    _check_handles(processes)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # whom it ends is our business
    try:
        start_processes(_in_process, (processes, port, backend, work), processes, daemon=True)
    except ProcessExitedException as error:
        if error.exit_code == FAILED and error.signal_name is None:
            sys.exit(FAILED)
        how = f"was killed by {error.signal_name}" if error.signal_name else f"ended with code {error.exit_code}"
        raise LostProcessError(
            f"process {error.error_index} of {processes} {how}, and the others were ended: "
            "the same command with --resume goes on after the last finished epoch"
        ) from error
    except ProcessRaisedException as error:
        raise RuntimeError(f"process {error.error_index} of {processes} failed:{error}") from error


def _check_handles(processes: int) -> None:
    """Refuses to start processes that could not talk: gloo waits for minutes, or aborts, without handles.

    Raises:
        UserError: if each may open too few files.
    """
    if resource is None:
        return
    limit, needed = resource.getrlimit(resource.RLIMIT_NOFILE)[0], 32 + 2 * processes
    if 0 <= limit < needed:
        raise UserError(
            f"{processes} processes need {needed} open files each, and {limit} are allowed: "
            f"raise the limit (ulimit -n {max(needed, 1024)})"
        )


def leave() -> NoReturn:
    """Ends this process well, and without the end of the interpreter, at which threads of torch may abort."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # it may be None, gone or closed
            stream.flush()
    os._exit(0)


def _in_process(rank: int, processes: int, port: int, backend: str, work: Callable[[], object]) -> None:
    os.environ.update(
        {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
    )
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    try:
        with together(backend):
            work()
        leave()
    except LostProcessError as error:
        echo(error_line(error), err=True)
        sys.exit(1)
    except UserError as error:
        if rank == 0:
            echo(f"error: {error_line(error)}", err=True)
        sys.exit(FAILED)
