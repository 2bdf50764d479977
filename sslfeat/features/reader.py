"""Read features folders.

``features.json`` holds the metadata, ``inputs.arrow`` the inputs, ``part-NNNNN.parquet`` (or the files of ``formats.py``)
the rows, ``part-NNNNN.json`` the commit records, ``failures.csv`` the failed images.

A folder may be replaced by an updated version while it is read. ``features.json`` is removed first and written last, so
data read while it did not change belong to one version; anything else is discarded.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sslfeat.data.manifest import MANIFEST_NAME, Manifest, is_described
from sslfeat.errors import FeaturesError
from sslfeat.features.commits import CommitRecord, check_commit, check_record
from sslfeat.features.formats import read_columns, read_embeddings
from sslfeat.features.metadata import (
    META_FOLDER,
    RUN_NAME,
    FeaturesMetadata,
    exchanging,
    files_of,
    load_manifest,
    part_count,
    read_run,
    slice_of,
)

if TYPE_CHECKING:
    import pandas as pd

PAUSES = (0.05, 0.2, 0.5, 1.0, 2.0)  # seconds between attempts to read a folder that is being replaced
T = TypeVar("T")
Stamp = tuple[int, bytes]


class ChangedError(FeaturesError):
    """The folder was replaced while it was read."""


class Watched:
    """Detects the replacement of an open features folder. ``run`` is its ``features.json``."""

    def __init__(self, folder: Path) -> None:
        """Wait a limited time for a replacement in progress. Raises FeaturesError if it is not a features folder."""
        self.folder = folder
        for pause in PAUSES:
            if not exchanging(folder):  # or the replacement is complete except for its marker
                break
            time.sleep(pause)
        stamp = self._stamp()
        self.run = read_run(folder)
        self._seen = stamp

    def check(self) -> None:
        """Raise ChangedError if data read since the folder was opened may belong to two versions."""
        if self._seen is None or self._stamp() != self._seen:
            raise ChangedError(f"{self.folder} was updated or replaced while it was read: read it again")

    def reading(self, read: Callable[[], T]) -> T:
        """Call ``read``. Raises ChangedError if the folder was replaced in the meantime."""
        try:
            found = read()
        except (FeaturesError, OSError):
            self.check()
            raise
        self.check()
        return found

    def _stamp(self) -> Stamp | None:
        path = self.folder / RUN_NAME
        try:
            return path.stat().st_mtime_ns, path.read_bytes()
        except OSError:
            return None


@dataclass(frozen=True)
class Part:
    """Rows of one part: ``columns`` path, sha256, width, height, label and metadata; ``embeddings`` float32 (n, D)."""

    columns: pa.Table
    embeddings: npt.NDArray[np.float32]


class FeaturesFolder:
    """A features folder on disk, read part by part; it may be larger than memory."""

    def __init__(self, folder: str | Path) -> None:
        """Raises FeaturesError if ``folder`` is not a features folder."""
        self.folder = Path(folder)
        self._watched = Watched(self.folder)
        self.run = self._watched.run
        self.dim, self.fingerprint = self.run.encoder.card.dim, self.run.encoder.fingerprint

    def rows(self) -> int:
        """Number of rows according to the commit records (files are not checked). Raises FeaturesError."""
        return self._watched.reading(lambda: sum(self._check(check_record, n).rows for n in range(part_count(self.run))))

    def parts(self) -> Iterator[Part]:
        """The parts in order.

        Raises FeaturesError if a part is missing or damaged, or if the folder was replaced since it was opened (parts
        read before then belong to the old version).
        """
        for number in range(part_count(self.run)):
            yield self._watched.reading(functools.partial(self._part, number))

    def _part(self, number: int) -> Part:
        files = files_of(self.run, number)
        before = self._stamps(files)
        commit = self._check(check_commit, number)
        columns = self._with_metadata(read_columns(self.folder, files), number, commit)
        part = Part(columns, read_embeddings(self.folder, files, self.dim))
        if self._stamps(files) != before:  # recomputed by a repair after it was hashed
            raise ChangedError(f"{self.folder / files[0]} was rewritten while it was read: read it again")
        if not commit.rows == part.columns.num_rows == len(part.embeddings):
            raise FeaturesError(
                f"{self.folder / files[0]}: {commit.rows} rows expected, {part.columns.num_rows} found, with "
                f"{len(part.embeddings)} embeddings: {_cure(self.folder)}"
            )
        return part

    def _with_metadata(self, columns: pa.Table, number: int, commit: CommitRecord) -> pa.Table:
        """Append the metadata columns (strings) of lists and containers; null where names are ambiguous."""
        if self._described is None:
            return columns
        failed, numbers = {name for name, _ in commit.failures}, slice_of(self.run, number)
        names = [(row, self._described.inputs[row].name) for row in numbers]
        good = [(row, name) for row, name in names if name not in failed]
        known = [name for _, name in good] == columns["path"].to_pylist()
        rows = pa.array([row if known else None for row, _ in good[: len(columns)]], pa.int64())
        for name, texts in self._described.metadata.items():
            columns = columns.append_column(name, texts.take(rows))
        return columns

    @functools.cached_property
    def _described(self) -> Manifest | None:
        """The inputs, if they have metadata beyond labels."""
        return load_manifest(self.folder, self.run) if is_described(self.folder / META_FOLDER / MANIFEST_NAME) else None

    def _check(self, check: Callable[[Path, FeaturesMetadata, int], CommitRecord], number: int) -> CommitRecord:
        try:
            return check(self.folder, self.run, number)
        except FeaturesError as error:
            raise FeaturesError(f"{error}: {_cure(self.folder)}") from error

    def _stamps(self, files: tuple[str, ...]) -> list[tuple[int, int]]:
        found = [(self.folder / name).stat() for name in files if (self.folder / name).exists()]
        return [(status.st_ino, status.st_mtime_ns) for status in found]


def _cure(folder: Path) -> str:
    return f"repeat the 'sslfeat embed' command, or run 'sslfeat repair {folder}'"


@dataclass(frozen=True)
class Features:
    """A features folder in memory: ``embeddings`` float32 (N, D), with ``paths`` and ``labels`` (None: no label).

    ``contents`` int64 (N,) is equal for identical files, within this process; None if unknown.
    """

    embeddings: npt.NDArray[np.float32]
    paths: list[str]
    labels: list[str | None]
    run: FeaturesMetadata
    contents: npt.NDArray[np.int64] | None = None

    @classmethod
    def load(cls, folder: str | Path) -> Features:
        """Load a complete features folder; retry if it is replaced in the meantime.

        Raises FeaturesError if a part is missing or its hash differs.
        """
        for pause in PAUSES:
            try:
                return cls._read(FeaturesFolder(folder))
            except ChangedError:
                time.sleep(pause)
        return cls._read(FeaturesFolder(folder))

    def to_pandas(self) -> pd.DataFrame:
        """Return a DataFrame with columns ``path``, ``label`` and ``embedding``. Requires pandas."""
        import pandas as pd

        return pd.DataFrame({"path": self.paths, "label": self.labels, "embedding": list(self.embeddings)})

    def __repr__(self) -> str:
        labels, encoder = len({*self.labels} - {None}), self.run.encoder.card.name
        return f"Features({len(self.paths)} x {self.embeddings.shape[1]}, {labels} labels, encoder {encoder!r})"

    @classmethod
    def _read(cls, opened: FeaturesFolder) -> Features:
        rows = opened.rows()
        try:
            embeddings = np.empty((rows, opened.dim), np.float32)
        except (MemoryError, ValueError) as error:
            raise FeaturesError(f"{opened.folder}: {rows} rows of dimension {opened.dim} do not fit in memory") from error
        tables, start = [], 0
        for part in opened.parts():
            stop = start + len(part.embeddings)
            if stop > len(embeddings):
                break
            embeddings[start:stop] = part.embeddings
            tables.append(part.columns.select(("path", "label", "sha256")))
            start = stop
        if start != len(embeddings) or len(tables) != part_count(opened.run):
            raise ChangedError(f"{opened.folder} was modified while it was read: read it again")
        if not tables:
            return cls(embeddings, [], [], opened.run, np.empty(0, np.int64))
        table = pa.concat_tables(tables)
        contents = contents_of(table["sha256"])
        return cls(embeddings, table["path"].to_pylist(), table["label"].to_pylist(), opened.run, contents)


def contents_of(sha256: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Return int64 (N,), equal for identical files within this process."""
    return np.fromiter(map(hash, sha256.to_pylist()), np.int64, len(sha256))
