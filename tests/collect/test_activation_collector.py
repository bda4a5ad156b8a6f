from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ignite_act.activations import ACTIVATIONS, make_activation
from ignite_act.collect import ActivationCollector
from ignite_act.testing import Gate, batches

pytestmark = pytest.mark.usefixtures("loops")


def model_with(act: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), act, nn.Linear(8, 3))
    with torch.no_grad():
        model[0].weight *= 6
    return model


def twin(model: nn.Sequential, inputs: list[Tensor]) -> dict[str, float]:
    """The definitions in numpy and autograd, of the second module's outputs."""
    z = torch.cat([model[0](x) for x in inputs]).detach()
    act = model[1]
    if hasattr(act, "inplace"):
        act.inplace = False
    y = act(z).detach().double().numpy()
    dense = torch.linspace(-50, 50, 100_001, dtype=torch.float64).requires_grad_()
    act = act.double()
    (slope,) = torch.autograd.grad(act(dense).sum(), dense)
    points = z.double().requires_grad_()
    (own,) = torch.autograd.grad(act(points).sum(), points)
    act.float()
    return {
        "count": y.size,
        "mean": y.mean(),
        "std": y.std(),
        "min": y.min(),
        "max": y.max(),
        "zero_fraction": (y == 0).mean(),
        "saturated_fraction": (own.abs() < 0.05 * slope.abs().max()).double().mean().item(),
        "nonfinite": 0,
    }


@pytest.mark.few(30)
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize(
    "name", [name for name, entry in ACTIVATIONS.items() if entry.pointwise and name != "identity"]
)
def test_every_number_equals_its_twin(name: str, inplace: bool) -> None:
    """Over several batches the numbers of a site are those of its outputs, put together in numpy."""
    act = make_activation(name).eval()
    if inplace:
        act.inplace = True  # type: ignore[assignment]
    model = model_with(act)
    inputs = [x for x, _ in batches(5)]
    with torch.no_grad(), ActivationCollector(model) as collector:
        for x in inputs:
            model(x)
        row = collector.finish()["1"]
    for key, value in twin(model, inputs).items():
        assert row[key] == pytest.approx(value, rel=1e-6), key
    assert sum(row["counts"]) == row["count"]
    assert row["edges"][0] <= row["min"] <= row["max"] <= row["edges"][-1]
    assert all(low < high for low, high in itertools.pairwise(row["edges"]))


def test_every_measures_one_forward_in_so_many() -> None:
    """With every=3 the first, fourth and seventh forward of a window count, and a window begins anew."""
    model = nn.Sequential(nn.ReLU())
    with ActivationCollector(model, every=3) as collector:
        for _ in range(2):
            for value in range(8):
                model(torch.full((1,), float(value)))
            row = collector.finish()["0"]
            assert (row["count"], row["mean"], row["max"]) == (3, 3.0, 6.0)


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "2"])
def test_a_wrong_every_is_refused(wrong: Any) -> None:
    """`every` is a whole number of at least 1."""
    with pytest.raises(ValueError, match="every must be a whole number"):
        ActivationCollector(nn.ReLU(), every=wrong)


def test_the_model_must_be_a_module() -> None:
    """Anything but a module is a clear error at once."""
    with pytest.raises(TypeError, match=r"must be a torch.nn.Module, got function"):
        ActivationCollector(lambda x: x)  # type: ignore[arg-type]


def test_nonfinite_activations_are_counted_and_kept_out() -> None:
    """NaN and infinities do not spoil the other numbers."""
    model = nn.Sequential(nn.ReLU())
    with ActivationCollector(model) as collector:
        model(torch.tensor([[math.nan, math.inf, -1.0, 1.0], [2.0, 0.0, 3.0, math.nan]]))
        row = collector.finish()["0"]
    assert (row["count"], row["nonfinite"], row["mean"], row["max"], row["zero_fraction"]) == (8, 3, 1.2, 3.0, 0.25)


def test_a_hand_written_module_has_a_distribution_but_no_saturation() -> None:
    """Where the derivative is not known nothing is called saturated."""
    model = nn.Sequential(Gate())
    x = torch.linspace(-20, 20, 50)
    with ActivationCollector(model, sites=Gate) as collector:
        y = model(x)
        row = collector.finish()["0"]
    assert row["saturated_fraction"] == 0.0
    assert row["mean"] == pytest.approx(y.double().mean().item())


