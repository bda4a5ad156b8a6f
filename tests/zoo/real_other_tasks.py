"""What there is to learn in the real part of the zoo beside images and tokens: points, graphs, ratings, tables."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from zoo.real_text_tasks import generator


def vectors(seed: int, n: int = 768) -> Tensor:
    """Curves of sixteen values that three hidden numbers decide, with a little noise."""
    random = generator(seed)
    height, phase, slope = torch.randn(3, n, 1, generator=random)
    t = torch.linspace(-1, 1, 16)
    return height * (3 * t + phase).sin() + slope * t + 0.1 * torch.randn(n, 16, generator=random)


def ring(seed: int, n: int = 1024, spots: int = 6) -> Tensor:
    """Points in spots on a circle."""
    random = generator(seed)
    angle = torch.randint(spots, (n,), generator=random) * (2 * math.pi / spots)
    return torch.stack([angle.cos(), angle.sin()], 1) + 0.08 * torch.randn(n, 2, generator=random)


def arcs(seed: int, n: int = 1024) -> Tensor:
    """Points on two arcs that reach into each other."""
    random = generator(seed)
    angle = math.pi * torch.rand(n, generator=random)
    x = torch.stack([angle.cos(), angle.sin()], 1)
    second = torch.rand(n, generator=random) < 0.5
    x[second] = torch.tensor([1.0, 0.5]) - x[second]
    return (x - torch.tensor([0.5, 0.25])) * 1.2 + 0.06 * torch.randn(n, 2, generator=random)


def community(seed: int, n: int = 240, classes: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """A graph whose nodes have more links inside their class: features, adjacency with loops, classes."""
    random = generator(seed)
    y = torch.arange(n) % classes
    chance = torch.where(y[:, None] == y[None], 0.12, 0.012)
    links = (torch.rand(n, n, generator=random) < chance).float().triu(1)
    links = links + links.T + torch.eye(n)
    centres = torch.randn(classes, 16, generator=generator(5))
    x = centres[y] * 0.5 + torch.randn(n, 16, generator=random)
    return x, links, y


def averaged(adjacency: Tensor) -> Tensor:
    """An adjacency whose entries are divided by the roots of both degrees."""
    root = adjacency.sum(-1).rsqrt()
    return root[..., :, None] * adjacency * root[..., None, :]


def molecules(seed: int, n: int = 512, atoms: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Small graphs with five kinds of nodes; a value that follows from which kinds are neighbours."""
    random = generator(seed)
    kinds = torch.randint(5, (n, atoms), generator=random)
    links = (torch.rand(n, atoms, atoms, generator=random) < 0.3).float().triu(1)
    links = links + links.transpose(1, 2)
    worth = torch.randn(5, 5, generator=generator(3))
    pairs = worth[kinds[:, :, None], kinds[:, None, :]] * links
    y = pairs.sum((1, 2)) / 4 + 0.1 * torch.randn(n, generator=random)
    return torch.eye(5)[kinds], links, y


def ratings(seed: int, n: int, users: int = 60, items: int = 50) -> tuple[Tensor, Tensor, Tensor]:
    """Who rated what by how much, ``(n, 1)`` each: tastes of four kinds, habits, noise; about zero in the mean."""
    fixed, random = generator(11), generator(seed)
    tastes = 0.8 * torch.randn(users, 4, generator=fixed)
    traits = 0.8 * torch.randn(items, 4, generator=fixed)
    habits = 0.3 * torch.randn(users, generator=fixed)
    user, item = torch.randint(users, (n, 1), generator=random), torch.randint(items, (n, 1), generator=random)
    product = (tastes[user] * traits[item]).sum(-1)
    return user, item, product + habits[user] + 0.2 * torch.randn(n, 1, generator=random)


def shapes(seed: int, n: int = 480, points: int = 24) -> tuple[Tensor, Tensor]:
    """Clouds of points on spheres, cubes, discs and helices, turned about one axis."""
    random = generator(seed)
    y = torch.randint(4, (n,), generator=random)
    x = torch.randn(n, points, 3, generator=random)
    sphere = x / x.norm(dim=2, keepdim=True)
    cube = x.clamp(-2, 2) / x.abs().amax(2, keepdim=True)
    disc = sphere * torch.tensor([1.0, 1.0, 0.05])
    t = 2 * torch.rand(n, points, generator=random) - 1
    helix = torch.stack([(4 * t).cos(), (4 * t).sin(), t], 2)
    cloud = torch.stack([sphere, cube, disc, helix])[y, torch.arange(n)]
    angle = 2 * math.pi * torch.rand(n, generator=random)
    zero, one = torch.zeros(n), torch.ones(n)
    turn = torch.stack([angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos(), zero, zero, zero, one], 1)
    return cloud @ turn.view(n, 3, 3) + 0.03 * torch.randn(n, points, 3, generator=random), y


def baskets(seed: int, n: int = 768, most: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Sets of up to eight members with four numbers each: members, which are there, a sum over them."""
    random = generator(seed)
    members = torch.randn(n, most, 4, generator=random)
    there = (torch.arange(most) < torch.randint(2, most + 1, (n, 1), generator=random)).float()
    worth = (2 * members[..., 0]).sin() + members[..., 1] * members[..., 2]
    y = (worth * there).sum(1) / 2
    return members, there, y + 0.1 * torch.randn(n, generator=random)


def folded(seed: int, n: int = 1024) -> tuple[Tensor, Tensor]:
    """Numbers with several answers each: ``x`` of about one, and ``y`` between 0 and 1."""
    random = generator(seed)
    y = torch.rand(n, 1, generator=random)
    x = y + 0.3 * (2 * math.pi * y).sin() + 0.05 * torch.randn(n, 1, generator=random)
    return 2 * x - 1, y


def clients(seed: int, n: int = 1024) -> tuple[Tensor, Tensor, Tensor]:
    """Six numbers, two categories, and whether a client leaves, which an eighth do: the last is ``(n, 1)``."""
    fixed, random = generator(21), generator(seed)
    numbers = torch.randn(n, 6, generator=random)
    categories = torch.stack([torch.randint(8, (n,), generator=random), torch.randint(5, (n,), generator=random)], 1)
    effects = torch.randn(8, generator=fixed)
    score = numbers[:, 0] + numbers[:, 1] * numbers[:, 2] + 1.5 * effects[categories[:, 0]]
    score = score + (categories[:, 1] == 2) * numbers[:, 3] + 0.3 * torch.randn(n, generator=random)
    return numbers, categories, (score > score.quantile(0.875)).float()[:, None]


def houses(seed: int, n: int = 768, noise: float = 0.3) -> tuple[Tensor, Tensor, Tensor]:
    """Five numbers, two categories, and a price in units of its deviation, about zero, ``(n, 1)``."""
    fixed, random = generator(31), generator(seed)
    numbers = torch.randn(n, 5, generator=random)
    categories = torch.stack([torch.randint(6, (n,), generator=random), torch.randint(4, (n,), generator=random)], 1)
    effects = torch.randn(6, generator=fixed)
    price = 0.7 * numbers[:, 0] + (numbers[:, 1] * 1.5).sin() + 0.7 * effects[categories[:, 0]]
    price = price + 0.5 * numbers[:, 2] * (categories[:, 1] - 1.5)
    price = price / 1.4 + noise * torch.randn(n, generator=random)
    return numbers, categories, price[:, None]


def distance(one: Tensor, other: Tensor) -> float:
    """The energy distance of two clouds of points; 0 if they have the same distribution."""
    between = torch.cdist(one, other).mean()
    return (2 * between - torch.cdist(one, one).mean() - torch.cdist(other, other).mean()).item()
