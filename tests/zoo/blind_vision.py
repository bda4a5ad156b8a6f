"""Drawn pictures, and runs that name what is on them: mobile blocks, mixers, transformers, tags, a frozen body."""

from __future__ import annotations

import copy
import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

from zoo.base import Case, Run
from zoo.real_base import Shuffled, faulty, fit, healthy, mean_over

Tensors = tuple[Tensor, ...]
# The seven strokes of a pocket calculator, and those of each digit.
STROKES = torch.tensor(
    [
        [-0.45, -0.75, 0.45, -0.75],
        [0.45, -0.75, 0.45, 0.0],
        [0.45, 0.0, 0.45, 0.75],
        [-0.45, 0.75, 0.45, 0.75],
        [-0.45, 0.0, -0.45, 0.75],
        [-0.45, -0.75, -0.45, 0.0],
        [-0.45, 0.0, 0.45, 0.0],
    ]
)
LIT = ("012345", "12", "01643", "01623", "5612", "05623", "056234", "012", "0123456", "012356")


def grid(size: int) -> tuple[Tensor, Tensor]:
    """Columns and rows of the pixels, from -1 to 1."""
    line = torch.linspace(-1, 1, size)
    return line[None, :].expand(size, size), line[:, None].expand(size, size)


def digits(seed: int, n: int, size: int = 16, noise: float = 0.1, shift: float = 0.1) -> tuple[Tensor, Tensor]:
    """Digits drawn with strokes, turned, moved and noisy, and their names."""
    random = torch.Generator().manual_seed(seed)
    names = torch.randint(10, (n,), generator=random)
    lit = torch.tensor([[float(str(stroke) in strokes) for stroke in range(7)] for strokes in LIT])[names]
    turn, scale = 0.15 * torch.randn(n, 1, generator=random), 1 + 0.2 * torch.rand(n, 1, generator=random)
    moved = shift * torch.randn(n, 2, 1, generator=random)
    columns, rows = (axis.flatten()[None] - moved[:, i] for i, axis in enumerate(grid(size)))
    points = scale[..., None] * torch.stack(
        [turn.cos() * columns + turn.sin() * rows, turn.cos() * rows - turn.sin() * columns], -1
    )
    starts, along = STROKES[:, :2], STROKES[:, 2:] - STROKES[:, :2]
    apart = points[:, :, None] - starts
    place = ((apart * along).sum(-1) / along.square().sum(-1)).clamp(0, 1)
    far = (apart - place[..., None] * along).square().sum(-1)
    ink = (torch.exp(-far / 0.02) * lit[:, None]).amax(-1).view(n, 1, size, size)
    return ink + noise * torch.randn(n, 1, size, size, generator=random), names


def textures(seed: int, n: int, size: int = 16) -> tuple[Tensor, Tensor]:
    """Stripes of six directions and widths at a random phase, under noise."""
    random = torch.Generator().manual_seed(seed)
    names = torch.randint(6, (n,), generator=random)
    angle = math.pi / 3 * (names % 3) + 0.1 * torch.randn(n, generator=random)
    wide = torch.where(names < 3, 6.0, 10.0)
    phase = 2 * math.pi * torch.rand(n, 1, 1, generator=random)
    columns, rows = grid(size)
    waves = wide[:, None, None] * (angle.cos()[:, None, None] * columns + angle.sin()[:, None, None] * rows) + phase
    return (waves.sin() + 0.6 * torch.randn(n, size, size, generator=random))[:, None], names


def scenes(seed: int, n: int, size: int = 16) -> tuple[Tensor, Tensor]:
    """Up to five kinds of things on a picture, the later the rarer, and which are there."""
    random = torch.Generator().manual_seed(seed)
    there = (torch.rand(n, 5, generator=random) < torch.tensor([0.5, 0.4, 0.3, 0.2, 0.12])).float()
    places = 1.2 * torch.rand(2, n, 5, 1, 1, generator=random) - 0.6
    columns, rows = (axis - place for axis, place in zip(grid(size), places, strict=True))
    across, down, far = columns.abs(), rows.abs(), (columns.square() + rows.square()).sqrt()
    ink = torch.stack(
        [
            (far < 0.25).float()[:, 0],
            ((far - 0.35).abs() < 0.08).float()[:, 1],
            ((across < 0.08) & (down < 0.45) | (down < 0.08) & (across < 0.45)).float()[:, 2],
            ((across < 0.45) & (down < 0.09)).float()[:, 3],
            (((across - down).abs() < 0.09) & (across < 0.4)).float()[:, 4],
        ],
        1,
    )
    drawn = (ink * there[..., None, None]).amax(1, keepdim=True)
    return drawn + 0.1 * torch.randn(n, 1, size, size, generator=random), there


