"""Trainings of classifiers of images; an argument that is left alone gives the healthy run."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from ignite.engine import Engine
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    LambdaLR,
    LRScheduler,
    OneCycleLR,
    StepLR,
)
from torchvision.models import ResNet

from zoo import real_vision_models as nets
from zoo.base import Run
from zoo.real_base import case_score, fit, mean_over, measured
from zoo.real_vision_tasks import Task, digits, mislabelled, mixed, rare, shifted, tags, textures

LossFn = Callable[[Tensor, Tensor], Tensor]
Prepare = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def right(model: nn.Module, batch: Any) -> Tensor:
    """Share of the images whose class is found."""
    return (model(batch[0]).argmax(1) == batch[1]).float().mean()


def classifier(
    model: nn.Module,
    task: Task,
    optimizer: Optimizer,
    seed: int,
    *,
    size: int = 32,
    loss_fn: LossFn = F.cross_entropy,
    prepare: Prepare | None = None,
    shuffle: bool = True,
    validate: bool = True,
    **settings: Any,
) -> Run:
    """A classifier, whose training batches may be changed before they are used."""

    def loss_of(model: nn.Module, batch: Any) -> Tensor:
        x, y = batch if prepare is None or not model.training else prepare(*batch)
        return loss_fn(model(x), y)

    held_back = task.held_back()
    settings.setdefault("accuracy_of", right)
    settings.setdefault("score", lambda: mean_over(model, settings["accuracy_of"], held_back))
    training = task.batches(size, seed, shuffle)
    return fit(model, optimizer, loss_of, training, validation=held_back if validate else None, **settings)


def warm(optimizer: Optimizer, steps: int, total: int) -> LambdaLR:
    """The learning rate rises from nothing and falls along half a cosine."""

    def factor(step: int) -> float:
        return (
            step / steps if step < steps else 0.5 + 0.5 * math.cos(math.pi * min(1.0, (step - steps) / (total - steps)))
        )

    return LambdaLR(optimizer, factor)


def smoothed(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy with smoothed labels."""
    return F.cross_entropy(logits, y, label_smoothing=0.1)


def resnet(
    seed: int,
    *,
    maximize: bool = False,
    schedule: Callable[[Optimizer], LRScheduler] = lambda optimizer: warm(optimizer, 10, 90),
    shuffled_images: bool = False,
) -> Run:
    """ResNet with SGD and Nesterov momentum, warm-up and cosine, smoothed labels."""
    model, task = nets.resnet(), digits(seed)
    if shuffled_images:
        x, y = task.train
        task = Task((x[torch.randperm(len(x))], y), task.validation)
    optimizer = SGD(model.parameters(), 0.05, momentum=0.9, nesterov=True, weight_decay=5e-4, maximize=maximize)
    return classifier(model, task, optimizer, seed, loss_fn=smoothed, schedule=schedule(optimizer))


def pretrained(seed: int) -> ResNet:
    """A ResNet that knows the digits below five."""
    model = nets.resnet(5)
    task = digits(seed + 100, side=12, count=320, below=5)
    case_score(classifier(model, task, AdamW(model.parameters(), 3e-3), seed, validate=False), 2)
    return model


def resnet_tuned(seed: int, *, rate: float = 1.0, calls: str = "step") -> Run:
    """The pretrained ResNet gets a new head, which learns faster than the rest."""
    model = pretrained(seed)
    model.fc = nn.Linear(128, 10)
    body = [p for name, p in model.named_parameters() if not name.startswith("fc")]
    groups = [{"params": body, "lr": 0.005 * rate}, {"params": model.fc.parameters(), "lr": 0.05 * rate}]
    optimizer = SGD(groups, momentum=0.9)
    schedule = CosineAnnealingLR(optimizer, 75) if calls == "step" else StepLR(optimizer, 1, 0.1)
    return classifier(model, digits(seed, side=12, count=360), optimizer, seed, size=24, schedule=schedule)


def resnet_probe(seed: int, *, late_head: bool = False, shuffle: bool = True) -> Run:
    """A new head on the pretrained ResNet, all else is frozen."""
    model = pretrained(seed)
    new = nn.Linear(128, 10)
    if not late_head:
        model.fc = new
    nets.frozen(model, "fc")
    optimizer = Adam(model.fc.parameters(), 1e-2)
    model.fc = new
    return classifier(model, digits(seed, side=12).ordered(), optimizer, seed, shuffle=shuffle)


def mobilenet(seed: int, *, decay: float = 1e-5, dropout: float = 0.2) -> Run:
    """MobileNetV3 with RMSprop and a slow copy."""
    model = nets.mobilenet(dropout=dropout)
    optimizer = RMSprop(model.parameters(), 2e-3, alpha=0.9, weight_decay=decay)
    return classifier(model, digits(seed), optimizer, seed, size=24, ema=deepcopy(model))


