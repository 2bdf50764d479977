"""Which pairs of images are worth a look: each image and its nearest neighbors, by whitened features and by plain ones.

Whitening takes away what all images have in common, and makes the directions in which they differ much count less: copies that
are cropped or written on are then found two to three times as often. Where one scene is most of a folder, what is left
after whitening is noise; there the plain features find the copies.
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
FEW = 20  # with so few images there is no distribution to speak of
WHITENED, PLAIN = (10, 0.3), (5, 0.9)  # neighbors of each image, and the least cosine of a neighbor


def distinct(rows: FloatArray) -> FloatArray:
    """Unit vectors (N, D) of whitened features; of few images, less their mean, of very few, as they are."""
    if len(rows) < FEW:
        return unit(rows)
    if len(rows) < ENOUGH:
        return unit(rows - rows.mean(0, dtype=np.float64))
    return unit(whiten(rows, rows.shape[1], SHRINKAGE))


def candidate_pairs(rows: FloatArray, threshold: float | None, step: Step) -> IntArray:
    """Pairs i < j, int64 (P, 2), sorted, of features (N, D) that lie close; at most 15 N, whatever the features are.

    ``threshold`` takes the place of both least cosines.
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
    """For each row of (N, D) the first that is equal to it, int64 (N,)."""
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(row.tobytes(), number) for number, row in enumerate(rows)], np.int64)
