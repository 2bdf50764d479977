"""Resizing by cykooz.resizer: the same filters as Pillow's, with weights of 16 bits in wide registers.

It comes with the extra ``fast``, and is imported only when it is used.
"""

from __future__ import annotations

from PIL import Image

from sslfeat.errors import needs

PACKAGE, EXTRA = "cykooz.resizer", "fast"
FILTERS = {"bicubic": "catmull_rom", "bilinear": "bilinear", "lanczos": "lanczos3", "box": "box"}  # Keys' cubic, a = -0.5


def require() -> None:
    """Raises MissingExtraError if it is not installed."""
    with needs(EXTRA, PACKAGE):
        import cykooz_resizer  # noqa: F401


def resize(image: Image.Image, size: tuple[int, int], filter: str) -> Image.Image:
    """An RGB image at ``size``, width and height in px. Raises MissingExtraError.

    Whole images alone: with a crop box between pixels, version 4.0.1 reads outside its memory.
    """
    with needs(EXTRA, PACKAGE):
        import cykooz_resizer as resizer
    resized = Image.new("RGB", size)
    options = resizer.ResizeOptions(resizer.ResizeAlg.convolution(resizer.FilterType[FILTERS[filter]]))
    resizer.Resizer().resize_pil(image, resized, options)
    return resized
