"""What the rows of an index are: ``ids.parquet``, of which only what is asked for is read."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sslfeat.errors import RetrievalError
from sslfeat.retrieval.vectors import COLUMNS

REMOVED = "removed"
GROUP = 32_768  # rows that are read together


class Ids:
    """The verified file at ``path``, of so many rows and ``removed`` ones. Raises RetrievalError if it has others."""

    def __init__(self, path: Path, recorded: int, removed: int) -> None:
        self._path = path
        try:
            self._file = pq.ParquetFile(path)
            rows, names = self._file.metadata.num_rows, set(self._file.schema_arrow.names)
            if missing := {*COLUMNS, REMOVED} - names:
                raise RetrievalError(f"{path} has no column {min(missing)!r}")
            if rows != recorded:
                raise RetrievalError(f"{path} has {rows} rows, {recorded} were recorded")
            self.removed: npt.NDArray[np.bool_] = np.zeros(rows, bool)
            if removed:
                self.removed = self._file.read([REMOVED])[REMOVED].to_numpy().astype(bool)
        except (OSError, pa.ArrowException) as error:
            raise RetrievalError(f"{path} cannot be read: {error}") from error
        if (found := int(self.removed.sum())) != removed:
            raise RetrievalError(f"{path} has {found} removed rows, {removed} were recorded")

    @functools.cached_property
    def table(self) -> pa.Table:
        """All rows: path, sha256, width, height, label."""
        return self._file.read(list(COLUMNS))

    @functools.cached_property
    def paths(self) -> pa.ChunkedArray:
        """The paths alone."""
        return self._file.read(["path"])["path"]

    def row_of(self, path: str) -> int:
        """The row called ``path`` that is not removed; -1 if there is none. Bytes that are no text are as ``Input.name``."""
        try:
            path = os.fsencode(path).decode("utf-8", "backslashreplace")
        except UnicodeEncodeError:  # not even a name that a file could have
            return -1
        same = pc.equal(self.paths, path).to_numpy() & ~self.removed
        return int(same.argmax()) if same.any() else -1

    def describe(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Path and label of some rows; only the groups that hold them are read."""
        sizes = [self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups)]
        ends = np.cumsum(sizes)
        groups = np.searchsorted(ends, rows, side="right").tolist()
        parts = {group: self._file.read_row_group(group, ["path", "label"]) for group in set(groups)}
        starts = (ends - sizes).tolist()
        pairs = zip(rows, groups, strict=True)
        return [parts[group].slice(row - starts[group], 1).to_pylist()[0] for row, group in pairs]


def write_ids(path: Path, columns: pa.Table, removed: npt.NDArray[np.bool_]) -> None:
    """Write the rows of an index, in its order."""
    table = columns.select(COLUMNS).append_column(REMOVED, pa.array(removed))
    with path.open("wb") as file:
        pq.write_table(table, file, compression="zstd", row_group_size=GROUP)
