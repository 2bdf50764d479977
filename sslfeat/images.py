"""From picture to the encoder's input: the one definition of preprocessing.

The reference is Pillow's antialiased resize of the shorter side followed by a centre crop, on the upright RGB
picture.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import warnings
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from sslfeat.errors import ImageError

Pixels: TypeAlias = npt.NDArray[np.uint8]
Source: TypeAlias = "str | bytes | os.PathLike[str] | Pixels | Image.Image"

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "JPEG2000", "PPM", "ICO")
FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}
MAX_PIXELS = 178_956_970  # twice Pillow's warning level: 512 MiB as RGB
MAX_FILE_BYTES = 1 << 30
STRIP = 16

Image.init()  # without it, Pillow knows only its commonest formats, and the allow-list would fail on the others

# Pillow warns at half the limit that it enforces; here the limit alone counts, and decoding threads cannot scope a filter.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@dataclass(frozen=True)
class Preprocess:
    """Shorter side to ``resize`` px with ``filter``, then the centre ``size`` x ``size`` px, RGB."""

    resize: int
    size: int
    filter: str = "bicubic"
    antialias: bool = True
    crop: str = "center"
    color: str = "RGB"


@dataclass(frozen=True)
class Decoded:
    """A picture ready for the encoder.

    ``pixels`` is uint8 (S, S, 3); ``width`` and ``height`` are the upright source's, in px; ``sha256`` is of the
    source file's bytes (of the pixel bytes where the source was an array or a PIL image).
    """

    pixels: Pixels
    width: int
    height: int
    sha256: str


def decode(source: Source, preprocess: Preprocess) -> Decoded:
    """Read one picture and bring it to the encoder's input size.

    ``source`` is a path, a PIL image, or an array uint8 (H, W), (H, W, 1), (H, W, 3) or (H, W, 4).
    Raises ImageError with a reason that does not depend on the machine or the run.
    """
    try:
        if isinstance(source, np.ndarray):
            image, digest = _from_array(source), hashlib.sha256(np.ascontiguousarray(source).data).hexdigest()
        elif isinstance(source, Image.Image):
            image, digest = source, hashlib.sha256(source.tobytes()).hexdigest()
        else:
            data = _read(source)
            image, digest = _open(data), hashlib.sha256(data).hexdigest()
        upright = to_rgb(image)
        pixels = np.asarray(resize_crop(upright, preprocess))
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError("not enough memory to decode it") from error
    except (
        Exception
    ) as error:  # codecs raise almost anything on damaged data: ValueError, SyntaxError, struct.error, ...
        raise ImageError(_reason(error)) from error
    return Decoded(pixels, upright.width, upright.height, digest)


def read_size(path: str | bytes | os.PathLike[str]) -> tuple[int, int]:
    """Stored width and height of a picture file in px, without decoding it. Raises ImageError."""
    try:
        return _open(_read(path)).size
    except ImageError:
        raise
    except Exception as error:  # as in decode
        raise ImageError(_reason(error)) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """The upright picture as 8-bit RGB: first frame, 16 bits scaled (not clipped), alpha over white, CMYK converted."""
    image = ImageOps.exif_transpose(image)
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = _from_16_bit(image)
    elif image.mode == "F":
        raise ImageError("floating-point pixels have no defined range: convert the picture to 8 or 16 bits")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image if image.mode == "RGB" else image.convert("RGB")


def resize_crop(image: Image.Image, preprocess: Preprocess) -> Image.Image:
    """The centre of the resized picture.

    ``Image.resize(box=...)`` would skip what the crop discards, but it keeps the box in single precision and may
    resize the two axes in another order: up to a fifth of a portrait's pixels then differ by a level or more. So it
    serves only strips longer than STRIP to 1, whose whole resized picture might not fit in memory.
    """
    width, height = image.size
    shorter, size = min(width, height), preprocess.size
    new_width, new_height = (preprocess.resize * side // shorter for side in (width, height))
    left, top = round((new_width - size) / 2), round((new_height - size) / 2)
    resample = FILTERS[preprocess.filter]
    if max(width, height) <= STRIP * shorter:
        resized = image.resize((new_width, new_height), resample)
        return resized.crop((left, top, left + size, top + size))
    x, y = width / new_width, height / new_height
    right, bottom = min((left + size) * x, width), min((top + size) * y, height)
    return image.resize((size, size), resample, box=(left * x, top * y, right, bottom))


def _read(path: str | bytes | os.PathLike[str]) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(descriptor, "rb") as file:  # O_NONBLOCK: a named pipe must not hang the run
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ImageError("not a regular file")
            if status.st_size > MAX_FILE_BYTES:
                raise ImageError(f"the file is larger than {MAX_FILE_BYTES >> 20} MiB")
            data = file.read()
    except OSError as error:
        raise ImageError(f"cannot be opened: {error.strerror}") from error
    if not data:
        raise ImageError("the file is empty")
    return data


def _open(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(f"{image.width} x {image.height} px exceeds the limit of {MAX_PIXELS} pixels")
    return image


def _from_array(array: npt.NDArray[Any]) -> Image.Image:
    if array.dtype != np.uint8:
        raise ImageError(f"an array of {array.dtype} was given: pictures are uint8, 0 to 255")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or 0 in array.shape:
        raise ImageError(f"an array of shape {array.shape} was given: pictures are (H, W), (H, W, 3) or (H, W, 4)")
    return Image.fromarray(np.ascontiguousarray(array))


def _from_16_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ImageError("32-bit pixels outside 0..65535 have no defined range: convert the picture to 16 bits")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not a picture in a format that sslfeat reads"
    if isinstance(error, Image.DecompressionBombError):
        return f"exceeds the limit of {MAX_PIXELS} pixels"
    text = re.sub(r"<.*? at 0x[0-9a-f]+>", "it", str(error))  # addresses differ from run to run
    return f"cannot be decoded: {text or type(error).__name__}"
