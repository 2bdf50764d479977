"""Image encoders by name."""

from __future__ import annotations

import re

from sslfeat.errors import UsageError
from sslfeat.models.backbones import timm_network
from sslfeat.models.backbones.base import Backbone
from sslfeat.models.backbones.resnet import RESNETS, ConvBackbone, narrow_resnet, resnet
from sslfeat.models.backbones.torchvision_network import PREFIX, torchvision_network
from sslfeat.models.backbones.vit import VITS, ViTBackbone, vit

NAMES = ("resnet10", *RESNETS, *VITS)


def build_backbone(name: str, image_size: int, pretrained: bool = False) -> Backbone:
    """A randomly initialized backbone for square images of ``image_size`` px; ``pretrained``: timm's or torchvision's weights.

    ``resnet10`` is 48 channels wide (36 million multiply-adds at 32 px, 384 features); ``resnet10_wN`` sets the
    width. Raises UsageError for an unknown name or a size that the patches do not divide, TrainingError for weights that
    cannot be had.
    """
    for prefix, build in ((timm_network.PREFIX, timm_network.timm_network), (PREFIX, torchvision_network)):
        if name.startswith(prefix):
            return build(name.removeprefix(prefix), image_size, pretrained)
    if pretrained:
        raise UsageError(f"there are no published weights of {name}: name timm/NAME or torchvision/NAME")
    narrow = re.fullmatch(r"resnet10(?:_w([1-9]\d{0,3}))?", name)
    if narrow:
        width = int(narrow[1] or 48)
        return narrow_resnet(width, image_size)
    if name in RESNETS:
        return resnet(name, image_size)
    if name in VITS:
        return vit(name, VITS[name], image_size)
    raise UsageError(f"unknown backbone {name!r}: one of {', '.join(NAMES)}, resnet10_wN (width N), timm/NAME, torchvision/NAME")


def need_conv(encoder: Backbone, method: str) -> ConvBackbone:
    """The encoder, if it takes images of any size. Raises UsageError for a ViT."""
    if not isinstance(encoder, ConvBackbone):
        raise UsageError(f"{method} shows the encoder parts of images: choose a ResNet (--backbone resnet10, ...)")
    return encoder


def need_vit(encoder: Backbone, method: str) -> ViTBackbone:
    """The encoder, if it is made of tokens. Raises UsageError for a ResNet."""
    if not isinstance(encoder, ViTBackbone):
        raise UsageError(f"{method} works on patch tokens: choose a ViT (--backbone {', '.join(VITS)})")
    return encoder
