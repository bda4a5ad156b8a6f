"""Faults that show inside: gradients, activations, weights, and what the optimizer does to them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from ignite.engine import Events
from ignite.handlers import TerminateOnNan
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, RMSprop
from torch.optim.lr_scheduler import LambdaLR

from zoo.base import Run
from zoo.tuned_parts import (
    MLP,
    AttentionBlock,
    Cases,
    ConvNet,
    Functional,
    LinearBlock,
    Recurrent,
    ResidualNet,
    TokenNet,
    blobs,
    digits,
    fit,
    friedman,
    initialise,
    majority,
    moons,
    order,
    raw_digits,
    stripes,
    with_inputs,
)

CASES = Cases()


@CASES.add("vanishing_gradient", layers=("layers.0", "layers.2"))
def sigmoid_stack(seed: int) -> Run:
    """Seven layers of sigmoids, each of which passes on less than a quarter of the gradient."""
    model = MLP([64, *[48] * 7, 10], nn.Sigmoid)
    return fit(digits(), model, SGD(model.parameters(), 0.1, momentum=0.9), seed)


@CASES.add("vanishing_gradient", layers=("layers.0", "layers.2"))
def plain_and_deep(seed: int) -> Run:
    """Twenty ReLU layers as torch initialises them, without residual connections."""
    model = MLP([8, *[32] * 20, 5])
    return fit(blobs(seed), model, SGD(model.parameters(), 0.05), seed, returns="mapping")


class SigmoidConvolutions(nn.Module):
    """Seven convolutions with sigmoids and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3 if i == 0 else 8, 8, 3, padding=1) for i in range(7))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = torch.sigmoid(conv(x))
        return self.head(x.mean((2, 3)))


@CASES.add("vanishing_gradient", epochs=4, layers=("convs.0", "convs.1"))
def sigmoid_convolutions(seed: int) -> Run:
    """Sigmoids behind seven convolutions."""
    model = SigmoidConvolutions()
    return fit(stripes(seed), model, SGD(model.parameters(), 0.05, momentum=0.9), seed, returns="tensor")


@CASES.add("exploding", accepted={"nonfinite", "initial_loss"})
def large_initialisation(seed: int) -> Run:
    """Weights of six layers drawn with three times the standard deviation that He's rule asks for."""
    model = MLP([64, *[48] * 6, 10], nn.LeakyReLU)
    initialise(model, lambda weight: weight.normal_(std=3 * (2 / weight.shape[1]) ** 0.5))
    return fit(digits(), model, SGD(model.parameters(), 1e-3), seed)


@CASES.add("exploding", layers=("rnn", "rnn.weight_ih_l0", "rnn.weight_hh_l0"))
def recurrent_explosion(seed: int) -> Run:
    """A recurrent matrix four times too wide multiplies the gradient over twenty tokens; the loss stays finite."""
    model = Recurrent(20, 2, nn.RNN(16, 32, batch_first=True))
    nn.init.normal_(model.rnn.weight_hh_l0, std=4 / 32**0.5)
    return fit(order(seed, length=20), model, Adam(model.parameters(), 3e-3), seed, batch=32, returns="tuple")


@CASES.add("exploding", accepted={"nonfinite", "update_too_large"})
def unstable_regression(seed: int) -> Run:
    """A linear regression on squares, with a rate above the limit of stability: each step makes it worse."""
    task = with_inputs(friedman(seed), lambda x: torch.cat([x, x**2, x**3, torch.ones_like(x)], 1))
    model = nn.Sequential(nn.Linear(40, 1))
    return fit(task, model, SGD(model.parameters(), 0.12), seed, batch=125)


@CASES.add("nonfinite", epochs=3, layers=("layers.0",))
def standardised_constant(seed: int) -> Run:
    """Pixels that never change are divided by their standard deviation, which is 0."""
    x = raw_digits().training.x
    model = MLP([64, 48, 10])
    task = with_inputs(raw_digits(), lambda images: (images - x.mean(0)) / x.std(0))
    return fit(task, model, Adam(model.parameters(), 1e-3), seed)


@CASES.add("nonfinite", epochs=4, layers=("layers.0",))
def missing_value(seed: int) -> Run:
    """One of 750 rows has a missing value, so all is well until it is drawn."""
    task = blobs(seed)
    task.training.x[torch.randint(750, (1,))] = torch.nan
    model = MLP([8, 32, 32, 5], nn.Tanh)
    return fit(task, model, SGD(model.parameters(), 0.05, momentum=0.9), seed, batch=25, returns="mapping")


