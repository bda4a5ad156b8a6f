"""Many runs, side by side: on the cores of this machine, or on a Dask cluster."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib

from ignite_act import experiment
from ignite_act.config import RunConfig
from ignite_act.data import load_data
from ignite_act.errors import LostProcessError, UserError, first_line
from ignite_act.processes import launch
from ignite_act.runs.directory import (
    BusyError,
    OccupiedError,
    check_not_busy,
    check_run_directory,
    has_begun,
    is_under_way,
    locked,
    record_failure,
)
from ignite_act.runs.layout import run_directory
from ignite_act.runs.stored import StoredRun, is_finished, read_run

CLUSTER_TIMEOUT = 10
"""Seconds to wait for a cluster to answer."""


@dataclass(frozen=True)
class Sweep:
    """Runs to be trained, those already there left out.

    Attributes:
        configs: what to train.
        kept: finished runs with the same settings.
        output_dir: where the run directories are, as an absolute path.
        begin: when it was planned, as ``time.time()``.
        overwrite: start runs over that are there.
    """

    configs: tuple[RunConfig, ...]
    kept: tuple[StoredRun, ...]
    output_dir: Path
    begin: float
    overwrite: bool = False

    def run(
        self, *, jobs: int = 1, cluster: str | None = None, processes: int = 1, backend: str = "gloo"
    ) -> Iterator[StoredRun]:
        """Trains, and yields every run as it ends; one that fails is recorded with the reason and yielded like others.

        Each of several jobs is a process of its own with its share of the cores. Where a process dies (the memory is
        exhausted, say), the runs that were under way are tried once more, each alone.

        Args:
            jobs: how many runs to train at the same time; 1 trains in this process.
            cluster: address of a Dask scheduler that trains instead; its workers must see ``output_dir``.
            processes: how many train each run together, one run after the other.
            backend: by which they talk.

        Raises:
            UserError: if the cluster cannot be reached.
            BusyError, OccupiedError: if a run directory has been taken by another study since the sweep was planned.
        """
        if cluster is not None:
            yield from self._train_on(cluster)
        elif processes > 1:
            for config in self.configs:
                yield self._train_together(config, processes, backend)
        elif jobs == 1:
            for config in self.configs:
                yield read_run(train(config, self.output_dir, overwrite=self.overwrite))
        else:
            with joblib.parallel_config("loky", inner_max_num_threads=max(1, joblib.cpu_count() // jobs)):
                yield from self._train_side_by_side(self.configs, jobs)

    def _train_side_by_side(self, configs: Sequence[RunConfig], jobs: int) -> Iterator[StoredRun]:
        """In processes; where one dies, joblib gives all of them up, and nobody knows which run it had.

        Runs under way are then trained alone; if none has begun, all of them are. Every death thus settles at least one
        run.
        """
        left = list(configs)
        try:
            for run in self._train(left, jobs, overwrite=self.overwrite):
                left = [config for config in left if self.directory(config) != run.directory]
                yield run
        except BrokenExecutor:
            suspects = [config for config in left if self.under_way(config)] or left
            for config in suspects:
                yield self._train_alone(config)
            yield from self._train_side_by_side([config for config in left if config not in suspects], jobs)

    def _train_alone(self, config: RunConfig) -> StoredRun:
        try:
            # A run that the dead process had started is resumed.
            overwrite = self.overwrite and not has_begun(self.directory(config), self.begin)
            (run,) = self._train([config], 2, overwrite=overwrite)  # 2, for a process of its own
            return run
        except BrokenExecutor as error:
            return read_run(record_failure(self.directory(config), config, error))

    def _train(self, configs: Sequence[RunConfig], jobs: int, *, overwrite: bool = False) -> Iterator[StoredRun]:
        calls = [joblib.delayed(train)(config, self.output_dir, overwrite=overwrite) for config in configs]
        for directory in joblib.Parallel(n_jobs=jobs, batch_size=1, return_as="generator_unordered")(calls):
            yield read_run(directory)

    def _train_together(self, config: RunConfig, processes: int, backend: str) -> StoredRun:
        work = functools.partial(
            experiment.run, config, self.output_dir, resume=not self.overwrite, overwrite=self.overwrite, quiet=True
        )
        try:
            launch(work, processes=processes, backend=backend)
        except (LostProcessError, RuntimeError) as error:
            record_failure(self.directory(config), config, error)
        return read_run(self.directory(config))

    def _train_on(self, address: str) -> Iterator[StoredRun]:
        """On a Dask cluster, without joblib's backend for it: that waits for ever for a run whose worker died."""
        with _cluster(address) as client:
            from distributed import as_completed

            runs = {
                client.submit(train, config, self.output_dir, overwrite=self.overwrite, pure=False): config
                for config in self.configs
            }
            for future in as_completed(runs):
                error = future.exception()
                if isinstance(error, (BusyError, OccupiedError)):
                    raise error
                if error is not None:
                    record_failure(self.directory(runs[future]), runs[future], error)
                yield read_run(self.directory(runs[future]))

    def directory(self, config: RunConfig) -> Path:
        """The directory of one of the runs."""
        return run_directory(config, self.output_dir)

    def under_way(self, config: RunConfig) -> bool:
        """Whether one of the runs has been started and has not ended."""
        return is_under_way(self.directory(config), self.begin)


