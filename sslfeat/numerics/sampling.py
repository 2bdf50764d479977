"""Some of many rows: a random choice, the same for the same numbers, in order."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def sample(count: int, limit: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """Row numbers (min(count, limit),), rising: all of them, or so many drawn without return.

    Rows lie in the order of their paths, that is by class: the first, or every other of a regular order, are no sample.
    """
    return np.sort(np.random.default_rng(seed).permutation(count)[:limit])
