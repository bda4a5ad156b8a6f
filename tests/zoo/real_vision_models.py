"""The networks of the real runs on images: torchvision's, made small, and others in their style."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models
from torchvision.models.efficientnet import EfficientNet, MBConvConfig
from torchvision.models.mobilenetv3 import InvertedResidualConfig, MobileNetV3
from torchvision.models.regnet import BlockParams, RegNet
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.models.segmentation import LRASPP

Activation = Callable[[], nn.Module]


def resnet(classes: int = 10) -> ResNet:
    """The first half of a ResNet-18."""
    model = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=classes)
    model.layer3, model.layer4, model.fc = nn.Identity(), nn.Identity(), nn.Linear(128, classes)
    return model


def mobilenet(classes: int = 10, dropout: float = 0.2) -> MobileNetV3:
    """The first blocks of MobileNetV3-small."""
    settings = [
        InvertedResidualConfig(16, 3, 16, 16, True, "RE", 1, 1, 1.0),
        InvertedResidualConfig(16, 3, 48, 24, False, "RE", 2, 1, 1.0),
        InvertedResidualConfig(24, 5, 96, 24, True, "HS", 1, 1, 1.0),
    ]
    return MobileNetV3(settings, 64, num_classes=classes, dropout=dropout, norm_layer=nn.BatchNorm2d)


def efficientnet(classes: int = 4) -> EfficientNet:
    """Three stages of EfficientNet-B0."""
    settings = [MBConvConfig(1, 3, 1, 16, 16, 1), MBConvConfig(4, 3, 2, 16, 24, 1), MBConvConfig(4, 5, 2, 24, 32, 1)]
    return EfficientNet(settings, 0.2, num_classes=classes, last_channel=96)


def convnext(classes: int = 4) -> models.ConvNeXt:
    """A ConvNeXt of two stages."""
    settings = [models.convnext.CNBlockConfig(16, 32, 2), models.convnext.CNBlockConfig(32, None, 2)]
    return models.ConvNeXt(settings, stochastic_depth_prob=0.1, num_classes=classes)


def vit(classes: int = 10) -> models.VisionTransformer:
    """A vision transformer of two layers, whose head begins at zero."""
    return models.VisionTransformer(16, 4, 2, 4, 32, 64, dropout=0.05, num_classes=classes)


def swin(classes: int = 4) -> models.SwinTransformer:
    """A Swin transformer of two stages."""
    return models.SwinTransformer([2, 2], 16, [2, 2], [2, 4], [4, 4], stochastic_depth_prob=0.1, num_classes=classes)


def shufflenet(classes: int = 10) -> models.ShuffleNetV2:
    """A ShuffleNet with few blocks."""
    return models.ShuffleNetV2([1, 2, 1], [16, 24, 48, 96, 96], num_classes=classes)


def regnet(classes: int = 10) -> RegNet:
    """A RegNet of three stages with squeeze and excitation."""
    settings = BlockParams([1, 1, 1], [16, 32, 48], [16, 16, 16], [1, 1, 1], [2, 2, 2], se_ratio=0.25)
    return RegNet(settings, num_classes=classes, stem_width=8)


def densenet(classes: int = 4) -> models.DenseNet:
    """A DenseNet of three blocks."""
    return models.DenseNet(8, (2, 2, 2), 16, num_classes=classes)


class Levels(nn.Module):
    """Features at half and at a quarter of the resolution, as LR-ASPP wants them."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high = conv(3, 16, stride=2), nn.Sequential(conv(16, 32, stride=2), conv(32, 32))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        low = self.low(x)
        return {"low": low, "high": self.high(low)}


def lraspp(classes: int = 3) -> LRASPP:
    """LR-ASPP on a small backbone."""
    return LRASPP(Levels(), 16, 32, classes, inter_channels=32)


def conv(inputs: int, outputs: int, *, stride: int = 1, norm: bool = True, act: Activation = nn.ReLU) -> nn.Sequential:
    """A convolution of three by three with batch norm and an activation."""
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=not norm)]
    if norm:
        layers.append(nn.BatchNorm2d(outputs))
    return nn.Sequential(*layers, act())


