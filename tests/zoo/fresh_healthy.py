"""Healthy runs of the fresh part of the zoo, many of which look odd somewhere."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR

from ignite_act.data import Split
from zoo.base import HEALTHY, Case
from zoo.fresh_models import ConvNet, Functional, Recurrent, Through, Transformer, changed, frozen, mlp, residual
from zoo.fresh_tasks import (
    Task,
    adam,
    adamw,
    as_dict,
    as_tuple,
    blobs,
    case,
    circles,
    digits,
    images,
    moons,
    rmsprop,
    sgd,
    table,
    tokens,
)


def rare(seed: int) -> Task:
    """Moons of which one is eight times as frequent as the other."""
    task = moons(seed)
    keep = (task.train.y[:, 0] == 0) | (torch.arange(len(task.train)) % 8 == 0)
    return Task(Split(task.train.x[keep], task.train.y[keep]), task.validation, task.loss_fn)


def mislabelled(seed: int) -> Task:
    """Digits of which a fifth of the labels is drawn again."""
    random = torch.Generator().manual_seed(seed)

    def draw(y: Tensor) -> Tensor:
        again = torch.rand(len(y), generator=random) < 0.2
        return torch.where(again, torch.randint(10, y.shape, generator=random), y)

    return digits().targets(draw)


def itself(seed: int) -> Task:
    """Digits that are to be drawn again."""
    x = digits().train.x[:800].flatten(1)
    return Task(Split(x, x), Split(x[:200], x[:200]), F.mse_loss)


def warm_up(optimizer: torch.optim.Optimizer) -> LambdaLR:
    """The learning rate rises over thirty steps."""
    return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 30))


def quiet_branches() -> nn.Module:
    """A residual net whose branches and head begin at zero."""
    return changed(residual(64, 10), nn.init.zeros_, "down.weight", "down.bias", "7.weight", "7.bias")


CASES: tuple[Case, ...] = (
    case("digits_sgd", HEALTHY, lambda: mlp(64, 64, 32, 10), digits, sgd(0.1), epochs=6),
    case("digits_slow", HEALTHY, lambda: Functional(64, 48, 10), digits, sgd(0.01, momentum=0.5), epochs=8),
    case("digits_sigmoid", HEALTHY, lambda: mlp(64, 48, 10, act=nn.Sigmoid), digits, adam(3e-3), output=as_dict),
    case(
        "digits_dropout",
        HEALTHY,
        lambda: mlp(64, 128, 64, 10, between=[lambda: nn.Dropout(0.5)]),
        digits,
        adam(),
        epochs=8,
    ),
    case("digits_zero_branches", HEALTHY, quiet_branches, digits, adamw(), output=as_tuple),
    case("digits_mislabelled", HEALTHY, lambda: mlp(64, 32, 10), mislabelled, adam(), epochs=6),
    case("images_conv", HEALTHY, ConvNet, images, adam(3e-3), epochs=6, output=as_dict),
    case("images_frozen_stem", HEALTHY, lambda: frozen(ConvNet(width=16), "features.0"), images, adam(5e-3), epochs=8),
    case(
        "images_zero_head",
        HEALTHY,
        lambda: changed(ConvNet(), nn.init.zeros_, "head.weight", "head.bias"),
        images,
        sgd(0.05, momentum=0.9, weight_decay=5e-4),
        epochs=6,
        schedule=lambda o: CosineAnnealingLR(o, 120),
    ),
    case(
        "tokens_warm_up",
        HEALTHY,
        lambda: Transformer(vocabulary=60),
        tokens,
        adamw(3e-3),
        epochs=6,
        schedule=warm_up,
        clip=1.0,
    ),
    case("tokens_gru", HEALTHY, Recurrent, tokens, adam(5e-3), epochs=10, clip=1.0, output=torch.Tensor.detach),
    case(
        "blobs_small",
        HEALTHY,
        lambda: mlp(10, 32, 6),
        lambda seed: blobs(seed).first(96),
        adam(3e-3),
        epochs=12,
        batch=16,
    ),
    case(
        "blobs_log_softmax",
        HEALTHY,
        lambda: nn.Sequential(*mlp(10, 32, 6), nn.LogSoftmax(1)),
        blobs,
        rmsprop(3e-3),
        loss_fn=F.nll_loss,
    ),
    case(
        "blobs_accumulated",
        HEALTHY,
        lambda: mlp(10, 32, 32, 6, act=nn.GELU),
        blobs,
        sgd(0.2),
        batch=16,
        every=4,
        epochs=8,
    ),
    case("circles_tanh", HEALTHY, lambda: mlp(2, 24, 24, 1, act=nn.Tanh), circles, adam(5e-3), epochs=10),
    case("moons_rare", HEALTHY, lambda: mlp(2, 32, 32, 1), rare, adam(1e-2), epochs=12, batch=16),
    case("moons_leaky", HEALTHY, lambda: Functional(2, 24, 1, F.leaky_relu), moons, sgd(0.1, momentum=0.9), batch=64),
    case("table", HEALTHY, lambda: mlp(8, 48, 48, 1), table, adam(3e-3), epochs=8, validate=False, output=as_tuple),
    case(
        "table_norm",
        HEALTHY,
        lambda: mlp(8, 32, 32, 1, between=[lambda: nn.BatchNorm1d(32)]),
        table,
        sgd(0.02, momentum=0.9),
        epochs=8,
    ),
    case(
        "digits_drawn_again",
        HEALTHY,
        lambda: nn.Sequential(*mlp(64, 48, 16, 48, 64), Through(torch.tanh)),
        itself,
        adam(3e-3),
        epochs=8,
        validate=False,
    ),
)
