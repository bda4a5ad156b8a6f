"""What is measured on a GPU is what is measured on the CPU, in every floating-point type.

Every test runs on the CPU too, where it compares the path without compiled loops with the one in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from ignite.engine import Engine
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from ignite_act import ActivationStats, DeadNeurons, Diagnostics, EpochRecorder, GradientStats
from ignite_act.report import EpochReport
from ignite_act.stats import Course, Distribution, Magnitude, SaturatedUnits, UnitLife, kernels, magnitude

DEVICES = [
    pytest.param("cpu", id="on_cpu"),
    pytest.param(
        "cuda", id="on_gpu", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
    ),
]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
ROUNDING = {torch.float64: 1e-9, torch.float32: 2e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""How far a training in a type may be from one in float64, relative to the size of a row's numbers."""

pytestmark = [
    pytest.mark.parametrize("device", DEVICES),
    pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch.")),
]


@pytest.fixture(autouse=True)
def plain_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Full precision on the GPU, and on the CPU the operations that every GPU takes."""
    monkeypatch.setattr(kernels, "compiled", lambda: None)
    monkeypatch.setattr(kernels, "on_host", lambda tensor: False)
    kept = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = kept


def batches(*shape: int, count: int = 4) -> list[Tensor]:
    """Numbers of both signs around 1, with some zeros and some infinities and NaN."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(count):
        x = torch.randn(shape, generator=generator, dtype=torch.float64) * 2 + 1
        x[torch.rand(shape, generator=generator) < 0.1] = 0.0
        x.view(-1)[:3] = torch.tensor([math.inf, -math.inf, math.nan], dtype=torch.float64)
        found.append(x)
    return found


def assert_close(row: Any, twin: Any, rel: float, where: str = "") -> None:
    """The same names, the same whole numbers and words, and numbers that are close."""
    if isinstance(twin, dict):
        assert list(row) == list(twin), where
        for name in twin:
            assert_close(row[name], twin[name], rel, f"{where}.{name}")
    elif isinstance(twin, (list, tuple)):
        assert len(row) == len(twin), where
        for number, (own, other) in enumerate(zip(row, twin, strict=True)):
            assert_close(own, other, rel, f"{where}[{number}]")
    elif isinstance(twin, float):
        assert row == pytest.approx(twin, rel=rel, abs=rel * 1e-2, nan_ok=True), where
    else:
        assert row == twin, where


def test_distribution(device: str, dtype: torch.dtype) -> None:
    """Moments, extremes, shares and the histogram of the same values."""
    own, twin = Distribution(dtype, device), Distribution(torch.float64)
    for x in batches(40, 30):
        values, saturated = x.to(dtype), ((-math.inf, -1.5), (3.0, math.inf))
        own.update(values.to(device), saturated=(values.to(device), saturated))
        twin.update(values.double(), saturated=(values.double(), saturated))
    row, expected = dict(own.compute()), dict(twin.compute())
    edges, counts = (torch.tensor(row.pop(name), dtype=torch.float64) for name in ("edges", "counts"))
    del expected["edges"], expected["counts"]
    assert_close(row, expected, 1e-9 if dtype == torch.float64 else 1e-6)
    values = torch.cat([x.to(dtype).double().flatten() for x in batches(40, 30)])
    values = values[values.isfinite()].sort().values
    below = torch.cat([torch.zeros(1), counts.cumsum(0)])  # as many as the values themselves say, at every edge
    assert bool((torch.searchsorted(values, edges) <= below).all())
    assert bool((below <= torch.searchsorted(values, edges, right=True)).all())
    assert int(below[-1]) == row["count"] - row["nonfinite"]


