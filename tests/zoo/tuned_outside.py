"""Faults that show outside: outputs, losses, data, and the course of the training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from ignite.engine import Engine, Events
from ignite.handlers import EarlyStopping, LinearCyclicalScheduler
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, RMSprop

from ignite_act.data import Split
from zoo.base import Run
from zoo.tuned_parts import (
    MLP,
    AttentionBlock,
    Cases,
    ConvNet,
    Functional,
    LinearBlock,
    Task,
    TiedNet,
    TokenNet,
    binary_accuracy,
    blobs,
    chain,
    circles,
    digits,
    fit,
    friedman,
    majority,
    moons,
    order,
    raw_digits,
    rounded_accuracy,
    stripes,
    task,
    with_inputs,
    with_labels,
)

CASES = Cases()


@CASES.add("loss_rising")
def maximised(seed: int) -> Run:
    """The optimizer was told to maximise the loss."""
    model = MLP([64, 64, 32, 10], nn.Tanh)
    return fit(digits(), model, SGD(model.parameters(), 1e-2, maximize=True), seed)


@CASES.add("loss_rising")
def wrong_sign(seed: int) -> Run:
    """The step goes up, for the loss is negated before the backward pass."""
    model = ConvNet(channels=3, outputs=4, norm=lambda channels: nn.GroupNorm(4, channels))
    return fit(stripes(seed), model, Adam(model.parameters(), 1e-3), seed, sign=-1, returns="mapping")


@CASES.add("loss_rising", epochs=8)
def wrong_sign_regression(seed: int) -> Run:
    """The same for a regression with tanh, which cannot grow as fast."""
    model = MLP([10, 32, 32, 1], nn.Tanh)
    return fit(friedman(seed), model, AdamW(model.parameters(), 1e-3), seed, sign=-1, returns="tuple")


@CASES.add("output_probabilities", epochs=8, layers=("layers.4", "layers.5"))
def softmax_twice(seed: int) -> Run:
    """A softmax at the end, and a loss that has one of its own."""
    model = MLP([64, 64, 32, 10], last=nn.Softmax(1))
    return fit(digits(), model, SGD(model.parameters(), 0.1, momentum=0.9), seed)


class Probabilities(ConvNet):
    """Returns probabilities."""

    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(super().forward(x), dim=1)


@CASES.add("output_probabilities", layers=("head", "softmax"))
def functional_softmax_twice(seed: int) -> Run:
    """The same as a function behind convolutions."""
    model = Probabilities(channels=3, outputs=4, norm=nn.BatchNorm2d)
    return fit(stripes(seed), model, Adam(model.parameters(), 3e-3), seed, batch=50, returns="mapping")


@CASES.add("output_probabilities", epochs=8, layers=("0.head", "1"))
def token_probabilities(seed: int) -> Run:
    """The same behind a transformer block."""
    model = nn.Sequential(TokenNet(24, 3, AttentionBlock(24)), nn.Softmax(-1))
    return fit(majority(seed), model, AdamW(model.parameters(), 3e-3), seed, batch=50, clip=1.0)


@CASES.add("output_activation", layers=("layers.4", "layers.5"))
def relu_logits(seed: int) -> Run:
    """A ReLU behind the last layer takes all negative logits away."""
    model = MLP([64, 64, 32, 10], last=nn.ReLU())
    return fit(digits(), model, SGD(model.parameters(), 0.05, momentum=0.9), seed)


@CASES.add("output_activation", epochs=8, accepted={"output_probabilities"}, layers=("layers.4", "layers.5"))
def sigmoid_twice(seed: int) -> Run:
    """A sigmoid behind the only logit, and a loss that has one of its own."""
    task = replace(moons(seed), accuracy=rounded_accuracy)
    model = MLP([2, 32, 32, 1], last=nn.Sigmoid())
    return fit(task, model, Adam(model.parameters(), 1e-2), seed, batch=50, returns="tensor")


class Bounded(ConvNet):
    """Its logits lie between -1 and 1."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(super().forward(x))


@CASES.add("output_activation", layers=("head", "tanh"))
def bounded_logits(seed: int) -> Run:
    """A tanh on the logits, which keeps every probability below a half."""
    model = Bounded(norm=nn.BatchNorm2d)
    return fit(digits(), model, Adam(model.parameters(), 1e-2), seed, returns="mapping")


@CASES.add("output_activation", epochs=8, layers=("layers.4", "layers.5"))
def positive_regression(seed: int) -> Run:
    """A sigmoid at the end of a regression, half of whose targets are negative."""
    model = MLP([10, 48, 24, 1], last=nn.Sigmoid())
    return fit(friedman(seed), model, Adam(model.parameters(), 5e-3), seed, batch=50)


