"""Decode images from any source to arrays at the encoder's input size."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from sslfeat.data.read import Coming, read_image
from sslfeat.data.transforms import EXACT, MAX_PIXELS, Decoding, Preprocess, open_image, prepare, reason
from sslfeat.errors import ImageError

__all__ = [
    "MAX_PIXELS",
    "Content",
    "Decoded",
    "Decoding",
    "Pixels",
    "Preprocess",
    "Readable",
    "Source",
    "decode",
    "read_size",
    "read_source",
]

Pixels: TypeAlias = npt.NDArray[np.uint8]
Source: TypeAlias = "str | bytes | os.PathLike[str] | Pixels | Image.Image | Content | Coming"

Readable: TypeAlias = "str | bytes | os.PathLike[str] | Content | Coming"


@dataclass(frozen=True)
class Content:
    """An image file in memory; ``name`` is used in error messages."""

    data: bytes
    name: str = "an image in memory"


@dataclass(frozen=True)
class Decoded:
    """A preprocessed image.

    ``pixels`` is uint8 (S, S, 3); ``width`` and ``height`` are the size of the upright source in px; ``sha256`` is the hash
    of the source file (of the pixels if the source is an array or a PIL image).
    """

    pixels: Pixels
    width: int
    height: int
    sha256: str


def decode(source: Source, preprocess: Preprocess, decoding: Decoding = EXACT) -> Decoded:
    """Read one image and preprocess it to the encoder's input size.

    ``source`` is a path (str or bytes), a ``Content``, a PIL image, or an array uint8 (H, W),
    (H, W, 1), (H, W, 3) or (H, W, 4).
    Raises ImageError with a reason that does not depend on the machine or the run.
    """
    try:
        if isinstance(source, np.ndarray):
            image, digest = _from_array(source), hashlib.sha256(np.ascontiguousarray(source).data).hexdigest()
        elif isinstance(source, Image.Image):
            image, digest = source, hashlib.sha256(source.tobytes()).hexdigest()
        else:
            data = read_source(source)
            image, digest = open_image(data, decoding), hashlib.sha256(data).hexdigest()
        prepared = prepare(image, preprocess, decoding)
    except Exception as error:  # codecs raise many exception types on damaged data: ValueError, SyntaxError, struct.error, ...
        raise ImageError(reason(error)) from error
    return Decoded(np.asarray(prepared.image), prepared.width, prepared.height, digest)


def read_source(source: Readable) -> bytes:
    """Read an image file from any source. Raises ImageError."""
    if isinstance(source, Content):
        return source.data
    return source.data.result() if isinstance(source, Coming) else read_image(source)


def read_size(path: str | bytes | os.PathLike[str]) -> tuple[int, int]:
    """Stored width and height of an image file in px, without decoding it. Raises ImageError."""
    try:
        return open_image(read_image(path)).size
    except Exception as error:  # see decode
        raise ImageError(reason(error)) from error


def _from_array(array: npt.NDArray[Any]) -> Image.Image:
    if array.dtype != np.uint8:
        raise ImageError(f"array of dtype {array.dtype}: images must be uint8, 0 to 255")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or 0 in array.shape:
        raise ImageError(f"array of shape {array.shape}: images must be (H, W), (H, W, 3) or (H, W, 4)")
    return Image.fromarray(np.ascontiguousarray(array))
