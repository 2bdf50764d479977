"""Where one thumbnail lies within another: the same frame, a crop of it, or mirrored.

Thumbnails show the whole image, squeezed into a square, so a crop is a window of the other with its own two scales. Windows are
first tried on a coarse grid, for many pairs at once, by normalized cross-correlation (through the Fourier transform, Lewis
1995), then the best one is moved until the correlation grows no more.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sslfeat.numerics.arrays import FloatArray, IntArray

SIDE = 64  # of a thumbnail, px
COARSE, MIDDLE = 16, 32  # sides at which windows are tried, and moved
SCALES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6)  # of a window's side
STEPS = (1 / 32, 1 / 64, 1 / 128, 1 / 256)  # in which a window is moved, of the side
ROUNDS = 6
MOVES = np.array([  # of top, height, left, width
    (1, 0, 0, 0), (-1, 0, 0, 0), (0, 0, 1, 0), (0, 0, -1, 0), (0, 1, 0, 1), (0, -1, 0, -1), (-0.5, 1, -0.5, 1),
    (0.5, -1, 0.5, -1), (0, 1, 0, 0), (0, -1, 0, 0), (0, 0, 0, 1), (0, 0, 0, -1),
])  # fmt: skip


@dataclass(frozen=True)
class Window:
    """The smaller image is what the larger shows from ``top`` and ``left`` on, all in shares of its sides.

    ``swapped``: the first of the two is the smaller one. ``mirrored``: the second is turned left to right before.
    """

    top: float
    height: float
    left: float
    width: float
    swapped: bool
    mirrored: bool


def coarse_windows(first: FloatArray, second: FloatArray) -> tuple[FloatArray, IntArray]:
    """The best correlation (P,) of each pair of gray thumbnails (P, SIDE, SIDE), and its window, int64 (P, 5).

    The window as (number of the scale, swapped, mirrored, top, left), the last two in steps of 1 / COARSE.
    """
    best, windows = np.full(len(first), -1, np.float32), np.zeros((len(first), 5), np.int64)
    for mirrored in (0, 1):
        turned = second[:, :, ::-1] if mirrored else second
        for swapped, (within, other) in enumerate(((first, turned), (turned, first))):
            search = _Search(_shrink(within, COARSE))
            for number, scale in enumerate(SCALES):
                if scale == 1 and swapped:  # the same frame either way
                    continue
                score, top, left = search.best(_shrink(other, round(COARSE * scale)))
                better = score > best
                best[better] = score[better]
                place = (np.full(len(top), value) for value in (number, swapped, mirrored))
                windows[better] = np.stack([*place, top, left], 1)[better]
    return best, windows


def finest_window(first: FloatArray, second: FloatArray, coarse: IntArray) -> Window:
    """The window of one pair of gray thumbnails (SIDE, SIDE), from its coarse one (5,)."""
    number, swapped, mirrored, top, left = (int(value) for value in coarse)
    side = round(COARSE * SCALES[number]) / COARSE
    larger, smaller = _ordered(first, second, bool(swapped), bool(mirrored))
    target = _shrink(smaller, MIDDLE)

    def score(place: npt.NDArray[np.float64]) -> float:
        if place[1] > 1 or place[3] > 1 or place.min() < -1e-6 or max(place[:2].sum(), place[2:].sum()) > 1 + 1e-6:
            return -1.0
        return correlation(_cut(larger, place, MIDDLE), target)

    place = np.array([top / COARSE, side, left / COARSE, side])
    best = score(place)
    for step in STEPS:
        for _ in range(ROUNDS):
            tried = [(score(place + step * move), number) for number, move in enumerate(MOVES)]
            value, move = max(tried)
            if value <= best + 1e-5:
                break
            best, place = value, place + step * MOVES[move]
    top_share, height, left_share, width = (float(share) for share in place)
    return Window(top_share, height, left_share, width, bool(swapped), bool(mirrored))


def aligned(first: FloatArray, second: FloatArray, window: Window, side: int) -> tuple[FloatArray, FloatArray]:
    """What both thumbnails (SIDE, SIDE) show, each as (side, side)."""
    larger, smaller = _ordered(first, second, window.swapped, window.mirrored)
    place = np.array([window.top, window.height, window.left, window.width])
    return _cut(larger, place, side), _shrink(smaller, side)


def correlation(a: FloatArray, b: FloatArray) -> float:
    """Pearson's, of two arrays of one shape; a level of noise keeps two blank ones apart from two alike."""
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / np.sqrt(((a * a).sum() + 1) * ((b * b).sum() + 1)))


def _ordered(first: FloatArray, second: FloatArray, swapped: bool, mirrored: bool) -> tuple[FloatArray, FloatArray]:
    turned = second[:, ::-1] if mirrored else second
    return (turned, first) if swapped else (first, turned)


def _cut(image: FloatArray, place: npt.NDArray[np.float64], side: int) -> FloatArray:
    top, height, left, width = place.tolist()
    return np.asarray(_resampler(top, height, side) @ image @ _resampler(left, width, side).T, np.float32)


def _shrink(images: FloatArray, side: int) -> FloatArray:
    matrix = _resampler(0.0, 1.0, side)
    return np.asarray(matrix @ images @ matrix.T, np.float32)


@functools.lru_cache(4096)  # windows lie on a grid, so the same ones return
def _resampler(start: float, length: float, side: int) -> FloatArray:
    """The matrix (side, SIDE) that takes a window of a row of SIDE px to ``side`` px: means over areas, or between pixels."""
    edges = (start + length * np.arange(side + 1) / side) * SIDE
    pixels = np.arange(SIDE)
    if length * SIDE >= side:
        shares = np.clip(np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels), 0, None)
    else:
        centers = np.clip((edges[:-1] + edges[1:]) / 2 - 0.5, 0, SIDE - 1)
        shares = np.clip(1 - np.abs(centers[:, None] - pixels), 0, None)
    matrix: FloatArray = (shares / shares.sum(1, keepdims=True)).astype(np.float32)
    return matrix


class _Search:
    """Images (P, n, n) to find templates in, by normalized cross-correlation."""

    def __init__(self, images: FloatArray) -> None:
        self._side = images.shape[1]
        self._spectrum = np.fft.rfft2(images)  # a template that lies within the image never wraps around
        self._sums = [
            np.pad(array.astype(np.float64), ((0, 0), (1, 0), (1, 0))).cumsum(1).cumsum(2) for array in (images, images**2)
        ]

    def best(self, templates: FloatArray) -> tuple[FloatArray, IntArray, IntArray]:
        """The greatest correlation of each template (P, t, t) with a window of its image, and the window's top and left."""
        side, part = self._side, templates.shape[1]
        free = side - part + 1
        templates = templates - templates.mean((1, 2), keepdims=True)
        product = self._spectrum * np.conj(np.fft.rfft2(templates, (side, side)))
        cross = np.fft.irfft2(product, (side, side))[:, :free, :free]
        total, squares = (
            sums[:, part:, part:] - sums[:, :-part, part:] - sums[:, part:, :-part] + sums[:, :-part, :-part]
            for sums in self._sums
        )
        variance = np.maximum(squares - total**2 / part**2, 1e-3)
        scale = np.sqrt((templates * templates).sum((1, 2)))[:, None, None] + 1e-3
        scores = (cross / (np.sqrt(variance) * scale)).reshape(len(templates), -1)
        place = scores.argmax(1)
        return scores[np.arange(len(scores)), place].astype(np.float32), place // free, place % free
