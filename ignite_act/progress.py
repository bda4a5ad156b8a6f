"""How far a sweep is, on the console."""

from __future__ import annotations

import time
from datetime import timedelta
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from typing_extensions import Self

from ignite_act.config import RunConfig
from ignite_act.errors import one_line
from ignite_act.runs.stored import StoredRun, epochs_done
from ignite_act.sweep import Sweep
from ignite_act.variants import activation_slug


class SweepProgress:
    """One line for every run that ends; on a terminal also a bar over all runs, and the epochs of those under way.

    Args:
        sweep: what is trained.
        console: where to show it.
    """

    def __init__(self, sweep: Sweep, console: Console) -> None:
        self._sweep = sweep
        self._console = console
        self._total = len(sweep.configs)
        self._ended = 0
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=2, transient=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._console.quiet:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, run: StoredRun) -> None:
        """A run has ended."""
        self._ended += 1
        self._console.print(one_line(f"[{self._ended}/{self._total}] {run_line(run)}"), markup=False, soft_wrap=True)

    def _render(self) -> Group:
        under_way = [
            (config, epochs_done(self._sweep.directory(config)))
            for config in self._sweep.configs
            if self._sweep.under_way(config)
        ]
        done = self._ended + sum(epochs / config.max_epochs for config, epochs in under_way)
        elapsed = time.time() - self._sweep.begin
        left = f"about {_clock(elapsed / done * (self._total - done))} left" if done >= 1 else ""
        line = Table.grid(padding=(0, 1))
        bar = ProgressBar(self._total, done, width=40)
        line.add_row(f"{self._ended}/{self._total} runs", bar, _clock(elapsed), left)
        lines = [Text(f"  {_name(config)}: epoch {epochs}/{config.max_epochs}") for config, epochs in under_way]
        return Group(line, *(lines or [Text("  starting")]))


def run_line(run: StoredRun) -> str:
    """What became of a run."""
    name = f"{run.summary['activation']}, seed {run.summary['seed']}"
    if run.failed:
        return f"{name}: failed: {run.summary['stop_reason']}"
    accuracy = run.summary["test"]["accuracy"]
    score = "no test accuracy" if accuracy is None else f"test accuracy {accuracy:.2%}"
    learned = "" if run.summary["learned"] else ", did not start to learn"
    return f"{name}: {score} after {run.summary['epochs']} epochs, {run.summary['seconds']:.0f} s{learned}"


def _name(config: RunConfig) -> str:
    return f"{activation_slug(config.act)}, seed {config.seed}"


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
