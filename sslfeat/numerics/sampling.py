"""Some of many rows: at random, the same for the same numbers, or evenly spread; in order."""

from __future__ import annotations

import numpy as np

from sslfeat.numerics.arrays import IntArray


def sample(count: int, limit: int, seed: int = 0) -> IntArray:
    """Row numbers (min(count, limit),), rising: all of them, or so many drawn without return.

    Rows lie in the order of their paths, that is by class: the first, or every other of a regular order, are no sample.
    """
    return np.sort(np.random.default_rng(seed).permutation(count)[:limit])


def evenly(count: int, limit: int) -> IntArray:
    """Row numbers (min(count, limit),), rising, evenly spread."""
    return np.linspace(0, count - 1, min(limit, count)).astype(np.int64)
