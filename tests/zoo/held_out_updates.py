"""Faulty runs that were kept out of the tuning: what goes wrong with updates and gradients."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
import torch.nn.functional as F
from ignite.engine import Engine
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, NAdam, RMSprop
from torch.optim.lr_scheduler import ExponentialLR

from zoo import held_out_models as models
from zoo import held_out_tasks as tasks
from zoo.base import Batch, Case, Run
from zoo.held_out_models import Function, mlp
from zoo.held_out_tasks import itself, named, paired, train

CASES: list[Case] = []
faulty = functools.partial(tasks.member, CASES)


@faulty("update_too_small", epochs=5)
def tiny_learning_rate(seed: int) -> Run:
    """A learning rate of 1e-6 for SGD."""
    model = models.Mixer()
    return train(model, SGD(model.parameters(), lr=1e-6, momentum=0.9), tasks.bars(seed))


@faulty("update_too_small", epochs=6)
def scheduler_in_each_iteration(seed: int) -> Run:
    """A decay that was meant for epochs is applied in every iteration: the learning rate is gone after a few."""
    model = models.Attention(vocabulary=10, classes=2)
    optimizer = AdamW(model.parameters(), lr=3e-3)
    return train(model, optimizer, tasks.precedence(seed), scheduler=ExponentialLR(optimizer, 0.5))


@faulty("update_too_small", epochs=5)
def clipped_to_nothing(seed: int) -> Run:
    """Gradients are clipped to a norm of 1e-5."""
    model = models.Recurrent()
    return train(model, SGD(model.parameters(), lr=0.3), tasks.majority(seed), clip=1e-5, output=itself)


@faulty("update_too_large", epochs=6, accepted=["exploding"])
def great_rate_on_attention(seed: int) -> Run:
    """A learning rate of 1 for Adam."""
    model = models.Attention(vocabulary=10, classes=2)
    return train(model, Adam(model.parameters(), lr=1.0), tasks.precedence(seed))


@faulty("update_too_large", epochs=6, accepted=["exploding", "nonfinite"])
def great_rate_on_convolutions(seed: int) -> Run:
    """A learning rate of 30 for SGD."""
    model = models.Waves()
    return train(model, SGD(model.parameters(), lr=30.0, momentum=0.9), tasks.waves(seed))


@faulty("update_too_large", epochs=6)
def great_rate_on_branches(seed: int) -> Run:
    """A learning rate of 0.3 for NAdam, with residual branches."""
    model = models.PreNorm(64, 10)
    return train(model, NAdam(model.parameters(), lr=0.3), tasks.digits(seed), output=paired)


@faulty("never_updated", epochs=4)
def optimizer_of_a_copy(seed: int) -> Run:
    """The optimizer has the parameters of a copy of the model."""
    model = models.SqueezeExcite()
    return train(model, AdamW(copy.deepcopy(model).parameters(), lr=3e-3), tasks.bars(seed))


@faulty("never_updated", epochs=5, layers=["embed", "inward", "recurrent"])
def body_forgotten(seed: int) -> Run:
    """Only the last layer was given to the optimizer; the rest has gradients."""
    model = models.Gated()
    return train(model, Adam(model.head.parameters(), lr=5e-3), tasks.majority(seed))


@faulty("never_updated", epochs=5, layers=["4"])
def head_replaced(seed: int) -> Run:
    """The last layer was replaced after the optimizer had been made."""
    model = mlp([13, 24, 24, 1000], nn.Hardswish)
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    model[4] = nn.Linear(24, 3)
    return train(model, optimizer, tasks.wine(seed), batch_size=16)


@faulty("never_updated", epochs=5, layers=["fc"])
def group_without_rate(seed: int) -> Run:
    """The parameter group of the last layer has a learning rate of zero."""
    model = models.Bars(F.hardswish)
    groups: list[dict[str, Any]] = [
        {"params": [*model.conv1.parameters(), *model.conv2.parameters()]},
        {"params": model.fc.parameters(), "lr": 0.0},
    ]
    return train(model, RMSprop(groups, lr=3e-3), tasks.bars(seed))


class Encoded(nn.Module):
    """An encoder, something between, and a classifier."""

    def __init__(self, encoder: nn.Module, between: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.encoder, self.between, self.classifier = encoder, between, classifier

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.between(self.encoder(x)))


@faulty("no_gradient", epochs=5, layers=["encoder.0", "encoder.2"])
def cut_by_data(seed: int) -> Run:
    """`.data` between encoder and classifier cuts the graph."""
    encoder = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ELU(), nn.Conv2d(8, 12, 3, stride=2), nn.ELU(), nn.Flatten())
    model = Encoded(encoder, Function(lambda x: x.data), nn.Linear(192, 4))
    return train(model, SGD(model.parameters(), lr=0.03, momentum=0.9), tasks.bars(seed))


class WithoutGraph(models.Recurrent):
    """The embedding is looked up without a graph."""

    def forward(self, tokens: Tensor) -> Tensor:
        with torch.no_grad():
            embedded = self.embed(tokens)
        return self.head(self.gru(embedded)[0][:, -1])


@faulty("no_gradient", epochs=5, layers=["embed"])
def embedding_without_graph(seed: int) -> Run:
    """`torch.no_grad` around the embedding."""
    model = WithoutGraph()
    return train(model, Adam(model.parameters(), lr=5e-3), tasks.majority(seed), output=named)


@faulty("no_gradient", epochs=5, layers=["encoder.0", "encoder.1", "encoder.2"])
def rounded_code(seed: int) -> Run:
    """A code that is rounded: the derivative is zero everywhere."""
    encoder = nn.Sequential(nn.Linear(64, 48), nn.SiLU(), nn.Linear(48, 24))
    model = Encoded(encoder, Function(lambda x: (4 * x).round() / 4), mlp([24, 24, 10], nn.CELU))
    return train(model, Adam(model.parameters(), lr=3e-3), tasks.digits(seed))


@faulty("uncleared_gradient", epochs=6)
def uncleared_and_clipped(seed: int) -> Run:
    """Gradients are never set to zero, only clipped."""
    model = mlp([2, 48, 48, 3], nn.GELU)
    optimizer = SGD(model.parameters(), lr=0.5)
    return train(model, optimizer, tasks.spirals(seed), clip=20.0, clear=lambda step: False)


@faulty("uncleared_gradient", epochs=6)
def cleared_once_an_epoch(seed: int) -> Run:
    """`zero_grad` stands before the loop over the batches instead of inside it."""
    model = mlp([10, 64, 1], nn.Softplus)
    optimizer = SGD(model.parameters(), lr=0.02)
    task = tasks.friedman(seed)
    return train(model, optimizer, task, batch_size=20, clear=lambda step: step % 30 == 1, output=itself)


@faulty("uncleared_gradient", epochs=8)
def accumulated_for_ever(seed: int) -> Run:
    """Accumulation over two batches, after which nobody sets the gradients to zero."""
    model = models.Bars(F.celu)
    optimizer = SGD(model.parameters(), lr=0.1)
    return train(model, optimizer, tasks.bars(seed), every=2, clear=lambda step: False, output=named)


@faulty("uncleared_gradient", epochs=6, layers=["embed", "position", "qkv", "out", "norm1", "norm2", "ff1", "ff2"])
def one_of_two_cleared(seed: int) -> Run:
    """Body and head have an optimizer each, but only the gradients of the head are set to zero."""
    model = models.Attention(vocabulary=20, classes=3)
    body = [parameter for name, parameter in model.named_parameters() if not name.startswith("head")]
    first, second = SGD(body, lr=0.05), SGD(model.head.parameters(), lr=0.05)
    task = tasks.majority(seed)

    def step(engine: Engine, batch: Batch) -> float:
        model.train()
        second.zero_grad()
        loss = task.loss_fn(model(batch[0]), batch[1])
        loss.backward()
        first.step()
        second.step()
        return loss.item()

    run = train(model, first, task)
    run.trainer = Engine(step)
    return run