def test_many_equal_values(device: str, dtype: torch.dtype) -> None:
    """What a ReLU puts out, channels last, is counted exactly, also where torch has to be deterministic."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 5, 40, 30, generator=generator).relu().to(dtype).contiguous(memory_format=torch.channels_last)
    own = Distribution(dtype, device)
    torch.use_deterministic_algorithms(True)
    try:
        own.update(x.to(device))
    finally:
        torch.use_deterministic_algorithms(False)
    row = own.compute()
    bins = torch.histogram(x.double(), torch.tensor(row["edges"], dtype=torch.float64)).hist
    assert sum(row["counts"]) == row["count"] == x.numel()
    assert row["counts"][:-1] == bins[:-1].long().tolist()
    assert row["zero_fraction"] == pytest.approx(int((x == 0).sum()) / x.numel(), rel=1e-12)


@pytest.mark.parametrize("axis", [-1, 1])
def test_unit_life(device: str, dtype: torch.dtype, axis: int) -> None:
    """The same dead units, for a function with flat pieces and for an unknown one."""
    for flat in (((-math.inf, 0.0),), ((-math.inf, 0.0), (6.0, math.inf)), None):
        own, twin = UnitLife(12, dtype, device), UnitLife(12, torch.float64)
        for x in batches(6, 12, 12):
            values = x.nan_to_num(0.0, 0.0, 0.0).to(dtype)
            values.select(axis, 3).fill_(0.0)
            values.select(axis, 7).fill_(-1.0)
            own.update(values.to(device), flat, axis)
            twin.update(values.double(), flat, axis)
        assert own.compute() == twin.compute() == [3, 7]


def test_saturated_units(device: str, dtype: torch.dtype) -> None:
    """The same units saturated on more than 99 % of the samples."""
    intervals = ((-math.inf, -2.0), (2.0, math.inf))
    own, twin = SaturatedUnits(12, device), SaturatedUnits(12)
    for x in batches(50, 12):
        values = x.to(dtype)
        values[:, :4] = 5.0
        own.update(values.to(device), intervals, -1)
        twin.update(values.double(), intervals, -1)
    assert own.compute() == twin.compute() == 4


def test_magnitude(device: str, dtype: torch.dtype) -> None:
    """Mean and largest absolute value of tensors over steps, and the steps that were not finite."""
    sizes = [12, 3000, 1]
    own, twin = Magnitude(3, device), Magnitude(3)
    for step, x in enumerate(batches(3100), 1):
        values = x if step == 2 else x.nan_to_num(0.5, 0.5, 0.5)
        tensors = [part.to(dtype) for part in values.split([12, 3000, 88])[:2]] + [values[-1:].to(dtype)]
        for statistic, place, kind in ((own, device, dtype), (twin, "cpu", torch.float64)):
            rows = [tensor.to(place, kind) for tensor in tensors]
            scratch = torch.empty(3000, dtype=torch.float32 if kind != torch.float64 else kind, device=place)
            statistic.update(*magnitude(rows, torch.tensor(sizes, device=place), scratch), step)
    assert_close([dict(row) for row in own.compute()], [dict(row) for row in twin.compute()], 1e-5)


def test_course(device: str, dtype: torch.dtype) -> None:
    """A loss over many steps."""
    own, twin = Course(device), Course()
    for step, value in enumerate(batches(300, count=1)[0].to(dtype), 1):
        own.update(value.to(device), step)
        twin.update(value.double(), step)
    assert_close(dict(own.compute()), dict(twin.compute()), 1e-6)


class Net(nn.Module):
    """A convolution, dense layers and six functions; some units are dead whatever the type, the others are not."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(1, 6, 3), nn.ReLU(inplace=True)
        self.fc1, self.fc2, self.head = nn.Linear(96, 24), nn.Linear(24, 16), nn.Linear(16, 3)
        self.last = nn.Hardtanh()  # not Hardswish: on a GPU its 1 / 6 is that of float32
        with torch.no_grad():
            self.conv.bias[:2] = -50.0
            self.fc1.bias[:5] = -50.0
            self.fc2.bias[:3] = -50.0

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.act(self.conv(x)).flatten(1))
        x = torch.tanh(F.relu6(self.fc1(x)))
        return self.head(torch.sigmoid(self.last(self.fc2(x))))


