"""How much drawn values tell of their sample, whoever draws them."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal

from ignite_act.collect import OutputCollector
from ignite_act.collect.latents import information

Draw = Callable[[Tensor, Tensor], Tensor]


def by_hand(mean: Tensor, log: Tensor) -> Tensor:
    return mean + torch.randn_like(log) * (0.5 * log).exp()


def the_other_way_round(mean: Tensor, log: Tensor) -> Tensor:
    return (0.5 * log).exp() * torch.randn_like(log) + mean


def by_root(mean: Tensor, log: Tensor) -> Tensor:
    return mean + torch.randn_like(log) * log.exp().sqrt()


def by_torch(mean: Tensor, log: Tensor) -> Tensor:
    return Normal(mean, (0.5 * log).exp()).rsample()


class Autoencoder(nn.Module):
    """One whose code is drawn."""

    def __init__(self, draw: Draw) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mean, self.log, self.decode, self.draw = nn.Linear(5, 3), nn.Linear(5, 3), nn.Linear(3, 5), draw

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.draw(self.mean(x), self.log(x)))


def twin(model: Autoencoder, x: Tensor) -> float:
    """Unit by unit."""
    mean, deviation = model.mean(x), (0.5 * model.log(x)).exp()
    ratio = mean.var(0, correction=0) / deviation.square().mean()
    return sum(0.5 * math.log(1 + own) for own in ratio.tolist())


@pytest.mark.parametrize("draw", [by_hand, the_other_way_round, by_root, by_torch])
@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_it_equals_its_twin(draw: Draw, scale: float) -> None:
    """Of codes that tell the samples apart, and of codes that are noise."""
    model, x = Autoencoder(draw), torch.randn(64, 5)
    with torch.no_grad():
        model.mean.weight.mul_(scale)
    with OutputCollector(model) as collector:
        F.mse_loss(model(x), x).backward()
        row = collector.finish()["output"]
    assert row["latents"] == pytest.approx({"decode": twin(model, x)}, rel=1e-3)
    assert (row["latents"]["decode"] > 0.1) == (scale == 1.0)


@pytest.mark.parametrize(
    "draw",
    [
        lambda mean, log: mean,
        lambda mean, log: mean + log,
        lambda mean, log: mean + 0.1 * log,
        lambda mean, log: mean + torch.randn_like(log),
        lambda mean, log: mean * log.exp(),
        lambda mean, log: mean + mean.sigmoid() * log.exp(),
        lambda mean, log: F.dropout(mean, 0.5) + log,
        lambda mean, log: Normal(mean, log.exp()).sample() + 0 * mean,
    ],
)
def test_other_sums_are_not_drawn(draw: Draw) -> None:
    """Residuals, gates, products with constants."""
    mean, log = torch.randn(8, 3, requires_grad=True), torch.randn(8, 3, requires_grad=True)
    assert information(draw(mean * 1, log * 1)) is None


def test_nothing_is_said_of_one_sample_or_without_a_graph() -> None:
    mean, log = torch.randn(1, 3, requires_grad=True), torch.randn(1, 3, requires_grad=True)
    assert information(by_hand(mean * 1, log * 1)) is None
    with torch.no_grad():
        assert information(by_hand(torch.randn(8, 3), torch.randn(8, 3))) is None
