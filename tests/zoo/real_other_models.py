"""The networks of the real part of the zoo that read neither images nor tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Callable[[], nn.Module]


def mlp(*widths: int, act: Activation = nn.ReLU, last: Activation | None = None) -> nn.Sequential:
    """Linear layers with an activation between them."""
    modules: list[nn.Module] = []
    for inputs, outputs in pairwise(widths[:-1]):
        modules += [nn.Linear(inputs, outputs), act()]
    modules.append(nn.Linear(widths[-2], widths[-1]))
    return nn.Sequential(*modules, *([last()] if last else []))


class VAE(nn.Module):
    """A variational autoencoder of small vectors.

    Args:
        inputs, width, latent: sizes.
        deviation: whether the encoder's output is read as a deviation instead of the logarithm of the variance.
    """

    def __init__(self, inputs: int, width: int = 48, latent: int = 3, deviation: bool = False) -> None:
        super().__init__()
        self.encoder = mlp(inputs, width, 2 * latent)
        self.decoder = mlp(latent, width, inputs)
        self.deviation = deviation

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, spread = self.encoder(x).chunk(2, 1)
        logarithm = 2 * spread.log() if self.deviation else spread
        noise = torch.randn_like(mean) if self.training else torch.zeros_like(mean)
        return self.decoder(mean + (logarithm / 2).exp() * noise), mean, logarithm


class Denoiser(nn.Module):
    """Guesses the noise in points, given how long they have been diffused.

    Args:
        width, depth: sizes.
        act: its activation.
        span: what the time is divided by.
    """

    def __init__(self, width: int = 48, depth: int = 6, act: Activation = nn.SiLU, span: float = 50.0) -> None:
        super().__init__()
        self.net = mlp(4, *[width] * depth, 2, act=act)
        self.span = span

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        t = time[:, None] / self.span
        return self.net(torch.cat([x, t, (3 * t).cos()], 1))


class Adversaries(nn.Module):
    """A generator of points and its discriminator."""

    def __init__(self, width: int = 48, last: Activation | None = None) -> None:
        super().__init__()
        self.generator = mlp(4, width, width, 2)
        self.discriminator = mlp(2, width, width, 1, act=lambda: nn.LeakyReLU(0.2), last=last)

    def forward(self, noise: Tensor) -> Tensor:
        return self.generator(noise)


class GraphNet(nn.Module):
    """Message passing between the nodes of a graph, after Kipf and Welling.

    Args:
        inputs, width, classes, depth: sizes.
        dropout: on the nodes.
    """

    def __init__(self, inputs: int, width: int, classes: int, depth: int = 2, dropout: float = 0.3) -> None:
        super().__init__()
        widths = [inputs, *[width] * (depth - 1), classes]
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(widths))
        self.act, self.dropout = nn.ReLU(), nn.Dropout(dropout)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        for index, layer in enumerate(self.layers):
            x = adjacency @ layer(self.dropout(x))
            if index + 1 < len(self.layers):
                x = self.act(x)
        return x


class Molecules(nn.Module):
    """Message passing with a recurrent update, and a value of the whole graph from the sum over its nodes.

    Args:
        inputs, width: sizes.
        hidden: whether a softmax stands where the activation of the readout should be.
        rounds: of messages.
    """

    def __init__(self, inputs: int = 5, width: int = 24, hidden: bool = False, rounds: int = 2) -> None:
        super().__init__()
        self.enter, self.message = nn.Linear(inputs, width), nn.Linear(width, width)
        self.update = nn.GRUCell(width, width)
        act = nn.Softmax(-1) if hidden else nn.ReLU()
        self.readout = nn.Sequential(nn.Linear(width, width), act, nn.Linear(width, 1))
        self.rounds = rounds

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        x = self.enter(nodes).relu()
        for _ in range(self.rounds):
            messages = adjacency @ self.message(x)
            x = self.update(messages.flatten(0, 1), x.flatten(0, 1)).view_as(x)
        return self.readout(x.mean(1))[:, 0]


class Ratings(nn.Module):
    """Vectors of users and items whose product, with a bias each, is the rating.

    Args:
        users, items, width: sizes.
        spread: standard deviation of the initial vectors.
        constant: the value of all initial vectors instead.
    """

    def __init__(
        self, users: int, items: int, width: int = 8, spread: float = 0.1, constant: float | None = None
    ) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(users, width), nn.Embedding(items, width)
        self.user_bias, self.item_bias = nn.Embedding(users, 1), nn.Embedding(items, 1)
        for part in (self.users, self.items):
            if constant is None:
                nn.init.normal_(part.weight, std=spread)
            else:
                nn.init.constant_(part.weight, constant)
        for part in (self.user_bias, self.item_bias):
            nn.init.zeros_(part.weight)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        product = (self.users(user) * self.items(item)).sum(-1, keepdim=True)
        return product + self.user_bias(user) + self.item_bias(item)


class PointNet(nn.Module):
    """A net of each point, the largest of each feature over the points, and a head.

    Args:
        classes, width: sizes.
        axes: over which the largest is taken.
    """

    def __init__(self, classes: int, width: int = 32, axes: tuple[int, ...] = (1,), act: Activation = nn.ReLU) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, width), nn.Linear(width, 2 * width)
        self.norm1, self.norm2 = nn.BatchNorm1d(width), nn.BatchNorm1d(2 * width)
        self.act1, self.act2 = act(), act()
        self.head = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Dropout(0.2), nn.Linear(width, classes))
        self.axes = axes

    def forward(self, points: Tensor) -> Tensor:
        n, count, _ = points.shape
        x = self.act1(self.norm1(self.first(points.flatten(0, 1))))
        x = self.act2(self.norm2(self.second(x))).view(n, count, -1)
        return self.head(x.amax(self.axes, keepdim=True)[:, 0].expand(n, -1))


class DeepSets(nn.Module):
    """A net of each member, their sum, and a net of the sum; absent members are masked."""

    def __init__(self, inputs: int, width: int = 32, act: Activation = nn.ReLU) -> None:
        super().__init__()
        self.each, self.whole = mlp(inputs, width, width, act=act), mlp(width, width, 1, act=act)

    def forward(self, members: Tensor, there: Tensor) -> Tensor:
        return self.whole((self.each(members) * there[..., None]).sum(1) / 4)[:, 0]


class Mixture(nn.Module):
    """A mixture of normal distributions whose parameters depend on the input.

    Args:
        width, parts: sizes.
    """

    def __init__(self, width: int = 32, parts: int = 4) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh())
        self.weights, self.means, self.spreads = (nn.Linear(width, parts) for _ in range(3))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The logarithm of the density of ``y``."""
        h = self.body(x)
        mean, spread = self.means(h), F.softplus(self.spreads(h)) + 1e-3
        parts = self.weights(h).log_softmax(1) - ((y - mean) / spread) ** 2 / 2 - spread.log()
        return parts.logsumexp(1) - math.log(2 * math.pi) / 2