def prepared(device: str, dtype: torch.dtype) -> tuple[Net, list[tuple[Tensor, Tensor]]]:
    """The same network and batches everywhere, in a type."""
    torch.manual_seed(0)
    model = Net()
    generator = torch.Generator().manual_seed(1)
    data = [
        (torch.randn(64, 1, 6, 6, generator=generator), torch.randint(3, (64,), generator=generator)) for _ in range(4)
    ]
    return model.to(device, dtype), [(x.to(device, dtype), y.to(device)) for x, y in data]


def trained(device: str, dtype: torch.dtype) -> dict[str, Any]:
    """What every handler has after an epoch of four steps."""
    model, data = prepared(device, dtype)
    optimizer = SGD(model.parameters(), lr=1e-3)

    def step(engine: Engine, batch: tuple[Tensor, Tensor]) -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        return loss.detach()

    trainer = Engine(step)
    gradients = GradientStats(model).attach(trainer, "own gradients")
    activations = ActivationStats(model, every=1).attach(trainer, "own activations")
    dead = DeadNeurons(model).attach(trainer, "own dead neurons")
    diagnostics = Diagnostics(model, every=1).attach(trainer)
    trainer.run(data, max_epochs=1)
    report = diagnostics.report
    assert report is not None
    return {
        "gradients": gradients.result,
        "activations": activations.result,
        "dead_neurons": dead.result,
        "report": report,
        "metrics": trainer.state.metrics,
    }


def without_histogram(rows: Any) -> dict[str, dict[str, Any]]:
    """Bins of a half-precision histogram differ with every rounding."""
    return {name: {key: row[key] for key in row if key not in ("edges", "counts")} for name, row in rows.items()}


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    """What the handlers say on the CPU in float64."""
    return trained("cpu", torch.float64)


def test_handlers(device: str, dtype: torch.dtype, reference: dict[str, Any]) -> None:
    """Every row of every handler is that of the CPU in float64, as far as the training's own rounding allows."""
    own, rel = trained(device, dtype), ROUNDING[dtype]
    assert own["dead_neurons"] == reference["dead_neurons"]
    assert [row["dead"] for row in own["dead_neurons"].values()] == [2, 0, 5, 0, 3, 0]
    assert own["report"].dead_neurons == reference["report"].dead_neurons
    assert list(own["gradients"]) == list(reference["gradients"])
    for layer, row in own["gradients"].items():
        twin = reference["gradients"][layer]
        assert row["mean_abs"] == pytest.approx(twin["mean_abs"], rel=rel), layer
        assert row["max_abs"] == pytest.approx(twin["max_abs"], rel=rel), layer
        assert (row["steps"], row["nonfinite"], row["skipped_steps"]) == (4, 0, 0), layer
        assert own["report"].gradients[layer]["mean_abs"] == pytest.approx(row["mean_abs"], rel=1e-9), layer
    assert list(own["activations"]) == list(reference["activations"])
    for site, row in own["activations"].items():
        twin = reference["activations"][site]
        scale = max(abs(twin["min"]), abs(twin["max"]))
        assert (row["count"], row["nonfinite"], row["units"]) == (twin["count"], 0, twin["units"]), site
        for name in ("mean", "std", "min", "max"):
            expected = pytest.approx(twin[name], rel=rel, abs=rel * scale)
            assert row[name] == expected, f"{name} of {site}"
        for name in ("zero_fraction", "saturated_fraction"):
            assert row[name] == pytest.approx(twin[name], abs=max(rel, 1e-3)), f"{name} of {site}"
        assert sum(row["counts"]) == row["count"], site
    if dtype in (torch.float64, torch.float32):
        for rows in ("gradients", "updates", "signal"):
            assert_close(getattr(own["report"], rows), getattr(reference["report"], rows), 100 * rel, rows)
    assert set(own["metrics"]) == set(reference["metrics"])


