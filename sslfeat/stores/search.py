"""Searching a vector store with the conditions, scores and hits of an index."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from sslfeat.errors import InputError, StoreError, UsageError
from sslfeat.numerics.arrays import FloatArray
from sslfeat.retrieval.filters import Condition, NumbersRead, ValuesSeen
from sslfeat.retrieval.hits import Hit
from sslfeat.retrieval.query import Queries
from sslfeat.retrieval.rows import name_of
from sslfeat.retrieval.vectors import prepare
from sslfeat.stores.base import Store, StoredHit
from sslfeat.stores.opened import OpenedStore
from sslfeat.stores.push import id_of
from sslfeat.system.plurals import counted

SAMPLE = 1000  # nearest rows to look at for why conditions matched nothing
DEEPER = 8  # growth of the number of requested hits if conditions leave too few


class SearchedStore:
    """A store as target of searches (see ``query.Searched``)."""

    def __init__(self, store: OpenedStore) -> None:
        self._store = store
        self.encoder, self.dim = store.info.encoder, store.info.dim
        self.notes: Sequence[str] = ()

    @property
    def about(self) -> str:
        """One-line description."""
        made_by = self.encoder.name if self.encoder else "vectors"
        return f"{counted(len(self), 'image')}, {self._store.info.metric}, {self._store.address}, encoder {made_by}"

    def __len__(self) -> int:
        return self._store.ask(lambda opened: opened.count())

    def check(self, top: int, where: Sequence[str]) -> None:
        """Raise UsageError for a ``top`` above the limit of the store, InputError for an invalid condition."""
        _readable(self._store, top, where)

    def of_paths(self, paths: Sequence[str]) -> FloatArray:
        """Stored vectors of images. Raises InputError for an unknown image."""
        ids = [id_of(name_of(path)) for path in paths]
        found = self._store.ask(lambda opened: opened.vectors(ids))
        for name, path in zip(ids, paths, strict=True):
            if name not in found:
                raise InputError(f"{path} is not in {self._store.address}: give the path as it was embedded")
        return np.array([found[name] for name in ids], np.float32)

    def hits(self, queries: Queries, top: int, where: Sequence[str], min_score: float | None) -> list[list[Hit]]:
        """Hits of each query, nearest first, without the query image itself."""
        own = [None if path is None else name_of(path) for path in queries.own]
        vectors = prepare(queries.vectors, self._store.info.metric)
        found = nearest(self._store, vectors, top + any(own), where)
        self.notes = self._why(vectors[:1], where) if where and len(vectors) and not any(found) else ()
        return [
            [
                Hit(hit.path, hit.label, hit.score, -1, hit.metadata)
                for hit in hits
                if hit.path != path and _enough(hit.score, min_score)
            ][:top]
            for hits, path in zip(found, own, strict=True)
        ]

    def _why(self, vector: FloatArray, where: Sequence[str]) -> Sequence[str]:
        """Reasons why no row met the conditions, from the rows nearest to ``vector`` (1, D) without conditions."""
        (hits,) = self._store.ask(_search(vector, min(SAMPLE, self._store.deepest), []))
        reasons = []
        for condition in _readable(self._store, 1, where):
            values, seen = [hit.value(condition.field) for hit in hits], ValuesSeen(condition)
            seen.add(values, bool(condition.met(condition.read(values)).any()))
            reasons += [] if seen.met else [f"of the {counted(len(hits), 'nearest image')}: {seen.why()}"]
        return reasons


def _enough(score: float, least: float | None) -> bool:
    return least is None or score >= least


def _readable(store: OpenedStore, top: int, where: Sequence[str]) -> list[Condition]:
    if top > store.deepest:
        raise UsageError(f"--top {top} is above the limit of {store.info.metric} search in {store.address}, {store.deepest}")
    return [Condition.parse(text, store.columns) for text in where]


def nearest(store: OpenedStore, vectors: FloatArray, top: int, where: Sequence[str]) -> list[list[StoredHit]]:
    """``top`` nearest rows of each vector that meet the conditions.

    Conditions that the store cannot express are checked here, on an increasing number of nearest rows. Raises StoreError if
    that exceeds the limit of the store, UsageError for such a ``top``, InputError for an invalid condition.
    """
    conditions = _readable(store, top, where)
    native = [store.ask(partial(_native, one)) for one in conditions]
    rest = [one for one, its in zip(conditions, native, strict=True) if its is None]
    said = [one for one in native if one is not None]
    read = [NumbersRead(one) for one in rest]
    answers: dict[int, list[StoredHit]] = {}
    depth = top if not rest else min(DEEPER * top, store.deepest)
    while len(answers) < len(vectors):
        pending = [number for number in range(len(vectors)) if number not in answers]
        found = store.ask(_search(vectors[pending], depth, said))
        for number, hits in zip(pending, found, strict=True):
            there = np.ones(len(hits), bool)
            for numbers in read:
                values = [hit.value(numbers.condition.field) for hit in hits]
                answer = numbers.condition.read(values)
                numbers.add(values, answer)
                there &= numbers.condition.met(answer)
            kept = list(itertools.compress(hits, there.tolist()))
            if len(kept) >= top or len(hits) < depth:  # the latter: no more rows
                answers[number] = kept[:top]
        if len(answers) < len(vectors) and depth == store.deepest:
            raise StoreError(
                f"{store.address}: fewer than {top} of the nearest {depth} rows (the limit) meet --where: add a "
                "condition with '=', or use a smaller --top"
            )
        depth = min(DEEPER * depth, store.deepest)
    for numbers in read:
        numbers.note()  # raises if no value could be compared
    return [answers[number] for number in range(len(vectors))]


def _search(vectors: FloatArray, depth: int, where: Sequence[Any]) -> Any:
    def work(opened: Store) -> list[list[StoredHit]]:
        return opened.search(vectors, depth, where)

    return work


def _native(condition: Condition, opened: Store) -> Any:
    return opened.native(condition)
