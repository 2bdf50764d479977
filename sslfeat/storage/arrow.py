"""Arrow columns created from buffers, since ``pyarrow.array`` imports pandas if installed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def strings(values: Sequence[str | None]) -> pa.Array:
    """A column of text; None is null."""
    return _bytes(pa.large_string(), [None if value is None else value.encode() for value in values]).cast(pa.string())


def binaries(values: Sequence[bytes]) -> pa.Array:
    """A column of bytes."""
    return _bytes(pa.large_binary(), values)


def fixed(values: bytes, width: int) -> pa.Array:
    """A column of byte strings of ``width`` bytes each, from all of them joined."""
    return pa.Array.from_buffers(pa.binary(width), len(values) // width, [None, pa.py_buffer(values)])


def numbers(values: npt.ArrayLike, dtype: Any) -> pa.Array:
    """A column of numbers of a NumPy ``dtype``."""
    array = np.ascontiguousarray(values, dtype)
    return pa.Array.from_buffers(pa.from_numpy_dtype(array.dtype), array.size, [None, pa.py_buffer(array)])


def vectors(rows: npt.NDArray[np.float32]) -> pa.Array:
    """A column of vectors, from float32 (N, D)."""
    return pa.FixedSizeListArray.from_arrays(numbers(rows.ravel(), np.float32), rows.shape[1])


def _bytes(kind: pa.DataType, values: Sequence[bytes | None]) -> pa.Array:
    lengths = np.fromiter((len(value or b"") for value in values), np.int64, len(values))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    present = np.fromiter((value is not None for value in values), bool, len(values))
    nulls = int(len(values) - present.sum())
    validity = pa.py_buffer(np.packbits(present, bitorder="little")) if nulls else None
    buffers = [validity, pa.py_buffer(offsets), pa.py_buffer(b"".join(value or b"" for value in values))]
    return pa.Array.from_buffers(kind, len(values), buffers, nulls)
