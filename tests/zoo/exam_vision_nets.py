"""Networks of the exam on vision that do not only classify."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.exam_vision_models import Activation, conv


class Detector(nn.Module):
    """A one-stage detector: for each cell whether an object is centred in it, its box and its class."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.backbone = nn.Sequential(conv(3, 16), conv(16, 24, stride=2), conv(24, 32, stride=2), conv(32, 32))
        self.objectness = nn.Conv2d(32, 1, 1)
        self.boxes = nn.Conv2d(32, 4, 1)
        self.classes = nn.Conv2d(32, classes, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.backbone(x)
        return self.objectness(x), self.boxes(x), self.classes(x)


class FullyConvolutional(nn.Module):
    """A backbone that halves the image, a head, and the logits enlarged again."""

    def __init__(self, classes: int = 5, act: Activation = nn.ReLU) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            conv(3, 16, act=act), conv(16, 24, stride=2, act=act), conv(24, 32, act=act), conv(32, 32, act=act)
        )
        self.head = nn.Sequential(conv(32, 24, act=act), nn.Dropout(0.1), nn.Conv2d(24, classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.head(self.backbone(x)), x.shape[-2:], mode="bilinear", align_corners=False)


class UNet(nn.Module):
    """A U-Net of two levels."""

    def __init__(self, width: int = 12, last: nn.Module | None = None) -> None:
        super().__init__()
        self.enter, self.down = conv(3, width), conv(width, 2 * width, stride=2)
        self.middle = conv(2 * width, 2 * width)
        self.up = nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.join = conv(2 * width, width)
        self.leave, self.last = nn.Conv2d(width, 1, 1), last or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        near = self.enter(x)
        deep = self.up(self.middle(self.down(near)))
        return self.last(self.leave(self.join(torch.cat([near, deep], 1))))


class ResidualConv(nn.Module):
    """Two convolutions without a norm beside a shortcut, as nets for super-resolution have."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(x)))


class SuperResolution(nn.Module):
    """Twice as many pixels in each direction, shuffled out of channels."""

    def __init__(self, width: int = 16, blocks: int = 3, last: nn.Module | None = None) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Sequential(*(ResidualConv(width) for _ in range(blocks)))
        self.up = nn.Sequential(nn.Conv2d(width, 12, 3, padding=1), nn.PixelShuffle(2))
        self.last = last or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.up(self.body(self.enter(x))))


def regressor(outputs: int, last: nn.Module | None = None, channels: int = 3) -> nn.Sequential:
    """Convolutions and linear layers whose outputs are numbers, on images of 16 by 16 pixels."""
    body = [conv(channels, 16, stride=2), conv(16, 24, stride=2), conv(24, 24)]
    head = [nn.Flatten(), nn.Linear(384, 64), nn.ReLU(), nn.Linear(64, outputs)]
    return nn.Sequential(*body, *head, *([] if last is None else [last]))


class Field(nn.Module):
    """The colour at a place, from waves of fixed random lengths and an MLP."""

    lengths: Tensor

    def __init__(self, width: int = 64, waves: int = 24, registered: bool = True) -> None:
        super().__init__()
        self.register_buffer("lengths", 2.0 * torch.randn(2, waves))
        self.enter = nn.Linear(2 * waves, width)
        hidden = [nn.Linear(width, width) for _ in range(3)]
        self.hidden = nn.ModuleList(hidden) if registered else hidden
        self.leave = nn.Linear(width, 3)

    def forward(self, places: Tensor) -> Tensor:
        angles = math.pi * places @ self.lengths
        x = F.relu(self.enter(torch.cat([angles.sin(), angles.cos()], -1)))
        for layer in self.hidden:
            x = F.relu(layer(x))
        return self.leave(x)


class Siren(nn.Module):
    """The colour at a place, from layers of sines as in SIREN."""

    def __init__(self, width: int = 48, first: float = 8.0) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(2, width), nn.Linear(width, 3)
        hidden = [nn.Linear(width, width) for _ in range(2)]
        self.hidden = nn.ModuleList(hidden)
        self.first = first
        nn.init.uniform_(self.enter.weight, -0.5, 0.5)
        for layer in hidden:
            nn.init.uniform_(layer.weight, -math.sqrt(6 / width), math.sqrt(6 / width))

    def forward(self, places: Tensor) -> Tensor:
        x = torch.sin(self.first * self.enter(places))
        for layer in self.hidden:
            x = torch.sin(layer(x))
        return self.leave(x)


class SpatialTransformer(nn.Module):
    """Looks where the digit is and how large, cuts it out, and classifies what it has cut."""

    def __init__(self, classes: int = 10, cut: bool = False) -> None:
        super().__init__()
        self.look = nn.Sequential(conv(1, 12, stride=2), conv(12, 16, stride=2), nn.Flatten(), nn.Linear(256, 32))
        self.where = nn.Linear(32, 6)
        nn.init.zeros_(self.where.weight)
        with torch.no_grad():
            self.where.bias.copy_(torch.tensor([1.0, 0, 0, 0, 1, 0]))
        self.cut = cut
        self.read = nn.Sequential(conv(1, 16, stride=2), conv(16, 24, stride=2), nn.Flatten(), nn.Linear(384, classes))

    def forward(self, x: Tensor) -> Tensor:
        theta = self.where(F.relu(self.look(x))).view(-1, 2, 3)
        if self.cut:
            theta = theta.detach()
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        return self.read(F.grid_sample(x, grid, align_corners=False))


class Attention(nn.Module):
    """A layer of a transformer, with the norms in front."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.together, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        batch, places, width = x.shape
        parts = self.together(self.norm1(x)).view(batch, places, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(parts[0], parts[1], parts[2])
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, places, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class MaskedAutoencoder(nn.Module):
    """Reads the patches that are shown and draws all of them; patches have four pixels."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Linear(4, width)
        self.places = nn.Parameter(0.2 * torch.randn(16, width))
        self.encoder = nn.Sequential(Attention(width), Attention(width), nn.LayerNorm(width))
        self.hidden = nn.Parameter(0.02 * torch.randn(width))
        self.decoder_places = nn.Parameter(0.2 * torch.randn(16, width))
        self.decoder = nn.Sequential(Attention(width), nn.LayerNorm(width), nn.Linear(width, 4))

    def forward(self, patches: Tensor, order: Tensor, shown: int) -> Tensor:
        """All patches, from the first few in an order of their places, ``(N, 16)``."""
        x = self.embed(patches) + self.places
        index = order[:, :shown, None].expand(-1, -1, x.shape[-1])
        read = self.encoder(x.gather(1, index))
        whole = self.hidden.expand(x.shape).scatter(1, index, read)
        return self.decoder(whole + self.decoder_places)
