"""What can be said of two encoders whose embeddings have different lengths."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from sslfeat.numerics.similarity import linear_cka, rank_correlation
from tests.conftest import sslfeat


def drawn(rows: int = 30) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (rows, 6)).astype(np.float32)
    return x, (np.tanh(x @ rng.normal(0, 1, (6, 9))) + rng.normal(0, 0.3, (rows, 9)) + 4).astype(np.float32)


def test_cka_by_its_definition_on_kernels() -> None:
    x, y = drawn()
    center = np.eye(len(x)) - 1 / len(x)
    k, m = (center @ (rows.astype(float) @ rows.T.astype(float)) @ center for rows in (x, y))
    assert linear_cka(x, y) == pytest.approx(np.trace(k @ m) / np.sqrt(np.trace(k @ k) * np.trace(m @ m)))
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0]
    assert linear_cka(x, (3 * x @ rotation + 7).astype(np.float32)) == pytest.approx(1, abs=1e-5)
    assert np.isnan(linear_cka(x, np.ones((len(x), 2), np.float32)))


def test_rank_correlation_pair_by_pair() -> None:
    x, y = drawn(12)
    x[3] = x[4]  # ties
    seen = [
        [float(np.float32(a @ b / np.linalg.norm(a) / np.linalg.norm(b))) for n, a in enumerate(rows) for b in rows[n + 1 :]]
        for rows in (x, y)
    ]
    assert rank_correlation(x, y) == pytest.approx(spearmanr(*seen).statistic, abs=1e-3)
    assert rank_correlation(x, 2 * x) == pytest.approx(1, abs=1e-5)
    assert np.isnan(rank_correlation(x, np.ones((len(x), 2), np.float32)))


def test_the_command_on_encoders_of_different_dimension(tiny: Path, image_folder: Path, tmp_path: Path) -> None:
    line = ("compare", tiny, "sslfeat-tiny", "--images", image_folder, "--show", "1")
    done = sslfeat(*line, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["dims"] == [8, 256]
    assert found["cosine_least"] is None and 0 < found["cka"] < 1 and -1 < found["rank_correlation"] < 1
    told = sslfeat(*line)
    assert "embeddings of 8 and 256 dimensions cannot be compared by cosine" in told.stderr
    assert all(word in told.stdout for word in ("overlap@10", "CKA", "Spearman"))
    assert "cosine  " not in told.stdout
