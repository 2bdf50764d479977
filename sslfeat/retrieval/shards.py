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

INNER_PRODUCT = 0  # FAISS's number for it: greater is nearer


class Shards:
    """What a FAISS index of all rows would answer, from ``parts``, FAISS indexes that hold them in order."""

    def __init__(self, parts: Sequence[Any], sizes: Sequence[int] | None = None) -> None:
        """``sizes``: rows that belong to each part, where some are not in it yet."""
        self.parts = list(parts)
        self.ends = np.cumsum(sizes or [part.ntotal for part in self.parts])
        self.starts = [0, *self.ends[:-1].tolist()]
        self.ntotal, self.d, self.metric_type = int(self.ends[-1]), self.parts[0].d, self.parts[0].metric_type
        self._pool = ThreadPoolExecutor(min(len(self.parts), available_cores()))

    def search(self, queries: FloatArray, k: int, params: Any = None) -> tuple[FloatArray, IntArray]:
        """As FAISS has it: distances and rows, (Q, ``k``), nearest first; row -1 where there is none.

        FAISS shares many queries among the cores by itself; of few, each core searches a shard.
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
    """The index in verified files, of consecutive rows; they are read where they lie. Raises RuntimeError, as FAISS does."""
    parts = [read_faiss(path) for path in paths]
    return parts[0] if len(parts) == 1 else Shards(parts)


def parts_of(index: Any) -> list[Any]:
    """The FAISS indexes that an index, in shards or not, is made of."""
    return index.parts if isinstance(index, Shards) else [index]


def whole(index: Any, spec: IndexSpec) -> tuple[Any, Any]:
    """What of an ``index`` compares with every vector, so is exact, and its parameters."""
    import faiss

    if isinstance(index, Shards):
        return Shards([whole(part, spec)[0] for part in index.parts]), whole(index.parts[0], spec)[1]
    if spec.kind == "hnsw":
        return faiss.downcast_index(index.storage), None
    if spec.kind == "ivf":
        return index, faiss.SearchParametersIVF(nprobe=spec.nlist)
    return (faiss.downcast_index(index.refine_index), None) if spec.refines else (index, None)
