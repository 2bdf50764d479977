"""Sampling of rows: random with a fixed seed, or evenly spaced; sorted."""

from __future__ import annotations

import numpy as np

from sslfeat.numerics.arrays import IntArray


def sample(count: int, limit: int, seed: int = 0) -> IntArray:
    """Row numbers (min(count, limit),), ascending: all, or a random sample without replacement.

    Rows are sorted by path, often by class, so the first rows, or every n-th, would not be representative.
    """
    return np.sort(np.random.default_rng(seed).permutation(count)[:limit])


def evenly(count: int, limit: int) -> IntArray:
    """Row numbers (min(count, limit),), ascending, evenly spaced."""
    return np.linspace(0, count - 1, min(limit, count)).astype(np.int64)
