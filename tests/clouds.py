"""Rows in clouds with their labels, and the recall of an approximate index among them, for tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from sslfeat import Index
from sslfeat.numerics.arrays import FloatArray
from sslfeat.retrieval import create as building
from sslfeat.retrieval import tuning
from sslfeat.retrieval.vectors import ArrayVectors, prepare, table

ROWS, DIM, CLOUDS = 9000, 16, 12
APPROXIMATE = ("ivf", "hnsw", "hnswsq", "ivfpq")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Indexes are approximate from 2,000 rows on; speeds decide nothing here, so they need not be measured well."""
    monkeypatch.setattr(tuning, "LAP_SECONDS", 0.001)
    monkeypatch.setattr(building, "SMALL", 2000)


def clouds(count: int, seed: int, only: tuple[int, ...] = tuple(range(CLOUDS))) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    centers = 2 * np.random.default_rng(99).normal(size=(CLOUDS, DIM))
    members = np.array(only)[rng.integers(0, len(only), count)]
    return (centers[members] + rng.normal(size=(count, DIM))).astype(np.float32), members


def named(rows: FloatArray, labels: npt.NDArray[np.int64], first: int = 0) -> ArrayVectors:
    columns = table([str(first + number) for number in range(len(rows))])
    place = columns.schema.get_field_index("label")
    return ArrayVectors(rows, columns.set_column(place, "label", pa.array([f"c{label}" for label in labels])))


def found(index: Index, queries: FloatArray, rows: FloatArray, k: int, **how: Any) -> float:
    """Share of the ``k`` nearest of ``rows``, by exact search done apart; every hit exists, and is as far as it is said."""
    hits = index.search(queries, top=k, **how)
    scores = -np.sort(-(prepare(queries, "cosine") @ prepare(rows, "cosine").T), axis=1)[:, :k]
    assert hits.rows.min() >= 0, "fewer came back than there are"
    assert np.all(np.diff(np.sort(hits.rows, axis=1), axis=1) > 0), "a row came twice"
    stored = index.vectors(hits.rows[0])
    np.testing.assert_allclose(hits.scores[0], stored @ prepare(queries[:1], "cosine")[0], atol=1e-5)
    return float((hits.scores >= scores[:, -1:] - 1e-5).mean())
