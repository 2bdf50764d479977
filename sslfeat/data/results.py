"""Outcomes of embedding an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sslfeat.data.decode import Source


@dataclass(frozen=True)
class Embedded:
    """Embedding, float32 (D,), with sha256 and upright size in px of the source."""

    embedding: npt.NDArray[np.float32]
    sha256: str
    width: int
    height: int


@dataclass(frozen=True)
class Failed:
    """An image that could not be read, with the reason."""

    reason: str


@dataclass(frozen=True)
class Batch:
    """``outcomes[i]`` is the outcome of ``sources[i]``; ``decode`` and ``infer`` are times in seconds."""

    sources: Sequence[Source]
    outcomes: Sequence[Embedded | Failed]
    decode: float
    infer: float
