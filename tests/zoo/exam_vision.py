"""Healthy runs of the exam on vision: classifiers of images and of clips."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from ignite.engine import Engine
from torch import Generator, Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import CosineAnnealingLR, CosineAnnealingWarmRestarts, ExponentialLR, LambdaLR

from zoo.base import Case, Run
from zoo.exam_vision_data import Parts, centred, clips, digits, parted, scenes, shapes
from zoo.exam_vision_models import (
    Activation,
    ClipNet,
    Inception,
    Mixer,
    SoftExperts,
    half_resnet18,
    lenet,
    plain,
    quarter_resnet34,
    small_densenet,
    small_efficientnet,
    small_mobilenet,
    small_shufflenet,
    small_swin,
    small_vit,
)
from zoo.real_base import LossOf, fit, healthy, mean_over, measured


def first(output: Any) -> Tensor:
    """The output, or the first of several."""
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found


def right(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Share of the images whose class is the likeliest."""
    x, y = batch
    return (first(model(x)).argmax(1) == y).float().mean()


def cross_entropy(smoothing: float = 0.0) -> LossOf:
    """The loss of a classifier; the labels are smoothed in training only."""

    def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        return F.cross_entropy(model(x), y, label_smoothing=smoothing if model.training else 0.0)

    return loss_of


def rise_and_fall(optimizer: Optimizer, rise: int, steps: int) -> LambdaLR:
    """The learning rate rises from zero and then falls to zero."""
    return LambdaLR(optimizer, lambda step: min(step / rise, max(0.0, (steps - step) / (steps - rise))))


