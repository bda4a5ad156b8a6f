"""A program that begins something in copies of a run directory and dies before each call that would change the disk:
``striking.py RUN PLACE WORK``.

Each copy is left as a power switch leaves it, but for what was not synchronised. Prints a line of JSON: copy -> the
call that was not made.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ignite_act import experiment, files
from ignite_act.runs.directory import begin, check_run_directory, locked, record_failure, recover
from ignite_act.runs.stored import read_config

CALLS = {"open", "os.rename", "os.remove", "os.mkdir", "os.truncate"}


def overwrite(directory: Path) -> None:
    """Begins another run in place of the one that is there."""
    config = read_config(directory / "config.yaml")[0].model_copy(update={"lr": 0.5})
    with locked(directory):
        check_run_directory(config, directory, overwrite=True)
        begin(directory, config)


def resume(directory: Path) -> None:
    """Goes on with the run after its second epoch, for more epochs, with the state before the last one."""
    config = read_config(directory / "config.yaml")[0].model_copy(update={"max_epochs": 9})
    with locked(directory):
        recover(directory)
        check_run_directory(config, directory, resume=True)
        begin(directory, config, last_epoch=2, damaged=True)


def train(directory: Path) -> None:
    """Goes on with the run, which had ended, for an epoch more."""
    config = read_config(directory / "config.yaml")[0].model_copy(update={"max_epochs": 4})
    experiment.run(config, directory.parents[2], resume=True, quiet=True)


def fail(directory: Path) -> None:
    """Records that the run, which has not ended, failed."""
    record_failure(directory, read_config(directory / "config.yaml")[0], RuntimeError("no memory"))


def report(directory: Path) -> None:
    """Writes a page."""
    files.write(directory / "report.html", "new")


WORK: dict[str, Callable[[Path], None]] = {work.__name__: work for work in (overwrite, resume, train, fail, report)}


def main(run: Path, place: Path, work: Callable[[Path], None]) -> None:
    """Strikes before the first call, the second and so on, until the work is done."""
    if work is train:  # what is loaded and imported once need not be in every child
        warm = place / "warm" / "digits" / "relu" / "seed-42"
        work(Path(shutil.copytree(run, warm)))
    struck: dict[str, str] = {}
    done = False
    while not done:
        # three folders, as in an output directory: none of them may be a link
        directory = place / f"killed-{len(struck)}" / "digits" / "relu" / "seed-42"
        shutil.copytree(run, directory)
        said = in_child(directory, work, len(struck))
        done = not said
        if said:
            struck[str(directory)] = said
    sys.stdout.write(json.dumps(struck))


def in_child(directory: Path, work: Callable[[Path], None], number: int) -> str:
    """Works in a process that dies before a call; returns which one, or nothing if it was not made."""
    read, write = os.pipe()
    process = os.fork()
    if process == 0:
        made = 0

        def strike(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal made
            if event in CALLS and str(arguments[0]).startswith(str(directory)) and not _only_reads(event, arguments):
                if made == number:
                    os.write(write, f"{event} {Path(str(arguments[0])).name}".encode())
                    os._exit(0)
                made += 1

        sys.addaudithook(strike)
        try:
            work(directory)
            os._exit(0)
        finally:
            os._exit(1)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    if os.waitpid(process, 0)[1]:
        raise RuntimeError("a child failed")
    return said


def _only_reads(event: str, arguments: tuple[Any, ...]) -> bool:
    return event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), WORK[sys.argv[3]])
