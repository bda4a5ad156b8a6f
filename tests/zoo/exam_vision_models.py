"""Classifiers of images for the exam on vision: torchvision's, made small, and some of our own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models
from torchvision.models.efficientnet import EfficientNet, MBConvConfig

Activation = Callable[[], nn.Module]


def half_resnet18(classes: int) -> nn.Module:
    """The first half of a ResNet-18."""
    model: Any = models.resnet18(weights=None)
    model.layer3, model.layer4, model.fc = nn.Identity(), nn.Identity(), nn.Linear(128, classes)
    return model


def quarter_resnet34(classes: int) -> nn.Module:
    """A ResNet-34 whose last two stages are gone and whose first convolution keeps the size, as for tiny images."""
    model: Any = models.resnet34(weights=None)
    model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False), nn.Identity()
    model.layer2, model.layer3, model.layer4 = nn.Identity(), nn.Identity(), nn.Identity()
    model.fc = nn.Linear(64, classes)
    return model


def small_densenet(classes: int) -> nn.Module:
    """A DenseNet of two blocks."""
    return models.DenseNet(8, (2, 3), 16, bn_size=2, num_classes=classes)


def small_mobilenet(classes: int) -> nn.Module:
    """A MobileNetV2 of five inverted residuals, a quarter as wide."""
    return models.MobileNetV2(classes, 0.25, [[1, 16, 1, 1], [6, 24, 2, 1], [6, 32, 2, 1]])


def small_shufflenet(classes: int) -> nn.Module:
    """A ShuffleNetV2 of four units."""
    return models.ShuffleNetV2([1, 2, 1], [16, 32, 64, 96, 128], classes)


def small_efficientnet(classes: int, dropout: float = 0.2) -> nn.Module:
    """An EfficientNet of three blocks."""
    blocks = [MBConvConfig(1, 3, 1, 16, 16, 1, 1, 1), MBConvConfig(4, 3, 2, 16, 24, 2, 1, 1)]
    return EfficientNet(blocks, dropout, stochastic_depth_prob=0.1, num_classes=classes, last_channel=96)


def fresh_layers(model: nn.Module) -> nn.Module:
    """The model with PyTorch's own initial weights, which suit a narrow one better than those of the large models."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            module.reset_parameters()
    return model


def small_vit(classes: int) -> nn.Module:
    """A vision transformer of two layers."""
    return fresh_layers(models.VisionTransformer(16, 4, 2, 4, 32, 64, dropout=0.1, num_classes=classes))


def small_swin(classes: int) -> nn.Module:
    """A Swin transformer of one stage with shifted windows."""
    return fresh_layers(
        models.SwinTransformer([2, 2], 24, [2], [2], [2, 2], stochastic_depth_prob=0.1, num_classes=classes)
    )


def conv(inputs: int, outputs: int, size: int = 3, stride: int = 1, act: Activation = nn.ReLU) -> nn.Sequential:
    """A convolution with batch norm and an activation."""
    layer = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), act())


class Mixed(nn.Module):
    """Three branches with fields of different sizes side by side."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.narrow = conv(inputs, width, 1)
        self.middle = nn.Sequential(conv(inputs, width, 1), conv(width, width, 3))
        self.pooled = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(inputs, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.narrow(x), self.middle(x), self.pooled(x)], 1)


class Inception(nn.Module):
    """A net of mixed branches with an auxiliary head in the middle, which is used in training only."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = conv(3, 16, stride=2)
        self.mixed1, self.mixed2, self.mixed3 = Mixed(16, 12), Mixed(36, 12), Mixed(36, 16)
        self.auxiliary = nn.Linear(36, classes)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(48, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        x = self.mixed2(self.mixed1(self.stem(x)))
        beside = self.auxiliary(x.mean((2, 3))) if self.training else None
        x = self.mixed3(F.max_pool2d(x, 2))
        return self.head(self.dropout(x.mean((2, 3)))), beside


def plain(depth: int = 6, width: int = 20, act: Activation = nn.ReLU, classes: int = 10) -> nn.Sequential:
    """Convolutions without any norm, in the style of VGG, that halve the image twice."""
    layers: list[nn.Module] = []
    for index in range(depth):
        layer = nn.Conv2d(1 if index == 0 else width, width, 3, padding=1)
        if act is nn.ReLU:
            nn.init.kaiming_normal_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        layers += [layer, act()]
        if index in (1, 3):
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * width, classes))


class MixerBlock(nn.Module):
    """Mixes places, then channels."""

    def __init__(self, places: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.places = nn.Sequential(nn.Linear(places, 32), nn.GELU(), nn.Linear(32, places))
        self.channels = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.places(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class Mixer(nn.Module):
    """An MLP-Mixer on patches of two by two pixels; registered or not says whether the blocks are known as parts."""

    def __init__(self, classes: int = 10, width: int = 32, registered: bool = True) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, 2)
        blocks = [MixerBlock(16, width) for _ in range(2)]
        self.blocks = nn.ModuleList(blocks) if registered else blocks
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


def lenet(classes: int = 10, last: nn.Module | None = None) -> nn.Sequential:
    """A net with tanh, in the style of LeNet."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 48),
        nn.Tanh(),
        nn.Linear(48, classes),
        *([] if last is None else [last]),
    )


class ClipNet(nn.Module):
    """Convolutions over space and time."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.conv1, self.norm1, self.act1 = nn.Conv3d(1, 12, 3, padding=1), nn.BatchNorm3d(12), nn.ReLU()
        self.conv2, self.norm2, self.act2 = nn.Conv3d(12, 16, 3, (1, 2, 2), 1), nn.BatchNorm3d(16), nn.ReLU()
        self.conv3, self.norm3, self.act3 = nn.Conv3d(16, 24, 3, 2, 1), nn.BatchNorm3d(24), nn.ReLU()
        self.head = nn.Linear(24, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act1(self.norm1(self.conv1(x)))
        x = self.act2(self.norm2(self.conv2(x)))
        return self.head(self.act3(self.norm3(self.conv3(x))).mean((2, 3, 4)))


class SoftExperts(nn.Module):
    """Convolutions, then experts of which each image is sent to one, then a head."""

    def __init__(self, classes: int = 10, width: int = 32, experts: int = 4) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 12, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(192, width))
        self.router = nn.Linear(width, experts)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)) for _ in range(experts)
        )
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The logits, and how evenly the images are spread over the experts, which is 1 at best."""
        x = self.stem(x)
        shares = self.router(x).softmax(1)
        chosen = shares.argmax(1)
        sent = F.one_hot(chosen, shares.shape[1]).to(x.dtype)
        mixed = sum(
            (sent[:, index, None] * shares[:, index, None] * expert(x) for index, expert in enumerate(self.experts)),
            torch.zeros_like(x),
        )
        return self.head(x + mixed), shares.shape[1] * (sent.mean(0) * shares.mean(0)).sum()
