from __future__ import annotations

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ignite_act.stats import ABSENT, Distribution, Magnitude, UnitLife, kernels, magnitude

G = torch.Generator().manual_seed(0)


def with_special(*values: float, size: int = 10_000) -> Tensor:
    x = torch.randn(size, generator=G)
    for index, value in enumerate(values):
        x[(index * 7919) % size] = value
    return x


AWKWARD = {
    "normal": with_special(),
    "one": torch.tensor([2.5]),
    "a block": torch.randn(4096, generator=G),
    "a block and one": torch.randn(4097, generator=G),
    "nan": with_special(math.nan),
    "minus nan": with_special(-math.nan),
    "infinities": with_special(math.inf, -math.inf),
    "nothing finite": torch.tensor([math.nan, math.inf, -math.inf]),
    "zeros of both signs": with_special(0.0, -0.0).relu(),
    "largest": with_special(3.4028234e38, -3.4028234e38, *[1e38] * 4_000),
    "denormal": with_special(1e-45, -1e-45) * 1e-41,
    "far from zero": torch.randn(9_000, generator=G) + 1e4,
    "constant": torch.full((5_000,), -3.25),
}


def both(monkeypatch, make):
    """What `make` returns with compiled loops, and without."""
    if kernels.compiled() is None:
        pytest.skip("numba is not installed")
    fast = make()
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "compiled", lambda: None)
        return fast, make()


def assert_same(fast, slow, rel=1e-12):
    assert fast.keys() == slow.keys()
    for name, value in fast.items():
        if value is None or isinstance(value, list):
            assert value == slow[name], name
        else:
            assert value == pytest.approx(slow[name], rel=rel, abs=1e-45, nan_ok=True), name