class Coupling(nn.Module):
    """Half of a vector is moved and stretched as the other half says."""

    def __init__(self, swap: bool, width: int) -> None:
        super().__init__()
        self.net, self.swap = mlp(1, width, width, 2), swap

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kept, moved = x.flip(1).chunk(2, 1) if self.swap else x.chunk(2, 1)
        shift, stretch = self.net(kept).chunk(2, 1)
        stretch = 1.5 * stretch.tanh()
        parts = [kept, moved * stretch.exp() + shift]
        return torch.cat(parts[::-1] if self.swap else parts, 1), stretch[:, 0]


class Flow(nn.Module):
    """A normalising flow of coupling layers on the plane."""

    def __init__(self, width: int = 32, depth: int = 3) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Coupling(index % 2 == 1, width) for index in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        """The logarithm of the density."""
        total = torch.zeros(len(x))
        for layer in self.layers:
            x, stretch = layer(x)
            total = total + stretch
        return total - (x**2).sum(1) / 2 - math.log(2 * math.pi)


class Table(nn.Module):
    """A net of numbers and categories, with an embedding a category.

    Args:
        numbers: how many numbers.
        categories: how many values each category has.
        width: of the hidden layers.
        dropout: behind them.
        norm: whether batch norm stands before the activations.
        last: behind the output.
    """

    def __init__(
        self,
        numbers: int,
        categories: Sequence[int],
        width: int = 48,
        dropout: float = 0.1,
        norm: bool = True,
        last: Activation = nn.Identity,
    ) -> None:
        super().__init__()
        self.embeds = nn.ModuleList(nn.Embedding(count, 4) for count in categories)
        widths = [numbers + 4 * len(categories), width, width]
        self.body = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Linear(*pair), nn.BatchNorm1d(width) if norm else nn.Identity(), nn.ReLU(), nn.Dropout(dropout)
                )
                for pair in pairwise(widths)
            )
        )
        self.head, self.last = nn.Linear(width, 1), last()

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        embedded = [embed(column) for embed, column in zip(self.embeds, categories.unbind(1), strict=True)]
        return self.last(self.head(self.body(torch.cat([numbers, *embedded], 1))))


class Actor(nn.Module):
    """What to do, and what is to be expected."""

    def __init__(self, inputs: int, actions: int, width: int = 32) -> None:
        super().__init__()
        self.actor, self.critic = mlp(inputs, width, actions, act=nn.Tanh), mlp(inputs, width, 1, act=nn.Tanh)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.actor(x), self.critic(x)[:, 0]
