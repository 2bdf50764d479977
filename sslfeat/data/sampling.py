"""Decode a sample of images."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

import numpy as np
import numpy.typing as npt

from sslfeat.data.decode import Decoded, Pixels
from sslfeat.data.decode_worker import DEFAULT_LIMITS
from sslfeat.data.subprocess_decoder import SubprocessDecoder
from sslfeat.data.transforms import EXACT, Decoding, Preprocess


def decode_all(
    sources: Sequence[bytes], preprocess: Preprocess, decoding: Decoding = EXACT
) -> tuple[Pixels, npt.NDArray[np.bool_]]:
    """Decode in a separate process: images, uint8 (N, S, S, 3), and whether each could be read, bool (N,)."""
    pixels = np.empty((len(sources), preprocess.size, preprocess.size, 3), np.uint8)
    with closing(SubprocessDecoder(preprocess, decoding, DEFAULT_LIMITS)) as decoder:
        outcomes = decoder.decode(sources, pixels)
    return pixels, np.array([isinstance(outcome, Decoded) for outcome in outcomes], bool)
