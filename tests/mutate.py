"""Damaged image files: seeded mutations of small drawn ones, the same on every machine."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from tests.corpus import FORMATS

WIDTH, HEIGHT, HUGE = 61, 47, 65_500  # odd sides, so that their bytes are found in the headers
ENDINGS = {"JPEG": "jpg", "TIFF": "tif", "JPEG2000": "jp2"}
Mutation = Callable[[bytearray, random.Random], None]


def originals() -> Iterator[tuple[str, bytes]]:
    """Files of every format that sslfeat reads, most of them in several variants."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    color = Image.fromarray(np.stack([columns * 4, rows * 5, rows ^ columns], 2).astype(np.uint8))
    faded = color.copy()
    faded.putalpha(Image.fromarray((rows * 5).astype(np.uint8)))
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in FORMATS:
        yield kind, saved(color, kind)
    yield "JPEG", saved(color, "JPEG", progressive=True, exif=exif)
    yield "JPEG", saved(color.convert("CMYK"), "JPEG")
    yield "PNG", saved(faded, "PNG", exif=exif)
    yield "PNG", saved(color.quantize(16), "PNG", transparency=3)
    yield "GIF", saved(color, "GIF", save_all=True, append_images=[faded, color])
    yield "BMP", saved(color.quantize(16), "BMP")
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "jpeg"):
        yield "TIFF", saved(color, "TIFF", compression=compression)
    yield "WEBP", saved(faded, "WEBP", lossless=True, exif=exif)
    yield "WEBP", saved(color, "WEBP", save_all=True, append_images=[faded])
    yield "AVIF", saved(faded, "AVIF", exif=exif)
    yield "JPEG2000", saved(faded, "JPEG2000", no_jp2=True)
    yield "PPM", saved(Image.fromarray((rows * columns).astype(np.uint16)), "PPM")
    yield "ICO", saved(faded, "ICO", sizes=[(16, 16), (WIDTH, HEIGHT)], bitmap_format="bmp")


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    sizes = {"sizes": [(WIDTH, HEIGHT)]} if kind == "ICO" else {}
    image.save(buffer, kind, **{**sizes, **options})
    return buffer.getvalue()


def mutants(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """``count`` damaged files with their names, FORMAT-NUMBER-MUTATION.ENDING, all formats and mutations in turn."""
    files = list(originals())
    for number in range(count):
        rng = random.Random(f"{seed} {number}")
        kind, data = files[number % len(files)]
        mutation = MUTATIONS[number // len(files) % len(MUTATIONS)]
        damaged = bytearray(data)
        mutation(damaged, rng)
        if kind == "PNG" and rng.random() < 0.7:
            repair_sums(damaged)
        yield f"{kind}-{number:06d}-{mutation.__name__}.{ENDINGS.get(kind, kind.lower())}", bytes(damaged)


def flip(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.randint(1, 8)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def flip_in_the_header(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.randint(1, 3)):
        data[rng.randrange(min(64, len(data)))] ^= 1 << rng.randrange(8)


def overwrite(data: bytearray, rng: random.Random) -> None:
    start, end = piece(data, rng)
    data[start:end] = rng.randbytes(end - start)


def truncate(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def insert(data: bytearray, rng: random.Random) -> None:
    start, end = piece(data, rng)
    data[start:start] = rng.randbytes(end - start)


def delete(data: bytearray, rng: random.Random) -> None:
    start, end = piece(data, rng)
    del data[start:end]


def duplicate(data: bytearray, rng: random.Random) -> None:
    start, end = piece(data, rng)
    data[start:start] = data[start:end] * rng.choice([1, 1, 1, 50])


def swap(data: bytearray, rng: random.Random) -> None:
    a, b, c, d = sorted(rng.randrange(len(data) + 1) for _ in range(4))
    data[a:d] = data[c:d] + data[b:c] + data[a:b]


def extreme(data: bytearray, rng: random.Random) -> None:
    """A field of 2 or 4 bytes becomes the least or the greatest number, mostly near the beginning."""
    width = rng.choice([2, 4])
    start = rng.randrange(min(len(data), rng.choice([40, 200, len(data)])) - width)
    data[start : start + width] = rng.choice([b"\0", b"\xff"]) * width


def enlarge(data: bytearray, rng: random.Random) -> None:
    """The header declares HUGE x HUGE px, or HUGE along one side."""
    new_width, new_height = rng.choice([(HUGE, HUGE), (HUGE, HEIGHT), (WIDTH, HUGE)])
    for old, new in zip(sizes(WIDTH, HEIGHT), sizes(new_width, new_height), strict=True):
        data[:] = data.replace(old, new)
    if data.startswith(b"\x89PNG"):
        repair_sums(data)


def sizes(width: int, height: int) -> list[bytes]:
    """Width and height as the headers of the formats hold them."""
    pairs = [struct.pack(code, *sides) for code in (">II", "<II", ">HH", "<HH") for sides in ((width, height), (height, width))]
    tags = [struct.pack("<HHII", tag, 4, 1, side) for tag, side in ((256, width), (257, height))]
    short_tags = [struct.pack("<HHIHH", tag, 3, 1, side, 0) for tag, side in ((256, width), (257, height))]
    return [*tags, *short_tags, f"{width} {height}".encode(), *pairs]


def piece(data: bytearray, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(data))
    return start, min(len(data), start + rng.choice([1, 2, 4, 16, 100]))


def repair_sums(data: bytearray) -> None:
    """Make a PNG's checksums right again: a reader that trusts them would look no further."""
    start = 8
    while start + 12 <= len(data):
        length = int.from_bytes(data[start : start + 4], "big")
        end = start + 8 + length
        if end + 4 > len(data):
            break
        data[end : end + 4] = struct.pack(">I", zlib.crc32(data[start + 4 : end]))
        start = end + 4


MUTATIONS: tuple[Mutation, ...] = (
    flip,
    flip_in_the_header,
    overwrite,
    truncate,
    insert,
    delete,
    duplicate,
    swap,
    extreme,
    enlarge,
)
