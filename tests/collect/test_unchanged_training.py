"""Training with every collector on is the same, bit for bit, as training without."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from identical import assert_identical
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adam, AdamW, Optimizer
from torch.utils.checkpoint import checkpoint

from ignite_act import EpochRecorder
from ignite_act.testing import TupleLSTM

pytestmark = pytest.mark.usefixtures("loops")

Batch = tuple[Tensor, Tensor]


class Checkpointed(nn.Module):
    """Computes its first half again during backward, with the same dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(4, 16), nn.GELU(), nn.Dropout(0.3))
        self.second = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(checkpoint(self.first, x, use_reentrant=False))


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, 32), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(32, 32), nn.SiLU(), nn.Linear(32, 3)
    )


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Dropout2d(0.2), nn.Conv2d(8, 8, 3),
        nn.Hardswish(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip


class Transformer(nn.Module):
    """Token embeddings, two encoder layers with dropout, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.2, activation="gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.encoder(self.embedding(tokens)).mean(1))


SHAPES: dict[Callable[[], nn.Module], tuple[int, ...]] = {
    mlp: (4,), cnn: (1, 7, 7), TupleLSTM: (5, 4), Transformer: (6,), Checkpointed: (4,)
}  # fmt: skip


def samples(make: Callable[[], nn.Module]) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    data = []
    for _ in range(6):
        x = torch.randn(16, *SHAPES[make], generator=generator)
        data.append((x.mul(9).long() % 11 if make is Transformer else x, torch.randint(3, (16,), generator=generator)))
    return data


def plain(model: nn.Module, optimizer: Optimizer, batch: Batch) -> Tensor:
    optimizer.zero_grad()
    loss = F.cross_entropy(model(batch[0]), batch[1])
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss


def closure(model: nn.Module, optimizer: Optimizer, batch: Batch) -> Tensor:
    def evaluate() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        return loss

    return optimizer.step(evaluate)  # type: ignore[return-value, arg-type]


def scaled(model: nn.Module, optimizer: Optimizer, batch: Batch) -> Tensor:
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    optimizer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        loss = F.cross_entropy(model(batch[0]), batch[1])
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    return loss


def run(make: Callable[[], nn.Module], optimizer: Callable[[Any], Optimizer], step: Any, *, watch: bool) -> Any:
    """What is left of three epochs with an evaluation each: weights, buffers, gradients, optimizer, random states."""
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(0)
    model = make()
    own = optimizer(model.parameters())
    recorder = EpochRecorder(model, every=1) if watch else None
    losses, outputs = [], []
    if recorder is not None:
        recorder.start()
    for _ in range(3):
        model.train()
        for batch in samples(make):
            loss = step(model, own, batch)
            losses.append(loss.item())
            if recorder is not None:
                recorder.record_loss(loss)
        model.eval()
        with torch.no_grad():
            outputs.append(model(samples(make)[0][0]).clone())
        if recorder is not None:
            report = recorder.finish()
            assert report.signal
            assert report.updates
            assert report.output["backwards"] > 0
    if recorder is not None:
        recorder.stop()
    return {
        "model": model.state_dict(),
        "gradients": {name: p.grad for name, p in model.named_parameters()},
        "optimizer": copy.deepcopy(own.state_dict()),
        "losses": losses,
        "outputs": outputs,
        "random": (torch.get_rng_state(), random.getstate(), np.random.get_state()),
    }


@pytest.mark.few(12)
@pytest.mark.parametrize(
    ("optimizer", "step"),
    [
        (lambda p: SGD(p, lr=0.1, momentum=0.9), plain),
        (lambda p: AdamW(p, lr=0.01, weight_decay=0.1), plain),
        (lambda p: Adam(p, lr=0.01), scaled),
        (lambda p: LBFGS(p, lr=0.1, max_iter=3), closure),
    ],
    ids=["sgd", "adamw", "amp", "lbfgs"],
)
@pytest.mark.parametrize("make", SHAPES)
def test_watching_changes_nothing(make: Callable[[], nn.Module], optimizer: Any, step: Any) -> None:
    """Weights, buffers, gradients, optimizer state, losses, outputs and all random states are the same bits."""
    try:
        bare = run(make, optimizer, step, watch=False)
    except RuntimeError as error:  # not every processor has an LSTM in bfloat16
        pytest.skip(str(error)) if "primitive descriptor" in str(error) else pytest.fail(str(error))
    assert_identical(run(make, optimizer, step, watch=True), bare)


def test_the_comparison_compares() -> None:
    """Another bit anywhere is a difference."""
    one = {"a": [torch.zeros(2), (1.0, np.zeros(2))]}
    assert_identical(one, copy.deepcopy(one))
    for change in ({"a": [torch.ones(2), (1.0, np.zeros(2))]}, {"a": [torch.zeros(2), (1.0, np.ones(2))]}, {"a": []}):
        with pytest.raises(AssertionError):
            assert_identical(one, change)


def test_an_exception_in_the_step_is_the_users() -> None:
    """It comes out as it went in, and the training after it is the same."""

    def run_with(recorder: EpochRecorder | None, model: nn.Module) -> dict[str, Tensor]:
        optimizer = SGD(model.parameters(), lr=0.1)
        for number, (x, y) in enumerate(samples(mlp)):
            with pytest.raises(RuntimeError, match="mat1 and mat2") if number == 2 else torch.enable_grad():
                plain(model, optimizer, (x[:, :3] if number == 2 else x, y))
        if recorder is not None:
            report = recorder.finish(partial=True)
            assert report.signal["output"]["calls"] == 5
        return model.state_dict()

    torch.manual_seed(0)
    expected = run_with(None, mlp())
    torch.manual_seed(0)
    model = mlp()
    with EpochRecorder(model) as recorder:
        assert_identical(run_with(recorder, model), expected)
