"""Runs whose answer is a picture or a place: masks, heat maps, sharper and cleaner pictures, key points."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from ignite.engine import Engine
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from zoo.base import Case, Run
from zoo.blind_vision import digits, grid
from zoo.real_base import Shuffled, faulty, fit, healthy, mean_over, measured

Tensors = tuple[Tensor, ...]


def cells(seed: int, n: int, size: int = 16) -> Tensors:
    """Two bright cells among three as bright but empty ones, and the mask of the filled ones."""
    random = torch.Generator().manual_seed(seed)
    places = 1.6 * torch.rand(2, n, 5, 1, 1, generator=random) - 0.8
    columns, rows = (axis - place for axis, place in zip(grid(size), places, strict=True))
    far = (columns.square() + rows.square()).sqrt()
    full = (far[:, :2] < 0.32).float().amax(1, keepdim=True)
    empty = ((far[:, 2:] - 0.32).abs() < 0.1).float().amax(1, keepdim=True)
    light = torch.rand(n, 1, 1, 1, generator=random)
    noise = 0.25 * torch.randn(n, 1, size, size, generator=random)
    return torch.maximum(full, empty) + light + noise, full


def double(inputs: int, outputs: int) -> nn.Sequential:
    """Two convolutions with batch norm."""
    modules: list[nn.Module] = []
    for wide in (inputs, outputs):
        modules += [nn.Conv2d(wide, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*modules)


class UNet(nn.Module):
    """Down twice and up twice, with what was seen on the way down."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.enter, self.down1, self.down2 = double(1, width), double(width, 2 * width), double(2 * width, 2 * width)
        self.up1, self.up2 = double(4 * width, width), double(2 * width, width)
        self.out = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the mask."""
        fine = self.enter(x)
        middle = self.down1(F.max_pool2d(fine, 2))
        coarse = self.down2(F.max_pool2d(middle, 2))
        middle = self.up1(torch.cat([middle, F.interpolate(coarse, scale_factor=2)], 1))
        out: Tensor = self.out(self.up2(torch.cat([fine, F.interpolate(middle, scale_factor=2)], 1)))
        return out


def dice(chance: Tensor, mask: Tensor) -> Tensor:
    """Twice what both have in common, over what they have."""
    common = (chance * mask).sum((1, 2, 3))
    return ((2 * common + 1) / (chance.sum((1, 2, 3)) + mask.sum((1, 2, 3)) + 1)).mean()


def unet(seed: int, mistake: str = "") -> Run:
    """Masks of few pixels with a U-Net, dice and cross-entropy, momentum."""
    training = Shuffled(*cells(2 * seed, 256), size=16, seed=seed)
    validation = Shuffled(*cells(2 * seed + 1, 64), size=32, seed=seed, shuffle=False)
    model: nn.Module = UNet()
    if mistake == "sigmoid":
        model = nn.Sequential(model, nn.Sigmoid())
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    schedule = CosineAnnealingLR(optimizer, 5 * len(training))

    def mask_loss(model: nn.Module, batch: Tensors) -> Tensor:
        """Cross-entropy of the pixels and the part of the masks that is missed."""
        logits = model(batch[0])
        return F.binary_cross_entropy_with_logits(logits, batch[1]) + 1 - dice(logits.sigmoid(), batch[1])

    def step(engine: Engine, batch: Tensors) -> float:
        """A step; the gradients should not outlive it."""
        model.train()
        loss = mask_loss(model, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        if mistake != "kept_gradients":
            optimizer.zero_grad()
        return loss.item()

    def overlap(model: nn.Module, batch: Tensors) -> Tensor:
        """Dice of the mask that one would cut out."""
        return dice((model(batch[0]) > (0.5 if mistake == "sigmoid" else 0)).float(), batch[1])

    return Run(
        model,
        Engine(step),
        training,
        measured(model, mask_loss),
        validation,
        optimizer,
        lambda: mean_over(model, overlap, validation),
    )


def centres(seed: int, n: int, size: int = 16) -> Tensors:
    """Discs and rings on a picture; a map for each kind, a small hill at each centre."""
    random = torch.Generator().manual_seed(seed)
    places = 1.5 * torch.rand(2, n, 3, 1, 1, generator=random) - 0.75
    columns, rows = (axis - place for axis, place in zip(grid(size), places, strict=True))
    far = (columns.square() + rows.square()).sqrt()
    ring = torch.rand(n, 3, 1, 1, generator=random) < 0.4
    ink = torch.where(ring, (far - 0.3).abs() < 0.1, far < 0.3).float().amax(1, keepdim=True)
    nearest = far == far.amin((2, 3), keepdim=True)
    hills = torch.where(nearest, 1.0, 0.99 * torch.exp(-far.square() / 0.03))
    maps = torch.stack([(hills * kind).amax(1) for kind in (~ring, ring)], 1)
    return ink + 0.15 * torch.randn(n, 1, size, size, generator=random), maps


def focal(model: nn.Module, batch: Tensors) -> Tensor:
    """The loss of CenterNet: centres, and the rest less near a centre."""
    logits, maps = model(batch[0]), batch[1]
    chance = logits.sigmoid().clamp(1e-4, 1 - 1e-4)
    centre = maps == 1
    found = ((1 - chance).square() * chance.log())[centre].sum()
    rest = ((1 - maps) ** 4 * chance.square() * (1 - chance).log())[~centre].sum()
    total = (found + rest) / centre.sum().clamp(min=1)
    return -total


def peaks(model: nn.Module, batch: Tensors) -> Tensor:
    """The share of centres that are among the three highest pixels of a picture, give or take one pixel."""
    maps, logits = batch[1], model(batch[0])
    top = F.max_pool2d(logits, 3, 1, 1) == logits
    height = torch.where(top, logits, torch.full_like(logits, -1e9))
    least = height.flatten(1).topk(3).values[:, -1]
    high = F.max_pool2d((height >= least[:, None, None, None]).float(), 3, 1, 1)
    return high[maps == 1].mean()


def heat(seed: int, mistake: str = "") -> Run:
    """Heat maps of centres with a prior for rare things in the last bias, with Adam."""
    training = Shuffled(*centres(2 * seed, 320), size=16, seed=seed)
    validation = Shuffled(*centres(2 * seed + 1, 64), size=32, seed=seed, shuffle=False)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.LeakyReLU(0.1),
        nn.Conv2d(16, 16, 5, padding=2),
        nn.BatchNorm2d(16),
        nn.LeakyReLU(0.1),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.LeakyReLU(0.1),
        nn.Conv2d(32, 2, 1),
    )
    last = model[-1]
    assert isinstance(last, nn.Conv2d)
    assert last.bias is not None
    nn.init.constant_(last.bias, -2.19)
    return fit(
        model,
        Adam(model.parameters(), lr=4e-3, maximize=mistake == "maximize"),
        focal,
        training,
        validation=validation,
        score=lambda: mean_over(model, peaks, validation),
    )


class Sharper(nn.Module):
    """What is missing in a picture that is made twice as large; says at first that nothing is."""

    def __init__(self, relu: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 24, 5, padding=2), nn.PReLU(), nn.Conv2d(24, 16, 3, padding=1), nn.PReLU()
        )
        self.tail = nn.Conv2d(16, 4, 3, padding=1)
        nn.init.zeros_(self.tail.weight)
        self.shuffle, self.act = nn.PixelShuffle(2), nn.ReLU() if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """The larger picture."""
        missing: Tensor = self.act(self.shuffle(self.tail(self.body(x))))
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False) + missing


def psnr(model: nn.Module, batch: Tensors) -> Tensor:
    """How much stronger the signal is than the error, in decibels."""
    return -10 * F.mse_loss(model(batch[0]), batch[1]).log10()


def sharper(seed: int, mistake: str = "") -> Run:
    """Super-resolution by pixel shuffle; its loss is minus the decibels and so is negative."""
    parts = []
    for index, n in enumerate((320, 64)):
        x, _ = digits(2 * seed + index, n, size=24, noise=0.0)
        parts.append((F.avg_pool2d(x, 2), x))
    training = Shuffled(*parts[0], size=16, seed=seed)
    validation = Shuffled(*parts[1], size=32, seed=seed, shuffle=False)
    model = Sharper(mistake == "relu_residual")
    return fit(
        model,
        Adam(model.parameters(), lr=2e-3),
        lambda model, batch: psnr(model, batch) if mistake == "maximised" else -psnr(model, batch),
        training,
        validation=validation,
        clip=5.0,
        score=lambda: mean_over(model, psnr, validation),
    )


def clean(seed: int, mistake: str = "") -> Run:
    """A denoising autoencoder whose sigmoid fits pixels from 0 to 1."""
    parts = []
    for index, n in enumerate((800, 200)):
        x, _ = digits(2 * seed + index, n, noise=0.0, shift=0.03)
        random = torch.Generator().manual_seed(2 * seed + index)
        if mistake == "symmetric_pixels":
            x = (x - 0.5) / 0.5
        parts.append((x + 0.3 * torch.randn(x.shape, generator=random), x))
    training = Shuffled(*parts[0], size=16, seed=seed)
    validation = Shuffled(*parts[1], size=100, seed=seed, shuffle=False)
    act: type[nn.Module] = nn.Sigmoid if mistake == "deep_sigmoid" else nn.ReLU
    widths = (256, 128, 64, 24, 64, 128)
    modules: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(widths):
        modules += [nn.Linear(inputs, outputs), act()]
    model = nn.Sequential(*modules, nn.Linear(128, 256), nn.Sigmoid(), nn.Unflatten(1, (1, 16, 16)))

    def pixels(model: nn.Module, batch: Tensors) -> Tensor:
        """The square of a picture's error."""
        return F.mse_loss(model(batch[0]), batch[1]) * 256

    def explained(model: nn.Module, batch: Tensors) -> Tensor:
        """The part of what differs between pictures that is found again."""
        return 1 - F.mse_loss(model(batch[0]), batch[1]).div(batch[1].var(0).mean()).clamp(max=1)

    return fit(
        model,
        AdamW(model.parameters(), lr=3e-3),
        pixels,
        training,
        validation=validation,
        clip=20.0,
        score=lambda: mean_over(model, explained, validation),
    )


