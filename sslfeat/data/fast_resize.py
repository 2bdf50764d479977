"""Resizing with cykooz.resizer: the same filters as in Pillow, with 16-bit weights and SIMD.

Requires the extra ``fast``; imported only when used.
"""

from __future__ import annotations

from PIL import Image

from sslfeat.errors import needs

PACKAGE, EXTRA = "cykooz.resizer", "fast"
FILTERS = {"bicubic": "catmull_rom", "bilinear": "bilinear", "lanczos": "lanczos3", "box": "box"}  # Keys' cubic, a = -0.5


def require() -> None:
    """Raise MissingExtraError if cykooz.resizer is not installed."""
    with needs(EXTRA, PACKAGE):
        import cykooz_resizer  # noqa: F401


def resize(image: Image.Image, size: tuple[int, int], filter: str) -> Image.Image:
    """Resize an RGB image to ``size`` (width, height) in px. Raises MissingExtraError.

    Crop boxes are not used: with fractional boxes, version 4.0.1 reads out of bounds.
    """
    with needs(EXTRA, PACKAGE):
        import cykooz_resizer as resizer
    resized = Image.new("RGB", size)
    options = resizer.ResizeOptions(resizer.ResizeAlg.convolution(resizer.FilterType[FILTERS[filter]]))
    resizer.Resizer().resize_pil(image, resized, options)
    return resized
