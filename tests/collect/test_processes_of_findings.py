"""Two real processes, joined by gloo: what the findings are made of is what one process measures alone."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from ignite.engine import Engine, Events
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD

from ignite_act import Diagnostics

pytestmark = pytest.mark.slow

STEPS, BATCH, EPOCHS = 6, 32, 2


class Net(nn.Module):
    """A small network one of whose units is saturated, with a gradient that nobody clears if it is told so."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(6, 12), nn.Linear(12, 3)
        with torch.no_grad():
            self.first.bias[0] = 50.0

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


def share(step: int, rank: int | None) -> tuple[Tensor, Tensor]:
    """The samples of one step that a process gets; all of them for None."""
    generator = torch.Generator().manual_seed(step)
    x, y = torch.randn(2 * BATCH, 6, generator=generator), torch.randint(3, (2 * BATCH,), generator=generator)
    return (x, y) if rank is None else (x[rank::2], y[rank::2])


def train(rank: int | None, squared: bool) -> list[dict[str, Any]]:
    """The reports of a data-parallel training, of classes or of a squared error."""
    model = Net()
    parallel = model if rank is None else DistributedDataParallel(model)
    optimizer = SGD(parallel.parameters(), lr=0.05)

    def step(engine: Engine, number: int) -> float:
        x, y = share(number, rank)
        optimizer.zero_grad()
        loss = F.mse_loss(parallel(x), x[:, :3] + 2) if squared else F.cross_entropy(parallel(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    trainer = Engine(step)
    diagnostics = Diagnostics(parallel, every=1).attach(trainer)
    reports: list[dict[str, Any]] = []
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: reports.append(diagnostics.report.to_dict()))
    trainer.run(range(STEPS), max_epochs=EPOCHS)
    return reports


def work(rank: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    results = {"classes": train(rank, squared=False), "squares": train(rank, squared=True)}
    (Path(folder) / f"{rank}.json").write_text(json.dumps(results))
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The reports of each of two processes."""
    folder = tmp_path_factory.mktemp("processes")
    multiprocessing.spawn(work, (str(folder),), nprocs=2)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def alone() -> dict[str, list[dict[str, Any]]]:
    """The reports of one process over the same samples."""
    return {"classes": train(None, squared=False), "squares": train(None, squared=True)}


def assert_close(row: Any, twin: Any, where: str, rel: float = 1e-4, skip: tuple[str, ...] = ()) -> None:
    """The same names and numbers."""
    if isinstance(twin, dict):
        assert list(row) == list(twin), where
        for name in twin:
            if name not in skip:
                assert_close(row[name], twin[name], f"{where}.{name}", rel, skip)
    elif isinstance(twin, (float, list)):
        assert row == pytest.approx(twin, rel=rel, abs=1e-5), where
    else:
        assert row == twin, where


def assert_way_back(signal: Any, twin: Any) -> None:
    """Each process has the mean loss of its own samples, so only what is lost from layer to layer is the same."""
    lost = [rows["first"]["backward"] / rows["second"]["backward"] for rows in (signal, twin)]
    assert lost[0] == pytest.approx(lost[1], rel=0.1)


@pytest.mark.parametrize("task", ["classes", "squares"])
def test_every_process_has_the_same_report(together, task: str) -> None:
    """The numbers and the findings do not depend on the process that is asked, but for the time taken."""
    first, second = ([{**report, "cost": 0} for report in result[task]] for result in together)
    assert len(first) == EPOCHS
    assert first == second
    assert not any("other processes" in rows["unseen"] for report in first for rows in report["coverage"].values())


@pytest.mark.parametrize("task", ["classes", "squares"])
def test_updates_signal_and_loss_equal_those_of_one_process(together, alone, task: str) -> None:
    """Update ratios, clearing, the sizes of the signal and the course of the loss, over the same samples."""
    for report, twin in zip(together[0][task], alone[task], strict=True):
        assert_close(report["updates"], twin["updates"], "updates")
        assert_close(report["signal"], twin["signal"], "signal", skip=("backward",))
        assert_way_back(report["signal"], twin["signal"])
        assert_close(report["loss"], twin["loss"], "loss", skip=("min", "max"))  # those are of a process
        assert report["loss"]["steps"] == STEPS
        assert report["activations"]["tanh"]["saturated_units"] == twin["activations"]["tanh"]["saturated_units"] == 1


def test_what_the_loss_is_equals_what_one_process_sees(together, alone) -> None:
    """Kind, score, classes and losses come from the samples of all processes."""
    for report, twin in zip(together[0]["classes"], alone["classes"], strict=True):
        own, expected = report["output"], twin["output"]
        assert (own["loss_applies"], own["maximised"]) == (expected["loss_applies"], expected["maximised"])
        assert (own["loss_applies"], own["maximised"]) == ("softmax", False)
        for name in ("min", "max", "scale", "first_loss", "mean_loss", "accuracy", "majority", "constant_loss"):
            assert own[name] == pytest.approx(expected[name], rel=1e-4), name


def test_a_squared_error_is_recognised_together(together, alone) -> None:
    """The loss of the first step and the variance of the targets are those of all samples, and fit the loss."""
    for report, twin in zip(together[0]["squares"], alone["squares"], strict=True):
        for name in ("squared_loss", "target_variance"):
            assert report["output"][name] == pytest.approx(twin["output"][name], rel=1e-4), name
        assert report["output"]["squared_loss"] == pytest.approx(report["loss"]["first"], rel=1e-4)


@pytest.mark.parametrize("task", ["classes", "squares"])
def test_findings_equal_those_of_one_process(together, alone, task: str) -> None:
    """The same is wrong, at the same place."""
    for report, twin in zip(together[0][task], alone[task], strict=True):
        own, expected = (
            [(item["kind"], item["severity"], item["layer"]) for item in found["findings"]] for found in (report, twin)
        )
        assert own == expected
