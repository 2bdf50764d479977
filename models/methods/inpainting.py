"""Inpainting (Pathak, Krähenbühl, Donahue, Darrell, Efros 2016, "Context Encoders: Feature Learning by Inpainting").

Task: fill in hidden parts of an image. Images (N, 3, S, S), with hidden parts set to the mean color, pass through the encoder;
a decoder predicts (N, 3, S, S), and the loss is the squared error on the hidden parts (section 3.2, equation 1). Known
shortcuts: a hole that is always in the center leads to features of its border only (section 3.3), which random blobs
prevent (``mask=center`` allows it). The first two pixels of a hole can be filled by copying the border; as in the paper, with
``mask=center`` the prediction overlaps a visible band in which errors have ten times the weight.
The encoder never sees a whole image in training; its features are computed from whole images.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sslfeat.errors import UsageError
from sslfeat.models.backbones.base import Backbone
from sslfeat.models.method import About, Figures, Method, Normalize, Recipe, register
from sslfeat.models.modules.conv_decoder import ConvDecoder, discriminator, minimax, pool_patches
from sslfeat.models.ops.augment import random_resized_crop, to_float
from sslfeat.models.ops.optical_flow import blob_masks
from sslfeat.models.ops.previews import tile
from sslfeat.models.ranges import Area, Part

BAND_WEIGHT = 10.0  # of errors where the prediction overlaps visible pixels
ADVERSARIAL = 0.001  # weight of the adversarial loss
LEAST_FOOLED = 0.02


@dataclass(frozen=True)
class Holes:
    """Normalized ``images`` (N, 3, S, S), mask ``hidden``, bool (N, 1, S, S), and the ``weight`` of each pixel's error."""

    images: Tensor
    hidden: Tensor
    weight: Tensor


@register("inpainting")
class Inpainting(Method):
    """Predict hidden pixels; squared error of normalized colors, whose mean color is zero."""

    @dataclass(frozen=True)
    class Config:
        """``mask``: ``blobs`` (random shapes over ``share`` of the image; paper: up to 1/4) or ``center`` (a square of half
        the side that overlaps its surroundings by 4 px of 128). ``adversarial``: add the paper's adversarial loss, with
        weights 0.001 and 0.999 (the published features are without it). ``min_area``: minimum area of a crop.
        """

        mask: str = "blobs"
        share: Part = 0.25
        adversarial: bool = False
        min_area: Area = 0.5

    recipe = Recipe(batch_size=64, lr=1e-3, weight_decay=1e-4)
    about = About(
        "Pathak, Krähenbühl, Donahue, Darrell, Efros 2016",
        "fill in the hidden parts of an image",
        "ImageNet linear (AlexNet conv3/conv5) 21.0/15.5, VOC07 56.5",
    )
    config: Config

    def __init__(self, encoder: Backbone, config: Config) -> None:
        super().__init__(encoder, config)
        if config.mask not in ("blobs", "center"):
            raise UsageError(f"mask is {config.mask!r}: must be blobs or center")
        if not 0 < config.share < 1:
            raise UsageError(f"share is {config.share}: must be between 0 and 1 (hidden fraction of an image)")
        pool_patches(encoder)
        self.decoder = ConvDecoder(encoder, 3, encoder.image_size)
        self.adversary = discriminator(encoder.image_size) if config.adversarial else None

    def views(self, batch: Tensor, generator: torch.Generator) -> Holes:
        """Images uint8 (N, 3, S, S) to random crops with holes."""
        crops = random_resized_crop(to_float(batch), generator, scale=(self.config.min_area, 1.0))
        return self.dig(crops, generator)

    def dig(self, images: Tensor, generator: torch.Generator) -> Holes:
        """Choose the hidden parts of images float (N, 3, S, S) in [0, 1]."""
        n, size = len(images), images.shape[-1]
        if self.config.mask == "blobs":
            hidden = blob_masks(n, size, self.config.share, generator)
            weight = hidden.float()
        else:
            hidden, weight = (mask.to(images.device).expand(n, -1, -1, -1) for mask in center_masks(size))
        return Holes(self.input_transform(images), hidden, weight)

    def fill(self, views: Holes) -> Tensor:
        """Predicted normalized colors (N, 3, S, S)."""
        seen = views.images.masked_fill(views.hidden, 0)  # the normalized mean color is zero
        predicted: Tensor = self.decoder(self.encoder.maps(seen)).float()
        return predicted

    def loss(self, views: Holes) -> tuple[Tensor, Figures]:
        """Weighted mean squared error.

        ``error``: on the hidden pixels only. ``trivial``: error of the mean color of all images. ``trivial_own``: error of the
        mean color of the visible part of each image.
        """
        predicted = self.fill(views)
        squared = (predicted - views.images).square().mean(1, keepdim=True)
        loss = (squared * views.weight).sum() / views.weight.sum()
        seen = (~views.hidden).float()
        own = (views.images * seen).sum((2, 3), keepdim=True) / seen.sum((2, 3), keepdim=True)
        figures: Figures = {
            "error": squared.detach()[views.hidden].mean(),
            "trivial": views.images.square().mean(1, keepdim=True)[views.hidden].mean(),
            "trivial_own": (views.images - own).square().mean(1, keepdim=True)[views.hidden].mean(),
        }
        if self.adversary is None:
            return loss, figures
        game, figures["fooled"] = minimax(self.adversary, views.images, predicted, views.weight > 0)
        return (1 - ADVERSARIAL) * loss + ADVERSARIAL * game, figures

    def complaint(self, figures: dict[str, float]) -> str | None:
        """An adversary that is never fooled gives no useful gradient."""
        if figures.get("fooled", 1) < LEAST_FOOLED:
            return f"the adversary takes only {figures['fooled']:.1%} of the predictions for real: it gives no useful gradient"
        return None

    def preview(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """Rows: with holes, filled, original."""
        images = to_float(batch)
        views = self.dig(images, generator)
        normal = Normalize().to(batch.device)
        filled = torch.where(views.hidden, self.fill(views) * normal.std + normal.mean, images)
        seen = torch.where(views.hidden, normal.mean, images)
        return tile({"input of the encoder": seen, "prediction": filled, "the image": images})


def center_masks(size: int) -> tuple[Tensor, Tensor]:
    """Mask bool (1, 1, S, S) and weights: a square of half the side whose visible outer band has a larger weight."""
    low, high, band = size // 4, size - size // 4, max(1, round(4 * size / 128))
    hidden, weight = torch.zeros(1, 1, size, size, dtype=torch.bool), torch.zeros(1, 1, size, size)
    weight[..., low:high, low:high] = BAND_WEIGHT
    hidden[..., low + band : high - band, low + band : high - band] = True
    return hidden, weight.masked_fill(hidden, 1)
