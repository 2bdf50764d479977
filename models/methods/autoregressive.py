"""Autoregression (Schmidhuber, Heil 1996 and Bengio et al. 2003 on text; El-Nouby et al. 2024, "AIM", on images).

Task: predict the next patch from the preceding ones in raster order. A causal mask (T, T) hides later tokens, except within a
prefix of random length, whose patches see each other (AIM, section 3.2); the encoder therefore also works on whole images,
from which its features, means over the tokens, are computed. The target is the next patch, normalized by its own mean and
standard deviation (squared error), or its visual word (cross-entropy, the likelihood of the older papers). Known shortcut:
continuing the nearest pixels explains most of the gain. It cannot be prevented; compare the error with the trivial one. Needs
long training, like MAE. ``prefix=false``: purely causal.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from sslfeat.errors import UsageError
from sslfeat.models.backbones.base import Backbone
from sslfeat.models.backbones.registry import need_vit
from sslfeat.models.backbones.vit import ViTBackbone
from sslfeat.models.engine.data import Images
from sslfeat.models.engine.draws import whole_numbers
from sslfeat.models.method import VIT_BACKBONES, About, Figures, Method, Recipe, register
from sslfeat.models.ops.augment import random_resized_crop, to_float
from sslfeat.models.ops.codebook import Codebook, count_words
from sslfeat.models.ops.patches import mean_patch_error, normalize_patches, patchify, unpatchify
from sslfeat.models.ops.previews import tile
from sslfeat.models.ranges import Area, Count, Several


@register("autoregressive")
class Autoregressive(Method):
    """Views: images (N, 3, S, S) and the prefix length; error of the patches after it, predicted from the preceding ones."""

    encoder: ViTBackbone
    frequencies: Tensor

    @dataclass(frozen=True)
    class Config:
        """``target``: ``pixels`` (AIM) or ``words``. ``words``: size of the codebook. ``prefix``: use bidirectional attention
        in a prefix of random length (AIM: true). ``hidden``: width of the head. ``min_area``: minimum area of a crop
        (AIM: 0.4).
        """

        target: str = "pixels"
        words: Several = 512
        prefix: bool = True
        hidden: Count = 512
        min_area: Area = 0.4

    recipe = Recipe(64, 1e-3, 0.05, VIT_BACKBONES, (0.9, 0.95))
    about = About(
        "Schmidhuber, Heil 1996; Bengio, Ducharme, Vincent, Jauvin 2003; El-Nouby et al. 2024 (AIM)",
        "predict the next patch from the preceding ones",
        "AIM-0.6B/7B, attentive probe over 15 sets 78.5/82.4 (ImageNet 78.5/84.0 with AIM-7B)",
    )
    config: Config

    def __init__(self, encoder: Backbone, config: Config) -> None:
        super().__init__(need_vit(encoder, "autoregressive"), config)
        if config.target not in ("pixels", "words"):
            raise UsageError(f"target is {config.target!r}: must be pixels or words")
        self.encoder.pool_patches()
        self.count = self.encoder.grid**2
        out = 3 * self.encoder.patch**2
        if config.target == "words":
            self.codebook = Codebook(config.words, self.encoder.patch)
            self.register_buffer("frequencies", torch.full((config.words,), 1 / config.words))
            out = config.words
        self.head = nn.Sequential(
            nn.Linear(encoder.dim, config.hidden), nn.GELU(), nn.LayerNorm(config.hidden), nn.Linear(config.hidden, out)
        )

    def prepare(self, images: Images) -> None:
        """Fit the codebook and count its words in crops drawn as in training."""
        if self.config.target == "words":
            self.codebook.fit(images)
            self.frequencies.copy_(count_words(self.codebook, images, self.views))

    def views(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, int]:
        """Images uint8 (N, 3, S, S) to random crops and the prefix length of this batch: 1 to T - 1 patches."""
        crops = random_resized_crop(to_float(batch), generator, scale=(self.config.min_area, 1.0))
        longest = self.count - 1 if self.config.prefix else 1
        return crops, int(whole_numbers((1,), 1, longest, generator))

    def predict(self, images: Tensor, prefix: int) -> Tensor:
        """Predictions (N, T - prefix, out) of each patch after the prefix from the token before it."""
        mask = prefix_mask(self.count, prefix, images.device)
        tokens = self.encoder.transform(self.encoder.embed(self.input_transform(images)), mask)
        predicted: Tensor = self.head(tokens[:, prefix - 1 : -1])
        return predicted.float()

    def loss(self, views: tuple[Tensor, int]) -> tuple[Tensor, Figures]:
        """Squared error of normalized patches, or cross-entropy; ``trivial``: error of the mean patch or of unigrams."""
        images, prefix = views
        patches = patchify(images, self.encoder.patch)[:, prefix:]
        predicted = self.predict(images, prefix)
        if self.config.target == "pixels":
            target = normalize_patches(patches)
            loss, trivial = (predicted - target).square().mean(), mean_patch_error(target)
        else:
            words = self.codebook(patches)
            loss = functional.cross_entropy(predicted.flatten(0, 1), words.flatten())
            trivial = -self.frequencies[words].log().mean()
        return loss, {"error": loss.detach(), "trivial": trivial}

    def preview(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """Rows: the first half, each later patch predicted from all preceding ones, the image."""
        images, prefix = to_float(batch), self.count // 2
        patches, predicted = patchify(images, self.encoder.patch), self.predict(images, prefix)
        if self.config.target == "words":
            guess = self.codebook.looks[predicted.argmax(2)]
        else:
            later = patches[:, prefix:]
            guess = predicted * later.std(-1, keepdim=True) + later.mean(-1, keepdim=True)
        first = patches[:, :prefix]
        rows = {
            "the first half": torch.cat([first, torch.full_like(guess, 0.5)], 1),
            "each later patch, predicted from the preceding ones": torch.cat([first, guess], 1),
            "the image": patches,
        }
        return tile({text: unpatchify(row, self.encoder.patch) for text, row in rows.items()})


def prefix_mask(count: int, prefix: int, device: torch.device) -> Tensor:
    """Mask bool (T, T), True where token i must not attend to token j: j follows i, and not both are in the prefix."""
    place = torch.arange(count, device=device)
    return (place[None] > place[:, None]) & (place[None] >= prefix)
