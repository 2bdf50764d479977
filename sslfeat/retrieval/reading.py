"""FAISS reads an index file: what the file may make it allocate and repeat is limited by the file's own size."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

SPARE = 1 << 20  # bytes, or rounds, for what a file of any size may need


def read_faiss(path: Path, mapped: bool = True) -> Any:
    """The index; ``mapped``: its exact vectors stay in the file, and it cannot grow. Raises RuntimeError, as FAISS does.

    The limits are the process's, so they are set for each file anew.
    """
    import faiss

    limit = path.stat().st_size + SPARE
    faiss.set_deserialization_vector_byte_limit(limit)
    faiss.set_deserialization_loop_limit(limit)
    return faiss.read_index(os.fspath(path), faiss.IO_FLAG_MMAP_IFC if mapped else 0)
