"""A FAISS index while it grows, and its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sslfeat.retrieval.exact import IntArray, scores_of
from sslfeat.retrieval.flat_file import FlatFile
from sslfeat.retrieval.kinds import Plan, Settings, empty, parameters
from sslfeat.retrieval.reading import read_faiss
from sslfeat.retrieval.vectors import BLOCK, FloatArray

VECTORS_NAME = "vectors.faiss"  # the exact vectors, while the index grows
WRITTEN_AT_ONCE = 8 << 20
Found = tuple[FloatArray, IntArray]


class Builder:
    """Takes prepared vectors block by block. Exact vectors of flat and ivfpq go straight to a file in ``work``."""

    def __init__(self, plan: Plan, dim: int, metric: str, work: Path, sample: FloatArray | None = None) -> None:
        """Trained on ``sample`` (N, ``dim``), which ``flat`` and ``hnsw`` do without."""
        self.plan, self.dim, self.metric, self.work = plan, dim, metric, work
        self._file = FlatFile(work / VECTORS_NAME, dim, metric) if plan.kind in ("flat", "ivfpq") else None
        self._index = None
        if plan.kind != "flat" and sample is not None:
            self._index = empty(plan, dim, metric, sample)

    @classmethod
    def of(cls, path: Path, plan: Plan, dim: int, metric: str, work: Path) -> Builder:
        """Go on with the verified index file at ``path``, which stays as it is."""
        import faiss

        builder = cls(plan, dim, metric, work)
        if builder._file is None:
            builder._index = read_faiss(path, mapped=False)
            return builder
        index = read_faiss(path)
        exact = index
        if plan.kind == "ivfpq":
            exact = faiss.downcast_index(index.refine_index)
            builder._index = faiss.deserialize_index(faiss.serialize_index(faiss.downcast_index(index.base_index)))
        for start in range(0, index.ntotal, BLOCK):
            builder._file.add(exact.reconstruct_n(start, min(BLOCK, index.ntotal - start)))
        return builder

    def add(self, rows: FloatArray) -> None:
        """Append prepared rows (N, ``dim``)."""
        if self._file is not None:
            self._file.add(rows)
        if self._index is not None:
            self._index.add(rows)

    def open(self) -> Any:
        """The index as far as it is; nothing may be added while it is in use."""
        import faiss

        if self._file is None:
            return self._index
        exact = self._file.open()
        if self._index is None:
            return exact
        refined = faiss.IndexRefineFlat(
            faiss.IndexFlat(exact.d, exact.metric_type)
        )  # it would copy vectors: given none
        refined.own_refine_index = False
        refined.base_index, refined.refine_index, refined.ntotal = self._index, exact, exact.ntotal
        refined.referenced_objects = [self._index, exact]  # FAISS keeps bare pointers to them
        return refined

    def write(self, path: Path) -> None:
        """Write FAISS's file; the index is of no further use."""
        import faiss

        if self._file is not None and self._index is None:
            self._file.path.replace(path)
            return
        with path.open("wb") as file:
            faiss.write_index(self.open(), faiss.PyCallbackIOWriter(file.write, WRITTEN_AT_ONCE))
        if self._file is not None:
            self._file.path.unlink()


def nearest(
    index: Any, plan: Plan, settings: Settings, queries: FloatArray, k: int, metric: str, selector: Any = None
) -> Found:
    """Scores (greater is nearer) and rows, (Q, ``k``) each, of prepared ``queries``; row -1 where there is none."""
    distances, rows = index.search(queries, k, params=parameters(plan, settings, k, selector))
    return scores_of(distances, metric), rows
