"""FAISS files: reading with limits based on the file size, and writing flat indexes block by block.

Allocations and loops of FAISS are limited by the size of the file. Vectors of a flat index need not be in memory
at once: they are appended to a file in the format of FAISS.
"""

from __future__ import annotations

import contextlib
import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sslfeat.errors import RetrievalError
from sslfeat.numerics.arrays import FloatArray

SPARE = 1 << 20  # bytes or iterations allowed for any file
LIMITS = ("vector_byte", "loop")
COUNT_AT, SIZE_BYTES = 8, 8  # of a flat index: ntotal follows kind and dimension; the length in floats comes last
_alone = threading.Lock()  # the limits are global


def read_faiss(path: Path, mapped: bool = True) -> Any:
    """Read an index; ``mapped``: exact vectors stay in the file, and rows cannot be added. Raises RuntimeError, as FAISS."""
    import faiss

    with _limited(path.stat().st_size + SPARE):
        return faiss.read_index(os.fspath(path), faiss.IO_FLAG_MMAP_IFC if mapped else 0)


@contextlib.contextmanager
def _limited(limit: int) -> Iterator[None]:
    """Set the limits of FAISS within the block."""
    import faiss

    with _alone:
        before = [getattr(faiss, f"get_deserialization_{name}_limit")() for name in LIMITS]
        try:
            for name in LIMITS:
                getattr(faiss, f"set_deserialization_{name}_limit")(limit)
            yield
        finally:
            for name, value in zip(LIMITS, before, strict=True):
                getattr(faiss, f"set_deserialization_{name}_limit")(value)


class FlatFile:
    """Writes ``path`` as ``faiss.write_index`` writes an IndexFlat with all rows."""

    def __init__(self, path: Path, dim: int, metric: str) -> None:
        import faiss

        kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
        self.path, self.dim, self.count = path, dim, 0
        empty = faiss.serialize_index(faiss.IndexFlat(dim, kind)).tobytes()
        self.header = len(empty)
        filled = faiss.IndexFlat(dim, kind)
        filled.add(np.ones((1, dim), np.float32))
        if faiss.serialize_index(filled).tobytes() != self._header(empty, 1) + np.ones(dim, "<f4").tobytes():
            raise RetrievalError(f"FAISS {faiss.__version__} writes flat indexes in an unknown layout")
        path.write_bytes(empty)

    def add(self, rows: FloatArray) -> None:
        """Append rows (N, D)."""
        with self.path.open("r+b") as file:
            file.seek(0, os.SEEK_END)
            file.write(np.ascontiguousarray(rows, np.float32).data)
            self.count += len(rows)
            file.seek(0)
            header = self._header(file.read(self.header), self.count)
            file.seek(0)
            file.write(header)

    def _header(self, header: bytes, count: int) -> bytes:
        """Header with the number of rows in both places."""
        before, between = header[:COUNT_AT], header[COUNT_AT + 8 : -SIZE_BYTES]
        return before + struct.pack("<q", count) + between + struct.pack("<Q", count * self.dim)

    def open(self) -> Any:
        """The index, with vectors in the file; do not add rows while it is open."""
        return read_faiss(self.path)