def plan(
    configs: Sequence[RunConfig],
    output_dir: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    check_data: bool = True,
) -> Sweep:
    """Looks at what is there before anything is trained or written.

    Args:
        configs: all runs, on the same data.
        output_dir: where the run directories are.
        resume: go on with runs that are there; finished ones are kept.
        overwrite: start all of them over.
        check_data: see whether the data can be had on this machine.

    Raises:
        UserError: if a run is there and neither is asked for, or was made with other settings, or there is no data.
    """
    place = output_dir.absolute()
    for config in configs:
        check_run_directory(config, run_directory(config, output_dir), resume=resume, overwrite=overwrite)
        check_not_busy(run_directory(config, output_dir))
    kept = [] if overwrite else [config for config in configs if is_finished(run_directory(config, place), config)]
    missing = tuple(config for config in configs if config not in kept)
    if check_data and missing:
        load_data(missing[0].data, missing[0].data_root)
    stored = tuple(read_run(run_directory(config, place)) for config in kept)
    return Sweep(missing, stored, place, time.time(), overwrite)


def train(config: RunConfig, output_dir: Path, *, overwrite: bool = False) -> Path:
    """Trains one run of a sweep, or goes on with it, and returns its directory; an error becomes its result.

    One run at a time in a process: torch has one random state for all threads, and Dask may call from several.

    Raises:
        BusyError, OccupiedError: if the directory belongs to another run, whose result is left alone.
    """
    directory = run_directory(config, output_dir)
    with _ONE_AT_A_TIME:
        with locked(directory):  # marks it as begun
            pass
        try:
            experiment.run(config, output_dir, resume=not overwrite, overwrite=overwrite, quiet=True)
        except (BusyError, OccupiedError):
            raise
        except Exception as error:
            record_failure(directory, config, error)
    return directory


@contextlib.contextmanager
def _cluster(address: str) -> Iterator[Any]:
    """A client of the Dask scheduler at an address."""
    try:
        from distributed import Client
    except ImportError as error:
        raise UserError("--cluster needs Dask: pip install 'ignite-act[cluster]'") from error
    try:
        client = Client(address, timeout=CLUSTER_TIMEOUT)
    except (OSError, ValueError, TypeError) as error:  # TimeoutError is an OSError
        raise UserError(f"no Dask scheduler answers at {address!r}: {first_line(error)}") from error
    with client:
        yield client


_ONE_AT_A_TIME = threading.Lock()