class Normalised(nn.Module):
    """Divides a sum over tokens by its length, whose derivative at 0 is infinite; token 0 is padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(24, 16, padding_idx=0)
        self.mix, self.head = nn.Linear(16, 16, bias=False), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        total = self.mix(self.embedding(x).sum(1))
        return self.head(4 * total / (total**2).sum(1, keepdim=True).sqrt().clamp(min=1e-6))


@CASES.add("nonfinite", epochs=4, layers=("mix",))
def root_of_zero(seed: int) -> Run:
    """The root of 0 for a sequence of nothing but padding, whose loss is fine and whose gradient is not."""
    task = majority(seed)
    task.training.x[torch.randperm(750)[:3]] = 0
    model = Normalised()
    return fit(task, model, Adam(model.parameters(), 1e-2), seed, batch=50)


class Exponential(nn.Module):
    """A network with a positive scale, made so by an exponential."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.scale, self.head = nn.Linear(64, 48), nn.Linear(64, 48), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return self.head(F.relu(self.hidden(x)) * (2 * self.scale(x)).exp())


@CASES.add("nonfinite", epochs=3, accepted={"exploding"})
def overflow(seed: int) -> Run:
    """A scale that an exponential makes positive overflows after some steps, and the run is stopped in mid-epoch."""
    model = Exponential()
    run = fit(digits(), model, SGD(model.parameters(), 0.05, momentum=0.9), seed)
    run.trainer.add_event_handler(Events.ITERATION_COMPLETED, TerminateOnNan())
    return run


@CASES.add("dead_units", layers=("layers.2", "layers.3"))
def born_dead(seed: int) -> Run:
    """A bias that keeps a whole layer of ReLUs below 0 from the beginning."""
    model = MLP([64, 64, 32, 10])
    nn.init.constant_(model.layers[2].bias, -10.0)
    return fit(digits(), model, SGD(model.parameters(), 0.05, momentum=0.9), seed)


@CASES.add("dead_units", epochs=10, layers=("fc1", "relu"))
def mostly_dead(seed: int) -> Run:
    """Nine in ten units of the first layer are dead, and the few that are left do surprisingly well."""
    model = Functional(64, 120, 10)
    with torch.no_grad():
        model.fc1.bias[:112] = -12.0
    return fit(digits(), model, Adam(model.parameters(), 2e-3), seed, returns="mapping")


@CASES.add("dead_units", accepted={"update_too_large"})
def killed_by_rate(seed: int) -> Run:
    """The first steps are so large that most ReLUs never fire again."""
    model = MLP([64, 96, 96, 10])
    return fit(digits(), model, SGD(model.parameters(), 1.0, momentum=0.9), seed, returns="tensor")


@CASES.add("dead_units", layers=("conv2", "relu#2"))
def dead_channels(seed: int) -> Run:
    """Thirteen of the sixteen channels of the second convolution are dead from the beginning."""
    model = ConvNet(channels=3, outputs=4)
    with torch.no_grad():
        model.conv2.bias[:13] = -6.0
    return fit(stripes(seed), model, Adam(model.parameters(), 5e-3), seed, batch=50)


@CASES.add("saturated_units", layers=("layers.0", "layers.1", "layers.2", "layers.3"))
def tanh_too_wide(seed: int) -> Run:
    """Weights of standard deviation 3 drive nearly every tanh to its ends."""
    model = MLP([64, 64, 64, 10], nn.Tanh)
    initialise(model, lambda weight: weight.normal_(std=3.0 if weight.shape[0] > 10 else 0.1))
    return fit(digits(), model, SGD(model.parameters(), 0.05, momentum=0.9), seed)


@CASES.add("saturated_units", epochs=10, layers=("layers.0", "layers.1"))
def closed_sigmoids(seed: int) -> Run:
    """A bias of -10 shuts every sigmoid of the only hidden layer."""
    model = MLP([2, 24, 1], nn.Sigmoid)
    nn.init.constant_(model.layers[0].bias, -10.0)
    return fit(moons(seed), model, SGD(model.parameters(), 0.1, momentum=0.9), seed, batch=50, returns="tuple")


@CASES.add("saturated_units", layers=("conv2", "tanh#2"))
def wide_biases(seed: int) -> Run:
    """Biases of standard deviation 20 hold nearly every tanh of the second convolution at one end."""
    model = ConvNet(channels=3, outputs=4, act=torch.tanh)
    nn.init.normal_(model.conv2.bias, std=20.0)
    return fit(stripes(seed), model, Adam(model.parameters(), 5e-3), seed, batch=50)


