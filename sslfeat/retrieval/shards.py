"""Indexes of consecutive rows, searched as one: in parallel, and merged exactly."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from sslfeat.numerics.arrays import FloatArray, IntArray
from sslfeat.retrieval.faiss_io import read_faiss
from sslfeat.retrieval.index_types import IndexSpec, one_thread
from sslfeat.system.cores import available_cores

INNER_PRODUCT = 0  # constant of FAISS; greater is nearer


class Shards:
    """Equivalent of one FAISS index of all rows, made of FAISS indexes ``parts`` in order."""

    def __init__(self, parts: Sequence[Any], sizes: Sequence[int] | None = None) -> None:
        """``sizes``: rows of each part, including rows not added yet."""
        self.parts = list(parts)
        self.ends = np.cumsum(sizes or [part.ntotal for part in self.parts])
        self.starts = [0, *self.ends[:-1].tolist()]
        self.ntotal, self.d, self.metric_type = int(self.ends[-1]), self.parts[0].d, self.parts[0].metric_type
        self._pool = ThreadPoolExecutor(min(len(self.parts), available_cores()))

    def search(self, queries: FloatArray, k: int, params: Any = None) -> tuple[FloatArray, IntArray]:
        """Distances and rows, (Q, ``k``), nearest first, as FAISS; row -1 for missing results.

        FAISS distributes many queries over cores; for few queries, each core searches a shard.
        """

        def search(part: Any) -> tuple[FloatArray, IntArray]:
            with one_thread() if few else contextlib.nullcontext():
                distances, rows = part.search(queries, k, params=params)
                return distances, rows

        few = len(queries) < available_cores()
        found = list((self._pool.map if few else map)(search, self.parts))
        distances = np.hstack([part for part, _ in found])
        rows = np.hstack([np.where(part >= 0, part + start, -1) for (_, part), start in zip(found, self.starts, strict=True)])
        farness = np.where(rows >= 0, -distances if self.metric_type == INNER_PRODUCT else distances, np.inf)
        order = np.argsort(farness, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(distances, order, 1), np.take_along_axis(rows, order, 1)

    def reconstruct_batch(self, rows: IntArray) -> FloatArray:
        """The vectors of ``rows``, float32 (n, D)."""
        found = np.empty((len(rows), self.d), np.float32)
        places = np.searchsorted(self.ends, rows, side="right")
        for number in np.unique(places):
            here = places == number
            found[here] = self.parts[number].reconstruct_batch(np.ascontiguousarray(rows[here] - self.starts[number]))
        return found


def open_shards(paths: Sequence[Path]) -> Any:
    """Open verified files of consecutive rows, memory-mapped. Raises RuntimeError, as FAISS."""
    parts = [read_faiss(path) for path in paths]
    return parts[0] if len(parts) == 1 else Shards(parts)


def parts_of(index: Any) -> list[Any]:
    """The FAISS indexes of a sharded or single index."""
    return index.parts if isinstance(index, Shards) else [index]


def whole(index: Any, spec: IndexSpec) -> tuple[Any, Any]:
    """The exhaustive part of an ``index`` and its search parameters."""
    import faiss

    if isinstance(index, Shards):
        return Shards([whole(part, spec)[0] for part in index.parts]), whole(index.parts[0], spec)[1]
    if spec.kind == "hnsw":
        return faiss.downcast_index(index.storage), None
    if spec.kind == "ivf":
        return index, faiss.SearchParametersIVF(nprobe=spec.nlist)
    return (faiss.downcast_index(index.refine_index), None) if spec.refines else (index, None)
