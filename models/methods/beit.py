"""BEiT (Bao, Dong, Piao, Wei 2022, "BERT Pre-Training of Image Transformers"), BERT's masked tokens (Devlin et al. 2019).

Task: which visual words are hidden. 40% of the patches, in blobs, are replaced by one learned [MASK] token, which goes
through the encoder with the visible ones, (N, T, dim), and says the word of its patch, (N, T, W): the two differences
from MAE (section 2.3). Words come from k-means on whitened patches, where the paper uses DALL-E's tokenizer. BERT's other
task, next-sentence prediction, has no counterpart here. Known shortcuts: single hidden patches are interpolated from
their neighbors, so blobs are hidden (``blobs=false`` opens it); frequent words are guessed, so the error stands beside the
unigram's. The encoder never sees a whole image in training. Features are means over the patch tokens.
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
    """Views: images (N, 3, S, S) and what is hidden, bool (N, T); cross-entropy over the words of hidden patches."""

    encoder: ViTBackbone
    frequencies: Tensor

    @dataclass(frozen=True)
    class Config:
        """``mask``: share of hidden patches (paper: .4). ``blobs``: hide connected parts (the paper's blocks), or single
        patches. ``words`` of the codebook (paper: 8192). ``min_area``: of the smallest crop.
        """

        mask: Part = 0.4
        blobs: bool = True
        words: Several = 512
        min_area: Area = 0.4

    recipe = Recipe(64, 1e-3, 0.05, VIT_BACKBONES, (0.9, 0.98))
    about = About(
        "Bao, Dong, Piao, Wei 2022; Devlin, Chang, Lee, Toutanova 2019",
        "say which visual words are hidden",
        "ImageNet fine-tuned (ViT-B, 800 epochs) 83.2",
    )
    config: Config

    def __init__(self, encoder: Backbone, config: Config) -> None:
        super().__init__(need_vit(encoder, "beit"), config)
        self.encoder.pool_patches()
        self.count = self.encoder.grid**2
        if not 0 < round(config.mask * self.count) < self.count:
            raise UsageError(f"mask is {config.mask}: some patches are hidden, and some not")
        self.mask_token = nn.Parameter(torch.randn(encoder.dim) * 0.02)
        self.head = nn.Linear(encoder.dim, config.words)
        self.codebook = Codebook(config.words, self.encoder.patch)
        self.register_buffer("frequencies", torch.full((config.words,), 1 / config.words))

    def prepare(self, images: Images) -> None:
        """Fit the codebook, and count its words in crops like those of training."""
        self.codebook.fit(images)
        self.frequencies.copy_(count_words(self.codebook, images, self.views))

    def views(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images uint8 (N, 3, S, S) to random crops, and as many hidden patches in each."""
        crops = random_resized_crop(to_float(batch), generator, scale=(self.config.min_area, 1.0))
        return crops, self.hide(len(batch), generator)

    def hide(self, n: int, generator: torch.Generator) -> Tensor:
        """Which patches are hidden, bool (N, T)."""
        if self.config.blobs:
            return blob_masks(n, self.encoder.grid, self.config.mask, generator).flatten(1)
        return random_order(n, self.count, generator) < round(self.config.mask * self.count)

    def predict(self, images: Tensor, hidden: Tensor) -> Tensor:
        """Logits (N, T, W) for all patches."""
        tokens = self.encoder.embed(self.input_transform(images))
        masked = (self.mask_token + self.encoder.positions).to(tokens.dtype)
        logits: Tensor = self.head(self.encoder.transform(torch.where(hidden[:, :, None], masked, tokens)))
        return logits.float()

    def loss(self, views: tuple[Tensor, Tensor]) -> tuple[Tensor, Figures]:
        """Mean cross-entropy of hidden patches in nats; ``trivial`` is that of the words' frequencies."""
        images, hidden = views
        words = self.codebook(patchify(images, self.encoder.patch))[hidden]
        loss = functional.cross_entropy(self.predict(images, hidden)[hidden], words)
        return loss, {"error": loss.detach(), "trivial": -self.frequencies[words].log().mean()}

    def preview(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """Rows: what is hidden, the likeliest words in its place (drawn as their mean patch), all true words."""
        images = to_float(batch)
        hidden = self.hide(len(batch), generator)
        patches = patchify(images, self.encoder.patch)
        guess = self.codebook.looks[self.predict(images, hidden).argmax(2)]
        truth = self.codebook.looks[self.codebook(patches)]
        away = hidden[:, :, None]
        rows = {
            "what the encoder sees": patches.masked_fill(away, 0.5),
            "the likeliest words where it is hidden": torch.where(away, guess, truth),
            "the image's own words": truth,
        }
        return tile({text: unpatchify(row, self.encoder.patch) for text, row in rows.items()})
