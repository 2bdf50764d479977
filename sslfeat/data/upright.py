"""Conversion of any image to upright 8-bit RGB. Imports only Pillow."""

from __future__ import annotations

import contextlib

from PIL import ExifTags, Image

from sslfeat.data.color_profiles import to_srgb
from sslfeat.errors import ImageError

BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # TIFF 6.0, section 8

UPRIGHT = {  # transposition for each EXIF orientation; from 5 on, width and height are swapped
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert to upright 8-bit RGB: first frame, 16 bits scaled (not clipped), alpha over white, CMYK converted."""
    image.load()  # before the orientation is read: TIFFs are rotated while decoding
    turn = UPRIGHT.get(orientation(image) or 0)
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


def orientation(image: Image.Image) -> int | None:
    """EXIF orientation; None if missing or damaged."""
    with contextlib.suppress(Exception):  # Pillow raises many exception types on damaged data
        found = image.getexif().get(ExifTags.Base.Orientation)
        return found if isinstance(found, int) else None
    return None


def _from_16_bit(image: Image.Image) -> Image.Image:
    import numpy as np  # rarely needed: keeps the decoding process small

    values = np.asarray(image).astype(np.int64)
    tags = getattr(image, "tag_v2", {})  # a TIFF may have fewer than 16 bits, or be inverted
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