@CASES.add("symmetry", layers=("layers.0", "layers.2"))
def constant_weights(seed: int) -> Run:
    """All weights begin at one value, so that the units of a layer stay copies of each other."""
    model = MLP([64, 48, 32, 10], nn.Tanh)
    for layer in model.layers[::2]:
        nn.init.constant_(layer.weight, 0.02)
        nn.init.zeros_(layer.bias)
    return fit(digits(), model, SGD(model.parameters(), 0.03, momentum=0.9), seed)


@CASES.add("symmetry", epochs=8, layers=("layers.0",))
def zero_weights(seed: int) -> Run:
    """Sigmoids whose weights and biases all begin at 0, which leaves one unit in effect."""
    model = MLP([2, 32, 1], nn.Sigmoid)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return fit(moons(seed), model, Adam(model.parameters(), 2e-2), seed, batch=50, returns="mapping")


@CASES.add("symmetry", layers=("conv2",))
def equal_filters(seed: int) -> Run:
    """All filters of the second convolution begin equal, and so do the columns that read them."""
    model = ConvNet(channels=3, outputs=4)
    nn.init.constant_(model.conv2.weight, 0.02)
    nn.init.constant_(model.conv2.bias, 0.0)
    nn.init.constant_(model.head.weight, 0.1)
    return fit(stripes(seed), model, SGD(model.parameters(), 0.05, momentum=0.9), seed, returns="tensor")


@CASES.add("weight_collapse")
def strong_decay(seed: int) -> Run:
    """Weight decay of 1 takes the weights away faster than the loss builds them."""
    model = MLP([64, 64, 32, 10])
    return fit(digits(), model, SGD(model.parameters(), 0.1, weight_decay=1.0), seed)


@CASES.add("weight_collapse")
def strong_decoupled_decay(seed: int) -> Run:
    """AdamW with a decay of 30 at a rate of 5e-3 loses a seventh of every weight in each step."""
    model = TokenNet(24, 3, AttentionBlock(24))
    return fit(majority(seed), model, AdamW(model.parameters(), 5e-3, weight_decay=30.0), seed, returns="tuple")


@CASES.add("weight_collapse")
def strong_penalty(seed: int) -> Run:
    """A penalty on the squares of the weights, added by hand, weighs more than the loss."""
    model = ConvNet(channels=3, outputs=4)

    def penalised(prediction: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(prediction, y) + sum(parameter.pow(2).sum() for parameter in model.parameters())

    return fit(stripes(seed), model, Adam(model.parameters(), 1e-2), seed, batch=32, loss_fn=penalised)


@CASES.add("update_too_small")
def tiny_rate(seed: int) -> Run:
    """A rate of 1e-6, with which nothing moves."""
    model = MLP([64, 64, 32, 10])
    return fit(digits(), model, SGD(model.parameters(), 1e-6, momentum=0.9), seed)


@CASES.add("update_too_small", epochs=4)
def tiny_adam_rate(seed: int) -> Run:
    """A rate of 1e-7 for Adam on a residual net."""
    model = ResidualNet(3, 4)
    return fit(stripes(seed), model, Adam(model.parameters(), 1e-7), seed, returns="mapping")


@CASES.add("update_too_small", epochs=5)
def endless_warm_up(seed: int) -> Run:
    """A warm-up counted in epochs and meant in steps: it would be over after 10,000 of them."""
    model = TokenNet(24, 3, AttentionBlock(24))
    optimizer = AdamW(model.parameters(), 3e-3)
    scheduler = LambdaLR(optimizer, lambda epoch: (epoch + 1) / 10_000)
    run = fit(majority(seed), model, optimizer, seed, clip=1.0)
    run.trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: scheduler.step())
    return run


@CASES.add("update_too_large", accepted={"exploding"})
def huge_adam_rate(seed: int) -> Run:
    """Adam with a rate of 1 moves every weight by 1 a step."""
    model = MLP([64, 64, 32, 10], nn.LeakyReLU)
    return fit(digits(), model, Adam(model.parameters(), 1.0), seed)


@CASES.add("update_too_large", accepted={"exploding"})
def huge_rms_rate(seed: int) -> Run:
    """RMSprop with a rate of 0.5 behind layer norms, which hide it from the activations."""
    model = nn.Sequential(nn.Linear(8, 32), *(LinearBlock(32) for _ in range(2)), nn.LayerNorm(32), nn.Linear(32, 5))
    return fit(blobs(seed), model, RMSprop(model.parameters(), 0.5), seed, batch=50, returns="mapping")


