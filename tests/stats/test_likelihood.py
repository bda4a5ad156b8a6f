from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from identical import assert_identical
from torch import Tensor

from ignite_act.stats.likelihood import FITS, GUESSES, Likelihood, as_rows, entropy, fits
from ignite_act.stats.targets import mean_losses, read

Loss = Callable[[Tensor, Tensor], Tensor]
ANYWHERE = (-math.inf, math.inf)
CLASSES = 5


def classes(rows: int = 64, units: int = CLASSES, seed: int = 0, scale: float = 1.5) -> tuple[Tensor, Tensor]:
    """Logits ``(rows, units)`` with targets that some of them agree with."""
    generator = torch.Generator().manual_seed(seed)
    z = scale * torch.randn(rows, units, generator=generator)
    y = torch.where(torch.rand(rows, generator=generator) < 0.5, z.argmax(1), (torch.arange(rows) ** 2) % units)
    return z, y


def bits(rows: int = 64, units: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits ``(rows, units)`` with targets of 0 and 1, twice as many of 0."""
    z = torch.randn(rows, units, generator=torch.Generator().manual_seed(seed))
    return z, (torch.arange(rows * units).view(rows, units) % 3 == 0).float()


def gradient(loss: Loss, z: Tensor, y: Tensor) -> Tensor:
    leaf = z.clone().requires_grad_()
    loss(leaf, y).backward()
    assert leaf.grad is not None
    return leaf.grad


def seen(loss: Loss, *steps: tuple[Tensor, Tensor], reach: tuple[float, float] = ANYWHERE) -> Likelihood:
    likelihood = Likelihood(steps[0][0].shape[1])
    for z, y in steps:
        likelihood.update(z, gradient(loss, z, y), z.numel(), reach)
    return likelihood


def judged(loss: Loss, *steps: tuple[Tensor, Tensor], reach: tuple[float, float] = ANYWHERE) -> dict[str, Any]:
    return seen(loss, *steps, reach=reach).compute()


def twin_entropy(targets: Tensor) -> float:
    """Entropy of the classes, with Miller's correction, by the formula."""
    shares = [(targets == value).double().mean().item() for value in targets.unique()]
    return -sum(share * math.log(share) for share in shares) + (len(shares) - 1) / (2 * targets.numel())


def log_softmax(z: Tensor) -> Tensor:
    return torch.log_softmax(z, 1)


def padded(z: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(z, torch.where(torch.arange(len(y)) % 4 == 0, -100, y))


SOFTMAX: dict[str, Loss] = {
    "mean": F.cross_entropy,
    "sum": lambda z, y: F.cross_entropy(z, y, reduction="sum"),
    "tiny": lambda z, y: F.cross_entropy(z, y) * 1e-12,
    "scaled": lambda z, y: F.cross_entropy(z, y) * 65536.0,
    "accumulated": lambda z, y: F.cross_entropy(z, y) / 8,
    "padded": padded,
    "smoothed": lambda z, y: F.cross_entropy(z, y, label_smoothing=0.05),
    "by hand": lambda z, y: -torch.log_softmax(z, 1)[range(len(y)), y].mean(),
    "one-hot": lambda z, y: F.cross_entropy(z, F.one_hot(y, z.shape[1]).float()),
    "weighted samples": lambda z, y: (F.cross_entropy(z, y, reduction="none") * torch.linspace(0.2, 3, len(y))).mean(),
}


@pytest.mark.parametrize("name", SOFTMAX)
@pytest.mark.parametrize("sign", [1, -1])
def test_cross_entropy_is_recognised(name: str, sign: int) -> None:
    """Whatever its reduction, scale, padding, smoothing or weights, minimised or maximised."""
    result = judged(lambda z, y: sign * SOFTMAX[name](z, y), classes(), classes(seed=1))
    assert (result["loss_applies"], result["maximised"]) == ("softmax", sign < 0)


@pytest.mark.parametrize("units", [2, 3, 10, 100])
@pytest.mark.parametrize("sign", [1, -1])
def test_cross_entropy_is_recognised_of_any_number_of_classes(units: int, sign: int) -> None:
    """Two classes included, where the size of the gradient tells a maximised loss from a minimised one."""
    result = judged(lambda z, y: sign * F.cross_entropy(z, y), classes(256, units))
    assert (result["loss_applies"], result["maximised"]) == ("softmax", sign < 0)


@pytest.mark.parametrize("sign", [1, -1])
def test_of_two_classes_and_an_unknown_scale_confidence_tells_the_sign(sign: int) -> None:
    """The gradient is small where a network is right and sure; a network that is sure of nothing leaves it open."""

    def loss(z: Tensor, y: Tensor) -> Tensor:
        return sign * F.cross_entropy(z, y, reduction="sum")

    result = judged(loss, classes(64, 2))
    assert (result["loss_applies"], result["maximised"]) == ("softmax", sign < 0)
    result = judged(loss, classes(64, 2, scale=1e-3))
    assert (result["loss_applies"], result["maximised"]) == ("softmax", None)
    assert result["accuracy"] is result["majority"] is result["entropy_within"] is None


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_other_likelihoods_are_recognised(reduction: str, sign: int) -> None:
    """Negative log-likelihood, and binary cross-entropy of logits and of probabilities, of one and of many units."""

    def with_sign(loss: Callable[..., Tensor]) -> Loss:
        return lambda z, y: sign * loss(z, y, reduction=reduction)

    for units in (3, 10):
        z, y = classes(units=units)
        for output in (log_softmax(z), torch.softmax(z, 1)):
            result = judged(with_sign(F.nll_loss), (output, y))
            assert (result["loss_applies"], result["maximised"]) == ("nothing", sign < 0)
    for units in (2, 7):
        z, y = bits(units=units)
        result = judged(with_sign(F.binary_cross_entropy_with_logits), (z, y))
        assert (result["loss_applies"], result["maximised"]) == ("sigmoid", sign < 0)
        result = judged(with_sign(F.binary_cross_entropy), (torch.sigmoid(z), y))
        assert (result["loss_applies"], result["maximised"]) == ("nothing", sign < 0)
    z, y = bits(256)
    assert judged(with_sign(F.binary_cross_entropy_with_logits), (z, y))["loss_applies"] == "sigmoid"
    assert judged(with_sign(F.binary_cross_entropy), (torch.sigmoid(z), y))["loss_applies"] == "nothing"


@pytest.mark.parametrize("sign", [1, -1])
def test_of_one_unit_the_scale_of_a_mean_tells_the_sign(sign: int) -> None:
    """A mean binary cross-entropy with clear errors is told from the same maximised."""
    z, y = bits(256)
    z = 2 * z + (2 * y - 1)
    result = judged(lambda z, y: sign * F.binary_cross_entropy_with_logits(z, y), (z, y))
    assert (result["loss_applies"], result["maximised"]) == ("sigmoid", sign < 0)


OTHERS: dict[str, Loss] = {
    "absolute": F.l1_loss,
    "huber": F.huber_loss,
    "smooth": lambda z, y: F.smooth_l1_loss(z, y, beta=0.1),
    "squared": F.mse_loss,
    "summed squares": lambda z, y: F.mse_loss(z, y, reduction="sum"),
    "hinge": lambda z, y: F.relu(1 - y * z).mean(),
    "log-cosh": lambda z, y: torch.cosh(z - y).log().mean(),
    "linear": lambda z, y: (z * y).mean(),
}


@pytest.mark.few(18)
@pytest.mark.parametrize("units", [2, 3, 10])
@pytest.mark.parametrize("scale", [1.0, 0.1, 0.01])
@pytest.mark.parametrize("name", ["absolute", "huber", "smooth", "squared", "summed squares", "log-cosh"])
def test_regression_on_classes_is_no_likelihood(name: str, scale: float, units: int) -> None:
    """Nor is a regression on one-hot targets, small and large, whose outputs are still small."""
    for size in (1, 5):
        steps = [classes(64, units, seed) for seed in range(2)]
        result = judged(OTHERS[name], *((scale * z, size * F.one_hot(y, units).float()) for z, y in steps))
        assert result["loss_applies"] == "unknown"


@pytest.mark.parametrize("units", [1, 3])
@pytest.mark.parametrize("name", OTHERS)
def test_losses_of_regression_are_no_likelihoods(name: str, units: int) -> None:
    """Absolute, squared and mixed errors, of targets on both sides, say nothing of classes."""
    generator = torch.Generator().manual_seed(3)
    steps = [(torch.randn(64, units, generator=generator), torch.randn(64, units, generator=generator)) for _ in "ab"]
    result = judged(OTHERS[name], *steps)
    assert result["loss_applies"] == "unknown"
    assert result["maximised"] is result["constant_loss"] is result["accuracy"] is result["first_loss"] is None


def test_a_softmax_behind_the_outputs_is_seen_without_its_loss() -> None:
    """Whatever is done with the probabilities: the gradient adds up to 0 over each row."""
    z, y = classes()
    result = judged(lambda z, y: (torch.softmax(z, 1) - F.one_hot(y, CLASSES)).abs().pow(3).mean(), (z, y))
    assert result["loss_applies"] == "softmax"
    assert result["maximised"] is result["constant_loss"] is None


@pytest.mark.parametrize("sign", [1, -1])
def test_targets_equal_their_twin(sign: int) -> None:
    """The gradient tells the targets: counts of the classes, score, majority, losses and entropies over the steps."""
    steps = [classes(64), classes(48, seed=1)]
    statistic = seen(lambda z, y: sign * F.cross_entropy(z, y), *steps)
    targets = torch.cat([y for _, y in steps])
    counts = torch.bincount(targets, minlength=CLASSES)
    right = sum(int((z.argmax(1) == y).sum()) for z, y in steps)
    assert torch.as_tensor(statistic.counts)[int(sign < 0)].tolist() == counts.tolist()
    result = statistic.compute()
    assert result["accuracy"] == pytest.approx(right / len(targets), rel=1e-7)
    assert result["majority"] == pytest.approx(counts.max().item() / len(targets), rel=1e-7)
    assert result["constant_loss"] == pytest.approx(twin_entropy(targets), rel=1e-6)
    own = [F.cross_entropy(z, y).item() for z, y in steps]
    assert result["first_loss"] == pytest.approx(own[0], rel=1e-6)
    assert result["mean_loss"] == pytest.approx(sum(own) / 2, rel=1e-6)
    shares = [torch.bincount(y, minlength=CLASSES).double() / len(y) for _, y in steps]
    within = sum(torch.special.entr(share).sum().item() for share in shares) / 2
    assert result["entropy_within"] == pytest.approx(within, rel=1e-6)


def test_targets_of_log_probabilities_equal_their_twin() -> None:
    """Of a negative log-likelihood, too."""
    z, y = classes()
    result = judged(F.nll_loss, (log_softmax(z), y))
    assert result["accuracy"] == pytest.approx((z.argmax(1) == y).double().mean().item(), rel=1e-6)
    assert result["constant_loss"] == pytest.approx(twin_entropy(y), rel=1e-6)
    assert result["first_loss"] == pytest.approx(F.cross_entropy(z, y).item(), rel=1e-6)


def test_targets_of_one_unit_equal_their_twin() -> None:
    """Of binary losses the cut is at 0 for logits and at 0.5 for probabilities."""
    z, y = bits(256)
    z = 2 * z + (2 * y - 1)
    right = ((z > 0) == (y > 0)).double().mean().item()
    for loss, output in ((F.binary_cross_entropy_with_logits, z), (F.binary_cross_entropy, torch.sigmoid(z))):
        result = judged(loss, (output, y))
        assert result["first_loss"] == result["mean_loss"] == pytest.approx(loss(output, y).item(), rel=1e-6)
        assert result["constant_loss"] == pytest.approx(twin_entropy(y), rel=1e-6)
        assert result["accuracy"] == pytest.approx(right, rel=1e-7)
        assert result["majority"] == pytest.approx(1 - y.double().mean().item(), rel=1e-7)


def test_padding_counts_as_no_sample() -> None:
    """Rows that the loss ignores are neither right nor wrong, and their classes are not counted."""
    z, y = classes()
    statistic = seen(padded, (z, y))
    kept = torch.arange(len(y)) % 4 != 0
    assert torch.as_tensor(statistic.counts)[0].tolist() == torch.bincount(y[kept], minlength=CLASSES).tolist()
    expected = (z.argmax(1) == y)[kept].double().mean().item()
    assert statistic.compute()["accuracy"] == pytest.approx(expected, rel=1e-6)


def test_sorted_targets_have_no_entropy_within_a_step() -> None:
    """If each step has one class, the entropy within is 0 while that of all steps is that of the classes."""
    steps = [(classes(64, seed=label)[0], torch.full((64,), label)) for label in range(CLASSES)]
    result = judged(F.cross_entropy, *steps)
    assert result["entropy_within"] == pytest.approx(0.0, abs=1e-6)
    assert result["constant_loss"] == pytest.approx(math.log(CLASSES), abs=0.01)


def test_targets_of_several_labels_have_no_single_class() -> None:
    """Where each unit has a target of its own the loss is named, but no classes are made up."""
    result = judged(F.binary_cross_entropy_with_logits, bits(units=4))
    assert result["loss_applies"] == "sigmoid"
    assert result["constant_loss"] is result["accuracy"] is result["first_loss"] is None


def test_a_gradient_of_one_sign_is_left_unknown() -> None:
    """One unit whose targets are all alike fits many losses: nothing is said."""
    z, _ = bits()
    assert judged(F.binary_cross_entropy_with_logits, (z, torch.zeros_like(z)))["loss_applies"] == "unknown"


@pytest.mark.parametrize("units", [1, 3])
def test_a_squared_error_tells_its_targets(units: int) -> None:
    """Loss of the first step, and variance of the targets over all steps: the loss of a constant prediction."""
    generator = torch.Generator().manual_seed(5)
    outputs, wanted = torch.randn(2, 2, 64, units, generator=generator)
    steps = list(zip(outputs, wanted + 3, strict=True))
    result = judged(F.mse_loss, *steps)
    targets = torch.cat([y for _, y in steps])
    assert result["squared_loss"] == pytest.approx(F.mse_loss(*steps[0]).item(), rel=1e-5)
    assert result["target_variance"] == pytest.approx(targets.double().var(0, correction=0).mean().item(), rel=1e-4)
    maximised = judged(lambda z, y: -F.mse_loss(z, y), *steps)
    assert maximised["target_variance_maximised"] == pytest.approx(result["target_variance"], rel=1e-5)
    assert maximised["squared_loss"] == pytest.approx(result["squared_loss"], rel=1e-5)


def test_targets_out_of_reach_are_counted() -> None:
    """Share of the targets of a squared error that an activation on the outputs cannot reach."""
    y = torch.linspace(-1, 3, 80).view(-1, 1)
    z = torch.rand(80, 1, generator=torch.Generator().manual_seed(0))
    for reach, outside in (((0.0, math.inf), y < 0), ((0.0, 1.0), (y < 0) | (y > 1)), (ANYWHERE, y > 9)):
        share = outside.double().mean().item()
        assert judged(F.mse_loss, (z, y), reach=reach)["beyond"] == pytest.approx(share, abs=0.03)


def test_outputs_that_are_blocked_are_counted() -> None:
    """Share of the outputs that are exactly 0 and that the loss wants below."""
    z, y = torch.zeros(10, 2), torch.ones(10, 2)
    y[:4, 0] = -1.0
    z[2, 0] = 0.5
    assert judged(F.mse_loss, (z, y))["blocked"] == pytest.approx(3 / 20)


def test_without_a_gradient_nothing_is_known() -> None:
    """Before the first step everything is None; a gradient of zeros is of no known loss."""
    assert set(Likelihood(3).compute().values()) == {None}
    still = Likelihood(3)
    still.update(torch.randn(8, 3), torch.zeros(8, 3), 24, ANYWHERE)
    result = still.compute()
    assert result["maximised"] is result["constant_loss"] is result["accuracy"] is None


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nonfinite_values_do_no_harm(bad: float) -> None:
    """A NaN or an infinity among outputs or gradients leads to no error and no made-up score."""
    z, y = classes()
    g = gradient(F.cross_entropy, z, y)
    for spoiled in (z, g):
        one = spoiled.clone()
        one[3, 1] = bad
        likelihood = Likelihood(CLASSES)
        likelihood.update(one if spoiled is z else z, one if spoiled is g else g, z.numel(), ANYWHERE)
        result = likelihood.compute()
        assert result["loss_applies"] in {"softmax", "unknown"}


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("sure", [1.5, -1.5])
def test_of_two_classes_and_equal_confidence_the_scale_of_a_mean_tells_the_sign(sure: float, sign: int) -> None:
    """If all rows are as sure only the size can tell; of a large output the first rows are enough for that."""
    y = torch.arange(512) % 2
    z = sure * (2.0 * F.one_hot(y, 2) - 1) + 2.0
    g = gradient(lambda z, y: sign * F.cross_entropy(z, y), z, y)
    for rows in (512, 200):
        likelihood = Likelihood(2)
        likelihood.update(z[:rows], g[:rows], z.numel(), ANYWHERE)
        result = likelihood.compute()
        assert (result["loss_applies"], result["maximised"]) == ("softmax", sign < 0)
        assert result["accuracy"] == float(sure > 0)


@pytest.mark.parametrize("cut", [0, 1, 2, 3])
def test_any_split_of_the_steps_merges_to_the_whole(cut: int) -> None:
    """What two processes saw adds up, an empty one changes nothing; only the first loss is a mean over both."""
    steps = [classes(seed=seed) for seed in range(3)]
    whole = seen(F.cross_entropy, *steps).compute()
    parts = [seen(F.cross_entropy, *part) if part else Likelihood(CLASSES) for part in (steps[:cut], steps[cut:])]
    firsts = [part.compute() for part in parts if part.steps]
    parts[0].merge(parts[1])
    merged = parts[0].compute()
    for name, value in whole.items():
        if name in {"first_loss", "squared_loss", "linear_loss"}:
            value = sum(first[name] for first in firsts) / len(firsts)
        assert merged[name] == (pytest.approx(value, rel=1e-5) if isinstance(value, float) else value), name


def test_the_state_round_trips_in_the_middle_of_a_stream() -> None:
    """A stream interrupted by state_dict gives exactly what the whole one gives, and the state is a copy."""
    steps = [classes(seed=seed) for seed in range(3)]
    first = seen(F.cross_entropy, *steps[:1])
    saved = first.state_dict()
    expected = seen(F.cross_entropy, *steps).compute()
    for likelihood in (first, Likelihood(**saved)):
        for z, y in steps[1:]:
            likelihood.update(z, gradient(F.cross_entropy, z, y), z.numel(), ANYWHERE)
        assert likelihood.compute() == expected


def test_a_step_that_is_interrupted_half_way_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted = Likelihood(CLASSES)
    z, y = classes()
    monkeypatch.setattr("ignite_act.stats.likelihood.soften", _ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        interrupted.update(z, gradient(F.cross_entropy, z, y), z.numel(), ANYWHERE)
    assert_identical(interrupted.state_dict(), Likelihood(CLASSES).state_dict())
    monkeypatch.undo()
    interrupted.update(z, gradient(F.cross_entropy, z, y), z.numel(), ANYWHERE)
    assert interrupted.compute() == judged(F.cross_entropy, (z, y))


def _ctrl_c(*_: object) -> None:
    raise KeyboardInterrupt


def test_the_fit_of_a_guess_is_a_cosine() -> None:
    """The right guess has the cosine 1 of every row, and the scale of a mean is the number of rows."""
    z, y = classes()
    fit = fits(z, gradient(F.cross_entropy, z, y))
    assert fit.shape == (3, len(GUESSES), 2)
    assert fit[:2, 0, 0].tolist() == pytest.approx([1.0, 1.0], abs=1e-5)
    assert fit[2, 0, 0].item() == pytest.approx(-math.log(len(z)), abs=1e-5)
    assert (fit[0, 1:] < FITS).all()


def test_losses_equal_torch() -> None:
    """What the loss would be by the right guess is the loss."""

    def read_off(loss: Loss, z: Tensor, y: Tensor) -> Tensor:
        g = gradient(loss, z, y)
        rows = read(z, g) if y.ndim == 1 else read(z.reshape(-1, 1), g.reshape(-1, 1))
        return mean_losses(rows, rows.there)[:, 0]

    z, y = classes()
    assert read_off(F.cross_entropy, z, y)[0].item() == pytest.approx(F.cross_entropy(z, y).item())
    p = log_softmax(z)
    assert read_off(F.nll_loss, p, y)[1].item() == pytest.approx(F.nll_loss(p, y).item())
    z, t = bits(units=3)
    own = F.binary_cross_entropy_with_logits
    assert read_off(own, z, t)[0].item() == pytest.approx(own(z, t).item())
    q = torch.sigmoid(z)
    assert read_off(F.binary_cross_entropy, q, t)[1].item() == pytest.approx(own(z, t).item(), rel=1e-5)


def test_entropy_is_that_of_the_shares() -> None:
    """In nats, empty classes left out, corrected for few samples."""
    assert entropy(torch.tensor([10.0, 10.0, 0.0])) == pytest.approx(math.log(2) + 1 / 40)
    assert entropy(torch.tensor([7.0])) == 0.0


def test_rows_of_an_output() -> None:
    """Units come last, other axes are rows, a vector is one unit, and a large output is cut at whole rows."""
    x = torch.arange(24.0).view(2, 3, 4)
    assert torch.equal(as_rows(x, -1), x.view(6, 4))
    assert torch.equal(as_rows(x, 1), x.transpose(1, 2).reshape(8, 3))
    assert as_rows(torch.zeros(5, dtype=torch.bfloat16), -1).shape == (5, 1)
    assert as_rows(torch.zeros(5, dtype=torch.bfloat16), -1).dtype == torch.float32
    assert as_rows(torch.zeros(()), -1).shape == (1, 1)
    assert as_rows(torch.zeros(1000, 1000), -1).shape == (262, 1000)


LINEAR = {  # name: loss of outputs (rows, classes), outputs of logits, linear, logarithms
    "nll of logarithms": (F.nll_loss, lambda z: z.log_softmax(1), True, True),
    "nll of logits": (F.nll_loss, lambda z: z, True, False),
    "nll of probabilities": (F.nll_loss, lambda z: z.softmax(1), True, False),
    "logarithm of probabilities": (lambda p, y: F.nll_loss(p.log(), y), lambda z: z.softmax(1), False, False),
    "cross-entropy": (F.cross_entropy, lambda z: z, False, False),
    "huber at one": (
        lambda z, y: F.huber_loss(z[range(len(z)), y], 10 + y / 9),
        lambda z: z,
        False,
        False,
    ),
}


@pytest.mark.parametrize("name", LINEAR)
def test_a_loss_that_is_a_sum_of_outputs(name: str) -> None:
    """Where a loss is linear in the outputs, their product with its gradient is the loss."""
    loss_of, outputs_of, linear, logarithms = LINEAR[name]
    generator = torch.Generator().manual_seed(0)
    z = outputs_of(torch.randn(32, 5, generator=generator)).requires_grad_()
    loss = loss_of(z, torch.randint(5, (32,), generator=generator))
    first = loss.item()
    (gradient,) = torch.autograd.grad(loss, z)
    known = Likelihood(5)
    known.update(z.detach(), gradient, gradient.numel(), (-math.inf, math.inf))
    result = known.compute()
    assert (abs(result["linear_loss"] / first - 1) < 1e-4) == linear
    assert result["logarithms"] == logarithms


@pytest.mark.parametrize(("shape", "one"), [((32,), True), ((32, 1), False)])
def test_targets_that_are_broadcast_are_one(shape: tuple[int, ...], one: bool) -> None:
    """Of (N,) against (N, 1) the loss has N x N errors: each output is pulled to the mean of the targets."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(32, 1, generator=generator, requires_grad=True)
    loss = (z - torch.randn(shape, generator=generator)).square().mean()
    (gradient,) = torch.autograd.grad(loss, z)
    known = Likelihood(1)
    known.update(z.detach(), gradient, gradient.numel(), (-math.inf, math.inf))
    assert known.compute()["one_target"] is one
