"""Thumbnails of whole images for comparing them, each file decoded once, in processes of their own."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sslfeat.data.dataset import possible_paths
from sslfeat.data.decode import Decoded, Pixels
from sslfeat.data.decode_worker import DEFAULT_LIMITS
from sslfeat.data.subprocess_decoder import SubprocessDecoder
from sslfeat.data.transforms import WHOLE, Decoding, Preprocess
from sslfeat.system.cores import available_cores

FILES = 256  # that a process decodes before it is asked for more
FAST = Decoding("fast")


@dataclass(frozen=True)
class Thumbnails:
    """``pixels`` uint8 (N, side, side, 3), each the whole image squeezed into a square; ``problems`` say why some are black."""

    pixels: Pixels
    problems: dict[int, str]


def load_thumbnails(
    names: Sequence[str], hashes: Sequence[str | None], side: int, done: Callable[[int, int], None]
) -> Thumbnails:
    """Of the files that features call ``names`` and that had the sha256 ``hashes`` when they were embedded."""
    pixels = np.zeros((len(names), side, side, 3), np.uint8)
    problems: dict[int, str] = {}
    preprocess = Preprocess(side, side, "bilinear", crop=WHOLE)
    sources = [next(filter(os.path.lexists, possible_paths(name)), os.fsencode(name)) for name in names]

    def decode(numbers: npt.NDArray[np.int64]) -> int:
        part = np.empty((len(numbers), side, side, 3), np.uint8)
        with closing(SubprocessDecoder(preprocess, FAST, DEFAULT_LIMITS)) as decoder:
            outcomes = decoder.decode([sources[number] for number in numbers], part)
        for number, outcome, row in zip(numbers.tolist(), outcomes, part, strict=True):
            if not isinstance(outcome, Decoded):
                problems[number] = outcome.reason
            elif hashes[number] is not None and outcome.sha256 != hashes[number]:
                problems[number] = "it is not the file that was embedded"
            else:
                pixels[number] = row
        return len(numbers)

    count = 0
    with ThreadPoolExecutor(available_cores()) as pool:
        for finished in pool.map(decode, np.array_split(np.arange(len(names)), -(-len(names) // FILES) or 1)):
            count += finished
            done(count, len(names))
    return Thumbnails(pixels, problems)
