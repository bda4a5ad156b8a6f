"""Healthy runs that were kept out of the tuning, most of them with something that looks like a fault."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from ignite.engine import Engine
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, NAdam, RMSprop
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, OneCycleLR

from ignite_act.data import Split, TensorLoader
from zoo import held_out_models as models
from zoo import held_out_tasks as tasks
from zoo.base import Batch, Case, Run
from zoo.held_out_models import mlp
from zoo.held_out_tasks import itself, named, paired, train

CASES: list[Case] = []
healthy = functools.partial(tasks.member, CASES)


@healthy(epochs=12)
def spirals_gelu(seed: int) -> Run:
    """A GELU perceptron on spirals."""
    model = mlp([2, 64, 64, 3], nn.GELU)
    return train(model, Adam(model.parameters(), lr=5e-3), tasks.spirals(seed), output=named)


@healthy(epochs=8)
def waves_one_cycle(seed: int) -> Run:
    """1-D convolutions with group norm, under one cycle of the learning rate."""
    model = models.Waves()
    optimizer = SGD(model.parameters(), lr=0.02, momentum=0.9, nesterov=True)
    scheduler = OneCycleLR(optimizer, max_lr=0.2, total_steps=8 * 15 + 1)
    return train(model, optimizer, tasks.waves(seed), scheduler=scheduler)


@healthy(epochs=6)
def bars_mixer(seed: int) -> Run:
    """An MLP-mixer."""
    model = models.Mixer()
    return train(model, AdamW(model.parameters(), lr=4e-3), tasks.bars(seed), output=itself)


@healthy(epochs=8)
def zero_branches_warmed_up(seed: int) -> Run:
    """Residual branches that begin at zero, and a learning rate that does too."""
    model = models.PreNorm(64, 10)
    optimizer = AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    scheduler = LambdaLR(optimizer, lambda step: min(1, (step + 1) / 30))
    return train(model, optimizer, tasks.digits(seed), scheduler=scheduler)


@healthy(epochs=5)
def gated_cell(seed: int) -> Run:
    """Sigmoid gates in a recurrent cell written by hand, with clipped gradients."""
    model = models.Gated()
    optimizer = RMSprop(model.parameters(), lr=2e-3)
    return train(model, optimizer, tasks.majority(seed), clip=1.0, output=paired)


@healthy(epochs=10)
def attention_with_padding(seed: int) -> Run:
    """Attention written by hand; most of the vocabulary, and padding, never occur."""
    model = models.Attention(vocabulary=60, classes=2)
    return train(model, AdamW(model.parameters(), lr=3e-3), tasks.precedence(seed))


@healthy(epochs=8)
def sparse_embedding_bag(seed: int) -> Run:
    """A bag of embeddings with sparse gradients; most rows are never looked up."""
    model = models.Bag(vocabulary=200, sparse=True)
    return train(model, SGD(model.parameters(), lr=1.0), tasks.majority(seed), batch_size=16)


@healthy(epochs=6)
def tied_language_model(seed: int) -> Run:
    """A language model whose output layer is its embedding, on sequences of a Markov chain."""
    generator = torch.Generator().manual_seed(seed)
    tokens = [torch.randint(12, (500,), generator=generator)]
    for _ in range(12):
        jump = torch.randint(12, (500,), generator=generator)
        tokens.append(torch.where(torch.rand(500, generator=generator) < 0.85, (5 * tokens[-1] + 3) % 12, jump))
    sequences = torch.stack(tokens, dim=1)
    task = tasks.task(sequences[:, :-1], sequences[:, 1:], 350, seed, F.cross_entropy)
    model = models.TiedLanguageModel()
    return train(model, NAdam(model.parameters(), lr=1e-2), task)


@healthy(epochs=6)
def frozen_body(seed: int) -> Run:
    """Fine-tuning: a body that learned the small digits is frozen, a new head learns the great ones."""
    task = tasks.digits(seed, 1197)
    model = mlp([64, 96, 48, 10], nn.SiLU)
    _fit(model, Adam(model.parameters(), lr=3e-3), _classes(task.training, range(5)), epochs=4)
    model[-1] = nn.Linear(48, 5)
    for parameter in model[:-1].parameters():
        parameter.requires_grad_(False)
    great = tasks.Task(
        *(_classes(part, range(5, 10)) for part in (task.training, task.validation)), loss_fn=F.cross_entropy
    )
    return train(model, Adam(model[-1].parameters(), lr=1e-2), great)


@healthy(epochs=8)
def adversarial_denoiser(seed: int) -> Run:
    """A generator that removes noise and a discriminator, with an optimizer each; no evaluator."""
    clean = tasks.bars(seed).training
    model = nn.ModuleDict(
        {"generator": mlp([144, 64, 144], nn.PReLU), "discriminator": mlp([144, 48, 1], lambda: nn.LeakyReLU(0.2))}
    )
    first = Adam(model["generator"].parameters(), lr=3e-3, betas=(0.5, 0.999))
    second = Adam(model["discriminator"].parameters(), lr=5e-4, betas=(0.5, 0.999))
    bce = F.binary_cross_entropy_with_logits

    def step(engine: Engine, batch: Batch) -> dict[str, float]:
        model.train()
        image = batch[0].flatten(1)
        restored = model["generator"](image + 0.5 * torch.randn_like(image))
        second.zero_grad()
        true, false = model["discriminator"](image), model["discriminator"](restored.detach())
        judged = bce(true, torch.ones_like(true)) + bce(false, torch.zeros_like(false))
        judged.backward()
        second.step()
        first.zero_grad()
        verdict = model["discriminator"](restored)
        loss = F.mse_loss(restored, image) + 0.003 * bce(verdict, torch.ones_like(verdict))
        loss.backward()
        first.step()
        return {"loss": loss.item(), "discriminator": judged.item()}

    return Run(model, Engine(step), TensorLoader(clean, 32, shuffle=True), optimizer=first)


@healthy(epochs=8)
def rare_class(seed: int) -> Run:
    """One sample in twelve is of the second class: the accuracy is high from the start."""
    generator = torch.Generator().manual_seed(seed)
    y = (torch.arange(960) % 12 == 0).long()
    x = torch.randn(960, 6, generator=generator) + 1.2 * y.unsqueeze(1)
    model = mlp([6, 32, 16, 2], nn.Hardswish)
    task = tasks.task(x, y, 640, seed, F.cross_entropy)
    return train(model, Adam(model.parameters(), lr=4e-3), task)


@healthy(epochs=12)
def few_wines(seed: int) -> Run:
    """A SELU perceptron on 90 wines, a bit better on them than on others."""
    model = mlp([13, 32, 32, 3], nn.SELU)
    return train(model, SGD(model.parameters(), lr=0.05, weight_decay=1e-3), tasks.wine(seed).first(90), batch_size=8)


@healthy(epochs=15)
def late_start(seed: int) -> Run:
    """Two sigmoid layers that take some epochs to leave the constant predictor."""
    model = mlp([64, 32, 32, 10], nn.Sigmoid)
    return train(model, SGD(model.parameters(), lr=0.5, momentum=0.9), tasks.digits(seed), batch_size=64)


@healthy(epochs=8)
def half_dropped(seed: int) -> Run:
    """Strong dropout in a wide network: it is better in evaluation than in training."""
    model = mlp([64, 256, 256, 10], nn.LeakyReLU, dropout=0.5)
    return train(model, Adam(model.parameters(), lr=2e-3), tasks.digits(seed))


@healthy(epochs=8)
def dim_pictures(seed: int) -> Run:
    """Inputs between 0 and 0.2 that are learned all the same."""
    task = tasks.digits(seed).mapped(lambda x: (x + 1) / 10)
    model = mlp([64, 80, 40, 10], nn.Mish)
    return train(model, Adam(model.parameters(), lr=5e-3), task, output=named)


@healthy(epochs=8)
def some_dead_units(seed: int) -> Run:
    """A fifth of the units of a layer is dead, which does no harm."""
    model = mlp([64, 80, 40, 10], nn.ReLU)
    nn.init.constant_(model[0].bias[:16], -30)
    return train(model, SGD(model.parameters(), lr=0.05, momentum=0.9), tasks.digits(seed))


@healthy(epochs=5)
def resumed(seed: int) -> Run:
    """A converged network that goes on with a small learning rate, which sinks to zero."""
    task = tasks.tumours(seed)
    model = mlp([30, 16, 1], nn.ELU)
    _fit(model, Adam(model.parameters(), lr=5e-3), task.training, epochs=6, loss_fn=task.loss_fn)
    optimizer = Adam(model.parameters(), lr=3e-4)
    return train(model, optimizer, task, scheduler=CosineAnnealingLR(optimizer, 5 * 12))


@healthy(epochs=6)
def accumulated_gru(seed: int) -> Run:
    """The gradients of four batches make a step."""
    model = models.Recurrent()
    optimizer = Adam(model.parameters(), lr=5e-3)
    return train(model, optimizer, tasks.majority(seed), batch_size=16, every=4, clear=lambda step: step % 4 == 1)


@healthy(epochs=8)
def logistic_regression(seed: int) -> Run:
    """One linear layer, and nothing else, on a task that needs no more."""
    model = nn.Linear(30, 1)
    return train(model, SGD(model.parameters(), lr=0.1), tasks.tumours(seed), batch_size=20, output=itself)


class Normal(nn.Module):
    """The mean and the variance of a number, ``(N, 2)``."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.mean, self.raw = mlp([1, 48, 48], nn.Tanh), nn.Linear(48, 1), nn.Linear(48, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.body(x))
        return torch.cat([self.mean(hidden), F.softplus(self.raw(hidden)) + 1e-3], dim=1)


