"""Faults of the data and of the course of the training, kept out of all tuning."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from ignite.engine import Events
from ignite.handlers import EarlyStopping
from torch import nn
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

from ignite_act.data import Split
from zoo.base import Batch, Case, Run
from zoo.kept_out_parts import (
    MLP,
    Reshuffled,
    ResNet,
    Transformer,
    as_dict,
    as_tensor,
    as_tuple,
    cnn,
    enters,
    fit,
)
from zoo.kept_out_tasks import (
    blobs,
    circles,
    diabetes,
    digits,
    progressions,
    reviews,
    shapes,
    split,
    standardised,
    surface,
)

CASES: list[Case] = []
faulty = functools.partial(enters, CASES)


# The data


@faulty("input_scale")
def bytes_to_convolutions(seed: int) -> Run:
    """Images from 0 to 255 reach convolutions without a norm."""
    task = digits(seed).inputs(lambda x: ((x + 1) * 127.5).round())
    model = cnn(10, norm=False)
    return fit(task, model, SGD(model.parameters(), 0.01), seed)


@faulty("input_scale", epochs=8)
def points_in_pixels(seed: int) -> Run:
    """The circles as they were clicked on a screen: coordinates from 0 to 1000."""
    task = circles(seed).inputs(lambda x: 500 + 350 * x)
    model = MLP(2, 32, 32, 1)
    return fit(task, model, Adam(model.parameters(), 1e-3), seed, returns=as_tensor)


@faulty("input_scale", epochs=8)
def homes_as_listed(seed: int) -> Run:
    """Year, area, rooms, distance and price of the land in their own units."""
    units = (torch.tensor([30.0, 40.0, 1.5, 8000.0, 20000.0]), torch.tensor([1970.0, 110.0, 4.0, 16000.0, 60000.0]))
    task = surface(seed).inputs(lambda x: units[0] * x + units[1])
    model = MLP(5, 64, 64, 1, act=nn.Tanh())
    return fit(task, model, SGD(model.parameters(), 0.01, momentum=0.9), seed, returns=as_dict)


@faulty("initial_loss", epochs=8, layers=("fc",))
def random_head(seed: int) -> Run:
    """The last weights of a ResNet are drawn with `torch.randn` times ten."""
    model = ResNet(10)
    nn.init.normal_(model.fc.weight, std=10.0)
    return fit(digits(seed), model, Adam(model.parameters(), 2e-3), seed)


@faulty("initial_loss", epochs=8)
def far_progression(seed: int) -> Run:
    """Targets around 152 as the table has them, for a network that begins at 0 and learns with small steps."""
    task = diabetes(seed).targets(lambda y: 152 + 77 * y)
    model = MLP(10, 64, 1)
    return fit(task, model, Adam(model.parameters(), 1e-3), seed, returns=as_tuple)


@faulty("initial_loss", layers=("norm", "head"))
def loud_norm(seed: int) -> Run:
    """The last norm of a transformer has a gain of 40, so that it begins sure of itself and wrong."""
    model = Transformer()
    nn.init.constant_(model.norm.weight, 40.0)
    nn.init.normal_(model.head.weight, std=0.5)
    return fit(reviews(seed), model, Adam(model.parameters(), 1e-3), seed, returns=as_dict)


@faulty("labels_mismatch")
def shuffled_labels(seed: int) -> Run:
    """Images were shuffled and labels were not, in both parts."""
    task = digits(seed).targets(lambda y: y[torch.randperm(len(y))])
    model = cnn(10)
    return fit(task, model, SGD(model.parameters(), 0.01), seed)


class Zipped:
    """Inputs of one loader with the targets of another."""

    def __init__(self, inputs: Reshuffled, targets: Reshuffled) -> None:
        self.inputs, self.targets = inputs, targets

    def __iter__(self) -> Iterator[Batch]:
        return ((x, y) for (x, _), (_, y) in zip(self.inputs, self.targets, strict=True))

    def __len__(self) -> int:
        return len(self.inputs)


@faulty("labels_mismatch", epochs=5)
def two_loaders(seed: int) -> Run:
    """Words and labels come from two loaders, each of which shuffles in its own way."""
    task, model = reviews(seed), Transformer()
    run = fit(task, model, AdamW(model.parameters(), 1e-3), seed, returns=as_dict)
    words, labels = (Reshuffled(task.train, 32, shuffle=True, seed=2 * seed + order) for order in (0, 1))
    run.training = Zipped(words, labels)
    return run


@faulty("labels_mismatch")
def unsorted_blobs(seed: int) -> Run:
    """Points were sorted by their first coordinate and the labels stayed where they were."""
    old = blobs(seed, n=2000)
    task = old.training(x=lambda x: x[x[:, 0].argsort()])
    model = MLP(6, 32, 4)
    return fit(task, model, Adam(model.parameters(), 1e-3), seed, returns=as_tuple)


# The course


@faulty("overfitting", epochs=15)
def patients_by_heart(seed: int) -> Run:
    """A wide network learns eighty patients by heart."""
    model = MLP(10, 256, 256, 1)
    return fit(diabetes(seed).training(n=80), model, Adam(model.parameters(), 3e-3), seed, batch=16)


@faulty("overfitting", epochs=15)
def images_by_heart(seed: int) -> Run:
    """A perceptron learns sixty images by heart, and little from them about shapes that stand elsewhere."""
    model = MLP(144, 128, 128, 4, act=nn.GELU())
    task = shapes(seed, noise=0.6).training(n=60)
    return fit(task, model, Adam(model.parameters(), 1e-3), seed, batch=8, returns=as_dict)


@faulty("overfitting", epochs=15)
def reviews_by_heart(seed: int) -> Run:
    """Two blocks of a transformer learn seventy reviews by heart."""
    model = Transformer(depth=2)
    task = reviews(seed).training(n=70)
    return fit(task, model, AdamW(model.parameters(), 2e-3), seed, batch=10, clip=1.0, returns=as_tensor)


@faulty("over_regularised", epochs=10)
def dropout_of_nearly_all(seed: int) -> Run:
    """A dropout of 0.95 behind both hidden layers."""
    model = MLP(6, 128, 128, 4, drop=0.95)
    return fit(blobs(seed), model, Adam(model.parameters(), 1e-3), seed)


@faulty("over_regularised", epochs=10)
def blanked_pixels(seed: int) -> Run:
    """Nine in ten pixels are dropped before a perceptron sees them."""
    model = nn.Sequential(nn.Dropout(0.9), MLP(64, 128, 64, 10, act=nn.LeakyReLU()))
    return fit(digits(seed), model, SGD(model.parameters(), 0.02, momentum=0.9), seed, returns=as_tensor)


@faulty("oscillation", epochs=12, accepted={"update_too_large"})
def momentum_without_end(seed: int) -> Run:
    """A momentum of 0.999 carries the weights past every valley of a smooth surface."""
    model = MLP(5, 32, 1, act=nn.Tanh())
    return fit(surface(seed), model, SGD(model.parameters(), 0.01, momentum=0.999), seed)


@faulty("oscillation", epochs=7, accepted={"update_too_large"})
def reader_on_a_swing(seed: int) -> Run:
    """The same for a transformer, with a rate that is common for a momentum of 0.9."""
    model = Transformer()
    return fit(reviews(seed), model, SGD(model.parameters(), 0.1, momentum=0.999), seed, returns=as_dict)


@faulty("oscillation", epochs=10, accepted={"update_too_large"})
def hot_restarts(seed: int) -> Run:
    """Warm restarts with a rate that is far too high throw away what each cycle learned."""
    model = MLP(6, 64, 32, 4, act=nn.Tanh())
    optimizer = SGD(model.parameters(), 5.0)
    schedule = CosineAnnealingWarmRestarts(optimizer, 44)
    return fit(blobs(seed, spread=4.0), model, optimizer, seed, schedule=schedule, returns=as_dict)


@faulty("plateau", accepted={"labels_mismatch"})
def where_not_what(seed: int) -> Run:
    """Where the dot is cannot be seen behind convolutions around the edges and a mean over the image."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.randint(100, (700,), generator=generator)
    images = F.one_hot(place, 100).float().view(-1, 1, 10, 10) + 0.1 * torch.randn(700, 1, 10, 10, generator=generator)
    task = split(images, place // 50 * 2 + place % 10 // 5, seed)
    layers = [layer for inputs in (1, 8) for layer in (_around(inputs), nn.ReLU())]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    return fit(task, model, Adam(model.parameters(), 2e-3), seed)


def _around(inputs: int) -> nn.Module:
    return nn.Conv2d(inputs, 8, 3, padding=1, padding_mode="circular")


@faulty("plateau", epochs=15, accepted={"labels_mismatch"})
def remainders(seed: int) -> Run:
    """The remainder of a number is too fine a pattern for a perceptron on that number; early stopping gives up."""
    numbers = torch.arange(1500)
    task = split(standardised(numbers.float()[:, None]), numbers % 3, seed)
    model = MLP(1, 64, 64, 3, act=nn.Tanh())
    run = fit(task, model, SGD(model.parameters(), 0.05, momentum=0.9), seed, returns=as_tuple)
    assert run.evaluator is not None
    stopping = EarlyStopping(4, lambda engine: -engine.state.metrics["loss"], run.trainer, threshold=1e-2)
    run.evaluator.add_event_handler(Events.COMPLETED, stopping)
    return run


@faulty("plateau", accepted={"labels_mismatch"})
def white_noise(seed: int) -> Run:
    """What a transformer is to say next has nothing to do with what came before."""
    task = progressions(seed).targets(lambda y: torch.randint(12, y.shape))
    model = Transformer(words=12, classes=12)
    last = replace(task, train=_last(task.train), valid=_last(task.valid))
    return fit(last, model, AdamW(model.parameters(), 5e-4), seed, batch=64, returns=as_tensor)


def _last(part: Split) -> Split:
    return Split(part.x, part.y[:, -1])