@CASES.add("constant_output", layers=("layers.4", "layers.5"))
def softmax_of_one(seed: int) -> Run:
    """A softmax over a single unit is 1, whatever comes in."""
    task = replace(moons(seed), loss=F.binary_cross_entropy, accuracy=rounded_accuracy)
    model = MLP([2, 32, 32, 1], last=nn.Softmax(1))
    return fit(task, model, Adam(model.parameters(), 1e-2), seed, batch=50)


@CASES.add("constant_output", epochs=8, layers=("layers.4", "layers.5"))
def norm_of_one(seed: int) -> Run:
    """A layer norm over a single unit leaves its bias, whatever comes in."""
    model = MLP([10, 48, 24, 1], last=nn.LayerNorm(1))
    return fit(friedman(seed), model, Adam(model.parameters(), 5e-3), seed, batch=50, returns="tuple")


class Averaged(TokenNet):
    """Takes the mean over the batch and over the sequence."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.block(self.embedding(x) + self.position)
        return self.head(hidden.mean((0, 1), keepdim=True)[0]).expand(len(x), -1)


@CASES.add("constant_output")
def batch_mean(seed: int) -> Run:
    """A mean over the batch too, so that all samples of a batch get one answer."""
    model = Averaged(24, 3, AttentionBlock(24))
    return fit(majority(seed), model, AdamW(model.parameters(), 3e-3), seed, batch=50, returns="mapping")


@CASES.add("hidden_softmax", layers=("layers.1", "layers.3"))
def softmax_between(seed: int) -> Run:
    """Softmax modules where activations belong: a layer's units share a sum of 1."""
    model = MLP([64, 64, 64, 10], lambda: nn.Softmax(1))
    return fit(digits(), model, SGD(model.parameters(), 0.1, momentum=0.9), seed)


@CASES.add("hidden_softmax", epochs=8, layers=("softmax", "softmax#2"))
def functional_softmax_between(seed: int) -> Run:
    """The same as a function, with Adam."""
    model = Functional(8, 64, 5, lambda x: F.softmax(x, dim=1))
    return fit(blobs(seed), model, Adam(model.parameters(), 2e-3), seed, batch=50, returns="mapping")


@CASES.add("no_nonlinearity", epochs=8)
def linear_on_circles(seed: int) -> Run:
    """Three layers with nothing between them cannot tell circles apart."""
    model = MLP([2, 32, 32, 1], None)
    return fit(circles(), model, Adam(model.parameters(), 1e-2), seed, batch=50)


@CASES.add("no_nonlinearity")
def linear_on_digits(seed: int) -> Run:
    """Batch norms but no activations: as good as one layer, and no better."""
    model = MLP([64, 64, 32, 10], None, norm=nn.BatchNorm1d)
    return fit(digits(), model, SGD(model.parameters(), 0.02, momentum=0.9), seed, returns="tensor")


@CASES.add("no_nonlinearity", epochs=8)
def linear_regression(seed: int) -> Run:
    """A deep regression without activations."""
    model = MLP([10, 48, 48, 24, 1], None)
    return fit(friedman(seed), model, Adam(model.parameters(), 3e-3), seed, batch=50)


@CASES.add("input_scale")
def bytes_as_pixels(seed: int) -> Run:
    """Pixels from 0 to 255, as they come from a file."""
    model = MLP([64, 64, 32, 10])
    return fit(with_inputs(raw_digits(), lambda x: 16 * x), model, SGD(model.parameters(), 0.01, momentum=0.9), seed)


@CASES.add("input_scale", epochs=8)
def columns_of_a_table(seed: int) -> Run:
    """Features in their own units, from thousandths to ten thousands."""
    task = with_inputs(blobs(seed), lambda x: x * torch.logspace(-3, 4, 8))
    model = MLP([8, 48, 48, 5], nn.Tanh)
    return fit(task, model, Adam(model.parameters(), 2e-3), seed, batch=50, returns="mapping")


@CASES.add("input_scale", epochs=8)
def tiny_inputs(seed: int) -> Run:
    """Coordinates of circles of a thousandth."""
    model = MLP([2, 32, 32, 1], nn.Tanh)
    return fit(with_inputs(circles(), lambda x: x / 1000), model, Adam(model.parameters(), 5e-3), seed, batch=50)


@CASES.add("input_scale", epochs=8)
def far_from_zero(seed: int) -> Run:
    """Features that differ by some units and lie around 2000, as years do."""
    model = MLP([10, 48, 48, 1], nn.LeakyReLU)
    task = with_inputs(friedman(seed), lambda x: x + 2000)
    return fit(task, model, Adam(model.parameters(), 1e-3), seed, batch=50, returns="tuple")