@pytest.mark.few(8)
@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
@pytest.mark.parametrize("optimizer", ["sgd", "foreach", "fused"])
def test_gradients_of_optimizers(device: str, dtype: torch.dtype, optimizer: str, scaled: bool) -> None:
    """The gradient is the one that the optimizer uses: unscaled, also where a fused optimizer unscales by itself."""
    low = dtype if scaled and dtype in (torch.bfloat16, torch.float16) else None  # of autocast; the weights are float32
    dtype = torch.float32 if low is not None else dtype
    make: dict[str, Any] = {
        "sgd": lambda p: SGD(p, lr=1e-3),
        "foreach": lambda p: AdamW(p, lr=1e-4, eps=1e-4, foreach=True),
        "fused": lambda p: AdamW(p, lr=1e-4, eps=1e-4, fused=True),
    }
    model, data = prepared(device, dtype)
    twin, _ = prepared(device, dtype)
    own: Optimizer = make[optimizer](model.parameters())
    scaler = torch.amp.GradScaler(device, init_scale=512.0, enabled=scaled)
    means: list[dict[str, float]] = []
    with EpochRecorder(model, every=1) as recorder:
        for x, y in data:
            own.zero_grad()
            twin.load_state_dict(model.state_dict())
            twin.zero_grad()
            for network in (model, twin):
                with torch.autocast(device, low or torch.bfloat16, enabled=low is not None):
                    loss = F.cross_entropy(network(x), y)
                (scaler.scale(loss) if network is model else loss).backward()
            means.append({n: p.grad.abs().double().mean().item() for n, p in twin.named_parameters() if p.ndim > 1})
            scaler.step(own)
            scaler.update()
        rows = recorder.finish().gradients
    for name in means[0]:
        expected = sum(step[name] for step in means) / len(means)
        row = rows[name.removesuffix(".weight")]
        assert row["mean_abs"] == pytest.approx(expected, rel=5e-2 if low is not None else 1e-5), name
        assert (row["steps"], row["skipped_steps"]) == (len(data), 0), name


@pytest.mark.parametrize("there", [True, False], ids=["begun", "resumed"])
def test_state_goes_from_device_to_device(device: str, dtype: torch.dtype, there: bool) -> None:
    """A window that was begun on one device and stored goes on on another one with the same numbers."""

    def window(*places: str) -> EpochReport:
        """Two steps on each device, after the first with the weights and the window of the one before."""
        weights, state = {}, {}
        for number, place in enumerate(places):
            model, data = prepared(place, dtype)
            model.load_state_dict(weights or model.state_dict())
            optimizer = SGD(model.parameters(), lr=1e-3)
            recorder = EpochRecorder(model, every=1)
            if state:
                recorder.load_state_dict(state)
            with recorder:
                for x, y in data[2 * number : 2 * number + 2]:
                    optimizer.zero_grad()
                    loss = F.cross_entropy(model(x), y)
                    loss.backward()
                    optimizer.step()
                    recorder.record_loss(loss)
                weights, state = model.state_dict(), recorder.state_dict()
        return recorder.finish()

    expected = window("cpu", "cpu")
    report = window(device, "cpu") if there else window("cpu", device)
    assert report.coverage == expected.coverage
    assert report.dead_neurons == expected.dead_neurons
    rel = ROUNDING[dtype]
    assert_close(report.gradients, expected.gradients, 10 * rel, "gradients")
    assert_close(report.signal, expected.signal, 10 * rel, "signal")
    assert report.loss["mean"] == pytest.approx(expected.loss["mean"], rel=rel)
    assert report.output["backwards"] == expected.output["backwards"] > 0
    for site, row in report.activations.items():
        assert row["count"] == expected.activations[site]["count"], site
        assert row["mean"] == pytest.approx(expected.activations[site]["mean"], rel=rel, abs=1e-3), site
