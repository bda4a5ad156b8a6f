"""Faults of the fresh part of the zoo that lie in outputs, data and the course of training."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.base import Case
from zoo.fresh_models import ConvNet, Functional, Through, Transformer, changed, mlp, residual
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
    halves,
    images,
    moons,
    rmsprop,
    sgd,
    table,
    tokens,
)


def then(model: nn.Module, *modules: nn.Module) -> nn.Module:
    """The model with modules behind it."""
    return nn.Sequential(*(model if isinstance(model, nn.Sequential) else [model]), *modules)


def opposite(loss: Tensor, model: nn.Module) -> Tensor:
    """A loss whose sign is wrong."""
    return -loss


def shuffled(task: Task, seed: int) -> Task:
    """The task with training targets that belong to other samples."""
    random = torch.Generator().manual_seed(seed)
    return task.targets(lambda y: y[torch.randperm(len(y), generator=random)], validation=False)


def dealt(task: Task, seed: int) -> Task:
    """The task with training targets out of four that are handed out evenly, whatever the true ones."""
    random = torch.Generator().manual_seed(seed)

    def deal(y: Tensor) -> Tensor:
        order = (y + torch.rand(len(y), generator=random)).argsort()
        return torch.empty_like(y).scatter(0, order, torch.arange(len(y)) % 4)

    return task.targets(deal, validation=False)


def few_and_wrong(seed: int) -> Task:
    """Few digits, of which six in ten have another label."""
    random = torch.Generator().manual_seed(seed)
    task = digits().first(150)
    wrong = torch.rand(150, generator=random) < 0.6
    return task.targets(lambda y: torch.where(wrong, torch.randint(10, y.shape, generator=random), y), validation=False)


def wide_table(seed: int) -> Task:
    """A table of sixty columns and seventy rows, of which two columns matter."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(370, 60, generator=random)
    y = x[:, :1] - 0.5 * x[:, 1:2] + 2 * torch.randn(370, 1, generator=random)
    return halves(x, y, F.mse_loss, 0.19)


def noisy_blobs(seed: int) -> Task:
    """A hundred samples of blobs that lie far into each other."""
    random = torch.Generator().manual_seed(seed)
    return blobs(seed).first(100).inputs(lambda x: x + 2 * torch.randn(x.shape, generator=random))


def incomes(seed: int) -> Task:
    """A table of which two columns are sums of money."""
    return table(seed).inputs(
        lambda x: x * torch.tensor([2e4, 1, 1, 1, 1, 5e3, 1, 1]) + 3e4 * (torch.arange(8) % 5 == 0)
    )


def parity(seed: int) -> Task:
    """The parity of twenty-four bits, out of some of its cases."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randint(2, (1800, 24), generator=random) * 2.0 - 1
    y = (x.prod(1, keepdim=True) > 0).float()
    return halves(x, y, F.binary_cross_entropy_with_logits)


def unrelated(seed: int) -> Task:
    """A number that has nothing to do with the table."""
    random = torch.Generator().manual_seed(seed)
    return table(seed).targets(lambda y: torch.randn(y.shape, generator=random))


def contradicted(seed: int) -> Task:
    """Moons whose second file was labelled the other way round, read one file after the other."""
    return moons(seed).targets(lambda y: torch.cat([y[:320], 1 - y[320:]]), validation=False)


def noise(x: Tensor) -> Tensor:
    """Augmentation that leaves little of the picture."""
    return x + 4 * torch.randn_like(x)


class Augmented(nn.Module):
    """A model whose inputs are drowned in noise while it is trained."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(noise(x) if self.training else x)


def drop(p: float) -> partial[nn.Module]:
    """Dropout, yet to be made."""
    return partial(nn.Dropout, p)


def far_bias(model: nn.Module) -> nn.Module:
    """A head that is sure of its first class from the start."""

    def set_bias(bias: Tensor) -> None:
        bias.zero_()[0] = 40

    return changed(model, set_bias, "head.bias")


def over_batch(x: Tensor) -> Tensor:
    """A mean over the samples, where that over the places was meant."""
    return x.mean((0, 1), keepdim=True)[0].expand(len(x), -1)


def fiftyfold(parameter: Tensor) -> Tensor:
    """Weights that are fifty times as large."""
    return parameter.mul_(50)


