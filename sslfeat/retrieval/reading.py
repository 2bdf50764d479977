"""FAISS reads an index file: what the file may make it allocate and repeat is limited by the file's own size."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SPARE = 1 << 20  # bytes, or rounds, for what a file of any size may need
LIMITS = ("vector_byte", "loop")
_alone = threading.Lock()  # the limits are the process's


def read_faiss(path: Path, mapped: bool = True) -> Any:
    """The index; ``mapped``: its exact vectors stay in the file, and it cannot grow. Raises RuntimeError, as FAISS does."""
    import faiss

    with _limited(path.stat().st_size + SPARE):
        return faiss.read_index(os.fspath(path), faiss.IO_FLAG_MMAP_IFC if mapped else 0)


@contextlib.contextmanager
def _limited(limit: int) -> Iterator[None]:
    """FAISS's limits are these meanwhile, and what they were before after it."""
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
