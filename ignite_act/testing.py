"""Small awkward models and loops, for our tests and for those of users: what real networks do, in a few lines each."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from ignite.engine import Engine
from torch import Tensor, nn
from torch.optim import Optimizer

from ignite_act.internals import global_hooks as global_hooks

Batch = tuple[Tensor, Tensor]


class FunctionalMLP(nn.Module):
    """Calls ``F.relu`` in its forward, as most MNIST examples do: there is no module to hook."""

    def __init__(self, in_features: int = 4, hidden: int = 6, out_features: int = 3) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_features, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.fc3 = nn.Linear(hidden, out_features)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, out_features)``."""
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


class SharedReLU(nn.Module):
    """Puts one ReLU object into two places of a ``Sequential``: one object under two names."""

    def __init__(self, in_features: int = 4, hidden: int = 6, out_features: int = 3) -> None:
        super().__init__()
        relu = nn.ReLU()
        self.layers = nn.Sequential(
            nn.Linear(in_features, hidden), relu, nn.Linear(hidden, hidden), relu, nn.Linear(hidden, out_features)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, out_features)``."""
        return self.layers(x)


class ResidualBlock(nn.Module):
    """Uses one ReLU object twice, the second time on a residual sum, as torchvision's ResNets do."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to the same shape."""
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += x
        return self.relu(y)


class ResidualCNN(nn.Module):
    """A convolution, a `ResidualBlock` and a linear layer; images ``(N, 1, H, W)``."""

    def __init__(self, channels: int = 4, out_features: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, padding=1)
        self.block = ResidualBlock(channels)
        self.head = nn.Linear(channels, out_features)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, out_features)``."""
        return self.head(self.block(self.stem(x)).mean((2, 3)))


class InPlaceCNN(nn.Module):
    """Overwrites every pre-activation, by modules and by methods; images ``(N, 1, H, W)``."""

    def __init__(self, channels: int = 4, out_features: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels, 3)
        self.act1 = nn.Hardswish(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3)
        self.head = nn.Linear(channels, out_features)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, out_features)``."""
        x = self.act1(self.conv1(x))
        x = self.conv2(x).relu_()
        return self.head(x.mean((2, 3)))


class ChannelsLastBlock(nn.Module):
    """Moves the channels to the last axis for linear layers and back, as ConvNeXt does; images ``(N, 1, H, W)``."""

    def __init__(self, channels: int = 4, hidden: int = 6) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, channels, 3, padding=1)
        self.up = nn.Linear(channels, hidden)
        self.act = nn.ReLU()
        self.down = nn.Linear(hidden, channels)
        self.last = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 1, H, W)`` to ``(N, C, H, W)``."""
        x = self.conv(x)
        y = self.down(self.act(self.up(x.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)
        return self.last(y + x)


class HandWrittenReLU(nn.Module):
    """``x * (x > 0)``: an activation that nobody can recognise."""

    def forward(self, x: Tensor) -> Tensor:
        """The positive part."""
        return x * (x > 0)


class Gate(nn.Module):
    """``x * torch.sigmoid(x)``: a recognised call inside a hand-written activation."""

    def forward(self, x: Tensor) -> Tensor:
        """Swish of the input."""
        return x * torch.sigmoid(x)


class Transformer(nn.Module):
    """Two encoder layers and a final norm over token embeddings; tokens ``(N, T)``, int64."""

    def __init__(self, vocabulary: int = 11, width: int = 8, out_features: int = 3) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        layer = nn.TransformerEncoderLayer(width, 2, 16, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, out_features)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits ``(N, out_features)``."""
        return self.head(self.encoder(self.embedding(tokens)).mean(1))


class TupleLSTM(nn.Module):
    """A fused layer that returns a tuple of tuples; sequences ``(N, T, in_features)``."""

    def __init__(self, in_features: int = 4, hidden: int = 6, out_features: int = 3) -> None:
        super().__init__()
        self.lstm = nn.LSTM(in_features, hidden, batch_first=True)
        self.head = nn.Linear(hidden, out_features)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, out_features)``."""
        output, _ = self.lstm(x)
        return self.head(output[:, -1])


class LinearModel(nn.Module):
    """Has no activation function at all."""

    def __init__(self, in_features: int = 4, out_features: int = 3) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_features, in_features)
        self.fc2 = nn.Linear(in_features, out_features)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, out_features)``."""
        return self.fc2(self.fc1(x))


def batches(n: int = 4, size: int = 8, features: int = 4, classes: int = 3, seed: int = 0) -> list[Batch]:
    """Random inputs ``(size, features)`` with targets ``(size,)``; the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(size, features, generator=generator), torch.randint(classes, (size,), generator=generator))
        for _ in range(n)
    ]


def make_trainer(model: nn.Module, optimizer: Optimizer) -> Engine:
    """The plainest Ignite trainer: cross-entropy, one optimizer step a batch; its output is the loss."""

    def step(engine: Engine, batch: Batch) -> float:
        model.train()
        optimizer.zero_grad()
        x, y = batch
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return Engine(step)


def make_evaluator(model: nn.Module) -> Engine:
    """The plainest Ignite evaluator: its output is the logits and the targets."""

    @torch.no_grad()
    def step(engine: Engine, batch: Batch) -> Batch:
        model.eval()
        x, y = batch
        return model(x), y

    return Engine(step)


def train(model: nn.Module, data: Iterable[Batch], lr: float = 0.1) -> None:
    """One epoch of SGD in plain PyTorch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    model.train()
    for x, y in data:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
