"""Drawn image files of every format and mode that sslfeat promises, each with the pixels that it must give.

The pixels come from the drawing by numpy, never from reading the file; what Pillow cannot write is packed by hand.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from sslfeat.data.decode import Pixels

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "JPEG2000", "PPM", "ICO")  # the promised ones
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
STORED: dict[int, Callable[[Pixels], Pixels]] = {  # EXIF 2.32, tag 0x0112: where the 0th row and column lie
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}
UPRIGHT = {**STORED, 6: STORED[8], 8: STORED[6]}


@dataclass(frozen=True)
class Drawn:
    """``golden`` is the upright RGB image. Pixels may differ from it by ``tolerance`` levels, in a lossy file by more."""

    name: str
    data: bytes
    golden: Pixels
    tolerance: int = 0
    lossy: bool = False
    orientation: int = 1


def drawing(width: int = 48, height: int = 36) -> Pixels:
    """Smooth, so that lossy formats stay close, and without symmetry, so that any turn or flip shows."""
    rows, columns = np.mgrid[0:height, 0:width]
    red, green = columns * 255 // max(width - 1, 1), rows * 255 // max(height - 1, 1)
    return np.stack([red, green, (3 * red + green) // 4], 2).astype(np.uint8)


RGB = drawing()
GRAY = RGB[:, :, 2].copy()
BITS = (GRAY > 90) & (RGB[:, :, 1] > 40)
INDEX = (RGB[:, :, 0] // 32 * 8 + RGB[:, :, 1] // 32).astype(np.uint8)
PALETTE = np.random.default_rng(0).integers(0, 256, (64, 3)).astype(np.uint8)
ALPHA = np.select([GRAY < 60, GRAY > 180], [0, 255], 255 - RGB[:, :, 1].astype(int)).astype(np.uint8)
DEEP = np.linspace(0, 65535, GRAY.size).round().astype(np.uint16).reshape(GRAY.shape)
RGBA = np.dstack([RGB, ALPHA])
DEEP_RGB = RGB.astype(np.uint16) * 256 + 255 - RGB[::-1]
CMYK = np.dstack([255 - RGB, GRAY // 4])
CMYK_AS_RGB = np.rint(RGB * (1 - CMYK[:, :, 3:] / 255)).astype(np.uint8)


def over_white(rgb: Pixels, alpha: Pixels) -> Pixels:
    share = alpha[:, :, None] / 255
    return np.rint(rgb * share + 255 * (1 - share)).astype(np.uint8)


def three(plane: Pixels) -> Pixels:
    return np.dstack([plane] * 3)


def whitened(rgb: Pixels, where: Any) -> Pixels:
    """The image with white where it is transparent."""
    return np.where(where[:, :, None], np.uint8(255), rgb)


def eight_bits(values: Any, most: int = 65535) -> Pixels:
    pixels = np.rint(values.astype(float) * 255 / most).astype(np.uint8)
    return pixels if pixels.ndim == 3 else three(pixels)


def encoded(image: Any, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    opened = image if isinstance(image, Image.Image) else Image.fromarray(np.ascontiguousarray(image))
    opened.save(buffer, kind, **options)
    return buffer.getvalue()


def another() -> dict[str, Any]:
    """Options that save a second image behind the first; a new one each time, since saving leaves its marks on it."""
    return {"save_all": True, "append_images": [Image.fromarray(255 - RGB)]}


def paletted() -> Image.Image:
    image = Image.fromarray(INDEX)
    image.putpalette(PALETTE.tobytes())
    return image


def turned(kind: str, orientation: int, **options: Any) -> Drawn:
    """The drawing as a camera held that way stores it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(STORED[orientation](RGB), kind, exif=exif, **options)
    lossy = kind in ("JPEG", "AVIF")
    return Drawn(f"{kind}-orientation-{orientation}", data, RGB, lossy=lossy, orientation=orientation)


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def transparent(*color: int) -> bytes:
    return png_chunk(b"tRNS", struct.pack(f">{len(color)}H", *color))


