"""An index of embeddings with measured recall, metadata and encoder: build, search, save, load.

>>> index = Index.build("features")                     # doctest: +SKIP
>>> index.save("index")                                 # doctest: +SKIP
>>> for hit in Index.load("index").search(["cat.jpg"], top=5).of(0):  # doctest: +SKIP
...     print(hit.path, hit.score)
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sslfeat.errors import InputError, RetrievalError, UsageError, did_you_mean
from sslfeat.numerics.arrays import FloatArray, IntArray
from sslfeat.retrieval import storage as files
from sslfeat.retrieval.create import Events, build_into, claim, requirements_of
from sslfeat.retrieval.filters import Filter
from sslfeat.retrieval.ground_truth import without
from sslfeat.retrieval.hits import Hit as Hit
from sslfeat.retrieval.hits import Hits as Hits
from sslfeat.retrieval.metadata import Stored
from sslfeat.retrieval.rows import write_ids
from sslfeat.retrieval.searcher import Searcher
from sslfeat.retrieval.vectors import Vectors, as_vectors, prepare
from sslfeat.storage import atomic

if TYPE_CHECKING:
    from sslfeat.data.decode import Source
    from sslfeat.inference.encoder import Encoder


class _Kept:
    """Owner of a temporary folder, which is deleted with it."""


class Index:
    """A searchable index. ``metadata`` is ``index.json``; ``removed`` (N,) marks removed rows."""

    def __init__(self, opened: files.OpenedIndex) -> None:
        """Use ``Index.build`` or ``Index.load``."""
        self._keep: object = None
        self.folder, self.metadata = opened.folder, opened.metadata
        self.ids, self.removed = opened.ids, opened.removed
        self._kept_rows = ~self.removed if self.removed.any() else None  # None: all
        self.spec, self.metric, self.dim = self.metadata.spec, self.metadata.metric, self.metadata.dim
        self._lookup = Searcher(opened.vectors, self.spec, self.metadata.levels(), self.metric)

    @classmethod
    def build(
        cls, features: str | Path | Vectors | npt.ArrayLike, paths: Sequence[str] | None = None, *,
        metric: str = "cosine", recall: float = 0.95, memory: int | None = None, kind: str = "auto", workload: str = "batch",
        events: Events | None = None, max_memory: int | None = None, shards: int | None = None,
    ) -> Index:  # fmt: skip
        """Index a features folder, or vectors (N, D) named ``paths``, in a temporary folder.

        The kind is selected by measurements (``selection.py``): the fastest with the given ``recall`` within ``memory`` bytes
        (default: half of the free memory), for ``batch`` or ``single`` queries. Building uses at most
        ``max_memory`` bytes (default: most of the free memory): a larger index is built in shards, as many as needed, or
        ``shards``.
        Raises InputError, FeaturesError, RetrievalError.
        """
        requirements = requirements_of(recall, memory, kind, workload, max_memory, shards)
        out, keep = _temporary()
        build_into(out, as_vectors(features, paths), metric, requirements, events or Events())
        index = cls.load(out)
        index._keep = keep
        return index

    @classmethod
    def load(cls, folder: str | Path) -> Index:
        """Open an index folder; every file is verified first. Raises RetrievalError."""
        return cls(files.OpenedIndex.load(Path(folder)))

    def save(self, folder: str | Path, overwrite: bool = False) -> None:
        """Write the index to a folder. Raises RetrievalError if it contains other files, or is locked."""
        folder = Path(folder)
        with atomic.exclusive(folder, RetrievalError):
            claim(folder, overwrite)
            with files.update(folder) as work:
                for name in self.metadata.vector_files:
                    shutil.copyfile(self.folder / name, work / name)
                write_ids(work / files.IDS, self.columns, self.removed)
                files.commit_update(folder, self.metadata)

    @property
    def meta(self) -> dict[str, Any]:
        """Contents of ``index.json``."""
        return self.metadata.plain()

    @property
    def columns(self) -> pa.Table:
        """Table of the rows: path, sha256, width, height, label and metadata."""
        return self.ids.table

    def __repr__(self) -> str:
        recall = self.metadata.figures.recall
        return f"Index({self.spec.factory}, {len(self)} x {self.dim}, {self.metric}, recall at 10 {recall:.3f})"

    def __len__(self) -> int:
        """Number of rows that are not removed."""
        return len(self.removed) - int(self.removed.sum())

    def search(
        self, queries: npt.ArrayLike | Iterable[Source] | Source, top: int = 10, *, where: str | Sequence[str] = (),
        min_score: float | None = None, exclude: Sequence[int] | IntArray | None = None, encoder: Encoder | None = None,
    ) -> Hits:  # fmt: skip
        """The ``top`` nearest rows of each query.

        ``queries`` are vectors, (Q, D) or (D,), or images, embedded with the encoder of the index (``encoder`` if given; it
        must be the same). ``where``: one or several conditions (``filters.py``); ``exclude``: one row per query to
        exclude, such as the query itself (-1: none); ``min_score``: minimum score. Raises InputError, ImageError,
        RetrievalError.
        """
        if top < 1:
            raise UsageError(f"top is {top}, but must be at least 1")
        vectors = prepare(self._vectors(queries, encoder), self.metric)
        own = None if exclude is None else np.asarray(exclude, np.int64)
        if own is not None and own.shape != (len(vectors),):
            raise InputError(f"exclude has shape {own.shape}, expected one row number or -1 for each of {len(vectors)} queries")
        conditions = Filter(where)
        mask, count = self._mask(conditions) if where else self._kept_rows, len(self.removed)
        scores, rows = self._lookup.nearest(vectors, min(top + (own is not None), count), mask)
        if own is not None:
            scores, rows = without(scores, rows, own, top)
        if self.metric == "l2":
            scores = -np.sqrt(np.maximum(-scores, 0))
        elif self.metric == "cosine":
            scores = np.clip(scores, -1, 1)  # rounding
        if min_score is not None:
            rows = np.where(scores >= min_score, rows, -1)
        if rows.size and rows.min() < 0:
            scores = np.where(rows >= 0, scores, np.float32(-np.inf))
        return Hits(scores, rows, self.ids, conditions.notes())

    def rows(self, where: str | Sequence[str] = ()) -> tuple[IntArray, tuple[str, ...]]:
        """Rows (n,) that meet the conditions ``where`` (``filters.py``), ascending, and notes on the conditions.

        Raises InputError for an invalid condition.
        """
        conditions = Filter(where)
        mask = self._mask(conditions) if where else ~self.removed
        return np.flatnonzero(mask), conditions.notes()

    def _mask(self, conditions: Filter) -> npt.NDArray[np.bool_]:
        """Which rows (N,) meet the conditions and are not removed; removed rows do not count for notes."""
        met, start = [], 0
        for rows in self.ids.parts():
            there = None if self._kept_rows is None else self._kept_rows[start : start + len(rows)]
            met.append(conditions.met(rows, there))
            start += len(rows)
        mask = np.concatenate(met)
        return mask if self._kept_rows is None else mask & self._kept_rows

    def row_of(self, path: str) -> int:
        """Row number of ``path``. Raises InputError."""
        row = self.ids.row_of(path)
        if row < 0:
            near = self.ids.ending_with(path)
            cure = f"did you mean {near[0]!r}?" if len(near) == 1 else did_you_mean(path, self.ids.like(path), 0.0)
            raise InputError(
                f"{path} is not in the index {self.folder}, which has {len(self)} images with paths as they were embedded", cure
            )
        return row

    def vectors(self, rows: Sequence[int] | IntArray) -> FloatArray:
        """The stored vectors of rows, float32 (n, D); for ``cosine`` of unit length."""
        return self._lookup.vectors(np.asarray(rows, np.int64))

    def add(self, features: str | Path | Vectors | npt.ArrayLike, paths: Sequence[str] | None = None) -> None:
        """Add rows, replacing rows of the same path. The index folder is updated."""
        from sslfeat.retrieval.maintenance import change  # not needed for searching

        change(self.folder, as_vectors(features, paths))
        self._reload()

    def remove(self, paths: Iterable[str]) -> int:
        """Remove rows by path; returns their number. The index folder is updated."""
        from sslfeat.retrieval.maintenance import remove

        changes = remove(self.folder, set(paths))
        self._reload()
        return changes.removed

    def _reload(self) -> None:
        keep = self._keep
        self.__dict__ = Index.load(self.folder).__dict__
        self._keep = keep

    def _vectors(self, queries: Any, encoder: Encoder | None) -> FloatArray:
        if not _are_vectors(queries):
            from sslfeat.retrieval.query_encoder import embed

            return embed(self.metadata.encoder, queries, encoder)
        try:
            vectors = np.asarray(queries, np.float32)
        except (ValueError, TypeError) as error:
            raise InputError(f"queries must be vectors of dimension {self.dim}, or images: {error}") from error
        vectors = vectors.reshape(0, self.dim) if not vectors.size else np.atleast_2d(vectors)
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise InputError(f"queries have shape {vectors.shape}, but the index has dimension {self.dim}")
        if not np.isfinite(vectors).all():
            raise InputError("a query has non-finite values")
        return vectors

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the path and hashes of an index folder, or the files of a temporary index."""
        if self._keep is None:
            return _reopened, (str(self.folder.resolve()), self.metadata.files)
        return _unpacked, ({name: (self.folder / name).read_bytes() for name in (*self.metadata.files, files.META)},)


def _are_vectors(queries: Any) -> bool:
    """Whether queries are numeric vectors instead of images or paths."""
    if hasattr(queries, "__array__"):
        return bool(np.asarray(queries).dtype != np.uint8)
    if not isinstance(queries, list | tuple):
        return False
    return not queries or isinstance(queries[0], int | float | np.number) or _are_vectors(queries[0])


def _reopened(folder: str, recorded: dict[str, Stored]) -> Index:
    index = Index.load(folder)
    if index.metadata.files != recorded:
        raise RetrievalError(f"{folder} is not the index any more that was pickled: it has changed since")
    return index


def _unpacked(contents: dict[str, bytes]) -> Index:
    out, keep = _temporary()
    for name, data in contents.items():
        (out / name).write_bytes(data)
    index = Index.load(out)
    index._keep = keep
    return index


def _temporary() -> tuple[Path, _Kept]:
    """A temporary folder and the object that owns it."""
    out, keep = Path(tempfile.mkdtemp(prefix="sslfeat-index-")), _Kept()
    weakref.finalize(keep, shutil.rmtree, out, ignore_errors=True)
    return out, keep
