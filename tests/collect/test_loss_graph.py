"""What a loss does with outputs that it was not made for: told by the operations, wherever they are called."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD

from ignite_act.collect import OutputCollector
from ignite_act.collect.loss_graph import NOTHING, LossFacts

SIZE, CLASSES = 6, 3
CLASS = torch.tensor([0, 1, 2, 0, 1, 2])
ONE_HOT = F.one_hot(CLASS).float()
NUMBER = torch.linspace(-1, 1, SIZE)
LENGTHS = torch.full((2,), 3), torch.full((2,), 1)
Loss = Callable[[Tensor], Tensor]


def seen(loss: Loss, *last: nn.Module, units: int = CLASSES, squeezed: bool = False) -> LossFacts:
    """What is said of a loss of outputs ``(6, units)``, or ``(6,)``."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, units), *last)
    if squeezed:
        model.append(nn.Flatten(0))
    optimizer = SGD(model.parameters(), lr=0.1)
    with OutputCollector(model) as collector, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says of some of these losses what is wrong with them
        for _ in range(3):
            optimizer.zero_grad()
            loss(model(torch.randn(SIZE, 4))).backward()
            optimizer.step()
        (row,) = collector.finish().values()
    return LossFacts(*(row[name] for name in LossFacts._fields))


def focal(z: Tensor) -> Tensor:
    p = z.sigmoid()
    return ((1 - p).square() * F.binary_cross_entropy_with_logits(z, ONE_HOT, reduction="none")).mean()


def contrastive(z: Tensor) -> Tensor:
    near = F.normalize(z) @ F.normalize(z).T
    near = near - near.max(1, keepdim=True).values
    return F.cross_entropy(near / 0.1, torch.arange(SIZE))


def ranking(z: Tensor) -> Tensor:
    return -F.logsigmoid(z[:, 0, None] - z[None, :, 0]).mean()


def cox(z: Tensor) -> Tensor:
    """The risk of each among those that are still alive."""
    risk = z[:, :1]
    alive = (NUMBER[:, None] <= NUMBER).float()
    return ((risk.exp() * alive.T).sum(0).log() - risk[:, 0]).mean()


def distilled(z: Tensor) -> Tensor:
    return F.kl_div((z / 3).log_softmax(1), ONE_HOT, reduction="batchmean") + F.cross_entropy(z, CLASS)


def of_letters(probabilities: Tensor) -> Tensor:
    return F.ctc_loss(probabilities.reshape(3, 2, CLASSES), torch.ones(2, 1, dtype=torch.long), *LENGTHS)


SOUND: dict[str, Loss] = {
    "cross-entropy": lambda z: F.cross_entropy(z, CLASS),
    "smoothed": lambda z: F.cross_entropy(z, CLASS, label_smoothing=0.1),
    "temperature": lambda z: F.cross_entropy(z / 0.07, CLASS),
    "log-probabilities": lambda z: F.nll_loss(z.log_softmax(1), CLASS),
    "logarithm of probabilities": lambda z: F.nll_loss((z.softmax(1) + 1e-8).log(), CLASS),
    "mixture": lambda z: -((0.5 * z.softmax(1) + 0.5 * (2 * z).softmax(1))[:, 0]).log().mean(),
    "binary": lambda z: F.binary_cross_entropy_with_logits(z, ONE_HOT),
    "binary of probabilities": lambda z: F.binary_cross_entropy(z.sigmoid(), ONE_HOT),
    "focal": focal,
    "contrastive": contrastive,
    "ranking": ranking,
    "to all others": lambda z: (z[:, None] - torch.randn(SIZE, CLASSES)).square().sum(2).exp().neg().mean(),
    "one to all others": lambda z: (z[:, 0].unsqueeze(1) - NUMBER).abs().mean(),
    "Cox": cox,
    "distilled": distilled,
    "letters": lambda z: of_letters(z.log_softmax(1)),
    "normal": lambda z: F.gaussian_nll_loss(z[:, 0], NUMBER, z[:, 1].exp()),
    "Poisson": lambda z: F.poisson_nll_loss(z[:, 0], NUMBER.abs()),
    "margin": lambda z: F.multi_margin_loss(z, CLASS),
    "quantile": lambda z: torch.maximum(0.9 * (NUMBER[:, None] - z), -0.1 * (NUMBER[:, None] - z)).mean(),
    "gated": lambda z: (z[:, 0].sigmoid() * z[:, 1]).square().mean(),
    "policy": lambda z: -(z.log_softmax(1)[:, 0] * NUMBER).mean(),
}
DISTANCES: dict[str, Loss] = {
    "squared": lambda z: F.mse_loss(z[:, 0], NUMBER),
    "robust": lambda z: F.smooth_l1_loss(z, NUMBER[:, None].expand(SIZE, CLASSES)),
    "Huber": lambda z: F.huber_loss(z[:, 0], NUMBER),
    "of probabilities": lambda z: F.mse_loss(z.softmax(1), ONE_HOT),
}
WRONG: dict[str, tuple[Loss, LossFacts]] = {
    "softmax twice": (lambda z: F.cross_entropy(z.softmax(1), CLASS), LossFacts("softmax")),
    "softmax twice, warm": (lambda z: F.kl_div(z.softmax(1).log_softmax(1), ONE_HOT), LossFacts("softmax")),
    "softmax twice, in torch's distribution": (
        lambda z: -torch.distributions.Categorical(logits=z.softmax(1)).log_prob(CLASS).mean(),
        LossFacts("softmax"),
    ),
    "probabilities for logits": (
        lambda z: F.binary_cross_entropy_with_logits(z.sigmoid(), ONE_HOT, pos_weight=torch.full((3,), 9.0)),
        LossFacts("sigmoid"),
    ),
    "softmax for logits": (lambda z: F.binary_cross_entropy_with_logits(z.softmax(1), ONE_HOT), LossFacts("sigmoid")),
    "sigmoid twice": (lambda z: F.binary_cross_entropy(z.sigmoid().sigmoid(), ONE_HOT), LossFacts("sigmoid")),
    "raw outputs": (lambda z: F.nll_loss(z, CLASS), LossFacts("", "layer")),
    "probabilities": (lambda z: F.nll_loss(z.softmax(1), CLASS), LossFacts("", "softmax")),
    "letters of probabilities": (lambda z: of_letters(z.softmax(1)), LossFacts("", "softmax")),
    "in the plane": (
        lambda z: F.nll_loss(z.softmax(1).reshape(2, 3, 3).mT, CLASS.reshape(2, 3)),
        LossFacts("", "softmax"),
    ),
}
PAIRS: dict[str, Loss] = {
    "squared": lambda z: F.mse_loss(z, NUMBER if z.ndim == 2 else NUMBER[:, None]),
    "by hand": lambda z: (z - (NUMBER if z.ndim == 2 else NUMBER[:, None])).square().mean(),
    "the other way round": lambda z: ((NUMBER if z.ndim == 2 else NUMBER[:, None]) - z).abs().mean(),
    "robust": lambda z: F.smooth_l1_loss(z, NUMBER if z.ndim == 2 else NUMBER[:, None]),
    "Huber": lambda z: F.huber_loss(z, NUMBER if z.ndim == 2 else NUMBER[:, None]),
    "absolute": lambda z: F.l1_loss(z, NUMBER if z.ndim == 2 else NUMBER[:, None]),
    "Poisson": lambda z: F.poisson_nll_loss(z, NUMBER.abs() if z.ndim == 2 else NUMBER.abs()[:, None]),
}


