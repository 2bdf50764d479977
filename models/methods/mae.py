"""MAE (He, Chen, Xie, Li, Dollar, Girshick 2022, "Masked Autoencoders Are Scalable Vision Learners").

Task: from a quarter of an image's patches, predict the others. The encoder receives only the visible patches, (N, K, dim); a
small decoder reconstructs (N, T, 3 p p). The loss is the squared error on hidden patches, each normalized by its own mean
and standard deviation (section 3). Known shortcuts: with few hidden patches the task is interpolation (figure 5), so 75% are
hidden; the mean color of a patch is the easiest part to predict, which normalized targets remove (``normalize=false`` keeps
it). Needs long training: in minutes on a CPU it learns to predict patches well before its features surpass those of a random
network. Features are means over the patch tokens of the whole image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sslfeat.errors import UsageError
from sslfeat.models.backbones.base import Backbone
from sslfeat.models.backbones.registry import need_vit
from sslfeat.models.backbones.vit import ViTBackbone
from sslfeat.models.method import VIT_BACKBONES, About, Figures, Method, Recipe, register
from sslfeat.models.ops.augment import random_resized_crop, to_float
from sslfeat.models.ops.patches import TokenDecoder, mean_patch_error, normalize_patches, patchify, pick, random_order, unpatchify
from sslfeat.models.ops.previews import tile
from sslfeat.models.ranges import Area, Count, Part


@register("mae")
class MAE(Method):
    """Views: images (N, 3, S, S) and a permutation of their patches (N, T), visible ones first."""

    encoder: ViTBackbone

    @dataclass(frozen=True)
    class Config:
        """``mask``: fraction of hidden patches (paper: 0.75). ``normalize``: normalize targets by the mean and standard
        deviation of their patch (paper: true). ``width``, ``layers``: of the decoder (paper: 512, 8). ``min_area``: minimum
        area of a crop (paper: 0.2).
        """

        mask: Part = 0.75
        normalize: bool = True
        width: Count = 128
        layers: Count = 2
        min_area: Area = 0.4

    recipe = Recipe(64, 1e-3, 0.05, VIT_BACKBONES, (0.9, 0.95))
    about = About(
        "He, Chen, Xie, Li, Dollar, Girshick 2022",
        "reconstruct three quarters of an image's patches from the rest",
        "ImageNet fine-tuned (ViT-B/L/H) 83.7/86.0/86.9, linear (ViT-B) 67.8",
    )
    config: Config

    def __init__(self, encoder: Backbone, config: Config) -> None:
        super().__init__(need_vit(encoder, "mae"), config)
        self.encoder.pool_patches()
        self.count = self.encoder.grid**2
        self.visible = self.count - round(self.count * config.mask)
        if not 0 < self.visible < self.count:
            raise UsageError(f"mask is {config.mask}: it leaves {self.visible} of {self.count} patches visible")
        self.decoder = TokenDecoder(encoder.dim, self.count, 3 * self.encoder.patch**2, config.width, config.layers)

    def views(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images uint8 (N, 3, S, S) to random crops and a permutation of their patches."""
        crops = random_resized_crop(to_float(batch), generator, scale=(self.config.min_area, 1.0))
        return crops, random_order(len(batch), self.count, generator)

    def predict(self, images: Tensor, order: Tensor) -> Tensor:
        """Predict the targets (N, T, 3 p p) of all patches from the first ``visible`` of the permutation."""
        places = order[:, : self.visible]
        tokens = pick(self.encoder.embed(self.input_transform(images)), places)
        predicted: Tensor = self.decoder(self.encoder.transform(tokens), places)
        return predicted.float()

    def targets(self, images: Tensor) -> Tensor:
        """Prediction targets (N, T, 3 p p)."""
        patches = patchify(images, self.encoder.patch)
        return normalize_patches(patches) if self.config.normalize else patches

    def loss(self, views: tuple[Tensor, Tensor]) -> tuple[Tensor, Figures]:
        """Mean squared error on hidden patches. ``trivial``: that of the mean (normalized) patch, about 1."""
        images, order = views
        hidden = order[:, self.visible :]
        target = pick(self.targets(images), hidden)
        loss = (pick(self.predict(images, order), hidden) - target).square().mean()
        return loss, {"error": loss.detach(), "trivial": mean_patch_error(target)}

    def preview(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """Rows: input of the encoder, reconstruction (with each patch's own mean and standard deviation), image."""
        images = to_float(batch)
        order = random_order(len(batch), self.count, generator)
        patches, predicted = patchify(images, self.encoder.patch), self.predict(images, order)
        if self.config.normalize:
            predicted = predicted * patches.std(-1, keepdim=True) + patches.mean(-1, keepdim=True)
        hidden = torch.zeros_like(order, dtype=torch.bool).scatter(1, order[:, self.visible :], True)[:, :, None]
        rows = {
            "input of the encoder": patches.masked_fill(hidden, 0.5),
            "reconstruction": torch.where(hidden, predicted, patches),
            "the image": patches,
        }
        return tile({text: unpatchify(row, self.encoder.patch) for text, row in rows.items()})
