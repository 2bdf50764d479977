"""Counting (Noroozi, Pirsiavash, Favaro 2017, "Representation Learning by Learning to Count").

Task: what there is in a picture, shrunk to half its side, is what there is in its four quarters together: phi(Dx) =
sum_j phi(T_j x), with phi >= 0 the encoder and a ReLU layer, all inputs (N, 3, S/2, S/2) (section 3, equation 4). Known
shortcuts: phi = 0 satisfies it, so the counts must differ from those of another picture by a margin (equation 5;
``contrast=false`` opens it); a downsampler leaves a trace, so the filter is drawn from four (``filters=1`` opens it);
chromatic aberration tells quarters from wholes, so two thirds of the pictures are grey (``gray=0``).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from sslfeat.errors import TrainingError
from sslfeat.models.augment import random_resized_crop, to_float
from sslfeat.models.backbones import Backbone, need_conv
from sslfeat.models.method import About, Figures, Method, Recipe, register
from sslfeat.models.tiles import FILTERS, halve, to_gray, whole_numbers

LEAST_ALIVE = 0.05  # share of units that count anything


@register("counting")
class Counting(Method):
    """Views: wholes (N, 3, S/2, S/2), quarters (N, 4, 3, S/2, S/2), and each picture's partner (N,)."""

    @dataclass(frozen=True)
    class Config:
        """``margin`` M by which counts of different pictures differ, as a squared distance (paper: 10).

        ``contrast``: use it at all. ``units`` that count (paper: 1000). ``gray``: share of pictures without colour
        (paper: 2/3). ``filters``: how many resampling filters to draw from, of box, triangle, cubic and Lanczos (paper:
        several). ``min_area``: of the smallest crop.
        """

        margin: float = 10.0
        contrast: bool = True
        units: int = 1000
        gray: float = 2 / 3
        filters: int = FILTERS
        min_area: float = 0.5

    recipe = Recipe(batch_size=64, lr=1e-3, weight_decay=1e-4)
    about = About(
        "Noroozi, Pirsiavash, Favaro 2017",
        "what a picture shows is what its quarters show together",
        "ImageNet linear (AlexNet conv3/conv5) 34.3/25.7, VOC07 67.7",
    )
    config: Config

    def __init__(self, encoder: Backbone, config: Config) -> None:
        super().__init__(need_conv(encoder, "counting"), config)
        if not 1 <= config.filters <= FILTERS or config.units < 1 or not 0 <= config.gray <= 1:
            raise TrainingError(f"filters lies between 1 and {FILTERS}, units is at least 1, gray between 0 and 1")
        if encoder.image_size % 2:
            raise TrainingError("counting cuts pictures into quarters: choose an even --image-size")
        self.head = nn.Sequential(nn.Linear(encoder.dim, config.units), nn.ReLU())

    def views(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures uint8 (N, 3, S, S), in a random order, to wholes, quarters and partners.

        The first are grey and the others coloured, and each one's partner is of its kind, so that colour tells no pair.
        """
        n, half = len(batch), batch.shape[-1] // 2
        order = torch.randperm(n, generator=generator, device=batch.device)
        pictures = random_resized_crop(to_float(batch[order]), generator, scale=(self.config.min_area, 1.0))
        gray = round(n * self.config.gray)
        pictures = torch.cat([to_gray(pictures[:gray]), pictures[gray:]])
        wholes = halve(pictures, whole_numbers((n,), 0, self.config.filters - 1, generator))
        quarters = torch.stack([pictures[..., y : y + half, x : x + half] for y in (0, half) for x in (0, half)], 1)
        number = torch.arange(n, device=batch.device)
        return wholes, quarters, torch.cat([number[:gray].roll(1), number[gray:].roll(1)])

    def count(self, pictures: Tensor) -> Tensor:
        """phi: pictures (N, 3, h, w) to counts (N, units), none negative."""
        counts: Tensor = self.head(self.encode(pictures)).float()
        return counts

    def loss(self, views: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Figures]:
        """Mean over pictures of squared distances summed over units, and of what lacks to the margin.

        ``accuracy``: how often a picture's quarters are nearer to its own whole than to its partner's (a collapse is
        never nearer). ``alive``: share of units that count something in this batch. ``counted``: mean sum of counts.
        """
        wholes, quarters, partner = views
        n = len(wholes)
        counts = self.count(torch.cat([wholes, quarters.flatten(0, 1)]))
        whole, parts = counts[:n], counts[n:].view(n, 4, -1).sum(1)
        own = (whole - parts).square().sum(1)
        other = (whole[partner] - parts).square().sum(1)
        loss = own.mean()
        if self.config.contrast:
            loss = loss + functional.relu(self.config.margin - other).mean()
        return loss, {
            "accuracy": (own < other).float().mean(),
            "chance": 0.5,
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
