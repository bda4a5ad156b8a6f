"""Trains a case, watched by ignite_act or read by the twin, and compares what is left of both."""

from __future__ import annotations

import copy
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ignite_act import EpochRecorder
from ignite_act.report import EpochReport
from real.case import Case
from real.twin import Site, Twin, gradients


@dataclass
class Outcome:
    """What is left of a training."""

    state: dict[str, Any]
    """Everything that must not depend on whether the training is watched."""
    report: EpochReport | None = None
    sites: Mapping[str, Site] = field(default_factory=dict)
    empty: Collection[str] = ()
    """Sites that had no values."""
    gradients: Sequence[Mapping[str, float]] = ()
    """Of each step."""


def train(case: Case, *, watch: bool, rank: int | None = None) -> Outcome:
    """A few steps of a case, with the diagnostics or with the twin; data-parallel where a rank is given."""
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(0)
    model = case.make()
    model.train()
    optimizer = case.optimizer(model)
    trained: nn.Module = model if rank is None else DistributedDataParallel(model)
    generator = torch.Generator().manual_seed(1 if rank is None else 100 + rank)
    recorder = EpochRecorder(trained, every=1) if watch else None
    twin = Twin(model, case.axis, case.hidden)
    steps: list[dict[str, float]] = []
    losses: list[float] = []
    if recorder is not None:
        recorder.start()
    try:
        for _ in range(case.steps):
            args, kwargs = case.batch(generator)
            optimizer.zero_grad()
            if recorder is not None:
                output = trained(*args, **kwargs)
            else:
                with twin:
                    output = trained(*args, **kwargs)
            loss = case.loss(output, args)
            loss.backward()
            if recorder is None:
                steps.append(gradients(model))
            optimizer.step()
            losses.append(loss.item())
            if recorder is not None:
                recorder.record_loss(loss)
        report = recorder.finish() if recorder is not None else None
    finally:
        if recorder is not None:
            recorder.stop()
    state = {
        "weights and buffers": model.state_dict(),
        "optimizer": copy.deepcopy(optimizer.state_dict()),
        "losses": losses,
        "random": (torch.get_rng_state(), random.getstate(), np.random.get_state()),
    }
    return Outcome(state, report, twin.sites, twin.empty, steps)


def assert_activations(rows: Mapping[str, Mapping[str, Any]], sites: Mapping[str, Site]) -> None:
    """The same sites in the same order, with the same numbers; a mean near zero is compared on the scale of the std."""
    assert list(rows) == list(sites)
    for name, site in sites.items():
        row, twin = rows[name], site.numbers()
        assert row["count"] == twin["count"], name
        assert row["nonfinite"] == 0, name
        for number in ("mean", "std", "min", "max"):
            expected = pytest.approx(twin[number], rel=1e-5, abs=1e-5 * twin["std"] + 1e-12)
            assert row[number] == expected, f"{number} of {name} ({site.function})"
        assert row["zero_fraction"] == pytest.approx(twin["zero_fraction"], rel=1e-9), name
        # the limit is 5 % of the steepest point of a grid, here of another grid
        assert row["saturated_fraction"] == pytest.approx(twin["saturated_fraction"], abs=1e-3), name
        assert sum(row["counts"]) == row["count"], name


def assert_dead(rows: Mapping[str, Mapping[str, Any]], sites: Mapping[str, Site]) -> None:
    """The same dead units, exactly."""
    assert list(rows) == list(sites)
    units = {name: (row["units"], row["indices"]) for name, row in rows.items()}
    assert units == {name: (site.alive.numel(), site.dead) for name, site in sites.items()}


def assert_gradients(rows: Mapping[str, Mapping[str, Any]], steps: Sequence[Mapping[str, float]]) -> None:
    """The same layers, each with the mean over the steps in which it had a gradient."""
    layers = dict.fromkeys(layer for step in steps for layer in step)
    assert set(rows) == set(layers)
    for layer in layers:
        values = [step[layer] for step in steps if layer in step]
        assert rows[layer]["steps"] == len(values), layer
        assert rows[layer]["mean_abs"] == pytest.approx(sum(values) / len(values), rel=1e-5, abs=1e-30), layer
