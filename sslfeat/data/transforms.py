"""From image file to the encoder's input: the one definition of preprocessing.

The reference is Pillow's antialiased resize of the shorter side followed by a center crop, on the upright RGB image.
Needs Pillow alone, so that a decoding process starts fast and stays small.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import stat
import warnings
from dataclasses import dataclass

from PIL import ExifTags, Image, PngImagePlugin, UnidentifiedImageError

from sslfeat.data.color_profiles import MAX_PROFILE_BYTES, to_srgb
from sslfeat.data.png_chunks import readable
from sslfeat.errors import ImageError, InputError, install_line

FORMATS = ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "JPEG2000", "PPM", "ICO"]
FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}
MAX_PIXELS = 178_956_970  # what Pillow by itself refuses to exceed: 683 MiB in its memory
MAX_FILE_BYTES = 1 << 30
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
AVIF_BRANDS = (b"avif", b"avis")
STRIP = 16
WHOLE, FIT = "whole", "fit"
BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # TIFF 6.0, section 8
NEW_SUBFILE_TYPE, SUB_IFDS = 254, 330  # TIFF supplement 1

UPRIGHT = {  # what turns an image of this EXIF orientation upright; from 5 on it swaps width and height
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

PngImagePlugin.MAX_TEXT_CHUNK = MAX_PROFILE_BYTES  # its limit for profiles, too; text is taken out before
# Pillow warns at half the limit that it enforces; here the limit alone counts, and decoding threads cannot scope a filter.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@dataclass(frozen=True)
class Preprocess:
    """Shorter side to ``resize`` px with ``filter``, then the center ``size`` x ``size`` px, RGB.

    ``profile`` "sRGB": colors are brought to sRGB by the profile in the file, if there is one (encoder files of before have
    no such field, and their images are read so, too). With the crop WHOLE the whole image is squeezed into ``size`` x ``size``
    px, with FIT it lies in their upper left corner, as ``fitted`` says, on black: for comparing images and for looking at
    them, never for an encoder.
    """

    resize: int
    size: int
    filter: str = "bicubic"
    antialias: bool = True
    crop: str = "center"
    color: str = "RGB"
    profile: str = "sRGB"


@dataclass(frozen=True)
class Decoding:
    """How files are read. ``mode`` ``fast`` lets JPEGs be decoded at a half, a quarter or an eighth of their size.

    That is 2.5 times as fast on photographs of 3 megapixels, and 1.2 gray levels off on average, so it must be asked
    for. Images of more than ``max_pixels`` are refused before they are unpacked.
    """

    mode: str = "exact"
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        if self.mode not in ("exact", "fast"):
            raise InputError(f"decode {self.mode!r} is unknown: exact or fast")
        if self.max_pixels < 1:
            raise InputError(f"max_pixels is {self.max_pixels}: it must be at least 1")


EXACT = Decoding()


@dataclass(frozen=True)
class Prepared:
    """The image at the encoder's size, and the upright source's ``width`` and ``height`` in px."""

    image: Image.Image
    width: int
    height: int


def prepare(image: Image.Image, preprocess: Preprocess, decoding: Decoding = EXACT) -> Prepared:
    """Bring an opened image to the encoder's input size. Raises ImageError, or whatever the codec raises."""
    whole = image.size
    if decoding.mode == "fast" and image.format == "JPEG":
        image.draft(None, _resized(*whole, preprocess))
        upright = to_rgb(image)
        width, height = reversed(whole) if (_orientation(image) or 0) >= 5 else whole
    else:
        upright = to_rgb(image)
        width, height = upright.size
    if preprocess.crop == FIT:  # by the source's size: a draft's is rounded
        canvas = Image.new("RGB", (preprocess.size, preprocess.size))
        canvas.paste(upright.resize(fitted(width, height, preprocess.size), FILTERS[preprocess.filter]))
        return Prepared(canvas, width, height)
    return Prepared(resize_crop(upright, preprocess), width, height)


