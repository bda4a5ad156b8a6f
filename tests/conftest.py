"""Fixtures that several files use."""

import pytest

from ignite_act.config import RunConfig
from ignite_act.data import DEBIAN_FASHION_MNIST, load_data
from ignite_act.stats import kernels


@pytest.fixture
def tiny():
    """Makes the configuration of a run that takes a fraction of a second."""

    def make(**settings):
        return RunConfig(**{"hidden": (16,), "batch_size": 128, "lr": 0.05, "max_epochs": 3, **settings})

    return make


@pytest.fixture(scope="session")
def fashion_mnist():
    """The real FashionMNIST of Debian's package."""
    if not DEBIAN_FASHION_MNIST.is_dir():
        pytest.skip(f"the real FashionMNIST is not here: {DEBIAN_FASHION_MNIST} (package dataset-fashion-mnist)")
    return load_data("fashionmnist")


@pytest.fixture(params=["torch", "compiled"])
def loops(request, monkeypatch):
    """Measures with PyTorch's operations, and with compiled loops."""
    if request.param == "torch":
        monkeypatch.setattr(kernels, "compiled", lambda: None)
    elif kernels.compiled() is None:
        pytest.skip("numba is not installed (the extra fast)")
    return request.param
