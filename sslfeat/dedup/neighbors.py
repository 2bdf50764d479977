"""Nearest rows of each row: exact, or for many rows within inverted lists, which find nearly all close rows.

A list contains the rows nearest to its center; each row is compared with the rows of a few lists, one list at a time, as a
matrix product. The number of lists is chosen on a sample of rows with exact neighbors, such that a fraction FOUND of close
rows is found. If that is a large share of all lists, search is exhaustive.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from sslfeat.numerics.arrays import FloatArray, IntArray
from sslfeat.numerics.kmeans import centers
from sslfeat.numerics.similarity import first_of

MANY = 100_000  # rows that can be compared exhaustively in minutes
QUERIES, BLOCK = 4096, 131_072  # block sizes: exact, and within lists
SAMPLE, FOUND = 1000, 0.98  # sample size, and fraction to find; copies are found more often: benchmarks/duplicates.py
FEWEST, TOO_MANY = 8, 1 / 8  # maximum lists to search; fraction from which exhaustive search is as fast
POINTS_A_LIST, SEED = 64, 0

Block = tuple[int, IntArray, FloatArray]


def nearest(units: FloatArray, most: int, least: float) -> Iterator[Block]:
    """Yield blocks of (first row, neighbors (n, k), cosines (n, k)) for unit rows (N, D); a row is its own neighbor.

    At most ``most`` nearest others with a cosine of at least ``least``; -1 for missing ones.
    """
    k = min(most + 1, len(units))
    if len(units) <= MANY:
        return _exact(units, k)
    lists, probes = learn(units, k, least)
    return _exact(units, k) if probes > TOO_MANY * len(lists) else within_lists(units, lists, probes, k)


def learn(units: FloatArray, k: int, least: float) -> tuple[FloatArray, int]:
    """Centers (L, D) of lists, and the number of nearest lists to search per row."""
    count = 2 ** round(math.log2(4 * math.sqrt(len(units))))
    rng = np.random.default_rng(SEED)
    learned = units[np.sort(rng.permutation(len(units))[: POINTS_A_LIST * count])]
    lists = centers(learned, count, SEED, iterations=10, points_a_center=POINTS_A_LIST, spherical=True)
    return lists, lists_needed(units, lists, np.sort(rng.permutation(len(units))[:SAMPLE]), k, least)


def lists_needed(units: FloatArray, lists: FloatArray, sample: IntArray, k: int, least: float) -> int:
    """Number of nearest ``lists`` (L, D) to search to find a fraction FOUND of the close rows of ``sample``."""
    cosines, neighbors = _knn(units[sample], units, k)
    place, rank = np.nonzero((cosines >= least) & (neighbors != sample[:, None]))
    if not len(place):
        return FEWEST
    scores = units[sample] @ lists.T
    theirs = _knn(units[neighbors[place, rank]], lists, 1)[1][:, 0]
    before = (scores[place] > scores[place, theirs][:, None]).sum(1)
    return max(FEWEST, int(np.quantile(before, FOUND, method="higher")) + 1)


def within_lists(units: FloatArray, lists: FloatArray, probes: int, k: int) -> Iterator[Block]:
    """As ``nearest``, within the ``probes`` nearest of ``lists`` (L, D)."""
    blocks = range(0, len(units), BLOCK)
    own = np.concatenate([_knn(units[start : start + BLOCK], lists, 1)[1][:, 0] for start in blocks])
    members = _places(own, len(lists))
    for start in blocks:
        rows = units[start : start + BLOCK]
        best = np.full((len(rows), k), -np.inf, np.float32)
        found = np.full((len(rows), k), -1, np.int64)
        visitors = _places(_knn(rows, lists, probes)[1].ravel(), len(lists))
        for inside, places in zip(members, visitors, strict=True):
            if not len(inside) or not len(places):
                continue
            here = places // probes
            cosines, numbers = _knn(rows[here], units[inside], min(k, len(inside)))
            together = np.hstack([best[here], cosines]), np.hstack([found[here], inside[numbers]])
            best[here], found[here] = first_of(*together, k)
        yield start, found, best


def _places(numbers: IntArray, count: int) -> list[IntArray]:
    """Positions of the numbers 0 to ``count`` in ``numbers``."""
    order = np.argsort(numbers, kind="stable")
    return np.split(order, np.searchsorted(numbers[order], np.arange(1, count)))


def _exact(units: FloatArray, k: int) -> Iterator[Block]:
    for start in range(0, len(units), QUERIES):
        cosines, neighbors = _knn(units[start : start + QUERIES], units, k)
        yield start, neighbors, cosines


def _knn(queries: FloatArray, rows: FloatArray, k: int) -> tuple[FloatArray, IntArray]:
    import faiss

    cosines, numbers = faiss.knn(queries, rows, k, metric=faiss.METRIC_INNER_PRODUCT)
    return cosines, numbers