def sticks(seed: int, n: int, size: int = 16) -> Tensors:
    """A stick and where its two ends are, the one with the knob first."""
    random = torch.Generator().manual_seed(seed)
    ends = 1.6 * torch.rand(n, 2, 2, generator=random) - 0.8
    points = torch.stack([axis.flatten() for axis in grid(size)], -1)[None]
    along = (ends[:, 1] - ends[:, 0])[:, None]
    apart = points - ends[:, :1]
    place = ((apart * along).sum(-1) / along.square().sum(-1).clamp(min=1e-3)).clamp(0, 1)
    near = torch.exp(-(apart - place[..., None] * along).square().sum(-1) / 0.015)
    knob = torch.exp(-(points - ends[:, :1]).square().sum(-1) / 0.05)
    pictures = torch.maximum(near, knob).view(n, 1, size, size)
    return pictures + 0.05 * torch.randn(n, 1, size, size, generator=random), ends.flatten(1)


def pose(seed: int, mistake: str = "") -> Run:
    """Key points of a stick from convolutions without norm, with momentum and clipping."""
    parts = [list(sticks(2 * seed + index, n)) for index, n in enumerate((1000, 200))]
    if mistake == "raw_pixels":
        parts = [[255 * x, y] for x, y in parts]
    if mistake == "target_pixels":  # of the photograph before it was made small
        parts = [[x, 320 + 320 * y] for x, y in parts]
    training = Shuffled(*parts[0], size=25, seed=seed)
    validation = Shuffled(*parts[1], size=100, seed=seed, shuffle=False)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1),
        nn.LeakyReLU(0.1),
        nn.Conv2d(16, 32, 3, 2, 1),
        nn.LeakyReLU(0.1),
        nn.Flatten(),
        nn.Linear(512, 64),
        nn.LeakyReLU(0.1),
        nn.Linear(64, 4),
    )
    if mistake == "equal_head":
        for layer in (model[5], model[7]):
            assert isinstance(layer, nn.Linear)
            nn.init.constant_(layer.weight, 0.01)
            nn.init.zeros_(layer.bias)
    unit = 320.0 if mistake == "target_pixels" else 1.0

    def apart(model: nn.Module, batch: Tensors) -> Tensor:
        """How far off a coordinate is, in halves of a picture."""
        return (model(batch[0]) - batch[1]).abs().mean() / unit

    return fit(
        model,
        SGD(model.parameters(), lr=0.1, momentum=0.9),
        lambda model, batch: 4 * F.smooth_l1_loss(model(batch[0]), batch[1]),
        training,
        validation=validation,
        clip=2.0,
        score=lambda: -mean_over(model, apart, validation),
    )