def x_resnet18(seed: int, clear: bool = True) -> Run:
    """Half a ResNet-18 with Nesterov's momentum, a cosine and smoothed labels."""
    training, validation = shapes(seed).batches(32, seed)
    model = half_resnet18(4)
    optimizer = SGD(model.parameters(), 0.02, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = CosineAnnealingLR(optimizer, 5 * len(training))
    loss_of = cross_entropy(0.1)

    def step(engine: Engine, batch: tuple[Tensor, Tensor]) -> dict[str, float]:
        model.train()
        if clear:
            optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        optimizer.step()
        schedule.step()
        return {"loss": loss.item()}

    evaluator = measured(model, loss_of, right)
    score = lambda: mean_over(model, right, validation)  # noqa: E731
    return Run(model, Engine(step), training, evaluator, validation, optimizer, score)


def x_resnet34(seed: int, rate: float = 5e-4) -> Run:
    """A quarter of a ResNet-34 in one epoch over many images, without validation."""
    parts = shapes(seed, 1280)
    training, validation = parts.batches(16, seed)
    model = quarter_resnet34(4)
    run = fit(model, Adam(model.parameters(), rate), cross_entropy(), training)
    run.score = lambda: mean_over(model, right, validation)
    return run


def x_densenet(seed: int, *, by_class: bool = False, one_blank: bool = False) -> Run:
    """A small DenseNet on images each of which has been standardised."""
    drawn = scenes(seed, 384)
    images, kinds = drawn.images, drawn.kinds[:, 0]
    if one_blank:
        images[17] = 0.0
    mean, deviation = images.mean((1, 2, 3), keepdim=True), images.std((1, 2, 3), keepdim=True)
    parts = parted((images - mean) / deviation, kinds)
    if by_class:
        order = parts.training[1].argsort(stable=True)
        parts = Parts(tuple(values[order] for values in parts.training), parts.validation)
    training, validation = parts.batches(32, seed, shuffle=not by_class)
    model = small_densenet(4)
    return fit(
        model, Adam(model.parameters(), 5e-3), cross_entropy(), training, validation=validation, accuracy_of=right
    )


def x_mobilenet(seed: int, rate: float = 4e-4) -> Run:
    """A small MobileNetV2 with RMSprop, clipping and a slow copy that nobody looks at."""
    training, validation = digits(512, channels=3).batches(32, seed)
    model = small_mobilenet(10)
    optimizer = RMSprop(model.parameters(), rate, alpha=0.9, momentum=0.9)
    ema = copy.deepcopy(model).requires_grad_(False)
    schedule = ExponentialLR(optimizer, 0.98)
    return fit(
        model,
        optimizer,
        cross_entropy(),
        training,
        validation=validation,
        accuracy_of=right,
        ema=ema,
        schedule=schedule,
        clip=5.0,
    )


def x_shufflenet(seed: int) -> Run:
    """A small ShuffleNetV2 whose images are flipped by chance in training."""
    training, validation = shapes(seed, 384).batches(32, seed)
    model = small_shufflenet(4)
    random = Generator().manual_seed(seed)

    def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        if model.training and torch.rand((), generator=random) < 0.5:
            x = x.flip(3)
        return F.cross_entropy(model(x), y)

    optimizer = Adam(model.parameters(), 4e-3, weight_decay=1e-5)
    return fit(model, optimizer, loss_of, training, validation=validation, accuracy_of=right)


def x_efficientnet(seed: int, *, dropout: float = 0.2) -> Run:
    """A small EfficientNet with AdamW and a warm-up, with weight decay as its recipe has it."""
    training, validation = shapes(seed, 384).batches(32, seed)
    model = small_efficientnet(4, dropout)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
    optimizer = AdamW(model.parameters(), 1e-2, weight_decay=0.05)
    schedule = rise_and_fall(optimizer, 12, 8 * len(training) + 10)
    return fit(model, optimizer, cross_entropy(), training, validation=validation, accuracy_of=right, schedule=schedule)


def x_vit(seed: int, rate: float = 3e-3) -> Run:
    """A small vision transformer with mixed images, a warm-up and clipping."""
    training, validation = digits(640, side=16, channels=3).batches(16, seed)
    model = small_vit(10)
    optimizer = AdamW(model.parameters(), rate, weight_decay=0.05)
    random = Generator().manual_seed(seed)

    def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        if not model.training:
            return F.cross_entropy(model(x), y)
        other, share = torch.randperm(len(x), generator=random), float(0.5 + 0.5 * torch.rand((), generator=random))
        logits = model(share * x + (1 - share) * x[other])
        return share * F.cross_entropy(logits, y) + (1 - share) * F.cross_entropy(logits, y[other])

    schedule = rise_and_fall(optimizer, 16, 6 * len(training) + 10)
    return fit(
        model, optimizer, loss_of, training, validation=validation, accuracy_of=right, clip=1.0, schedule=schedule
    )


def x_swin(seed: int, *, factor: float = 0.995) -> Run:
    """A small Swin transformer whose learning rate falls a little with each batch."""
    training, validation = digits(800, channels=3).batches(32, seed)
    model = small_swin(10)
    optimizer = AdamW(model.parameters(), 5e-3, weight_decay=0.02)
    return fit(
        model,
        optimizer,
        cross_entropy(),
        training,
        validation=validation,
        accuracy_of=right,
        schedule=ExponentialLR(optimizer, factor),
    )


def x_inception(seed: int) -> Run:
    """A net of mixed branches with an auxiliary head that counts for a third."""
    training, validation = shapes(seed, 384).batches(32, seed)
    model = Inception(4)

    def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        main, beside = model(x)
        loss = F.cross_entropy(main, y)
        return loss if beside is None else loss + 0.3 * F.cross_entropy(beside, y)

    optimizer = Adam(model.parameters(), 3e-3)
    return fit(model, optimizer, loss_of, training, validation=validation, accuracy_of=right)


def x_vgg(
    seed: int,
    *,
    depth: int = 6,
    act: Activation = nn.ReLU,
    rate: float = 0.02,
    clip: float | None = 2.0,
    same: bool = False,
) -> Run:
    """Plain convolutions without a norm, with momentum and clipping."""
    training, validation = digits(640).batches(32, seed)
    model = plain(depth, act=act)
    if same:
        for parameter in model.parameters():
            nn.init.constant_(parameter, 0.01)
    optimizer = SGD(model.parameters(), rate, momentum=0.9)
    return fit(model, optimizer, cross_entropy(), training, validation=validation, accuracy_of=right, clip=clip)


def x_mixer(seed: int, *, registered: bool = True, kind: Callable[..., Optimizer] = AdamW) -> Run:
    """An MLP-Mixer under autocast whose gradients are those of two batches."""
    training, validation = digits(768).batches(16, seed)
    model = Mixer(registered=registered)
    optimizer = kind(model.parameters(), 3e-3, weight_decay=0.1)
    return fit(
        model, optimizer, cross_entropy(), training, validation=validation, accuracy_of=right, every=2, bf16=True
    )


def x_clips(seed: int) -> Run:
    """Which way a spot moves, from convolutions over space and time with momentum."""
    training, validation = clips(seed).batches(16, seed)
    model = ClipNet()
    optimizer = SGD(model.parameters(), 0.03, momentum=0.9)
    return fit(model, optimizer, cross_entropy(), training, validation=validation, accuracy_of=right)


def x_lenet(seed: int, *, last: nn.Module | None = None) -> Run:
    """A net with tanh, trained with warm restarts, without accuracy."""
    training, validation = digits(800).batches(40, seed)
    model = lenet(last=last)
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9)
    schedule = CosineAnnealingWarmRestarts(optimizer, 40)
    return fit(model, optimizer, cross_entropy(), training, validation=validation, schedule=schedule)


