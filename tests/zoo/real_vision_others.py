"""Trainings on images that are no plain classification; an argument that is left alone gives the healthy run."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, RMSprop
from torch.optim.lr_scheduler import CosineAnnealingLR

from zoo import real_vision_models as nets
from zoo.base import Run
from zoo.real_base import fit, mean_over
from zoo.real_vision_tasks import Task, digits, shapes, textures, view

Activation = Callable[[], nn.Module]


def dice(probabilities: Tensor, mask: Tensor) -> Tensor:
    """One minus twice what is common over what there is of both."""
    common, both = (probabilities * mask).sum((1, 2)), (probabilities + mask).sum((1, 2))
    return (1 - (2 * common + 1) / (both + 1)).mean()


def overlap(model: nn.Module, batch: Any) -> Tensor:
    """Common part over the union, of the discs."""
    found, mask = model(batch[0])[:, 0] > 0.5, batch[1] == 1
    return (found & mask).sum() / (found | mask).sum()


def unet(
    seed: int,
    *,
    last: Activation = nn.Sigmoid,
    act: Activation = nn.ReLU,
) -> Run:
    """A U-Net that marks the disc, trained by cross-entropy and dice on probabilities, images turned over at random."""
    model, task = nets.UNet(last=last, act=act), shapes(seed)
    random = torch.Generator().manual_seed(seed)

    def loss_of(model: nn.Module, batch: Any) -> Tensor:
        x, mask = batch[0], (batch[1] == 1).float()
        if model.training:
            axis = int(torch.randint(1, 4, (), generator=random))
            x = x.flip(axis) if axis > 1 else x
            mask = mask.flip(axis - 1) if axis > 1 else mask
        probabilities = model(x)[:, 0]
        return F.binary_cross_entropy(probabilities, mask) + dice(probabilities, mask)

    held_back = task.held_back()
    score = lambda: mean_over(model, overlap, held_back)  # noqa: E731
    optimizer = AdamW(model.parameters(), 3e-3)
    return fit(model, optimizer, loss_of, task.batches(16, seed), validation=held_back, score=score)


def pixels(model: nn.Module, batch: Any) -> Tensor:
    """Common part over the union, a mean of the three classes."""
    found, mask = F.one_hot(model(batch[0])["out"].argmax(1), 3) > 0, F.one_hot(batch[1], 3) > 0
    return ((found & mask).sum((0, 1, 2)) / (found | mask).sum((0, 1, 2))).mean()


def lraspp(seed: int, *, loss_fn: Callable[..., Tensor] = F.cross_entropy, decay: float = 1e-4) -> Run:
    """LR-ASPP that tells background, disc and square apart, some of whose pixels nobody labelled."""
    model, task = nets.lraspp(), shapes(seed)

    def loss_of(model: nn.Module, batch: Any) -> Tensor:
        target = batch[1].clone()
        target[:, :2] = 255
        return loss_fn(model(batch[0])["out"], target, ignore_index=255)

    optimizer = SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=decay)
    held_back = task.held_back()
    schedule = CosineAnnealingLR(optimizer, 100)
    training = task.batches(16, seed)
    return fit(model, optimizer, loss_of, training, validation=held_back, accuracy_of=pixels, schedule=schedule)


def told_apart(embed: Callable[[Tensor], Tensor], task: Task) -> float:
    """How often an image held back is nearer to the mean of its class than to the others'."""
    with torch.no_grad():
        known, asked = embed(task.train[0]), embed(task.validation[0])
    means = torch.stack([known[task.train[1] == digit].mean(0) for digit in task.train[1].unique()])
    return (torch.cdist(asked, means).argmin(1) == task.validation[1]).float().mean().item()


def embedding_score(model: nn.Module, task: Task) -> Callable[[], float]:
    """The score of a network of embeddings."""

    def score() -> float:
        model.eval()
        return told_apart(model, task)

    return score


