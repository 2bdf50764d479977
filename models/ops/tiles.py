"""Cut out, standardize, desaturate and downsample parts of images, for context, jigsaw and counting."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from sslfeat.models.engine.draws import uniform
from sslfeat.models.ops.augment import LUMA

LEAST_STD = 1e-2  # of a tile, pixels in [0, 1], so that noise in uniform tiles is not amplified


class Standardize(nn.Module):
    """Standardize pixels (N, 3, H, W) per image and channel.

    With ``project`` the green-magenta direction, a = (-1, 2, -1), in which lenses disperse colors, is removed first:
    B = I - aᵀa / aaᵀ (Doersch et al. 2015, section 3.1).
    """

    projection: Tensor

    def __init__(self, project: bool = False) -> None:
        super().__init__()
        axis = torch.tensor([-1.0, 2.0, -1.0])
        taken_out = axis.outer(axis) / axis.dot(axis) if project else torch.zeros(3, 3)
        self.register_buffer("projection", (torch.eye(3) - taken_out).view(3, 3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        projected = functional.conv2d(pixels, self.projection)
        centered = projected - projected.mean((2, 3), keepdim=True)
        deviation = (centered.square().mean((2, 3), keepdim=True) + LEAST_STD**2).sqrt()
        return centered / deviation


def cut(images: Tensor, tops: Tensor, lefts: Tensor, side: int) -> Tensor:
    """Squares of ``side`` px, (N, T, C, side, side), with corners at ``tops`` and ``lefts``, int64 (N, T)."""
    span = torch.arange(side, device=images.device)
    rows, columns = tops[:, :, None, None] + span[:, None], lefts[:, :, None, None] + span
    number = torch.arange(len(images), device=images.device)[:, None, None, None]
    return images.permute(0, 2, 3, 1)[number, rows, columns].permute(0, 1, 4, 2, 3)


def gray_some(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Convert each image to grayscale with probability ``share``."""
    gray = uniform((len(images),), 0, 1, generator) < share
    return torch.where(gray.view(-1, 1, 1, 1), to_gray(images), images)


def to_gray(images: Tensor) -> Tensor:
    """Luma in all three channels."""
    luma = images.new_tensor(LUMA).view(1, 3, 1, 1)
    return (images * luma).sum(1, keepdim=True).expand_as(images)


def halve(images: Tensor, kind: Tensor) -> Tensor:
    """Downsample to half the side, each image with the filter ``kind`` (N,): 0 box, 1 triangle, 2 cubic, 3 Lanczos."""
    reach = max(len(kernel) for kernel in _half_kernels())
    stack = torch.zeros(len(_half_kernels()), reach, device=images.device)
    for row, kernel in zip(stack, _half_kernels(), strict=True):
        margin = (reach - len(kernel)) // 2
        row[margin : margin + len(kernel)] = row.new_tensor(kernel)
    n, channels, height, width = images.shape
    taps = stack[kind].repeat_interleave(channels, 0)
    flat = functional.pad(images, [reach // 2 - 1] * 4, mode="reflect").reshape(1, n * channels, height + reach - 2, -1)
    down = functional.conv2d(flat, taps[:, None, :, None], stride=(2, 1), groups=n * channels)
    across = functional.conv2d(down, taps[:, None, None, :], stride=(1, 2), groups=n * channels)
    return across.view(n, channels, height // 2, width // 2)


FILTERS = 4


@functools.lru_cache
def _half_kernels() -> tuple[tuple[float, ...], ...]:
    """Weights at the distances ±1/4, ±3/4, ... (in output pixels) of the four filters, each normalized to sum 1."""

    def cubic(x: float) -> float:  # Keys 1981 with a = -1/2, as in Pillow
        return 1.5 * x**3 - 2.5 * x**2 + 1 if x < 1 else -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2

    def lanczos(x: float) -> float:
        return math.sin(math.pi * x) * math.sin(math.pi * x / 3) * 3 / (math.pi * x) ** 2

    kernels = []
    for support, weigh in ((0.5, lambda x: 1.0), (1, lambda x: 1 - x), (2, cubic), (3, lanczos)):
        places = [(i + 0.5) / 2 - support for i in range(int(4 * support))]
        weights = [weigh(abs(place)) for place in places]
        kernels.append(tuple(weight / sum(weights) for weight in weights))
    return tuple(kernels)


@functools.lru_cache
def far_permutations(tiles: int, count: int) -> npt.NDArray[np.int64]:
    """``count`` permutations (count, tiles), chosen greedily: each maximizes the Hamming distance to the nearest previous one,
    then the mean distance to all previous ones (Noroozi, Favaro 2016, algorithm 1 maximizes the mean).

    The first is the identity, and ties are broken in lexical order, so the set is deterministic.
    """
    everything = np.array(list(itertools.permutations(range(tiles))), np.int8)
    nearest, total = np.full(len(everything), tiles, np.int64), np.zeros(len(everything), np.int64)
    chosen = [0]
    while len(chosen) < min(count, len(everything)):
        distance = (everything != everything[chosen[-1]]).sum(1)
        np.minimum(nearest, distance, out=nearest)
        total += distance
        chosen.append(int((nearest * (tiles * count + 1) + total).argmax()))
    return everything[chosen].astype(np.int64)
