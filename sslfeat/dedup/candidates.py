"""Candidate pairs: each image and its nearest neighbors, by whitened and by plain features.

Whitening removes what all images have in common and reduces the weight of directions of large variance: copies that
are cropped or have overlaid text are found two to three times as often. If most of a folder is one scene, whitened features
are noise; plain features then find the copies.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sslfeat.dedup.neighbors import nearest
from sslfeat.numerics.arrays import FloatArray, IntArray
from sslfeat.numerics.pca import whiten
from sslfeat.numerics.similarity import unit

Step = Callable[[str, int, int], None]
ENOUGH = 200  # images to learn the directions of whitening from
SHRINKAGE = 0.1  # of the mean variance, added to each
FEW = 20  # too few images to estimate a distribution
WHITENED, PLAIN = (10, 0.3), (5, 0.9)  # neighbors of each image, and the least cosine of a neighbor


def distinct(rows: FloatArray) -> FloatArray:
    """Unit vectors (N, D) of whitened features; centered only for few images, unchanged for very few."""
    if len(rows) < FEW:
        return unit(rows)
    if len(rows) < ENOUGH:
        return unit(rows - rows.mean(0, dtype=np.float64))
    return unit(whiten(rows, rows.shape[1], SHRINKAGE))


def candidate_pairs(rows: FloatArray, threshold: float | None, step: Step) -> IntArray:
    """Sorted pairs i < j, int64 (P, 2), of close features (N, D); at most 15 N pairs.

    ``threshold`` replaces both minimum cosines.
    """
    found = [np.empty((0, 2), np.int64)]
    spaces = ((distinct(rows), *WHITENED), (unit(rows), *PLAIN))
    for number, (units, most, least) in enumerate(spaces):
        limit = (threshold or least) - 1e-6
        for first, neighbors, cosines in nearest(units, most, limit):
            near = (cosines >= limit) & (neighbors >= 0)
            place, rank = np.nonzero(near)
            other = neighbors[place, rank]
            pairs = np.stack([place + first, other], 1)
            found.append(np.sort(pairs[pairs[:, 0] != pairs[:, 1]], 1))
            step("compared", number * len(rows) + first + len(neighbors), 2 * len(rows))
    return np.unique(np.concatenate(found), axis=0)


def equal_rows(rows: FloatArray) -> IntArray:
    """Index of the first equal row for each row of (N, D), int64 (N,)."""
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(row.tobytes(), number) for number, row in enumerate(rows)], np.int64)
