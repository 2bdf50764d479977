"""FAISS's file of a flat index, written a block at a time, so that the vectors need never be in memory together."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import numpy as np

from sslfeat.retrieval.reading import read_faiss
from sslfeat.retrieval.vectors import FloatArray

COUNT_AT, SIZE_BYTES = 8, 8  # ntotal follows the file's kind and the dimension; the length in floats comes last


class FlatFile:
    """``path`` becomes what ``faiss.write_index`` would write for an IndexFlat with all rows added."""

    def __init__(self, path: Path, dim: int, metric: str) -> None:
        import faiss

        kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
        self.path, self.dim, self.count = path, dim, 0
        header = faiss.serialize_index(faiss.IndexFlat(dim, kind)).tobytes()
        path.write_bytes(header)
        self.header = len(header)

    def add(self, rows: FloatArray) -> None:
        """Append rows (N, D)."""
        with self.path.open("r+b") as file:
            file.seek(0, os.SEEK_END)
            file.write(np.ascontiguousarray(rows, np.float32).data)
            self.count += len(rows)
            file.seek(COUNT_AT)
            file.write(struct.pack("<q", self.count))
            file.seek(self.header - SIZE_BYTES)
            file.write(struct.pack("<Q", self.count * self.dim))

    def open(self) -> Any:
        """The index; its vectors stay in the file. It must not grow while it is open."""
        return read_faiss(self.path)
