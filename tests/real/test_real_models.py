"""What is measured on real models equals an independent twin, and the training does not notice."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from identical import assert_identical

from real import library_cases, torchvision_cases
from real.case import Case
from real.training import Outcome, assert_activations, assert_dead, assert_gradients, train

LARGE = {
    "densenet121",
    "efficientnet_b0",
    "regnet_y_400mf",
    "googlenet",
    "fasterrcnn_mobilenet_v3_large",
    "mobilenet_v2",
    "mnasnet0_5",
    "shufflenet_v2_x0_5",
    "r3d_18",
}
"""Those that take longest."""
CASES = [
    pytest.param(case, id=prefix + case.name, marks=[pytest.mark.slow] if prefix or case.name in LARGE else [])
    for prefix, cases in (
        ("", (*library_cases.CASES, *torchvision_cases.CASES)),
        ("whole ", torchvision_cases.SLOW),
    )
    for case in cases
]


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    """A model."""
    return request.param


@pytest.fixture(scope="module")
def watched(case: Case) -> Iterator[Outcome]:
    """Its training with the diagnostics."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums of several threads may differ from run to run
    yield train(case, watch=True)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def twin(case: Case, watched: Outcome) -> Outcome:
    """The same training without them, read by the twin."""
    return train(case, watch=False)


def test_activations(watched: Outcome, twin: Outcome) -> None:
    """Every call of an activation function is a site, in order and by name, with the numbers of its outputs."""
    assert_activations(watched.report.activations, twin.sites)


def test_coverage(case: Case, watched: Outcome, twin: Outcome) -> None:
    """The coverage lists what cannot be seen, experts without tokens, and nothing else."""
    assert set(watched.report.coverage["activations"]["unseen"]) == {*case.unseen, *twin.empty}


def test_dead_units(case: Case, watched: Outcome, twin: Outcome) -> None:
    """The dead units are exactly those whose slope was zero at every sample; without a known axis a site is listed."""
    listed = watched.report.coverage["dead_neurons"]["unseen"]
    assert {name for name, reason in listed.items() if "axis is not known" in reason} == set(case.unknown_units)
    assert_dead(watched.report.dead_neurons, {n: s for n, s in twin.sites.items() if n not in case.unknown_units})


def test_gradients(watched: Outcome, twin: Outcome) -> None:
    """A layer's gradient is the mean over the steps of what the optimizer found in ``grad``."""
    assert_gradients(watched.report.gradients, twin.gradients)


def test_bits(watched: Outcome, twin: Outcome) -> None:
    """Weights, buffers, optimizer state, losses and random states are the same bits as without the diagnostics."""
    assert_identical(watched.state, twin.state)
