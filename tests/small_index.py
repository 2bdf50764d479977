"""Random rows and fast settings for tests of small indexes, whose speed decides nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sslfeat.retrieval import tuning


def rows(count: int, dim: int = 8, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)


@pytest.fixture(autouse=True)
def short_laps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "LAP_SECONDS", 0.001)