OUTPUTS: tuple[Case, ...] = (
    case(
        "softmax_conv", "output_probabilities", lambda: then(ConvNet(), nn.Softmax(1)), images, adam(), output=as_dict
    ),
    case("softmax_digits", "output_probabilities", lambda: then(mlp(64, 64, 10), nn.Softmax(1)), digits, sgd(0.1)),
    case(
        "softmax_tokens",
        "output_probabilities",
        lambda: then(Transformer(), Through(partial(torch.softmax, dim=-1))),
        tokens,
        adam(),
    ),
    case("relu_digits", "output_activation", lambda: then(mlp(64, 64, 10), nn.ReLU()), digits, adam()),
    case("relu_conv", "output_activation", lambda: ConvNet(10, last=True), digits, sgd(0.1)),
    case(
        "softplus_circles",
        "output_activation",
        lambda: then(mlp(2, 32, 32, 1), Through(F.softplus)),
        circles,
        adam(3e-3),
        epochs=8,
    ),
    case(
        "softmax_of_one",
        "constant_output",
        lambda: then(mlp(2, 32, 1), nn.Softmax(1)),
        moons,
        adam(),
        loss_fn=F.binary_cross_entropy,
    ),
    case("mean_over_batch", "constant_output", lambda: Transformer(pool=over_batch), tokens, adamw()),
    case(
        "zeroed_features",
        "constant_output",
        lambda: then(mlp(10, 32, 32), Through(lambda x: 0 * x), nn.Linear(32, 6)),
        blobs,
        sgd(0.05),
        accepted=("no_gradient",),
    ),
)

DATA: tuple[Case, ...] = (
    case(
        "raw_pixels",
        "input_scale",
        lambda: mlp(64, 48, 10),
        lambda seed: digits().inputs(lambda x: 127.5 * (x + 1)),
        adam(),
    ),
    case(
        "raw_images",
        "input_scale",
        lambda: ConvNet(norm=False),
        lambda seed: images(seed).inputs(lambda x: 100 * x + 128),
        rmsprop(),
    ),
    case("incomes", "input_scale", lambda: mlp(8, 32, 32, 1), incomes, adam()),
    case(
        "large_head",
        "initial_loss",
        lambda: changed(mlp(64, 48, 10), fiftyfold, "3.weight"),
        digits,
        adam(),
        layers=("3",),
    ),
    case("sure_head", "initial_loss", lambda: far_bias(ConvNet()), images, sgd(0.01), layers=("head",)),
    case(
        "large_targets",
        "initial_loss",
        lambda: mlp(8, 32, 1),
        lambda seed: table(seed).targets(lambda y: y + 100),
        adam(),
    ),
    case(
        "shuffled_digits",
        "labels_mismatch",
        lambda: mlp(64, 64, 10),
        lambda seed: shuffled(digits(), seed),
        adam(),
        epochs=6,
    ),
    case(
        "dealt_conv",
        "labels_mismatch",
        ConvNet,
        lambda seed: dealt(images(seed), seed),
        sgd(0.05, momentum=0.9),
        epochs=5,
    ),
    case("dealt_tokens", "labels_mismatch", Transformer, lambda seed: dealt(tokens(seed), seed), adamw(2e-3), epochs=5),
    case("parity", "plateau", lambda: mlp(24, 32, 1), parity, sgd(0.05), epochs=6, accepted=("labels_mismatch",)),
    case("unrelated", "plateau", lambda: mlp(8, 16, 1), unrelated, sgd(0.02), epochs=6, accepted=("labels_mismatch",)),
)

COURSE: tuple[Case, ...] = (
    case("sign_digits", "loss_rising", lambda: mlp(64, 48, 10), digits, sgd(0.01), objective=opposite, clip=0.5),
    case("sign_conv", "loss_rising", ConvNet, images, sgd(0.003), objective=opposite, output=as_tuple),
    case(
        "maximised_table", "loss_rising", lambda: mlp(8, 32, 1, act=nn.Tanh), table, sgd(0.003, maximize=True), clip=1.0
    ),
    case("overfit_digits", "overfitting", lambda: mlp(64, 256, 256, 10), few_and_wrong, adam(2e-3), epochs=30),
    case("overfit_table", "overfitting", lambda: mlp(60, 128, 128, 1), wide_table, adam(), epochs=40, batch=16),
    case(
        "overfit_blobs", "overfitting", lambda: Functional(10, 256, 6), noisy_blobs, adam(), epochs=40, output=as_dict
    ),
    case(
        "dropout_digits",
        "over_regularised",
        lambda: mlp(64, 64, 64, 10, between=[drop(0.8)]),
        digits,
        adam(3e-3),
        epochs=12,
    ),
    case(
        "dropout_conv",
        "over_regularised",
        lambda: then(ConvNet(32), nn.Dropout(0.95), nn.Linear(32, 4)),
        images,
        adam(),
        epochs=6,
    ),
    case("augmented", "over_regularised", lambda: Augmented(residual(64, 10)), digits, adam(), epochs=6),
    case(
        "contradicted",
        "oscillation",
        lambda: mlp(2, 32, 1, act=nn.Tanh),
        contradicted,
        sgd(0.1, momentum=0.9),
        shuffle=False,
        batch=16,
        epochs=8,
        accepted=("labels_mismatch",),
    ),
    case(
        "too_much_momentum",
        "oscillation",
        lambda: mlp(10, 32, 6, act=nn.Tanh),
        blobs,
        sgd(0.5, momentum=0.98),
        epochs=8,
        accepted=("update_too_large",),
    ),
)

CASES: tuple[Case, ...] = (*OUTPUTS, *DATA, *COURSE)
