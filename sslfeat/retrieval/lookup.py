"""Searching an opened FAISS index: the right threads, and exact where few rows are allowed."""

from __future__ import annotations

import contextlib
import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from sslfeat.cores import available_cores
from sslfeat.retrieval.builder import Found, nearest
from sslfeat.retrieval.exact import IntArray, Truth, scores_of
from sslfeat.retrieval.kinds import Plan, Settings, one_thread, parameters
from sslfeat.retrieval.vectors import BLOCK, FloatArray

FEW = 0.05  # of the rows allowed: comparing with them all is exact, and soon done
SHARED_ROWS = 50_000  # from so many on, the cores share a single query


class Lookup:
    """A FAISS index with the plan and the settings that it was tuned to."""

    def __init__(self, index: Any, plan: Plan, settings: Settings, metric: str) -> None:
        self.index, self.plan, self.settings, self.metric = index, plan, settings, metric
        self._mapped = False
        self._parameters: dict[int, Any] = {}  # by k: making them takes as long as a search

    def nearest(self, queries: FloatArray, k: int, mask: npt.NDArray[np.bool_] | None = None) -> Found:
        """Scores and rows, (Q, ``k``), of prepared ``queries`` among the rows of ``mask`` (N,), or all."""
        import faiss

        if mask is None:
            if self.plan.kind == "flat" and len(queries) < available_cores() and self.index.ntotal > SHARED_ROWS:
                return self._shared(queries, k)
            with one_thread() if len(queries) == 1 else contextlib.nullcontext():  # sharing one query takes longer
                if k not in self._parameters:
                    self._parameters[k] = parameters(self.plan, self.settings, k)
                distances, rows = self.index.search(queries, k, params=self._parameters[k])
            return scores_of(distances, self.metric), rows
        share = float(mask.mean()) if mask.size else 0.0
        if share < FEW or (self.plan.kind == "flat" and share < 0.5):
            return self._exact(queries, k, np.flatnonzero(mask))
        selector = faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
        return nearest(self.index, self.plan, self._further(share), queries, k, self.metric, selector)

    def vectors(self, rows: IntArray) -> FloatArray:
        """Stored vectors, float32 (n, D)."""
        import faiss

        if self.plan.kind == "ivf" and not self._mapped:
            faiss.downcast_index(self.index).make_direct_map()
            self._mapped = True
        found: FloatArray = self.index.reconstruct_batch(np.ascontiguousarray(rows, np.int64))
        return found

    def _further(self, share: float) -> Settings:
        """Where only a ``share`` of the rows counts, more must be looked at to find as many."""
        settings = {name: int(np.ceil(value / share)) for name, value in self.settings.items() if name != "k_factor"}
        if "nprobe" in settings:
            settings["nprobe"] = min(settings["nprobe"], self.plan.lists)
        return {**self.settings, **settings}

    def _exact(self, queries: FloatArray, k: int, rows: IntArray) -> Found:
        truth = Truth(queries, self.metric, k)
        for start in range(0, len(rows), BLOCK):
            truth.see(self.vectors(rows[start : start + BLOCK]), start)
        return truth.scores, np.where(truth.rows >= 0, rows[truth.rows], -1) if len(rows) else truth.rows

    def _shared(self, queries: FloatArray, k: int) -> Found:
        """FAISS compares a single query on one core: give every core a stretch of the rows."""
        import faiss

        cores = available_cores()
        edges = np.linspace(0, self.index.ntotal, cores + 1).astype(int)
        selectors = [faiss.IDSelectorRange(int(a), int(b)) for a, b in itertools.pairwise(edges)]
        with ThreadPoolExecutor(cores) as pool:
            found = list(
                pool.map(
                    lambda selector: nearest(self.index, self.plan, {}, queries, k, self.metric, selector), selectors
                )
            )
        scores, rows = np.hstack([part[0] for part in found]), np.hstack([part[1] for part in found])
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, best, 1), np.take_along_axis(rows, best, 1)
