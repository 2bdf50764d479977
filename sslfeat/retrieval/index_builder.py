"""Incremental construction of an index of one or several FAISS files; full shards are written to their files.

Only one shard is in memory. All shards are trained on the same sample, so they have the same lists, and
are searched together like one index.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sslfeat.numerics.arrays import FloatArray
from sslfeat.retrieval.faiss_builder import Builder
from sslfeat.retrieval.index_types import IndexSpec, empty
from sslfeat.retrieval.metadata import vector_names
from sslfeat.retrieval.shards import Shards


class IndexBuilder:
    """As ``Builder``, of files with at most ``shard_rows`` rows each; None: one file."""

    def __init__(
        self, spec: IndexSpec, dim: int, metric: str, work: Path, sample: FloatArray, shard_rows: int | None = None
    ) -> None:
        """Trained on ``sample`` (N, ``dim``)."""
        self.spec, self.dim, self.metric, self.work, self._shard_rows = spec, dim, metric, work, shard_rows
        self._trained = None if spec.kind == "flat" else empty(spec, dim, metric, sample)
        self._shards = [self._another()]

    @classmethod
    def of(cls, paths: Sequence[Path], spec: IndexSpec, dim: int, metric: str, work: Path) -> IndexBuilder:
        """Continue an index from its verified files, which are not modified; the last one is rewritten in ``work``."""
        builder = cls.__new__(cls)
        builder.spec, builder.dim, builder.metric, builder.work, builder._trained = spec, dim, metric, work, None
        builder._shards = [Builder.resting(path, spec, dim, metric, work) for path in paths]
        builder._shard_rows = None
        builder._shards[-1].wake()
        return builder

    @property
    def count(self) -> int:
        """Number of rows, including kept-out ones."""
        return sum(shard.count for shard in self._shards)

    @property
    def kept_out(self) -> FloatArray:
        """The rows that are kept out, (n, D), by their lots."""
        order = np.argsort(self._lots)
        rows: FloatArray = np.concatenate([shard.kept_out for shard in self._shards])[order]
        return rows

    @property
    def _lots(self) -> npt.NDArray[np.float64]:
        lots: npt.NDArray[np.float64] = np.concatenate([shard.lots for shard in self._shards])
        return lots

    def add(self, rows: FloatArray, lots: npt.NDArray[np.float64] | None = None) -> None:
        """Append prepared rows (N, ``dim``); those whose lot, (N,), is not NaN are kept out."""
        while len(rows):
            last = self._shards[-1]
            room = len(rows) if self._shard_rows is None else self._shard_rows - last.count
            if not room:
                last.rest(self._path(len(self._shards) - 1))
                self._shards.append(self._another())
                continue
            last.add(rows[:room], None if lots is None else lots[:room])
            rows, lots = rows[room:], None if lots is None else lots[room:]

    def let_in(self, but: int = 0) -> FloatArray:
        """Add the kept-out rows except the ``but`` lowest lots; returns them, (n, D).

        Rows of full shards are added when these are written.
        """
        lots = np.sort(self._lots)
        last = self._shards[-1]
        return last.let_in(int((last.lots < lots[but]).sum()) if but < len(lots) else len(last.lots))

    def open(self) -> Any:
        """The current index; do not add rows while it is in use."""
        opened = [shard.open() for shard in self._shards]
        return opened[0] if len(opened) == 1 else Shards(opened, [shard.count for shard in self._shards])

    def inside(self) -> Iterator[FloatArray]:
        """Yield the vectors in the index, without kept-out ones, in blocks of any order."""
        for shard in self._shards:
            yield from shard.inside()

    def write(self) -> None:
        """Write the new files to ``work``, with all rows in order of their numbers."""
        for number in reversed(range(len(self._shards))):  # the last is not in a file yet
            shard = self._shards[number]
            if not shard.rests or len(shard.lots):
                shard.write(self._path(number))

    def discard(self) -> None:
        """Remove the files in ``work``."""
        for shard in self._shards:
            shard.discard()

    def _another(self) -> Builder:
        import faiss

        trained = self._trained
        if trained is not None and self._shard_rows is not None:
            trained = faiss.clone_index(trained)
        return Builder(self.spec, self.dim, self.metric, self.work, trained=trained)

    def _path(self, number: int) -> Path:
        total = 2 if self._shard_rows is not None else len(self._shards)
        return self.work / vector_names(max(total, number + 1))[number]
