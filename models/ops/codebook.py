"""Visual words: index of the nearest of a set of centers, found by k-means on whitened patches.

The nearest center minimizes |c|^2 - 2 <x', c> over c, where x' is the whitened patch; both steps are affine, so a word is
an argmin over one linear map (a convolution on images), as required for the exported graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from sslfeat.errors import TrainingError, UsageError
from sslfeat.models.backbones.base import Backbone
from sslfeat.models.engine.data import Images, to_batch
from sslfeat.models.engine.pixels import Pixels
from sslfeat.models.ops.patches import patchify
from sslfeat.numerics.kmeans import centers
from sslfeat.numerics.pca import principal_axes
from sslfeat.numerics.sampling import evenly

WORDS = "words"  # the only layer of a WordVectors encoder
SAMPLE, PER_IMAGE = 30_000, 200  # maximum number of patches for fitting the centers
ITERATIONS = 20
AT_ONCE = 512  # patches, and at most as many images, read at once
COUNTED = 1000  # images for counting words
SMOOTHING = 0.1  # fraction of the mean variance that is added before whitening (Coates, Ng 2012, section 2.2)


class Codebook(nn.Module):
    """Map patches (..., 3 p p), pixels in [0, 1], to word indices. Shapes of buffers depend on (words, patch) only.

    ``looks`` (W, 3 p p): the mean patch of each word, for visualization.
    """

    weight: Tensor
    bias: Tensor
    looks: Tensor

    def __init__(self, words: int, patch: int) -> None:
        super().__init__()
        if words < 2:
            raise UsageError(f"words is {words}: must be at least 2")
        dim = 3 * patch * patch
        self.patch = patch
        self.register_buffer("weight", torch.zeros(words, dim))
        self.register_buffer("bias", torch.zeros(words))
        self.register_buffer("looks", torch.zeros(words, dim))

    def fit(self, images: Images, seed: int = 0) -> None:
        """k-means on patches from random places. Raises TrainingError if there are fewer distinct patches than words."""
        count = min(SAMPLE, PER_IMAGE * len(images.pixels))
        sample = sample_patches(images.pixels, self.patch, count, seed)
        words = len(self.weight)
        if len(np.unique(sample, axis=0)) < words:
            raise TrainingError(f"the images contain fewer than {words} different patches: set a smaller number of words")
        mean, matrix = whitening(sample)
        white = ((sample - mean) @ matrix).astype(np.float32)
        book = centers(white, words, 1 + seed, iterations=ITERATIONS, points_a_center=SAMPLE).astype(np.float64)
        weight = -2 * book @ matrix.T
        bias = (book**2).sum(1) - weight @ mean
        for buffer, value in ((self.weight, weight), (self.bias, bias)):
            buffer.copy_(torch.from_numpy(value))
        nearest = self(torch.from_numpy(sample).to(self.weight.device)).cpu()
        sums = torch.zeros(self.looks.shape).index_add_(0, nearest, torch.from_numpy(sample))
        self.looks.copy_(sums / nearest.bincount(minlength=words).clamp_min(1)[:, None])

    def forward(self, patches: Tensor) -> Tensor:
        """Word indices int64 (...) of patches (..., 3 p p)."""
        with torch.autocast(patches.device.type, enabled=False):
            return (patches.float() @ self.weight.T + self.bias).argmin(-1)


class WordVectors(Backbone):
    """Map images (N, 3, S, S) in [0, 1] to the vectors of their words, (N, dim) pooled or (N, dim, h, w) as maps."""

    def __init__(self, image_size: int, words: int, patch: int, dim: int, stride: int) -> None:
        super().__init__(image_size, {WORDS: dim})
        self.codebook = Codebook(words, patch)
        self.stride = stride
        self.vectors = nn.Parameter((torch.rand(words, dim) - 0.5) / dim)  # initialized as in word2vec

    def words(self, images: Tensor, stride: int) -> Tensor:
        """Word indices (N, h, w) of patches ``stride`` px apart."""
        book = self.codebook
        filters = book.weight.view(-1, 3, book.patch, book.patch)
        return functional.conv2d(images, filters, book.bias, stride).argmin(1)

    def maps(self, images: Tensor, layer: str | None = None) -> Tensor:
        self.depth(layer)
        return self.vectors[self.words(images, self.stride)].permute(0, 3, 1, 2)

    def forward(self, images: Tensor, layer: str | None = None) -> Tensor:
        return self.maps(images, layer).mean((2, 3))


def sample_patches(pixels: Pixels, patch: int, count: int, seed: int) -> npt.NDArray[np.float32]:
    """Patches (count, 3 p p) in [0, 1], channel by channel, from random places of evenly spaced images (N, S, S, 3)."""
    generator = np.random.default_rng(seed)
    number = np.linspace(0, len(pixels) - 1, count).astype(np.int64)
    tops, lefts = generator.integers(0, pixels.shape[1] - patch + 1, (2, count))
    span = np.arange(patch)
    rows, columns = tops[:, None, None] + span[:, None], lefts[:, None, None] + span
    squares = np.empty((count, patch, patch, 3), np.uint8)
    for start in range(0, count, AT_ONCE):  # indices ascend, so each image is in one piece or in two
        piece = slice(start, start + AT_ONCE)
        several, places = np.unique(number[piece], return_inverse=True)
        squares[piece] = pixels[several][places[:, None, None], rows[piece], columns[piece]]
    return np.asarray(squares.transpose(0, 3, 1, 2).reshape(count, -1) / 255, np.float32)


def whitening(sample: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean (D,) and symmetric matrix (D, D) that approximately equalize the variance of the sample in all directions."""
    found = principal_axes(sample)
    values = found.variances
    return found.mean, (found.axes / np.sqrt(values + SMOOTHING * values.mean() + 1e-12)) @ found.axes.T


def count_words(book: Codebook, images: Images, crop: Callable[[Tensor, torch.Generator], tuple[Tensor, Any]]) -> Tensor:
    """Frequency of each word of a codebook in crops drawn as in training; see ``unigram``."""
    numbers = evenly(len(images.pixels), COUNTED)
    crops, _ = crop(to_batch(images.pixels, numbers, torch.device("cpu")), torch.Generator().manual_seed(0))
    return unigram(book(patchify(crops, book.patch)), len(book.weight))


def unigram(words: Tensor, count: int) -> Tensor:
    """Frequencies of ``count`` words, float (count,) with sum 1, with add-one smoothing."""
    counts = words.flatten().bincount(minlength=count).float() + 1
    return counts / counts.sum()
