"""Pushing a features folder to a vector store: only missing and changed rows, in repeatable batches.

The id of a row is derived from its path, its ``version`` from all stored values, so the store determines what is missing:
an interrupted push that is repeated gives the same result as an uninterrupted one, and another push writes nothing.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa

from sslfeat.errors import InputError, InterruptedRun, StoreError
from sslfeat.features.reader import Part
from sslfeat.numerics.arrays import FloatArray
from sslfeat.retrieval.vectors import COLUMNS, METRICS, Vectors, as_vectors, blocks, describing, metadata_of
from sslfeat.storage.arrow import strings
from sslfeat.stores import base
from sslfeat.stores.opened import OpenedStore
from sslfeat.stores.registry import open_store
from sslfeat.system import signals


@dataclass
class Pushed:
    """Numbers of rows ``added``, ``replaced``, ``removed`` and ``unchanged``; ``rows``: total in the store afterwards."""

    added: int = 0
    replaced: int = 0
    removed: int = 0
    unchanged: int = 0
    rows: int = 0

    @property
    def done(self) -> int:
        """Number of processed rows of the features folder."""
        return self.added + self.replaced + self.unchanged


def push(
    features: str | Path | Vectors, url: str, metric: str | None = None, sync: bool = False,
    report: Callable[[Pushed, int], None] = lambda pushed, total: None,
) -> Pushed:  # fmt: skip
    """Push the rows of a features folder, or vectors, to the collection at ``url``, which is created if missing.

    ``metric``: cosine (default), ip or l2; for cosine, vectors are stored at unit length. ``sync`` removes
    rows that are not in the folder. Raises FeaturesError, RetrievalError if the collection contains features of
    another encoder, StoreError, UsageError, MissingExtraError, InterruptedRun.
    """
    source = as_vectors(features)
    if metric is not None and metric not in METRICS:
        raise InputError(f"unknown metric {metric!r}: choose one of {', '.join(METRICS)}")
    wanted = base.StoreInfo(source.encoder, source.dim, metric or METRICS[0], fields_of(source))
    with open_store(url, wanted) as store, signals.deferred() as stop:
        if metric not in (None, store.info.metric):
            raise StoreError(
                f"{store.address} uses the metric {store.info.metric}, not {metric}: choose another name, or omit --metric"
            )
        pushed, ours = Pushed(), set[str]()
        for rows in batches(source, store):
            if stop.signum:
                raise InterruptedRun(stop.signum, f"interrupted; {store.address} has {pushed.done} rows: run it again to go on")
            _bring(rows, store, pushed)
            if sync:
                ours.update(rows.columns["id"].to_pylist())
            report(pushed, source.count)
        if sync:
            pushed.removed = _remove_others(store, ours)
        if pushed.done > pushed.unchanged or pushed.removed:
            store.ask(lambda opened: opened.finish())
        pushed.rows = store.ask(lambda opened: opened.count())
    return pushed


def fields_of(source: Vectors) -> tuple[str, ...]:
    """Names of metadata fields; all parts have the same columns."""
    first = next(iter(source.parts()), None)
    return () if first is None else tuple(sorted(describing(first.columns)))


def batches(source: Vectors, store: OpenedStore) -> Iterator[Part]:
    """Rows to store, in batches suitable for the store."""
    for columns, embeddings in blocks(source, store.info.metric):
        most = base.batch_rows(store.most_rows, (columns.nbytes + embeddings.nbytes) // max(1, len(embeddings)))
        for start in range(0, len(embeddings), most):
            yield described(columns.slice(start, most), embeddings[start : start + most])


def described(columns: pa.Table, embeddings: FloatArray) -> Part:
    """Rows with ``id`` and ``version``. Raises InputError for duplicate paths."""
    metadata = [list(texts.items()) for texts in metadata_of(columns)]
    known = zip(*(columns[name].to_pylist() for name in COLUMNS), metadata, strict=True)
    versions = [_hash(repr(row).encode() + vector.tobytes()) for row, vector in zip(known, embeddings, strict=True)]
    paths = columns["path"].to_pylist()
    if len(set(paths)) < len(paths):
        twice = next(path for number, path in enumerate(paths) if path in paths[:number])
        raise InputError(f"two images have the path {twice}: paths in a store must be unique")
    ids = [id_of(path) for path in paths]
    texts, known_columns = pa.array(metadata, base.TEXTS), {name: columns[name] for name in COLUMNS}
    table = pa.table({"id": strings(ids), **known_columns, base.METADATA: texts, "version": strings(versions)})
    return Part(table, embeddings)


def id_of(path: str) -> str:
    """Id of the image ``path``: a UUID, which all stores accept."""
    return str(uuid.UUID(_hash(path.encode())))


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def _bring(rows: Part, store: OpenedStore, pushed: Pushed) -> None:
    """Write rows that are missing in the store or differ."""
    ids, versions = rows.columns["id"].to_pylist(), rows.columns["version"].to_pylist()
    there = store.ask(lambda opened: opened.versions(ids))
    changed = [number for number, name in enumerate(ids) if there.get(name) != versions[number]]
    if changed:
        missing = Part(rows.columns.take(changed), rows.embeddings[changed])
        store.ask(lambda opened: opened.upsert(missing))
    replaced = sum(ids[number] in there for number in changed)
    pushed.replaced += replaced
    pushed.added += len(changed) - replaced
    pushed.unchanged += len(ids) - len(changed)


def _remove_others(store: OpenedStore, ours: set[str]) -> int:
    gone = [name for found in store.ids() for name in found if name not in ours]
    for start in range(0, len(gone), store.most_rows):
        store.ask(partial(_delete, gone[start : start + store.most_rows]))
    return len(gone)


def _delete(ids: Sequence[str], opened: base.Store) -> None:
    opened.delete(ids)
