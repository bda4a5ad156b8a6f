"""Healthy runs of the exam on vision: boxes, masks, larger images, places, counts and fields."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

from zoo.base import Case, Run
from zoo.exam_vision import cross_entropy, right
from zoo.exam_vision_data import Parts, centred, crowds, digits, parted, picture, points, scenes
from zoo.exam_vision_models import Activation
from zoo.exam_vision_nets import (
    Detector,
    Field,
    FullyConvolutional,
    Siren,
    SpatialTransformer,
    SuperResolution,
    UNet,
    regressor,
)
from zoo.real_base import fit, healthy, mean_over


def grids(boxes: Tensor, kinds: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """What each cell is to say: its object's box, the centre in parts of the cell, and its class or -1 without one."""
    aim = torch.zeros(len(boxes), 4, cells, cells)
    named = torch.full((len(boxes), cells, cells), -1)
    rows = torch.arange(len(boxes))
    for index in range(boxes.shape[1]):
        column, row = (boxes[:, index, :2] * cells).long().clamp(max=cells - 1).unbind(1)
        aim[rows, :, row, column] = torch.cat([boxes[:, index, :2] * cells % 1, boxes[:, index, 2:]], 1)
        named[rows, row, column] = kinds[:, index]
    return aim, named


def x_detector(seed: int, *, unit: float = 1.0, crossed: bool = False, prior: bool = False) -> Run:
    """A one-stage detector of two objects, whose loss has three terms."""
    drawn = scenes(seed, 384, side=24, objects=2, noise=0.05)
    aim, named = grids(drawn.boxes, drawn.kinds, 6)
    images = centred(drawn.images)
    if crossed:
        images = images.transpose(2, 3).contiguous()
    training, validation = parted(images, unit * aim, named).batches(16, seed)
    model = Detector()
    for name, parameter in model.named_parameters():
        if name.endswith("bias") and (prior or name == "objectness.bias"):
            nn.init.constant_(parameter, -3.0)

    def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        x, aim, named = batch
        objectness, boxes, classes = model(x)
        there = named >= 0
        found = F.binary_cross_entropy_with_logits(objectness[:, 0], there.float(), pos_weight=torch.tensor(8.0))
        placed = F.mse_loss(boxes.permute(0, 2, 3, 1)[there], aim.permute(0, 2, 3, 1)[there])
        return found + 5 * placed + 0.5 * F.cross_entropy(classes.permute(0, 2, 3, 1)[there], named[there])

    def found_by(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        x, aim, named = batch
        _, boxes, classes = model(x)
        apart = (boxes - aim).abs().amax(1) / unit
        return ((classes.argmax(1) == named) & (apart < 0.25))[named >= 0].float().mean()

    optimizer = AdamW(model.parameters(), 4e-3, weight_decay=0.01)
    run = fit(model, optimizer, loss_of, training, validation=validation, clip=10.0)
    run.score = lambda: mean_over(model, found_by, validation)
    return run


def overlap(predicted: Tensor, masks: Tensor) -> Tensor:
    """Share of the pixels that are said to be, or are, part of an object of which both is true."""
    either = (predicted > 0) | (masks > 0)
    return ((predicted == masks) & either).sum() / either.sum().clamp(min=1)


def x_fcn(seed: int, *, turn_masks: bool = True, act: Activation = nn.ReLU) -> Run:
    """The class of each pixel from images that are turned by chance, with one learning rate for all."""
    drawn = scenes(seed, 384)
    training, validation = parted(centred(drawn.images), drawn.masks).batches(16, seed)
    model = FullyConvolutional(act=act)
    random = Generator().manual_seed(seed)

    def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, masks = batch
        if model.training:
            turns = int(torch.randint(4, (), generator=random))
            x, masks = x.rot90(turns, (2, 3)), masks.rot90(turns, (1, 2)) if turn_masks else masks
        return F.cross_entropy(model(x), masks, weight=torch.tensor([0.3, 1.0, 1.0, 1.0, 1.0]))

    def overlap_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return overlap(model(batch[0]).argmax(1), batch[1])

    optimizer = SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    schedule = CosineAnnealingLR(optimizer, 6 * len(training))
    return fit(model, optimizer, loss_of, training, validation=validation, accuracy_of=overlap_of, schedule=schedule)


def x_unet(seed: int, *, last: nn.Module | None = None) -> Run:
    """Where there is an object, from a U-Net with cross-entropy and Dice's loss."""
    drawn = scenes(seed, 256, noise=0.25)
    training, validation = parted(centred(drawn.images), (drawn.masks > 0).float()[:, None]).batches(16, seed)
    model = UNet(last=last)

    def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        logits, masks = model(batch[0]), batch[1]
        found = logits.sigmoid()
        dice = 1 - (2 * (found * masks).sum((1, 2, 3)) + 1) / (found.sum((1, 2, 3)) + masks.sum((1, 2, 3)) + 1)
        return F.binary_cross_entropy_with_logits(logits, masks) + dice.mean()

    def overlap_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return overlap((model(batch[0]) > 0).long(), batch[1].long())

    return fit(model, Adam(model.parameters(), 3e-3), loss_of, training, validation=validation, accuracy_of=overlap_of)


def x_superres(seed: int, *, last: nn.Module | None = None, gain: float = 1.0) -> Run:
    """Images with twice as many pixels from a residual net without norms, with an absolute loss."""
    large = centred(scenes(seed, 320, side=24, objects=3, noise=0.02).images)
    training, validation = parted(F.avg_pool2d(large, 2), large).batches(16, seed)
    model = SuperResolution(last=last)
    for name, parameter in model.named_parameters():
        if name.startswith("body") and name.endswith("weight"):
            parameter.data.mul_(gain)

    def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.l1_loss(model(batch[0]), batch[1])

    return fit(model, Adam(model.parameters(), 2e-3), loss_of, training, validation=validation)


def x_keypoints(seed: int, *, last: nn.Module | None = None, decay: float = 1e-4) -> Run:
    """Where three spots of different colours are, with one cycle of the learning rate."""
    training, validation = points(seed).batches(32, seed)
    model = regressor(6, last)
    optimizer = AdamW(model.parameters(), 1e-3, weight_decay=decay)
    schedule = OneCycleLR(optimizer, 8e-3, total_steps=8 * len(training) + 2)

    def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.smooth_l1_loss(model(batch[0]), batch[1], beta=0.2)

    return fit(model, optimizer, loss_of, training, validation=validation, schedule=schedule)


def x_radius(seed: int, *, flat: bool = True, unit: float = 1.0) -> Run:
    """How wide an object is, in standard deviations, with a squared error."""
    drawn = scenes(seed, 864)
    width = drawn.boxes[:, 0, 2]
    training, validation = parted(centred(drawn.images), unit * (width - 0.44) / 0.058).batches(32, seed)
    model = regressor(1)

    def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        predicted: Tensor = model(batch[0])
        return ((predicted.flatten() if flat else predicted) - batch[1]).square().mean()

    def error_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return (model(batch[0]).flatten() / unit - batch[1] / unit).square().mean()

    run = fit(model, SGD(model.parameters(), 0.02, momentum=0.9), loss_of, training, validation=validation)
    run.score = lambda: -mean_over(model, error_of, validation)
    return run


def x_counting(seed: int, *, logged: bool = True) -> Run:
    """How many spots there are, with Poisson's loss."""
    training, validation = crowds(seed).batches(32, seed)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ELU(), nn.AvgPool2d(2), nn.Conv2d(16, 24, 3, padding=1), nn.ELU(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(384, 32), nn.ELU(), nn.Linear(32, 1),
    )  # fmt: skip

    def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.poisson_nll_loss(model(batch[0])[:, 0], batch[1], log_input=logged)

    return fit(model, Adam(model.parameters(), 3e-3), loss_of, training, validation=validation, clip=20.0)


def colours_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The squared error of colours."""
    return F.mse_loss(model(batch[0]), batch[1])


def decibels(model: nn.Module, places: Tensor, colours: Tensor) -> float:
    """How much the error lies below a signal of one, which is how people compare pictures."""
    return -10 * math.log10(mean_over(model, colours_of, [(places, colours)]))


def x_field(seed: int, *, registered: bool = True, pixels: bool = False) -> Run:
    """One picture as a function of the place, from random waves, on batches of pixels."""
    places, colours = picture(seed)
    if pixels:
        places = (places + 1) * 11.5
    training, _ = Parts((places, colours), (places, colours)).batches(48, seed)
    model = Field(registered=registered)
    run = fit(model, Adam(model.parameters(), 2e-3), colours_of, training)
    run.score = lambda: decibels(model, places, colours)
    return run


def x_siren(seed: int, *, rate: float = 1e-3, first: float = 8.0) -> Run:
    """One picture as a function of the place, from layers of sines, with all pixels in every step."""
    places, colours = picture(seed)
    parts = Parts((places, 2 * colours - 1), (places, 2 * colours - 1))
    training = [parts.training] * 30
    model = Siren(first=first)
    run = fit(model, Adam(model.parameters(), rate), colours_of, training)
    run.score = lambda: decibels(model, *parts.training)
    return run


def moved(parts: Parts, seed: int) -> Parts:
    """The digits somewhere in images twice as large."""
    random = Generator().manual_seed(seed)

    def move(x: Tensor) -> Tensor:
        large = -torch.ones(len(x), 1, 16, 16)
        for image, place, found in zip(
            x, torch.randint(2, 7, (len(x), 2), generator=random).tolist(), large, strict=True
        ):
            found[:, place[0] : place[0] + 8, place[1] : place[1] + 8] = image
        return large

    return Parts(*((move(x), y) for x, y in (parts.training, parts.validation)))


def x_stn(seed: int, *, cut: bool = False) -> Run:
    """A spatial transformer in front of a classifier of digits at any place."""
    training, validation = moved(digits(960), seed).batches(32, seed)
    model = SpatialTransformer(cut=cut)
    optimizer = Adam(model.parameters(), 3e-3)
    return fit(model, optimizer, cross_entropy(), training, validation=validation, accuracy_of=right)


CASES: tuple[Case, ...] = (
    healthy("x_detector", x_detector, epochs=6),
    healthy("x_fcn", x_fcn, epochs=6),
    healthy("x_unet", x_unet, epochs=6),
    healthy("x_superres", x_superres, epochs=6),
    healthy("x_keypoints", x_keypoints, epochs=8),
    healthy("x_radius", x_radius, epochs=5),
    healthy("x_counting", x_counting, epochs=8),
    healthy("x_field", x_field, epochs=8),
    healthy("x_siren", x_siren, epochs=5),
    healthy("x_stn", x_stn, epochs=6),
)
