"""The networks of the held-out cases. Blocks are small; what varies is the way they are built."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def mlp(sizes: Sequence[int], act: Callable[[], nn.Module], *, dropout: float = 0.0) -> nn.Sequential:
    """A perceptron; the activation function, and then dropout, between any two linear layers."""
    modules: list[nn.Module] = [nn.Linear(sizes[0], sizes[1])]
    for width, following in itertools.pairwise(sizes[1:]):
        modules += [act(), *([nn.Dropout(dropout)] if dropout else []), nn.Linear(width, following)]
    return nn.Sequential(*modules)


class Waves(nn.Module):
    """1-D convolutions with group norm, then the mean over time."""

    def __init__(
        self, width: int = 16, act: Callable[[Tensor], Tensor] = F.silu, norm: Callable[[int], nn.Module] | None = None
    ) -> None:
        super().__init__()
        norm = norm or (lambda width: nn.GroupNorm(4, width))
        self.conv1, self.norm1 = nn.Conv1d(1, width, 7, padding=3), norm(width)
        self.conv2, self.norm2 = nn.Conv1d(width, width, 5, padding=2, stride=2), norm(width)
        self.head = nn.Linear(width, 3)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm1(self.conv1(x)))
        x = self.act(self.norm2(self.conv2(x)))
        return self.head(x.mean(-1))


class Bars(nn.Module):
    """Two convolutions without norms that call their activation function, and a linear layer."""

    def __init__(self, act: Callable[[Tensor], Tensor] = F.relu, width: int = 12) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, width, 3, padding=1), nn.Conv2d(width, width, 3, stride=2)
        self.fc = nn.Linear(width * 25, 4)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.act(self.conv2(self.act(self.conv1(x)))).flatten(1))


class MixerBlock(nn.Module):
    """Mixes the patches, then the channels; both are residual, behind a layer norm."""

    def __init__(self, patches: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.patches = mlp([patches, 2 * patches, patches], nn.GELU)
        self.channels = mlp([width, 2 * width, width], nn.GELU)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.patches(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class Mixer(nn.Module):
    """An MLP-mixer on patches of 3 x 3 of the images of bars."""

    def __init__(self, width: int = 24, depth: int = 2) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, width, 3, stride=3)
        self.blocks = nn.Sequential(*(MixerBlock(16, width) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(tokens)).mean(1))


class Branch(nn.Module):
    """A pre-norm residual branch of two linear layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(F.elu(self.fc1(self.norm(x))))


class PreNorm(nn.Module):
    """A perceptron of pre-norm residual branches; the last layer of each begins at zero."""

    def __init__(self, features: int, classes: int, width: int = 48, depth: int = 4) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(features, width), nn.Linear(width, classes)
        self.branches = nn.Sequential(*(Branch(width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        for branch in self.branches:
            nn.init.zeros_(branch.fc2.weight)
            nn.init.zeros_(branch.fc2.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.branches(self.stem(x))))


class Gated(nn.Module):
    """A recurrent cell with gates like an LSTM's, written by hand, on tokens."""

    def __init__(self, vocabulary: int = 20, width: int = 24, classes: int = 3) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.inward, self.recurrent = nn.Linear(width, 4 * width), nn.Linear(width, 4 * width, bias=False)
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        inward = self.inward(self.embed(tokens))
        hidden = cell = inward.new_zeros(len(tokens), self.head.in_features)
        for now in inward.unbind(1):
            keep, add, show, value = (now + self.recurrent(hidden)).chunk(4, dim=1)
            cell = torch.sigmoid(keep + 1) * cell + torch.sigmoid(add) * torch.tanh(value)
            hidden = torch.sigmoid(show) * torch.tanh(cell)
        return self.head(hidden)


class Recurrent(nn.Module):
    """A GRU on tokens, and a linear layer on its last state."""

    def __init__(self, vocabulary: int = 20, width: int = 32, classes: int = 3) -> None:
        super().__init__()
        self.embed, self.gru = nn.Embedding(vocabulary, width), nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.gru(self.embed(tokens))[0][:, -1])


def softmax(scores: Tensor) -> Tensor:
    """Over the last axis."""
    return F.softmax(scores, dim=-1)


class Attention(nn.Module):
    """A head of attention with learned positions, written by hand, and a feed-forward layer; classifies the mean."""

    def __init__(
        self,
        vocabulary: int,
        classes: int,
        width: int = 32,
        length: int = 12,
        weigh: Callable[[Tensor], Tensor] = softmax,
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width, padding_idx=0)
        self.position = nn.Parameter(0.5 * torch.randn(length, width))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.ff1, self.ff2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.head = nn.Linear(width, classes)
        self.weigh = weigh

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.position[: tokens.shape[1]]
        query, key, value = self.qkv(self.norm1(x)).chunk(3, dim=-1)
        scores = query @ key.transpose(1, 2) / math.sqrt(query.shape[-1])
        x = x + self.out(self.weigh(scores) @ value)
        x = x + self.ff2(F.silu(self.ff1(self.norm2(x))))
        return self.head(x.mean(1))


class Bag(nn.Module):
    """The mean of embeddings, and a small perceptron."""

    def __init__(self, vocabulary: int = 20, width: int = 24, classes: int = 3, *, sparse: bool = False) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(vocabulary, width, mode="mean", sparse=sparse)
        self.head = mlp([width, 24, classes], nn.Hardswish)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.bag(tokens))


class TiedLanguageModel(nn.Module):
    """A GRU that predicts the next token with the embedding as its output layer; scores are ``(N, V, T)``."""

    def __init__(self, vocabulary: int = 12, width: int = 24) -> None:
        super().__init__()
        self.embed, self.gru = nn.Embedding(vocabulary, width), nn.GRU(width, width, batch_first=True)
        self.decode = nn.Linear(width, vocabulary)
        nn.init.normal_(self.embed.weight, std=0.3)
        self.decode.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.decode(self.gru(self.embed(tokens))[0]).transpose(1, 2)


class SqueezeExcite(nn.Module):
    """A convolution behind batch norm whose channels are weighed by sigmoid gates."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width)
        self.squeeze, self.excite = nn.Linear(width, 4), nn.Linear(4, width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, stride=2), nn.BatchNorm2d(width)
        self.head = nn.Linear(width * 25, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.norm1(self.conv1(x)), 0.1)
        gates = torch.sigmoid(self.excite(F.silu(self.squeeze(x.mean((2, 3))))))
        x = F.leaky_relu(self.norm2(self.conv2(x * gates[:, :, None, None])), 0.1)
        return self.head(x.flatten(1))


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)
