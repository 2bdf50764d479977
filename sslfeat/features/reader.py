"""Features folders: what is in them, and reading them.

``features.json`` says what made the folder, ``inputs.arrow`` of what; ``part-NNNNN.parquet`` (or what ``formats.py`` names)
hold the rows, ``part-NNNNN.json`` commit them, ``failures.csv`` lists the images that gave none.

A folder may be exchanged for an updated one while it is read. Then ``features.json`` goes first and comes last, so what was
read while it stayed the same is of one folder; everything else is thrown away.
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

PAUSES = (0.05, 0.2, 0.5, 1.0, 2.0)  # seconds, between attempts to find a folder at rest
T = TypeVar("T")
Stamp = tuple[int, bytes]


class ChangedError(FeaturesError):
    """The folder was exchanged for another while it was read."""


class Watched:
    """Whether a features folder is still the one that was opened. ``run`` is its ``features.json``."""

    def __init__(self, folder: Path) -> None:
        """Raises FeaturesError if it is no features folder; an exchange that is under way is waited for, not for ever."""
        self.folder = folder
        for pause in PAUSES:
            if not exchanging(folder):  # or all but the mark has arrived: features.json is there, or never was
                break
            time.sleep(pause)
        stamp = self._stamp()
        self.run = read_run(folder)
        self._seen = stamp

    def check(self) -> None:
        """Raise ChangedError if what has been read since it was opened may be of two folders."""
        if self._seen is None or self._stamp() != self._seen:
            raise ChangedError(f"{self.folder} was updated or made anew while it was read: read it again")

    def reading(self, read: Callable[[], T]) -> T:
        """What ``read`` returns, or raises, if the folder is still the same then; else ChangedError."""
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
    """Some rows: ``columns`` path, sha256, width, height, label and what else is known; ``embeddings`` float32 (n, D)."""

    columns: pa.Table
    embeddings: npt.NDArray[np.float32]


class FeaturesFolder:
    """A features folder on disk, read a part at a time: it may be larger than memory."""

    def __init__(self, folder: str | Path) -> None:
        """Raises FeaturesError if ``folder`` is no features folder."""
        self.folder = Path(folder)
        self._watched = Watched(self.folder)
        self.run = self._watched.run
        self.dim, self.fingerprint = self.run.encoder.card.dim, self.run.encoder.fingerprint

    def rows(self) -> int:
        """How many rows there are, going by the records, whose files are not looked at. Raises FeaturesError."""
        return self._watched.reading(lambda: sum(self._check(check_record, n).rows for n in range(part_count(self.run))))

    def parts(self) -> Iterator[Part]:
        """The parts in order.

        Raises FeaturesError at one that is missing or whose hash differs, and when the folder has been exchanged for
        another since it was opened: what was read until then is of the old one.
        """
        for number in range(part_count(self.run)):
            yield self._watched.reading(functools.partial(self._part, number))

    def _part(self, number: int) -> Part:
        files = files_of(self.run, number)
        before = self._stamps(files)
        commit = self._check(check_commit, number)
        columns = self._with_metadata(read_columns(self.folder, files), number, commit)
        part = Part(columns, read_embeddings(self.folder, files, self.dim))
        if self._stamps(files) != before:  # made again, as a repair does, after it was hashed
            raise ChangedError(f"{self.folder / files[0]} was made again while it was read: read it again")
        if not commit.rows == part.columns.num_rows == len(part.embeddings):
            raise FeaturesError(
                f"{self.folder / files[0]}: {commit.rows} rows were recorded, {part.columns.num_rows} are there, with "
                f"{len(part.embeddings)} embeddings: {_cure(self.folder)}"
            )
        return part

    def _with_metadata(self, columns: pa.Table, number: int, commit: CommitRecord) -> pa.Table:
        """The rows with what lists and containers say of their images, columns of text; null where names are ambiguous."""
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
        """The inputs, if anything but a label is said of them."""
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
    return f"complete it with 'sslfeat embed' as before, or with 'sslfeat repair {folder}'"


@dataclass(frozen=True)
class Features:
    """A features folder in memory: ``embeddings`` float32 (N, D), with ``paths`` and ``labels`` (None: no label).

    ``contents`` int64 (N,) are equal for images whose files are, in this process; None where that is not known.
    """

    embeddings: npt.NDArray[np.float32]
    paths: list[str]
    labels: list[str | None]
    run: FeaturesMetadata
    contents: npt.NDArray[np.int64] | None = None

    @classmethod
    def load(cls, folder: str | Path) -> Features:
        """Read a complete features folder; one that is exchanged meanwhile is read again.

        Raises FeaturesError if a part is missing or its hash differs.
        """
        for pause in PAUSES:
            try:
                return cls._read(FeaturesFolder(folder))
            except ChangedError:
                time.sleep(pause)
        return cls._read(FeaturesFolder(folder))

    def to_pandas(self) -> pd.DataFrame:
        """``path``, ``label`` and ``embedding``, a row each; pandas must be installed."""
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
            raise FeaturesError(f"{opened.folder}: {rows} rows of {opened.dim} numbers are more than memory holds") from error
        tables, start = [], 0
        for part in opened.parts():
            stop = start + len(part.embeddings)
            if stop > len(embeddings):
                break
            embeddings[start:stop] = part.embeddings
            tables.append(part.columns.select(("path", "label", "sha256")))
            start = stop
        if start != len(embeddings) or len(tables) != part_count(opened.run):
            raise ChangedError(f"{opened.folder} was written to while it was read: read it again")
        if not tables:
            return cls(embeddings, [], [], opened.run, np.empty(0, np.int64))
        table = pa.concat_tables(tables)
        contents = contents_of(table["sha256"])
        return cls(embeddings, table["path"].to_pylist(), table["label"].to_pylist(), opened.run, contents)


def contents_of(sha256: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """A number for each image, (N,), the same in this process for files of one content."""
    return np.fromiter(map(hash, sha256.to_pylist()), np.int64, len(sha256))
