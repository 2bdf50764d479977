"""A corpus of drawn files in every format and mode, beside pixels computed without sslfeat; and files beyond reading."""

from __future__ import annotations

import io
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from sslfeat.data.decode import Decoded, Pixels, Preprocess, decode
from sslfeat.errors import ImageError
from tests.corpus import (
    FORMATS,
    GRAY,
    RGB,
    STORED,
    UPRIGHT,
    Drawn,
    corpus,
    encoded,
    over_white,
    png,
    png_chunk,
)

CORPUS = corpus()
LOSSLESS = [drawn for drawn in CORPUS if not drawn.lossy]
LOSSY = [drawn for drawn in CORPUS if drawn.lossy]
SIZES = [(36, 36), (24, 20), (60, 56)]  # resize, size: the stored pixels, smaller, larger
DAMAGED_EXIF = {
    "no-tiff": b"XX\0*\0\0\0\x08",
    "cut-header": b"MM\0*",
    "far-away": b"MM\0*\0\0\0\xff",
    "cut-entries": b"MM\0*\0\0\0\x08\0\x09",
    "ones": b"\xff" * 40,
}
A_SENTENCE = re.compile(r"[a-z0-9][^\n]{10,200}")
NO_SENTENCE = re.compile(r"0x[0-9a-f]|Error\b|^cannot be decoded: .{0,8}$|division|index out of range|NoneType|object has")


def written(data: bytes, folder: Path) -> Path:
    path = folder / "image"
    path.write_bytes(data)
    return path


def decoded(data: bytes, folder: Path, resize: int = 36, size: int = 36) -> Decoded:
    return decode(written(data, folder), Preprocess(resize=resize, size=size))


