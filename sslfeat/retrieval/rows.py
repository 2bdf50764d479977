"""Paths, labels and metadata of the rows: ``ids.parquet``, read on demand."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sslfeat.errors import RetrievalError
from sslfeat.retrieval.vectors import COLUMNS, describing, joined_rows, table

REMOVED = "removed"
GROUP = 32_768  # rows that are read together


class Ids:
    """The verified file at ``path``. Raises RetrievalError if the numbers of rows or ``removed`` rows differ."""

    def __init__(self, path: Path, recorded: int, removed: int) -> None:
        self._path = path
        try:
            self._file = pq.ParquetFile(path)
            rows, names = self._file.metadata.num_rows, set(self._file.schema_arrow.names)
            if missing := {*COLUMNS, REMOVED} - names:
                raise RetrievalError(f"{path} has no column {min(missing)!r}")
            if rows != recorded:
                raise RetrievalError(f"{path} has {rows} rows instead of {recorded}")
            self.removed: npt.NDArray[np.bool_] = np.zeros(rows, bool)
            if removed:
                self.removed = self._file.read([REMOVED])[REMOVED].to_numpy().astype(bool)
        except (OSError, pa.ArrowException) as error:
            raise RetrievalError(f"{path} cannot be read: {error}") from error
        if (found := int(self.removed.sum())) != removed:
            raise RetrievalError(f"{path} has {found} removed rows instead of {removed}")

    @functools.cached_property
    def table(self) -> pa.Table:
        """All rows: path, sha256, width, height, label, and metadata as text."""
        return self._file.read([*COLUMNS, *describing(self._file.schema_arrow.empty_table())])

    @functools.cached_property
    def paths(self) -> pa.ChunkedArray:
        """The paths only."""
        return self._file.read(["path"])["path"]

    def parts(self) -> Iterator[pa.Table]:
        """All rows, a group at a time."""
        names = [name for name in self._file.schema_arrow.names if name != REMOVED]
        for group in range(self._file.num_row_groups):
            yield self._file.read_row_group(group, names)

    def row_of(self, path: str) -> int:
        """Row number of ``path`` if not removed, else -1."""
        same = pc.equal(self.paths, name_of(path)).to_numpy() & ~self.removed
        return int(same.argmax()) if same.any() else -1

    def ending_with(self, name: str) -> list[str]:
        """Paths, not removed, that end with ``name``."""
        there = pc.ends_with(self.paths, "/" + name_of(name).lstrip("/")).to_numpy() & ~self.removed
        return [str(path) for path in self.paths.filter(pa.array(there)).to_pylist()]

    def like(self, name: str) -> list[str]:
        """Paths, not removed, that end with ``name``, ignoring case and file extension."""
        stem = re.escape(os.path.splitext(name_of(name))[0])
        there = pc.match_substring_regex(self.paths, rf"(^|/){stem}(\.[^./]*)?$", ignore_case=True).to_numpy() & ~self.removed
        return [str(path) for path in self.paths.filter(pa.array(there)).to_pylist()]

    def describe(self, rows: Sequence[int]) -> pa.Table:
        """Path, label and metadata of some rows; only the groups that hold them are read."""
        none = self._file.schema_arrow.empty_table()
        names = ["path", "label", *describing(none)]
        sizes = [self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups)]
        ends = np.cumsum(sizes)
        groups = np.searchsorted(ends, rows, side="right").tolist()
        parts = {group: self._file.read_row_group(group, names) for group in set(groups)}
        starts = (ends - sizes).tolist()
        pairs = zip(rows, groups, strict=True)
        return pa.concat_tables([none.select(names), *(parts[group].slice(row - starts[group], 1) for row, group in pairs)])


def name_of(path: str) -> str:
    """Name of the file ``path`` in rows; bytes that are not text as in ``ImageRecord.name``."""
    try:
        return os.fsencode(path).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # not a valid file name
        return path.encode("utf-8", "backslashreplace").decode()


class IdsWriter:
    """Writes the rows of an index in order to ``path``; the first block defines the columns."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: Any = None

    def __enter__(self) -> IdsWriter:
        self._file = self._path.open("wb")  # not by Arrow: a test counts what Python does to files, and crashes at each
        return self

    def __exit__(self, *error: object) -> None:
        with self._file:
            if self._writer is None:
                self.add(table([]))
            self._writer.close()

    def add(self, columns: pa.Table, removed: npt.NDArray[np.bool_] | None = None) -> None:
        """Write more rows; ``removed`` (N,), or none of them."""
        gone = np.zeros(len(columns), bool) if removed is None else removed
        rows = columns.select([*COLUMNS, *describing(columns)])
        if self._writer is None:
            first = joined_rows([table([]), rows]).schema.append(pa.field(REMOVED, pa.bool_()))
            self._writer = pq.ParquetWriter(self._file, first, compression="zstd")
        schema = self._writer.schema
        whole = joined_rows([schema.remove(len(schema) - 1).empty_table(), rows])
        self._writer.write_table(whole.append_column(REMOVED, pa.array(gone)).cast(schema), row_group_size=GROUP)


def write_ids(path: Path, columns: pa.Table, removed: npt.NDArray[np.bool_]) -> None:
    """Write the rows of an index, in its order."""
    with IdsWriter(path) as ids:
        ids.add(columns, removed)