def efficientnet(seed: int, *, rate: float = 3e-3) -> Run:
    """EfficientNet on textures with AdamW and clipped gradients."""
    model = nets.efficientnet()
    return classifier(model, textures(seed), AdamW(model.parameters(), rate), seed, clip=1.0)


def convnext(seed: int, *, rate: float = 4e-3, decay: float = 0.05) -> Run:
    """ConvNeXt, whose branches begin at a millionth, with warm-up."""
    model = nets.convnext()
    optimizer = AdamW(model.parameters(), rate, weight_decay=decay)
    return classifier(model, textures(seed), optimizer, seed, schedule=warm(optimizer, 15, 90))


def vit(seed: int, *, encode: Callable[..., Any] = lambda f: f, rate: float = 5e-3) -> Run:
    """A vision transformer with AdamW, warm-up from zero and clipped gradients."""
    model = nets.vit()
    model.encoder.forward = encode(model.encoder.forward)
    optimizer = AdamW(model.parameters(), rate, weight_decay=0.05)
    schedule = warm(optimizer, 15, 110)
    return classifier(model, digits(seed, count=640), optimizer, seed, schedule=schedule, clip=1.0)


def patches(
    seed: int,
    *,
    scale: float | None = None,
    rate: float = 3e-3,
    constant: bool = False,
    head: float | None = None,
    count: int | None = None,
    detached: bool = False,
) -> Run:
    """A vision transformer that is written out, on digits in pieces."""
    model, task = nets.Patches(scale=scale), digits(seed, side=8, channels=1, count=960)
    model.detached = detached
    if head is not None:
        nn.init.normal_(model.head.weight, std=head)
    if count is not None:
        task = task.first(count).repeated(960 // count)
    if constant:
        nets.initialised(model, lambda weight: nn.init.constant_(weight, 0.02))
    optimizer = Adam(model.parameters(), rate)
    return classifier(model, task, optimizer, seed)


def swin(seed: int, *, copied: bool = False, decay: float = 0.05) -> Run:
    """Swin with AdamW, whose learning rate starts anew every two epochs."""
    model = nets.swin()
    optimizer = AdamW(model.parameters(), 3e-3, weight_decay=decay)
    if copied:
        model = deepcopy(model)
    restarts = CosineAnnealingWarmRestarts(optimizer, 20)
    return classifier(model, textures(seed, count=320), optimizer, seed, schedule=restarts)


def shufflenet(seed: int, *, clear: bool = True) -> Run:
    """ShuffleNet with SGD; two batches are accumulated for a step."""
    model, task = nets.shufflenet(), digits(seed)
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)

    def step(engine: Engine, batch: Any) -> float:
        model.train()
        loss = F.cross_entropy(model(batch[0]), batch[1])
        (loss / 2).backward()
        if engine.state.iteration % 2 == 0:
            optimizer.step()
            if clear:
                optimizer.zero_grad()
        return loss.item()

    held_back = task.held_back()

    def loss_of(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    evaluator = measured(model, loss_of, right)
    score = lambda: mean_over(model, right, held_back)  # noqa: E731
    return Run(model, Engine(step), task.batches(16, seed), evaluator, held_back, optimizer, score)


def regnet(seed: int, *, noise: float = 0.1, momentum: float = 0.9) -> Run:
    """RegNet on digits that are moved, mixed and put under noise, so that training is harder than validation."""
    model = nets.regnet()
    random = torch.Generator().manual_seed(seed)

    def prepare(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x, target = mixed(shifted(x, random, 1), y, random, 10)
        return x + noise * torch.randn(x.shape, generator=random), target

    optimizer = SGD(model.parameters(), 0.1, momentum=momentum, weight_decay=1e-4)
    return classifier(model, digits(seed), optimizer, seed, prepare=prepare)


def densenet(
    seed: int, *, weights: tuple[float, ...] = (1.0, 1.0, 8.0, 8.0), size: int = 16, rate: float = 0.02
) -> Run:
    """DenseNet on textures, two of which are rare and weigh more."""
    model = nets.densenet()
    weight = torch.tensor(weights)
    optimizer = SGD(model.parameters(), rate, momentum=0.9)
    loss_fn = lambda logits, y: F.cross_entropy(logits, y, weight)  # noqa: E731
    return classifier(model, rare(seed), optimizer, seed, size=size, loss_fn=loss_fn)


def excited(seed: int, *, pooled: tuple[int, ...] = (2, 3)) -> Run:
    """An own ResNet with squeeze and excitation; the learning rate rises and falls in one cycle."""
    model = nets.ExcitedResNet()
    model.pooled = pooled
    optimizer = AdamW(model.parameters(), 1e-3)
    schedule = OneCycleLR(optimizer, 1e-2, total_steps=91)
    return classifier(model, digits(seed), optimizer, seed, schedule=schedule)


def plain(
    seed: int,
    *,
    scale: float = 1.0,
    offset: float = 0.0,
    bias: float | None = None,
    rate: float = 2e-3,
    decay: float = 0.0,
    loss_fn: LossFn = F.cross_entropy,
    weights: Callable[[Tensor], Any] = lambda weight: weight,
    shuffle: bool = True,
    **settings: Any,
) -> Run:
    """Convolutions without norm, with dropout and Adam."""
    model = nets.Plain(**settings)
    task = digits(seed, side=8, channels=1, count=960).scaled(scale, offset).ordered()
    if bias is not None:
        nn.init.constant_(model.features[1][0].bias, bias)
    nets.initialised(model, weights)
    optimizer = Adam(model.parameters(), rate, weight_decay=decay)
    return classifier(model, task, optimizer, seed, loss_fn=loss_fn, shuffle=shuffle)


def few(seed: int, *, count: int | None = None) -> Run:
    """Convolutions on digits of which some carry a wrong label; the score is the loss on others."""
    model = nets.Plain(dropout=0.3)
    task = mislabelled(digits(seed, side=8, channels=1, count=1150), seed, 0.1)
    if count is not None:
        task = task.first(count).repeated(10)
    held_back = task.held_back()
    loss_of = lambda model, batch: F.cross_entropy(model(batch[0]), batch[1])  # noqa: E731
    score = lambda: -mean_over(model, loss_of, held_back)  # noqa: E731
    return classifier(model, task, Adam(model.parameters(), 3e-3), seed, score=score)


def lenet(seed: int, *, act: Callable[[], nn.Module] = nn.Tanh, gain: float = 1.0) -> Run:
    """Tanh units, as long ago, trained on all digits at once."""
    task = digits(seed, side=8, channels=1, count=240)
    model = nets.Plain(widths=(1, 12, 16, 16), act=act, hidden_act=act, dropout=0.0)
    hidden = [layer for _ in range(3) for layer in (nn.Linear(64, 64), act())]
    model.classifier[2] = nn.Sequential(act(), *hidden)
    nets.initialised(model, lambda weight: weight.data.mul_(gain))
    return classifier(model, task.repeated(12), Adam(model.parameters(), 5e-3), seed, size=240, shuffle=False)


def one_epoch(seed: int, *, shuffle: bool = True) -> Run:
    """A ResNet with squeeze and excitation that sees every texture once, without validation."""
    model, task = nets.ExcitedResNet(4, 16), textures(seed, count=960).ordered()
    optimizer = SGD(model.parameters(), 0.02, momentum=0.9)
    return classifier(model, task, optimizer, seed, size=8, shuffle=shuffle, validate=False)


def mixer(
    seed: int,
    *,
    act: Callable[[], nn.Module] = nn.GELU,
    rate: float = 3e-3,
    divided: float = 1.0,
    target: Callable[[Tensor], Tensor] = lambda y: y,
) -> Run:
    """An MLP-Mixer with AdamW, without accuracy."""
    model, task = nets.Mixer(act=act), digits(seed, side=8, channels=1, count=640)
    (x, y), (held_x, held_y) = task.train, task.validation
    task = Task((x / divided, target(y)), (held_x / divided, held_y))
    held_back = task.held_back()
    score = lambda: mean_over(model, right, held_back)  # noqa: E731
    optimizer = AdamW(model.parameters(), rate, weight_decay=0.05)
    return classifier(model, task, optimizer, seed, accuracy_of=None, score=score)


def tagged(model: nn.Module, batch: Any) -> Tensor:
    """Mean of how often a tag that is there is found, and one that is not there is left out."""
    found, there = model(batch[0]) > 0, batch[1] > 0
    return 0.5 * (found[there].float().mean() + (~found)[~there].float().mean())


def tagger(
    seed: int, *, last: Callable[[], nn.Module] | None = None, rate: float = 5e-3, detached: bool = False
) -> Run:
    """Tags of images, of which several may be right; those that are there weigh more."""
    model = nets.ExcitedResNet(4)
    if last is not None:
        model.head = nn.Sequential(model.head, last())  # type: ignore[assignment]
    loss_fn = lambda logits, y: F.binary_cross_entropy_with_logits(logits, y, pos_weight=torch.tensor(4.0))  # noqa: E731
    optimizer = AdamW(model.parameters(), rate)
    return classifier(model, tags(seed, count=640), optimizer, seed, loss_fn=loss_fn, accuracy_of=tagged)
