"""Faults of the fresh part of the zoo that lie in gradients, units, weights and updates."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ExponentialLR

from ignite_act.data import Split
from zoo.base import Case
from zoo.fresh_models import (
    ConvNet,
    Cut,
    Functional,
    Recurrent,
    Transformer,
    changed,
    mlp,
    residual,
)
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

TOO_FAR = ("exploding", "nonfinite")


def weights(std: float, *names: str) -> partial[nn.Module]:
    """A change that draws parameters from a normal distribution."""
    return lambda model: changed(model, lambda p: nn.init.normal_(p, std=std), *names)


def deep_sigmoid_conv() -> nn.Module:
    """Eight convolutions with sigmoids."""
    convs = [nn.Conv2d(1 if i == 0 else 6, 6, 3, padding=1, stride=2 if i == 1 else 1) for i in range(8)]
    layers = [module for conv in convs for module in (conv, nn.Sigmoid())]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 4))


def holes(seed: int) -> Task:
    """A table in which a value is missing late in the training part."""

    def lose(x: Tensor) -> Tensor:
        x = x.clone()
        x[min(500, len(x) - 1), 3] = float("nan")
        return x

    task = table(seed)
    return Task(Split(lose(task.train.x), task.train.y), task.validation, task.loss_fn)


def constant_pixel_scaled(x: Tensor) -> Tensor:
    """Pixels over their deviation, of which some have none."""
    x = x.flatten(1)
    return (x - x.mean(0)) / x.std(0)


def blank(seed: int) -> Task:
    """Token sequences of which one holds nothing but padding."""
    return tokens(seed).inputs(lambda x: torch.cat([x[:200], torch.full_like(x[:1], 19), x[201:]]))


class Masked(nn.Module):
    """Attention over those places that are no padding, of which there may be none."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.score, self.head = nn.Embedding(20, 24), nn.Linear(24, 1), nn.Linear(24, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        scores = self.score(x).masked_fill(tokens[..., None] >= 14, -torch.inf)
        return self.head((scores.softmax(1) * x).sum(1))


def sleeping(model: nn.Module, name: str) -> nn.Module:
    """The model with a bias so low that its layer's units never answer."""
    return changed(model, lambda p: nn.init.constant_(p, -30.0), name)


def steep(x: Tensor) -> Tensor:
    """A hyperbolic tangent after a factor that is far too large."""
    return torch.tanh(60 * x)


def new_head(model: nn.Module) -> None:
    """A head that the optimizer has never heard of."""
    torch.manual_seed(1)
    model.head = nn.Linear(24, 4)


def shrunk(loss: Tensor, model: nn.Module) -> Tensor:
    """A loss with a penalty on the weights that outweighs it."""
    return loss + 3 * sum(p.square().sum() for p in model.parameters())


def hard(x: Tensor) -> Tensor:
    """Steps, which have no slope."""
    return (x > 0).float()


def by_numpy(x: Tensor) -> Tensor:
    """A rectifier that goes through an array."""
    return torch.from_numpy(x.detach().numpy()).clamp(min=0)


def sparse_update(iteration: int) -> bool:
    """Gradients are cleared once in an epoch only, of about twenty steps."""
    return iteration % 20 == 0


def never(iteration: int) -> bool:
    """Gradients are not cleared."""
    return False