CASES: tuple[Case, ...] = (
    healthy("b_unet", unet),
    faulty("b_unet", "sigmoid", "output_probabilities", partial(unet, mistake="sigmoid")),
    faulty("b_unet", "kept_gradients", "uncleared_gradient", partial(unet, mistake="kept_gradients")),
    healthy("b_heat", heat),
    faulty("b_heat", "maximize", "loss_rising", partial(heat, mistake="maximize"), "exploding"),
    healthy("b_sharper", sharper),
    faulty(
        "b_sharper",
        "relu_residual",
        "output_activation",
        partial(sharper, mistake="relu_residual"),
        "dead_units",
        "no_gradient",
        layers=("act", "shuffle", "tail"),
    ),
    faulty("b_sharper", "maximised", "loss_rising", partial(sharper, mistake="maximised"), "exploding"),
    healthy("b_clean", clean, epochs=7),
    faulty(
        "b_clean",
        "deep_sigmoid",
        "vanishing_gradient",
        partial(clean, mistake="deep_sigmoid"),
        "constant_output",
        epochs=7,
    ),
    faulty(
        "b_clean",
        "symmetric_pixels",
        "output_activation",
        partial(clean, mistake="symmetric_pixels"),
        layers=("12", "11"),
        epochs=7,
    ),
    healthy("b_pose", pose, epochs=7),
    faulty(
        "b_pose", "raw_pixels", "input_scale", partial(pose, mistake="raw_pixels"), "exploding", "oscillation", epochs=7
    ),
    faulty(
        "b_pose", "target_pixels", "initial_loss", partial(pose, mistake="target_pixels"), "update_too_small", epochs=7
    ),
    faulty(
        "b_pose",
        "equal_head",
        "symmetry",
        partial(pose, mistake="equal_head"),
        "constant_output",
        layers=("5", "6", "7"),
        epochs=7,
    ),
)