def named(model: nn.Module, batch: Tensors) -> Tensor:
    """The share of pictures that get the right name."""
    return (model(batch[0]).argmax(1) == batch[1]).float().mean()


def naming(model: nn.Module, batch: Tensors, smooth: float = 0.0) -> Tensor:
    """Cross-entropy of the names."""
    return F.cross_entropy(model(batch[0]), batch[1], label_smoothing=smooth)


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution with batch norm."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class Squeeze(nn.Module):
    """Weights channels by what is in all of them."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, inner, 1), nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The weighted channels."""
        weights: Tensor = self.expand(F.silu(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * weights.sigmoid()


class Inverted(nn.Module):
    """Wide inside, a convolution for each channel, narrow outside."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        wide = 3 * inputs
        self.block = nn.Sequential(
            *conv_norm(inputs, wide, 1),
            nn.ReLU6(),
            *conv_norm(wide, wide, 3, stride, wide),
            nn.ReLU6(),
            Squeeze(wide, inputs),
            *conv_norm(wide, outputs, 1),
        )
        self.skip = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """The block, added to its input where that fits."""
        out: Tensor = self.block(x)
        return x + out if self.skip else out


def mobile(seed: int, mistake: str = "") -> Run:
    """Inverted residuals on digits: momentum, warm-up and cosine, smooth labels, a slow copy."""
    x, y = digits(2 * seed, 480)
    if mistake == "header_row":
        y = y.roll(1)
    training = Shuffled(x, y, size=32, seed=seed)
    validation = Shuffled(*digits(2 * seed + 1, 200), size=100, seed=seed, shuffle=False)
    model = nn.Sequential(
        *conv_norm(1, 12, 3, 2),
        nn.ReLU6(),
        Inverted(12, 12, 1),
        Inverted(12, 24, 2),
        Inverted(24, 24, 1),
        *conv_norm(24, 64, 1),
        nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(64, 10),
    )
    if mistake == "zero_gamma":  # meant for the last norm of a residual branch only
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.zeros_(module.weight)
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4)
    return fit(
        model,
        optimizer,
        partial(naming, smooth=0.1),
        training,
        validation=validation,
        accuracy_of=named,
        schedule=OneCycleLR(optimizer, 0.1, total_steps=5 * len(training) + 1, pct_start=0.2),
        ema=copy.deepcopy(model),
    )


class Mixed(nn.Module):
    """A layer of a ConvMixer: over the places with a way around, then over the channels."""

    def __init__(self, width: int, act: type[nn.Module]) -> None:
        super().__init__()
        self.places = nn.Sequential(nn.Conv2d(width, width, 5, padding=2, groups=width), act(), nn.BatchNorm2d(width))
        self.channels = nn.Sequential(nn.Conv2d(width, width, 1), act(), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """The same size again."""
        out: Tensor = self.channels(x + self.places(x))
        return out


def convmixer(seed: int, mistake: str = "") -> Run:
    """A ConvMixer on stripes in half precision, with gradients of two batches and no evaluator."""
    training = Shuffled(*textures(2 * seed, 384), size=16, seed=seed)
    held_out = Shuffled(*textures(2 * seed + 1, 200), size=100, seed=seed, shuffle=False)
    act: type[nn.Module] = nn.Identity if mistake == "no_act" else nn.GELU
    model = nn.Sequential(
        nn.Conv2d(1, 24, 2, 2),
        act(),
        nn.BatchNorm2d(24),
        Mixed(24, act),
        Mixed(24, act),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(24, 6),
    )
    return fit(
        model,
        AdamW(model.parameters(), lr=4e-3),
        naming,
        training,
        every=2,
        bf16=True,
        clip=1.0,
        score=lambda: mean_over(model, named, held_out),
    )


class Attention(nn.Module):
    """Attention of every patch to every other."""

    def __init__(self, width: int, heads: int, scaled: bool) -> None:
        super().__init__()
        self.qkv, self.out, self.heads = nn.Linear(width, 3 * width), nn.Linear(width, width), heads
        self.softmax = nn.Softmax(-1)
        self.scale = (width // heads) ** -0.5 if scaled else 1.0

    def forward(self, x: Tensor) -> Tensor:
        """What each patch has seen."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = self.softmax(self.scale * q @ k.transpose(-2, -1)) @ v
        out: Tensor = self.out(seen.transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """Attention and a small network, each normed before and added."""

    def __init__(self, width: int, drop: float, scaled: bool) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(width), Attention(width, 4, scaled), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(drop), nn.Linear(2 * width, width))
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        """The patches once more."""
        x = x + self.drop(self.attention(self.norm1(x)))
        out: Tensor = x + self.drop(self.mlp(self.norm2(x)))
        return out


class ViT(nn.Module):
    """A small vision transformer with a class token; the head of the distilled kind is there but not used."""

    def __init__(self, drop: float = 0.1, scaled: bool = True, width: int = 32) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 4, 4)
        self.token, self.places = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(torch.zeros(1, 17, width))
        nn.init.trunc_normal_(self.places, std=0.02)
        self.blocks = nn.Sequential(*[Block(width, drop, scaled) for _ in range(2)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits from what the class token has seen."""
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.places
        out: Tensor = self.head(self.norm(self.blocks(x))[:, 0])
        return out


def vit(seed: int, mistake: str = "") -> Run:
    """A vision transformer on digits that starts from a rate of zero and ends there."""
    training = Shuffled(*digits(2 * seed, 800, shift=0.03), size=32, seed=seed)
    validation = Shuffled(*digits(2 * seed + 1, 200, shift=0.03), size=100, seed=seed, shuffle=False)
    model = ViT(drop=0.9 if mistake == "keep_prob" else 0.1, scaled=mistake != "wide_qkv")
    if mistake == "wide_qkv":
        for name, weight in model.named_parameters():
            if name.endswith("qkv.weight"):
                nn.init.normal_(weight, std=2.0)
    optimizer = AdamW(model.parameters(), lr=4e-3, weight_decay=50.0 if mistake == "strong_decay" else 0.05)
    total, warm = 5 * len(training), 20

    def rate(step: int) -> float:
        """Up in a line, down in half a wave."""
        return step / warm if step < warm else 0.5 + 0.5 * math.cos(math.pi * (step - warm) / (total - warm))

    def rate_by_epoch(step: int) -> float:
        """The same, asked only once an epoch for a warm-up that is counted in steps."""
        return rate(step // len(training)) / 10

    return fit(
        model,
        optimizer,
        naming,
        training,
        validation=validation,
        accuracy_of=named,
        schedule=LambdaLR(optimizer, rate_by_epoch if mistake == "epoch_warmup" else rate),
        clip=1.0,
    )


CASES: tuple[Case, ...] = (
    healthy("b_mobile", mobile, epochs=5),
    faulty("b_mobile", "header_row", "labels_mismatch", partial(mobile, mistake="header_row"), "plateau", epochs=5),
    faulty(
        "b_mobile",
        "zero_gamma",
        "dead_units",
        partial(mobile, mistake="zero_gamma"),
        "no_gradient",
        "constant_output",
        epochs=5,
    ),
    healthy("b_convmixer", convmixer, epochs=5),
    faulty("b_convmixer", "no_act", "no_nonlinearity", partial(convmixer, mistake="no_act"), epochs=5),
    healthy("b_vit", vit, epochs=5),
    faulty(
        "b_vit",
        "wide_qkv",
        "saturated_units",
        partial(vit, mistake="wide_qkv"),
        epochs=5,
        layers=("blocks.*.attention*",),
    ),
    faulty("b_vit", "strong_decay", "weight_collapse", partial(vit, mistake="strong_decay"), epochs=5),
    faulty("b_vit", "keep_prob", "over_regularised", partial(vit, mistake="keep_prob"), "plateau", epochs=5),
    faulty("b_vit", "epoch_warmup", "update_too_small", partial(vit, mistake="epoch_warmup"), epochs=5),
)
