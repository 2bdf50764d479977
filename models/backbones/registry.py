"""Image encoders by name."""

from __future__ import annotations

import re
from pathlib import Path

from sslfeat.errors import UsageError
from sslfeat.models.backbones import timm_network
from sslfeat.models.backbones.base import Backbone
from sslfeat.models.backbones.resnet import RESNETS, ConvBackbone, narrow_resnet, resnet
from sslfeat.models.backbones.torchvision_network import PREFIX, torchvision_network
from sslfeat.models.backbones.vit import VITS, ViTBackbone, vit

NAMES = ("resnet10", *RESNETS, *VITS)


NARROWEST = 8  # with fewer channels, 1 x 1 convolutions of torch 2.14 write out of bounds on CPUs with AVX2 only


def build_backbone(name: str, image_size: int, pretrained: bool = False, weights: Path | None = None) -> Backbone:
    """A randomly initialized backbone for square images of ``image_size`` px; ``pretrained``: with weights of timm or
    torchvision, from the file ``weights`` if given.

    ``resnet10`` is 48 channels wide (36 million multiply-adds at 32 px, 384 features); ``resnet10_wN`` sets the
    width. Raises UsageError for an unknown name or a size that is not a multiple of the patch size, TrainingError for weights
    that cannot be loaded, InputError for a file with other weights.
    """
    for prefix, build in ((timm_network.PREFIX, timm_network.timm_network), (PREFIX, torchvision_network)):
        if name.startswith(prefix):
            return build(name.removeprefix(prefix), image_size, pretrained, weights)
    if pretrained:
        raise UsageError(f"there are no pretrained weights of {name}: choose timm/NAME or torchvision/NAME")
    narrow = re.fullmatch(r"resnet10(?:_w([1-9]\d{0,3}))?", name)
    if narrow:
        width = int(narrow[1] or 48)
        if width < NARROWEST:
            raise UsageError(f"{name}: the minimum width is {NARROWEST}, since torch corrupts memory with less on some CPUs")
        return narrow_resnet(width, image_size)
    if name in RESNETS:
        return resnet(name, image_size)
    if name in VITS:
        return vit(name, VITS[name], image_size)
    raise UsageError(f"unknown backbone {name!r}: choose {', '.join(NAMES)}, resnet10_wN (width N), timm/NAME, torchvision/NAME")


def need_conv(encoder: Backbone, method: str) -> ConvBackbone:
    """The encoder, if it accepts images of any size. Raises UsageError for a ViT."""
    if not isinstance(encoder, ConvBackbone):
        raise UsageError(f"{method} encodes parts of images: choose a ResNet (--backbone resnet10, ...)")
    return encoder


def need_vit(encoder: Backbone, method: str) -> ViTBackbone:
    """The encoder, if it is a ViT. Raises UsageError for a ResNet."""
    if not isinstance(encoder, ViTBackbone):
        raise UsageError(f"{method} needs patch tokens: choose a ViT (--backbone {', '.join(VITS)})")
    return encoder
