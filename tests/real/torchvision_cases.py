"""torchvision's models with random weights, on tiny inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torchvision import models
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead

from real.case import Case, adamw

CLASSES = 5


def images(count: int, side: int) -> Callable[[Generator], tuple[tuple[Any, ...], dict[str, Any]]]:
    """Batches of square images."""
    return lambda generator: ((torch.randn(count, 3, side, side, generator=generator),), {})


def clips(generator: Generator) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A batch of short videos."""
    return (torch.randn(2, 3, 4, 16, 16, generator=generator),), {}


def labels(args: tuple[Any, ...]) -> Tensor:
    """A class for each image."""
    return torch.arange(len(args[0])) % CLASSES


def cross_entropy(logits: Tensor, args: tuple[Any, ...]) -> Tensor:
    """The loss of a classifier."""
    return F.cross_entropy(logits, labels(args))


def with_auxiliary_heads(output: Any, args: tuple[Any, ...]) -> Tensor:
    """GoogLeNet's and Inception's loss: the auxiliary heads count for less."""
    main, *others = (head for head in output if head is not None)
    return cross_entropy(main, args) + sum((0.3 * cross_entropy(head, args) for head in others), torch.zeros(()))


def per_pixel(output: Mapping[str, Tensor], args: tuple[Any, ...]) -> Tensor:
    """The loss of a segmentation."""
    classes = (args[0][:, 0] > 0).long()
    return sum((F.cross_entropy(head, classes) for head in output.values()), torch.zeros(()))


def pictures_and_boxes(generator: Generator) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Two images of different sizes, with one box each."""
    pictures = [torch.rand(3, side, 64, generator=generator) for side in (64, 48)]
    box = torch.tensor([[8.0, 8.0, 40.0, 40.0]])
    return (pictures, [{"boxes": box, "labels": torch.tensor([1])} for _ in pictures]), {}


def sum_of_losses(output: Mapping[str, Tensor], args: tuple[Any, ...]) -> Tensor:
    """A detector in training mode returns its losses."""
    return sum(output.values(), torch.zeros(()))


def of(name: str, **settings: Any) -> Callable[[], nn.Module]:
    """Builds a classifier by its name."""
    return lambda: models.get_model(name, weights=None, num_classes=CLASSES, **settings)


def classifier(name: str, count: int = 2, side: int = 32, axis: int = 1, steps: int = 2, **settings: Any) -> Case:
    """A classifier of images; its units are channels unless ``axis`` says otherwise."""
    return Case(name, of(name, **settings), images(count, side), cross_entropy, axis=axis, steps=steps)


def small_vit() -> nn.Module:
    """A vision transformer of two layers."""
    return models.VisionTransformer(32, 8, 2, 2, 16, 32, dropout=0.1, num_classes=CLASSES)


def small_swin() -> nn.Module:
    """A Swin transformer of two stages with shifted windows."""
    return models.SwinTransformer([4, 4], 16, [2, 2], [2, 4], [4, 4], stochastic_depth_prob=0.2, num_classes=CLASSES)


def small_convnext() -> nn.Module:
    """A ConvNeXt of two stages, whose MLPs work on the last axis."""
    settings = [models.convnext.CNBlockConfig(16, 32, 2), models.convnext.CNBlockConfig(32, None, 2)]
    return models.ConvNeXt(settings, stochastic_depth_prob=0.1, num_classes=CLASSES)


def small_bottlenecks() -> nn.Module:
    """ResNet-50's blocks, whose one ReLU sees three widths in a forward."""
    return models.ResNet(models.resnet.Bottleneck, [1, 2, 1, 1], num_classes=CLASSES, width_per_group=16)