@pytest.mark.parametrize("name", AWKWARD)
def test_distribution(name, monkeypatch):
    """Compiled loops and PyTorch's operations give the same distribution, whatever the values."""
    x = AWKWARD[name]

    def make():
        statistic = Distribution()
        for part in (x, x[: len(x) // 2], x[:0], x.flip(0)):
            statistic.update(part, saturated=(part, ((-math.inf, -1.0), (0.5, 2.5))))
        return statistic.compute()

    assert_same(*both(monkeypatch, make), rel=1e-9)


@pytest.mark.parametrize("name", AWKWARD)
def test_magnitude(name, monkeypatch):
    """A step read in one pass counts as one that PyTorch's operations have measured."""
    tensors = {0: AWKWARD[name], 2: AWKWARD["normal"].view(100, 100), 3: torch.zeros(0)}
    fast = Magnitude(4)
    if not fast.read(tensors, iteration=7):
        pytest.skip("numba is not installed")
    if name == "largest":  # single precision cannot hold the sum
        row = fast.compute()[0]
        assert row["mean_abs"] == pytest.approx(AWKWARD[name].double().abs().mean().item(), rel=1e-6)
        assert row["nonfinite"] == 0
        return
    slow = Magnitude(4)
    rows = [tensors.get(row) for row in range(4)]
    slow.update(*magnitude(rows, torch.tensor([len(AWKWARD[name]), 1, 10_000, 1]), torch.empty(10_000)), 7)
    for one, other in zip(fast.compute(), slow.compute(), strict=True):
        assert_same(one, other, rel=1e-6)


def test_magnitude_of_both_kinds_of_steps():
    """Steps that are read in one pass and steps that are not add up."""
    statistic = Magnitude(2)
    statistic.update(torch.tensor([1.0, ABSENT]), torch.tensor([4.0, ABSENT]), iteration=1)
    done = statistic.read({0: torch.tensor([-3.0, 3.0])}, iteration=2)
    if not done:
        pytest.skip("numba is not installed")
    statistic.update(torch.tensor([5.0, 2.0]), torch.tensor([6.0, 2.0]), iteration=3)
    first, second = statistic.compute()
    assert (first["mean_abs"], first["max_abs"], first["steps"]) == (3.0, 6.0, 3)
    assert (second["mean_abs"], second["max_abs"], second["steps"]) == (2.0, 2.0, 1)


LAYOUTS = {
    "(N, F)": (torch.randn(64, 7, generator=G), -1),
    "(N, T, F)": (torch.randn(16, 5, 7, generator=G), -1),
    "(N, C, L)": (torch.randn(16, 7, 5, generator=G), 1),
    "(N, C, H, W)": (torch.randn(16, 7, 3, 4, generator=G), 1),
    "channels last": (torch.randn(16, 7, 3, 4, generator=G).to(memory_format=torch.channels_last), 1),
    "transposed": (torch.randn(7, 64, generator=G).t(), -1),
    "with gaps": (torch.randn(64, 14, generator=G)[:, ::2], -1),
    "expanded": (torch.randn(1, 7, generator=G).expand(64, 7), -1),
    "units first": (torch.randn(7, 64, generator=G), 0),
    "()": (torch.randn((), generator=G), -1),
}
FLATS = {
    "relu": ((-math.inf, 0.0),),
    "two ends": ((-math.inf, -0.5), (0.1, math.inf)),
    "a middle": ((-0.25, 0.25),),
    "everything": ((-math.inf, math.inf),),
    "unknown": None,
}


@pytest.mark.parametrize("flat", FLATS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("special", [None, math.nan, -math.nan, math.inf])
def test_unit_life(layout, flat, special, monkeypatch):
    """The same units are dead for both, for every axis and every order in memory."""
    x, unit_dim = LAYOUTS[layout]
    values = x if layout == "expanded" else torch.empty_strided(x.size(), x.stride()).copy_(x)
    if values.ndim > 1 and layout != "expanded":
        units = values.movedim(unit_dim, 0)
        units[0] = -1.0  # below every bound, and constant
        units[1] = 0.1  # on a bound of float32
        units[2] = 0.0
        if special is not None:
            units[2, 3] = special

    def make():
        statistic = UnitLife(values.shape[unit_dim] if values.ndim else 1)
        for part in (values[:5], values[5:]) if values.ndim and unit_dim % values.ndim else (values,):
            statistic.update(part, FLATS[flat], unit_dim)
        return statistic.compute()

    fast, slow = both(monkeypatch, make)
    assert fast == slow
    if layout == "(N, F)" and flat == "relu" and special is None:
        assert fast == [0, 2]


def test_views_are_not_copied():
    """What lies in memory without gaps is read where it is."""
    for x in (torch.zeros(3, 4, 5), torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last)):
        kernels.in_memory_order(x)[:] = 1.0
        assert (x == 1).all()
        kernels.by_unit(x, 1)[:] = 2.0
        assert (x == 2).all()


@pytest.mark.parametrize(
    ("tensor", "fits"),
    [
        (torch.zeros(3), True),
        (nn.Parameter(torch.zeros(3)), True),
        (torch.zeros(3, dtype=torch.float64), False),
        (torch.zeros(3, dtype=torch.bfloat16), False),
        (torch.zeros(3, device="meta"), False),
        (torch.zeros(3, 3).to_sparse(), False),
        (torch.zeros(3).as_subclass(type("Own", (Tensor,), {})), False),
    ],
)
def test_what_fits(tensor, fits):
    """The loops read float32 on the CPU and nothing that is more than numbers in memory."""
    assert kernels.fit(tensor) is fits


def test_a_gradient_that_has_a_graph():
    """Values that are part of a graph are read like others (``create_graph=True``)."""
    x = torch.ones(4, requires_grad=True) * 2
    statistic = Magnitude(1)
    if not statistic.read({0: x}, 1):
        pytest.skip("numba is not installed")
    assert statistic.compute()[0]["mean_abs"] == 2.0


@pytest.mark.slow
@pytest.mark.parametrize("how", ["missing", "broken", "disabled"])
def test_without_numba(how, tmp_path):
    """Where numba is missing, broken or switched off everything is measured all the same."""
    bodies = {"missing": "raise ImportError('no numba')", "broken": "raise RuntimeError('does not work')"}
    environment = {"PYTHONPATH": str(tmp_path)} if how in bodies else {"NUMBA_DISABLE_JIT": "1"}
    if how in bodies:
        (tmp_path / "numba.py").write_text(bodies[how])
    code = (
        "import torch; from ignite_act.stats import Distribution, kernels; d = Distribution();"
        "d.update(torch.tensor([1.0, 3.0])); assert d.compute()['mean'] == 2.0; assert kernels.compiled() is None"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert ("numba does not work here" in done.stderr) == (how == "broken")


def test_the_loops_as_plain_python():
    """Compiled or not, a loop computes the same: numba is not the meaning."""
    loops = kernels.compiled()
    if loops is None:
        pytest.skip("numba is not installed")
    x = with_special(math.nan, 3.0, size=300).numpy()
    for sound in (x, np.nan_to_num(x)):
        plain, compiled = (count(sound, -1.0, 1.0) for count in (kernels.count_inside, loops.count_inside))
        assert plain == compiled == int(((sound >= -1) & (sound <= 1)).sum())


def test_a_unit_that_has_varied_stays_alive(loops):
    """What a unit of an unknown function did before is not forgotten when it is constant later."""
    life = UnitLife(1)
    for batch in ([1.0, 2.0], [2.0, 2.0]):
        life.update(torch.tensor(batch).view(2, 1), None, -1)
    assert life.compute() == []


@pytest.mark.parametrize("flat", [(), ((-math.inf, 0.0),)])
def test_when_every_unit_is_alive_nothing_more_is_read(loops, flat):
    """Then later values change nothing, but another number of units is still no silent matter."""
    life = UnitLife(3)
    life.update(torch.ones(2, 3), flat, -1)
    assert life.complete == (loops == "compiled" or not flat)
    life.update(-torch.ones(2, 3), flat, -1)
    assert life.compute() == []
    if flat:
        with pytest.raises((ValueError, RuntimeError)):
            life.update(torch.ones(2, 4), flat, -1)