def png(pixels: Any, color: int, depth: int = 8, interlaced: bool = False, extra: bytes = b"") -> bytes:
    """A PNG of any depth, of color type 0, 2, 4 or 6; ``extra`` chunks come before the pixels."""
    height, width = pixels.shape[:2]
    rows = []
    for x, y, dx, dy in ADAM7 if interlaced else ((0, 0, 1, 1),):
        for row in pixels[y::dy, x::dx]:
            high_bits_first = np.unpackbits(row[:, None], axis=1)[:, -depth:] if depth < 8 else row
            rows.append(b"\0" + (np.packbits(high_bits_first) if depth < 8 else row.astype(f">u{depth // 8}")).tobytes())
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced)
    chunks = png_chunk(b"IHDR", header) + extra + png_chunk(b"IDAT", zlib.compress(b"".join(rows)))
    return b"\x89PNG\r\n\x1a\n" + chunks + png_chunk(b"IEND", b"")


def tiff(strip: bytes, bits: int, photometric: int, order: str = "<") -> bytes:
    """An uncompressed gray TIFF of one strip."""
    height, width = GRAY.shape
    tags = {
        256: width,
        257: height,
        258: bits,
        259: 1,
        262: photometric,
        273: 200,
        277: 1,
        278: height,
        279: len(strip),
    }
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags.items())
    header = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, len(tags))
    return (header + entries + bytes(4)).ljust(200, b"\0") + strip


def bmp(body: bytes, bits: int, compression: int, height: int, tail: bytes = b"", header: int = 40) -> bytes:
    """A BMP; ``tail`` is what lies between the first 40 bytes of its header and the pixels."""
    start = 54 + len(tail)
    info = struct.pack("<IiiHHIIiiII", header, 48, height, 1, bits, compression, len(body), 2835, 2835, 0, 0)
    return struct.pack("<2sIHHI", b"BM", start + len(body), 0, 0, start) + info + tail + body


def basics() -> Iterator[Drawn]:
    black_and_white = three(BITS * np.uint8(255))
    yield Drawn("PPM-1", encoded(BITS, "PPM"), black_and_white)
    for kind in ("PNG", "BMP", "TIFF"):
        yield Drawn(f"{kind}-1", encoded(BITS, kind), black_and_white)
        yield Drawn(f"{kind}-L", encoded(GRAY, kind), three(GRAY))
        yield Drawn(f"{kind}-P", encoded(paletted(), kind), PALETTE[INDEX])
        yield Drawn(f"{kind}-RGB", encoded(RGB, kind), RGB)


def jpegs() -> Iterator[Drawn]:
    for option in ("progressive", "keep_rgb", "restart_marker_blocks"):
        yield Drawn(f"JPEG-{option}", encoded(RGB, "JPEG", quality=95, **{option: 2}), RGB, lossy=True)
    for subsampling, name in enumerate(("444", "422", "420")):
        data = encoded(RGB, "JPEG", quality=95, subsampling=subsampling)
        yield Drawn(f"JPEG-{name}", data, RGB, lossy=True)
    yield Drawn("JPEG-L", encoded(GRAY, "JPEG", quality=95), three(GRAY), lossy=True)
    cmyk = Image.fromarray(CMYK, "CMYK")
    yield Drawn("JPEG-CMYK-Adobe", encoded(cmyk, "JPEG", quality=95), CMYK_AS_RGB, lossy=True)
    yield Drawn("JPEG-trailing-bytes", encoded(RGB, "JPEG", quality=95) + b"junk" * 9, RGB, lossy=True)
    yield from (turned("JPEG", orientation, quality=95) for orientation in STORED)
    yield Drawn("MPO", encoded(RGB, "MPO", **another(), quality=95), RGB, lossy=True)


