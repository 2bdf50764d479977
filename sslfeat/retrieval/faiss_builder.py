"""Incremental construction of a FAISS index, and its file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sslfeat.numerics.arrays import FloatArray, IntArray
from sslfeat.retrieval.faiss_io import FlatFile, read_faiss
from sslfeat.retrieval.ground_truth import scores_of
from sslfeat.retrieval.index_types import IndexSpec, Settings, empty, parameters
from sslfeat.retrieval.shards import whole
from sslfeat.retrieval.vectors import BLOCK

VECTORS_NAME = "vectors.faiss"  # exact vectors, during construction
WRITTEN_AT_ONCE = 8 << 20
OWN = 1  # extra results, since a query may be a row itself
Found = tuple[FloatArray, IntArray]


class Builder:
    """Builds an index from blocks of prepared vectors. Exact vectors of ``flat`` and of refined codes are written to ``work``.

    Rows are numbered in order of arrival. Rows can be kept out of the index to serve as queries for measuring
        until they are added by ``let_in``, with unchanged numbers. A builder can ``rest`` in a file.
    """

    def __init__(
        self, spec: IndexSpec, dim: int, metric: str, work: Path, sample: FloatArray | None = None, trained: Any = None
    ) -> None:
        """Trains on ``sample`` (N, ``dim``), except for ``flat`` and ``hnsw``, or uses the ``trained`` index."""
        self.spec, self.dim, self.metric, self.work, self.count = spec, dim, metric, work, 0
        self._file = FlatFile(work / VECTORS_NAME, dim, metric) if spec.kind == "flat" or spec.refines else None
        self._index: Any = trained
        if spec.kind != "flat" and sample is not None:
            self._index = empty(spec, dim, metric, sample)
        self._order: list[IntArray] = []  # row numbers of a graph, which stores rows in order of arrival
        self._out = np.empty((0, dim), np.float32), np.empty(0, np.int64), np.empty(0)  # rows, numbers, lots
        self._resting: Path | None = None

    @classmethod
    def resting(cls, path: Path, spec: IndexSpec, dim: int, metric: str, work: Path) -> Builder:
        """Builder of the verified index file at ``path``, resting; the file is not modified."""
        builder = cls.__new__(cls)
        builder.spec, builder.dim, builder.metric, builder.work, builder._file = spec, dim, metric, work, None
        builder._resting, builder._index = path, read_faiss(path)
        builder.count = builder._index.ntotal
        builder._order = [np.arange(builder.count)]
        builder._out = np.empty((0, dim), np.float32), np.empty(0, np.int64), np.empty(0)
        return builder

    @classmethod
    def of(cls, path: Path, spec: IndexSpec, dim: int, metric: str, work: Path) -> Builder:
        """Continue the verified index file at ``path``, which is not modified."""
        builder = cls.resting(path, spec, dim, metric, work)
        builder.wake()
        return builder

    def rest(self, path: Path) -> None:
        """Write the index to ``path`` and read it from there; only kept-out rows remain in memory."""
        self._save(path)
        self._resting, self._file, self._index = path, None, read_faiss(path)

    def wake(self) -> None:
        """Continue after a rest; the file is not modified."""
        import faiss

        if self._resting is None:
            return
        index, path, self._resting = self._index, self._resting, None
        if self.spec.kind != "flat" and not self.spec.refines:
            self._index = read_faiss(path, mapped=False)
            return
        self._file, self._index, exact = FlatFile(self.work / VECTORS_NAME, self.dim, self.metric), None, index
        if self.spec.refines:
            exact = faiss.downcast_index(index.refine_index)
            self._index = faiss.deserialize_index(faiss.serialize_index(faiss.downcast_index(index.base_index)))
        for start in range(0, index.ntotal, BLOCK):
            self._file.add(exact.reconstruct_n(start, min(BLOCK, index.ntotal - start)))

    @property
    def rests(self) -> bool:
        """Whether the index is in a file."""
        return self._resting is not None

    @property
    def kept_out(self) -> FloatArray:
        """The rows that are kept out, (n, D), by their lots."""
        return self._out[0]

    @property
    def lots(self) -> npt.NDArray[np.float64]:
        """Lots (n,) of the kept-out rows, ascending."""
        return self._out[2]

    def add(self, rows: FloatArray, lots: npt.NDArray[np.float64] | None = None) -> None:
        """Append prepared rows (N, ``dim``); those whose lot, (N,), is not NaN are kept out."""
        numbers = np.arange(self.count, self.count + len(rows))
        self.count += len(rows)
        if self._file is not None:
            self._file.add(rows)
        if self._index is None:
            return
        if lots is not None:
            out = ~np.isnan(lots)
            together = zip(self._out, (rows[out], numbers[out], lots[out]), strict=True)
            kept, numbers_kept, lots_kept = (np.concatenate([before, new]) for before, new in together)
            order = np.argsort(lots_kept)
            self._out = kept[order], numbers_kept[order], lots_kept[order]
            rows, numbers = rows[~out], numbers[~out]
        self._insert(rows, numbers)

    def let_in(self, but: int = 0) -> FloatArray:
        """Add the kept-out rows except the ``but`` lowest lots; returns them, (n, D)."""
        rows, numbers, lots = self._out
        self._out = rows[:but], numbers[:but], lots[:but]
        order = np.argsort(numbers[but:])
        self._insert(rows[but:][order], numbers[but:][order])
        return rows[but:]

    def open(self) -> Any:
        """The current index; do not add rows while it is in use."""
        import faiss

        if self._file is None or self._resting is not None:
            return self._index
        exact = self._file.open()
        if self._index is None:
            return exact
        refined = faiss.IndexRefineFlat(faiss.IndexFlat(exact.d, exact.metric_type))  # empty, because vectors would be copied
        refined.own_refine_index = False
        refined.base_index, refined.refine_index, refined.ntotal = self._index, exact, exact.ntotal
        refined.referenced_objects = [self._index, exact]  # FAISS keeps bare pointers to them
        return refined

    def inside(self) -> Iterator[FloatArray]:
        """Yield the vectors in the index, without kept-out ones, in blocks of any order."""
        import faiss

        if self.spec.kind == "ivf":
            lists = self._index.invlists
            for number in range(lists.nlist):
                if size := lists.list_size(number):
                    codes = faiss.rev_swig_ptr(lists.get_codes(number), size * lists.code_size)
                    yield codes.view(np.float32).reshape(size, self.dim)
            return
        index = self.open()
        exact, _ = whole(index, self.spec)
        out = np.zeros(self.count, bool)
        if self.spec.kind != "hnsw":
            out[self._out[1]] = True
        for start in range(0, exact.ntotal, BLOCK):
            rows = exact.reconstruct_n(start, min(BLOCK, exact.ntotal - start))
            yield rows[~out[start : start + len(rows)]]

    def write(self, path: Path) -> None:
        """Write the FAISS file with rows in order of their numbers; the builder cannot be used afterwards."""
        self.wake()
        self.let_in()
        if self.spec.kind == "hnsw":
            places = np.argsort(np.concatenate(self._order))
            self._index.permute_entries(places)
        self._save(path)

    def _save(self, path: Path) -> None:
        import faiss

        if self._file is not None and self._index is None:
            self._file.path.replace(path)
            return
        written = path.with_suffix(".new")  # the file at path may be in use
        with written.open("wb") as file:
            faiss.write_index(self.open(), faiss.PyCallbackIOWriter(file.write, WRITTEN_AT_ONCE))
        written.replace(path)
        self.discard()

    def discard(self) -> None:
        """Remove its files in ``work``."""
        if self._file is not None:
            self._file.path.unlink()
        if self._resting is not None and self._resting.parent == self.work:
            self._resting.unlink()

    def _insert(self, rows: FloatArray, numbers: IntArray) -> None:
        if self._index is None or not len(rows):
            return
        if self.spec.kind == "hnsw":
            self._order.append(numbers)
            self._index.add(rows)
        else:
            self._index.add_with_ids(rows, numbers)


def nearest(index: Any, spec: IndexSpec, settings: Settings, queries: FloatArray, depth: int, metric: str) -> Found:
    """Scores (greater is nearer) and rows, (Q, ``depth`` + OWN), of prepared ``queries``; row -1 where there is none."""
    k = depth + OWN
    distances, rows = index.search(queries, k, params=parameters(spec, settings, k))
    return scores_of(distances, metric), rows
