"""Preprocessing, from an image file to the encoder's input.

The reference is Pillow's antialiased resize followed by a center crop, on the upright RGB image.
Imports only Pillow, so that the decoding process starts fast and needs little memory.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import os
import re
import stat
import warnings
from dataclasses import dataclass
from typing import Any

from PIL import Image, PngImagePlugin, UnidentifiedImageError

from sslfeat.data import fast_resize
from sslfeat.data.color_profiles import MAX_PROFILE_BYTES
from sslfeat.data.png_chunks import readable
from sslfeat.data.upright import orientation, to_rgb
from sslfeat.errors import ImageError, UsageError, install_line

FORMATS = ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "JPEG2000", "PPM", "ICO"]
FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}
MAX_PIXELS = 178_956_970  # Pillow's default limit: 683 MiB in memory
MAX_FILE_BYTES = 1 << 30
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
AVIF_BRANDS = (b"avif", b"avis")
STRIP = 16
CENTER, SQUASH, BORDER, FIT = "center", "squash", "border", "fit"
CROPS = (CENTER, SQUASH, BORDER)  # valid for encoders
FAST, REDUCED = "fast", "reduced"
MODES = ("exact", FAST, REDUCED)
NEW_SUBFILE_TYPE, SUB_IFDS = 254, 330  # TIFF supplement 1

PngImagePlugin.MAX_TEXT_CHUNK = MAX_PROFILE_BYTES  # also Pillow's limit for profiles; text is removed before
# Pillow warns at half the limit that it enforces; decoding threads cannot use a local filter.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@dataclass(frozen=True)
class Preprocess:
    """Resize with ``filter``, then crop the center ``size`` x ``size`` px, RGB.

    ``crop`` determines what is resized to ``resize`` px: CENTER the shorter side, keeping the aspect ratio; SQUASH both sides;
    BORDER the longer side, padded with the color ``fill``, ``#rrggbb``. FIT is for display only: the image resized by
    ``fitted`` in the upper left corner, on black. ``profile`` "sRGB": convert to sRGB with the embedded profile, if any (also
    for older encoder files, which do not have this field).
    """

    resize: int
    size: int
    filter: str = "bicubic"
    antialias: bool = True
    crop: str = CENTER
    color: str = "RGB"
    profile: str = "sRGB"
    fill: str = ""

    def fields(self) -> dict[str, Any]:
        """Fields by name, for cards and fingerprints; an empty ``fill`` is omitted, as in older encoder files."""
        found = dataclasses.asdict(self)
        return found if self.fill else {name: value for name, value in found.items() if name != "fill"}


@dataclass(frozen=True)
class Decoding:
    """Decoding of files. ``mode`` "exact": decoded and resized by Pillow. FAST: resized by cykooz.resizer, which is four
    times as fast and differs by 0.2 gray levels on average, so it must be requested. REDUCED, for thumbnails: JPEGs are
    decoded at 1/2, 1/4 or 1/8 of their size. Images with more than ``max_pixels`` are rejected without decoding.
    """

    mode: str = "exact"
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UsageError(f"unknown decode mode {self.mode!r}: use exact or fast")
        if self.max_pixels < 1:
            raise UsageError(f"max_pixels is {self.max_pixels}: it must be at least 1")

    def require(self) -> None:
        """Raise MissingExtraError if a package required by the mode is not installed."""
        if self.mode == FAST:
            fast_resize.require()


EXACT = Decoding()


@dataclass(frozen=True)
class Prepared:
    """The preprocessed image, and ``width`` and ``height`` of the upright source in px."""

    image: Image.Image
    width: int
    height: int


def prepare(image: Image.Image, preprocess: Preprocess, decoding: Decoding = EXACT) -> Prepared:
    """Preprocess an opened image to the encoder's input size. Raises ImageError or exceptions of the codec."""
    whole = image.size
    if decoding.mode == REDUCED and image.format == "JPEG":
        image.draft(None, _resized(*whole, preprocess))
        upright = to_rgb(image)
        width, height = reversed(whole) if (orientation(image) or 0) >= 5 else whole
    else:
        upright = to_rgb(image)
        width, height = upright.size
    if preprocess.crop == FIT:  # from the size of the source: that of a draft is rounded
        canvas = Image.new("RGB", (preprocess.size, preprocess.size))
        canvas.paste(upright.resize(fitted(width, height, preprocess.size), FILTERS[preprocess.filter]))
        return Prepared(canvas, width, height)
    return Prepared(resize_crop(upright, preprocess, decoding.mode == FAST), width, height)