def pngs() -> Iterator[Drawn]:
    yield Drawn("PNG-LA", encoded(np.dstack([GRAY, ALPHA]), "PNG"), over_white(three(GRAY), ALPHA))
    yield Drawn("PNG-RGBA", encoded(RGBA, "PNG"), over_white(RGB, ALPHA))
    yield Drawn("PNG-I;16", encoded(DEEP, "PNG"), eight_bits(DEEP))
    alphas = np.arange(64, dtype=np.uint8) * 4
    faded = over_white(PALETTE[INDEX], alphas[INDEX])
    yield Drawn("PNG-P-transparency-bytes", encoded(paletted(), "PNG", transparency=alphas.tobytes()), faded)
    holed = whitened(PALETTE[INDEX], INDEX == 9)
    yield Drawn("PNG-P-transparency-int", encoded(paletted(), "PNG", transparency=9), holed)
    clear = png(RGB, 2, extra=transparent(*map(int, RGB[10, 20])))
    yield Drawn("PNG-RGB-transparency", clear, whitened(RGB, (RGB[10, 20] == RGB).all(axis=2)))
    yield Drawn("PNG-RGB-interlaced", png(RGB, 2, interlaced=True), RGB)
    yield Drawn("PNG-I;16-interlaced", png(DEEP, 0, 16, interlaced=True), eight_bits(DEEP))
    for depth in (2, 4):
        plane = (GRAY >> (8 - depth)).astype(np.uint8)
        scaled = plane * np.uint8(255 // (2**depth - 1))
        yield Drawn(f"PNG-{depth}-bit", png(plane, 0, depth), three(scaled))
    clear = png(BITS.view(np.uint8), 0, 1, extra=transparent(0))
    yield Drawn("PNG-1-transparency", clear, np.full_like(RGB, 255))
    clear = png(DEEP, 0, 16, extra=transparent(int(DEEP[10, 20])))
    yield Drawn("PNG-I;16-transparency", clear, whitened(eight_bits(DEEP), DEEP[10, 20] == DEEP))
    yield Drawn("PNG-RGB-16-bit", png(DEEP_RGB, 2, 16), eight_bits(DEEP_RGB), 1)  # Pillow keeps the high byte
    yield Drawn("PNG-1x1", encoded(RGB[9:10, 9:10], "PNG"), RGB[9:10, 9:10])
    wide = drawing(20_000, 1)
    yield Drawn("PNG-20000x1", encoded(wide, "PNG"), wide, 1)
    yield Drawn("PNG-1x20000", encoded(wide.swapaxes(0, 1), "PNG"), wide.swapaxes(0, 1), 1)
    yield Drawn("PNG-animated", encoded(RGB, "PNG", **another()), RGB)
    yield turned("PNG", 6)


def gifs() -> Iterator[Drawn]:
    still, other = paletted(), Image.fromarray(255 - PALETTE[INDEX])
    yield Drawn("GIF", encoded(still, "GIF"), PALETTE[INDEX])
    yield Drawn("GIF-not-interlaced", encoded(still, "GIF", interlace=0), PALETTE[INDEX])
    yield Drawn("GIF-gray", encoded(GRAY, "GIF"), three(GRAY))
    yield Drawn("GIF-transparent", encoded(still, "GIF", transparency=9), whitened(PALETTE[INDEX], INDEX == 9))
    animated = encoded(still, "GIF", save_all=True, append_images=[other, still], duration=50, loop=0)
    yield Drawn("GIF-animated", animated, PALETTE[INDEX])


def bmps() -> Iterator[Drawn]:
    bgra = RGBA[:, :, [2, 1, 0, 3]]
    yield Drawn("BMP-32-bit", bmp(bgra[::-1].tobytes(), 32, 0, 36), RGB)  # the fourth byte is reserved
    yield Drawn("BMP-top-down", bmp(bgra.tobytes(), 32, 0, -36), RGB)
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs" + bytes(48)
    yield Drawn("BMP-RGBA", bmp(bgra[::-1].tobytes(), 32, 3, 36, masks, 108), over_white(RGB, ALPHA))
    runs = b"".join(b"".join(bytes([1, index]) for index in row) + b"\0\0" for row in INDEX[::-1]) + b"\0\1"
    colors = np.zeros((256, 4), np.uint8)
    colors[:64, :3] = PALETTE[:, ::-1]
    yield Drawn("BMP-run-lengths", bmp(runs, 8, 1, 36, colors.tobytes()), PALETTE[INDEX])


def tiffs() -> Iterator[Drawn]:
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
        yield Drawn(f"TIFF-RGB-{compression}", encoded(RGB, "TIFF", compression=compression), RGB)
        yield Drawn(f"TIFF-L-{compression}", encoded(GRAY, "TIFF", compression=compression), three(GRAY))
    yield Drawn("TIFF-jpeg", encoded(RGB, "TIFF", compression="jpeg", quality=95), RGB, lossy=True)
    yield Drawn("TIFF-1-fax", encoded(BITS, "TIFF", compression="group4"), three(BITS * np.uint8(255)))
    yield Drawn("TIFF-RGBA", encoded(RGBA, "TIFF"), over_white(RGB, ALPHA))
    yield Drawn("TIFF-CMYK", encoded(Image.fromarray(CMYK, "CMYK"), "TIFF"), CMYK_AS_RGB)
    yield Drawn("TIFF-YCbCr", encoded(Image.fromarray(RGB).convert("YCbCr"), "TIFF"), RGB, lossy=True)
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    yield Drawn("TIFF-LAB", encoded(ImageCms.applyTransform(Image.fromarray(RGB), to_lab), "TIFF"), RGB, lossy=True)
    yield Drawn("TIFF-I;16", encoded(DEEP, "TIFF"), eight_bits(DEEP))
    yield Drawn("TIFF-I;16-lzw", encoded(DEEP, "TIFF", compression="tiff_lzw"), eight_bits(DEEP))
    yield Drawn("TIFF-I;16B", tiff(DEEP.astype(">u2").tobytes(), 16, 1, ">"), eight_bits(DEEP))
    yield Drawn("TIFF-I", encoded(DEEP.astype(np.int32), "TIFF"), eight_bits(DEEP))
    yield Drawn("TIFF-white-is-0", tiff((255 - GRAY).tobytes(), 8, 0), three(GRAY))
    yield Drawn("TIFF-16-bit-white-is-0", tiff((65535 - DEEP).tobytes(), 16, 0), eight_bits(DEEP))
    twelve = DEEP >> 4
    bits = np.unpackbits(twelve.astype(">u2").view(np.uint8).reshape(36, 48, 2), axis=2)[:, :, 4:]
    yield Drawn("TIFF-12-bit", tiff(np.packbits(bits).tobytes(), 12, 1), eight_bits(twelve, 4095))
    yield Drawn("TIFF-pages", encoded(RGB, "TIFF", **another()), RGB)
    yield from (turned("TIFF", orientation) for orientation in STORED)


def webps_and_avifs() -> Iterator[Drawn]:
    white = over_white(RGB, ALPHA)
    yield Drawn("WEBP-lossless", encoded(RGB, "WEBP", lossless=True), RGB)
    yield Drawn("WEBP-lossless-alpha", encoded(RGBA, "WEBP", lossless=True, exact=True), white)
    yield Drawn("WEBP-animated", encoded(RGB, "WEBP", lossless=True, **another()), RGB)
    yield turned("WEBP", 6, lossless=True)
    for kind in ("WEBP", "AVIF"):
        yield Drawn(f"{kind}-lossy", encoded(RGB, kind, quality=95), RGB, lossy=True)
        yield Drawn(f"{kind}-lossy-alpha", encoded(RGBA, kind, quality=95), white, lossy=True)
    yield Drawn("AVIF-444", encoded(RGB, "AVIF", quality=95, subsampling="4:4:4"), RGB, lossy=True)
    yield Drawn("AVIF-animated", encoded(RGB, "AVIF", quality=95, **another()), RGB, lossy=True)
    yield from (turned("AVIF", orientation, quality=95) for orientation in (3, 6, 7))


def others() -> Iterator[Drawn]:
    for mode, image, golden in (("RGB", RGB, RGB), ("L", GRAY, three(GRAY)), ("I;16", DEEP, eight_bits(DEEP))):
        yield Drawn(f"JPEG2000-{mode}", encoded(image, "JPEG2000"), golden)
        yield Drawn(f"PPM-{mode}", encoded(image, "PPM"), golden)
    yield Drawn("JPEG2000-RGBA", encoded(RGBA, "JPEG2000"), over_white(RGB, ALPHA))
    yield Drawn("JPEG2000-stream", encoded(RGB, "JPEG2000", no_jp2=True), RGB)
    lossy = encoded(RGB, "JPEG2000", irreversible=True, quality_mode="rates", quality_layers=[5])
    yield Drawn("JPEG2000-lossy", lossy, RGB, lossy=True)
    deep = b"P6 48 36 65535\n" + DEEP_RGB.astype(">u2").tobytes()
    yield Drawn("PPM-RGB-16-bit", deep, eight_bits(DEEP_RGB))
    twelve = (DEEP >> 4).astype(">u2")
    yield Drawn("PPM-12-bit", b"P5 48 36 4095\n" + twelve.tobytes(), eight_bits(twelve, 4095))
    yield Drawn("PPM-in-digits", b"P3 48 36 255\n" + " ".join(map(str, RGB.ravel())).encode(), RGB)
    for name, options in {"png": {}, "bmp": {"bitmap_format": "bmp"}}.items():
        data = encoded(RGBA, "ICO", sizes=[(16, 12), (48, 36)], **options)
        yield Drawn(f"ICO-{name}", data, over_white(RGB, ALPHA))


def corpus() -> list[Drawn]:
    return [*basics(), *jpegs(), *pngs(), *gifs(), *bmps(), *tiffs(), *webps_and_avifs(), *others()]
