"""Runs in which nothing is wrong, among them those that other tools took for faulty."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from ignite.engine import Events
from ignite.handlers import PiecewiseLinear
from torch import nn
from torch.optim import SGD, Adam, AdamW, RMSprop
from torch.optim.lr_scheduler import CosineAnnealingLR, StepLR

from ignite_act.data import Split
from zoo.base import HEALTHY, Run
from zoo.tuned_parts import (
    MLP,
    AttentionBlock,
    Cases,
    ConvNet,
    Functional,
    LinearBlock,
    Recurrent,
    ResidualNet,
    Task,
    TiedNet,
    TokenNet,
    blobs,
    chain,
    circles,
    digits,
    fit,
    friedman,
    initialise,
    majority,
    moons,
    order,
    raw_digits,
    rounded_accuracy,
    stripes,
)

CASES = Cases()


@CASES.add(HEALTHY)
def plain_mlp(seed: int) -> Run:
    """A ReLU network on digits, as in a first tutorial."""
    model = MLP([64, 128, 64, 10])
    return fit(digits(), model, SGD(model.parameters(), 0.03, momentum=0.9), seed)


@CASES.add(HEALTHY, epochs=10)
def partly_dead(seed: int) -> Run:
    """A quarter of the first layer's units is dead, and there are enough of them left."""
    model = Functional(64, 120, 10)
    with torch.no_grad():
        model.fc1.bias[:30] = -8.0
    return fit(digits(), model, Adam(model.parameters(), 2e-3), seed, returns="mapping")


@CASES.add(HEALTHY, epochs=15)
def converged(seed: int) -> Run:
    """A network that goes on long after its accuracy has stopped rising."""
    model = MLP([64, 96, 48, 10])
    return fit(digits(), model, SGD(model.parameters(), 0.02, momentum=0.9, weight_decay=2e-3), seed, batch=32)


@CASES.add(HEALTHY, epochs=12)
def converged_adam(seed: int) -> Run:
    """Well separated blobs, all of them right after the first epoch, and gradients of almost nothing at the end."""
    model = MLP([8, 64, 64, 5])
    return fit(blobs(seed, spread=0.7), model, Adam(model.parameters(), 3e-3), seed, batch=32, returns="tuple")


@CASES.add(HEALTHY, epochs=5)
def conv_batch_norm(seed: int) -> Run:
    """Convolutions with a bias that a batch norm takes away again."""
    model = ConvNet(norm=nn.BatchNorm2d)
    return fit(digits(), model, Adam(model.parameters(), 5e-3), seed, returns="mapping")


@CASES.add(HEALTHY, epochs=5)
def residual_cosine(seed: int) -> Run:
    """A residual net, whose learning rate follows a cosine."""
    model = ResidualNet(3, 4)
    optimizer = SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    run = fit(stripes(seed), model, optimizer, seed, batch=32, returns="tensor")
    scheduler = CosineAnnealingLR(optimizer, 5 * len(run.training))
    run.trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: scheduler.step())
    return run


@CASES.add(HEALTHY)
def transformer_warm_up(seed: int) -> Run:
    """A transformer block with layer norms: two epochs of warm-up, clipping, and embeddings that no token uses."""
    model = TokenNet(60, 3, AttentionBlock(24))
    optimizer = AdamW(model.parameters(), 3e-3, weight_decay=0.01)
    run = fit(majority(seed), model, optimizer, seed, batch=32, clip=1.0, returns="tuple")
    warm_up = PiecewiseLinear(optimizer, "lr", [(0, 1e-5), (48, 3e-3), (144, 1e-4)])
    run.trainer.add_event_handler(Events.ITERATION_STARTED, warm_up)
    return run


@CASES.add(HEALTHY)
def encoder_layer(seed: int) -> Run:
    """torch's own encoder layer with dropout."""
    block = nn.TransformerEncoderLayer(24, 4, 48, dropout=0.1, batch_first=True)
    model = TokenNet(24, 3, block)
    return fit(majority(seed), model, Adam(model.parameters(), 2e-3), seed, batch=32)


@CASES.add(HEALTHY, epochs=5)
def tied_weights(seed: int) -> Run:
    """A language model with tied weights, of whose 64 tokens only 16 occur."""
    model = TiedNet(64, 8)
    return fit(chain(seed), model, AdamW(model.parameters(), 2e-3), seed, batch=32)


@CASES.add(HEALTHY, epochs=8)
def gru(seed: int) -> Run:
    """A gated recurrent network that remembers which token came first, with clipping."""
    model = Recurrent(20, 2, nn.GRU(16, 32, batch_first=True))
    return fit(order(seed), model, Adam(model.parameters(), 4e-3), seed, batch=32, clip=1.0)


@CASES.add(HEALTHY, epochs=10)
def shallow_tanh(seed: int) -> Run:
    """One hidden layer of tanh on circles, some of whose units saturate."""
    model = MLP([2, 32, 1], nn.Tanh)
    return fit(circles(), model, SGD(model.parameters(), 0.2, momentum=0.9), seed, batch=50)


