"""Thumbnails of whole images for comparison, each file decoded once, in separate processes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from tempfile import TemporaryFile, gettempdir

import numpy as np

from sslfeat.data.decode import Decoded, Pixels
from sslfeat.data.decode_worker import DEFAULT_LIMITS
from sslfeat.data.read import find_image
from sslfeat.data.subprocess_decoder import SubprocessDecoder
from sslfeat.data.transforms import REDUCED, SQUASH, Decoding, Preprocess
from sslfeat.errors import InputError
from sslfeat.numerics.arrays import IntArray
from sslfeat.system.cores import available_cores

FILES = 256  # images per task of a process
SMALL = Decoding(REDUCED)


class Thumbnails:
    """Square thumbnails of whole images, identified by name and by their sha256 when embedded.

    ``pixels`` uint8 (N, side, side, 3) are in a temporary file, since they may exceed memory for a million images.
    ``problems`` are the reasons for black ones.
    """

    def __init__(self, names: Sequence[str], hashes: Sequence[str | None], side: int) -> None:
        self._names, self._hashes, self._side = names, hashes, side
        self._loaded = np.zeros(len(names), bool)
        with TemporaryFile() as file:  # the mapping keeps the file
            self.pixels: Pixels = np.memmap(file, np.uint8, "w+", shape=(len(names), side, side, 3))
        self.problems: dict[int, str] = {}

    def load(self, rows: IntArray, done: Callable[[int, int], None]) -> None:
        """Decode those of ``rows`` not decoded yet. Raises InputError if the disk is too full."""
        new = rows[~self._loaded[rows]]
        if not len(new):
            return
        bytes_needed, folder = len(new) * 3 * self._side**2, gettempdir()
        if bytes_needed > shutil.disk_usage(folder).free:
            raise InputError(
                f"thumbnails of {len(new)} images need {bytes_needed / 1e9:.1f} GB in {folder}: free some space, "
                "or set TMPDIR to a folder with more"
            )
        count = 0
        with ThreadPoolExecutor(available_cores()) as pool:
            for finished in pool.map(self._decode, np.array_split(new, -(-len(new) // FILES))):
                count += finished
                done(count, len(new))
        self._loaded[new] = True

    def _decode(self, rows: IntArray) -> int:
        part = np.empty((len(rows), self._side, self._side, 3), np.uint8)
        preprocess = Preprocess(self._side, self._side, "bilinear", crop=SQUASH)
        with closing(SubprocessDecoder(preprocess, SMALL, DEFAULT_LIMITS)) as decoder:
            outcomes = decoder.decode([find_image(self._names[row]) for row in rows], part)
        for row, outcome, image in zip(rows.tolist(), outcomes, part, strict=True):
            if not isinstance(outcome, Decoded):
                self.problems[row] = outcome.reason
            elif self._hashes[row] is not None and outcome.sha256 != self._hashes[row]:
                self.problems[row] = "it is not the file that was embedded"
            else:
                self.pixels[row] = image
        return len(rows)
