"""A features folder goes into a vector store: only what is not there yet as it is, in batches that can be done again.

A row's id comes from its path, its ``version`` from all that is stored of it. So the store itself says what is missing:
a push that was killed anywhere and is run again ends where an undisturbed one does, and a second one writes nothing.
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
    """Rows that were ``added``, ``replaced``, ``removed``, or found ``unchanged``; ``rows`` are in the store then."""

    added: int = 0
    replaced: int = 0
    removed: int = 0
    unchanged: int = 0
    rows: int = 0

    @property
    def done(self) -> int:
        """How many rows of the features folder have been seen to."""
        return self.added + self.replaced + self.unchanged


def push(
    features: str | Path | Vectors, url: str, metric: str | None = None, sync: bool = False,
    report: Callable[[Pushed, int], None] = lambda pushed, total: None,
) -> Pushed:  # fmt: skip
    """Bring the rows of a features folder, or vectors, into the collection at ``url``, which is made if it is not there.

    ``metric`` is cosine (default), ip or l2; vectors that are compared by cosine are stored at unit length. ``sync`` removes
    rows that the folder does not have. Raises FeaturesError, RetrievalError naming both encoders if the collection holds
    another's, StoreError, UsageError, MissingExtraError, InterruptedRun.
    """
    source = as_vectors(features)
    if metric is not None and metric not in METRICS:
        raise InputError(f"metric {metric!r} is unknown: {', '.join(METRICS)}")
    wanted = base.StoreInfo(source.encoder, source.dim, metric or METRICS[0], fields_of(source))
    with open_store(url, wanted) as store, signals.deferred() as stop:
        if metric not in (None, store.info.metric):
            raise StoreError(
                f"{store.address} compares by {store.info.metric}, not {metric}: choose another name, or no --metric"
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
    """The names of the metadata of its rows: all parts have the same columns."""
    first = next(iter(source.parts()), None)
    return () if first is None else tuple(sorted(describing(first.columns)))


def batches(source: Vectors, store: OpenedStore) -> Iterator[Part]:
    """The rows as they are stored, as many at once as the store likes."""
    for columns, embeddings in blocks(source, store.info.metric):
        most = base.batch_rows(store.most_rows, (columns.nbytes + embeddings.nbytes) // max(1, len(embeddings)))
        for start in range(0, len(embeddings), most):
            yield described(columns.slice(start, most), embeddings[start : start + most])


def described(columns: pa.Table, embeddings: FloatArray) -> Part:
    """Rows with ``id`` and ``version``. Raises InputError if two have one path."""
    metadata = [list(texts.items()) for texts in metadata_of(columns)]
    known = zip(*(columns[name].to_pylist() for name in COLUMNS), metadata, strict=True)
    versions = [_hash(repr(row).encode() + vector.tobytes()) for row, vector in zip(known, embeddings, strict=True)]
    paths = columns["path"].to_pylist()
    if len(set(paths)) < len(paths):
        twice = next(path for number, path in enumerate(paths) if path in paths[:number])
        raise InputError(f"two images are called {twice}: a store can hold one of them")
    ids = [id_of(path) for path in paths]
    texts, known_columns = pa.array(metadata, base.TEXTS), {name: columns[name] for name in COLUMNS}
    table = pa.table({"id": strings(ids), **known_columns, base.METADATA: texts, "version": strings(versions)})
    return Part(table, embeddings)


def id_of(path: str) -> str:
    """The id of the image called ``path``: a UUID, which all stores take for one."""
    return str(uuid.UUID(_hash(path.encode())))


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def _bring(rows: Part, store: OpenedStore, pushed: Pushed) -> None:
    """Write those of the rows that the store does not have as they are."""
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