GRADIENTS: tuple[Case, ...] = (
    case("vanishing_digits", "vanishing_gradient", lambda: mlp(64, *[32] * 8, 10, act=nn.Sigmoid), digits, sgd(0.1)),
    case(
        "vanishing_moons",
        "vanishing_gradient",
        lambda: mlp(2, *[16] * 9, 1, act=nn.Sigmoid),
        moons,
        sgd(0.1, momentum=0.9),
    ),
    case("vanishing_conv", "vanishing_gradient", deep_sigmoid_conv, images, sgd(0.05, momentum=0.9), epochs=4),
    case(
        "exploding_deep",
        "exploding",
        lambda: weights(0.6, "weight")(mlp(64, *[64] * 9, 10)),
        digits,
        sgd(0.01),
        accepted=("nonfinite", "initial_loss"),
    ),
    case(
        "exploding_recurrent",
        "exploding",
        lambda: weights(0.7, "hh_l0")(Recurrent(partial(nn.RNN, nonlinearity="relu"))),
        tokens,
        sgd(0.05),
        accepted=("nonfinite", "initial_loss"),
        layers=("cell",),
    ),
    case(
        "exploding_momentum",
        "exploding",
        lambda: mlp(8, 64, 64, 1, act=nn.LeakyReLU),
        table,
        sgd(1.0, momentum=0.9),
        output=as_tuple,
        accepted=("nonfinite", "update_too_large"),
    ),
    case("nonfinite_table", "nonfinite", lambda: mlp(8, 32, 1), holes, adam()),
    case(
        "nonfinite_scaled",
        "nonfinite",
        lambda: mlp(64, 32, 10),
        lambda seed: digits().inputs(constant_pixel_scaled),
        adam(),
    ),
    case("nonfinite_mask", "nonfinite", Masked, blank, adam(), output=as_dict),
    case(
        "no_gradient_detach",
        "no_gradient",
        lambda: Cut(mlp(64, 48, 32), nn.Sequential(nn.ReLU(), nn.Linear(32, 10))),
        digits,
        adam(),
        layers=("body", "body.1", "body.3"),
    ),
    case(
        "no_gradient_steps",
        "no_gradient",
        lambda: Cut(mlp(2, 32, 32), mlp(32, 16, 1, flat=False), hard),
        moons,
        adam(3e-3),
        layers=("body", "body.1", "body.3"),
    ),
    case(
        "no_gradient_numpy",
        "no_gradient",
        lambda: Cut(nn.Sequential(nn.Flatten(), nn.Linear(10, 48)), nn.Linear(48, 6), by_numpy),
        blobs,
        sgd(0.05),
        layers=("body", "body.1"),
    ),
    case("uncleared_digits", "uncleared_gradient", lambda: mlp(64, 48, 10), digits, sgd(0.01), clear=never),
    case("uncleared_transformer", "uncleared_gradient", Transformer, tokens, adamw(), clear=never, epochs=6),
    case("uncleared_conv", "uncleared_gradient", ConvNet, images, sgd(0.01), clear=sparse_update, epochs=4),
)

