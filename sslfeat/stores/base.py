"""Interface of vector stores, their columns, and the metadata of a collection."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol

import pyarrow as pa

from sslfeat.features import formats
from sslfeat.features.reader import Part
from sslfeat.numerics.arrays import FloatArray
from sslfeat.retrieval.filters import Condition
from sslfeat.retrieval.vectors import METRICS, Maker

METADATA = "metadata"  # text by name; an object, if the store supports objects
TEXTS = pa.map_(pa.string(), pa.string())
# columns of a row: id (UUID derived from the path), image metadata, and a hash of all stored values
COLUMNS: dict[str, pa.DataType] = {"id": pa.string(), **formats.COLUMNS, METADATA: TEXTS, "version": pa.string()}
EMBEDDING = "embedding"
SHOWN = (*formats.COLUMNS, METADATA)  # columns of a hit
BATCH_BYTES = 16 << 20


@dataclass(frozen=True)
class StoreInfo:
    """Metadata of a collection, stored as JSON in the collection itself.

    ``fields``: names of the metadata fields of rows.
    """

    encoder: Maker | None
    dim: int
    metric: str
    fields: tuple[str, ...]
    format: int = 1

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ValueError(f"metric is {self.metric!r}, not one of {', '.join(METRICS)}")
        if self.dim < 1:
            raise ValueError(f"dim is {self.dim}")

    def to_json(self) -> str:
        """JSON text."""
        return json.dumps({"sslfeat": asdict(self)}, sort_keys=True)


class StoredHit(NamedTuple):
    """A hit of a store: SHOWN columns, and ``score``, greater is nearer (cosine, inner product, or negative distance)."""

    path: str
    sha256: str
    width: int
    height: int
    label: str | None
    metadata: dict[str, str]
    score: float

    @classmethod
    def of(cls, row: Mapping[str, Any], score: float) -> StoredHit:
        """From a row by column name, without null metadata."""
        metadata = {name: text for name, text in row.get(METADATA, {}).items() if text is not None}
        return cls(row["path"], row["sha256"], row["width"], row["height"], row.get("label"), metadata, score)

    def value(self, field: str) -> str | None:
        """Value that a condition on ``field`` refers to."""
        value = getattr(self, field) if field in formats.COLUMNS else self.metadata.get(field)
        return None if value is None else str(value)


class Store(Protocol):
    """A collection of a vector store; one subclass per kind of store, with its specifics only.

    ``most_rows``, ``deepest``: maximum rows of an ``upsert`` and hits of a ``search``. Written rows are visible to
    the next call. Methods raise the errors of the store's client.
    """

    most_rows: int
    deepest: int

    def description(self) -> str | None:
        """Metadata given to ``create``; None if the collection does not exist; "" if it was created by other software."""

    def create(self, info: StoreInfo) -> None:
        """Create the collection with ``info.to_json()``, atomically or repeatably."""

    def open(self, info: StoreInfo) -> None:
        """Prepare an existing collection."""

    def versions(self, ids: Sequence[str]) -> dict[str, str]:
        """``version`` of each existing row."""

    def upsert(self, rows: Part) -> None:
        """Write rows of COLUMNS, replacing rows of the same id, atomically or repeatably."""

    def delete(self, ids: Sequence[str]) -> None:
        """Remove rows."""

    def ids(self) -> Iterator[list[str]]:
        """All ids, in batches; no concurrent writes."""

    def vectors(self, ids: Sequence[str]) -> dict[str, Sequence[float]]:
        """Vectors of existing rows."""

    def count(self) -> int:
        """Number of rows."""

    def finish(self) -> None:
        """Maintenance after rows were written."""

    def native(self, condition: Condition) -> Any:
        """Equivalent condition for ``search``; None if the store cannot express it (``sql_text``)."""

    def search(self, vectors: FloatArray, top: int, where: Sequence[Any]) -> list[list[StoredHit]]:
        """``top`` nearest rows per vector that meet all of ``where``, nearest first."""

    def close(self) -> None:
        """Close the connection."""


def batch_rows(most: int, size: int) -> int:
    """Number of rows of ``size`` bytes per batch."""
    return max(1, min(most, BATCH_BYTES // (size + 512)))


def sql_text(condition: Condition) -> str | None:
    r"""What the field is to equal, or if the condition is a glob to be LIKE, with ``\`` escaping.

    None for conditions without an equivalent: globs with ``[...]``, and order conditions, whose numbers are parsed
    by Python.
    """
    if condition.order or formats.COLUMNS.get(condition.field) == pa.int32() or (condition.glob and "[" in condition.text):
        return None
    if not condition.glob:
        return condition.text
    special = {"*": "%", "?": "_", "%": r"\%", "_": r"\_", "\\": r"\\"}
    return "".join(special.get(letter, letter) for letter in condition.text)
