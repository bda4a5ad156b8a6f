"""Two real processes, joined by gloo: what they measure together is what one process measures alone."""

from __future__ import annotations

import contextlib
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

from ignite_act import ActivationStats, DeadNeurons, Diagnostics, EpochRecorder, GradientStats
from ignite_act.sinks import JsonLinesSink

STEPS, BATCH = 5, 8
UNEQUAL = ((8, 8, 8, 3), (8, 1))  # sizes of the batches of the two processes


class Net(nn.Module):
    """A small network with a functional activation, some of whose units die."""

    def __init__(self, hidden: int = 12) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(6, hidden)
        self.act = nn.Tanh()
        self.second = nn.Linear(hidden, 3)
        with torch.no_grad():
            self.first.bias[:4] = -3.0

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.act(F.relu(self.first(x))))


def samples(seed: int, size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, 6, generator=generator), torch.randint(3, (size,), generator=generator)


def share(step: int, rank: int | None) -> tuple[Tensor, Tensor]:
    """The samples of one step that a process gets; all of them for None."""
    x, y = samples(step, 2 * BATCH)
    return (x, y) if rank is None else (x[rank::2], y[rank::2])


def train(rank: int | None, folder: Path) -> dict[str, Any]:
    """Three epochs of data-parallel training under an engine, with the bundle."""
    model = Net()
    parallel = model if rank is None else DistributedDataParallel(model)
    optimizer = SGD(parallel.parameters(), lr=0.05)

    def step(engine: Engine, number: int) -> float:
        x, y = share(number, rank)
        optimizer.zero_grad()
        loss = F.cross_entropy(parallel(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    trainer = Engine(step)
    diagnostics = Diagnostics(parallel, every=1, sinks=[JsonLinesSink(folder / "epochs.jsonl")]).attach(trainer)
    reports: list[dict[str, Any]] = []
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: reports.append(diagnostics.report.to_dict()))
    trainer.run(range(STEPS), max_epochs=3)
    return {"reports": reports, "published": trainer.state.metrics["dead_neurons"]}


def evaluate(sizes: list[tuple[int, int]]) -> dict[str, Any]:
    """A fixed network over batches, given as seeds and sizes, with the single handlers."""
    model = Net().eval()

    @torch.no_grad()
    def step(engine: Engine, batch: tuple[int, int]) -> None:
        model(samples(*batch)[0])

    evaluator = Engine(step)
    activations = ActivationStats(model, every=1).attach(evaluator)
    dead = DeadNeurons(model).attach(evaluator)
    gradients = GradientStats(model).attach(evaluator)
    evaluator.run(iter(sizes), max_epochs=1)
    return {
        "activations": activations.result,
        "dead_neurons": dead.result,
        "gradients": gradients.result,
        "unseen": dict(activations.coverage.unseen),
    }


def unequal(rank: int) -> list[tuple[int, int]]:
    return [(100 * rank + number, size) for number, size in enumerate(UNEQUAL[rank])]


def plain_loop(rank: int | None) -> dict[str, Any]:
    """No engine; in the second window only the first process sees anything."""
    model = Net()
    reports = []
    with EpochRecorder(model, every=1) as recorder:
        for epoch in range(2):
            for number in range(2):
                if epoch == 0 or rank in (None, 0):
                    model(share(number, rank if epoch == 0 else None)[0])
            reports.append(recorder.finish().to_dict())
    return {"reports": reports}


def mismatch(rank: int) -> dict[str, Any]:
    """The processes watch networks that differ."""
    model = Net(hidden=12 + rank)
    with EpochRecorder(model, every=1) as recorder:
        model(samples(0, 4)[0])
        return recorder.finish().to_dict()


def alone(rank: int) -> dict[str, Any]:
    """Only one of the processes runs the engine."""
    if rank == 1:
        return {}
    model = Net()
    trainer = Engine(lambda engine, batch: model(samples(0, 4)[0]))
    with DeadNeurons(model, sync=False).attach(trainer) as dead:
        trainer.run(range(2))
        return dead.result


def failing(rank: int) -> dict[str, Any]:
    """An exception in one process alone: the others are not waited for."""
    model = Net()

    def step(engine: Engine, number: int) -> None:
        model(samples(0, 4)[0])
        if rank == 0 and number == 1:
            raise RuntimeError("boom")

    trainer = Engine(step)
    dead = DeadNeurons(model, sync=False).attach(trainer)
    with contextlib.suppress(RuntimeError):
        trainer.run(range(3))
    return dead.result


def work(rank: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    results = {
        "train": train(rank, Path(folder)),
        "unequal": evaluate(unequal(rank)),
        "empty": evaluate([(0, 8), (1, 5)] if rank == 0 else []),
        "plain": plain_loop(rank),
        "mismatch": mismatch(rank),
        "alone": alone(rank),
        "failing": failing(rank),
    }
    (Path(folder) / f"{rank}.json").write_text(json.dumps(results))
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes has measured in every scenario."""
    folder = tmp_path_factory.mktemp("processes")
    multiprocessing.spawn(work, (str(folder),), nprocs=2)
    return [{**json.loads((folder / f"{rank}.json").read_text()), "folder": folder} for rank in range(2)]


def without(row: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}


def assert_same_distributions(rows: dict[str, Any], expected: dict[str, Any]) -> None:
    assert list(rows) == list(expected)
    for name, row in rows.items():
        twin = expected[name]
        assert without(row, "edges", "mean", "std", "min", "max", "counts") == without(
            twin, "edges", "mean", "std", "min", "max", "counts"
        )
        for number in ("mean", "std", "min", "max"):
            assert row[number] == pytest.approx(twin[number], rel=1e-6, abs=1e-7)
        assert sum(row["counts"]) == row["count"]


@pytest.mark.slow
def test_training_equals_one_process_over_the_same_samples(together, tmp_path: Path) -> None:
    """Gradients, activations and dead neurons of two processes are those of one with the whole batches."""
    expected = train(None, tmp_path)["reports"]
    for rank in range(2):
        for report, twin in zip(together[rank]["train"]["reports"], expected, strict=True):
            assert list(report["gradients"]) == list(twin["gradients"])
            for layer, row in report["gradients"].items():
                assert row["mean_abs"] == pytest.approx(twin["gradients"][layer]["mean_abs"], rel=1e-5)
                assert row["max_abs"] == pytest.approx(twin["gradients"][layer]["max_abs"], rel=1e-5)
                assert row["steps"] == twin["gradients"][layer]["steps"] == STEPS
            assert_same_distributions(report["activations"], twin["activations"])
            assert report["dead_neurons"] == twin["dead_neurons"]
            assert any(row["dead"] for row in twin["dead_neurons"].values())
            assert report["coverage"] == twin["coverage"]


def test_every_process_has_the_same_numbers(together) -> None:
    """The numbers do not depend on the process that is asked."""
    first, second = (
        {name: [without(report, "cost") for report in result["train"]["reports"]] for name in ["train"]}
        for result in together
    )
    assert first == second
    assert together[0]["train"]["published"] == together[1]["train"]["published"]


def test_one_process_writes(together) -> None:
    """A sink gets every report once."""
    lines = (together[0]["folder"] / "epochs.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]


def test_unequal_batches(together) -> None:
    """Processes with different numbers and sizes of batches: every sample weighs the same."""
    expected = evaluate([*unequal(0), *unequal(1)])
    for result in together:
        assert_same_distributions(result["unequal"]["activations"], expected["activations"])
        assert result["unequal"]["dead_neurons"] == expected["dead_neurons"]
        assert result["unequal"]["activations"]["relu"]["count"] == 36 * 12


def test_a_process_without_batches(together) -> None:
    """A process that sees nothing holds nobody up and has the numbers of the other."""
    expected = evaluate([(0, 8), (1, 5)])
    for result in together:
        assert_same_distributions(result["empty"]["activations"], expected["activations"])
        assert result["empty"]["dead_neurons"] == expected["dead_neurons"]
        assert result["empty"]["unseen"] == expected["unseen"]


def test_a_plain_loop(together) -> None:
    """Without engines it is the same, also in a window in which one process is idle."""
    expected = plain_loop(None)["reports"]
    for result in together:
        for report, twin in zip(result["plain"]["reports"], expected, strict=True):
            assert_same_distributions(report["activations"], twin["activations"])
            assert report["dead_neurons"] == twin["dead_neurons"]


def test_processes_that_do_not_fit_together(together) -> None:
    """Then each has its own numbers, and the coverage says so."""
    for rank, result in enumerate(together):
        report = result["mismatch"]
        assert report["dead_neurons"]["relu"]["units"] == 12 + rank
        assert "could not be brought together" in report["coverage"]["dead_neurons"]["unseen"]["other processes"]


def test_a_handler_in_one_process_alone(together) -> None:
    """``sync=False`` measures a process by itself, and an exception is not waited for."""
    assert together[0]["alone"]["relu"]["units"] == 12
    assert together[0]["failing"]["relu"]["partial"]
    assert not together[1]["failing"]["relu"]["partial"]
