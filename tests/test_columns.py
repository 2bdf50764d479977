"""Columns made from buffers are those that pyarrow makes."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from sslfeat.storage.arrow import binaries, numbers, strings, vectors


@pytest.mark.parametrize("values", [[], ["a"], [None], ["", None, "\u00e9\U0001f600", "x" * 300, None] * 5, ["a"] * 9])
def test_text(values: list[str | None]) -> None:
    column = strings(values)
    column.validate(full=True)
    assert column.equals(pa.array(values, pa.string()))


def test_bytes_numbers_and_vectors() -> None:
    raw = [b"", b"\xff\x00", b"abc"]
    assert binaries(raw).equals(pa.array(raw, pa.large_binary()))
    assert numbers([1, -2, 3], np.int32).equals(pa.array([1, -2, 3], pa.int32()))
    rows = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    assert vectors(rows).to_pylist() == [list(map(float, row)) for row in rows]
    assert len(vectors(np.empty((0, 3), np.float32))) == 0
