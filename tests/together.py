"""A program that trains in two processes and stores the weights of each: ``together.py PLACE SETTINGS [HOW]``.

SETTINGS are those of a run in JSON. It starts two processes itself, but below torchrun (HOW is ``torchrun``) it joins.
HOW may also be the rank of a process that stops in its second epoch, as if it hung; the others wait for five seconds.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
from datetime import timedelta
from pathlib import Path

import torch
from ignite.engine import Events

from ignite_act import experiment, processes
from ignite_act.config import RunConfig
from ignite_act.errors import LostProcessError


def train(config: RunConfig, place: Path, hanging: str) -> None:
    """Trains; stores the weights of this process after its last epoch."""
    real = experiment._Run._summary

    def store(run: experiment._Run) -> object:
        torch.save(run.parts.model.state_dict(), place / f"weights-{os.environ['RANK']}.pt")
        return real(run)

    bind = experiment._Run._bind

    def bind_and_stop(run: experiment._Run, sinks: object) -> None:
        bind(run, sinks)  # type: ignore[arg-type]
        if hanging == os.environ["RANK"]:
            stop = functools.partial(os.kill, os.getpid(), signal.SIGSTOP)
            run.trainer.add_event_handler(Events.EPOCH_STARTED(once=2), lambda: stop())

    experiment._Run._summary = store  # type: ignore[method-assign, assignment]
    experiment._Run._bind = bind_and_stop  # type: ignore[method-assign]
    experiment.run(config, place, resume=True, quiet=True)


if __name__ in ("__main__", "__mp_main__"):  # the second is what it is called in the processes it starts
    how = sys.argv[3] if len(sys.argv) > 3 else ""
    if how.isdecimal():
        processes.TIMEOUT = timedelta(seconds=5)

if __name__ == "__main__":
    work = functools.partial(train, RunConfig(**json.loads(sys.argv[2])), Path(sys.argv[1]), how)
    if how == "torchrun":
        with processes.together("gloo"):
            work()
        processes.leave()  # as the command line does
    else:
        try:
            processes.launch(work, processes=2, backend="gloo")
        except LostProcessError as error:
            sys.exit(str(error))
