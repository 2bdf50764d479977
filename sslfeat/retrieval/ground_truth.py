"""Exact neighbors, the reference for recall.

Recall is computed from scores, as in ann-benchmarks: a neighbor is correct if it is as near as the k-th true one, so that
the order of equal images does not matter.
"""

from __future__ import annotations

import numpy as np

from sslfeat.numerics.arrays import FloatArray, IntArray
from sslfeat.numerics.similarity import first_of

K = 10  # most common number of neighbors
STATED = (1, 10, 100)  # numbers of neighbors that recall is stated for
TIES = 1e-5  # tolerance for rounding, relative to the largest score


class Truth:
    """The ``k`` nearest rows of each query among all blocks so far, in descending order of scores.

    ``skip``: number of first results that are the query itself and ignored (``others``).
    """

    skip = 0

    def __init__(self, queries: FloatArray, metric: str, k: int = K) -> None:
        self.queries, self.metric, self.k = queries, metric, k
        self.scores = np.full((len(queries), k), -np.inf, np.float32)
        self.rows = np.full((len(queries), k), -1, np.int64)

    def see(self, block: FloatArray, start: int) -> None:
        """Compare with ``block`` (n, D), whose first row is number ``start``."""
        if not len(block):
            return
        import faiss

        kind = faiss.METRIC_L2 if self.metric == "l2" else faiss.METRIC_INNER_PRODUCT
        distances, nearest = faiss.knn(self.queries, block, min(self.k, len(block)), metric=kind)
        together = np.hstack(
            [self.scores, scores_of(np.maximum(distances, 0) if self.metric == "l2" else distances, self.metric)]
        )
        self.scores, self.rows = first_of(together, np.hstack([self.rows, nearest + start]), self.k)

    def first(self, count: int) -> Truth:
        """Ground truth of the first ``count`` queries."""
        few = Truth(self.queries[:count], self.metric, self.k)
        few.scores, few.rows = self.scores[:count], self.rows[:count]
        return few

    def others(self) -> Truth:
        """Ground truth for queries that are rows, without the query itself."""
        rest = Truth(self.queries, self.metric, self.k - 1)
        rest.scores, rest.rows, rest.skip = self.scores[:, 1:], self.rows[:, 1:], 1
        return rest

    def recall(self, scores: FloatArray, rows: IntArray, k: int | None = None) -> float:
        """Recall of the ``k`` nearest (default: all) for results ``scores`` and ``rows`` (Q, ``k`` or more)."""
        k = k or self.k
        true, scores, rows = self.scores[:, :k], scores[:, :k], rows[:, :k]
        known = np.isfinite(true)
        last = np.where(known, true, np.inf).min(1)
        slack = TIES * max(float(np.abs(true[known]).max(initial=0)), 1e-30)
        found = (rows >= 0) & (scores >= (last - slack)[:, None])
        return float(np.minimum(found.sum(1), known.sum(1)).sum() / max(known.sum(), 1))


def scores_of(distances: FloatArray, metric: str) -> FloatArray:
    """Scores from the distances of FAISS."""
    return -distances if metric == "l2" else distances


def without(scores: FloatArray, rows: IntArray, own: IntArray, k: int) -> tuple[FloatArray, IntArray]:
    """The best ``k`` of results (Q, more than k), without each query's ``own`` row."""
    last = np.argsort(rows == own[:, None], axis=1, kind="stable")[:, :k]
    scores, rows = np.take_along_axis(scores, last, 1), np.take_along_axis(rows, last, 1)
    return scores, np.where(rows == own[:, None], -1, rows)
