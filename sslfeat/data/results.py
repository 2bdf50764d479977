"""What becomes of an image: an embedding, or a reason why not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sslfeat.data.decode import Source


@dataclass(frozen=True)
class Embedded:
    """An image's embedding, float32 (D,), with its source's sha256 and upright size in px."""

    embedding: npt.NDArray[np.float32]
    sha256: str
    width: int
    height: int


@dataclass(frozen=True)
class Failed:
    """An image that could not be read, and why."""

    reason: str


@dataclass(frozen=True)
class Batch:
    """``outcomes[i]`` is what became of ``sources[i]``; ``decode`` and ``infer`` are the seconds it took."""

    sources: Sequence[Source]
    outcomes: Sequence[Embedded | Failed]
    decode: float
    infer: float
