"""Ordinary runs in which nothing is wrong, kept out of all tuning."""

from __future__ import annotations

import functools
from dataclasses import replace

import torch
import torch.nn.functional as F
from ignite.engine import Events
from ignite.handlers import EarlyStopping
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, RMSprop
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, MultiStepLR

from zoo.base import HEALTHY, Case, Run
from zoo.kept_out_parts import MLP, Block, ResNet, Transformer, as_dict, as_tensor, as_tuple, cnn, enters, fit
from zoo.kept_out_tasks import (
    BINARY,
    REGRESSION,
    blobs,
    by_half,
    circles,
    diabetes,
    digits,
    iris,
    progressions,
    rare,
    reviews,
    shapes,
    surface,
)

CASES: list[Case] = []
healthy = functools.partial(enters, CASES, HEALTHY)


@healthy(epochs=8)
def first_steps(seed: int) -> Run:
    """A ReLU perceptron with plain gradient descent."""
    model = MLP(64, 128, 64, 10)
    return fit(digits(seed), model, SGD(model.parameters(), 0.1), seed)


@healthy(epochs=6)
def slow_and_steady(seed: int) -> Run:
    """The cautious default of 0.01 without momentum, which is far from done when the run ends."""
    model = MLP(64, 64, 10)
    return fit(digits(seed), model, SGD(model.parameters(), 0.01), seed, batch=16, returns=as_tensor)


@healthy(epochs=8)
def great_batches(seed: int) -> Run:
    """Batches of 128, seven in an epoch, and pixels from 0 to 1 that nobody centred."""
    model = MLP(64, 128, 128, 10, act=nn.LeakyReLU())
    task = digits(seed).inputs(lambda x: (x + 1) / 2)
    return fit(task, model, Adam(model.parameters(), 2e-3), seed, batch=128)


@healthy(epochs=5)
def small_batches(seed: int) -> Run:
    """Batches of eight flowers and a single layer of sigmoids."""
    model = MLP(4, 16, 3, act=nn.Sigmoid())
    return fit(iris(seed), model, Adam(model.parameters(), 2e-2), seed, batch=8, returns=as_dict)


@healthy(epochs=15)
def done_long_ago(seed: int) -> Run:
    """Blobs that lie far apart are separated in the first epochs, and the loss sinks on towards 0."""
    model = MLP(6, 32, 32, 4)
    return fit(blobs(seed, spread=0.5), model, Adam(model.parameters(), 1e-2), seed)


@healthy(epochs=10)
def rings_of_tanh(seed: int) -> Run:
    """Two layers of tanh with momentum."""
    model = MLP(2, 32, 32, 1, act=nn.Tanh())
    return fit(circles(seed), model, SGD(model.parameters(), 0.05, momentum=0.9), seed, returns=as_tuple)


@healthy(epochs=15)
def hesitant_sigmoids(seed: int) -> Run:
    """A layer of sigmoids that looks like the constant predictor for some epochs."""
    model = MLP(2, 32, 1, act=nn.Sigmoid())
    return fit(circles(seed), model, Adam(model.parameters(), 2e-2), seed, batch=20)


@healthy(epochs=8)
def rms_blobs(seed: int) -> Run:
    """SiLUs, RMSprop with its common rate, and no evaluator."""
    model = MLP(6, 64, 32, 4, act=nn.SiLU())
    return fit(blobs(seed), model, RMSprop(model.parameters(), 1e-3), seed, returns=as_dict, evaluate=False)


