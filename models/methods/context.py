"""Context prediction (Doersch, Gupta, Efros 2015, "Unsupervised Visual Representation Learning by Context Prediction").

Task: given the center patch of a 3 x 3 grid and one of the eight around it, predict the position of the latter; chance is 1/8
(section 3). The nine patches of an image, (N x 9, 3, p, p), are encoded once and give eight pairs. Known shortcuts
(section 3.1): structures that continue across the border, prevented by a gap of half a patch (``gap=0`` allows it) and, for
long lines, by a jitter of up to 7/96 of a patch (``jitter=false``); chromatic aberration, by which a single patch reveals its
position, prevented by projecting the colors (``color=project``) or by keeping one channel and replacing the others with noise
(``drop``), and allowed by ``none``; sharpness, prevented by downsampling and upsampling a third of the patches (``pixelate=0``).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from sslfeat.errors import UsageError
from sslfeat.models.backbones.base import Backbone
from sslfeat.models.backbones.registry import need_conv
from sslfeat.models.engine.draws import normal, uniform, whole_numbers
from sslfeat.models.method import About, Figures, Method, Recipe, register
from sslfeat.models.modules.heads import mlp
from sslfeat.models.ops.augment import random_resized_crop, to_float
from sslfeat.models.ops.previews import tile
from sslfeat.models.ops.tiles import Standardize, cut
from sslfeat.models.ranges import Area, Count, NotNegative, Share

NEIGHBORS = (0, 1, 2, 3, 5, 6, 7, 8)  # of the nine in raster order, all except the center
CENTER = 4
JITTER = 7 / 96  # relative to the side of a patch
NOISE = 0.01  # relative to the standard deviation of the kept channel


@register("context")
class Context(Method):
    """Views: patches (N, 9, 3, p, p) in raster order; cross-entropy over the eight positions."""

    @dataclass(frozen=True)
    class Config:
        """``color``: ``project``, ``drop`` or ``none`` (paper: the first two). ``gap``: gap between patches relative to their
        side (paper: 0.5). ``jitter``: jitter the position of each patch (paper: true). ``pixelate``: fraction of patches with
        reduced resolution (paper: 1/3). ``min_area``: minimum area of a crop. ``hidden``: width of the head.
        """

        color: str = "project"
        gap: NotNegative = 0.5
        jitter: bool = True
        pixelate: Share = 1 / 3
        min_area: Area = 0.6
        hidden: Count = 512

    recipe = Recipe(batch_size=64, lr=1e-3, weight_decay=1e-4)
    about = About(
        "Doersch, Gupta, Efros 2015",
        "predict the relative position of two patches",
        "ImageNet linear (AlexNet conv3/conv5) 30.2/29.6, VOC07 65.3",
    )
    config: Config

    def __init__(self, encoder: Backbone, config: Config) -> None:
        super().__init__(need_conv(encoder, "context"), config)
        if config.color not in ("project", "drop", "none"):
            raise UsageError(f"color is {config.color!r}: must be project, drop or none")
        if not 0 <= config.gap <= 2 or not 0 <= config.pixelate <= 1:
            raise UsageError("gap must be between 0 and 2, and pixelate between 0 and 1")
        shake = 2 * JITTER if config.jitter else 0.0
        self.patch = int(encoder.image_size / (3 + 2 * config.gap + shake))
        self.shake = int(self.patch * JITTER + 0.5) if config.jitter else 0
        self.input_transform = Standardize(project=config.color == "project")
        self.head = mlp(2 * encoder.dim, config.hidden, len(NEIGHBORS))

    def views(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """Images uint8 (N, 3, S, S) to nine patches each."""
        crops = random_resized_crop(to_float(batch), generator, scale=(self.config.min_area, 1.0))
        patches = cut(crops, *self.corners(len(batch), batch.shape[-1], generator), self.patch)
        if self.config.color == "drop":
            patches = keep_one_channel(patches, generator)
        return pixelate(patches, self.config.pixelate, generator)

    def corners(self, n: int, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Top and left coordinates (N, 9) of the patches; the grid is centered."""
        step = self.patch + round(self.config.gap * self.patch)
        first = (size - 2 * step - self.patch) // 2
        line = first + step * torch.arange(3, device=generator.device)
        tops, lefts = (grid.flatten() for grid in torch.meshgrid(line, line, indexing="ij"))
        shift = whole_numbers((2, n, 9), -self.shake, self.shake, generator, axis=1)
        highest = size - self.patch
        return (tops + shift[0]).clamp(0, highest), (lefts + shift[1]).clamp(0, highest)

    def loss(self, views: Tensor) -> tuple[Tensor, Figures]:
        """Mean cross-entropy in nats. ``accuracy``: fraction of positions predicted correctly."""
        n = len(views)
        embedded = self.encode(views.flatten(0, 1)).view(n, 9, -1)
        center = embedded[:, CENTER, None].expand(-1, len(NEIGHBORS), -1)
        pairs = torch.cat([center, embedded[:, list(NEIGHBORS)]], 2)
        logits = self.head(pairs.flatten(0, 1)).float()
        places = torch.arange(len(NEIGHBORS), device=logits.device).repeat(n)
        accuracy = (logits.detach().argmax(1) == places).float().mean()
        return functional.cross_entropy(logits, places), {"accuracy": accuracy, "chance": 1 / len(NEIGHBORS)}

    def preview(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """Rows: images, and their nine patches as input of the encoder (clipped at two standard deviations)."""
        patches = self.views(batch, generator)
        seen = (self.input_transform(patches.flatten(0, 1)) / 4 + 0.5).clamp(0, 1).view(patches.shape)
        tops, lefts = self.corners(1, batch.shape[-1], torch.Generator(batch.device).manual_seed(0))
        canvas = torch.ones(len(batch), *batch.shape[1:], device=batch.device)
        for k, (top, left) in enumerate(zip(tops[0].tolist(), lefts[0].tolist(), strict=True)):
            canvas[:, :, top : top + self.patch, left : left + self.patch] = seen[:, k]
        return tile({"the image": to_float(batch), "patches, input of the encoder": canvas})


def keep_one_channel(patches: Tensor, generator: torch.Generator) -> Tensor:
    """Keep one channel of each image's patches (N, 9, 3, p, p), the same for all nine; replace the others with faint noise."""
    n = len(patches)
    kept = functional.one_hot(whole_numbers((n,), 0, 2, generator), 3).view(n, 1, 3, 1, 1).bool()
    deviation = patches.masked_fill(~kept, 0).std((3, 4), keepdim=True).amax(2, keepdim=True)
    noise = normal(tuple(patches.shape), generator) * deviation * NOISE
    return torch.where(kept, patches, 0.5 + noise)


def pixelate(patches: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Downsample a random ``share`` of patches (N, 9, 3, p, p) to between one and two thirds, and upsample them again."""
    flat = patches.flatten(0, 1)
    side = flat.shape[-1]
    small = int(whole_numbers((1,), max(1, side // 3), max(1, 2 * side // 3), generator))
    shrunk = functional.interpolate(flat, size=(small, small), mode="area")
    coarse = functional.interpolate(shrunk, size=(side, side), mode="bilinear", align_corners=False)
    chosen = uniform(tuple(patches.shape[:2]), 0, 1, generator).flatten() < share
    return torch.where(chosen.view(-1, 1, 1, 1), coarse, flat).view(patches.shape)
