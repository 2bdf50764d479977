"""Sources of vectors: a features folder read part by part, or arrays in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sslfeat.errors import InputError, RetrievalError
from sslfeat.features.reader import FeaturesFolder, Part
from sslfeat.inference.model_card import Identity
from sslfeat.numerics.arrays import FloatArray
from sslfeat.numerics.similarity import LONGEST, unit
from sslfeat.storage.arrow import numbers, strings
from sslfeat.storage.mirror import name_of

METRICS = ("cosine", "ip", "l2")
BLOCK = 65_536  # rows per block
COLUMNS = ("path", "sha256", "width", "height", "label")


@dataclass(frozen=True)
class Maker(Identity):
    """Encoder of vectors; ``path`` is its file, if given."""

    precision: str
    path: str | None = None


class Vectors(Protocol):
    """``count`` rows of ``dim`` float32; ``parts`` yields them in the same order at each call."""

    @property
    def count(self) -> int: ...

    @property
    def dim(self) -> int: ...

    @property
    def encoder(self) -> Maker | None: ...

    @property
    def origin(self) -> str: ...

    def parts(self) -> Iterator[Part]: ...


class FolderVectors:
    """The rows of a features folder."""

    def __init__(self, folder: str | Path, encoder_path: str | None = None) -> None:
        self.features = FeaturesFolder(folder)
        self.count, self.dim, self.origin = self.features.rows(), self.features.dim, name_of(Path(folder))
        run = self.features.run
        self.encoder: Maker | None = Maker(run.encoder.card.name, run.encoder.fingerprint, run.precision["ran"], encoder_path)

    def parts(self) -> Iterator[Part]:
        """See ``Vectors``. Raises FeaturesError for a missing or damaged part."""
        return self.features.parts()


@dataclass(frozen=True)
class ArrayVectors:
    """``embeddings`` float32 (N, D) with their ``columns`` (default: a row's number is its path)."""

    embeddings: FloatArray
    columns: pa.Table
    encoder: Maker | None = None
    origin: str = "an array"

    @classmethod
    def of(cls, embeddings: npt.ArrayLike, paths: Sequence[str] | None = None) -> ArrayVectors:
        """Rows with ``paths``. Raises InputError if the shape is not (N, D), or the paths do not match."""
        rows = np.ascontiguousarray(embeddings, np.float32)
        if rows.ndim != 2:
            raise InputError(f"vectors have shape {rows.shape}, but must be (N, D)")
        names = [str(number) for number in range(len(rows))] if paths is None else list(paths)
        if len(names) != len(rows) or len(set(names)) != len(names):
            raise InputError(f"{len(rows)} vectors need as many unique names, not {len(set(names))}")
        return cls(rows, table(names))

    @property
    def count(self) -> int:
        """Rows."""
        return len(self.embeddings)

    @property
    def dim(self) -> int:
        """Length of a row."""
        return int(self.embeddings.shape[1])

    def parts(self) -> Iterator[Part]:
        """All rows at once."""
        yield Part(self.columns, self.embeddings)


def table(paths: Sequence[str]) -> pa.Table:
    """Columns of rows with known paths only."""
    unknown: list[str | None] = [None] * len(paths)
    zeros = numbers(np.zeros(len(paths)), np.int32)
    columns = (strings(list(paths)), strings(unknown), zeros, zeros, strings(unknown))
    return pa.table(dict(zip(COLUMNS, columns, strict=True)))


def blocks(vectors: Vectors, metric: str) -> Iterator[tuple[pa.Table, FloatArray]]:
    """Rows in blocks of about BLOCK, prepared for ``metric`` (see ``prepare``)."""
    tables: list[pa.Table] = []
    rows: list[FloatArray] = []
    for part in vectors.parts():
        tables.append(part.columns.select([*COLUMNS, *describing(part.columns)]))
        rows.append(part.embeddings)
        if sum(map(len, rows)) >= BLOCK:
            yield _joined(tables, rows, metric)
            tables, rows = [], []
    if rows:
        yield _joined(tables, rows, metric)


def describing(columns: pa.Table) -> list[str]:
    """Names of text columns other than COLUMNS: metadata from lists and containers."""
    kinds = zip(columns.schema.names, columns.schema.types, strict=True)
    return [name for name, kind in kinds if name not in COLUMNS and kind == pa.string()]


def metadata_of(columns: pa.Table) -> list[dict[str, str]]:
    """Metadata of each row by name, without nulls."""
    names = sorted(describing(columns))
    values = zip(*(columns[name].to_pylist() for name in names), strict=True) if names else iter([()] * len(columns))
    return [{name: text for name, text in zip(names, row, strict=True) if text is not None} for row in values]


def joined_rows(tables: Sequence[pa.Table]) -> pa.Table:
    """Concatenated rows; missing columns are null."""
    return pa.concat_tables(tables, promote_options="default")


def _joined(tables: list[pa.Table], rows: list[FloatArray], metric: str) -> tuple[pa.Table, FloatArray]:
    columns = joined_rows(tables)
    joined = np.concatenate(rows) if len(rows) > 1 else rows[0]
    bad = np.flatnonzero(~np.isfinite(joined).all(1))
    if bad.size:
        raise RetrievalError(
            f"the features of {columns['path'][int(bad[0])].as_py()} are not finite ({bad.size} rows): the encoder "
            "is damaged, or overflows at low precision"
        )
    return columns, prepare(joined, metric)


def prepare(rows: npt.ArrayLike, metric: str) -> FloatArray:
    """Contiguous float32 (N, D); for ``cosine`` copies of unit length, since cosine is their inner product.

    Raises InputError for other metrics if the squared norm of a row overflows float32.
    """
    if metric == "cosine":
        return unit(rows)
    array = np.ascontiguousarray(rows, np.float32)
    with np.errstate(over="ignore"):
        longest = np.linalg.norm(array, axis=1).max(initial=0)
    if longest > LONGEST:
        raise InputError(f"a vector has norm {longest:.3g}, but {metric} allows at most {LONGEST:.3g}: rescale the vectors")
    return array


def as_vectors(features: str | Path | Vectors | npt.ArrayLike, paths: Sequence[str] | None = None) -> Vectors:
    """Convert a features folder path or an array to ``Vectors``."""
    if isinstance(features, str | Path):
        return FolderVectors(features)
    if hasattr(features, "parts"):
        return cast(Vectors, features)
    return ArrayVectors.of(cast(npt.ArrayLike, features), paths)