def plain(rgb: Pixels, resize: int, size: int) -> Pixels:
    """The definition: shorter side to ``resize`` by bicubic, then the center."""
    height, width = rgb.shape[:2]
    new_width, new_height = (resize * side // min(width, height) for side in (width, height))
    resized = np.asarray(Image.fromarray(np.ascontiguousarray(rgb)).resize((new_width, new_height), Image.Resampling.BICUBIC))
    top, left = round((new_height - size) / 2), round((new_width - size) / 2)
    return resized[top : top + size, left : left + size]


def plainly_opened(drawn: Drawn) -> Pixels:
    with Image.open(io.BytesIO(drawn.data)) as image:
        rgba = np.asarray(image.convert("RGBA"))
    return UPRIGHT[drawn.orientation](over_white(rgba[:, :, :3], rgba[:, :, 3]))


def name_of(drawn: Drawn) -> str:
    return drawn.name


def test_the_corpus_has_every_promised_format_and_each_name_once() -> None:
    names = [drawn.name for drawn in CORPUS]
    assert len(names) == len(set(names)) >= 100
    assert {name.partition("-")[0] for name in names} == {*FORMATS, "MPO"}


@pytest.mark.parametrize(("resize", "size"), SIZES)
@pytest.mark.parametrize("drawn", LOSSLESS, ids=name_of)
def test_a_lossless_file_gives_what_was_drawn(drawn: Drawn, resize: int, size: int, tmp_path: Path) -> None:
    result = decoded(drawn.data, tmp_path, resize, size)
    assert (result.height, result.width) == drawn.golden.shape[:2]
    np.testing.assert_allclose(result.pixels.astype(int), plain(drawn.golden, resize, size), rtol=0, atol=drawn.tolerance)


@pytest.mark.parametrize(("resize", "size"), SIZES)
@pytest.mark.parametrize("drawn", LOSSY, ids=name_of)
def test_a_lossy_file_gives_what_pillow_reads_and_almost_what_was_drawn(
    drawn: Drawn, resize: int, size: int, tmp_path: Path
) -> None:
    result = decoded(drawn.data, tmp_path, resize, size)
    assert (result.height, result.width) == drawn.golden.shape[:2]
    pixels, opened = result.pixels.astype(int), plain(plainly_opened(drawn), resize, size)
    np.testing.assert_allclose(pixels, opened, rtol=0, atol=drawn.tolerance)
    assert np.abs(pixels - plain(drawn.golden, resize, size)).mean() < 4


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("damage", DAMAGED_EXIF)
def test_an_image_whose_exif_is_damaged_is_still_an_image(damage: str, kind: str, tmp_path: Path) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    result = decoded(encoded(RGB, kind, exif=b"Exif\0\0" + DAMAGED_EXIF[damage], **options), tmp_path)
    assert np.abs(result.pixels.astype(int) - plain(RGB, 36, 36)).mean() < 4


def odd_exif(orientation: int) -> bytes:
    """EXIF as some cameras write it: an orientation, and text where the standard wants a number."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[0x0112] = orientation
    tags.tagtype[0x011A] = 2  # resolution, a fraction by the standard
    tags[0x011A] = "seventy-two"
    tags.tagtype[0x0103] = 2
    tags[0x0103] = "jpeg"
    buffer = io.BytesIO()
    tags.save(buffer)
    return b"Exif\0\0" + buffer.getvalue()


def test_orientation_is_applied_beside_exif_fields_of_the_wrong_type(tmp_path: Path) -> None:
    data = encoded(STORED[6](RGB), "PNG", exif=odd_exif(6))
    np.testing.assert_array_equal(decoded(data, tmp_path).pixels, plain(RGB, 36, 36))


def test_an_unknown_orientation_is_none(tmp_path: Path) -> None:
    for value in (0, 9, 65535):
        exif = Image.Exif()
        exif[0x0112] = value
        np.testing.assert_array_equal(decoded(encoded(RGB, "PNG", exif=exif), tmp_path).pixels, plain(RGB, 36, 36))


def heads_and_halves() -> dict[str, bytes]:
    """One file of each format without its second half, and with its first bytes alone."""
    first = {drawn.name.partition("-")[0]: drawn.data for drawn in reversed(CORPUS)}
    halves = {f"half-{name}": data[: len(data) // 2] for name, data in first.items() if name != "MPO"}
    return halves | {f"head-{name}": data[:20] for name, data in first.items()}


BROKEN: dict[str, bytes] = {
    "zero-bytes": b"",
    "one-byte": b"\xff",
    "zeros": bytes(5000),
    "text": b"a shopping list: eggs, milk, bread\n" * 20,
    "html": b"<!DOCTYPE html><html><body>404 not found</body></html>",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="4" height="4"/>',
    "heic": struct.pack(">I", 24) + b"ftypheic" + bytes(4) + b"mif1heic" + bytes(200),
    "zip": b"PK\x03\x04" + bytes(200),
    "pdf": encoded(RGB, "PDF"),
    "eps": encoded(RGB, "EPS"),
    "psd": b"8BPS\0\1" + bytes(200),
    "fits": b"SIMPLE  =                    T".ljust(2880),
    "ppm-without-pixels": b"P6 48 36 255\n",
    "ppm-of-no-size": b"P6 0 0 255\n",
    "ppm-of-letters": b"P6 wide high 255\n",
    "gif-of-no-size": b"GIF89a" + bytes(4) + b"\x80\0\0" + bytes(6) + b",\0\0\0\0\0\0\0\0\0\x02\x02D\x01\0;",
    "png-of-no-size": png(RGB, 2).replace(struct.pack(">II", 48, 36), bytes(8)),
    "png-with-a-wrong-sum": png(RGB, 2).replace(b"IHDR\0\0\0\x30", b"IHDR\0\0\0\x31"),
    "png-without-pixels": b"\x89PNG\r\n\x1a\n" + png(RGB, 2)[8:33] + png_chunk(b"IEND", b""),
    "tiff-of-floats": encoded(GRAY.astype(np.float32), "TIFF"),
    "tiff-of-big-numbers": encoded(GRAY.astype(np.int32) << 12, "TIFF"),
    "tiff-of-negative-numbers": encoded(GRAY.astype(np.int32) - 40, "TIFF"),
    **heads_and_halves(),
}


@pytest.mark.filterwarnings("ignore")  # Pillow's own, of damage
@pytest.mark.parametrize("name", BROKEN)
def test_a_file_beyond_reading_says_why_in_a_sentence(name: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError) as caught:
        decoded(BROKEN[name], tmp_path)
    reason = str(caught.value)
    assert A_SENTENCE.fullmatch(reason), reason
    assert not NO_SENTENCE.search(reason), reason
    assert str(tmp_path) not in reason


def test_the_same_damage_has_the_same_reason_under_any_name(tmp_path: Path) -> None:
    reasons = set()
    for name in ("a.png", "b.jpg"):
        (tmp_path / name).write_bytes(BROKEN["half-JPEG"])
        with pytest.raises(ImageError) as caught:
            decode(tmp_path / name, Preprocess(resize=16, size=16))
        reasons.add(str(caught.value))
    assert len(reasons) == 1
