"""Sprite sheets, so that pages with thousands of thumbnails stay small and fast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from sslfeat.reports.thumbnails import pixels, uri

COLUMNS = 32
PER_SHEET = COLUMNS * COLUMNS
QUALITY = 55


@dataclass(frozen=True)
class Sprites:
    """``sheets``: data URIs with PER_SHEET cells of ``side`` px, row by row. ``missing``: numbers of unreadable images."""

    side: int
    sheets: list[str]
    missing: list[int]


def sprites(names: Sequence[str], side: int, quality: int = QUALITY) -> Sprites:
    """Make sheets of the images ``names``, in order."""
    sheets, missing = [], []
    for start in range(0, len(names), PER_SHEET):
        some = names[start : start + PER_SHEET]
        cells, readable = pixels(some, side)
        missing += [start + int(place) for place in np.flatnonzero(~readable)]
        lines = -(-len(some) // COLUMNS)
        sheet = np.zeros((lines * COLUMNS, side, side, 3), np.uint8)
        sheet[: len(some)][readable] = cells[readable]
        whole = sheet.reshape(lines, COLUMNS, side, side, 3).swapaxes(1, 2).reshape(lines * side, COLUMNS * side, 3)
        sheets.append(uri(Image.fromarray(whole), quality))
    return Sprites(side, sheets, missing)
