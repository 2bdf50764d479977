"""From an encoder's maps back to pixels: for methods that predict something at every place of an image."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from sslfeat.models.backbones.base import Backbone
from sslfeat.models.backbones.resnet import ConvBackbone
from sslfeat.models.backbones.vit import ViTBackbone

WIDTH, NARROWEST = 128, 32  # channels of the first and of the last block


class ConvDecoder(nn.Module):
    """Maps (N, C, h, w) of the encoder's last layer to (N, channels, size, size).

    Blocks of nearest-neighbor upsampling, 3x3 convolution, batch normalization and ReLU; each block doubles the side
    (rounded, where ``size`` is no power of two times h) and halves the channels. Upsampling before the convolution
    leaves no checkerboard, as a strided transposed convolution does.
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
        if predicted.shape[-1] != self.size:  # an encoder whose maps are finer than the target
            predicted = functional.interpolate(predicted, size=(self.size, self.size), mode="area")
        return predicted


def map_side(encoder: Backbone) -> int:
    """h of the last layer's maps (N, C, h, h), found by trying; leaves the encoder as it was."""
    training = encoder.training
    with torch.no_grad():
        side = encoder.eval().maps(torch.zeros(1, 3, encoder.image_size, encoder.image_size)).shape[-1]
    encoder.train(training)
    return int(side)


def pyramid(encoder: Backbone, images: Tensor, first: str, last: str) -> tuple[Tensor, Tensor]:
    """Maps of two layers; a ResNet goes on from the first instead of beginning again."""
    maps = encoder.maps(images, first)
    if not isinstance(encoder, ConvBackbone):
        return maps, encoder.maps(images, last)
    deep = maps
    for name in encoder.layers[encoder.depth(first) : encoder.depth(last)]:
        deep = encoder.stage(name, deep)
    return maps, deep


def pool_patches(encoder: Backbone) -> None:
    """Make a ViT's features the mean of its patch tokens: the class token learns nothing from a loss on maps."""
    if isinstance(encoder, ViTBackbone):
        encoder.pool_patches()


def minimax(adversary: nn.Module, real: Tensor, predicted: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
    """The game of Pathak et al. 2016, equation 2, as one loss for one optimizer, and the share of predictions taken for real.

    Both see the predicted places alone (section 3.2 there). On its way back to the predictor the gradient changes its sign,
    so what lowers the adversary's cross-entropy there raises it here; AdamW makes up for the small common factor.
    """
    reversed_gradient = 2 * predicted.detach() - predicted
    genuine, fake = adversary(real * where).float(), adversary(reversed_gradient * where).float()
    loss = functional.softplus(-genuine).mean() + functional.softplus(fake).mean()
    return loss, (fake.detach() > 0).float().mean()


def discriminator(size: int) -> nn.Sequential:
    """Images (N, 3, S, S) to a logit (N, 1): positive for real ones."""
    blocks: list[nn.Module] = []
    inside, width = 3, 32
    while size > 4:
        blocks += [nn.Conv2d(inside, width, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        inside, width, size = width, min(128, 2 * width), size // 2
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, 1))


def _sides(side: int, size: int) -> list[int]:
    """The sides after each block, from ``side`` to ``size``: halves of ``size``, rounded up, while larger than ``side``."""
    sides: list[int] = []
    while size > side:
        sides.insert(0, size)
        size = (size + 1) // 2
    return sides
