"""Searching an opened FAISS index at increasing depth, and exhaustively if that is not enough.

Rows that meet a condition are selected from the nearest rows. If there are enough, these are the
results; otherwise the search is repeated at greater depth, and finally all allowed rows are compared. Conditions
need not be independent of the query, and results do not depend on removed rows.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from sslfeat.numerics.arrays import FloatArray, IntArray
from sslfeat.numerics.similarity import first_of
from sslfeat.retrieval.faiss_builder import OWN, Found
from sslfeat.retrieval.ground_truth import Truth, scores_of
from sslfeat.retrieval.index_types import IndexSpec, one_thread, parameters
from sslfeat.retrieval.shards import Shards, parts_of, whole
from sslfeat.retrieval.tuning import Levels
from sslfeat.retrieval.vectors import BLOCK
from sslfeat.system.cores import available_cores

NEARER = 0.5  # fraction of the found rows that is used: the farthest have lower recall
SOON = 20  # rows compared in the time of finding one by search
SHARED_ROWS = 50_000  # number of rows from which cores share a query


class Searcher:
    """A FAISS index with its spec and tuned settings."""

    def __init__(self, index: Any, spec: IndexSpec, levels: Levels, metric: str) -> None:
        self.index, self.spec, self.levels, self.metric = index, spec, levels, metric
        self._mapped = False
        self._parameters: dict[int, Any] = {}  # by depth; cached, since creating them takes as long as a search
        self._whole = whole(index, spec)

    def nearest(self, queries: FloatArray, k: int, mask: npt.NDArray[np.bool_] | None = None) -> Found:
        """Scores and rows, (Q, ``k``), of prepared ``queries`` among the rows of ``mask`` (N,), or all; row -1 for none."""
        return self._deeper(queries, k, mask, self._depths(k, mask))

    def vectors(self, rows: IntArray) -> FloatArray:
        """Stored vectors, float32 (n, D)."""
        import faiss

        if self.spec.kind == "ivf" and not self._mapped:
            for part in parts_of(self.index):
                faiss.downcast_index(part).make_direct_map()
            self._mapped = True
        found: FloatArray = self.index.reconstruct_batch(np.ascontiguousarray(rows, np.int64))
        return found

    def _deeper(self, queries: FloatArray, k: int, mask: npt.NDArray[np.bool_] | None, depths: Sequence[int]) -> Found:
        """As ``nearest``, at the first sufficient depth, finally exact."""
        if not depths:
            return self._exact(queries, k, mask)
        scores, rows = self._at(queries, depths[0])
        if mask is None:
            (scores, rows), enough = (scores[:, :k], rows[:, :k]), rows[:, k - 1] >= 0
        else:
            (scores, rows), enough = _allowed(scores, rows, mask, k, depths[0])
        if not enough.all():
            left = np.flatnonzero(~enough)
            scores[left], rows[left] = self._deeper(queries[left], k, mask, depths[1:])
        return scores, rows

    def _depths(self, k: int, mask: npt.NDArray[np.bool_] | None) -> list[int]:
        """Depths to try: none if comparing all allowed rows is faster."""
        if mask is None:
            return [depth for depth in self.levels if depth + OWN >= k]
        allowed = int(np.count_nonzero(mask))
        depths = [depth for depth in self.levels if NEARER * depth * allowed >= k * len(mask)]
        return [] if not depths or allowed < SOON * depths[0] else depths

    def _at(self, queries: FloatArray, depth: int) -> Found:
        if depth not in self._parameters:
            self._parameters[depth] = parameters(self.spec, self.levels[depth], depth + OWN)
        alone = len(queries) == 1 and self.spec.kind != "hnsw"  # splitting it is slower; a plain graph is not split
        with one_thread() if alone else contextlib.nullcontext():
            distances, rows = self.index.search(queries, depth + OWN, params=self._parameters[depth])
        return scores_of(distances, self.metric), rows

    def _exact(self, queries: FloatArray, k: int, mask: npt.NDArray[np.bool_] | None) -> Found:
        if mask is not None:
            return self._among(queries, k, np.flatnonzero(mask))
        exact, params = self._whole
        if (
            not isinstance(exact, Shards)
            and self.spec.kind != "ivf"
            and len(queries) < available_cores()
            and exact.ntotal > SHARED_ROWS
        ):
            return self._shared(exact, queries, k)
        distances, rows = exact.search(queries, k, params=params)
        return scores_of(distances, self.metric), rows

    def _among(self, queries: FloatArray, k: int, rows: IntArray) -> Found:
        truth = Truth(queries, self.metric, k)
        for start in range(0, len(rows), BLOCK):
            truth.see(self.vectors(rows[start : start + BLOCK]), start)
        return truth.scores, np.where(truth.rows >= 0, rows[truth.rows], -1) if len(rows) else truth.rows

    def _shared(self, exact: Any, queries: FloatArray, k: int) -> Found:
        """Split the rows of a single query among cores, since FAISS uses one."""
        import faiss

        cores = available_cores()
        edges = np.linspace(0, exact.ntotal, cores + 1).astype(int)
        chosen = [faiss.SearchParameters(sel=faiss.IDSelectorRange(int(a), int(b))) for a, b in itertools.pairwise(edges)]
        with ThreadPoolExecutor(cores) as pool:
            found = list(pool.map(lambda params: exact.search(queries, k, params=params), chosen))
        scores = np.hstack([scores_of(distances, self.metric) for distances, _ in found])
        rows = np.hstack([rows for _, rows in found])
        return first_of(np.where(rows >= 0, scores, -np.inf), rows, k)


def _allowed(
    scores: FloatArray, rows: IntArray, mask: npt.NDArray[np.bool_], k: int, depth: int
) -> tuple[Found, npt.NDArray[np.bool_]]:
    """The first ``k`` allowed results, and which queries have that many among the nearer ones."""
    good = (rows >= 0) & mask[rows]
    enough = good[:, : int(NEARER * depth)].sum(1) >= k
    first = np.argsort(~good, axis=1, kind="stable")[:, :k]
    scores, rows = np.where(good, scores, np.float32(-np.inf)), np.where(good, rows, -1)
    return (np.take_along_axis(scores, first, 1), np.take_along_axis(rows, first, 1)), enough
