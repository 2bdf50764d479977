"""Image encoders by name: torchvision's ResNets and ViTs, with a stem that suits small images, and a ResNet-10 for CPUs."""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import Tensor, nn
from torchvision import models
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.models.vision_transformer import VisionTransformer

from sslfeat.errors import TrainingError

SMALL, MEDIUM = 40, 112  # px: up to SMALL a stem that keeps the resolution, up to MEDIUM one that halves it once


@dataclass(frozen=True)
class ViTShape:
    """Layers, attention heads, width, and the patch size in px for images of 128 px and more."""

    layers: int
    heads: int
    width: int
    patch: int


RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "wide_resnet101_2")
VITS = {
    "vit_tiny": ViTShape(6, 4, 128, 16),
    "vit_s_16": ViTShape(12, 6, 384, 16),
    "vit_b_16": ViTShape(12, 12, 768, 16),
    "vit_b_32": ViTShape(12, 12, 768, 32),
    "vit_l_16": ViTShape(24, 16, 1024, 16),
}
NAMES = ("resnet10", *RESNETS, *VITS)


class Backbone(nn.Module):
    """Images (N, 3, S, S), normalised, to features (N, dim)."""

    def __init__(self, body: nn.Module, dim: int, image_size: int) -> None:
        super().__init__()
        self.body = body
        self.dim = dim
        self.image_size = image_size

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.body(images)
        return features


def build_backbone(name: str, image_size: int) -> Backbone:
    """A randomly initialised backbone for square images of ``image_size`` px.

    ``resnet10`` is 48 channels wide (36 million multiply-adds at 32 px, 384 features); ``resnet10_wN`` sets the
    width. Raises TrainingError for an unknown name or a size that the patches do not divide.
    """
    narrow = re.fullmatch(r"resnet10(?:_w([1-9]\d{0,3}))?", name)
    if narrow:
        width = int(narrow[1] or 48)
        return Backbone(_resnet10(width, image_size), 8 * width, image_size)
    if name in RESNETS:
        return _resnet(name, image_size)
    if name in VITS:
        return _vit(name, VITS[name], image_size)
    raise TrainingError(f"unknown backbone {name!r}: one of {', '.join(NAMES)}, or resnet10_wN for a width of N")


def _resnet10(width: int, image_size: int) -> nn.Module:
    """One basic block a stage, and half the resolution of a standard ResNet's small-image stem: made for CPUs."""
    channels = [width, 2 * width, 4 * width, 8 * width]
    blocks: list[nn.Module] = []
    for index, out in enumerate(channels):
        previous, stride = (width, 1) if index == 0 else (channels[index - 1], 2)
        shortcut = None
        if index:
            shortcut = nn.Sequential(nn.Conv2d(previous, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        blocks.append(BasicBlock(previous, out, stride, shortcut))
    stem: list[nn.Module] = [
        nn.Conv2d(3, width, 3 if image_size <= MEDIUM else 7, 2, 1 if image_size <= MEDIUM else 3, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    ]
    if image_size > SMALL:
        stem.append(nn.MaxPool2d(3, 2, 1))
    body = nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for module in body.modules():  # the initialisation of torchvision's ResNets
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return body


def _resnet(name: str, image_size: int) -> Backbone:
    body = models.get_model(name, weights=None)
    if not isinstance(body, ResNet):
        raise TrainingError(f"torchvision's {name} is not a ResNet")
    if image_size <= MEDIUM:
        stride = 1 if image_size <= SMALL else 2
        body.conv1 = nn.Conv2d(3, body.conv1.out_channels, 3, stride, 1, bias=False)
        nn.init.kaiming_normal_(body.conv1.weight, mode="fan_out", nonlinearity="relu")
        body.maxpool = nn.Identity()
    dim = body.fc.in_features
    body.fc = nn.Identity()
    return Backbone(body, dim, image_size)


def _vit(name: str, shape: ViTShape, image_size: int) -> Backbone:
    patch = shape.patch if image_size >= 128 else max(2, image_size // 8)
    if image_size % patch:
        raise TrainingError(f"{name} cuts patches of {patch} px: choose an --image-size that is a multiple of {patch}")
    body = VisionTransformer(image_size, patch, shape.layers, shape.heads, shape.width, 4 * shape.width, num_classes=1)
    body.heads = nn.Identity()
    return Backbone(body, shape.width, image_size)
