"""Fixtures that several files use."""

import os
import random
import shutil

import pytest
import torch

from ignite_act.config import RunConfig
from ignite_act.data import DEBIAN_FASHION_MNIST, load_data
from ignite_act.report import Finding
from ignite_act.stats import kernels


def pytest_configure():
    """One thread for each: tests run side by side, and so do the programs that they start."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.hookimpl(tryfirst=True)  # before pytest selects by -m
def pytest_collection_modifyitems(items):
    """Of a test marked ``few(n)`` n cases, always the same ones, run by default, and the others with the slow tests."""
    cases = {}
    for item in items:
        mark = item.get_closest_marker("few")
        if mark is not None and item.get_closest_marker("slow") is None:
            cases.setdefault((item.path, item.originalname, *mark.args), []).append(item)
    for (_, name, number), found in cases.items():
        kept = random.Random(name).sample(found, min(number, len(found)))
        for item in found:
            if item not in kept:
                item.add_marker("slow")


@pytest.fixture
def tiny():
    """Makes the configuration of a run that takes a fraction of a second."""

    def make(**settings):
        return RunConfig(**{"hidden": (16,), "batch_size": 128, "lr": 0.05, "max_epochs": 3, **settings})

    return make


@pytest.fixture(scope="session")
def make_finding():
    """Makes a finding: dead neurons since the second epoch, or what else is given."""

    def make(kind="dead_units", severity="warning", layer="layers.1", since_epoch=2, **changes):
        words = {
            "evidence": {"quantity": "share of dead units", "value": 0.625, "threshold": 0.5},
            "harm": "no harm yet",
            "advice": ("lower the learning rate", "take leakyrelu"),
            "source": "test",
        }
        return Finding(kind, severity, layer, since_epoch, **{**words, **changes})

    return make


@pytest.fixture(scope="session")
def fashion_mnist():
    """The real FashionMNIST of Debian's package."""
    if not DEBIAN_FASHION_MNIST.is_dir():
        pytest.skip(f"the real FashionMNIST is not here: {DEBIAN_FASHION_MNIST} (package dataset-fashion-mnist)")
    return load_data("fashionmnist")


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium that keeps what pages write to its console."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("chromium and chromedriver are not installed (Debian's packages chromium and chromium-driver)")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield opened
    opened.quit()


@pytest.fixture(params=["torch", "gpu", "compiled"])
def loops(request, monkeypatch):
    """Measures with PyTorch's operations, with those that a GPU takes, and with compiled loops."""
    if request.param != "compiled":
        monkeypatch.setattr(kernels, "compiled", lambda: None)
        if request.param == "gpu":
            monkeypatch.setattr(kernels, "on_host", lambda tensor: False)
    elif kernels.compiled() is None:
        pytest.skip("numba is not installed (the extra fast)")
    return request.param