@pytest.mark.parametrize("name", SOUND)
def test_nothing_is_said_of_a_sound_loss(name: str) -> None:
    assert seen(SOUND[name]) == NOTHING


def test_a_loss_of_directions() -> None:
    """It normalises what it gets; there is nothing wrong with it."""
    assert seen(lambda z: 1 - F.cosine_similarity(z, ONE_HOT).mean()) == LossFacts(normalises=True)
    assert seen(lambda z: (F.normalize(z) - ONE_HOT).square().mean()) == LossFacts(normalises=True)


@pytest.mark.parametrize("name", DISTANCES)
def test_a_distance_is_no_likelihood(name: str) -> None:
    assert seen(DISTANCES[name]) == LossFacts(distance=True)


@pytest.mark.parametrize("name", WRONG)
def test_what_is_applied_again_or_is_no_logarithm(name: str) -> None:
    loss, expected = WRONG[name]
    assert seen(loss) == expected


@pytest.mark.parametrize("last", [nn.Softmax(1), nn.Sequential(nn.Softmax(1), nn.Flatten())])
def test_it_does_not_matter_who_calls_the_softmax(last: nn.Module) -> None:
    """The model, or the loss."""
    assert seen(lambda p: F.cross_entropy(p, CLASS), last).applies_again == "softmax"
    assert seen(lambda p: F.nll_loss(p, CLASS), last).takes_logarithms_of == "softmax"


@pytest.mark.parametrize("squeezed", [False, True])
@pytest.mark.parametrize("name", PAIRS)
def test_columns_against_rows(name: str, squeezed: bool) -> None:
    """Outputs (N, 1) and targets (N,), or the other way round; with equal shapes nothing is said."""
    assert seen(PAIRS[name], units=1, squeezed=squeezed).pairs
    fitting = NUMBER if squeezed else NUMBER[:, None]
    assert not seen(lambda z: F.mse_loss(z, fitting) + (z - fitting).abs().mean(), units=1, squeezed=squeezed).pairs


def test_rows_of_several_numbers() -> None:
    """A channel that was kept; of pictures, too."""
    series = torch.randn(SIZE, 5)
    for shape in ((SIZE, 1, 5), (SIZE, 1, 5, 1)):
        kept = lambda z, shape=shape: F.mse_loss(z.reshape(shape), series.reshape(SIZE, 5, *shape[3:]))  # noqa: E731
        assert seen(kept, units=5).pairs
        fitting = lambda z, shape=shape: F.mse_loss(z.reshape(shape), series.reshape(shape))  # noqa: E731
        assert not seen(fitting, units=5).pairs


def test_a_window_restored_in_its_middle_knows_it() -> None:
    """And so do processes that are united."""
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, CLASSES), nn.Softmax(1))
    with OutputCollector(model) as collector:
        F.cross_entropy(model(torch.randn(SIZE, 4)), CLASS).backward()
        state = collector.state_dict()
    again = OutputCollector(model)
    again.load_state_dict(state)
    assert again.finish()["output"]["applies_again"] == "softmax"
