"""Two processes joined by gloo: what ignite_act says of both equals the twins of both, put together."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from identical import assert_identical
from torch import distributed, multiprocessing

from real import library_cases
from real.case import Case
from real.training import Outcome, assert_activations, assert_dead, assert_gradients, train
from real.twin import Site

pytestmark = pytest.mark.slow

NAMES = ("gpt", "unet", "inverted residuals and convnext")  # tied weights; skips; buffers and in-place activations


def chosen() -> dict[str, Case]:
    """The models that are trained in two processes."""
    cases = {case.name: case for case in library_cases.CASES}
    return {name: cases[name] for name in NAMES}


def work(rank: int, folder: str) -> None:
    """Trains every model twice, on batches that no other process has."""
    os.environ.update(MASTER_ADDR="127.0.0.1", RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    outcomes = {
        name: (train(case, watch=True, rank=rank), train(case, watch=False, rank=rank))
        for name, case in chosen().items()
    }
    torch.save(outcomes, Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, tuple[Outcome, Outcome]]]:
    """For each process, what is left of the watched and of the unwatched training of every model."""
    folder = tmp_path_factory.mktemp("processes")
    multiprocessing.spawn(work, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.mark.parametrize("name", NAMES)
def test_two_processes(together: list[dict[str, tuple[Outcome, Outcome]]], name: str) -> None:
    """Activations and dead units are those of all samples, gradients the all-reduced ones, the bits the same."""
    sites: dict[str, Site] = {}
    for outcomes in together:
        for site in outcomes[name][1].sites.values():
            sites.setdefault(site.name, Site(site.name, site.function)).add(site)
    assert together[0][name][1].gradients == together[1][name][1].gradients
    for outcomes in together:
        watched, twin = outcomes[name]
        assert_activations(watched.report.activations, sites)
        assert_dead(watched.report.dead_neurons, sites)
        assert_gradients(watched.report.gradients, twin.gradients)
        assert_identical(watched.state, twin.state)
        assert watched.report.activations[next(iter(sites))]["count"] == 2 * sum(
            values.numel() for values in next(iter(twin.sites.values())).values
        )
