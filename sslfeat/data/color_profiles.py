"""Conversion of images with an embedded ICC profile to sRGB, the color space of encoders and viewers.

Profiles that are damaged or do not match the image mode are ignored, as in viewers. 16-bit images are not converted: they
have at most gray profiles.
"""

from __future__ import annotations

import functools
import io
from typing import Any

from PIL import Image

SPACES = {"RGB": "RGB ", "L": "GRAY", "CMYK": "CMYK"}
PLAIN = {"RGBA": "RGB", "LA": "L"}  # mode without alpha
MAX_PROFILE_BYTES = 4 << 20
ALIKE = 2


def to_srgb(image: Image.Image) -> Image.Image:
    """Convert to sRGB with the embedded profile (perceptual intent); without a valid profile, return the image itself."""
    profile = image.info.get("icc_profile")
    if not isinstance(profile, bytes) or not profile:
        return image
    if image.mode in ("P", "PA", "1"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    mode = PLAIN.get(image.mode, image.mode)
    transform = _transform(profile, mode) if mode in SPACES and len(profile) <= MAX_PROFILE_BYTES else None
    if transform is None:
        return image
    from PIL import ImageCms

    plain = image.convert(mode) if mode != image.mode else image
    colors = ImageCms.applyTransform(plain, transform)
    if colors is None:
        return image
    if mode != image.mode:
        colors.putalpha(image.getchannel("A"))
    elif "transparency" in image.info:  # a transparent color of an image without alpha
        colors.putalpha(image.convert("RGBA").getchannel("A"))
    return colors


def _changes_nothing(transform: Any, mode: str) -> bool:
    """Whether a grid of colors is unchanged within ALIKE levels, so that the profile is sRGB under any name."""
    from PIL import ImageCms

    if mode == "CMYK":
        return False
    levels = range(0, 256, 51)
    colors = bytes(levels) if mode == "L" else bytes(v for r in levels for g in levels for b in levels for v in (r, g, b))
    sample = Image.frombytes(mode, (len(colors) // len(mode), 1), colors)
    found = ImageCms.applyTransform(sample, transform)
    if found is None:
        return True
    return max(abs(a - b) for a, b in zip(found.tobytes(), sample.convert("RGB").tobytes(), strict=True)) <= ALIKE


@functools.lru_cache(16)
def _transform(profile: bytes, mode: str) -> Any:
    """Transform from this profile to sRGB; None if it is sRGB, damaged, or for another mode."""
    from PIL import ImageCms

    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        facts = opened.profile
        if facts.xcolor_space != SPACES[mode]:
            return None
        transform = ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), mode, "RGB")
        return None if _changes_nothing(transform, mode) else transform
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):  # invalid profile
        return None
