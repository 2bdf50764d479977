"""Alignment of many pairs of thumbnails: same frame, crop, or mirrored.

Thumbnails show the whole image, stretched to a square, so a crop is a window of the other with separate scales per axis. Windows
are first searched on a coarse grid; the one with the highest correlation is then refined.
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
    """For P pairs: the window ``places`` (P, 4) of the larger image that shows the smaller one: top, bottom, left, right.

    ``swapped`` (P,): the first image is the smaller one. ``mirrored`` (P,): the second image is flipped horizontally.
    """

    places: Places
    swapped: npt.NDArray[np.bool_]
    mirrored: npt.NDArray[np.bool_]

    def aligned(self, first: FloatArray, second: FloatArray, side: int) -> tuple[FloatArray, FloatArray]:
        """Common regions of image pairs (P, C, SIDE, SIDE), each as (P, C, side, side)."""
        larger, smaller = self.ordered(first, second)
        return _cut(larger, self.places, side), _shrink(smaller, side)

    def ordered(self, first: FloatArray, second: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The larger and the smaller of images (P, C, SIDE, SIDE), flipped if needed."""
        swapped, mirrored = self.swapped[:, None, None, None], self.mirrored[:, None, None, None]
        turned = np.where(mirrored, second[..., ::-1], second)
        return np.where(swapped, turned, first), np.where(swapped, first, turned)