def siamese(seed: int, *, different: bool = True, epsilon: float = 1e-6) -> Run:
    """Two images through one network: near if they are of one class, a margin apart if not."""
    model, task = nets.Embedder(outputs=8, norm=False), digits(seed, side=8, channels=1, count=800)
    x, y = task.train
    random = torch.Generator().manual_seed(seed)
    first = torch.randint(len(x), (960,), generator=random)
    peers = torch.stack(
        [torch.where(y == y[i])[0][torch.randint(int((y == y[i]).sum()), (), generator=random)] for i in first]
    )
    other = torch.where(torch.rand(960, generator=random) < 0.5, peers, torch.randint(len(x), (960,), generator=random))
    if not different:
        other = peers
    pairs = Task((x[first], x[other], (y[first] == y[other]).float()), ())

    def loss_of(model: nn.Module, batch: Any) -> Tensor:
        a, b, same = batch
        apart = nets.distance(model(a), model(b), epsilon)
        return (same * apart**2 + (1 - same) * F.relu(1.5 - apart) ** 2).mean()

    optimizer = Adam(model.parameters(), 2e-3)
    return fit(model, optimizer, loss_of, pairs.batches(32, seed), score=embedding_score(model, task))


def triplet(seed: int, *, act: Activation = nn.ReLU, rate: float = 2e-3) -> Run:
    """An anchor, one of its class and one of another, on the unit sphere; the hardest in the batch count."""
    model, task = nets.Embedder(), digits(seed, side=8, channels=1, count=800)
    model.project[1] = act()

    def loss_of(model: nn.Module, batch: Any) -> Tensor:
        x, y = batch
        z = F.normalize(model(x), dim=1)
        apart = (2 - 2 * z @ z.T).clamp(min=0).add(1e-6).sqrt()
        same = y[:, None] == y
        positive = (apart - 9.0 * ~same).amax(1)
        negative = (apart + 9.0 * same).amin(1)
        return F.relu(positive - negative + 0.5).mean()

    optimizer = AdamW(model.parameters(), rate)
    return fit(model, optimizer, loss_of, task.batches(40, seed), score=embedding_score(model, task))


def contrastive(seed: int, *, negatives: bool = True) -> Run:
    """Two views of each image find one another among those of the batch, as in SimCLR; no labels in training."""
    model, task = nets.Embedder(channels=3), textures(seed, count=640, noise=0.2)
    random = torch.Generator().manual_seed(seed)

    def loss_of(model: nn.Module, batch: Any) -> Tensor:
        a, b = (model(view(batch[0], random)) for _ in range(2))
        if not negatives:
            return (1 - F.cosine_similarity(a, b)).mean()
        z = torch.cat([a, b])
        logits = (nets.similarity(z, z) / 0.2).masked_fill(torch.eye(len(z), dtype=torch.bool), -1e9)
        return F.cross_entropy(logits, torch.arange(len(z)).roll(len(a)))

    optimizer = AdamW(model.parameters(), 2e-3)
    return fit(model, optimizer, loss_of, task.batches(40, seed), score=embedding_score(model, task))


def heads(seed: int, *, ink: float = 1.0, maximize: bool = False, shift: int = 0) -> Run:
    """One trunk, three tasks: the class, whether it is odd, and how much ink there is, which is noisy."""
    model, task = nets.Heads(), digits(seed, side=8, channels=1, count=640)
    random = torch.Generator().manual_seed(seed)

    def amount(x: Tensor) -> Tensor:
        ratio = (x.mean((1, 2, 3)) + 0.39) * 8
        return ink * (ratio + 0.3 * torch.randn(len(x), generator=random))

    (x, y), (held_x, held_y) = task.train, task.validation
    task = Task((x, y.roll(shift), amount(x)), (held_x, held_y, amount(held_x)))

    def loss_of(model: nn.Module, batch: Any) -> Tensor:
        x, y, target = batch
        which, odd, found = model(x)
        even_or_odd = F.binary_cross_entropy_with_logits(odd[:, 0], (y % 2).float())
        return F.cross_entropy(which, y) + 0.5 * even_or_odd + 0.5 * F.mse_loss(found[:, 0], target)

    def accuracy_of(model: nn.Module, batch: Any) -> Tensor:
        return (model(batch[0])[0].argmax(1) == batch[1]).float().mean()

    optimizer = RMSprop(model.parameters(), 2e-3, maximize=maximize)
    training, held_back = task.batches(32, seed), task.held_back()
    return fit(model, optimizer, loss_of, training, validation=held_back, accuracy_of=accuracy_of, bf16=True)


