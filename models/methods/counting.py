"""Counting (Noroozi, Pirsiavash, Favaro 2017, "Representation Learning by Learning to Count").

Task: what there is in an image, shrunk to half its side, is what there is in its four quarters together: phi(Dx) =
sum_j phi(T_j x), with phi >= 0 the encoder and a ReLU layer, all inputs (N, 3, S/2, S/2) (section 3, equation 4). Known
shortcuts: phi = 0 satisfies it, so the counts must differ from those of other images by a margin (equation 5, there of
one other, here of all in the batch; ``contrast=false`` opens it); a downsampler leaves a trace, so the filter is drawn
from four (``filters=1`` opens it); chromatic aberration tells quarters from wholes, so two thirds of the images are
gray (``gray=0``). Units die when shrinking is the first thing they learn, so counts begin small.
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

LEAST_ALIVE = 0.05  # share of units that count anything
SMALL = 0.06  # of counts at the beginning: the distances of 1000 of them are then below the margin


@register("counting")
class Counting(Method):
    """Views: wholes (N, 3, S/2, S/2), quarters (N, 4, 3, S/2, S/2), and which images are gray (N,)."""

    @dataclass(frozen=True)
    class Config:
        """``margin`` M by which counts of different images differ, as a squared distance (paper: 10).

        ``contrast``: use it at all; ``weight``: of each other image (paper: 1, of one). ``units`` that count (paper:
        1000). ``gray``: share of images without color (paper: 2/3). ``filters``: how many resampling filters to draw
        from, of box, triangle, cubic and Lanczos (paper: several). ``min_area``: of the smallest crop.
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
        "what an image shows is what its quarters show together",
        "ImageNet linear (AlexNet conv3/conv5) 34.3/25.7, VOC07 67.7",
    )
    config: Config

    def __init__(self, encoder: Backbone, config: Config) -> None:
        super().__init__(need_conv(encoder, "counting"), config)
        if not 1 <= config.filters <= FILTERS or config.units < 1 or not 0 <= config.gray <= 1:
            raise UsageError(f"filters lies between 1 and {FILTERS}, units is at least 1, gray between 0 and 1")
        if encoder.image_size % 2:
            raise UsageError("counting cuts images into quarters: choose an even --image-size")
        count = nn.Linear(encoder.dim, config.units)
        nn.init.normal_(count.weight, std=SMALL / encoder.dim**0.5)
        nn.init.zeros_(count.bias)
        self.head = nn.Sequential(count, nn.ReLU())

    def views(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Images uint8 (N, 3, S, S), in a random order, to wholes, quarters, and True for the first, which are gray."""
        n, half = len(batch), batch.shape[-1] // 2
        order = uniform((n,), 0, 1, generator).argsort()
        images = random_resized_crop(to_float(batch[order]), generator, scale=(self.config.min_area, 1.0))
        gray = round(n * self.config.gray)
        images = torch.cat([to_gray(images[:gray]), images[gray:]])
        wholes = halve(images, whole_numbers((n,), 0, self.config.filters - 1, generator))
        quarters = torch.stack([images[..., y : y + half, x : x + half] for y in (0, half) for x in (0, half)], 1)
        return wholes, quarters, torch.arange(n, device=batch.device) < gray

    def count(self, images: Tensor) -> Tensor:
        """phi: images (N, 3, h, w) to counts (N, units), none negative."""
        counts: Tensor = self.head(self.encode(images)).float()
        return counts

    def loss(self, views: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Figures]:
        """Mean over images of squared distances summed over units, and of what lacks to the margin.

        Images are told from those of their kind, gray or colored, so that color tells no pair. ``accuracy``: how often
        an image's quarters are nearer to its own whole than to any other of its kind (a collapse is never nearer).
        ``alive``: share of units that count something in this batch, which is that of all processes. ``counted``: mean
        sum of counts.
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
        """Units that never count, or nothing counted at all."""
        if figures["alive"] < LEAST_ALIVE:
            return f"only {figures['alive']:.1%} of the units count anything: the others died (try a lower --lr)"
        if figures["counted"] < 1e-2:
            return "the counts collapse to zero: the trivial solution (contrast=true closes it)"
        return None
