"""Decoding: every kind of image beside the plainest Pillow code, and every kind of damage."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sslfeat.data import transforms as preprocess
from sslfeat.data.decode import MAX_PIXELS, Decoding, Pixels, Preprocess, decode
from sslfeat.errors import ImageError, InputError

EXACT = Preprocess(resize=16, size=16)


def scene(width: int = 90, height: int = 60) -> Image.Image:
    """An image without symmetry, so that any turn or flip shows."""
    rows, columns = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([columns * 255 // width, rows * 255 // height, (rows * columns) % 251], 2).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decode_bytes(data: bytes, folder: Path, preprocess: Preprocess = EXACT) -> Pixels:
    path = folder / "image"
    path.write_bytes(data)
    return decode(path, preprocess).pixels


def plain(image: Image.Image, resize: int, size: int) -> Pixels:
    """The definition, written out: shorter side to ``resize`` by bicubic, then the center."""
    width, height = image.size
    if width < height:
        image = image.resize((resize, resize * height // width), Image.Resampling.BICUBIC)
    else:
        image = image.resize((resize * width // height, resize), Image.Resampling.BICUBIC)
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    return np.asarray(image)[top : top + size, left : left + size]


@pytest.mark.parametrize(("width", "height"), [(90, 60), (60, 90), (61, 61), (7, 33), (500, 333), (1, 1), (16, 16), (3, 40)])
@pytest.mark.parametrize(("resize", "size"), [(16, 16), (37, 32), (256, 224)])
def test_resize_and_crop_equal_the_plain_definition(width: int, height: int, resize: int, size: int) -> None:
    image = scene(width, height)
    decoded = decode(image, Preprocess(resize=resize, size=size))
    np.testing.assert_array_equal(decoded.pixels, plain(image, resize, size))
    assert (decoded.width, decoded.height) == (width, height)
    assert decoded.pixels.dtype == np.uint8


def test_a_strip_gives_its_middle_without_resizing_all_of_it() -> None:
    strip = np.zeros((20_000, 8, 3), np.uint8)
    strip[9_990:10_010] = 255
    pixels = decode(strip, Preprocess(resize=16, size=16)).pixels
    assert pixels.shape == (16, 16, 3)
    assert pixels.min() > 200  # the whole resized strip would be 16 x 40,000 px; these are its middle 16
    wide = decode(strip.transpose(1, 0, 2).copy(), Preprocess(resize=16, size=16)).pixels
    np.testing.assert_array_equal(wide, pixels.transpose(1, 0, 2))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int, tmp_path: Path) -> None:
    upright = scene()
    stored = {  # what a camera held that way writes (EXIF 2.32, tag 0x0112: where the 0th row and column lie)
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation](np.asarray(upright))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif)
    np.testing.assert_array_equal(decode_bytes(data, tmp_path), plain(upright, 16, 16))


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 16 * 16).astype(np.uint16).reshape(16, 16)
    pixels = decode_bytes(encoded(Image.fromarray(values), "PNG"), tmp_path)
    expected = np.round(values / 257).astype(np.uint8)
    assert np.abs(pixels[:, :, 0].astype(int) - expected).max() <= 1
    np.testing.assert_array_equal(pixels[:, :, 0], pixels[:, :, 2])


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF"])
def test_transparency_shows_white(kind: str, tmp_path: Path) -> None:
    image = Image.new("RGBA", (32, 32), (200, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 32, 16))
    options = {"lossless": True} if kind == "WEBP" else {}
    pixels = decode_bytes(encoded(image, kind, **options), tmp_path).astype(int)
    np.testing.assert_allclose(pixels[:7], 255, atol=1)
    np.testing.assert_allclose(pixels[9:], np.broadcast_to([200, 0, 0], (7, 16, 3)), atol=3)


def test_half_transparent_is_mixed_with_white() -> None:
    array = np.zeros((20, 20, 4), np.uint8)
    array[:, :, 3] = 128
    np.testing.assert_allclose(decode(array, EXACT).pixels.astype(int), 127, atol=1)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = scene().convert("RGB").convert(mode) if mode != "LAB" else Image.new("LAB", (40, 30), (120, 20, 30))
    pixels = decode(image, EXACT).pixels
    assert pixels.shape == (16, 16, 3)
    if mode in ("RGBA", "RGB"):
        np.testing.assert_array_equal(pixels, plain(scene(), 16, 16))


def test_cmyk_jpeg(tmp_path: Path) -> None:
    """Adobe stores CMYK inverted; a wrong reader gives the negative."""
    pixels = decode_bytes(encoded(Image.new("RGB", (32, 32), (250, 20, 20)).convert("CMYK"), "JPEG"), tmp_path)
    np.testing.assert_allclose(pixels.astype(int), np.broadcast_to([250, 20, 20], (16, 16, 3)), atol=4)


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (32, 32), color) for color in ("red", "lime", "blue")]
    for kind in ("GIF", "WEBP", "TIFF", "PNG"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        np.testing.assert_array_equal(decode_bytes(data, tmp_path), np.broadcast_to([255, 0, 0], (16, 16, 3)))


def test_two_images_in_one_jpeg_file(tmp_path: Path) -> None:
    """MPO, as stereo cameras and phones write it, is read as the JPEG it begins with."""
    data = encoded(scene(), "MPO", save_all=True, append_images=[Image.new("RGB", (90, 60))], quality=95)
    assert np.abs(decode_bytes(data, tmp_path).astype(int) - plain(scene(), 16, 16)).max() < 40


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO", "AVIF", "JPEG2000"])
def test_every_promised_format_is_read(kind: str, tmp_path: Path) -> None:
    image = scene(64, 64)
    pixels = decode_bytes(encoded(image, kind), tmp_path)
    assert np.abs(pixels.astype(int) - plain(image, 16, 16)).mean() < 20


def test_arrays_and_pil_images_are_images() -> None:
    color = np.asarray(scene())
    gray = color[:, :, 0]
    np.testing.assert_array_equal(decode(color, EXACT).pixels, plain(scene(), 16, 16))
    np.testing.assert_array_equal(decode(color[::-1], EXACT).pixels, decode(color[::-1].copy(), EXACT).pixels)
    np.testing.assert_array_equal(decode(gray, EXACT).pixels, decode(gray[:, :, None], EXACT).pixels)
    np.testing.assert_array_equal(decode(gray, EXACT).pixels, decode(Image.fromarray(gray.copy()), EXACT).pixels)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((4, 4, 3), np.float32), "float32"),
        (np.zeros((4, 4, 2), np.uint8), r"\(4, 4, 2\)"),
        (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)"),
        (np.zeros(4, np.uint8), r"\(4,\)"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"\(1, 4, 4, 3\)"),
    ],
)
def test_other_arrays_are_refused_by_their_shape_or_type(array: Any, said: str) -> None:
    with pytest.raises(ImageError, match=said):
        decode(array, EXACT)


def test_a_float_image_is_refused() -> None:
    with pytest.raises(ImageError, match="floating-point"):
        decode(Image.fromarray(np.zeros((4, 4), np.float32)), EXACT)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty"),
        (b"not an image, but text", "not an image"),
        (b"\x89PNG\r\n\x1a\n", "not an image"),
        (encoded(scene(), "JPEG")[:400], "cannot be decoded"),
        (encoded(scene(), "PNG")[:300], "cannot be decoded"),
        (encoded(scene(), "PDF"), "not an image"),
        (encoded(scene(), "EPS"), "not an image"),  # would start Ghostscript
    ],
)
def test_what_cannot_be_read_says_why(data: bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=said):
        decode_bytes(data, tmp_path)


def test_files_that_are_no_files(tmp_path: Path) -> None:
    for path, said in ((tmp_path, "cannot be opened|not a regular"), (tmp_path / "gone.jpg", "No such file")):
        with pytest.raises(ImageError, match=said):
            decode(path, EXACT)


@pytest.mark.parametrize("orientation", [1, 6])
def test_fast_decoding_is_close_and_keeps_the_size_of_the_source(orientation: int, tmp_path: Path) -> None:
    image = scene().resize((640, 480), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[274] = orientation
    image.save(tmp_path / "a.jpg", quality=95, exif=exif)
    exact = decode(tmp_path / "a.jpg", EXACT)
    fast = decode(tmp_path / "a.jpg", EXACT, Decoding("fast"))
    assert (fast.width, fast.height, fast.sha256) == (exact.width, exact.height, exact.sha256)
    assert (fast.width, fast.height) == ((640, 480) if orientation == 1 else (480, 640))
    difference = np.abs(fast.pixels.astype(int) - exact.pixels).mean()
    assert 0 < difference < 4  # it is another decoding, and a near one
    with pytest.raises(InputError, match=r"exact or fast"):
        Decoding("quick")


def test_heic_is_read_or_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    image = scene()
    pillow_heif.from_pillow(image).save(tmp_path / "a.heic", quality=95)
    found = decode(tmp_path / "a.heic", EXACT)
    assert (found.width, found.height) == image.size
    wanted = decode(np.asarray(image.convert("RGB")), EXACT).pixels
    assert np.abs(found.pixels.astype(int) - wanted).mean() < 6
    monkeypatch.setattr(preprocess, "_read_heif", lambda: False)
    with pytest.raises(ImageError, match=r"pip install 'pillow-heif"):
        decode(tmp_path / "a.heic", EXACT)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_named_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    raised: list[str] = []

    def attempt() -> None:
        try:
            decode(tmp_path / "pipe.jpg", EXACT)
        except ImageError as error:
            raised.append(str(error))

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(20)
    assert raised == ["not a regular file"]


def test_a_decompression_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    side = int(MAX_PIXELS**0.5) + 100
    data = encoded(Image.new("1", (side, side)), "PNG")
    assert len(data) < 1 << 20
    with pytest.raises(ImageError, match="limit"):
        decode_bytes(data, tmp_path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "AVIF", "JPEG2000"])
def test_damage_anywhere_gives_an_image_or_an_image_error(kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole = encoded(scene(), kind)
    for _ in range(40):
        data = np.frombuffer(whole, np.uint8).copy()
        where = rng.integers(0, len(data), 5)
        data[where] = rng.integers(0, 256, 5)
        try:
            assert decode_bytes(data[: rng.integers(1, len(data) + 1)].tobytes(), tmp_path).shape == (16, 16, 3)
        except ImageError as error:
            assert "0x" not in str(error)  # reasons are the same in every run
            assert str(tmp_path) not in str(error)
