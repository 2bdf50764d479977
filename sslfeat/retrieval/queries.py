"""Pictures to search with: embedded by the encoder that made the index, and by no other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sslfeat.errors import RetrievalError
from sslfeat.retrieval.vectors import FloatArray

BATCH = 8

if TYPE_CHECKING:
    from sslfeat.encoder import Encoder
    from sslfeat.images import Source
    from sslfeat.retrieval.index import Index


def embed(meta: dict[str, Any], images: Iterable[Source] | Source, encoder: Encoder | None = None) -> FloatArray:
    """Embeddings (Q, D) by the index's encoder. Raises RetrievalError for another, ImageError for a broken picture."""
    encoder = encoder or load_encoder(meta)
    check_encoder(meta, {"name": encoder.card.name, "fingerprint": encoder.fingerprint}, "the encoder given")
    return np.stack(list(encoder.embed(images)))


def load_encoder(meta: dict[str, Any], given: str | None = None, provider: str = "auto") -> Encoder:
    """The encoder of the index: ``given`` by path or name, or found by its fingerprint. Raises RetrievalError."""
    from sslfeat.cores import available_cores
    from sslfeat.encoder import Encoder
    from sslfeat.zoo import find_encoder

    made_by = meta["encoder"]
    if made_by is None:
        raise RetrievalError("the index was built of plain vectors: search it with vectors")
    hints = [given] if given else [made_by["path"]] if made_by.get("path") else []
    file = find_encoder(made_by["name"], made_by["fingerprint"], hints, only_hints=bool(given), error=RetrievalError)
    return Encoder(file.without_data(), provider, available_cores())


def check_encoder(meta: dict[str, Any], other: dict[str, Any] | None, what: str) -> None:
    """Raise RetrievalError, naming both, if ``other`` (name, fingerprint) is not the encoder that made the index."""
    ours = meta["encoder"]
    if ours is None or other is None:
        if ours is not other:
            raise RetrievalError(
                f"{what} and the index cannot be compared: one of them is of plain vectors without an encoder"
            )
        return
    if ours["fingerprint"] != other["fingerprint"]:
        raise RetrievalError(
            f"{what} is {other['name']!r} ({other['fingerprint'][:12]}), the index was made by {ours['name']!r} "
            f"({ours['fingerprint'][:12]}): their features cannot be compared; use that one, or build another index"
        )


@dataclass
class Asked:
    """Queries that can be asked: ``names`` and ``vectors`` (Q, D); ``rows`` is each one's own row, or -1."""

    names: list[str] = field(default_factory=list)
    vectors: FloatArray = field(default_factory=lambda: np.empty((0, 0), np.float32))
    rows: list[int] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)


def gather(
    folder: Path, specs: Sequence[str], ids: Sequence[str], encoder: str | None = None, provider: str = "auto"
) -> tuple[Asked, Index]:
    """The index, and the queries: pictures of ``specs``, rows of features folders among them, and indexed ``ids``.

    Verifying and opening the index goes on while pictures are embedded. Raises RetrievalError for features of another
    encoder, InputError for specs or ids that name nothing.
    """
    from sslfeat.features import RUN_NAME
    from sslfeat.retrieval.folder import read_meta
    from sslfeat.retrieval.index import Index

    meta = read_meta(folder)
    features = [spec for spec in specs if (Path(spec) / RUN_NAME).is_file()]
    pictures = [spec for spec in specs if spec not in features]
    asked = Asked()
    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(Index.load, folder)
        found = [_rows_of(meta, spec, asked) for spec in features]
        if pictures:
            found.append(_pictures(meta, pictures, asked, encoder, provider))
        index = opening.result()
    asked.rows = [-1] * len(asked.names)
    if ids:
        rows = [index.row_of(path) for path in ids]
        asked.names += ids
        asked.rows += rows
        found.append(index.vectors(rows))
    asked.vectors = np.concatenate(found)
    return asked, index


def _rows_of(meta: dict[str, Any], spec: str, asked: Asked) -> FloatArray:
    from sslfeat.features import Features
    from sslfeat.retrieval.vectors import FolderVectors

    check_encoder(meta, FolderVectors(spec).encoder, f"the encoder of {spec}")
    features = Features.load(spec)
    asked.names += features.paths
    return features.embeddings


def _pictures(
    meta: dict[str, Any], specs: Sequence[str], asked: Asked, encoder: str | None, provider: str
) -> FloatArray:
    """Embeddings of the pictures that can be read; the others join the failures."""
    from sslfeat.decoder import DEFAULT_LIMITS
    from sslfeat.inputs import find_inputs
    from sslfeat.isolated import IsolatedDecoder
    from sslfeat.outcomes import Embedded
    from sslfeat.pipeline import batched, embed_batches
    from sslfeat.preprocess import EXACT

    inputs = find_inputs(specs, "none")
    loaded = load_encoder(meta, encoder, provider)
    rows = []
    batches = batched([item.raw for item in inputs], BATCH)
    decoder = lambda: IsolatedDecoder(loaded.card.preprocess, EXACT, DEFAULT_LIMITS)  # noqa: E731
    outcomes = (outcome for batch in embed_batches(loaded, batches, 1, decoder) for outcome in batch.outcomes)
    for item, outcome in zip(inputs, outcomes, strict=True):
        if isinstance(outcome, Embedded):
            asked.names.append(item.name)
            rows.append(outcome.embedding)
        else:
            asked.failures.append((item.name, outcome.reason))
    return np.stack(rows) if rows else np.empty((0, int(meta["dim"])), np.float32)
