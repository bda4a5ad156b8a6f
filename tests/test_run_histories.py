"""Whatever is done in an output directory, no finished run is lost but by --overwrite, and nothing outside changes."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ignite_act import experiment, files, sweep
from ignite_act.config import RunConfig
from ignite_act.errors import UserError
from ignite_act.runs.layout import run_directory
from ignite_act.runs.stored import is_ended, read_run

RATES = (0.05, 0.5)
CONFIGS = [
    RunConfig(hidden=(4,), batch_size=512, lr=lr, max_epochs=2, diagnostics=False, act=act)
    for act in ("relu", "tanh")
    for lr in RATES
]
"""Two run directories, each wanted by two studies."""
FILES = ("config.yaml", "summary.json", "epochs.jsonl", "checkpoints/last.pt", "checkpoints/previous.pt",
         "checkpoints/best.pt", ".lock", ".intent.json")  # fmt: skip
PRECIOUS = ("summary.json", "epochs.jsonl", "checkpoints/best.pt", "checkpoints/last.pt")
HOW = ("new", "resume", "overwrite")
WRITING = ("write", "writing", "remove", "rename", "cut", "make_directory")


class Killed(BaseException):
    """The process ends here."""


def train(config: RunConfig, output: Path, how: str) -> None:
    """One run, if it is not refused."""
    with contextlib.suppress(UserError):
        experiment.run(config, output, resume=how == "resume", overwrite=how == "overwrite", quiet=True)


@contextlib.contextmanager
def before_each_write(strike: Callable[[int], None]) -> Iterator[None]:
    """Calls a function before each call that changes the disk, with how many there were."""
    made = itertools.count()

    def struck(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            strike(next(made))
            return real(*args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in WRITING:
            patch.setattr(files, name, struck(getattr(files, name)))
        yield


class Histories(RuleBasedStateMachine):
    """Runs, sweeps, kills, deletions and links, in any order, by one process and by two."""

    another = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp())
        self.output, self.outside = self.place / "runs", self.place / "outside"
        self.outside.mkdir()
        (self.outside / "victim.pt").write_text("the user's own", encoding="utf-8")
        self.finished: dict[Path, dict[str, bytes]] = {}

    def teardown(self) -> None:
        shutil.rmtree(self.place)

    @initialize(config=st.sampled_from(CONFIGS))
    def begin(self, config: RunConfig) -> None:
        """There is a finished run."""
        self._do(lambda: train(config, self.output, "new"))
        assert self.finished

    @rule(config=st.sampled_from(CONFIGS), how=st.sampled_from(HOW))
    def run(self, config: RunConfig, how: str) -> None:
        """One run, as its flags say."""
        if how == "overwrite":
            self.finished.pop(run_directory(config, self.output), None)
        self._do(lambda: train(config, self.output, how))

    @rule(lr=st.sampled_from(RATES))
    def sweep(self, lr: float) -> None:
        """Both runs of a study."""
        chosen = [config for config in CONFIGS if config.lr == lr]
        self._do(lambda: list(sweep.plan(chosen, self.output, resume=True).run()))

    @rule(config=st.sampled_from(CONFIGS), overwrite=st.booleans(), number=st.integers(0, 12))
    def kill(self, config: RunConfig, overwrite: bool, number: int) -> None:
        """A run that ends at one of the calls by which it writes."""
        if overwrite:
            self.finished.pop(run_directory(config, self.output), None)

        def strike(made: int) -> None:
            if made >= number:
                raise Killed

        with before_each_write(strike):
            self._do(lambda: train(config, self.output, "overwrite" if overwrite else "resume"))

    @rule(
        config=st.sampled_from(CONFIGS),
        how=st.sampled_from(HOW),
        lr=st.sampled_from(RATES),
        other_how=st.sampled_from(HOW),
        number=st.integers(0, 24),
    )
    def meanwhile(self, config: RunConfig, how: str, lr: float, other_how: str, number: int) -> None:
        """Two processes in one place: all that one does happens between two calls by which the other one writes."""
        other = config.model_copy(update={"lr": lr})
        for own, flag in ((config, how), (other, other_how)):
            if flag == "overwrite":
                self.finished.pop(run_directory(own, self.output), None)

        def strike(made: int) -> None:
            if made == number:
                self.another.submit(train, other, self.output, other_how).result()
                before_the_lock = how == "overwrite" and made < 4  # what is there then may be overwritten
                self._record(unless=run_directory(config, self.output) if before_the_lock else None)

        with before_each_write(strike):
            self._do(lambda: train(config, self.output, how))

    @rule(config=st.sampled_from(CONFIGS), other=st.sampled_from(CONFIGS), how=st.sampled_from(HOW))
    def at_once(self, config: RunConfig, other: RunConfig, how: str) -> None:
        """Two processes that begin at the same time."""
        for own in (config, other):
            if how == "overwrite":
                self.finished.pop(run_directory(own, self.output), None)
        theirs = self.another.submit(train, other, self.output, how)
        self._do(lambda: (train(config, self.output, how), theirs.result()))

    @rule(config=st.sampled_from(CONFIGS), name=st.sampled_from(FILES))
    def delete(self, config: RunConfig, name: str) -> None:
        """The user deletes a file: that run is theirs to lose."""
        directory = run_directory(config, self.output)
        if (directory / name).is_file() or (directory / name).is_symlink():
            (directory / name).unlink()
            self.finished.pop(directory, None)

    @precondition(lambda self: self.output.exists())
    @rule(config=st.sampled_from(CONFIGS), name=st.sampled_from(FILES))
    def link(self, config: RunConfig, name: str) -> None:
        """Somebody plants a link where no file is."""
        path = run_directory(config, self.output) / name
        if path.parent.is_dir() and not os.path.lexists(path):
            path.symlink_to(self.outside / "victim.pt")

    @rule(config=st.sampled_from(CONFIGS))
    def unlink(self, config: RunConfig) -> None:
        """The links are taken away again."""
        for name in FILES:
            path = run_directory(config, self.output) / name
            if path.is_symlink():
                path.unlink()

    def _do(self, work: Any) -> None:
        with contextlib.suppress(UserError, Killed):
            work()
        self._record()

    def _record(self, unless: Path | None = None) -> None:
        for config in CONFIGS:
            directory = run_directory(config, self.output)
            if directory not in {unless, *self.finished} and self._is_finished(directory):
                self.finished[directory] = {
                    name: (directory / name).read_bytes() for name in PRECIOUS if (directory / name).is_file()
                }

    def _is_finished(self, directory: Path) -> bool:
        try:
            return is_ended(directory) and not read_run(directory).failed
        except UserError:
            return False

    @invariant()
    def no_finished_run_is_lost(self) -> None:
        """What was finished and not named by --overwrite is there, to the byte, and is found."""
        for directory, kept in self.finished.items():
            for name, data in kept.items():
                assert (directory / name).read_bytes() == data, name
            assert self._is_finished(directory)

    @invariant()
    def nothing_outside_has_changed(self) -> None:
        """Not a byte, not a name."""
        assert [path.name for path in self.outside.iterdir()] == ["victim.pt"]
        assert (self.outside / "victim.pt").read_text(encoding="utf-8") == "the user's own"
        assert sorted(path.name for path in self.place.iterdir()) == ["outside", "runs"]


Histories.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=12,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # making a failure smaller would take minutes
    suppress_health_check=[*HealthCheck],
)
TestHistories = pytest.mark.slow(Histories.TestCase)
