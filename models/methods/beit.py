"""BEiT (Bao, Dong, Piao, Wei 2022, "BERT Pre-Training of Image Transformers"), BERT's masked tokens (Devlin et al. 2019).

Task: predict the visual words of hidden patches. 40% of the patches, in blobs, are replaced by a learned [MASK] token, which
passes through the encoder with the visible ones, (N, T, dim), and predicts the word of its patch, (N, T, W); these are the
two differences from MAE (section 2.3). Words come from k-means on whitened patches, where the paper uses DALL-E's tokenizer.
BERT's next-sentence prediction has no counterpart here. Known shortcuts: single hidden patches can be interpolated from
their neighbors, so blobs are hidden (``blobs=false`` allows it); frequent words can be guessed, so the error is shown next to
that of the unigram distribution. The encoder never sees a whole image in training. Features are means over the patch tokens.
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
from sslfeat.models.method import VIT_BACKBONES, About, Figures, Method, Recipe, register
from sslfeat.models.ops.augment import random_resized_crop, to_float
from sslfeat.models.ops.codebook import Codebook, count_words
from sslfeat.models.ops.optical_flow import blob_masks
from sslfeat.models.ops.patches import patchify, random_order, unpatchify
from sslfeat.models.ops.previews import tile
from sslfeat.models.ranges import Area, Part, Several


@register("beit")
class BEiT(Method):
    """Views: images (N, 3, S, S) and a mask of hidden patches, bool (N, T); cross-entropy over their words."""

    encoder: ViTBackbone
    frequencies: Tensor

    @dataclass(frozen=True)
    class Config:
        """``mask``: fraction of hidden patches (paper: 0.4). ``blobs``: hide connected regions (blocks in the paper) instead
        of single patches. ``words``: size of the codebook (paper: 8192). ``min_area``: minimum area of a crop.
        """

        mask: Part = 0.4
        blobs: bool = True
        words: Several = 512
        min_area: Area = 0.4

    recipe = Recipe(64, 1e-3, 0.05, VIT_BACKBONES, (0.9, 0.98))
    about = About(
        "Bao, Dong, Piao, Wei 2022; Devlin, Chang, Lee, Toutanova 2019",
        "predict the visual words of hidden patches",
        "ImageNet fine-tuned (ViT-B, 800 epochs) 83.2",
    )
    config: Config

    def __init__(self, encoder: Backbone, config: Config) -> None:
        super().__init__(need_vit(encoder, "beit"), config)
        self.encoder.pool_patches()
        self.count = self.encoder.grid**2
        if not 0 < round(config.mask * self.count) < self.count:
            raise UsageError(f"mask is {config.mask}: at least one patch must be hidden and one visible")
        self.mask_token = nn.Parameter(torch.randn(encoder.dim) * 0.02)
        self.head = nn.Linear(encoder.dim, config.words)
        self.codebook = Codebook(config.words, self.encoder.patch)
        self.register_buffer("frequencies", torch.full((config.words,), 1 / config.words))

    def prepare(self, images: Images) -> None:
        """Fit the codebook and count its words in crops drawn as in training."""
        self.codebook.fit(images)
        self.frequencies.copy_(count_words(self.codebook, images, self.views))

    def views(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images uint8 (N, 3, S, S) to random crops with the same number of hidden patches each."""
        crops = random_resized_crop(to_float(batch), generator, scale=(self.config.min_area, 1.0))
        return crops, self.hide(len(batch), generator)

    def hide(self, n: int, generator: torch.Generator) -> Tensor:
        """Mask of hidden patches, bool (N, T)."""
        if self.config.blobs:
            return blob_masks(n, self.encoder.grid, self.config.mask, generator).flatten(1)
        return random_order(n, self.count, generator) < round(self.config.mask * self.count)

    def predict(self, images: Tensor, hidden: Tensor) -> Tensor:
        """Logits (N, T, W) of all patches."""
        tokens = self.encoder.embed(self.input_transform(images))
        masked = (self.mask_token + self.encoder.positions).to(tokens.dtype)
        logits: Tensor = self.head(self.encoder.transform(torch.where(hidden[:, :, None], masked, tokens)))
        return logits.float()

    def loss(self, views: tuple[Tensor, Tensor]) -> tuple[Tensor, Figures]:
        """Mean cross-entropy on hidden patches in nats. ``trivial``: that of the word frequencies."""
        images, hidden = views
        words = self.codebook(patchify(images, self.encoder.patch))[hidden]
        loss = functional.cross_entropy(self.predict(images, hidden)[hidden], words)
        return loss, {"error": loss.detach(), "trivial": -self.frequencies[words].log().mean()}

    def preview(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """Rows: input with hidden patches, most likely words in their place (drawn as mean patches), true words."""
        images = to_float(batch)
        hidden = self.hide(len(batch), generator)
        patches = patchify(images, self.encoder.patch)
        guess = self.codebook.looks[self.predict(images, hidden).argmax(2)]
        truth = self.codebook.looks[self.codebook(patches)]
        away = hidden[:, :, None]
        rows = {
            "input of the encoder": patches.masked_fill(away, 0.5),
            "most likely words of the hidden patches": torch.where(away, guess, truth),
            "true words": truth,
        }
        return tile({text: unpatchify(row, self.encoder.patch) for text, row in rows.items()})