@healthy(epochs=8)
def softmax_regression(seed: int) -> Run:
    """One linear layer is all that is wanted."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    return fit(digits(seed), model, SGD(model.parameters(), 0.05, weight_decay=1e-4), seed)


@healthy(epochs=6)
def batch_normed_digits(seed: int) -> Run:
    """Convolutions with batch norms."""
    model = cnn(10)
    return fit(digits(seed), model, Adam(model.parameters(), 3e-3), seed, returns=as_tuple)


@healthy(epochs=8)
def shapes_of_elu(seed: int) -> Run:
    """Convolutions with ELUs and no norm, and a rate that falls in steps."""
    model = cnn(4, norm=False, act=nn.ELU)
    optimizer = Adam(model.parameters(), 5e-3)
    return fit(shapes(seed), model, optimizer, seed, batch=16, schedule=MultiStepLR(optimizer, [155, 217], 0.3))


@healthy(epochs=6)
def residual_momentum(seed: int) -> Run:
    """A small ResNet with the usual optimizer of a ResNet."""
    model = ResNet(4)
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    schedule = CosineAnnealingLR(optimizer, 6 * 16)
    return fit(shapes(seed), model, optimizer, seed, schedule=schedule, returns=as_tensor)


@healthy(epochs=5)
def residual_small_batches(seed: int) -> Run:
    """A small ResNet with batches of eight."""
    model = ResNet(10, depth=1)
    return fit(digits(seed, 600), model, AdamW(model.parameters(), 2e-3), seed, batch=8)


@healthy(epochs=5)
def warmed_up_reader(seed: int) -> Run:
    """A transformer with warm-up and clipping; no word stands at the last two of its positions."""
    model = Transformer(words=40)
    optimizer = AdamW(model.parameters(), 2e-3, weight_decay=0.01)
    schedule = LinearLR(optimizer, 0.02, total_iters=35)
    return fit(reviews(seed, 1400, length=10), model, optimizer, seed, schedule=schedule, clip=1.0)


@healthy(epochs=6)
def stock_encoder(seed: int) -> Run:
    """Two of torch's own encoder layers, with ReLU and dropout."""
    model = Transformer(lambda width: nn.TransformerEncoderLayer(width, 4, 64, 0.1, batch_first=True), depth=2)
    return fit(reviews(seed), model, Adam(model.parameters(), 1e-3), seed, returns=as_dict)