@CASES.add("initial_loss", epochs=8, layers=("layers.4",))
def wide_head(seed: int) -> Run:
    """Weights of the last layer that are far too wide make a sure and wrong guess at first."""
    model = MLP([64, 64, 32, 10])
    nn.init.normal_(model.layers[-1].weight, std=8.0)
    return fit(digits(), model, Adam(model.parameters(), 2e-3), seed)


@CASES.add("initial_loss", layers=("head",))
def biased_head(seed: int) -> Run:
    """The bias of one class is 15, though classes are equally frequent."""
    model = ConvNet(channels=3, outputs=4, norm=nn.BatchNorm2d)
    with torch.no_grad():
        model.head.bias[0] = 15.0
    return fit(stripes(seed), model, SGD(model.parameters(), 0.02, momentum=0.9), seed, returns="tensor")


@CASES.add("initial_loss", epochs=8, layers=("layers.4",))
def rare_prior(seed: int) -> Run:
    """A bias of -8, copied from a detector of rare things, on classes of equal size."""
    model = MLP([2, 32, 32, 1], nn.SiLU)
    nn.init.constant_(model.layers[-1].bias, -8.0)
    return fit(moons(seed), model, Adam(model.parameters(), 5e-3), seed, batch=50, returns="mapping")


@CASES.add("initial_loss", epochs=8, layers=("embedding", "head"))
def wide_tied_embedding(seed: int) -> Run:
    """Tied to the output, torch's initial embedding of standard deviation 1 makes logits of 6."""
    model = TiedNet(64, 8, std=1.0)
    return fit(chain(seed), model, AdamW(model.parameters(), 3e-3), seed, batch=32)


def relabelled(y: Tensor, classes: int, share: float, seed: int) -> Tensor:
    """Labels of which a share is drawn anew."""
    generator = torch.Generator().manual_seed(seed + 1000)
    anything = torch.randint(classes, y.shape, generator=generator)
    return torch.where(torch.rand(y.shape, generator=generator) < share, anything, y)


@CASES.add("overfitting", epochs=15)
def few_noisy_samples(seed: int) -> Run:
    """A hundred and sixty digits, three tenths with any label, and a wide network that learns them by heart."""
    task = with_labels(digits(), lambda y: relabelled(y, 10, 0.3, seed), n=160)
    model = MLP([64, 256, 256, 10])
    return fit(task, model, Adam(model.parameters(), 2e-3), seed, batch=16)


@CASES.add("overfitting", epochs=15)
def noisy_labels(seed: int) -> Run:
    """A hundred images, half of them with any label."""
    task = with_labels(stripes(seed, noise=1.5), lambda y: relabelled(y, 4, 0.5, seed), n=100)
    model = ConvNet(channels=3, outputs=4, norm=nn.BatchNorm2d)
    return fit(task, model, Adam(model.parameters(), 1e-2), seed, batch=10, returns="mapping")


@CASES.add("overfitting", epochs=15)
def few_sequences(seed: int) -> Run:
    """A transformer block that learns sixty sequences by heart."""
    task = with_labels(majority(seed), lambda y: relabelled(y, 3, 0.3, seed), n=60)
    model = TokenNet(24, 3, AttentionBlock(24))
    return fit(task, model, AdamW(model.parameters(), 3e-3), seed, batch=15, returns="tuple")


@CASES.add("overfitting", epochs=15)
def few_points(seed: int) -> Run:
    """A regression on eighty noisy points with thousands of weights."""
    task = with_labels(friedman(seed), lambda y: y + 0.7 * torch.randn(y.shape), n=80)
    model = MLP([10, 128, 128, 1])
    return fit(task, model, Adam(model.parameters(), 3e-3), seed, batch=10)


@CASES.add("over_regularised", epochs=8)
def heavy_dropout(seed: int) -> Run:
    """Dropout of 0.85 behind both hidden layers."""
    model = MLP([64, 96, 96, 10], dropout=0.85)
    return fit(digits(), model, Adam(model.parameters(), 3e-3), seed)