def x_transfer(seed: int, *, head_last: bool = False) -> Run:
    """A frozen DenseNet, trained before on images in other light, with a new head whose learning rate is high."""
    model: Any = small_densenet(4)
    before = fit(model, Adam(model.parameters(), 5e-3), cross_entropy(), shapes(seed + 50, 320).batches(32, seed)[0])
    before.trainer.run(before.training, max_epochs=6)
    drawn = scenes(seed, 384)
    training, validation = parted(0.7 * centred(drawn.images) + 0.3, drawn.kinds[:, 0]).batches(32, seed)
    model.requires_grad_(False)
    if head_last:
        optimizer = Adam(model.classifier.parameters(), 2e-2)
        model.classifier = nn.Linear(model.classifier.in_features, 4)
    else:
        model.classifier = nn.Linear(model.classifier.in_features, 4)
        optimizer = Adam(model.classifier.parameters(), 2e-2)
    return fit(model, optimizer, cross_entropy(), training, validation=validation, accuracy_of=right)


def x_few(seed: int, *, count: int = 640, dropout: float = 0.3) -> Run:
    """A wide MLP on noisy digits a part of whose labels is wrong; as many steps an epoch whatever the number."""
    parts = digits(640)
    random = Generator().manual_seed(seed)
    (x, y), (held_x, held_y) = parts.training, parts.validation
    wrong = torch.rand(len(y), generator=random) < 0.15
    y = torch.where(wrong, torch.randint(10, y.shape, generator=random), y)
    x = x + 0.5 * torch.randn(x.shape, generator=random)
    held_x = held_x + 0.5 * torch.randn(held_x.shape, generator=random)
    again = torch.arange(640) % count
    training, validation = Parts((x[again], y[again]), (held_x, held_y)).batches(32, seed)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Dropout(dropout), nn.Linear(256, 256), nn.ReLU(),
        nn.Dropout(dropout), nn.Linear(256, 10),
    )  # fmt: skip
    return fit(
        model, Adam(model.parameters(), 1e-3), cross_entropy(), training, validation=validation, accuracy_of=right
    )


def x_rare(seed: int, *, sigmoid: bool = False) -> Run:
    """Whether an image shows a ring, which is rare and therefore counts for more; one logit."""
    drawn = scenes(seed, 1200)
    images, ring = centred(drawn.images), (drawn.kinds[:, 0] == 3).float()
    keep = (ring == 0) | (torch.arange(1200) % 2 == 0)
    training, validation = parted(images[keep], ring[keep][:, None], held=192).batches(32, seed)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.LeakyReLU(), nn.Conv2d(16, 24, 3, 2, 1), nn.BatchNorm2d(24),
        nn.LeakyReLU(), nn.Flatten(), nn.Linear(384, 1),
    )  # fmt: skip

    def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        logits = model(batch[0])
        if sigmoid:
            logits = logits.sigmoid()
        return F.binary_cross_entropy_with_logits(logits, batch[1], pos_weight=torch.tensor(6.0))

    return fit(model, Adam(model.parameters(), 2e-3), loss_of, training, validation=validation)


def x_experts(seed: int) -> Run:
    """Each image is sent to one of four experts, which are to be used evenly."""
    training, validation = digits(640).batches(32, seed)
    model = SoftExperts()

    def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        logits, spread = model(batch[0])
        return F.cross_entropy(logits, batch[1]) + 0.05 * spread

    return fit(model, Adam(model.parameters(), 3e-3), loss_of, training, validation=validation, accuracy_of=right)


CASES: tuple[Case, ...] = (
    healthy("x_resnet18", x_resnet18, epochs=5),
    healthy("x_resnet34", x_resnet34, epochs=1),
    healthy("x_densenet", x_densenet, epochs=6),
    healthy("x_mobilenet", x_mobilenet, epochs=4),
    healthy("x_shufflenet", x_shufflenet, epochs=8),
    healthy("x_efficientnet", x_efficientnet, epochs=8),
    healthy("x_vit", x_vit, epochs=6),
    healthy("x_swin", x_swin, epochs=8),
    healthy("x_inception", x_inception, epochs=6),
    healthy("x_vgg", x_vgg, epochs=6),
    healthy("x_mixer", x_mixer, epochs=5),
    healthy("x_clips", x_clips, epochs=6),
    healthy("x_lenet", x_lenet, epochs=6),
    healthy("x_transfer", x_transfer, epochs=6),
    healthy("x_few", x_few, epochs=8),
    healthy("x_rare", x_rare, epochs=5),
    healthy("x_experts_of_images", x_experts, epochs=6),
)
