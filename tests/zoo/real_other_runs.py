"""Trainings of the real part of the zoo on tables, sets, graphs and ratings; arguments left alone are mistakes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, RMSprop
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, OneCycleLR

from zoo.base import Run
from zoo.real_base import Shuffled, fit, mean_over
from zoo.real_other_models import DeepSets, GraphNet, Molecules, PointNet, Ratings, Table, mlp
from zoo.real_other_tasks import averaged, baskets, clients, community, houses, molecules, ratings, shapes
from zoo.real_text_models import Experts
from zoo.real_text_tasks import generator


def squares(model: nn.Module, batch: Any) -> Tensor:
    """Mean squared error, of what the model says about all of a batch but its last part."""
    *inputs, y = batch
    return F.mse_loss(model(*inputs), y)


def graph_nodes(seed: int, depth: int = 2) -> Run:
    """A graph net on one graph, of which a quarter of the nodes have labels; ``depth`` is the number of layers."""
    x, links, y = community(seed)
    adjacency = averaged(links)
    known = torch.randperm(len(y), generator=generator(seed)) < len(y) // 4

    def loss_of(model: nn.Module, batch: Any) -> Tensor:
        nodes, labels, mask = batch
        return F.cross_entropy(model(nodes, adjacency)[mask], labels[mask])

    def accuracy_of(model: nn.Module, batch: Any) -> Tensor:
        nodes, labels, mask = batch
        return (model(nodes, adjacency).argmax(1) == labels)[mask].float().mean()

    model = GraphNet(16, 32, 4, depth)
    optimizer = Adam(model.parameters(), 1e-2, weight_decay=5e-4)
    training, validation = [(x, y, known)] * 15, [(x, y, ~known)]
    return fit(model, optimizer, loss_of, training, validation=validation, accuracy_of=accuracy_of)


def graph_values(seed: int, hidden: bool = False) -> Run:
    """A net of messages that guesses a value of small graphs."""
    model = Molecules(hidden=hidden)
    optimizer = Adam(model.parameters(), 5e-3)
    return fit(
        model,
        optimizer,
        squares,
        Shuffled(*molecules(seed), size=16, seed=seed),
        validation=Shuffled(*molecules(seed + 50, 256), size=64, seed=0, shuffle=False),
        schedule=OneCycleLR(optimizer, 1e-2, total_steps=200),
        clip=1.0,
    )


def recommender(
    seed: int,
    squeezed: bool = False,
    decay: float = 1e-4,
    constant: float | None = None,
    only: str = "",
) -> Run:
    """Vectors of users and items that guess ratings.

    Args:
        seed: of everything.
        squeezed: whether the ratings lose their second axis, and the outputs do not.
        decay: of the weights, inside Adam.
        constant: the value of all vectors at first.
        only: the part whose parameters the optimizer gets, if not all.
    """
    model = Ratings(60, 50, constant=constant)

    def loss_of(model: nn.Module, batch: Any) -> Tensor:
        user, item, y = batch
        return (model(user[:, 0], item[:, 0]) - (y[:, 0] if squeezed else y)).square().mean()

    def error(model: nn.Module, batch: Any) -> Tensor:
        user, item, y = batch
        return F.mse_loss(model(user[:, 0], item[:, 0]), y)

    kept = Shuffled(*ratings(seed + 50, 512), size=64, seed=0, shuffle=False)
    return fit(
        model,
        Adam((model.get_submodule(only) if only else model).parameters(), 0.02, weight_decay=decay),
        loss_of,
        Shuffled(*ratings(seed, 2400), size=64, seed=seed),
        validation=kept,
        score=lambda: -mean_over(model, error, kept),
    )


def ranked(seed: int, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Users, an item each that they like, and one that they like less."""
    user, first, _ = ratings(seed, n)
    second = torch.randint(50, (n, 1), generator=generator(seed + 1))
    fixed = generator(11)
    tastes, traits = 0.8 * torch.randn(60, 4, generator=fixed), 0.8 * torch.randn(50, 4, generator=fixed)
    swap = (tastes[user] * traits[first]).sum(-1) < (tastes[user] * traits[second]).sum(-1)
    return user[:, 0], torch.where(swap, second, first)[:, 0], torch.where(swap, first, second)[:, 0]