class Noise(nn.Module):
    """Adds noise while training."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 2.5 * torch.randn_like(x) if self.training else x


@CASES.add("over_regularised", epochs=8)
def heavy_augmentation(seed: int) -> Run:
    """Noise much larger than the pixels is added in training."""
    model = nn.Sequential(Noise(), MLP([64, 96, 48, 10]))
    return fit(digits(), model, AdamW(model.parameters(), 2e-3), seed, returns="mapping")


class Dropping(ConvNet):
    """Drops nearly all features before the head."""

    def features(self, x: Tensor) -> Tensor:
        return F.dropout(super().features(x), 0.95, self.training)


@CASES.add("over_regularised", epochs=8)
def heavy_functional_dropout(seed: int) -> Run:
    """A dropout function of 0.95 before the head of a convolutional net."""
    model = Dropping(norm=nn.BatchNorm2d)
    return fit(digits(), model, Adam(model.parameters(), 5e-3), seed, batch=32)


@CASES.add("oscillation", epochs=8)
def sorted_by_class(seed: int) -> Run:
    """Samples come sorted by their class, each of which makes the network forget the other."""
    parts = moons(seed)
    by_class = parts.training.y[:, 0].argsort(stable=True)
    ordered = replace(parts, training=Split(parts.training.x[by_class], parts.training.y[by_class]))
    model = MLP([2, 32, 32, 1], nn.Tanh)
    return fit(ordered, model, SGD(model.parameters(), 0.2), seed, batch=25, shuffle=False)


@CASES.add("oscillation", epochs=10, accepted={"update_too_large"})
def endless_momentum(seed: int) -> Run:
    """A momentum of 0.997 carries the weights through the valley and up the other side, again and again."""
    model = MLP([8, 32, 5], nn.Tanh)
    return fit(blobs(seed), model, SGD(model.parameters(), 0.05, momentum=0.997), seed, batch=25, returns="tensor")


@CASES.add("oscillation", epochs=8, accepted={"update_too_large"})
def cycles_too_high(seed: int) -> Run:
    """A cyclical rate whose peaks undo what was learned in between."""
    model = MLP([64, 64, 32, 10], nn.Tanh)
    optimizer = SGD(model.parameters(), 1e-2, momentum=0.9)
    run = fit(digits(), model, optimizer, seed, batch=32, clip=1.0, returns="mapping")
    cycle = LinearCyclicalScheduler(optimizer, "lr", 1e-2, 1.0, cycle_size=38)
    run.trainer.add_event_handler(Events.ITERATION_STARTED, cycle)
    return run


def mismatched(old: Task, change: Callable[[Tensor], Tensor]) -> Task:
    """The task with labels, in both parts, that belong to other samples."""
    training, validation = (Split(part.x, change(part.y)) for part in (old.training, old.validation))
    return replace(old, training=training, validation=validation)


@CASES.add("labels_mismatch", epochs=5)
def permuted_labels(seed: int) -> Run:
    """The samples were shuffled before they were split, and the labels were not."""
    model = MLP([64, 64, 32, 10])
    task = mismatched(digits(), lambda y: y[torch.randperm(len(y))])
    return fit(task, model, SGD(model.parameters(), 0.05, momentum=0.9), seed)


@CASES.add("labels_mismatch", epochs=5)
def shifted_labels(seed: int) -> Run:
    """Labels lie one row off."""
    model = ConvNet(channels=3, outputs=4, norm=nn.BatchNorm2d)
    task = mismatched(stripes(seed), lambda y: y.roll(1))
    return fit(task, model, Adam(model.parameters(), 2e-3), seed, returns="mapping")


@CASES.add("labels_mismatch", epochs=5)
def reversed_labels(seed: int) -> Run:
    """Labels were read from the last row to the first."""
    model = TokenNet(24, 3, AttentionBlock(24))
    task = mismatched(majority(seed), lambda y: y.flip(0))
    return fit(task, model, AdamW(model.parameters(), 2e-3), seed, batch=50, returns="tuple")


def parity(seed: int) -> tuple[Tensor, Tensor]:
    """Twenty-four signs and whether an even number of them is negative."""
    signs = 2.0 * torch.randint(2, (2000, 24), generator=torch.Generator().manual_seed(seed)) - 1
    return signs, (signs.prod(1, keepdim=True) > 0).float()


@CASES.add("plateau", accepted={"labels_mismatch"})
def parity_of_many(seed: int) -> Run:
    """The parity of 24 signs, which gradients do not find."""
    signs = task(*parity(seed), 400, F.binary_cross_entropy_with_logits, accuracy=binary_accuracy)
    model = MLP([24, 32, 1], nn.Tanh)
    return fit(signs, model, Adam(model.parameters(), 1e-3), seed, batch=50)


@CASES.add("plateau", accepted={"labels_mismatch"})
def order_without_positions(seed: int) -> Run:
    """A transformer block that is not told the positions has to say which token comes first."""
    model = TokenNet(20, 2, LinearBlock(24), length=10, positions=False)
    return fit(order(seed), model, RMSprop(model.parameters(), 5e-4), seed, batch=50, returns="mapping")


@CASES.add("plateau", epochs=15)
def stopped_too_early(seed: int) -> Run:
    """Early stopping loses its patience while the network is still looking for a way off the plateau."""
    model = MLP([2, 32, 32, 1], nn.Tanh)
    run = fit(circles(), model, SGD(model.parameters(), 0.1), seed, batch=50)
    stopper = EarlyStopping(2, loss_of, run.trainer, threshold=0.01)
    run.evaluator.add_event_handler(Events.COMPLETED, stopper)
    return run


def loss_of(evaluator: Engine) -> float:
    """The score of an evaluator."""
    return -evaluator.state.metrics["loss"]