class Excited(nn.Module):
    """A residual block whose channels are weighted by what is in all of the image."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = conv(width, width)
        self.second = conv(width, width, act=nn.Identity)
        self.squeeze = nn.Sequential(
            nn.Linear(width, width // 4), nn.ReLU(), nn.Linear(width // 4, width), nn.Sigmoid()
        )
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.first(x))
        return self.act(x + y * self.squeeze(y.mean((2, 3)))[:, :, None, None])


class ExcitedResNet(nn.Module):
    """A stem, residual blocks with squeeze and excitation, a pool and a head."""

    def __init__(self, classes: int = 10, width: int = 24) -> None:
        super().__init__()
        self.stem = conv(3, width, stride=2)
        self.blocks = nn.Sequential(*(Excited(width) for _ in range(3)))
        self.last = conv(width, 2 * width, stride=2)
        self.head = nn.Linear(2 * width, classes)
        self.pooled: tuple[int, ...] = (2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.blocks(self.stem(x)))
        return self.head(x.mean(self.pooled, keepdim=True).expand(len(x), -1, 1, 1).flatten(1))


class Plain(nn.Module):
    """Convolutions without norm, as in VGG, and a classifier with a hidden layer."""

    def __init__(
        self,
        classes: int = 10,
        widths: Sequence[int] = (1, 16, 32, 32),
        *,
        act: Activation = nn.ReLU,
        hidden_act: Activation = nn.ReLU,
        dropout: float = 0.2,
        listed: bool = True,
    ) -> None:
        super().__init__()
        stages = [conv(*pair, stride=2 if i else 1, norm=False, act=act) for i, pair in enumerate(pairwise(widths))]
        self.features: Any = nn.ModuleList(stages) if listed else stages
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(4 * widths[-1], 64),
            hidden_act(),
            nn.Dropout(dropout),
            nn.Linear(64, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.features:
            x = stage(x)
        return self.classifier(x.flatten(1))


class Attention(nn.Module):
    """Attention with heads, written out."""

    def __init__(self, width: int, heads: int, scale: float) -> None:
        super().__init__()
        self.heads, self.scale = heads, scale
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.softmax = nn.Softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        n, places, width = x.shape
        q, k, v = self.qkv(x).view(n, places, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weights = self.softmax(q @ k.transpose(-1, -2) * self.scale)
        return self.out((weights @ v).transpose(1, 2).reshape(n, places, width))


class Layer(nn.Module):
    """A layer of a transformer, norms first."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, 4, scale)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Patches(nn.Module):
    """A vision transformer with learnt places and a mean over them, as in timm."""

    def __init__(self, classes: int = 10, width: int = 32, depth: int = 2, scale: float | None = None) -> None:
        super().__init__()
        self.detached = False
        self.embed = nn.Conv2d(1, width, 2, 2)
        self.place = nn.Parameter(0.02 * torch.randn(16, width))
        self.layers = nn.Sequential(*(Layer(width, scale or (width // 4) ** -0.5) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2) + self.place
        x = self.norm(self.layers(x)).mean(1)
        return self.head(x.detach() if self.detached else x)


class Mixing(nn.Module):
    """A layer of an MLP-Mixer: one MLP over the places, one over the channels."""

    def __init__(self, places: int, width: int, act: Activation) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.places = nn.Sequential(nn.Linear(places, 2 * places), act(), nn.Linear(2 * places, places))
        self.channels = nn.Sequential(nn.Linear(width, 2 * width), act(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.places(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class Mixer(nn.Module):
    """An MLP-Mixer on patches."""

    def __init__(self, classes: int = 10, width: int = 32, act: Activation = nn.GELU) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, width, 2, 2)
        self.layers = nn.Sequential(*(Mixing(16, width, act) for _ in range(3)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.layers(self.embed(x).flatten(2).transpose(1, 2))).mean(1))


class UNet(nn.Module):
    """Two levels down, two up, with the features of the same level joined in."""

    def __init__(
        self, outputs: int = 1, width: int = 12, act: Activation = nn.ReLU, last: Activation = nn.Identity
    ) -> None:
        super().__init__()
        self.enter = conv(3, width, act=act)
        self.down1, self.down2 = (
            conv(width, 2 * width, stride=2, act=act),
            conv(2 * width, 4 * width, stride=2, act=act),
        )
        self.up1, self.up2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, 2), nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.join1, self.join2 = conv(4 * width, 2 * width, act=act), conv(2 * width, width, act=act)
        self.head = nn.Conv2d(width, outputs, 1)
        self.last = last()

    def forward(self, x: Tensor) -> Tensor:
        fine = self.enter(x)
        half = self.down1(fine)
        up = self.join1(torch.cat([half, self.up1(self.down2(half))], 1))
        return self.last(self.head(self.join2(torch.cat([fine, self.up2(up)], 1))))


class Embedder(nn.Module):
    """A small convolutional network and a projection of what it finds."""

    def __init__(self, channels: int = 1, width: int = 16, outputs: int = 16, norm: bool = True) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            conv(channels, width, stride=channels // 2 + 1, norm=norm),
            conv(width, 2 * width, stride=2, norm=norm),
            conv(2 * width, 32, stride=2, norm=norm),
        )
        self.project = nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.backbone(x).flatten(1))


class Autoencoder(nn.Module):
    """Convolutions to a narrow code and back."""

    def __init__(self, last: Activation = nn.Tanh, code: int = 24) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            conv(1, 16, norm=False), conv(16, 32, stride=2, norm=False), nn.Flatten(), nn.Linear(512, code)
        )
        self.decoder = nn.Sequential(
            nn.Linear(code, 256),
            nn.ReLU(),
            nn.Unflatten(1, (16, 4, 4)),
            nn.ConvTranspose2d(16, 16, 2, 2),
            nn.ReLU(),
            nn.Conv2d(16, 1, 3, padding=1),
            last(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


class Heads(nn.Module):
    """A trunk with a head for the class, one for whether it is odd, and one for the amount of ink."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.trunk = nn.Sequential(conv(1, 16), conv(16, 32, stride=2), nn.Flatten(), nn.Linear(512, 64), nn.ReLU())
        self.which, self.odd, self.ink = nn.Linear(64, classes), nn.Linear(64, 1), nn.Linear(64, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.trunk(x)
        return self.which(x), self.odd(x), self.ink(x)


class Centre(nn.Module):
    """Where the disc is: convolutions with group norm and a head on all of their places."""

    def __init__(self, outputs: int = 2, last: Activation = nn.Identity) -> None:
        super().__init__()
        widths = (3, 16, 24, 24)
        self.features = nn.Sequential()
        for inputs, width in pairwise(widths):
            self.features.append(nn.Conv2d(inputs, width, 3, 2, 1))
            self.features.append(nn.GroupNorm(4, width))
            self.features.append(nn.SiLU())
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(96, 32), nn.SiLU(), nn.Linear(32, outputs), last())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def frozen(model: nn.Module, *kept: str) -> nn.Module:
    """The model of which only the named parts are trained."""
    model.requires_grad_(False)
    for name in kept:
        model.get_submodule(name).requires_grad_(True)
    return model


def initialised(
    model: nn.Module, change: Callable[[Tensor], Any], kinds: tuple[type, ...] = (nn.Conv2d, nn.Linear)
) -> nn.Module:
    """The model after a change to the weights of its layers."""
    for module in model.modules():
        if isinstance(module, kinds):
            change(module.weight)  # type: ignore[arg-type]
    return model


def distance(a: Tensor, b: Tensor, epsilon: float = 1e-6) -> Tensor:
    """Euclidean distances of rows."""
    return ((a - b).square().sum(1) + epsilon).sqrt()


def similarity(a: Tensor, b: Tensor) -> Tensor:
    """Cosines of all pairs of rows."""
    return F.normalize(a, dim=1) @ F.normalize(b, dim=1).T
