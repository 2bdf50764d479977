"""Rotation (Gidaris, Singh, Komodakis 2018, "Unsupervised Representation Learning by Predicting Image Rotations").

Task: predict by which of 0, 90, 180 or 270 degrees an image was rotated; chance is 1/4. All four rotations of every image are
in one batch (section 3.1: better than one rotation per image). Rotations by multiples of 90 degrees need no resampling and
leave no low-level artifacts. Known shortcuts: marks fixed to the frame (a watermark, a border, a horizon) reveal the
rotation. Random crops and flips before the rotation weaken them; ``crop=false`` allows them.
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
    """Views (4N, 3, S, S) with their rotations (4N,); cross-entropy over the four rotations."""

    @dataclass(frozen=True)
    class Config:
        """``crop``: take a random crop before rotating (paper, CIFAR-10: none). ``min_area``: minimum area of the crop."""

        crop: bool = True
        min_area: Area = 0.5

    recipe = Recipe(batch_size=64, lr=1e-3, weight_decay=1e-4)
    about = About(
        "Gidaris, Singh, Komodakis 2018",
        "predict by which multiple of 90 degrees an image was rotated",
        "ImageNet linear (AlexNet conv3/conv5) 38.7/36.5, VOC07 73.0; CIFAR-10 (NIN block 2, non-linear) 89.1",
    )
    config: Config

    def __init__(self, encoder: Backbone, config: Config) -> None:
        super().__init__(encoder, config)
        self.head = nn.Linear(encoder.dim, TURNS)

    def views(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images uint8 (N, 3, S, S) to views float (4N, 3, S, S), ordered by rotation, and their rotations int64 (4N,)."""
        images = to_float(batch)
        if self.config.crop:
            images = random_resized_crop(images, generator, scale=(self.config.min_area, 1.0))
        else:
            images = random_flip(images, generator)
        turns = torch.arange(TURNS, device=batch.device).repeat_interleave(len(batch))
        return torch.cat([rotate_quarter(images, turn) for turn in range(TURNS)]), turns

    def loss(self, views: tuple[Tensor, Tensor]) -> tuple[Tensor, Figures]:
        """Mean cross-entropy in nats. ``accuracy``: fraction of rotations predicted correctly."""
        images, turns = views
        logits = self.head(self.encode(images))
        accuracy = (logits.detach().argmax(1) == turns).float().mean()
        return functional.cross_entropy(logits, turns), {"accuracy": accuracy, "chance": 1 / TURNS}

    def preview(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """Top row: rotated images; bottom row: rotated back by the predicted angle."""
        images, n = to_float(batch), len(batch)
        turned = torch.stack([rotate_quarter(images[i : i + 1], i % TURNS)[0] for i in range(n)])
        guesses = self.head(self.encode(turned)).argmax(1).tolist()
        back = [rotate_quarter(turned[i : i + 1], -guess % TURNS)[0] for i, guess in enumerate(guesses)]
        return tile({"turned": turned, "turned back by the encoder": torch.stack(back)})
