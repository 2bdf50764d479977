"""Images that judge, and others that ranges are taken from: drawn at random, all different, none in both parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sslfeat.data.decode import Pixels
from sslfeat.data.sampling import decode_all
from sslfeat.data.transforms import EXACT, Decoding, Preprocess

JUDGES, SEEN = 640, 64  # of 640 the third worst bounds 99 % of others
FURTHER = 2560
FEWEST_FOR_NEIGHBORS = 50


class Further:
    """Up to FURTHER images that neither judge nor were seen, decoded when they are first needed."""

    def __init__(self, sources: Sequence[bytes], preprocess: Preprocess, decoding: Decoding, taken: set[bytes]) -> None:
        """``taken``: the pixels of those that are neither."""
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
    """Pixels that judge, uint8 (N, S, S, 3), with the ``names`` of their files, pixels that were ``seen`` before, and more."""

    judged: Pixels
    names: list[bytes]
    seen: Pixels
    further: Further


def draw_panel(sources: Sequence[bytes], preprocess: Preprocess, decoding: Decoding = EXACT) -> Panel:
    """A random draw, the same every time, of the readable ones of ``sources``: a fifth of few, 64 of many, are ``seen``.

    Random, so that what the judges find holds for the rest of ``sources``, however they are ordered. Images that are alike at the
    encoder's size count once: one that ranges were taken from must not judge as its copy.
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
