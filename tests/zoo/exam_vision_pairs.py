"""Healthy runs of the exam on vision: learning from pairs, from a teacher, from the image itself, and adversaries."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from ignite.engine import Engine
from torch import Generator, Tensor, nn
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR

from zoo.base import Case, Run
from zoo.exam_vision import cross_entropy, right
from zoo.exam_vision_data import Parts, centred, clips, digits, parted, scenes
from zoo.exam_vision_models import plain
from zoo.exam_vision_nets import MaskedAutoencoder
from zoo.exam_vision_towers import (
    Adversaries,
    ConvMemory,
    ConvVae,
    Embedder,
    Siamese,
    Towers,
    pixel_cnn,
    tanh_autoencoder,
)
from zoo.real_base import Shuffled, fit, healthy, mean_over

Pair = tuple[Tensor, Tensor]


def x_mae(seed: int) -> Run:
    """A masked autoencoder that sees six of sixteen patches and is judged by the others."""
    parts = digits(960)
    training, validation = Parts(parts.training[:1], parts.validation[:1]).batches(32, seed)
    model = MaskedAutoencoder()
    random = Generator().manual_seed(seed)

    def loss_of(model: nn.Module, batch: tuple[Tensor]) -> Tensor:
        patches = F.unfold(batch[0], 2, stride=2).transpose(1, 2)
        draw = random if model.training else Generator().manual_seed(1)
        order = torch.rand(patches.shape[:2], generator=draw).argsort(1)
        drawn = model(patches, order, 6)
        left_out = order[:, 6:, None].expand(-1, -1, 4)
        return F.mse_loss(drawn.gather(1, left_out), patches.gather(1, left_out))

    return fit(model, AdamW(model.parameters(), 3e-3, weight_decay=0.05), loss_of, training, validation=validation)


def captioned(seed: int, count: int) -> tuple[Tensor, Tensor]:
    """Images, and captions of three words: the place across, the place down, and the kind of the object."""
    drawn = scenes(seed, count)
    across, down = ((drawn.boxes[:, 0, :2] - 0.27) * 3 / 0.46).long().clamp(0, 2).unbind(1)
    return centred(drawn.images), torch.stack([across, 3 + down, 6 + drawn.kinds[:, 0]], 1)


def x_clip(seed: int, *, shuffled: bool = False, blind: bool = False) -> Run:
    """Two towers for images and captions with a learned temperature."""
    images, captions = captioned(seed, 704)
    parts = parted(images, captions)
    if shuffled:
        order = torch.randperm(640, generator=Generator().manual_seed(seed))
        parts = Parts((parts.training[0], parts.training[1][order]), parts.validation)
    training, validation = parts.batches(32, seed)
    model = Towers(10, blind=blind)

    def loss_of(model: nn.Module, batch: Pair) -> Tensor:
        logits = model(*batch)
        own = torch.arange(len(logits))
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2

    def found(model: nn.Module, batch: Pair) -> Tensor:
        best = batch[1][model(*batch).argmax(1)]
        return (best == batch[1]).float().mean()

    optimizer = AdamW(model.parameters(), 3e-3, weight_decay=0.05)
    return fit(model, optimizer, loss_of, training, validation=validation, accuracy_of=found)


def views(x: Tensor, random: Generator) -> Tensor:
    """The digits moved by up to a pixel, and with noise."""
    shift = torch.randint(-1, 2, (2,), generator=random).tolist()
    return x.roll(shift, (2, 3)) + 0.2 * torch.randn(x.shape, generator=random)


def x_siamese(seed: int) -> Run:
    """Two views of an image are to predict each other, with a stop of the gradient, as in SimSiam."""
    parts = digits(768)
    training, validation = Parts(parts.training[:1], parts.validation[:1]).batches(32, seed)
    model = Siamese()
    random = Generator().manual_seed(seed)

    def loss_of(model: nn.Module, batch: tuple[Tensor]) -> Tensor:
        (one, guess1), (two, guess2) = model(views(batch[0], random)), model(views(batch[0], random))
        one, two = one.detach(), two.detach()
        return -(F.cosine_similarity(guess1, two).mean() + F.cosine_similarity(guess2, one).mean()) / 2

    def retrieved(model: nn.Module, batch: tuple[Tensor]) -> Tensor:
        draw = Generator().manual_seed(1)
        one, two = (F.normalize(model(views(batch[0], draw))[0], dim=1) for _ in range(2))
        return ((one @ two.T).argmax(1) == torch.arange(len(one))).float().mean()

    optimizer = SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    schedule = CosineAnnealingLR(optimizer, 8 * len(training))
    run = fit(model, optimizer, loss_of, training, schedule=schedule)
    run.score = lambda: mean_over(model, retrieved, validation)
    return run


def x_distill(seed: int, *, of_teacher: bool = False, probabilities: bool = False) -> Run:
    """A student that learns from the logits of a frozen teacher, which was trained before, and from the labels."""
    parts = digits(640)
    training, validation = parts.batches(32, seed)
    teacher = plain(4, 24)
    before = fit(teacher, Adam(teacher.parameters(), 3e-3), cross_entropy(), training)
    before.trainer.run(training, max_epochs=3)
    teacher.eval()
    teacher.requires_grad_(of_teacher)
    model = plain(4, 8)

    def loss_of(model: nn.Module, batch: Pair) -> Tensor:
        x, y = batch
        with torch.no_grad():
            told = (teacher(x) / 3).softmax(1)
        logits = model(x)
        if probabilities:
            logits = logits.softmax(1)
        soft = F.kl_div((logits / 3).log_softmax(1), told, reduction="batchmean")
        return 9 * 0.7 * soft + 0.3 * F.cross_entropy(logits, y)

    optimizer = Adam((teacher if of_teacher else model).parameters(), 3e-3)
    return fit(model, optimizer, loss_of, training, validation=validation, accuracy_of=right)


def x_vae(seed: int, *, mean_of_pixels: bool = False) -> Run:
    """A variational autoencoder whose divergence counts for little at first."""
    parts = digits(960)
    training, validation = Parts(parts.training[:1], parts.validation[:1]).batches(32, seed)
    model = ConvVae()
    steps = 0

    def loss_of(model: nn.Module, batch: tuple[Tensor]) -> Tensor:
        nonlocal steps
        steps += model.training
        x = (batch[0] + 1) / 2
        logits, mean, log_variance = model(batch[0])
        apart = F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1)
        apart = apart.mean(1) if mean_of_pixels else apart.sum(1)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
        return (apart + min(1.0, 0.2 + steps / 100) * divergence).mean()

    def recognised(model: nn.Module, batch: tuple[Tensor]) -> Tensor:
        drawn = model(batch[0])[0].sigmoid().flatten(1)
        nearest = torch.cdist(drawn, (batch[0].flatten(1) + 1) / 2).argmin(1)
        return (nearest == torch.arange(len(drawn))).float().mean()

    run = fit(model, Adam(model.parameters(), 4e-3), loss_of, training, validation=validation)
    run.score = lambda: mean_over(model, recognised, validation)
    return run


def x_dcgan(seed: int, *, cut: bool = False, judge_rate: float = 5e-3) -> Run:
    """A generator of digits and a discriminator, each with an optimizer."""
    x = digits(960).training[0]
    training = Shuffled(x, size=32, seed=seed)
    model = Adversaries()
    making = Adam(model.generator.parameters(), 1e-2, betas=(0.5, 0.999))
    judging = Adam(model.discriminator.parameters(), judge_rate, betas=(0.5, 0.999))

    def judged(images: Tensor, real: bool) -> Tensor:
        logits = model.discriminator(images)
        return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, 0.9 if real else 0.0))

    def step(engine: Engine, batch: tuple[Tensor]) -> dict[str, float]:
        model.train()
        made = model.generator(torch.randn(len(batch[0]), model.latent))
        judge_loss = judged(batch[0], True) + judged(made.detach(), False)
        judging.zero_grad()
        judge_loss.backward()
        judging.step()
        making.zero_grad()
        loss = judged(made.detach() if cut else made, True)
        loss.backward()
        making.step()
        return {"loss": loss.item(), "loss_of_discriminator": judge_loss.item()}

    @torch.no_grad()
    def score() -> float:
        model.eval()
        made = model.generator(torch.randn(256, model.latent, generator=Generator().manual_seed(1))).flatten(1)
        real = x[:256].flatten(1)
        apart = (made.mean(0) - real.mean(0)).square().mean() + (made.std(0) - real.std(0)).square().mean()
        return -float(apart.sqrt())

    return Run(model, Engine(step), training, optimizer=making, score=score)


def triplets(parts: Parts, seed: int) -> Parts:
    """An image, another of its class, and one of another class."""
    random = Generator().manual_seed(seed)

    def draw(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        alike = (y[:, None] == y).float()
        like, unlike = (torch.multinomial(share, 1, generator=random)[:, 0] for share in (alike, 1 - alike))
        return x, x[like], x[unlike]

    return Parts(draw(*parts.training), draw(*parts.validation))


def x_triplet(seed: int, *, swapped: bool = False) -> Run:
    """Images of a class are to be nearer to each other than to others, on vectors of length one."""
    training, validation = triplets(digits(960), seed).batches(32, seed)
    model = Embedder()

    def distances(model: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        anchor, like, unlike = (F.normalize(model(x), dim=1) for x in batch)
        if swapped and model.training:
            like, unlike = unlike, like
        return (anchor - like).square().sum(1), (anchor - unlike).square().sum(1)

    def loss_of(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        near, far = distances(model, batch)
        return F.relu(near - far + 0.5).mean()

    def kept(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        near, far = distances(model, batch)
        return (near + 0.25 < far).float().mean()

    run = fit(model, Adam(model.parameters(), 1e-3), loss_of, training, validation=validation)
    run.score = lambda: mean_over(model, kept, validation)
    return run


def x_pixels(seed: int, *, maximise: bool = False) -> Run:
    """The probability of every pixel given those before it, from masked convolutions."""
    parts = digits(640)
    levels = [((values[0] + 1) * 3.5).round().long() for values in (parts.training, parts.validation)]
    training, validation = Parts((levels[0],), (levels[1],)).batches(32, seed)
    model = pixel_cnn()

    def loss_of(model: nn.Module, batch: tuple[Tensor]) -> Tensor:
        return F.cross_entropy(model(batch[0] / 3.5 - 1), batch[0][:, 0])

    optimizer = Adam(model.parameters(), 3e-3, maximize=maximise)
    return fit(model, optimizer, loss_of, training, validation=validation)


def x_frames(seed: int) -> Run:
    """A convolutional LSTM that draws the next frame."""
    parts = clips(seed, 320)
    training, validation = Parts(parts.training[:1], parts.validation[:1]).batches(16, seed)
    model = ConvMemory()

    def loss_of(model: nn.Module, batch: tuple[Tensor]) -> Tensor:
        frames = batch[0][:, 0]
        return F.mse_loss(model(frames[:, :-1])[:, 1:], frames[:, 2:])

    return fit(model, Adam(model.parameters(), 1e-2), loss_of, training, validation=validation, clip=1.0)


def x_autoencoder(seed: int, *, deviation: float | None = None) -> Run:
    """A deep autoencoder of digits with tanh, with a falling learning rate and no validation."""
    parts = digits(960)
    training, validation = Parts(parts.training[:1], parts.validation[:1]).batches(24, seed)
    model = tanh_autoencoder()
    if deviation is not None:
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=deviation)
    optimizer = Adam(model.parameters(), 2e-3)

    def loss_of(model: nn.Module, batch: tuple[Tensor]) -> Tensor:
        return F.mse_loss(model(batch[0]), batch[0].flatten(1))

    run = fit(model, optimizer, loss_of, training, schedule=LinearLR(optimizer, 1.0, 0.2, 6 * len(training)))
    run.score = lambda: -mean_over(model, loss_of, validation)
    return run


CASES: tuple[Case, ...] = (
    healthy("x_mae", x_mae, epochs=6),
    healthy("x_clip", x_clip, epochs=8),
    healthy("x_siamese", x_siamese, epochs=8),
    healthy("x_distill", x_distill, epochs=5),
    healthy("x_vae", x_vae, epochs=6),
    healthy("x_dcgan", x_dcgan, epochs=8),
    healthy("x_triplet", x_triplet, epochs=5),
    healthy("x_pixels", x_pixels, epochs=5),
    healthy("x_frames", x_frames, epochs=5),
    healthy("x_autoencoder", x_autoencoder, epochs=6),
)
