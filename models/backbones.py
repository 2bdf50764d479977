"""Image encoders by name: torchvision's ResNets and ViTs, with a stem that suits small images, and a ResNet-10 for CPUs."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.models.vision_transformer import EncoderBlock, VisionTransformer

from sslfeat.errors import TrainingError, UsageError

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
    """Images (N, 3, S, S), normalised, to features (N, dim).

    ``layers`` names the places where features can be taken, first to last, and ``dims`` their channels; the last is
    the default everywhere.
    """

    def __init__(self, image_size: int, dims: dict[str, int]) -> None:
        super().__init__()
        self.image_size = image_size
        self.dims = dims

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(self.dims)

    @property
    def dim(self) -> int:
        return self.dims[self.layers[-1]]

    def depth(self, layer: str | None) -> int:
        """How many layers lead up to and include ``layer``. Raises UsageError for a name that does not exist."""
        if layer is None:
            return len(self.layers)
        if layer not in self.dims:
            raise UsageError(f"there is no layer {layer!r}: it can be {', '.join(self.layers)}")
        return self.layers.index(layer) + 1

    def maps(self, images: Tensor, layer: str | None = None) -> Tensor:
        """Feature maps (N, C, h, w) of a layer, C as in ``dims``."""
        raise NotImplementedError

    def forward(self, images: Tensor, layer: str | None = None) -> Tensor:
        """Pooled features (N, C) of a layer."""
        raise NotImplementedError


class ConvBackbone(Backbone):
    """A ResNet, or anything with its parts. Takes images of any size; features are means over the maps."""

    def __init__(self, body: nn.Module, image_size: int, dims: dict[str, int]) -> None:
        super().__init__(image_size, dims)
        self.body = body

    def maps(self, images: Tensor, layer: str | None = None) -> Tensor:
        body = self.body
        maps: Tensor = body.maxpool(body.relu(body.bn1(body.conv1(images))))  # type: ignore[operator]
        for name in self.layers[: self.depth(layer)]:
            maps = self.stage(name, maps)
        return maps

    def stage(self, name: str, maps: Tensor) -> Tensor:
        """Maps of the layer called ``name`` from those of the layer before.

        On a CPU torch 2.14 leaves the weight gradient of a 3 x 3 convolution with stride 2 on maps of one pixel partly
        uninitialised if it computes in bfloat16 (parts of pictures come down to one pixel): such maps stay in float32.
        """
        stage: nn.Module = getattr(self.body, name)
        pixel = self.training and maps.device.type == "cpu" and maps.shape[-2:] == (1, 1)
        with torch.autocast("cpu", enabled=False) if pixel else contextlib.nullcontext():
            out: Tensor = stage(maps.float() if pixel else maps)
        return out

    def forward(self, images: Tensor, layer: str | None = None) -> Tensor:
        return self.maps(images, layer).mean((2, 3))


class ViTBackbone(Backbone):
    """torchvision's VisionTransformer, taken apart so that methods can drop, mask and order its tokens.

    Features are the class token's; a method that gives the class token nothing to do calls ``pool_patches``.
    """

    def __init__(self, body: VisionTransformer, image_size: int) -> None:
        super().__init__(image_size, {f"block{n + 1}": body.hidden_dim for n in range(len(body.encoder.layers))})
        self.body = body
        self.class_token = True
        self.patch: int = body.patch_size
        self.grid: int = image_size // body.patch_size

    def pool_patches(self) -> None:
        """Take means over the patch tokens for features; the class token, out of use, is not trained."""
        self.class_token = False
        self.body.class_token.requires_grad_(False)

    @property
    def positions(self) -> Tensor:
        """What is added to each patch token, (1, grid x grid, dim)."""
        positions: Tensor = self.body.encoder.pos_embedding[:, 1:]
        return positions

    def embed(self, images: Tensor) -> Tensor:
        """Patch tokens (N, grid x grid, dim) in raster order, with their positions added."""
        patches: Tensor = self.body._process_input(images)
        return patches + self.positions

    def transform(self, tokens: Tensor, mask: Tensor | None = None, layer: str | None = None) -> Tensor:
        """Tokens (N, T, dim) through the blocks, and at the end through the final normalisation.

        ``mask`` is bool (T, T) or (N x heads, T, T), True where a token must not look.
        """
        depth = self.depth(layer)
        for block in list(self.body.encoder.layers)[:depth]:
            tokens = _masked_block(block, tokens, mask)
        if depth == len(self.layers):
            tokens = self.body.encoder.ln(tokens)
        return tokens

    def maps(self, images: Tensor, layer: str | None = None) -> Tensor:
        tokens = self._run(images, layer)[:, int(self.class_token) :]
        return tokens.transpose(1, 2).reshape(tokens.shape[0], -1, self.grid, self.grid)

    def forward(self, images: Tensor, layer: str | None = None) -> Tensor:
        tokens = self._run(images, layer)
        return tokens[:, 0] if self.class_token else tokens.mean(1)

    def _run(self, images: Tensor, layer: str | None) -> Tensor:
        tokens = self.embed(images)
        if self.class_token:
            first = self.body.class_token + self.body.encoder.pos_embedding[:, :1]
            tokens = torch.cat([first.expand(tokens.shape[0], -1, -1), tokens], 1)
        return self.transform(tokens, layer=layer)


def build_backbone(name: str, image_size: int) -> Backbone:
    """A randomly initialised backbone for square images of ``image_size`` px.

    ``resnet10`` is 48 channels wide (36 million multiply-adds at 32 px, 384 features); ``resnet10_wN`` sets the
    width. Raises TrainingError for an unknown name or a size that the patches do not divide.
    """
    narrow = re.fullmatch(r"resnet10(?:_w([1-9]\d{0,3}))?", name)
    if narrow:
        width = int(narrow[1] or 48)
        return ConvBackbone(NarrowResNet(width, image_size), image_size, _stage_dims(8 * width))
    if name in RESNETS:
        return _resnet(name, image_size)
    if name in VITS:
        return _vit(name, VITS[name], image_size)
    raise UsageError(f"unknown backbone {name!r}: one of {', '.join(NAMES)}, or resnet10_wN for a width of N")


def need_conv(encoder: Backbone, method: str) -> ConvBackbone:
    """The encoder, if it takes images of any size. Raises UsageError for a ViT."""
    if not isinstance(encoder, ConvBackbone):
        raise UsageError(f"{method} shows the encoder parts of pictures: choose a ResNet (--backbone resnet10, ...)")
    return encoder


def need_vit(encoder: Backbone, method: str) -> ViTBackbone:
    """The encoder, if it is made of tokens. Raises UsageError for a ResNet."""
    if not isinstance(encoder, ViTBackbone):
        raise UsageError(f"{method} works on patch tokens: choose a ViT (--backbone {', '.join(VITS)})")
    return encoder


class NarrowResNet(nn.Module):
    """One basic block a stage, and half the resolution of a standard ResNet's small-image stem: made for CPUs."""

    def __init__(self, width: int, image_size: int) -> None:
        super().__init__()
        kernel, padding = (3, 1) if image_size <= MEDIUM else (7, 3)
        self.conv1 = nn.Conv2d(3, width, kernel, 2, padding, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if image_size > SMALL else nn.Identity()
        self.layer1 = BasicBlock(width, width)
        self.layer2 = _widening_block(width)
        self.layer3 = _widening_block(2 * width)
        self.layer4 = _widening_block(4 * width)
        for module in self.modules():  # the initialisation of torchvision's ResNets
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _widening_block(width: int) -> BasicBlock:
    """Twice the channels at half the resolution."""
    shortcut = nn.Sequential(nn.Conv2d(width, 2 * width, 1, 2, bias=False), nn.BatchNorm2d(2 * width))
    return BasicBlock(width, 2 * width, 2, shortcut)


def _stage_dims(last: int) -> dict[str, int]:
    return {f"layer{n}": last >> (4 - n) for n in range(1, 5)}


def _resnet(name: str, image_size: int) -> ConvBackbone:
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
    return ConvBackbone(body, image_size, _stage_dims(dim))


def _vit(name: str, shape: ViTShape, image_size: int) -> ViTBackbone:
    patch = shape.patch if image_size >= 128 else max(2, image_size // 8)
    if image_size % patch:
        raise UsageError(f"{name} cuts patches of {patch} px: choose an --image-size that is a multiple of {patch}")
    body = VisionTransformer(image_size, patch, shape.layers, shape.heads, shape.width, 4 * shape.width, num_classes=1)
    body.heads = nn.Identity()
    return ViTBackbone(body, image_size)


def _masked_block(block: EncoderBlock, tokens: Tensor, mask: Tensor | None) -> Tensor:
    """torchvision's block, which has no way in for an attention mask."""
    normed = block.ln_1(tokens)
    attended, _ = block.self_attention(normed, normed, normed, need_weights=False, attn_mask=mask)
    tokens = tokens + block.dropout(attended)
    mixed: Tensor = tokens + block.mlp(block.ln_2(tokens))
    return mixed