def to_rgb(image: Image.Image) -> Image.Image:
    """The upright image as 8-bit RGB: first frame, 16 bits scaled (not clipped), alpha over white, CMYK converted."""
    image.load()  # before the orientation is read: a TIFF is turned while it is unpacked
    turn = UPRIGHT.get(_orientation(image) or 0)
    if turn is not None:
        image = image.transpose(turn)
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = _from_16_bit(image)
    elif image.mode == "F":
        raise ImageError("floating-point pixels have no defined range: convert the image to 8 or 16 bits")
    else:
        image = to_srgb(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image if image.mode == "RGB" else image.convert("RGB")


def resize_crop(image: Image.Image, preprocess: Preprocess) -> Image.Image:
    """The center of the resized image.

    ``Image.resize(box=...)`` would skip what the crop discards, but it keeps the box in single precision and may
    resize the two axes in another order: up to a fifth of a portrait's pixels then differ by a level or more. So it
    serves only strips longer than STRIP to 1, whose whole resized image might not fit in memory.
    """
    if preprocess.crop == WHOLE:
        return image.resize((preprocess.size, preprocess.size), FILTERS[preprocess.filter])
    width, height = image.size
    shorter, size = min(width, height), preprocess.size
    new_width, new_height = _resized(width, height, preprocess)
    left, top = round((new_width - size) / 2), round((new_height - size) / 2)
    resample = FILTERS[preprocess.filter]
    if max(width, height) <= STRIP * shorter:
        resized = image.resize((new_width, new_height), resample)
        return resized.crop((left, top, left + size, top + size))
    x, y = width / new_width, height / new_height
    right, bottom = min((left + size) * x, width), min((top + size) * y, height)
    return image.resize((size, size), resample, box=(left * x, top * y, right, bottom))


def fitted(width: int, height: int, size: int) -> tuple[int, int]:
    """The size in px, never larger, at which an image lies within ``size`` x ``size`` px in its own proportions."""
    longer = max(width, height, size)
    return max(1, round(width * size / longer)), max(1, round(height * size / longer))


def read_file(path: str | bytes | os.PathLike[str]) -> bytes:
    """The bytes of a regular file of a sane size. Raises ImageError."""
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
    """Make Pillow enforce this limit, for frames within files too. It holds for the whole process."""
    Image.MAX_IMAGE_PIXELS = (limit + 1) // 2  # Pillow warns here, and refuses at twice as many


def open_image(data: bytes, decoding: Decoding = EXACT) -> Image.Image:
    """The image in ``data``, not yet unpacked. Raises ImageError for too many pixels, or whatever the codec raises."""
    Image.init()  # without it, Pillow knows only its commonest formats, and the allow-list would fail on the others
    heif = _is_heif(data)
    if heif and not _read_heif():
        raise ImageError(f"HEIC images need a further package: {install_line('heif')}")
    image = Image.open(io.BytesIO(_known_brand(readable(data, MAX_PROFILE_BYTES))), formats=["HEIF"] if heif else FORMATS)
    tags = getattr(image, "tag_v2", {})
    if SUB_IFDS in tags and tags.get(NEW_SUBFILE_TYPE, 0) & 1:
        raise ImageError("the first page is a thumbnail, the image is in a page within it, as in cameras' raw files: convert it")
    if image.width * image.height > decoding.max_pixels:
        raise ImageError(f"{image.width} x {image.height} px exceeds the limit of {decoding.max_pixels} pixels")
    return image


def reason(error: Exception) -> str:
    """What to say of an image that raised ``error``: the same on every run and machine."""
    if isinstance(error, ImageError):
        return str(error)
    if isinstance(error, MemoryError):
        return "not enough memory to decode it: --max-memory allows more"
    if isinstance(error, UnidentifiedImageError):
        return "not an image in a format that sslfeat reads"
    if isinstance(error, Image.DecompressionBombError):
        return "an image in it exceeds the limit of pixels"
    text = re.sub(r"<.*? at 0x[0-9a-f]+>", "it", str(error))  # addresses differ from run to run
    return f"cannot be decoded: {text or type(error).__name__}"


def _brands(data: bytes) -> list[bytes]:
    """The brands of a file of the ISO base media format: the major one, then those that it is compatible with."""
    if data[4:8] != b"ftyp":
        return []
    end = min(int.from_bytes(data[:4], "big"), len(data), 256)
    return [data[8:12], *(data[place : place + 4] for place in range(16, end - 3, 4))]


def _is_heif(data: bytes) -> bool:
    brands = _brands(data)
    return bool(brands) and brands[0] in HEIF_BRANDS and not set(brands) & set(AVIF_BRANDS)


def _known_brand(data: bytes) -> bytes:
    """AVIF files of another major brand under the one by which Pillow knows them."""
    brands = _brands(data)
    if brands and brands[0] != AVIF_BRANDS[0] and AVIF_BRANDS[0] in brands:
        return data[:8] + AVIF_BRANDS[0] + data[12:]
    return data


@functools.cache
def _read_heif() -> bool:
    """Teach Pillow the format of telephones' images, if pillow-heif is installed; returns whether it is."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


def _orientation(image: Image.Image) -> int | None:
    """The EXIF orientation; None if there is none, or only damage where it should be."""
    with contextlib.suppress(Exception):  # as in images.decode: Pillow raises almost anything here too
        orientation = image.getexif().get(ExifTags.Base.Orientation)
        return orientation if isinstance(orientation, int) else None
    return None


def _resized(width: int, height: int, preprocess: Preprocess) -> tuple[int, int]:
    shorter = min(width, height)
    return preprocess.resize * width // shorter, preprocess.resize * height // shorter


def _from_16_bit(image: Image.Image) -> Image.Image:
    import numpy as np  # rare: a decoding process does without it

    values = np.asarray(image).astype(np.int64)
    tags = getattr(image, "tag_v2", {})  # of a TIFF, which may hold fewer bits than 16, or the negative
    most = (1 << tags.get(BITS_PER_SAMPLE, (16,))[0]) - 1 if image.mode.startswith("I;16") else 65535
    if values.min() < 0 or values.max() > most:
        raise ImageError(f"pixels outside 0..{most} have no defined range: convert the image to 16 bits")
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        values = most - values
    gray = Image.fromarray(((2 * 255 * values + most) // (2 * most)).astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        gray.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return gray
