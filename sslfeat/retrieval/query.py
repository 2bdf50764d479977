"""What is searched for: images by file, rows of features folders, and rows of the index itself."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sslfeat.numerics.arrays import FloatArray
from sslfeat.retrieval.index import Index
from sslfeat.retrieval.metadata import IndexMetadata
from sslfeat.retrieval.query_encoder import check_encoder, load_encoder
from sslfeat.retrieval.storage import read_metadata
from sslfeat.retrieval.vectors import Maker

BATCH = 8


@dataclass
class Queries:
    """``names`` and ``vectors`` (Q, D); ``rows`` is each one's own row, or -1."""

    names: list[str] = field(default_factory=list)
    vectors: FloatArray = field(default_factory=lambda: np.empty((0, 0), np.float32))
    rows: list[int] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)


def gather(
    folder: Path, specs: Sequence[str], ids: Sequence[str], encoder: str | None = None, provider: str = "auto"
) -> tuple[Queries, Index]:
    """The index, and the queries: images of ``specs``, rows of features folders among them, and indexed ``ids``.

    Verifying and opening the index goes on while images are embedded. Raises RetrievalError for features of another
    encoder, InputError for specs or ids that name nothing.
    """
    from sslfeat.features.metadata import RUN_NAME

    metadata = read_metadata(folder)
    features = [spec for spec in specs if (Path(spec) / RUN_NAME).is_file()]
    images = [spec for spec in specs if spec not in features]
    queries = Queries()
    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(Index.load, folder)
        found = [_rows_of(metadata.encoder, spec, queries) for spec in features]
        if images:
            found.append(_images(metadata, images, queries, encoder, provider))
        index = opening.result()
    queries.rows = [-1] * len(queries.names)
    if ids:
        rows = [index.row_of(path) for path in ids]
        queries.names += ids
        queries.rows += rows
        found.append(index.vectors(rows))
    queries.vectors = np.concatenate(found)
    return queries, index


def _rows_of(made_by: Maker | None, spec: str, queries: Queries) -> FloatArray:
    from sslfeat.features.reader import Features
    from sslfeat.retrieval.vectors import FolderVectors

    check_encoder(made_by, FolderVectors(spec).encoder, f"the encoder of {spec}")
    features = Features.load(spec)
    queries.names += features.paths
    return features.embeddings


def _images(metadata: IndexMetadata, specs: Sequence[str], queries: Queries, encoder: str | None, provider: str) -> FloatArray:
    """Embeddings of the images that can be read; the others join the failures."""
    from sslfeat.data.dataset import find_inputs
    from sslfeat.data.results import Embedded
    from sslfeat.inference.files import embed_files

    inputs, rows = find_inputs(specs, "none"), []
    for record, outcome in embed_files(load_encoder(metadata.encoder, encoder, provider), inputs, BATCH, 1):
        if isinstance(outcome, Embedded):
            queries.names.append(record.name)
            rows.append(outcome.embedding)
        else:
            queries.failures.append((record.name, outcome.reason))
    return np.stack(rows) if rows else np.empty((0, metadata.dim), np.float32)
