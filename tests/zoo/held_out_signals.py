"""Faulty runs that were kept out of the tuning: what goes wrong with signals, units and weights."""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, RMSprop

from zoo import held_out_models as models
from zoo import held_out_tasks as tasks
from zoo.base import Case, Run
from zoo.held_out_models import Function, mlp
from zoo.held_out_tasks import itself, named, paired, train

CASES: list[Case] = []
faulty = functools.partial(tasks.member, CASES)


# Signals that vanish, grow or end.


@faulty("vanishing_gradient", epochs=8)
def sigmoid_autoencoder(seed: int) -> Run:
    """Seven sigmoid layers let almost no gradient through: the mean image is all that is learned."""
    model = mlp([64, 48, 32, 24, 16, 24, 32, 48, 64], nn.Sigmoid)
    return train(model, SGD(model.parameters(), lr=1.0, momentum=0.9), tasks.pictures(seed), batch_size=50)


@faulty("vanishing_gradient", epochs=6)
def sigmoid_convolutions(seed: int) -> Run:
    """Seven 1-D convolutions with sigmoids and no norm."""
    blocks = [nn.Sequential(nn.Conv1d(8, 8, 3, padding=1), nn.Sigmoid()) for _ in range(6)]
    model = nn.Sequential(
        nn.Conv1d(1, 8, 3, padding=1), nn.Sigmoid(), *blocks, nn.AvgPool1d(4), nn.Flatten(), nn.Linear(128, 10)
    )
    task = tasks.digits(seed).mapped(lambda x: x.unsqueeze(1))
    return train(model, SGD(model.parameters(), lr=0.05, momentum=0.9), task, output=named)


class Residual(nn.Module):
    """Residual branches without a norm."""

    def __init__(self, features: int, classes: int, width: int, depth: int, gain: float) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(features, width), nn.Linear(width, classes)
        self.branches = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        for branch in self.branches:
            nn.init.normal_(branch.weight, std=gain / math.sqrt(width))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for branch in self.branches:
            x = x + F.silu(branch(x))
        return self.head(x)


@faulty("exploding", epochs=5)
def residual_without_norm(seed: int) -> Run:
    """Each of 24 residual branches without a norm makes the signal greater, so that it is huge at the end."""
    model = Residual(64, 10, width=48, depth=24, gain=2.0)
    return train(model, Adam(model.parameters(), lr=1e-4), tasks.digits(seed))


class Unrolled(nn.Module):
    """A recurrent ReLU cell without gates whose state is multiplied by a matrix at each of the tokens."""

    def __init__(self, growth: float, width: int = 24) -> None:
        super().__init__()
        self.embed, self.recurrent, self.head = nn.Embedding(20, width), nn.Linear(width, width), nn.Linear(width, 3)
        self.recurrent.weight = nn.Parameter(growth * torch.eye(width))

    def forward(self, tokens: Tensor) -> Tensor:
        state = self.embed(tokens[:, 0])
        for token in self.embed(tokens[:, 1:]).unbind(1):
            state = F.relu(self.recurrent(state) + token)
        return self.head(state)


@faulty("exploding", epochs=4, accepted=["nonfinite"])
def recurrent_growth(seed: int) -> Run:
    """A recurrent matrix above one, over 24 tokens and without clipping."""
    model = Unrolled(growth=1.5)
    return train(model, SGD(model.parameters(), lr=1e-3), tasks.majority(seed, length=24), output=paired)


@faulty("exploding", epochs=5, accepted=["update_too_large", "nonfinite"])
def divergent_regression(seed: int) -> Run:
    """Gradient descent on a quadratic loss with a learning rate above twice the inverse curvature."""
    model = nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 1))
    return train(model, SGD(model.parameters(), lr=0.4, momentum=0.9), tasks.friedman(seed), batch_size=60)


@faulty("nonfinite", epochs=3)
def missing_value(seed: int) -> Run:
    """One quantity of one wine is missing, and a NaN in the table."""

    def lose(x: Tensor) -> Tensor:
        return x.index_put((torch.tensor(57), torch.tensor(4)), torch.tensor(torch.nan))

    model = mlp([13, 32, 3], nn.Hardswish)
    task = tasks.wine(seed)
    spoilt = task.mapped(lambda x: lose(x) if len(x) == len(task.training) else x)
    return train(model, Adam(model.parameters(), lr=3e-3), spoilt, batch_size=16)


@faulty("nonfinite", epochs=4, layers=["0", "1", "2"])
def logarithm_of_negatives(seed: int) -> Run:
    """A layer takes the logarithm of what another one gives, which training makes negative."""
    model = nn.Sequential(nn.Linear(10, 24), Function(torch.log), nn.Linear(24, 24), nn.GELU(), nn.Linear(24, 1))
    nn.init.constant_(model[0].bias, 3.5)
    nn.init.normal_(model[0].weight, std=0.1)
    return train(model, SGD(model.parameters(), lr=0.1, momentum=0.9), tasks.friedman(seed), evaluate=False)


