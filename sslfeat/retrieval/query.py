"""Queries: image files, rows of features folders, and indexed images."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from sslfeat.errors import InputError
from sslfeat.numerics.arrays import FloatArray
from sslfeat.retrieval.filters import Condition
from sslfeat.retrieval.hits import Hit
from sslfeat.retrieval.index import Index
from sslfeat.retrieval.query_encoder import check_encoder, load_encoder
from sslfeat.retrieval.storage import read_metadata
from sslfeat.retrieval.vectors import Maker
from sslfeat.system.plurals import counted

BATCH = 8


@dataclass
class Queries:
    """``names`` and ``vectors`` (Q, D) of queries; ``own``: path of each in the index, or None."""

    names: list[str] = field(default_factory=list)
    vectors: FloatArray = field(default_factory=lambda: np.empty((0, 0), np.float32))
    own: list[str | None] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    wrong: list[tuple[str, InputError]] = field(default_factory=list)  # specs that match nothing


class Searched(Protocol):
    """An index or store of images of one ``encoder`` (None: plain vectors of dimension ``dim``)."""

    @property
    def encoder(self) -> Maker | None: ...

    @property
    def dim(self) -> int: ...

    @property
    def notes(self) -> Sequence[str]:
        """Notes on the conditions of the last search."""

    def __len__(self) -> int:
        """Number of images."""

    @property
    def about(self) -> str:
        """What it is, in a line."""

    def check(self, top: int, where: Sequence[str]) -> None:
        """Check arguments of ``hits`` before embedding: UsageError for ``top``, InputError for a condition."""

    def of_paths(self, paths: Sequence[str]) -> FloatArray:
        """The vectors of images that it holds. Raises InputError for one that it does not."""

    def hits(self, queries: Queries, top: int, where: Sequence[str], min_score: float | None) -> list[list[Hit]]:
        """The ``top`` nearest images to each query, without its own."""


class SearchedIndex:
    """An index folder, verified and opened while the first queries are embedded."""

    def __init__(self, folder: Path) -> None:
        """Raises RetrievalError if it is not an index, or, on first use, if it is damaged."""
        self._metadata = read_metadata(folder)
        self.encoder, self.dim = self._metadata.encoder, self._metadata.dim
        self._rows: dict[str | None, int] = {None: -1}
        self.notes: Sequence[str] = ()
        with_opening = ThreadPoolExecutor(1)
        self._opening = with_opening.submit(Index.load, folder)
        with_opening.shutdown(wait=False)

    @property
    def about(self) -> str:
        """What it is, in a line."""
        index = self._opening.result()
        made_by = self.encoder.name if self.encoder else "vectors"
        return f"{counted(len(index), 'image')}, {index.metric}, {self._metadata.factory}, encoder {made_by}"

    def __len__(self) -> int:
        return len(self._opening.result())

    def check(self, top: int, where: Sequence[str]) -> None:
        """Raise InputError for an invalid condition."""
        for condition in where:
            Condition.parse(condition, self._opening.result().columns.column_names)

    def of_paths(self, paths: Sequence[str]) -> FloatArray:
        """The vectors of images that it holds. Raises InputError for one that it does not."""
        index = self._opening.result()
        self._rows |= {path: index.row_of(path) for path in paths}
        return index.vectors([self._rows[path] for path in paths])

    def hits(self, queries: Queries, top: int, where: Sequence[str], min_score: float | None) -> list[list[Hit]]:
        """The ``top`` nearest images to each query, without its own."""
        exclude = [self._rows[path] for path in queries.own]
        found = self._opening.result().search(queries.vectors, top, where=where, min_score=min_score, exclude=exclude)
        self.notes = found.notes
        return [found.of(number) for number in range(len(queries.names))]


def gather(
    searched: Searched, specs: Sequence[str], ids: Sequence[str], encoder: str | None = None, provider: str = "auto"
) -> Queries:
    """Collect queries: images and rows of features folders in ``specs``, and indexed images ``ids``.

    Specs and ids that match nothing are failures. Raises RetrievalError for features of another encoder, InputError if
    none matches.
    """
    from sslfeat.features.metadata import RUN_NAME

    features = [spec for spec in specs if (Path(spec) / RUN_NAME).is_file()]
    images = [spec for spec in specs if spec not in features]
    queries = Queries()
    found = [_rows_of(searched.encoder, spec, queries) for spec in features]
    if images:
        found.append(_images(searched, images, queries, encoder, provider))
    queries.own = [None] * len(queries.names)
    for path in ids:
        try:
            found.append(searched.of_paths([path]))
        except InputError as error:
            queries.wrong.append((path, error))
            continue
        queries.names.append(path)
        queries.own.append(path)
    if queries.wrong and not queries.names and not queries.failures:
        raise queries.wrong[0][1]
    queries.failures += [(name, str(error)) for name, error in queries.wrong]
    queries.vectors = np.concatenate(found)
    return queries


def _rows_of(made_by: Maker | None, spec: str, queries: Queries) -> FloatArray:
    from sslfeat.features.reader import Features
    from sslfeat.retrieval.vectors import FolderVectors

    check_encoder(made_by, FolderVectors(spec).encoder, f"the encoder of {spec}")
    features = Features.load(spec)
    queries.names += features.paths
    return features.embeddings


def _images(searched: Searched, specs: Sequence[str], queries: Queries, encoder: str | None, provider: str) -> FloatArray:
    """Embeddings of readable images; others are failures."""
    from sslfeat.data.dataset import ImageRecord, find_inputs
    from sslfeat.data.results import Embedded
    from sslfeat.inference.files import embed_files

    named: set[ImageRecord] = set()
    for spec in specs:
        try:
            named.update(find_inputs([spec], "none"))
        except InputError as error:
            queries.wrong.append((spec, error))
    rows = []
    loaded = load_encoder(searched.encoder, encoder, provider) if named else None
    for record, outcome in embed_files(loaded, sorted(named), BATCH, 1) if loaded else ():
        if isinstance(outcome, Embedded):
            queries.names.append(record.name)
            rows.append(outcome.embedding)
        else:
            queries.failures.append((record.name, outcome.reason))
    return np.stack(rows) if rows else np.empty((0, searched.dim), np.float32)
