"""Small images as data URIs, for pages that carry their images with them."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from sslfeat.data.dataset import possible_paths
from sslfeat.data.sampling import decode_all
from sslfeat.data.transforms import Decoding, Preprocess

SIDE, QUALITY = 112, 75
FAST = Decoding("fast")


def thumbnails(names: Sequence[str], side: int = SIDE, quality: int = QUALITY) -> list[str | None]:
    """The center of each image as a WebP data URI of ``side`` x ``side`` px; None for one that cannot be read."""
    cells, readable = pixels(names, side)
    return [uri(Image.fromarray(row), quality) if fine else None for row, fine in zip(cells, readable, strict=True)]


def pixels(names: Sequence[str], side: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """The centers of images, (N, side, side, 3), and which of them could be read, (N,).

    ``names`` are paths as features folders hold them. Decoding is in a process of its own, as in ``sslfeat embed``.
    """
    sources = [next(filter(os.path.lexists, possible_paths(name)), os.fsencode(name)) for name in names]
    return decode_all(sources, Preprocess(side, side, "bilinear"), FAST)


def uri(image: Image.Image, quality: int) -> str:
    """An image as a WebP data URI."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