@CASES.add(HEALTHY, epochs=12)
def shallow_sigmoid(seed: int) -> Run:
    """One hidden layer of sigmoids on moons, without an evaluator."""
    model = MLP([2, 24, 1], nn.Sigmoid)
    return fit(moons(seed), model, RMSprop(model.parameters(), 5e-2), seed, batch=10, evaluate=False)


@CASES.add(HEALTHY, epochs=10)
def dropout(seed: int) -> Run:
    """Two layers with a common share of dropout, so that training looks a little worse than validation."""
    model = MLP([64, 128, 128, 10], dropout=0.3)
    return fit(digits(), model, Adam(model.parameters(), 3e-3), seed, returns="tensor")


@CASES.add(HEALTHY, epochs=8)
def label_smoothing(seed: int) -> Run:
    """A loss that stays far from 0 because the targets are smoothed."""
    model = ConvNet(norm=lambda channels: nn.GroupNorm(4, channels))
    smoothed = nn.CrossEntropyLoss(label_smoothing=0.2)
    return fit(digits(), model, Adam(model.parameters(), 1e-2), seed, loss_fn=smoothed)


@CASES.add(HEALTHY, epochs=8)
def unscaled_pixels(seed: int) -> Run:
    """Digits from 0 to 16 as scikit-learn has them, which a small rate deals with."""
    model = MLP([64, 64, 32, 10])
    return fit(raw_digits(), model, Adam(model.parameters(), 1e-3), seed, batch=32, returns="mapping")


@CASES.add(HEALTHY, epochs=10)
def fine_tuned(seed: int) -> Run:
    """A new head, at zero in the beginning, on features that were learned before and are frozen on purpose."""
    model, samples = MLP([64, 96, 48, 10], nn.LeakyReLU), digits().training
    optimizer = Adam(model.parameters(), 5e-3)
    for _ in range(40):
        optimizer.zero_grad()
        F.cross_entropy(model(samples.x), samples.y).backward()
        optimizer.step()
    model.requires_grad_(False)
    model.layers[-1] = nn.Linear(48, 10)
    nn.init.zeros_(model.layers[-1].weight)
    return fit(digits(), model, Adam(model.layers[-1].parameters(), 4e-3), seed)


@CASES.add(HEALTHY, epochs=10)
def regression(seed: int) -> Run:
    """Friedman's regression, whose noise no network can explain."""
    model = MLP([10, 48, 24, 1], nn.SiLU)
    return fit(friedman(seed), model, Adam(model.parameters(), 5e-3), seed, batch=50, returns="tuple")


@CASES.add(HEALTHY, epochs=10)
def robust_regression(seed: int) -> Run:
    """The same with a batch norm, a robust loss and a rate that falls in steps."""
    model = MLP([10, 48, 48, 1], norm=nn.BatchNorm1d)
    optimizer = SGD(model.parameters(), 0.02, momentum=0.9)
    run = fit(replace(friedman(seed), loss=F.smooth_l1_loss), model, optimizer, seed, batch=50)
    scheduler = StepLR(optimizer, 4, 0.3)
    run.trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: scheduler.step())
    return run


@CASES.add(HEALTHY, epochs=8)
def accumulated(seed: int) -> Run:
    """Four residual blocks behind layer norms; four small batches make one step."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), *(LinearBlock(32) for _ in range(4)), nn.Linear(32, 10))
    return fit(digits(), model, AdamW(model.parameters(), 2e-3), seed, batch=32, accumulate=4, returns="tensor")


@CASES.add(HEALTHY, epochs=8)
def log_probabilities(seed: int) -> Run:
    """Outputs that are never positive, which is right with this loss."""
    model = MLP([64, 96, 10], nn.ELU, last=nn.LogSoftmax(1))
    return fit(replace(digits(), loss=F.nll_loss), model, SGD(model.parameters(), 0.03, momentum=0.9), seed)


@CASES.add(HEALTHY, epochs=12)
def probability(seed: int) -> Run:
    """A sigmoid at the end, which is right with this loss."""
    task = replace(moons(seed), loss=F.binary_cross_entropy, accuracy=rounded_accuracy)
    model = MLP([2, 32, 32, 1], last=nn.Sigmoid())
    return fit(task, model, Adam(model.parameters(), 5e-3), seed, batch=50)


@CASES.add(HEALTHY, epochs=10)
def autoencoder(seed: int) -> Run:
    """Pixels from 0 to 1 through a bottleneck and out of a sigmoid."""
    pixels = (part.x.flatten(1) / 16 for part in (raw_digits().training, raw_digits().validation))
    task = Task(*(Split(x, x) for x in pixels), F.mse_loss, accuracy=None)
    model = MLP([64, 48, 16, 48, 64], nn.Mish, last=nn.Sigmoid())
    return fit(task, model, Adam(model.parameters(), 5e-3), seed, batch=32)


@CASES.add(HEALTHY)
def deep_relu(seed: int) -> Run:
    """Eight layers that He's initialisation makes trainable."""
    model = MLP([64, *[48] * 8, 10])
    initialise(model, lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu"))
    return fit(digits(), model, Adam(model.parameters(), 1e-3), seed, batch=32)
