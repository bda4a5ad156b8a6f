"""A program that kills runs with SIGKILL, again and again, until they are done: ``killing.py PLACE KILLS``.

It trains once, so that all that torch and numba load is there, and forks. Each child begins a run, or goes on with it,
and is killed: by its parent, at any moment, or by itself, before one of the calls (of Python or of C) that write a
checkpoint, a line or something else.
Prints a line of JSON: variant -> where the kills struck.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from ignite_act import engines, experiment
from ignite_act.config import RunConfig
from ignite_act.runs.checkpoints import RunSaver
from ignite_act.sinks import JsonLinesSink, TensorBoardSink

TINY: dict[str, Any] = {"hidden": (8,), "batch_size": 256, "max_epochs": 5}
VARIANTS = {
    "sgd": RunConfig(**TINY, lr=2.0, patience=2),  # stops early
    "adam": RunConfig(**TINY, act="rrelu", optimizer="adam", lr=0.01, accumulate=2),
    "scaler": RunConfig(**TINY, act="tanh", lr=0.1, amp=True, clip_norm=1.0),
}
WRITING = {
    "checkpoint": (RunSaver, "__call__"),
    "report line": (JsonLinesSink, "write"),
    "event": (TensorBoardSink, "write"),
    "directory": (experiment, "begin"),
    "summary": (experiment.files, "write"),
}
ANY = "any moment"


def main(place: Path, kills: int) -> None:
    """Kills each variant so many times, and lets it end in between as often as it gets there."""
    engines._half = lambda device: torch.float16  # mixed precision on a CPU would need no loss scaler
    go_on(VARIANTS["adam"], place / "warm")
    struck = {}
    for name, config in VARIANTS.items():
        begin = time.monotonic()
        in_child(lambda pipe, c=config, n=name: go_on(c, place / n / "straight"))
        seconds = time.monotonic() - begin
        in_child(lambda pipe, c=config, n=name: write_counts(c, place / n / "counted", place / n / "counts.json"))
        counts = json.loads((place / name / "counts.json").read_text(encoding="utf-8"))
        struck[name] = kill_until_done(config, place / name, counts, seconds, kills)
    sys.stdout.write(json.dumps(struck))


def go_on(config: RunConfig, place: Path) -> None:
    """Begins a run, or goes on with it."""
    experiment.run(config, place, resume=True, quiet=True)


def in_child(work: Callable[[int], None], kill_after: float | None = None) -> str:
    """Does something in a process of its own, which may be killed; returns what it wrote into the pipe it is given."""
    read, write = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(read)
        try:
            work(write)
            os._exit(0)
        finally:
            os._exit(1)
    os.close(write)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(process, signal.SIGKILL)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    status = os.waitpid(process, 0)[1]
    if status and not os.WIFSIGNALED(status):
        raise RuntimeError(f"a child ended with {status}")
    return said or (ANY if status else "")


def watch_calls(before: Callable[[str, int], None]) -> None:
    """Calls a function before every call by which this process writes: what is written, and the number among those."""
    counts: Counter[str] = Counter()

    def watched(doing: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def profile(frame: FrameType, event: str, argument: Any) -> None:
            if event in ("call", "c_call"):
                counts[doing] += 1
                before(doing, counts[doing])

        def write(*args: Any, **kwargs: Any) -> Any:
            sys.setprofile(profile)
            try:
                return real(*args, **kwargs)
            finally:
                sys.setprofile(None)

        return write

    for doing, (owner, name) in WRITING.items():
        setattr(owner, name, watched(doing, getattr(owner, name)))


def write_counts(config: RunConfig, place: Path, path: Path) -> None:
    """Writes how many calls of each kind a run makes."""
    counts: dict[str, int] = {}
    watch_calls(counts.__setitem__)
    go_on(config, place)
    path.write_text(json.dumps(counts), encoding="utf-8")


def kill_until_done(config: RunConfig, place: Path, counts: dict[str, int], seconds: float, kills: int) -> list[str]:
    """Kills so many times; a run that ends all the same is followed by another. Returns what each kill struck."""
    dice, struck, number = random.Random(0), [], 0
    while len(struck) < kills:
        aim = ANY if len(struck) % 2 else list(WRITING)[len(struck) // 2 % len(WRITING)]
        run = place / f"killed-{number}"
        if aim == ANY:
            said = in_child(lambda pipe, run=run: go_on(config, run), kill_after=dice.uniform(0, seconds))
        else:
            last = dice.randint(1, counts[aim])

            def work(pipe: int, aim: str = aim, last: int = last, run: Path = run) -> None:
                def strike(doing: str, call: int) -> None:
                    if (doing, call) == (aim, last):
                        os.write(pipe, doing.encode())
                        os.kill(os.getpid(), signal.SIGKILL)

                watch_calls(strike)
                go_on(config, run)

            said = in_child(work)
        if said:
            struck.append(said)
        if not said or len(struck) == kills:
            in_child(lambda pipe, run=run: go_on(config, run))
            number += 1
    return struck


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]))
