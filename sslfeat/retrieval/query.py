"""What is searched for: images by file, rows of features folders, and rows of the index itself."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sslfeat.numerics.arrays import FloatArray
from sslfeat.retrieval.index import Index
from sslfeat.retrieval.query_encoder import check_encoder, load_encoder
from sslfeat.retrieval.storage import read_meta

BATCH = 8


@dataclass
class Queries:
    """Queries that can be asked: ``names`` and ``vectors`` (Q, D); ``rows`` is each one's own row, or -1."""

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
    from sslfeat.features.reader import RUN_NAME

    meta = read_meta(folder)
    features = [spec for spec in specs if (Path(spec) / RUN_NAME).is_file()]
    images = [spec for spec in specs if spec not in features]
    asked = Queries()
    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(Index.load, folder)
        found = [_rows_of(meta, spec, asked) for spec in features]
        if images:
            found.append(_images(meta, images, asked, encoder, provider))
        index = opening.result()
    asked.rows = [-1] * len(asked.names)
    if ids:
        rows = [index.row_of(path) for path in ids]
        asked.names += ids
        asked.rows += rows
        found.append(index.vectors(rows))
    asked.vectors = np.concatenate(found)
    return asked, index


def _rows_of(meta: dict[str, Any], spec: str, asked: Queries) -> FloatArray:
    from sslfeat.features.reader import Features
    from sslfeat.retrieval.vectors import FolderVectors

    check_encoder(meta, FolderVectors(spec).encoder, f"the encoder of {spec}")
    features = Features.load(spec)
    asked.names += features.paths
    return features.embeddings


def _images(meta: dict[str, Any], specs: Sequence[str], asked: Queries, encoder: str | None, provider: str) -> FloatArray:
    """Embeddings of the images that can be read; the others join the failures."""
    from sslfeat.data.dataset import find_inputs
    from sslfeat.data.results import Embedded
    from sslfeat.inference.files import embed_files

    inputs, rows = find_inputs(specs, "none"), []
    for item, outcome in embed_files(load_encoder(meta, encoder, provider), inputs, BATCH, 1):
        if isinstance(outcome, Embedded):
            asked.names.append(item.name)
            rows.append(outcome.embedding)
        else:
            asked.failures.append((item.name, outcome.reason))
    return np.stack(rows) if rows else np.empty((0, int(meta["dim"])), np.float32)