@healthy(epochs=12)
def negative_loss(seed: int) -> Run:
    """A likelihood whose negative logarithm ends below zero, with a softplus on one of the outputs."""
    model = Normal()
    task = tasks.sine(seed).using(lambda output, y: F.gaussian_nll_loss(output[:, :1], y, output[:, 1:]), "value")
    return train(model, Adam(model.parameters(), lr=5e-3), task)


@healthy(epochs=6)
def log_softmax_outputs(seed: int) -> Run:
    """Log-probabilities as outputs, for a loss that wants them."""
    model = nn.Sequential(models.Bars(F.celu), nn.LogSoftmax(dim=1))
    task = tasks.bars(seed).using(F.nll_loss, "classes")
    return train(model, RMSprop(model.parameters(), lr=1e-3), task, output=paired)


@healthy(epochs=12)
def sigmoid_outputs(seed: int) -> Run:
    """Probabilities as outputs, for a loss that wants them."""
    model = nn.Sequential(mlp([2, 32, 32, 1], nn.Softplus), nn.Sigmoid())
    task = tasks.moons(seed).using(F.binary_cross_entropy, "probability")
    return train(model, Adam(model.parameters(), lr=1e-2), task)


@healthy(epochs=10)
def bounded_autoencoder(seed: int) -> Run:
    """An autoencoder of images between -1 and 1 that ends in a tanh."""
    model = nn.Sequential(mlp([64, 48, 16, 48, 64], nn.PReLU), nn.Tanh())
    return train(model, Adam(model.parameters(), lr=3e-3), tasks.pictures(seed))


@healthy(epochs=6)
def squeeze_excite(seed: int) -> Run:
    """Sigmoid gates on channels; biases before batch norm have no influence."""
    model = models.SqueezeExcite()
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    return train(model, optimizer, tasks.bars(seed), evaluate=False)


@healthy(epochs=10)
def double_precision(seed: int) -> Run:
    """A regression in double precision with a wide ReLU6 layer and large batches."""
    task = tasks.friedman(seed).mapped(Tensor.double, Tensor.double)
    model = mlp([10, 128, 1], nn.ReLU6).double()
    return train(model, Adam(model.parameters(), lr=1e-2), task, batch_size=50)


def _classes(split: Split, classes: range) -> Split:
    """The samples of some classes, counted from zero."""
    chosen = (split.y >= classes.start) & (split.y < classes.stop)
    return Split(split.x[chosen], split.y[chosen] - classes.start)


def _fit(model: nn.Module, optimizer: Any, split: Split, epochs: int, loss_fn: Any = F.cross_entropy) -> None:
    """What happened before the run."""
    batches = TensorLoader(split, 32, shuffle=True)
    for _ in range(epochs):
        for x, y in batches:
            optimizer.zero_grad()
            loss_fn(model(x), y).backward()
            optimizer.step()
