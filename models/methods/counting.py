"""Counting (Noroozi, Pirsiavash, Favaro 2017, "Representation Learning by Learning to Count").

Task: the visual primitives of an image, downsampled to half its side, are those of its four quarters together: phi(Dx) =
sum_j phi(T_j x), where phi >= 0 is the encoder with a ReLU layer and all inputs are (N, 3, S/2, S/2) (section 3, equation 4).
Known shortcuts: phi = 0 is a solution, so counts must differ from those of other images by a margin (equation 5, there for
one other image, here for all in the batch; ``contrast=false`` allows it); downsampling leaves artifacts, so the filter is
drawn from four (``filters=1`` allows it); chromatic aberration distinguishes quarters from whole images, so two thirds of the
images are in grayscale (``gray=0`` allows it). Counts start small, because units die if they learn to shrink first.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from sslfeat.errors import UsageError
from sslfeat.models.backbones.base import Backbone
from sslfeat.models.backbones.registry import need_conv
from sslfeat.models.engine.distributed import gather
from sslfeat.models.engine.draws import uniform, whole_numbers
from sslfeat.models.method import About, Figures, Method, Recipe, register
from sslfeat.models.ops.augment import random_resized_crop, to_float
from sslfeat.models.ops.tiles import FILTERS, halve, to_gray
from sslfeat.models.ranges import Area, Count, NotNegative, Share

LEAST_ALIVE = 0.05  # fraction of units that are active
SMALL = 0.06  # scale of the initial counts: the distances over 1000 units are then below the margin


@register("counting")
class Counting(Method):
    """Views: whole images (N, 3, S/2, S/2), quarters (N, 4, 3, S/2, S/2), and a mask of grayscale images (N,)."""

    @dataclass(frozen=True)
    class Config:
        """``margin``: squared distance by which counts of different images must differ (M; paper: 10).

        ``contrast``: use the contrastive term. ``weight``: its weight per other image (paper: 1, with one other image).
        ``units``: number of counting units (paper: 1000). ``gray``: fraction of images in grayscale (paper: 2/3). ``filters``:
        number of resampling filters to draw from: box, triangle, cubic and Lanczos (paper: several). ``min_area``: minimum
        area of a crop.
        """

        margin: NotNegative = 10.0
        contrast: bool = True
        weight: NotNegative = 0.25
        units: Count = 1000
        gray: Share = 2 / 3
        filters: Count = FILTERS
        min_area: Area = 0.5

    recipe = Recipe(batch_size=64, lr=1e-3, weight_decay=1e-4)
    about = About(
        "Noroozi, Pirsiavash, Favaro 2017",
        "the visual primitives of an image are those of its quarters together",
        "ImageNet linear (AlexNet conv3/conv5) 34.3/25.7, VOC07 67.7",
    )
    config: Config

    def __init__(self, encoder: Backbone, config: Config) -> None:
        super().__init__(need_conv(encoder, "counting"), config)
        if not 1 <= config.filters <= FILTERS or config.units < 1 or not 0 <= config.gray <= 1:
            raise UsageError(f"filters must be between 1 and {FILTERS}, units at least 1, and gray between 0 and 1")
        if encoder.image_size % 2:
            raise UsageError("counting cuts images into quarters: choose an even --image-size")
        count = nn.Linear(encoder.dim, config.units)
        nn.init.normal_(count.weight, std=SMALL / encoder.dim**0.5)
        nn.init.zeros_(count.bias)
        self.head = nn.Sequential(count, nn.ReLU())

    def views(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Images uint8 (N, 3, S, S), shuffled, to whole images, quarters, and a mask of the grayscale ones (the first)."""
        n, half = len(batch), batch.shape[-1] // 2
        order = uniform((n,), 0, 1, generator).argsort()
        images = random_resized_crop(to_float(batch[order]), generator, scale=(self.config.min_area, 1.0))
        gray = round(n * self.config.gray)
        images = torch.cat([to_gray(images[:gray]), images[gray:]])
        wholes = halve(images, whole_numbers((n,), 0, self.config.filters - 1, generator))
        quarters = torch.stack([images[..., y : y + half, x : x + half] for y in (0, half) for x in (0, half)], 1)
        return wholes, quarters, torch.arange(n, device=batch.device) < gray

    def count(self, images: Tensor) -> Tensor:
        """phi: images (N, 3, h, w) to nonnegative counts (N, units)."""
        counts: Tensor = self.head(self.encode(images)).float()
        return counts

    def loss(self, views: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Figures]:
        """Mean over images of the squared distances, summed over units, plus the margin violations.

        Images are contrasted with images of the same kind, grayscale or color, so that color is no cue. ``accuracy``: how
        often an image's quarters are nearer to its own whole than to any other of its kind (never after a collapse).
        ``alive``: fraction of units active in this batch, taken over all processes. ``counted``: mean sum of counts.
        """
        wholes, quarters, gray = views
        n = len(wholes)
        counts = self.count(torch.cat([wholes, quarters.flatten(0, 1)]))
        whole, parts = gather(counts[:n]), gather(counts[n:].view(n, 4, -1).sum(1))
        gray, n = gather(gray.to(torch.uint8)), len(whole)
        own = (whole - parts).square().sum(1)
        others = (gray[:, None] == gray) & ~torch.eye(n, dtype=torch.bool, device=gray.device)
        with torch.autocast(whole.device.type, enabled=False):
            distances = parts.square().sum(1)[:, None] + whole.square().sum(1) - 2 * parts @ whole.T
        loss = own.mean()
        if self.config.contrast:
            lack = functional.relu(self.config.margin - distances) * others
            loss = loss + self.config.weight * lack.sum() / n
        return loss, {
            "accuracy": (own < distances.masked_fill(~others, torch.inf).amin(1)).float().mean(),
            "chance": (1 / (others.sum(1) + 1)).mean(),
            "alive": (whole.detach() > 0).any(0).float().mean(),
            "counted": whole.detach().sum(1).mean(),
        }

    def complaint(self, figures: dict[str, float]) -> str | None:
        """Detect dead units and the all-zero solution."""
        if figures["alive"] < LEAST_ALIVE:
            return f"only {figures['alive']:.1%} of the units are active, the others are dead: try a lower --lr"
        if figures["counted"] < 1e-2:
            return "the counts collapse to zero, the trivial solution: set contrast=true"
        return None