class Distances(nn.Module):
    """Classifies an image by the distances between any two of its patches."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Conv2d(1, 12, 3, stride=3), nn.Linear(16 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        patches = F.silu(self.embed(x)).flatten(2).transpose(1, 2)
        differences = patches.unsqueeze(1) - patches.unsqueeze(2)
        return self.head(differences.pow(2).sum(-1).sqrt().flatten(1))


@faulty("nonfinite", epochs=4, layers=["embed"])
def square_root_of_zero(seed: int) -> Run:
    """The distance of a patch to itself is zero: the square root is finite there, its gradient is not."""
    model = Distances()
    return train(model, Adam(model.parameters(), lr=2e-3), tasks.bars(seed))


def unsafe_softmax(scores: Tensor) -> Tensor:
    """Without the maximum taken off."""
    return scores.exp() / scores.exp().sum(-1, keepdim=True)


@faulty("nonfinite", epochs=3, layers=["qkv", "out"])
def overflow_in_attention(seed: int) -> Run:
    """The exponentials of great attention scores overflow."""
    model = models.Attention(vocabulary=10, classes=2, weigh=unsafe_softmax)
    nn.init.normal_(model.qkv.weight, std=1.6)
    return train(model, AdamW(model.parameters(), lr=1e-3), tasks.precedence(seed))


# Units that say nothing.


@faulty("dead_units", epochs=5, layers=["conv2", "relu#2"])
def dead_convolution(seed: int) -> Run:
    """A great negative bias in the second convolution: its rectified output is zero from the start."""
    model = models.Bars()
    nn.init.constant_(model.conv2.bias, -6.0)
    return train(model, Adam(model.parameters(), lr=2e-3), tasks.bars(seed))


@faulty("dead_units", epochs=6, accepted=["update_too_large", "exploding"])
def killed_by_learning_rate(seed: int) -> Run:
    """The first steps with a far too high learning rate push the rectified units below zero for good."""
    model = mlp([64, 96, 64, 48, 10], nn.ReLU)
    return train(model, SGD(model.parameters(), lr=1.0, momentum=0.9), tasks.digits(seed), output=itself)


@faulty("dead_units", epochs=6, layers=["2", "3"])
def nine_in_ten_dead(seed: int) -> Run:
    """Nine in ten units of one layer are dead, while the accuracy looks fine."""
    model = mlp([64, 64, 120, 10], nn.ReLU)
    nn.init.constant_(model[2].bias[:108], -20)
    return train(model, SGD(model.parameters(), lr=0.05, momentum=0.9), tasks.digits(seed))


@faulty("saturated_units", epochs=6, layers=["2", "3"])
def tanh_with_great_weights(seed: int) -> Run:
    """The second layer begins with weights forty times too great for its tanh."""
    model = mlp([64, 64, 48, 10], nn.Tanh)
    with torch.no_grad():
        model[2].weight.mul_(40)
    return train(model, SGD(model.parameters(), lr=0.02, momentum=0.9), tasks.digits(seed))


class Squashed(nn.Module):
    """Embeddings behind a sigmoid, their mean, and a linear layer."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Embedding(20, 24), nn.Linear(24, 24), nn.Linear(24, 3)
        nn.init.normal_(self.embed.weight, std=scale)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.sigmoid(self.mix(self.embed(tokens))).mean(1))


@faulty("saturated_units", epochs=6, layers=["embed", "mix", "sigmoid"])
def sigmoid_of_great_embeddings(seed: int) -> Run:
    """Embeddings with a standard deviation of 60 drive a sigmoid to its ends."""
    model = Squashed(60.0)
    return train(model, SGD(model.parameters(), lr=0.1), tasks.majority(seed), output=paired)


@faulty("symmetry", epochs=6)
def constant_weights(seed: int) -> Run:
    """All weights begin with one value, so the units of a layer stay equal."""
    model = mlp([13, 24, 24, 3], nn.SELU)
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.04)
    return train(model, Adam(model.parameters(), lr=3e-3), tasks.wine(seed), batch_size=16)


@faulty("symmetry", epochs=6)
def constant_kernels(seed: int) -> Run:
    """Both convolutions begin as running means, the last layer with equal weights: all channels stay equal."""
    model = models.Waves(act=F.gelu, norm=lambda width: nn.Identity())
    for layer in (model.conv1, model.conv2, model.head):
        nn.init.constant_(layer.weight, 1 / layer.weight[0].numel())
        nn.init.zeros_(layer.bias)
    return train(model, SGD(model.parameters(), lr=0.2, momentum=0.9), tasks.waves(seed))


@faulty("weight_collapse", epochs=6)
def decoupled_decay(seed: int) -> Run:
    """AdamW takes four tenths of the weights away in each step."""
    model = mlp([64, 64, 32, 10], nn.Mish)
    return train(model, AdamW(model.parameters(), lr=2e-3, weight_decay=200), tasks.digits(seed))


@faulty("weight_collapse", epochs=6)
def decay_of_convolutions(seed: int) -> Run:
    """SGD with a weight decay of 0.5, meant to be 5e-4."""
    model = models.Bars(F.celu)
    optimizer = SGD(model.parameters(), lr=0.03, momentum=0.9, weight_decay=0.5)
    return train(model, optimizer, tasks.bars(seed), output=named)


@faulty("weight_collapse", epochs=6)
def penalty_in_the_loss(seed: int) -> Run:
    """The squares of all weights are added to the loss with a factor of 0.1."""
    model = mlp([2, 24, 24, 1], nn.Softplus)

    def objective(scores: Tensor, y: Tensor) -> Tensor:
        squares = sum(parameter.pow(2).sum() for parameter in model.parameters())
        return F.binary_cross_entropy_with_logits(scores, y) + 0.1 * squares

    return train(model, RMSprop(model.parameters(), lr=3e-3), tasks.moons(seed), objective=objective)