def test_the_histogram_keeps_its_quantiles() -> None:
    """The median read off edges and counts is that of the values, within 5 %."""
    model = nn.Sequential(nn.Softplus())
    x = torch.randn(4000, generator=torch.Generator().manual_seed(0))
    with ActivationCollector(model) as collector:
        y = model(x)
        row = collector.finish()["0"]
    shares = np.concatenate([[0.0], np.cumsum(row["counts"]) / row["count"]])
    for q in (0.05, 0.25, 0.5, 0.75, 0.95):
        assert np.interp(q, shares, row["edges"]) == pytest.approx(float(y.quantile(q)), rel=0.05)


def test_autocast_is_measured_as_it_is() -> None:
    """Under autocast the numbers are those of the bfloat16 outputs."""
    model = model_with(nn.ReLU())
    x = batches(1)[0][0]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), ActivationCollector(model) as collector:
        model(x)
        row = collector.finish()["1"]
        y = torch.relu(model[0](x))
    assert y.dtype == torch.bfloat16
    assert row["mean"] == pytest.approx(y.double().mean().item(), rel=1e-12)


def test_an_evaluation_is_not_mixed_with_training() -> None:
    """What an evaluation in the middle of a training window computes is left out, before the first step and after."""
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].bias.zero_()

    def evaluate() -> None:
        model.eval()
        with torch.no_grad():
            model(torch.full((1, 1), 100.0))
        model.train()

    with ActivationCollector(model) as collector:
        evaluate()
        model(torch.full((1, 1), 1.0))
        evaluate()
        model(torch.full((1, 1), 3.0))
        row = collector.finish()["1"]
        assert (row["count"], row["mean"]) == (2, 2.0)
        evaluate()
        assert collector.finish()["1"]["mean"] == 100.0  # a window of evaluations alone is one of its own


@pytest.mark.parametrize("every", [1, 2, 3])
def test_a_window_resumed_in_its_middle_equals_the_uninterrupted_one(every: int, tmp_path: Any) -> None:
    """The state carries the open window and the place in the sampling, through a file of plain types."""
    data = [x for x, _ in batches(7)]
    model, again = model_with(nn.Tanh()), model_with(nn.Tanh())
    with ActivationCollector(model, every=every) as whole:
        for x in data:
            model(x)
        expected = whole.finish()
        for x in data[:4]:
            model(x)
        torch.save(whole.state_dict(), tmp_path / "state.pt")
    resumed = ActivationCollector(again, every=every)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    with resumed:
        for x in data[4:]:
            again(x)
        row = resumed.finish()["1"]
    for key, value in expected["1"].items():
        assert row[key] == (pytest.approx(value, rel=1e-12) if key in {"mean", "std"} else value), key


def test_restoring_after_the_last_step_gives_the_window_as_it_was() -> None:
    """A state loaded and finished at once gives the numbers of the window it was taken from."""
    model = model_with(nn.Tanh())
    with ActivationCollector(model) as collector:
        model(batches(1)[0][0])
        state = collector.state_dict()
        expected = collector.finish()
    other = ActivationCollector(model_with(nn.Tanh()))
    other.load_state_dict(state)
    other.start()
    assert other.finish() == expected
    other.stop()


def test_inference_mode_can_be_mixed_with_training() -> None:
    """Statistics begun under inference mode go on outside of it, and the reverse."""
    model = model_with(nn.ReLU())
    x = batches(1)[0][0]
    for order in ((True, False), (False, True)):
        with ActivationCollector(model.eval()) as collector:
            for inference in order:
                with torch.inference_mode() if inference else torch.no_grad():
                    model(x)
            assert collector.finish()["1"]["count"] == 2 * 64


def test_a_learned_slope_is_not_judged() -> None:
    """Where a function saturates is not known if its slope is learned, so none of its values is called saturated."""
    model = nn.Sequential(nn.PReLU(init=0.01))
    with ActivationCollector(model) as collector:
        model(torch.tensor([[-2.0, -1.0, 1.0, 2.0]]))
        assert collector.finish()["0"]["saturated_fraction"] == 0.0


def test_a_lazily_negated_input_is_read() -> None:
    """What is the imaginary part of a conjugate, negative by a mere flag, counts like its values."""
    model = nn.Sequential(nn.Tanh())
    z = torch.complex(torch.zeros(5), torch.linspace(-9.0, 3.0, 5)).conj().imag
    assert z.is_neg()
    rows = []
    for x in (z, z.resolve_neg()):
        with ActivationCollector(model) as collector:
            model(x)
            rows.append(collector.finish()["0"])
    assert rows[0] == rows[1]
    assert rows[0]["saturated_fraction"] == 4 / 5