def coarse_windows(first: FloatArray, second: FloatArray) -> tuple[FloatArray, IntArray]:
    """Maximum correlation (P,) of each pair of gray thumbnails (P, SIDE, SIDE), and its window, int64 (P, 5).

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
    """Pearson correlation of templates (P, t, t) with all windows of images (P, n, n), as (P, 2 (n - t + 1) squared).

    Windows in row-major order; then the same for horizontally flipped templates.
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
    """Refine coarse windows (P, 5) of pairs of gray thumbnails (P, SIDE, SIDE).

    Gauss-Newton steps maximize the correlation (Evangelidis and Psarakis 2008,
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
    stays = (sides == COARSE) & (after - before < WORTH)  # overlaid text also biases the refinement
    return Windows(np.where(stays[:, None], places, moved), swapped, mirrored)


def _climb(larger: FloatArray, targets: FloatArray, places: Places, side: int) -> Places:
    """Refine ``places`` (P, 4) of images (P, 1, SIDE, SIDE) for maximum correlation with ``targets`` (P, side side)."""
    places, best = places.copy(), np.full(len(places), -1.0)
    steps, share = np.zeros_like(places), np.ones((len(places), 1))
    moving = np.arange(len(places))
    for _ in range(ROUNDS):
        tried = np.clip(places[moving] + share[moving] * steps[moving], 0, 1)
        cuts = _cut(larger[moving], tried, side)
        scores = _cosines(_centered(cuts), targets[moving])
        scores[(tried[:, 1::2] - tried[:, ::2]).min(1) < SMALLEST] = -1
        better = scores > best[moving] + GROWS
        share[moving] = np.where(better[:, None], 1, share[moving] / 4)  # shorten a step that is too long
        moved = moving[better]
        best[moved], places[moved] = scores[better], tried[better]
        steps[moved] = _steps(cuts[better, 0], targets[moved], places[moved])
        moving = moving[share[moving, 0] > LEAST_SHARE]
    return places


def _scores(larger: FloatArray, targets: FloatArray, places: Places, side: int) -> FloatArray:
    return _cosines(_centered(_cut(larger, places, side)), targets)


def correlations(a: FloatArray, b: FloatArray) -> FloatArray:
    """Pearson correlation (P,) of images (P, n, n), with a noise level so that blank images do not correlate."""
    return _cosines(_centered(a), _centered(b))


def _steps(cuts: FloatArray, targets: FloatArray, places: Places) -> Places:
    """Update of ``places`` (P, 4) that increases the correlation of ``cuts`` (P, n, n) with ``targets`` (P, n n)."""
    n = cuts.shape[1]
    along = (np.arange(n, dtype=np.float32) + 0.5) / n
    sides = (places[:, 1::2] - places[:, ::2]).astype(np.float32)[:, :, None, None]
    down, right = (np.gradient(cuts, 1 / n, axis=axis) / sides[:, axis - 1] for axis in (1, 2))
    shares = along[::-1, None], along[:, None], along[::-1], along  # derivative of pixel positions by edge
    slopes = np.stack([_centered(down * shares[0]), _centered(down * shares[1]), *(_centered(right * k) for k in shares[2:])], 1)
    rows = _centered(cuts)
    both = np.stack([rows, targets], 2)
    normal: Places = (slopes @ slopes.swapaxes(1, 2)).astype(np.float64) + RIDGE * np.eye(4)
    step = _step(normal, slopes @ both, both)
    outside = ((places <= 0) & (step < 0)) | ((places >= 1) & (step > 0))
    step = _step(normal + FIXED * outside[:, None] * np.eye(4), slopes @ both, both)
    return np.clip(step, -1 / COARSE, 1 / COARSE)


def _step(normal: Places, slopes: FloatArray, images: FloatArray) -> Places:
    """Step (P, 4) from normal matrices (P, 4, 4), gradients times images (P, 4, 2), and images (P, n n, 2): cut and target."""
    solved = np.linalg.solve(normal, slopes)
    explained = slopes.swapaxes(1, 2) @ solved  # projections of cut and target onto the gradients
    products = images.swapaxes(1, 2) @ images
    left, shared = (products[:, 0, k] - explained[:, 0, k] for k in (0, 1))
    contrast = np.where(shared > 0, left / np.maximum(shared, 1e-9), 1.0)  # scale of the target
    step: Places = contrast[:, None] * solved[:, :, 1] - solved[:, :, 0]
    return step


def _centered(images: FloatArray) -> FloatArray:
    """Images (P, ...) as zero-mean rows (P, N)."""
    rows = images.reshape(len(images), np.prod(images.shape[1:], dtype=int))
    centered: FloatArray = rows - rows.mean(1, keepdims=True)
    return centered


def _cosines(a: FloatArray, b: FloatArray) -> FloatArray:
    cosines: FloatArray = (a * b).sum(1) / np.sqrt(((a * a).sum(1) + 1) * ((b * b).sum(1) + 1))
    return cosines


def _cut(images: FloatArray, places: Places, side: int) -> FloatArray:
    """Resample windows ``places`` (P, 4) of images (P, C, SIDE, SIDE) to (P, C, side, side)."""
    rows, columns = (_resamplers(places[:, k], places[:, k + 1], side)[:, None] for k in (0, 2))
    return np.asarray(rows @ images @ columns.swapaxes(2, 3), np.float32)


def _shrink(images: FloatArray, side: int) -> FloatArray:
    matrix = _resamplers(np.zeros(1), np.ones(1), side)[0]
    return np.asarray(matrix @ images @ matrix.T, np.float32)


def _resamplers(starts: Places, ends: Places, side: int) -> FloatArray:
    """Matrices (P, side, SIDE) that resample windows of SIDE px to ``side`` px, by area averages or interpolation."""
    lengths = ends - starts
    edges = (starts[:, None] + lengths[:, None] * np.arange(side + 1) / side) * SIDE
    low, high, pixels = edges[:, :-1, None], edges[:, 1:, None], np.arange(SIDE)
    areas = np.minimum(high, pixels + 1) - np.maximum(low, pixels)
    between = 1 - np.abs(np.clip((low + high) / 2 - 0.5, 0, SIDE - 1) - pixels)
    shares = np.maximum(np.where((lengths * SIDE >= side)[:, None, None], areas, between), 0)
    matrices: FloatArray = (shares / shares.sum(2, keepdims=True)).astype(np.float32)
    return matrices
