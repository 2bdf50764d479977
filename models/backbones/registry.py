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


NARROWEST = 8  # torch 2.14's 1 x 1 convolutions of fewer channels write past their buffers on CPUs with AVX2 alone


def build_backbone(name: str, image_size: int, pretrained: bool = False, weights: Path | None = None) -> Backbone:
    """A randomly initialized backbone for square images of ``image_size`` px; ``pretrained``: timm's or torchvision's weights,
    from the file ``weights`` if there is one.

    ``resnet10`` is 48 channels wide (36 million multiply-adds at 32 px, 384 features); ``resnet10_wN`` sets the
    width. Raises UsageError for an unknown name or a size that the patches do not divide, TrainingError for weights that
    cannot be had, InputError for a file of others.
    """
    for prefix, build in ((timm_network.PREFIX, timm_network.timm_network), (PREFIX, torchvision_network)):
        if name.startswith(prefix):
            return build(name.removeprefix(prefix), image_size, pretrained, weights)
    if pretrained:
        raise UsageError(f"there are no published weights of {name}: name timm/NAME or torchvision/NAME")
    narrow = re.fullmatch(r"resnet10(?:_w([1-9]\d{0,3}))?", name)
    if narrow:
        width = int(narrow[1] or 48)
        if width < NARROWEST:
            raise UsageError(f"{name}: {NARROWEST} channels are the fewest, since torch corrupts memory with fewer on some CPUs")
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