@CASES.add("update_too_large", accepted={"exploding"})
def huge_sgd_rate(seed: int) -> Run:
    """A residual net with batch norms and a rate of 10."""
    model = ResidualNet(3, 4)
    return fit(stripes(seed), model, SGD(model.parameters(), 10.0, momentum=0.9), seed, batch=50, returns="tensor")


@CASES.add("never_updated", layers=("conv1", "conv2"))
def head_only(seed: int) -> Run:
    """The optimizer was given the parameters of the head alone, over features that nobody trained."""
    model = ConvNet()
    return fit(digits(), model, Adam(model.head.parameters(), 1e-2), seed)


@CASES.add("never_updated", layers=("head",))
def replaced_head(seed: int) -> Run:
    """The head was replaced after the optimizer had been made, which goes on with the old one."""
    model = Functional(64, 96, 10)
    optimizer = SGD(model.parameters(), 0.05, momentum=0.9)
    model.head = nn.Linear(96, 10)
    return fit(digits(), model, optimizer, seed, returns="mapping")


@CASES.add("never_updated", layers=("embedding",))
def rate_of_zero(seed: int) -> Run:
    """A group of parameters, the embedding, was left with a rate of 0."""
    model = TokenNet(24, 3, LinearBlock(24))
    rest = [*model.block.parameters(), *model.head.parameters(), model.position]
    groups = [{"params": model.embedding.parameters(), "lr": 0.0}, {"params": rest}]
    return fit(majority(seed), model, AdamW(groups, 3e-3), seed, batch=50)


class Detached(ConvNet):
    """Its head reads features that were detached, as if for a plot."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).detach())


@CASES.add("no_gradient", layers=("conv1", "conv2"))
def detached_features(seed: int) -> Run:
    """A detach between features and head, whose loss falls all the same."""
    model = Detached(channels=3, outputs=4)
    return fit(stripes(seed), model, Adam(model.parameters(), 1e-2), seed, returns="tuple")


class Binarised(nn.Module):
    """Its hidden units are rounded to 0 or 1, of which the derivative is 0."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.head = nn.Linear(2, 16), nn.Linear(16, 16), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.sigmoid(self.fc1(x)).round()
        return self.head(F.relu(self.fc2(hidden)))


@CASES.add("no_gradient", epochs=8, layers=("fc1",))
def rounded_units(seed: int) -> Run:
    """A rounding behind the first layer gives it a gradient that is exactly 0."""
    model = Binarised()
    return fit(moons(seed), model, SGD(model.parameters(), 0.1, momentum=0.9), seed, batch=50)


class Forgetful(nn.Module):
    """Two branches, the second of which is computed without a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.block = nn.Embedding(24, 24), AttentionBlock(24)
        self.head = nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.embedding(x)
        return self.head(self.block(x).mean(1))


@CASES.add("no_gradient", layers=("embedding",))
def without_graph(seed: int) -> Run:
    """The embedding is computed under no_grad, left over from a time when it was frozen."""
    model = Forgetful()
    return fit(majority(seed), model, AdamW(model.parameters(), 3e-3), seed, batch=50, clip=1.0)


class Unused(nn.Module):
    """Two hidden layers, the second of which is computed and thrown away."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.head = nn.Linear(10, 32), nn.Linear(32, 32), nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.silu(self.fc1(x))
        F.silu(self.fc2(hidden))
        return self.head(hidden)


@CASES.add("no_gradient", layers=("fc2",))
def unused_layer(seed: int) -> Run:
    """A layer whose result goes nowhere."""
    model = Unused()
    return fit(friedman(seed), model, Adam(model.parameters(), 5e-3), seed, batch=50, returns="tensor")


@CASES.add("uncleared_gradient")
def never_cleared(seed: int) -> Run:
    """The gradient is never cleared, so that each step follows the sum of all before it."""
    model = MLP([64, 64, 32, 10])
    return fit(digits(), model, SGD(model.parameters(), 0.03), seed, clear=lambda iteration: False)


@CASES.add("uncleared_gradient")
def never_cleared_adam(seed: int) -> Run:
    """The same with Adam, a batch norm and convolutions."""
    model = ConvNet(norm=nn.BatchNorm2d)
    optimizer = Adam(model.parameters(), 1e-2)
    return fit(digits(), model, optimizer, seed, batch=32, returns="mapping", clear=lambda iteration: False)


@CASES.add("uncleared_gradient")
def cleared_once_an_epoch(seed: int) -> Run:
    """The gradient is cleared before an epoch, not before a step."""
    model = MLP([8, 48, 48, 5], nn.Tanh)
    optimizer = SGD(model.parameters(), 0.1)
    return fit(blobs(seed), model, optimizer, seed, batch=25, clear=lambda iteration: iteration % 30 == 1)
