"""Weights that begin at 0, or nearly so: their first steps are small, and have no ratio."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW

from ignite_act import EpochRecorder
from ignite_act.report import EpochReport

TRUTH = torch.randn(4, 3, generator=torch.Generator().manual_seed(7))


def seeded(make: Callable[[], Any]) -> Any:
    torch.manual_seed(0)
    return make()


def data(n: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(x, (x @ TRUTH).argmax(1)) for x in torch.randn(n, 32, 4, generator=generator)]


class Adapter(nn.Module):
    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, 4, bias=False)
        self.up = nn.Linear(4, base.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


class Scaled(nn.Module):
    """A residual block whose branch is scaled by next to nothing, by a matrix (Touvron et al. 2021) or a layer."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.inside, self.kind = nn.Linear(32, 32), kind
        if kind == "layer scale":
            self.matrix = nn.Parameter(torch.full((1, 32), 1e-6))
        else:
            self.scale = nn.Linear(32, 32, bias=False)
            nn.init.normal_(self.scale.weight, std=1e-6 if kind == "small" else 0.0)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.inside(x))
        if self.kind == "layer scale":
            return x + h * self.matrix
        if self.kind == "modulation":  # adaptive norms that begin as nothing (Peebles and Xie 2023)
            return x + self.scale(F.silu(x)) * h
        return x + self.scale(h)


def mlp(*blocks: nn.Module, zero: bool = False) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), *blocks, nn.Linear(32, 3))
    if zero:
        nn.init.zeros_(model[-1].weight)
    return model


def residual_convolution() -> nn.Sequential:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv1d(4, 4, 3, padding=1), nn.Conv1d(4, 4, 3, padding=1)
            nn.init.zeros_(self.last.weight)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.last(F.relu(self.first(x)))

    return nn.Sequential(nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 4, 1), *(Block() for _ in range(3)), nn.Flatten(),
                         nn.Linear(16, 3))  # fmt: skip


ZEROS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "adapters": (lambda: nn.Sequential(Adapter(nn.Linear(4, 32)), nn.ReLU(), Adapter(nn.Linear(32, 3))), ".up"),
    "head": (lambda: mlp(zero=True), "2"),
    "modulation": (lambda: mlp(Scaled("modulation"), Scaled("modulation")), ".scale"),
    "layer scale": (lambda: mlp(Scaled("layer scale"), Scaled("layer scale")), ".matrix"),
    "small": (lambda: mlp(Scaled("small"), Scaled("small"), Scaled("small")), ".scale"),
    "residual": (lambda: mlp(Scaled("zero"), Scaled("zero"), Scaled("zero")), ".scale"),
    "residual convolution": (residual_convolution, ".last"),
}


def fitted(model: nn.Module, lr: float, n: int = 16) -> EpochReport:
    optimizer = AdamW([p for p in model.parameters() if p.requires_grad], lr)
    with EpochRecorder(model) as recorder:
        for x, y in data(n):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            recorder.record_loss(loss)
        return recorder.finish()


@pytest.mark.parametrize("name", ZEROS)
def test_a_weight_that_begins_at_zero_has_no_ratio(name: str) -> None:
    """A small step away from 0 is no large update; the other weights have their ratios."""
    make, end = ZEROS[name]
    report = fitted(seeded(make), 1e-4)
    begun = {layer for layer in report.updates if layer.endswith(end)}
    assert begun
    assert all(report.updates[layer]["ratio"] is None for layer in begun)
    assert all(report.updates[layer]["steps"] == 4 for layer in begun if report.updates[layer]["trainable"])
    rest = [row for layer, row in report.updates.items() if layer not in begun and row["trainable"]]
    assert all(row["ratio"] is not None for row in rest)
    assert not [f for f in report.findings if f.kind == "update_too_large"]


@pytest.mark.parametrize("name", ZEROS)
def test_a_large_update_is_still_found(name: str) -> None:
    """A rate of 3 is too large for the weights of the same networks that did not begin at 0."""
    report = fitted(seeded(ZEROS[name][0]), 3.0)
    assert [f.severity for f in report.findings if f.kind == "update_too_large"] == ["error"]
