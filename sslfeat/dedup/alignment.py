"""Where one thumbnail lies within another: the same frame, a crop of it, or mirrored; of many pairs at once.

Thumbnails show the whole image, squeezed into a square, so a crop is a window of the other with its own two scales. Windows are
first tried on a coarse grid, then the one of the greatest correlation is moved until that grows no more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sslfeat.numerics.arrays import FloatArray, IntArray

SIDE = 64  # of a thumbnail, px
COARSE, MIDDLE = 16, 32  # sides at which windows are tried, and moved
SIDES = range(COARSE, 9, -1)  # of the windows that are tried
SMALLEST = 0.5  # share of the image's side, of a window that is moved
ROUNDS, GROWS = 16, 1e-5  # most steps by which a window is moved, and the least gain of one
LEAST_SHARE = 1 / 64  # of a step, before it is given up
WORTH = 0.01  # gain in correlation for which a window that is the whole image is left
RIDGE, FIXED = 1.0, 1e12  # added to the normal equations: where nothing changes nothing is moved, nor an edge out of the image

Places = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Windows:
    """Of P pairs: the smaller image is what the larger shows in ``places`` (P, 4): top, bottom, left and right, in shares.

    ``swapped`` (P,): the first of the two is the smaller one. ``mirrored`` (P,): the second is turned left to right before.
    """

    places: Places
    swapped: npt.NDArray[np.bool_]
    mirrored: npt.NDArray[np.bool_]

    def aligned(self, first: FloatArray, second: FloatArray, side: int) -> tuple[FloatArray, FloatArray]:
        """What both of each pair show, of images (P, C, SIDE, SIDE), each as (P, C, side, side)."""
        larger, smaller = self.ordered(first, second)
        return _cut(larger, self.places, side), _shrink(smaller, side)

    def ordered(self, first: FloatArray, second: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The larger and the smaller of images (P, C, SIDE, SIDE), mirrored where they have to be."""
        swapped, mirrored = self.swapped[:, None, None, None], self.mirrored[:, None, None, None]
        turned = np.where(mirrored, second[..., ::-1], second)
        return np.where(swapped, turned, first), np.where(swapped, first, turned)


def coarse_windows(first: FloatArray, second: FloatArray) -> tuple[FloatArray, IntArray]:
    """The best correlation (P,) of each pair of gray thumbnails (P, SIDE, SIDE), and its window, int64 (P, 5).

    The window as (side, swapped, mirrored, top, left), in steps of 1 / COARSE.
    """
    best, windows = np.full(len(first), -1, np.float32), np.zeros((len(first), 5), np.int64)
    for swapped, (within, other) in enumerate(((first, second), (second, first))):
        images = _shrink(within, COARSE)
        for side in SIDES[swapped:]:  # the same frame either way
            scores = window_correlations(images, _shrink(other, side))
            place = scores.argmax(1)
            score = scores[np.arange(len(scores)), place]
            mirrored, top, left = np.unravel_index(place, (2, COARSE - side + 1, COARSE - side + 1))
            if swapped:  # what was turned is the template, in place of the image
                left = np.where(mirrored, COARSE - side - left, left)
            found = np.stack([np.full(len(place), side), np.full(len(place), swapped), mirrored, top, left], 1)
            better = score > best
            best[better], windows[better] = score[better], found[better]
    return best, windows


def window_correlations(images: FloatArray, templates: FloatArray) -> FloatArray:
    """Pearson's correlations of templates (P, t, t) with all windows of their images (P, n, n), as (P, 2 (n - t + 1) squared).

    Window by window, row by row; then the same with the templates turned left to right.
    """
    count, side = templates.shape[:2]
    free = images.shape[1] - side + 1
    windows = np.lib.stride_tricks.sliding_window_view(images, (side, side), (1, 2)).reshape(count, free * free, side * side)
    variances = np.square(windows).sum(2) - np.square(windows.sum(2)) / side**2
    both = np.stack([_centered(templates), _centered(templates[:, :, ::-1])], 1)
    lengths = np.sqrt(np.square(both[:, 0]).sum(1)) + 1e-3
    products = both @ windows.swapaxes(1, 2)
    scores: FloatArray = products / (np.sqrt(np.maximum(variances, 1e-3))[:, None] * lengths[:, None, None])
    return scores.reshape(count, 2 * free * free)


def finest_windows(first: FloatArray, second: FloatArray, coarse: IntArray) -> Windows:
    """The windows of pairs of gray thumbnails (P, SIDE, SIDE), from their coarse ones (P, 5).

    They are moved and stretched by Gauss and Newton's steps towards the greatest correlation (Evangelidis and Psarakis 2008,
    "Parametric Image Alignment Using Enhanced Correlation Coefficient Maximization").
    """
    sides, tops, lefts = coarse[:, 0], coarse[:, 3], coarse[:, 4]
    places = np.stack([tops, tops + sides, lefts, lefts + sides], 1) / COARSE
    swapped, mirrored = coarse[:, 1].astype(bool), coarse[:, 2].astype(bool)
    larger, smaller = Windows(places, swapped, mirrored).ordered(first[:, None], second[:, None])
    moved = places
    for side in (COARSE, MIDDLE):
        targets = _centered(_shrink(smaller, side))
        moved = _climb(larger, targets, moved, side)
    before, after = (_scores(larger, targets, each, MIDDLE) for each in (places, moved))
    stays = (sides == COARSE) & (after - before < WORTH)  # text that is laid over an image pulls at its frame, too
    return Windows(np.where(stays[:, None], places, moved), swapped, mirrored)


