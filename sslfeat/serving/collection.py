"""The served index: one generation at a time, reloaded as a whole when its folder changes."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sslfeat.errors import InputError, RetrievalError, SslfeatError
from sslfeat.inference.model_card import Identity
from sslfeat.numerics.arrays import FloatArray
from sslfeat.retrieval.index import Index
from sslfeat.retrieval.metadata import IDS, META
from sslfeat.retrieval.query_encoder import check_encoder
from sslfeat.retrieval.storage import why_none
from sslfeat.retrieval.vectors import metadata_of
from sslfeat.serving.answers import Refusal
from sslfeat.serving.points import Drawn, map_json
from sslfeat.system.cores import available_cores

POLL = 1.0  # seconds between checks of the index folder
logger = logging.getLogger(__name__)


class Generation:
    """An opened index with frequently used data in memory."""

    def __init__(self, folder: Path, encoder: Identity, drawn: Drawn) -> None:
        """Raises RetrievalError if the index is damaged or of another encoder than ``encoder`` (name, fingerprint)."""
        self.stamp = stamp(folder)
        self.index = Index.load(folder)
        self.revision = self.index.metadata.files[IDS].sha256[:16]  # of the rows; ids are only valid within a revision
        check_encoder(self.index.metadata.encoder, encoder, "the encoder that is served")
        table = self.index.columns
        self.paths: list[str] = table["path"].to_pylist()
        self.labels: list[str | None] = table["label"].to_pylist()
        self.sha256: list[str | None] = table["sha256"].to_pylist()
        kept = zip(self.labels, self.index.removed.tolist(), strict=True)
        self.counts = Counter(label for label, removed in kept if label is not None and not removed)
        self._drawn = drawn
        self._lock = threading.Lock()
        self._map: bytes | None = None
        self._rows = functools.lru_cache(4)(self.index.rows)  # masks of the latest conditions, for further pages
        self.index.vectors([0])  # FAISS initializes lazily; do it before threads could do it twice

    def info(self) -> dict[str, Any]:
        """Index information for ``/v1/info``."""
        return {
            "name": self.index.folder.resolve().name,
            "revision": self.revision,
            "images": len(self.index),
            "kind": self.index.spec.kind,
            "metric": self.index.metric,
            "columns": self.index.columns.column_names,
            "labels": dict(self.counts.most_common()) or None,
        }

    def row(self, row: int) -> int:
        """Return the row if it exists and is not removed. Raises Refusal, 404."""
        if not 0 <= row < len(self.paths) or self.index.removed[row]:
            raise Refusal(404, f"the index has no image {row}", "use ids from the latest responses")
        return row

    def row_of(self, path: str) -> int:
        """Row of ``path``. Raises Refusal, 404."""
        row = self.index.ids.row_of(path)
        if row < 0:
            raise Refusal(404, "the index has no image with this path", "use paths from responses")
        return row

    def told(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Id, path, label and metadata of each row."""
        metadata = metadata_of(self.index.columns.take(pa.array(rows, pa.int64())))
        return [
            {"id": row, "path": self.paths[row], "label": self.labels[row], "metadata": facts}
            for row, facts in zip(rows, metadata, strict=True)
        ]

    def search(
        self, vector: FloatArray, top: int, where: Sequence[str], min_score: float | None, own: int = -1
    ) -> tuple[list[dict[str, Any]], list[str]]:
        """Hits for a vector (D,), best first, and notes about the conditions; row ``own``, the query's,
        is excluded.

        Raises InputError for an invalid condition, or a vector of another dimension.
        """
        try:
            found = self.index.search(vector, top, where=where, min_score=min_score, exclude=[own])
        except InputError as error:
            raise InputError(str(error).removeprefix("--")) from error  # not a command line
        pairs = [(row, score) for row, score in zip(found.rows[0].tolist(), found.scores[0].tolist(), strict=True) if row >= 0]
        told = self.told([row for row, _ in pairs])
        hits = [{**facts, "score": score} for facts, (_, score) in zip(told, pairs, strict=True)]
        return hits, [note.removeprefix("--") for note in found.notes]

    def browse(self, where: tuple[str, ...], after: int, limit: int) -> dict[str, Any]:
        """The next ``limit`` images that meet the conditions after row ``after``. Raises InputError for an invalid condition."""
        try:
            rows, notes = self._rows(where)
        except InputError as error:
            raise InputError(str(error).removeprefix("--")) from error  # not a command line
        start = int(np.searchsorted(rows, after, "right"))
        page = rows[start : start + limit].tolist()
        return {
            "images": self.told(page), "total": len(rows), "next": page[-1] if start + limit < len(rows) else None,
            "notes": [note.removeprefix("--") for note in notes], "revision": self.revision,
        }  # fmt: skip

    def map(self) -> bytes:
        """The map as JSON, computed on first use."""
        with self._lock:
            if self._map is None:
                self._map = map_json(self.index, self.paths, self.labels, self._drawn)
            return self._map


class Collection:
    """The current generation of an index folder; a request keeps the generation it started with."""

    def __init__(
        self, folder: Path, encoder: Identity, drawn: Drawn,
        reloaded: Callable[[str], None] = lambda outcome: None,
    ) -> None:  # fmt: skip
        """``reloaded`` is called with ``ok`` or ``refused`` for each reload. Raises RetrievalError."""
        self._folder, self._encoder, self._drawn, self._reloaded = folder, encoder, drawn, reloaded
        self._refused: tuple[int, ...] | None = None
        self.now = Generation(folder, encoder, drawn)
        self.pool = ThreadPoolExecutor(available_cores(), thread_name_prefix="sslfeat-search")

    async def follow(self) -> None:
        """Reload the index whenever its folder changes, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(POLL)
            await loop.run_in_executor(self.pool, self.refresh)

    def refresh(self) -> None:
        """Reload the folder if it changed. If it cannot be loaded or is of another encoder, the old index stays in use."""
        try:
            seen = stamp(self._folder)
            if seen in (self.now.stamp, self._refused):
                return
            self.now = Generation(self._folder, self._encoder, self._drawn)
        except SslfeatError as error:
            self._refused = None if isinstance(error, _Unreadable) else seen
            logger.warning("the index was replaced by one that cannot be served: %s", error)
            self._reloaded("refused")
        else:
            logger.info("the index was replaced: %d images", len(self.now.index))
            self._reloaded("ok")

    def close(self) -> None:
        """Stop the threads."""
        self.pool.shutdown(wait=True, cancel_futures=True)


class _Unreadable(RetrievalError):
    """The folder cannot be read, perhaps temporarily."""


def stamp(folder: Path) -> tuple[int, ...]:
    """Value that changes when the index is replaced. Raises RetrievalError if there is no index."""
    try:
        status = (folder / META).stat()
    except OSError as error:
        raise _Unreadable(*why_none(folder, error)) from error
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
