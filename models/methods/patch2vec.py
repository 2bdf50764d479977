"""patch2vec: skip-gram with negative sampling (Mikolov, Sutskever, Chen, Corrado, Dean 2013) on visual words.

Task: predict which words are adjacent to a word. Patches of 6 px are words of a k-means codebook (whitened, as in Coates and
Ng 2012); a word's vector is trained to distinguish its true neighbors from randomly drawn words (section 2.2, equation 4).
The input is (N, 3, S, S), words are (N, h, w), and the feature of an image is the mean of its words' vectors, (N, dim); the
exported graph is a convolution, an argmin, a gather and a mean. Known shortcuts: overlapping patches share pixels, so only
non-overlapping neighbors are used (``gap`` separates them further); sky next to sky is uninformative, so frequent words are
skipped at random (section 2.3; ``subsample=0`` allows it).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sslfeat.errors import UsageError
from sslfeat.models.backbones.base import Backbone
from sslfeat.models.engine.data import Images
from sslfeat.models.engine.distributed import mean_count
from sslfeat.models.engine.draws import whole_numbers
from sslfeat.models.method import About, Figures, Method, Recipe, register
from sslfeat.models.ops.augment import to_float
from sslfeat.models.ops.codebook import WORDS, WordVectors, sample_patches, unigram
from sslfeat.models.ranges import Count, CountOrZero, NotNegative, Several

POWER = 0.75  # exponent of the unigram distribution from which negatives are drawn (section 2.2)
LEAST_USED = 0.1


@register("patch2vec")
class Patch2Vec(Method):
    """Views: pairs of adjacent words (P, 2) and random words (P, K); logistic loss of inner products."""

    encoder: WordVectors
    frequencies: Tensor

    @dataclass(frozen=True)
    class Config:
        """``words``: size of the codebook. ``patch``: side of a word in px. ``dim``: dimension of the vectors (paper, on text:
        692k words, 300).

        ``negatives``: number of negatives K (paper: 5 to 20 on small data). ``subsample``: words more frequent than this
        multiple of the mean are skipped at random (paper: threshold 1e-5 of all words); 0: none. ``pairs``: pairs per image.
        ``gap``: distance between neighbors in px. ``stride``: stride in px for encoding an image.
        """

        words: Several = 512
        patch: Count = 6
        dim: Count = 64
        negatives: Count = 10
        subsample: NotNegative = 1.0
        pairs: Count = 64
        gap: CountOrZero = 0
        stride: Count = 2

    recipe = Recipe(256, 3e-3, 0.0, (WORDS, WORDS))
    about = About(
        "Mikolov, Sutskever, Chen, Corrado, Dean 2013",
        "visual words are characterized by adjacent words",
        "none on images; word analogies (300-d, 1 billion words) 61",
    )
    config: Config

    @classmethod
    def build_encoder(cls, backbone: str, image_size: int, config: Any) -> Backbone:
        if backbone != WORDS:
            raise UsageError(f"patch2vec uses a codebook instead of the backbone {backbone}: omit --backbone")
        if 2 * config.patch + config.gap + config.patch > image_size:
            raise UsageError(f"images of {image_size} px are too small for adjacent words of {config.patch} px")
        return WordVectors(image_size, config.words, config.patch, config.dim, config.stride)

    def __init__(self, encoder: Backbone, config: Config) -> None:
        super().__init__(encoder, config)
        self.input_transform = nn.Identity()
        self.contexts = nn.Parameter(torch.zeros(config.words, config.dim))  # initialized as in word2vec
        self.register_buffer("frequencies", torch.full((config.words,), 1 / config.words))

    def prepare(self, images: Images) -> None:
        """Fit the codebook and count its words."""
        book = self.encoder.codebook
        book.fit(images)
        sample = torch.from_numpy(sample_patches(images.pixels, book.patch, 50_000, 1)).to(book.weight.device)
        self.frequencies.copy_(unigram(book(sample), self.config.words))

    def views(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images uint8 (N, 3, S, S) to pairs of neighboring words (P, 2) and negatives (P, K)."""
        step = self.config.patch + self.config.gap
        top, left = whole_numbers((2,), 0, step - 1, generator).tolist()
        words = self.encoder.words(to_float(batch)[:, :, top:, left:], step)
        pairs = neighbors(words)
        keep = self.kept()[pairs].prod(1)
        pairs = pairs[torch.rand(len(pairs), generator=generator, device=pairs.device) < keep]
        chosen = torch.randperm(len(pairs), generator=generator, device=pairs.device)[: self.config.pairs * len(batch)]
        count = len(chosen) * self.config.negatives
        drawn = torch.multinomial(self.noise(), max(1, count), replacement=True, generator=generator)[:count]
        return pairs[chosen], drawn.view(len(chosen), self.config.negatives)

    def kept(self) -> Tensor:
        """Probability of keeping each word (W,): sqrt(t / f), at most 1 (section 2.3)."""
        if not self.config.subsample:
            return torch.ones_like(self.frequencies)
        return (self.config.subsample / self.config.words / self.frequencies).sqrt().clamp_max(1)

    def noise(self) -> Tensor:
        """Distribution of negatives (W,)."""
        powered = self.frequencies**POWER
        return powered / powered.sum()

    def loss(self, views: tuple[Tensor, Tensor]) -> tuple[Tensor, Figures]:
        """Mean over pairs of -log s(c v) - sum log s(-n v). ``trivial``: loss of zero vectors."""
        pairs, negatives = views
        vectors = self.encoder.vectors.float()[pairs[:, 0]]
        with torch.autocast(vectors.device.type, enabled=False):
            true = (vectors * self.contexts[pairs[:, 1]]).sum(1)
            false = torch.einsum("pd,pkd->pk", vectors, self.contexts[negatives])
            loss = (functional.softplus(-true).sum() + functional.softplus(false).sum()) / mean_count(len(pairs), pairs.device)
        trivial = (1 + self.config.negatives) * torch.log(torch.tensor(2.0))
        used = (pairs.flatten().bincount(minlength=self.config.words) > 0).float().mean()
        return loss, {"error": loss.detach(), "trivial": trivial, "used": used}

    def complaint(self, figures: dict[str, float]) -> str | None:
        """Detect a codebook that is hardly used."""
        if figures["used"] < LEAST_USED:
            return f"only {figures['used']:.1%} of the words occur in a batch: choose fewer words or a larger batch"
        return None


def neighbors(words: Tensor) -> Tensor:
    """All ordered pairs (P, 2) of horizontally, vertically or diagonally adjacent words (N, h, w)."""
    h, w = words.shape[1:]
    pairs = []
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        here = words[:, : h - dy, max(0, -dx) : w - max(0, dx)]
        there = words[:, dy:, max(0, dx) : w + min(0, dx)]
        pairs += [torch.stack([here.flatten(), there.flatten()], 1), torch.stack([there.flatten(), here.flatten()], 1)]
    return torch.cat(pairs)