def small_vgg() -> nn.Module:
    """VGG-11 with batch norm, an eighth as wide, and a small head."""
    layers = models.vgg.make_layers([8, "M", 16, "M", 32, 32, "M", 64, 64, "M", 64, 64, "M"], batch_norm=True)
    head = nn.Sequential(nn.Linear(64, 64), nn.ReLU(True), nn.Dropout(), nn.Linear(64, CLASSES))
    return nn.Sequential(layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


def small_r3d() -> nn.Module:
    """The first half of a 3-D ResNet-18."""
    model = models.video.r3d_18(num_classes=CLASSES)
    model.layer3, model.layer4, model.fc = nn.Identity(), nn.Identity(), nn.Linear(128, CLASSES)
    return model


def detector() -> nn.Module:
    """Faster R-CNN with a small box head, that keeps images at 64 pixels."""
    settings = {"weights": None, "weights_backbone": None, "num_classes": 3, "min_size": 64, "max_size": 64}
    model = fasterrcnn_mobilenet_v3_large_320_fpn(**settings, rpn_pre_nms_top_n_train=50, rpn_post_nms_top_n_train=20)
    model.roi_heads.box_head = TwoMLPHead(256 * 7 * 7, 64)
    model.roi_heads.box_predictor = FastRCNNPredictor(64, 3)
    return model


def of_video(name: str) -> Callable[[], nn.Module]:
    """Builds a classifier of videos by its name."""
    return lambda: models.get_model(name, num_classes=CLASSES)


def segmentation(name: str) -> Case:
    """A segmentation model, with its auxiliary head where it has one."""
    settings = {"weights": None, "weights_backbone": None, "num_classes": 2, "aux_loss": None}
    if name.startswith("lraspp"):
        del settings["aux_loss"]
    else:
        settings["aux_loss"] = True
    return Case(name, lambda: models.get_model(name, **settings), images(2, 48), per_pixel, axis=1, steps=2)


CASES: tuple[Case, ...] = (
    classifier("resnet18", steps=3),
    Case("resnet of bottlenecks", small_bottlenecks, images(2, 32), cross_entropy, axis=1, steps=2),
    Case("vgg11_bn", small_vgg, images(2, 32), cross_entropy, axis=1, steps=2),
    classifier("densenet121"),
    classifier("mobilenet_v2"),
    classifier("mobilenet_v3_small"),
    classifier("efficientnet_b0"),
    classifier("regnet_y_400mf"),
    classifier("shufflenet_v2_x0_5"),
    classifier("squeezenet1_0", side=48),
    classifier("mnasnet0_5"),
    Case(
        "googlenet",
        of("googlenet", init_weights=False, aux_logits=True),
        images(2, 64),
        with_auxiliary_heads,
        axis=1,
        steps=2,
    ),
    Case("convnext", small_convnext, images(2, 32), cross_entropy, optimizer=adamw),
    Case("vit", small_vit, images(3, 32), cross_entropy, optimizer=adamw),
    Case("swin", small_swin, images(2, 32), cross_entropy, optimizer=adamw),
    segmentation("lraspp_mobilenet_v3_large"),
    Case(
        "fasterrcnn_mobilenet_v3_large",
        detector,
        pictures_and_boxes,
        sum_of_losses,
        axis=1,
        steps=2,
        unknown_units=("rpn.sigmoid",),
    ),
    Case("r3d_18", small_r3d, clips, cross_entropy, axis=1, steps=2),
)

SLOW: tuple[Case, ...] = (
    *(classifier(name, side=64) for name in ("alexnet", "vgg11", "vgg13_bn", "resnet50", "resnet101")),
    *(classifier(name) for name in ("resnext50_32x4d", "wide_resnet50_2", "densenet161", "densenet169")),
    *(
        classifier(name)
        for name in ("mobilenet_v3_large", "shufflenet_v2_x1_0", "efficientnet_b2", "efficientnet_v2_s")
    ),
    *(classifier(name, 4, 64) for name in ("mnasnet1_0", "mnasnet1_3", "regnet_x_400mf", "regnet_y_1_6gf")),
    classifier("squeezenet1_1", side=64),
    Case(
        "inception_v3",
        of("inception_v3", init_weights=False, aux_logits=True),
        images(2, 299),
        with_auxiliary_heads,
        axis=1,
        steps=2,
    ),
    *(classifier(name, axis=-1) for name in ("convnext_tiny", "convnext_small", "swin_t", "swin_v2_t")),
    classifier("vit_b_16", side=224, axis=-1),
    *(segmentation(name) for name in ("fcn_resnet50", "deeplabv3_mobilenet_v3_large", "deeplabv3_resnet50")),
    *(
        Case(name, of_video(name), clips, cross_entropy, axis=1, steps=2)
        for name in ("r3d_18", "mc3_18", "r2plus1d_18")
    ),
)