def recommender_ranks(seed: int, ascends: bool = False, rate: float = 0.5) -> Run:
    """Vectors that put the liked item before the other, trained for one epoch by SGD; ``ascends`` is its direction."""
    model = Ratings(60, 50)

    def ahead(model: nn.Module, batch: Any) -> Tensor:
        user, liked, other = batch
        return model(user, liked) - model(user, other)

    def loss_of(model: nn.Module, batch: Any) -> Tensor:
        return -F.logsigmoid(ahead(model, batch)).mean()

    def accuracy_of(model: nn.Module, batch: Any) -> Tensor:
        return (ahead(model, batch) > 0).float().mean()

    return fit(
        model,
        SGD(model.parameters(), rate, momentum=0.9, maximize=ascends),
        loss_of,
        Shuffled(*ranked(seed, 9600), size=32, seed=seed),
        validation=Shuffled(*ranked(seed + 50, 512), size=64, seed=0, shuffle=False),
        accuracy_of=accuracy_of,
    )


def point_clouds(seed: int, axes: tuple[int, ...] = (1,), factor: float = 1.0) -> Run:
    """A net of point clouds with batch norm, whose clouds are jittered in training.

    Args:
        seed: of everything.
        axes: over which the largest features are taken.
        factor: of the coordinates in training.
    """
    model = PointNet(4, axes=axes)
    random = generator(seed)

    def loss_of(model: nn.Module, batch: Any) -> Tensor:
        x, y = batch
        if model.training:
            x = factor * (x + 0.03 * torch.randn(x.shape, generator=random))
        return F.cross_entropy(model(x), y, label_smoothing=0.1)

    def accuracy_of(model: nn.Module, batch: Any) -> Tensor:
        return (model(batch[0]).argmax(1) == batch[1]).float().mean()

    optimizer = AdamW(model.parameters(), 2e-3)
    return fit(
        model,
        optimizer,
        loss_of,
        Shuffled(*shapes(seed), size=16, seed=seed),
        validation=Shuffled(*shapes(seed + 50, 256), size=64, seed=0, shuffle=False),
        accuracy_of=accuracy_of,
        schedule=CosineAnnealingWarmRestarts(optimizer, 60),
    )


def started(model: nn.Module, start: Callable[[Tensor], object] | None) -> nn.Module:
    """The model with other initial matrices."""
    for parameter in model.parameters():
        if start is not None and parameter.dim() == 2:
            start(parameter.detach())
    return model


def deep_sets(
    seed: int,
    rate: float = 3e-3,
    act: Callable[[], nn.Module] = nn.ReLU,
    shift: float = 0.0,
    start: Callable[[Tensor], object] | None = None,
) -> Run:
    """A net of sets that guesses a sum over the members; ``shift`` is added to what is read."""
    model = started(DeepSets(4, act=act), start)
    members, there, y = baskets(seed)
    others = baskets(seed + 50, 256)
    return fit(
        model,
        RMSprop(model.parameters(), rate),
        squares,
        Shuffled(members + shift, there, y, size=32, seed=seed),
        validation=Shuffled(others[0] + shift, *others[1:], size=64, seed=0, shuffle=False),
    )


def churn(
    seed: int,
    squashed: bool = False,
    sorted_once: bool = False,
    dropout: float = 0.1,
    one_class: bool = False,
) -> Run:
    """A net of numbers and categories for a rare outcome, which counts more.

    Args:
        seed: of everything.
        squashed: whether a sigmoid comes before the loss of logits.
        sorted_once: whether the rows are sorted by outcome and not shuffled.
        dropout: of the net.
        one_class: whether a wrong comparison makes all labels the same.
    """
    numbers, categories, y = clients(seed)
    if sorted_once:
        order = y[:, 0].argsort()
        numbers, categories, y = numbers[order], categories[order], y[order]
    if one_class:
        y = (y >= 0).float()
    model = Table(6, (8, 5), dropout=dropout, last=nn.Sigmoid if squashed else nn.Identity)
    positive = torch.tensor([7.0])

    def loss_of(model: nn.Module, batch: Any) -> Tensor:
        return F.binary_cross_entropy_with_logits(model(*batch[:2]), batch[2], pos_weight=positive)

    def accuracy_of(model: nn.Module, batch: Any) -> Tensor:
        return ((model(*batch[:2]) > 0) == (batch[2] == 1)).float().mean()

    kept = clients(seed + 50, 1024)

    @torch.no_grad()
    def balanced() -> float:
        model.eval()
        found = (model(*kept[:2]) > 0)[:, 0]
        rare = kept[2][:, 0] == 1
        return (found[rare].float().mean().item() + (~found)[~rare].float().mean().item()) / 2

    return fit(
        model,
        AdamW(model.parameters(), 3e-3),
        loss_of,
        Shuffled(numbers, categories, y, size=32, seed=seed, shuffle=not sorted_once),
        validation=Shuffled(*kept, size=64, seed=0, shuffle=False),
        accuracy_of=accuracy_of,
        score=balanced,
    )