class Writer(Transformer):
    """Says for each token what comes next, ``(N, words, L)``."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x)).transpose(1, 2)


@healthy(epochs=8)
def language_model(seed: int) -> Run:
    """A causal transformer that cannot know what follows the first token, so that its loss stays above 0."""
    model = Writer(functools.partial(Block, causal=True), words=12, classes=12)
    return fit(progressions(seed), model, AdamW(model.parameters(), 3e-3), seed, returns=as_tensor)


@healthy(epochs=12)
def half_is_chance(seed: int) -> Run:
    """A regression on patients, half of whose variance nobody can explain."""
    model = MLP(10, 32, 1, act=nn.GELU())
    return fit(diabetes(seed), model, SGD(model.parameters(), 0.01, momentum=0.9), seed, returns=as_tuple)


@healthy(epochs=12)
def smooth_surface(seed: int) -> Run:
    """A regression with little noise; two of the five inputs do not matter."""
    model = MLP(5, 64, 64, 1, act=nn.Mish())
    return fit(surface(seed), model, Adam(model.parameters(), 1e-2), seed)


@healthy(epochs=15)
def counts(seed: int) -> Run:
    """A softplus makes the expected counts positive, which they are; the loss may be negative."""
    hidden = surface(seed, 1500)
    poisson = functools.partial(F.poisson_nll_loss, log_input=False)
    task = replace(hidden.targets(lambda y: torch.poisson(torch.exp(y))), loss=poisson)
    model = MLP(5, 64, 64, 1, end=nn.Softplus())
    return fit(task, model, Adam(model.parameters(), 5e-3), seed)


@healthy(epochs=8)
def yes_or_no_ten_times(seed: int) -> Run:
    """A logit and a yes or no for each of ten digits, nine of which are no."""
    task = replace(digits(seed).targets(lambda y: F.one_hot(y, 10).float()), **BINARY | {"accuracy": None})
    model = cnn(10, act=nn.GELU)
    return fit(task, model, Adam(model.parameters(), 5e-3), seed)


@healthy(epochs=10)
def nine_to_one(seed: int) -> Run:
    """Nine in ten samples are of one class."""
    model = MLP(8, 32, 16, 1)
    return fit(rare(seed), model, Adam(model.parameters(), 3e-3), seed, returns=as_dict)


@healthy(epochs=8)
def wrong_labels_in_training(seed: int) -> Run:
    """A fifth of the labels to train on is wrong; dropout and decay keep the network from learning them by heart."""

    def spoil(y: Tensor) -> Tensor:
        return torch.where(torch.rand(len(y)) < 0.2, torch.randint(10, y.shape), y)

    model = MLP(64, 128, 10, drop=0.3)
    optimizer = AdamW(model.parameters(), 2e-3, weight_decay=0.1)
    return fit(digits(seed).training(y=spoil), model, optimizer, seed, batch=64)


@healthy(epochs=6)
def four_make_a_step(seed: int) -> Run:
    """Four batches of eight make a step, under clipping."""
    model = cnn(10, norm=False, act=nn.SiLU)
    optimizer = Adam(model.parameters(), 1e-2)
    return fit(digits(seed), model, optimizer, seed, batch=8, every=4, clip=5.0)


@healthy(epochs=6)
def borrowed_words(seed: int) -> Run:
    """Word vectors stay as they came, though the optimizer is given all parameters."""
    model = Transformer()
    model.embed.weight.requires_grad_(False)
    return fit(reviews(seed, 1400), model, AdamW(model.parameters(), 1e-3), seed, batch=16)


class Experts(nn.Module):
    """Three experts, weighed by a softmax of a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(5, 3)
        self.experts = nn.ModuleList(MLP(5, 32, 1, act=nn.Hardswish()) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        weights = self.gate(x).softmax(1)
        return (weights * torch.cat([expert(x) for expert in self.experts], 1)).sum(1, keepdim=True)


@healthy(epochs=15)
def mixture_of_experts(seed: int) -> Run:
    """A softmax inside that belongs there."""
    model = Experts()
    return fit(surface(seed), model, Adam(model.parameters(), 1e-2), seed, batch=16)


@healthy(epochs=15)
def probability_for_bce(seed: int) -> Run:
    """A sigmoid at the end, for a loss that wants one, and early stopping when nothing is left to learn."""
    task = replace(circles(seed), loss=F.binary_cross_entropy, accuracy=by_half)
    model = MLP(2, 64, 1, end=nn.Sigmoid())
    run = fit(task, model, Adam(model.parameters(), 1e-2), seed)
    assert run.evaluator is not None
    stopping = EarlyStopping(3, lambda engine: -engine.state.metrics["loss"], run.trainer)
    run.evaluator.add_event_handler(Events.COMPLETED, stopping)
    return run


@healthy(epochs=5)
def log_probabilities_of_a_reader(seed: int) -> Run:
    """Log-probabilities at the end, for a loss that wants them."""
    model = nn.Sequential(Transformer(), nn.LogSoftmax(1))
    return fit(replace(reviews(seed), loss=F.nll_loss), model, Adam(model.parameters(), 2e-3), seed)


@healthy(epochs=10)
def denoised_digits(seed: int) -> Run:
    """An autoencoder that takes noise away, and draws with a tanh because pixels lie between -1 and 1."""
    clean = digits(seed, 640)
    task = replace(clean, **REGRESSION)
    task = replace(
        task,
        train=replace(task.train, x=noisy(task.train.x), y=task.train.x.flatten(1)),
        valid=replace(task.valid, x=noisy(task.valid.x), y=task.valid.x.flatten(1)),
    )
    model = MLP(64, 64, 24, 64, 64, act=nn.LeakyReLU(0.1), end=nn.Tanh())
    return fit(task, model, Adam(model.parameters(), 3e-3), seed)


def noisy(x: Tensor) -> Tensor:
    """Images in noise."""
    return x + 0.4 * torch.randn_like(x)


@healthy(epochs=6)
def deep_residual(seed: int) -> Run:
    """Six blocks deep, which skip connections and batch norms make easy."""
    model = ResNet(4, depth=6, width=8)
    optimizer = SGD(model.parameters(), 0.05, momentum=0.9, nesterov=True)
    schedule = CosineAnnealingLR(optimizer, 6 * 16)
    return fit(shapes(seed), model, optimizer, seed, schedule=schedule, returns=as_tuple)


@healthy(epochs=10)
def robust_surface(seed: int) -> Run:
    """A robust loss, a layer norm, and large batches of the smooth surface."""
    model = nn.Sequential(nn.Linear(5, 64), nn.LayerNorm(64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))
    task = replace(surface(seed), loss=F.huber_loss)
    return fit(task, model, RMSprop(model.parameters(), 3e-3), seed, batch=64)
