"""Decoders from an encoder's maps to pixels, for methods with dense predictions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from sslfeat.models.backbones.base import Backbone
from sslfeat.models.backbones.resnet import ConvBackbone
from sslfeat.models.backbones.vit import ViTBackbone

WIDTH, NARROWEST = 128, 32  # channels of the first and of the last block


class ConvDecoder(nn.Module):
    """Map the encoder's last maps (N, C, h, w) to (N, channels, size, size).

    Blocks of nearest-neighbor upsampling, 3x3 convolution, batch normalization and ReLU; each block doubles the side
    (rounded if ``size`` is not a power of two times h) and halves the channels. Upsampling before the convolution avoids the
    checkerboard artifacts of a strided transposed convolution.
    """

    def __init__(self, encoder: Backbone, channels: int, size: int) -> None:
        super().__init__()
        self.size = size
        inside, width, blocks = encoder.dim, WIDTH, []
        for side in _sides(map_side(encoder), size):
            blocks += [nn.Upsample(side), nn.Conv2d(inside, width, 3, 1, 1, bias=False)]
            blocks += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            inside, width = width, max(NARROWEST, width // 2)
        self.blocks = nn.Sequential(*blocks)
        self.last = nn.Conv2d(inside, channels, 3, 1, 1)

    def forward(self, maps: Tensor) -> Tensor:
        predicted: Tensor = self.last(self.blocks(maps))
        if predicted.shape[-1] != self.size:  # the encoder's maps are finer than the target
            predicted = functional.interpolate(predicted, size=(self.size, self.size), mode="area")
        return predicted


def map_side(encoder: Backbone) -> int:
    """Side h of the last maps (N, C, h, h), found by a forward pass; the encoder is left unchanged."""
    training = encoder.training
    with torch.no_grad():
        side = encoder.eval().maps(torch.zeros(1, 3, encoder.image_size, encoder.image_size)).shape[-1]
    encoder.train(training)
    return int(side)


def pyramid(encoder: Backbone, images: Tensor, first: str, last: str) -> tuple[Tensor, Tensor]:
    """Maps of two layers; a ResNet continues from the first layer instead of starting over."""
    maps = encoder.maps(images, first)
    if not isinstance(encoder, ConvBackbone):
        return maps, encoder.maps(images, last)
    deep = maps
    for name in encoder.layers[encoder.depth(first) : encoder.depth(last)]:
        deep = encoder.stage(name, deep)
    return maps, deep


def pool_patches(encoder: Backbone) -> None:
    """Make a ViT's features the mean of its patch tokens, because a loss on maps does not train the class token."""
    if isinstance(encoder, ViTBackbone):
        encoder.pool_patches()


def minimax(adversary: nn.Module, real: Tensor, predicted: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
    """Adversarial loss of Pathak et al. 2016, equation 2, for a single optimizer, and the fraction of predictions taken for real.

    Both networks see the predicted places only (section 3.2). The gradient changes its sign on its way back to the predictor,
    so what lowers the adversary's cross-entropy raises it for the predictor; AdamW compensates for the small common factor.
    """
    reversed_gradient = 2 * predicted.detach() - predicted
    genuine, fake = adversary(real * where).float(), adversary(reversed_gradient * where).float()
    loss = functional.softplus(-genuine).mean() + functional.softplus(fake).mean()
    return loss, (fake.detach() > 0).float().mean()


def discriminator(size: int) -> nn.Sequential:
    """Map images (N, 3, S, S) to a logit (N, 1), positive for real ones."""
    blocks: list[nn.Module] = []
    inside, width = 3, 32
    while size > 4:
        blocks += [nn.Conv2d(inside, width, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        inside, width, size = width, min(128, 2 * width), size // 2
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, 1))


def _sides(side: int, size: int) -> list[int]:
    """Sides after each block, from ``side`` to ``size``: halves of ``size``, rounded up, while larger than ``side``."""
    sides: list[int] = []
    while size > side:
        sides.insert(0, size)
        size = (size + 1) // 2
    return sides