def _climb(larger: FloatArray, targets: FloatArray, places: Places, side: int) -> Places:
    """``places`` (P, 4) of images (P, 1, SIDE, SIDE) moved to where they correlate most with ``targets`` (P, side side)."""
    places, best = places.copy(), np.full(len(places), -1.0)
    steps, share = np.zeros_like(places), np.ones((len(places), 1))
    moving = np.arange(len(places))
    for _ in range(ROUNDS):
        tried = np.clip(places[moving] + share[moving] * steps[moving], 0, 1)
        cuts = _cut(larger[moving], tried, side)
        scores = _cosines(_centered(cuts), targets[moving])
        scores[(tried[:, 1::2] - tried[:, ::2]).min(1) < SMALLEST] = -1
        better = scores > best[moving] + GROWS
        share[moving] = np.where(better[:, None], 1, share[moving] / 4)  # too long a step is taken in part
        moved = moving[better]
        best[moved], places[moved] = scores[better], tried[better]
        steps[moved] = _steps(cuts[better, 0], targets[moved], places[moved])
        moving = moving[share[moving, 0] > LEAST_SHARE]
    return places


def _scores(larger: FloatArray, targets: FloatArray, places: Places, side: int) -> FloatArray:
    return _cosines(_centered(_cut(larger, places, side)), targets)


def correlations(a: FloatArray, b: FloatArray) -> FloatArray:
    """Pearson's (P,), of images (P, n, n); a level of noise keeps two blank ones apart from two alike."""
    return _cosines(_centered(a), _centered(b))


def _steps(cuts: FloatArray, targets: FloatArray, places: Places) -> Places:
    """How to change ``places`` (P, 4) so that their ``cuts`` (P, n, n) correlate most with ``targets`` (P, n n)."""
    n = cuts.shape[1]
    along = (np.arange(n, dtype=np.float32) + 0.5) / n
    sides = (places[:, 1::2] - places[:, ::2]).astype(np.float32)[:, :, None, None]
    down, right = (np.gradient(cuts, 1 / n, axis=axis) / sides[:, axis - 1] for axis in (1, 2))
    shares = along[::-1, None], along[:, None], along[::-1], along  # how far each edge takes a pixel with it
    slopes = np.stack([_centered(down * shares[0]), _centered(down * shares[1]), *(_centered(right * k) for k in shares[2:])], 1)
    rows = _centered(cuts)
    both = np.stack([rows, targets], 2)
    normal: Places = (slopes @ slopes.swapaxes(1, 2)).astype(np.float64) + RIDGE * np.eye(4)
    step = _step(normal, slopes @ both, both)
    outside = ((places <= 0) & (step < 0)) | ((places >= 1) & (step > 0))
    step = _step(normal + FIXED * outside[:, None] * np.eye(4), slopes @ both, both)
    return np.clip(step, -1 / COARSE, 1 / COARSE)


def _step(normal: Places, slopes: FloatArray, images: FloatArray) -> Places:
    """The step (P, 4) for normal matrices (P, 4, 4), slopes times images (P, 4, 2), and images (P, n n, 2): cut and target."""
    solved = np.linalg.solve(normal, slopes)
    explained = slopes.swapaxes(1, 2) @ solved  # of the cut and of the target, by the slopes
    products = images.swapaxes(1, 2) @ images
    left, shared = (products[:, 0, k] - explained[:, 0, k] for k in (0, 1))
    contrast = np.where(shared > 0, left / np.maximum(shared, 1e-9), 1.0)  # what the target is to be multiplied by
    step: Places = contrast[:, None] * solved[:, :, 1] - solved[:, :, 0]
    return step


def _centered(images: FloatArray) -> FloatArray:
    """Images (P, ...) as rows (P, N) of mean zero."""
    rows = images.reshape(len(images), np.prod(images.shape[1:], dtype=int))
    centered: FloatArray = rows - rows.mean(1, keepdims=True)
    return centered


def _cosines(a: FloatArray, b: FloatArray) -> FloatArray:
    cosines: FloatArray = (a * b).sum(1) / np.sqrt(((a * a).sum(1) + 1) * ((b * b).sum(1) + 1))
    return cosines


def _cut(images: FloatArray, places: Places, side: int) -> FloatArray:
    """What ``places`` (P, 4) of images (P, C, SIDE, SIDE) show, as (P, C, side, side)."""
    rows, columns = (_resamplers(places[:, k], places[:, k + 1], side)[:, None] for k in (0, 2))
    return np.asarray(rows @ images @ columns.swapaxes(2, 3), np.float32)


def _shrink(images: FloatArray, side: int) -> FloatArray:
    matrix = _resamplers(np.zeros(1), np.ones(1), side)[0]
    return np.asarray(matrix @ images @ matrix.T, np.float32)


def _resamplers(starts: Places, ends: Places, side: int) -> FloatArray:
    """Matrices (P, side, SIDE) that take windows of a row of SIDE px to ``side`` px: means over areas, or between pixels."""
    lengths = ends - starts
    edges = (starts[:, None] + lengths[:, None] * np.arange(side + 1) / side) * SIDE
    low, high, pixels = edges[:, :-1, None], edges[:, 1:, None], np.arange(SIDE)
    areas = np.minimum(high, pixels + 1) - np.maximum(low, pixels)
    between = 1 - np.abs(np.clip((low + high) / 2 - 0.5, 0, SIDE - 1) - pixels)
    shares = np.maximum(np.where((lengths * SIDE >= side)[:, None, None], areas, between), 0)
    matrices: FloatArray = (shares / shares.sum(2, keepdims=True)).astype(np.float32)
    return matrices
