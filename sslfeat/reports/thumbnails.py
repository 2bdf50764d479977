"""Thumbnails as data URIs, for self-contained pages."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from contextlib import closing

import numpy as np
import numpy.typing as npt
from PIL import Image

from sslfeat.data.decode import Decoded
from sslfeat.data.decode_worker import DEFAULT_LIMITS
from sslfeat.data.read import find_image
from sslfeat.data.sampling import decode_all
from sslfeat.data.subprocess_decoder import SubprocessDecoder
from sslfeat.data.transforms import FIT, REDUCED, Decoding, Preprocess, fitted

SIDES = ((300, 512), (600, 384), (1200, 256))  # maximum number of images on a page, and their size in px
SMALLEST = 160
QUALITY = 65
BLOCK = 64  # images in memory at once
SMALL = Decoding(REDUCED)


def side_for(images: int) -> int:
    """Size in px of the thumbnails of a page, so that the page can be sent by mail."""
    return next((side for most, side in SIDES if images <= most), SMALLEST)


def thumbnails(names: Sequence[str], side: int, quality: int = QUALITY) -> list[str | None]:
    """Uncropped images as WebP data URIs, with the longer side at most ``side`` px; None if an image cannot be read.

    The same URI is used for the thumbnail and the enlarged view; two would be a sixth larger.
    """
    found: list[str | None] = []
    preprocess = Preprocess(side, side, "bilinear", crop=FIT)
    with closing(SubprocessDecoder(preprocess, SMALL, DEFAULT_LIMITS)) as decoder:
        for start in range(0, len(names), BLOCK):
            sources = _sources(names[start : start + BLOCK])
            cells = np.empty((len(sources), side, side, 3), np.uint8)
            for cell, outcome in zip(cells, decoder.decode(sources, cells), strict=True):
                found.append(uri(_whole(cell, outcome), quality) if isinstance(outcome, Decoded) else None)
    return found


def pixels(names: Sequence[str], side: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Center crops of images, (N, side, side, 3), and whether they could be read, (N,).

    ``names`` are paths as in features folders. Images are decoded in a separate process, as in ``sslfeat embed``.
    """
    return decode_all(_sources(names), Preprocess(side, side, "bilinear"), SMALL)


def uri(image: Image.Image, quality: int) -> str:
    """An image as a WebP data URI."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def _sources(names: Sequence[str]) -> list[bytes]:
    return [find_image(name) for name in names]


def _whole(cell: npt.NDArray[np.uint8], source: Decoded) -> Image.Image:
    width, height = fitted(source.width, source.height, len(cell))
    return Image.fromarray(cell[:height, :width])
