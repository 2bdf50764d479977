"""Rotation (Gidaris, Singh, Komodakis 2018, "Unsupervised Representation Learning by Predicting Image Rotations").

Task: say by which of 0, 90, 180, 270 degrees an image was turned; chance is 1/4. All four turns of every image are in
one batch (section 3.1 of the paper: better than one turn an image). Quarter turns resample no pixel, so they leave no
low-level trace. Known shortcuts: marks fixed to the frame (a watermark, a border, a horizon line) give the turn away.
Crops and mirrors are drawn before the turn to weaken them; ``crop=false`` opens that shortcut again.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from sslfeat.models.backbones.base import Backbone
from sslfeat.models.method import About, Figures, Method, Recipe, register
from sslfeat.models.ops.augment import random_flip, random_resized_crop, rotate_quarter, to_float
from sslfeat.models.ops.previews import tile
from sslfeat.models.ranges import Area

TURNS = 4


@register("rotation")
class Rotation(Method):
    """Views (4N, 3, S, S) with their turns (4N,); cross-entropy over the four turns."""

    @dataclass(frozen=True)
    class Config:
        """``crop``: draw random crops of at least ``min_area`` of the image before turning it (paper, CIFAR-10: none)."""

        crop: bool = True
        min_area: Area = 0.5

    recipe = Recipe(batch_size=64, lr=1e-3, weight_decay=1e-4)
    about = About(
        "Gidaris, Singh, Komodakis 2018",
        "say by which quarter turn an image was turned",
        "ImageNet linear (AlexNet conv3/conv5) 38.7/36.5, VOC07 73.0; CIFAR-10 (NIN block 2, non-linear) 89.1",
    )
    config: Config

    def __init__(self, encoder: Backbone, config: Config) -> None:
        super().__init__(encoder, config)
        self.head = nn.Linear(encoder.dim, TURNS)

    def views(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images uint8 (N, 3, S, S) to views float (4N, 3, S, S), turn by turn, and their turns int64 (4N,)."""
        images = to_float(batch)
        if self.config.crop:
            images = random_resized_crop(images, generator, scale=(self.config.min_area, 1.0))
        else:
            images = random_flip(images, generator)
        turns = torch.arange(TURNS, device=batch.device).repeat_interleave(len(batch))
        return torch.cat([rotate_quarter(images, turn) for turn in range(TURNS)]), turns

    def loss(self, views: tuple[Tensor, Tensor]) -> tuple[Tensor, Figures]:
        """Mean cross-entropy in nats; ``accuracy`` is the share of turns recognized."""
        images, turns = views
        logits = self.head(self.encode(images))
        accuracy = (logits.detach().argmax(1) == turns).float().mean()
        return functional.cross_entropy(logits, turns), {"accuracy": accuracy, "chance": 1 / TURNS}

    def preview(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """Top row the images, turned; bottom row turned back by as much as the encoder believes."""
        images, n = to_float(batch), len(batch)
        turned = torch.stack([rotate_quarter(images[i : i + 1], i % TURNS)[0] for i in range(n)])
        guesses = self.head(self.encode(turned)).argmax(1).tolist()
        back = [rotate_quarter(turned[i : i + 1], -guess % TURNS)[0] for i, guess in enumerate(guesses)]
        return tile({"turned": turned, "turned back by the encoder": torch.stack(back)})