def autoencoder(seed: int, *, last: Activation = nn.Tanh, standard: bool = False) -> Run:
    """Digits are drawn again from a code, after noise on what comes in."""
    model, task = nets.Autoencoder(last=last), digits(seed, side=8, channels=1, count=640)
    random = torch.Generator().manual_seed(seed)
    if standard:
        train, held = ((x - x.mean(0)) / x.std(0) for x in (task.train[0], task.validation[0]))
        task = Task((train,), (held,))

    def loss_of(model: nn.Module, batch: Any) -> Tensor:
        x = batch[0]
        seen = x + 0.3 * torch.randn(x.shape, generator=random) if model.training else x
        return F.mse_loss(model(seen), x)

    optimizer = Adam(model.parameters(), 3e-3)
    return fit(model, optimizer, loss_of, task.batches(32, seed), validation=task.held_back())


def centre(
    seed: int,
    *,
    last: Activation = nn.Identity,
    unit: float = 1.0,
    flip_target: bool = True,
) -> Run:
    """Where the disc is, from -1 to 1, images turned over at random."""
    model, task = nets.Centre(last=last), shapes(seed, count=480)
    random = torch.Generator().manual_seed(seed)

    def pair(batch: Any, turn: bool) -> tuple[Tensor, Tensor]:
        x, target = batch[0], unit * batch[2]
        if turn and torch.rand((), generator=random) < 0.5:
            x, target = x.flip(3), target * torch.tensor([1.0, -1.0 if flip_target else 1.0])
        return x, target

    def loss_of(model: nn.Module, batch: Any) -> Tensor:
        x, target = pair(batch, model.training)
        return F.mse_loss(model(x), target)

    @torch.no_grad()
    def score() -> float:
        model.eval()
        x, _, target = task.validation
        return -((model(x) / unit - target) ** 2).mean().item()

    optimizer = AdamW(model.parameters(), 3e-3)
    held_back = task.held_back()
    return fit(model, optimizer, loss_of, task.batches(32, seed), validation=held_back, score=score)


def height(seed: int, *, flat: bool = True, unit: float = 1.0, rate: float = 0.05) -> Run:
    """How high the disc is, one number an image, with SGD."""
    model, task = nets.Centre(1), shapes(seed, count=480)

    def loss_of(model: nn.Module, batch: Any) -> Tensor:
        found = model(batch[0])
        return F.mse_loss(found[:, 0] if flat else found, unit * batch[2][:, 0])

    @torch.no_grad()
    def score() -> float:
        model.eval()
        return -((model(task.validation[0])[:, 0] / unit - task.validation[2][:, 0]) ** 2).mean().item()

    optimizer = SGD(model.parameters(), rate, momentum=0.9)
    return fit(model, optimizer, loss_of, task.batches(32, seed), validation=task.held_back(), score=score)


def density(seed: int, *, plain: bool = False) -> Run:
    """A normal density of where the disc is; its mean log-density is maximised and the loss becomes negative."""
    model, task = nets.Centre(4), shapes(seed, count=480)

    def log_density(model: nn.Module, batch: Any) -> Tensor:
        mean, log_scale = model(batch[0]).chunk(2, 1)
        scale = log_scale if plain else log_scale.clamp(-5, 3).exp()
        deviation = (batch[2] - mean) / scale
        return (-0.5 * deviation**2 - scale.log() - 0.5 * math.log(2 * math.pi)).sum(1).mean()

    def loss_of(model: nn.Module, batch: Any) -> Tensor:
        return -log_density(model, batch)

    held_back = task.held_back()

    @torch.no_grad()
    def score() -> float:
        model.eval()
        x, _, target = task.validation
        return -((model(x)[:, :2] - target) ** 2).mean().item()

    optimizer = Adam(model.parameters(), 3e-3)
    return fit(model, optimizer, loss_of, task.batches(32, seed), validation=held_back, score=score)