UNITS: tuple[Case, ...] = (
    case("dead_bias", "dead_units", lambda: sleeping(mlp(64, 64, 32, 10), "1.bias"), digits, adam(), layers=("1", "2")),
    case(
        "dead_functional",
        "dead_units",
        lambda: sleeping(Functional(10, 32, 6), "hidden.bias"),
        blobs,
        sgd(0.05),
        layers=("hidden", "relu#2"),
    ),
    case(
        "dead_conv",
        "dead_units",
        lambda: sleeping(ConvNet(norm=False), "features.1.0.bias"),
        images,
        adam(),
        layers=("features.1.0", "features.1.1", "features.1"),
    ),
    case(
        "saturated_init",
        "saturated_units",
        lambda: weights(2.0, "1.weight", "3.weight")(mlp(64, 48, 48, 10, act=nn.Tanh)),
        digits,
        sgd(0.01),
        layers=("1", "2", "3", "4"),
    ),
    case(
        "saturated_steep",
        "saturated_units",
        lambda: Functional(10, 32, 6, steep),
        blobs,
        adam(),
        layers=("enter", "hidden", "tanh", "tanh#2"),
    ),
    case(
        "saturated_sigmoid",
        "saturated_units",
        lambda: weights(15.0, "1.weight", "3.weight")(mlp(2, 24, 24, 1, act=nn.Sigmoid)),
        circles,
        adam(),
        layers=("1", "2", "3", "4"),
    ),
    case(
        "symmetry_digits",
        "symmetry",
        lambda: changed(mlp(64, 32, 10), lambda p: nn.init.constant_(p, 0.02), "weight", "bias"),
        digits,
        adam(),
        layers=("1", "3"),
    ),
    case(
        "symmetry_conv",
        "symmetry",
        lambda: changed(ConvNet(), lambda p: nn.init.constant_(p, 0.1), "0.weight", "0.bias"),
        images,
        sgd(0.05),
        layers=("features.0.0", "features.1.0", "features.2.0"),
    ),
    case(
        "symmetry_circles",
        "symmetry",
        lambda: changed(mlp(2, 32, 32, 1, act=nn.Tanh), lambda p: nn.init.constant_(p, 0.05), "weight", "bias"),
        circles,
        adam(3e-3),
        layers=("1", "3"),
    ),
    case(
        "hidden_softmax_mlp",
        "hidden_softmax",
        lambda: mlp(64, 64, 64, 10, act=lambda: nn.Softmax(1)),
        digits,
        adam(),
        layers=("2", "4"),
    ),
    case(
        "hidden_softmax_function",
        "hidden_softmax",
        lambda: Functional(10, 32, 6, partial(torch.softmax, dim=1)),
        blobs,
        adam(),
        layers=("softmax", "softmax#2"),
    ),
    case("linear_circles", "no_nonlinearity", lambda: mlp(2, 32, 32, 1, act=nn.Identity), circles, adam(), epochs=6),
    case("linear_digits", "no_nonlinearity", lambda: mlp(64, 64, 32, 10, act=lambda: nn.Dropout(0.1)), digits, adam()),
)

UPDATES: tuple[Case, ...] = (
    case("collapse_sgd", "weight_collapse", lambda: mlp(64, 48, 10), digits, sgd(0.1, weight_decay=1.0)),
    case("collapse_adamw", "weight_collapse", lambda: ConvNet(norm=False), images, adamw(1e-3, weight_decay=100.0)),
    case("collapse_penalty", "weight_collapse", lambda: mlp(10, 32, 32, 6), blobs, adam(3e-3), objective=shrunk),
    case("tiny_sgd", "update_too_small", lambda: mlp(64, 48, 10), digits, sgd(1e-6)),
    case("tiny_adam", "update_too_small", Transformer, tokens, adam(1e-8)),
    case(
        "tiny_schedule",
        "update_too_small",
        ConvNet,
        images,
        sgd(0.05),
        output=as_dict,
        schedule=lambda optimizer: ExponentialLR(optimizer, 0.1),
    ),
    case("huge_adam", "update_too_large", lambda: residual(64, 10), digits, adam(1.0), accepted=TOO_FAR),
    case("huge_norm", "update_too_large", ConvNet, images, sgd(30.0), epochs=4, accepted=TOO_FAR),
    case(
        "huge_rmsprop",
        "update_too_large",
        lambda: mlp(10, 32, 6, act=nn.LeakyReLU),
        blobs,
        rmsprop(1.0),
        accepted=TOO_FAR,
    ),
    case(
        "left_out_body",
        "never_updated",
        lambda: residual(64, 10),
        digits,
        adam(3e-3),
        parameters=lambda model: model[-1].parameters(),
        layers=("1", *(f"{block}.{part}" for block in range(2, 6) for part in ("up", "down", "norm")), "6"),
    ),
    case("left_out_new_head", "never_updated", ConvNet, images, adam(), after=new_head, layers=("head",)),
    case(
        "left_out_embedding",
        "never_updated",
        Recurrent,
        tokens,
        adam(3e-3),
        layers=("embed",),
        parameters=lambda model: [p for name, p in model.named_parameters() if "embed" not in name],
    ),
)

CASES: tuple[Case, ...] = (*GRADIENTS, *UNITS, *UPDATES)
