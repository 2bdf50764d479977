"""Random, disjoint samples of distinct images for evaluation and for calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sslfeat.data.decode import Pixels
from sslfeat.data.sampling import decode_all
from sslfeat.data.transforms import EXACT, Decoding, Preprocess

JUDGES, SEEN = 640, 64  # the third worst of 640 is a bound for 99 % of unseen images
FURTHER = 2560
FEWEST_FOR_NEIGHBORS = 50


class Further:
    """Up to FURTHER images that are in neither sample, decoded on demand."""

    def __init__(self, sources: Sequence[bytes], preprocess: Preprocess, decoding: Decoding, taken: set[bytes]) -> None:
        """``taken``: pixels of the images in the samples."""
        self._sources, self._preprocess, self._decoding, self._taken = sources, preprocess, decoding, taken
        self.drawn: Pixels = np.empty((0, preprocess.size, preprocess.size, 3), np.uint8)

    def pixels(self) -> Pixels:
        """uint8 (N, S, S, 3), also kept as ``drawn``."""
        if not len(self.drawn) and self._sources:
            pixels, fine = decode_all(self._sources, self._preprocess, self._decoding)
            self.drawn = pixels[[row for row in np.flatnonzero(fine) if pixels[row].tobytes() not in self._taken]]
        return self.drawn


@dataclass(frozen=True)
class Panel:
    """Evaluation images ``judged``, uint8 (N, S, S, 3), with the ``names`` of their files; calibration images ``seen``."""

    judged: Pixels
    names: list[bytes]
    seen: Pixels
    further: Further


def draw_panel(sources: Sequence[bytes], preprocess: Preprocess, decoding: Decoding = EXACT) -> Panel:
    """Draw a panel from the readable ``sources``, with a fixed seed. A fifth, at most 64, of the images are ``seen``.

    The sample is random so that results hold for the other ``sources``, regardless of their order. Images that are identical at
    the encoder's size are used once, so that no calibration image is also in the evaluation.
    """
    order = np.random.default_rng(0).permutation(len(sources)).tolist()
    chosen = [sources[number] for number in order[: JUDGES + SEEN]]
    others = [sources[number] for number in order[JUDGES + SEEN : JUDGES + SEEN + FURTHER]]
    pixels, fine = decode_all(chosen, preprocess, decoding)
    first: dict[bytes, int] = {}
    for row in np.flatnonzero(fine).tolist():
        first.setdefault(pixels[row].tobytes(), row)
    rows = list(first.values())
    seen = min(SEEN, len(rows) // 5)
    further = Further(others, preprocess, decoding, set(first))
    return Panel(pixels[rows[seen:]], [chosen[row] for row in rows[seen:]], pixels[rows[:seen]], further)