def prices(
    seed: int,
    unit: float = 1.0,
    last: Callable[[], nn.Module] = nn.Identity,
    rows: int = 768,
    size: int = 32,
    normed: bool = False,
) -> Run:
    """A net of numbers and categories for a price.

    Args:
        seed: of everything.
        unit: what the prices are multiplied by.
        last: behind the output.
        rows: number of houses.
        size: of a batch.
        normed: whether the numbers, of which one is always the same, are divided by their deviations.
    """
    model = Table(5, (6, 4), last=last)
    kept = Shuffled(*houses(seed + 50, 256), size=64, seed=0, shuffle=False)

    def loss_of(model: nn.Module, batch: Any) -> Tensor:
        numbers = batch[0]
        if normed:
            numbers = torch.cat([numbers[:, :-1], torch.ones(len(numbers), 1)], 1)
            numbers = (numbers - numbers.mean(0)) / numbers.std(0)
        return F.smooth_l1_loss(model(numbers, batch[1]), batch[2] * unit)

    def error(model: nn.Module, batch: Any) -> Tensor:
        return F.smooth_l1_loss(model(*batch[:2]) / unit, batch[2])

    return fit(
        model,
        AdamW(model.parameters(), 3e-3),
        loss_of,
        Shuffled(*houses(seed, rows), size=size, seed=seed),
        validation=kept,
        score=lambda: -mean_over(model, error, kept),
    )


def product(
    seed: int,
    rate: float = 0.15,
    act: Callable[[], nn.Module] = nn.Tanh,
    start: Callable[[Tensor], object] | None = None,
) -> Run:
    """Plain SGD on the sign of a product of two numbers, where nothing happens for long; ``start`` is the weights'."""
    model = started(mlp(6, 40, 40, 40, 2, act=act), start)

    def task(seed: int, n: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(n, 6, generator=generator(seed))
        return x, (x[:, 0] * x[:, 1] > 0).long()

    def loss_of(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    def accuracy_of(model: nn.Module, batch: Any) -> Tensor:
        return (model(batch[0]).argmax(1) == batch[1]).float().mean()

    return fit(
        model,
        SGD(model.parameters(), rate),
        loss_of,
        Shuffled(*task(seed, 2048), size=16, seed=seed),
        validation=Shuffled(*task(seed + 50, 512), size=64, seed=0, shuffle=False),
        accuracy_of=accuracy_of,
    )


class Specialists(nn.Module):
    """A mixture of experts for rows of numbers."""

    def __init__(self, bias: float = 0.0) -> None:
        super().__init__()
        self.enter, self.act = nn.Linear(6, 24), nn.Tanh()
        self.mixture, self.head = Experts(24, bias=bias), nn.Linear(24, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mixture(self.act(self.enter(x))[:, None]))[:, 0]


def specialists(seed: int, bias: float = 0.0) -> Run:
    """Experts for a value that follows another rule in each quarter; ``bias`` is the router's for the first one."""
    model = Specialists(bias)
    rules = torch.randn(4, 6, generator=generator(41))

    def task(seed: int, n: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(n, 6, generator=generator(seed))
        quarter = 2 * (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
        return x, (rules[quarter] * x).sum(1, keepdim=True) / 2

    def loss_of(model: nn.Module, batch: Any) -> Tensor:
        assert isinstance(model, Specialists)
        return squares(model, batch) + 0.05 * model.mixture.balance

    kept = Shuffled(*task(seed + 50, 512), size=64, seed=0, shuffle=False)
    return fit(
        model,
        AdamW(model.parameters(), 5e-3),
        loss_of,
        Shuffled(*task(seed, 1280), size=32, seed=seed),
        validation=kept,
        score=lambda: -mean_over(model, squares, kept),
    )
