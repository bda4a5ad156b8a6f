"""The networks of the fresh part of the zoo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Callable[[], nn.Module]


def mlp(
    *widths: int, act: Activation = nn.ReLU, between: Sequence[Activation] = (), flat: bool = True
) -> nn.Sequential:
    """Linear layers with an activation, and what else is wanted, behind each but the last."""
    modules: list[nn.Module] = [nn.Flatten()] if flat else []
    for inputs, outputs in pairwise(widths[:-1]):
        modules += [nn.Linear(inputs, outputs), act(), *(make() for make in between)]
    return nn.Sequential(*modules, nn.Linear(*widths[-2:]))


class Functional(nn.Module):
    """Three linear layers around a function."""

    def __init__(self, inputs: int, width: int, outputs: int, act: Callable[[Tensor], Tensor] = F.relu) -> None:
        super().__init__()
        self.enter, self.hidden = nn.Linear(inputs, width), nn.Linear(width, width)
        self.leave = nn.Linear(width, outputs)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.act(self.hidden(self.act(self.enter(x.flatten(1))))))


class ConvNet(nn.Module):
    """Three convolutions, with batch norm or without, and a head on their means."""

    def __init__(
        self, classes: int = 4, width: int = 12, norm: bool = True, act: Activation = nn.ReLU, last: bool = False
    ) -> None:
        super().__init__()
        widths = (1, width, width, 2 * width)
        blocks = []
        for index in range(3):
            conv = nn.Conv2d(widths[index], widths[index + 1], 3, stride=1 if index == 0 else 2, padding=1)
            blocks.append(nn.Sequential(conv, *([nn.BatchNorm2d(widths[index + 1])] if norm else []), act()))
        self.features = nn.Sequential(*blocks)
        self.head = nn.Linear(2 * width, classes)
        self.last = nn.ReLU() if last else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.head(self.features(x).amax((2, 3))))


class Block(nn.Module):
    """A residual block of an MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


def residual(inputs: int, outputs: int, width: int = 32, blocks: int = 4) -> nn.Sequential:
    """A stem, residual blocks and a head."""
    body = [Block(width) for _ in range(blocks)]
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, width), *body, nn.LayerNorm(width), nn.Linear(width, outputs))


class Transformer(nn.Module):
    """An embedding, one block of attention and a head on the mean of the places, or on what is given as the pool."""

    def __init__(
        self, vocabulary: int = 20, width: int = 24, classes: int = 4, pool: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.place = nn.Parameter(0.1 * torch.randn(10, width))
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.block = Block(width)
        self.head = nn.Linear(width, classes)
        self.pool = pool or (lambda x: x.mean(1))

    def encode(self, tokens: Tensor) -> Tensor:
        """What comes out of the block, a vector a place."""
        x = self.embed(tokens) + self.place
        normed = self.norm(x)
        return self.block(x + self.attention(normed, normed, normed, need_weights=False)[0])

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.pool(self.encode(tokens)))


class Recurrent(nn.Module):
    """An embedding, a recurrent layer and a head on its last state."""

    def __init__(self, cell: Callable[..., nn.Module] = nn.GRU, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, width)
        self.cell = cell(width, width, batch_first=True)
        self.head = nn.Linear(width, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.cell(self.embed(tokens))[0][:, -1])


class Cut(nn.Module):
    """A body and a head, with something between them that the gradient may not survive."""

    def __init__(self, body: nn.Module, head: nn.Module, between: Callable[[Tensor], Tensor] = torch.detach) -> None:
        super().__init__()
        self.body, self.head, self.between = body, head, between

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.between(self.body(x)))


class Through(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@torch.no_grad()
def changed(model: nn.Module, change: Callable[[nn.Parameter], object], *names: str) -> nn.Module:
    """The model after a change to the parameters whose names end so."""
    for name, parameter in model.named_parameters():
        if name.endswith(names):
            change(parameter)
    return model


def frozen(model: nn.Module, part: str) -> nn.Module:
    """The model with a part that is not trained."""
    model.get_submodule(part).requires_grad_(False)
    return model
