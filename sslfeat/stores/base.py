"""What a vector store must be able to do, what is kept in one, and what it says of itself."""

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

METADATA = "metadata"  # texts by name; an object in stores that have such
TEXTS = pa.map_(pa.string(), pa.string())
# of each row: its id, a UUID that its path decides; what is known of the image; and a hash of all that is stored of it
COLUMNS: dict[str, pa.DataType] = {"id": pa.string(), **formats.COLUMNS, METADATA: TEXTS, "version": pa.string()}
EMBEDDING = "embedding"
SHOWN = (*formats.COLUMNS, METADATA)  # of a hit: enough to show it and to check conditions
BATCH_BYTES = 16 << 20


@dataclass(frozen=True)
class StoreInfo:
    """What a collection holds. It is kept in the collection itself, as JSON, in the place that the store has for such.

    ``fields`` are the names that its rows' metadata may have.
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
        """The text that is kept."""
        return json.dumps({"sslfeat": asdict(self)}, sort_keys=True)


class StoredHit(NamedTuple):
    """A row that a store found: SHOWN, and ``score``, greater is nearer (cosine, inner product, or minus the distance)."""

    path: str
    sha256: str
    width: int
    height: int
    label: str | None
    metadata: dict[str, str]
    score: float

    @classmethod
    def of(cls, row: Mapping[str, Any], score: float) -> StoredHit:
        """From a row by name; of the metadata, what is null is left out."""
        metadata = {name: text for name, text in row.get(METADATA, {}).items() if text is not None}
        return cls(row["path"], row["sha256"], row["width"], row["height"], row.get("label"), metadata, score)

    def value(self, field: str) -> str | None:
        """What a condition on ``field`` is about."""
        value = getattr(self, field) if field in formats.COLUMNS else self.metadata.get(field)
        return None if value is None else str(value)


class Store(Protocol):
    """A collection of one vector store: one of these a kind of store, and nothing beyond what only it knows.

    ``most_rows`` and ``deepest`` are the most rows of one ``upsert`` and hits of one ``search``. What was written is found by
    whatever is called next. Methods raise what the store's client does.
    """

    most_rows: int
    deepest: int

    def description(self) -> str | None:
        """What ``create`` was given; None if there is no such collection; "" if somebody else made it."""

    def create(self, info: StoreInfo) -> None:
        """Make the collection, with ``info.to_json()``, in one step or so that it can be done again."""

    def open(self, info: StoreInfo) -> None:
        """Make an existing collection ready."""

    def versions(self, ids: Sequence[str]) -> dict[str, str]:
        """The ``version`` of each of these rows that is there."""

    def upsert(self, rows: Part) -> None:
        """Write rows of COLUMNS; one of the same id is replaced. All or none, or so that it can be done again."""

    def delete(self, ids: Sequence[str]) -> None:
        """Remove rows."""

    def ids(self) -> Iterator[list[str]]:
        """All ids, in pieces, while nothing is written."""

    def vectors(self, ids: Sequence[str]) -> dict[str, Sequence[float]]:
        """The vectors of the rows that are there."""

    def count(self) -> int:
        """How many rows there are."""

    def finish(self) -> None:
        """What is worth doing after rows were written."""

    def native(self, condition: Condition) -> Any:
        """The condition as ``search`` takes it, of exactly the same meaning; None if the store cannot say it (``sql_text``)."""

    def search(self, vectors: FloatArray, top: int, where: Sequence[Any]) -> list[list[StoredHit]]:
        """The ``top`` nearest rows of each vector that meet all of ``where``, nearest first."""

    def close(self) -> None:
        """Let go of it."""


def batch_rows(most: int, size: int) -> int:
    """How many rows of ``size`` bytes are written at once."""
    return max(1, min(most, BATCH_BYTES // (size + 512)))


def sql_text(condition: Condition) -> str | None:
    r"""What the field is to equal, or if the condition is a glob to be LIKE, with ``\`` escaping.

    None for what stores say otherwise or not at all: globs with ``[...]``, and whatever is about numbers, which Python reads
    from texts in its own way.
    """
    if condition.order or formats.COLUMNS.get(condition.field) == pa.int32() or (condition.glob and "[" in condition.text):
        return None
    if not condition.glob:
        return condition.text
    special = {"*": "%", "?": "_", "%": r"\%", "_": r"\_", "\\": r"\\"}
    return "".join(special.get(letter, letter) for letter in condition.text)
