"""Inpainting (Pathak, Krähenbühl, Donahue, Darrell, Efros 2016, "Context Encoders: Feature Learning by Inpainting").

Task: fill in hidden parts of an image. Images (N, 3, S, S) whose hidden parts show the mean color go through the
encoder; a decoder predicts (N, 3, S, S), and the squared error counts where it must (section 3.2, equation 1). Known
shortcuts: a hole that is always in the center is filled by features of its border alone (section 3.3), random blobs
close that; ``mask=center`` opens it. Copying the pixels at the border is what the first two pixels of any hole reward;
``mask=center`` follows the paper and lets the prediction overlap a band that can be seen, where errors count tenfold.
The encoder never sees a whole image in training; its features are taken of whole images.
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

BAND_WEIGHT = 10.0  # of errors where the prediction overlaps what can be seen
ADVERSARIAL = 0.001  # the adversary's part of the loss
LEAST_FOOLED = 0.02


@dataclass(frozen=True)
class Holes:
    """Normalized ``images`` (N, 3, S, S), what is ``hidden``, bool (N, 1, S, S), each error's ``weight``."""

    images: Tensor
    hidden: Tensor
    weight: Tensor


@register("inpainting")
class Inpainting(Method):
    """Predict hidden pixels; squared error of normalized colors, in which the mean color is zero."""

    @dataclass(frozen=True)
    class Config:
        """``mask``: ``blobs`` (random shapes over ``share`` of the image; the paper up to 1/4) or ``center`` (a square
        of half the side that overlaps its surroundings by 4 px of 128). ``adversarial`` adds the paper's adversary,
        .001 against .999 of squared error; the features it published are without. ``min_area``: the smallest crop.
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
            raise UsageError(f"mask is {config.mask!r}: it can be blobs or center")
        if not 0 < config.share < 1:
            raise UsageError(f"share is {config.share}: the hidden part of an image lies between 0 and 1")
        pool_patches(encoder)
        self.decoder = ConvDecoder(encoder, 3, encoder.image_size)
        self.adversary = discriminator(encoder.image_size) if config.adversarial else None

    def views(self, batch: Tensor, generator: torch.Generator) -> Holes:
        """Images uint8 (N, 3, S, S) to random crops with holes."""
        crops = random_resized_crop(to_float(batch), generator, scale=(self.config.min_area, 1.0))
        return self.dig(crops, generator)

    def dig(self, images: Tensor, generator: torch.Generator) -> Holes:
        """Choose what is hidden of images float (N, 3, S, S) in [0, 1]."""
        n, size = len(images), images.shape[-1]
        if self.config.mask == "blobs":
            hidden = blob_masks(n, size, self.config.share, generator)
            weight = hidden.float()
        else:
            hidden, weight = (mask.to(images.device).expand(n, -1, -1, -1) for mask in center_masks(size))
        return Holes(self.input_transform(images), hidden, weight)

    def fill(self, views: Holes) -> Tensor:
        """Predicted normalized colors (N, 3, S, S)."""
        seen = views.images.masked_fill(views.hidden, 0)  # normalized, the mean color is zero
        predicted: Tensor = self.decoder(self.encoder.maps(seen)).float()
        return predicted

    def loss(self, views: Holes) -> tuple[Tensor, Figures]:
        """Weighted mean squared error.

        ``error`` is that of the hidden pixels alone, ``trivial`` that of the mean color of all images, and
        ``trivial_own`` that of the mean color of what can be seen of the image itself.
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
        """An adversary that is never fooled has no gradient to give."""
        if figures.get("fooled", 1) < LEAST_FOOLED:
            return f"the adversary takes only {figures['fooled']:.1%} of the fillings for real: it teaches nothing"
        return None

    def preview(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """Rows: with holes, filled, whole."""
        images = to_float(batch)
        views = self.dig(images, generator)
        normal = Normalize().to(batch.device)
        filled = torch.where(views.hidden, self.fill(views) * normal.std + normal.mean, images)
        seen = torch.where(views.hidden, normal.mean, images)
        return tile({"what the encoder sees": seen, "what it fills in": filled, "the image": images})


def center_masks(size: int) -> tuple[Tensor, Tensor]:
    """What is hidden, bool (1, 1, S, S), and weights: a square of half the side, its outer band seen and dear."""
    low, high, band = size // 4, size - size // 4, max(1, round(4 * size / 128))
    hidden, weight = torch.zeros(1, 1, size, size, dtype=torch.bool), torch.zeros(1, 1, size, size)
    weight[..., low:high, low:high] = BAND_WEIGHT
    hidden[..., low + band : high - band, low + band : high - band] = True
    return hidden, weight.masked_fill(hidden, 1)