def resize_crop(image: Image.Image, preprocess: Preprocess, fast: bool = False) -> Image.Image:
    """Resize and crop; with ``fast``, by cykooz.resizer, except for strips.

    ``Image.resize(box=...)`` would skip discarded pixels, but stores the box in single precision and may resize the axes in
    another order: up to a fifth of a portrait's pixels then differ by a level or more. It is therefore used only for
    strips with an aspect ratio above STRIP, whose resized image might not fit in memory.
    """
    (width, height), size = image.size, preprocess.size
    new_width, new_height = _resized(width, height, preprocess)
    (left, right), (top, bottom) = _middle(new_width, size), _middle(new_height, size)
    resample = FILTERS[preprocess.filter]
    if preprocess.crop == CENTER and max(width, height) > STRIP * min(width, height):
        x, y = width / new_width, height / new_height
        box = (left * x, top * y, min(right * x, width), min(bottom * y, height))
        return image.resize((size, size), resample, box=box)
    if fast:
        resized = fast_resize.resize(image, (new_width, new_height), preprocess.filter)
    else:
        if preprocess.crop == SQUASH:  # width first, as before: Pillow 13 starts with the height if that shrinks far more
            image = image.resize((new_width, height), resample)
        resized = image.resize((new_width, new_height), resample)
    part = resized.crop((max(left, 0), max(top, 0), min(right, new_width), min(bottom, new_height)))
    if part.size == (size, size):
        return part
    canvas = Image.new("RGB", (size, size), preprocess.fill)
    canvas.paste(part, (max(-left, 0), max(-top, 0)))
    return canvas


def fitted(width: int, height: int, size: int) -> tuple[int, int]:
    """Size in px of an image reduced to fit in ``size`` x ``size`` px, keeping its aspect ratio; never enlarged."""
    longer = max(width, height, size)
    return max(1, round(width * size / longer)), max(1, round(height * size / longer))


def read_file(path: str | bytes | os.PathLike[str]) -> bytes:
    """Read a regular file of at most MAX_FILE_BYTES. Raises ImageError."""
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


def allow_pixels(limit: int) -> None:
    """Set Pillow's limit of pixels, also for frames within files. Affects the whole process."""
    Image.MAX_IMAGE_PIXELS = (limit + 1) // 2  # Pillow raises at twice this number


def open_image(data: bytes, decoding: Decoding = EXACT) -> Image.Image:
    """Open the image in ``data`` without decoding it. Raises ImageError for too many pixels, or exceptions of the codec."""
    Image.init()  # otherwise Pillow registers only the most common formats, and the allow-list would fail
    heif = _is_heif(data)
    if heif and not _read_heif():
        raise ImageError(f"HEIC images require another package: {install_line('heif')}")
    image = Image.open(io.BytesIO(_known_brand(readable(data, MAX_PROFILE_BYTES))), formats=["HEIF"] if heif else FORMATS)
    tags = getattr(image, "tag_v2", {})
    if SUB_IFDS in tags and tags.get(NEW_SUBFILE_TYPE, 0) & 1:
        raise ImageError("the first page is only a thumbnail, as in raw files of cameras: convert the image")
    if image.width * image.height > decoding.max_pixels:
        raise ImageError(f"{image.width} x {image.height} px exceeds the limit of {decoding.max_pixels} pixels")
    return image


def reason(error: Exception) -> str:
    """Reason of a failure, identical on every run and machine."""
    if isinstance(error, ImageError):
        return str(error)
    if isinstance(error, MemoryError):
        return "not enough memory to decode it: raise --max-memory"
    if isinstance(error, UnidentifiedImageError):
        return "not an image in a supported format"
    if isinstance(error, Image.DecompressionBombError):
        return "an image in it exceeds the limit of pixels"
    text = re.sub(r"<.*? at 0x[0-9a-f]+>", "it", str(error))  # addresses differ between runs
    return f"cannot be decoded: {text or type(error).__name__}"


def _brands(data: bytes) -> list[bytes]:
    """Brands of an ISO base media file: the major brand, then the compatible ones."""
    if data[4:8] != b"ftyp":
        return []
    end = min(int.from_bytes(data[:4], "big"), len(data), 256)
    return [data[8:12], *(data[place : place + 4] for place in range(16, end - 3, 4))]


def _is_heif(data: bytes) -> bool:
    brands = _brands(data)
    return bool(brands) and brands[0] in HEIF_BRANDS and not set(brands) & set(AVIF_BRANDS)


def _known_brand(data: bytes) -> bytes:
    """Replace the major brand of AVIF files by the one that Pillow recognizes."""
    brands = _brands(data)
    if brands and brands[0] != AVIF_BRANDS[0] and AVIF_BRANDS[0] in brands:
        return data[:8] + AVIF_BRANDS[0] + data[12:]
    return data


@functools.cache
def _read_heif() -> bool:
    """Register HEIF with Pillow if pillow-heif is installed; return whether it is."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


def _resized(width: int, height: int, preprocess: Preprocess) -> tuple[int, int]:
    """Width and height in px before cropping."""
    resize = preprocess.resize
    if preprocess.crop == SQUASH:
        return resize, resize
    if preprocess.crop == BORDER:  # rounded as timm does
        ratio = max(width, height) / resize
        return max(1, round(width / ratio)), max(1, round(height / ratio))
    shorter = min(width, height)
    return resize * width // shorter, resize * height // shorter


def _middle(length: int, size: int) -> tuple[int, int]:
    """Start and stop of the middle ``size`` of ``length`` px; outside the image if it is shorter."""
    start = round((length - size) / 2) if length >= size else -((size - length) // 2)
    return start, start + size
