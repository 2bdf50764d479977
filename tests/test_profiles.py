"""Color profiles, text in PNG files, brands, lists and folders, as people's files have them."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageCms

from sslfeat.data.dataset import find_inputs
from sslfeat.data.decode import decode
from sslfeat.data.transforms import Preprocess, open_image
from sslfeat.data.upright import to_rgb
from sslfeat.errors import ImageError
from tests.conftest import sslfeat

SIZE = Preprocess(32, 32)


def wide_gamut() -> bytes:
    """A profile with Adobe RGB's primaries and gamma 2.2, made by hand: nothing that a system ships."""

    def fixed(value: float) -> bytes:
        return struct.pack(">i", round(value * 65536))

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(map(fixed, values))

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256)) + b"\0\0"
    name = b"wide"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(name) + 1) + name + b"\0" + b"\0" * 78,
        b"wtpt": xyz(0.9642, 1, 0.8249),
        b"rXYZ": xyz(0.60974, 0.31111, 0.01947),
        b"gXYZ": xyz(0.20528, 0.62567, 0.06087),
        b"bXYZ": xyz(0.14919, 0.06322, 0.74457),
        b"rTRC": curve,
        b"gTRC": curve,
        b"bTRC": curve,
    }
    start, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for tag, value in tags.items():
        padded = value + b"\0" * (-len(value) % 4)
        table += tag + struct.pack(">II", start + len(body), len(padded))
        body += padded
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"none", 0x02400000, b"mntr", b"RGB ", b"XYZ ")
    head += b"\0" * 12 + b"acsp" + b"\0" * 28 + fixed(0.9642) + fixed(1) + fixed(0.8249)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def drawn() -> Image.Image:
    y, x = np.mgrid[0:48, 0:64]
    return Image.fromarray(np.stack([x * 4, y * 5, 255 - x * 3], 2).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(data: bytes) -> npt.NDArray[np.int64]:
    return np.asarray(to_rgb(open_image(data))).astype(int)


def test_colors_come_by_their_profile() -> None:
    """The same colors, written in another space, look the same; and as the profile alone says."""
    profile = wide_gamut()
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    image = Image.fromarray((np.asarray(drawn()) // 2 + 60).astype(np.uint8))  # inside both spaces
    other = ImageCms.profileToProfile(image, ImageCms.createProfile("sRGB"), source, outputMode="RGB")
    assert other is not None
    plain = np.asarray(image).astype(int)
    assert np.abs(np.asarray(other).astype(int) - plain).max() > 10
    for kind, most in (("PNG", 3), ("TIFF", 3), ("JPEG", 24)):
        options = {"quality": 95} if kind == "JPEG" else {}
        found = pixels(encoded(other, kind, icc_profile=profile, **options))
        assert np.abs(found - plain).max() <= most, kind
    with_alpha = other.copy()
    with_alpha.putalpha(255)
    assert np.abs(pixels(encoded(with_alpha, "PNG", icc_profile=profile)) - plain).max() <= 3


def test_profiles_that_say_nothing_change_nothing() -> None:
    image = drawn()
    plain = np.asarray(image).astype(int)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    gray = image.convert("L")
    for profile in (srgb, b"no profile at all", wide_gamut()[:200], wide_gamut()[:128] + b"\xff" * 300):
        assert np.array_equal(pixels(encoded(image, "PNG", icc_profile=profile)), plain)
    same = np.asarray(gray.convert("RGB")).astype(int)
    assert np.array_equal(pixels(encoded(gray, "PNG", icc_profile=wide_gamut())), same)  # a profile of RGB, pixels of gray


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def test_text_in_a_png_costs_nobody_the_image() -> None:
    png = encoded(drawn(), "PNG")
    head, rest, large = png[:33], png[33:], b"x" * (3 << 20)
    damaged = bytearray(chunk(b"tEXt", b"Comment\0hello"))
    damaged[-1] ^= 255
    for text in (
        chunk(b"zTXt", b"workflow\0\0" + zlib.compress(large)),
        chunk(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(large)),
        chunk(b"tEXt", b"workflow\0" + large),
        b"".join(chunk(b"tEXt", b"k%d\0" % number + b"y" * (1 << 20)) for number in range(70)),
        chunk(b"iCCP", b"p\0\0" + zlib.compress(large)),
        bytes(damaged),
        chunk(b"iCCP", b"p\0\0" + zlib.compress(b"x" * (20 << 20))),
        chunk(b"iCCP", b"p\0\0" + zlib.compress(b"x"))[:-1] + b"?",
        chunk(b"eXIf", b"MM\0*")[:-1] + b"?",
    ):
        assert np.array_equal(pixels(head + text + rest), np.asarray(drawn()).astype(int))


@pytest.mark.parametrize("brand", [b"mif1", b"miaf", b"msf1", b"avis"])
def test_avif_of_another_major_brand_is_avif(brand: bytes) -> None:
    data = encoded(drawn(), "AVIF", quality=90)
    assert np.array_equal(pixels(data[:8] + brand + data[12:]), pixels(data))


def test_heic_is_named_with_its_cure() -> None:
    heic = struct.pack(">I", 24) + b"ftypheic\0\0\0\0mif1heic" + b"\0" * 40
    with pytest.raises((ImageError, Exception)) as raised:
        open_image(heic)
    assert "AVIF" not in str(raised.value)


def test_the_thumbnail_of_a_raw_file_is_not_the_image(tmp_path: Path) -> None:
    path = tmp_path / "raw.tif"
    image = Image.new("RGB", (16, 12), "gray")
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    tags = ImageFileDirectory_v2()
    tags[254] = 1
    tags[330] = 8
    image.save(path, tiffinfo=tags)
    with pytest.raises(ImageError, match="thumbnail"):
        decode(path, SIZE)


def folder_of(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        drawn().save(root / name)
    return root


def test_lists_are_read_as_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["a/#1?.png", "a/2.png", "a/with space.png"]
    folder_of(tmp_path, *names)
    lists = tmp_path / "lists"
    lists.mkdir()
    written = {
        "plain": "\n".join(names).encode(),
        "crlf": "\r\n".join(names).encode(),
        "mark": b"\xef\xbb\xbf" + "\n".join(names).encode(),
        "utf16": "\n".join(names).encode("utf-16"),
        "quoted": "\n".join(f'"{name}"' for name in names).encode(),
        "blanks": "\n".join(f"  {name}  " for name in names).encode(),
        "urls": "\n".join((tmp_path / name).as_uri() for name in names).encode(),
        "relative": "\n".join(f"../{name}" for name in names).encode(),
        "nul": "\0".join(names).encode(),
        "utf16 without mark": "\n".join(names).encode("utf-16-le"),
        "utf16 big": "\n".join(names).encode("utf-16-be"),
        "bare urls": "\n".join(f"file://localhost{tmp_path / name}" for name in names).encode(),
    }
    monkeypatch.chdir(tmp_path)
    for kind, data in written.items():
        (lists / f"{kind}.txt").write_bytes(data)
        found = find_inputs([f"lists/{kind}.txt"], "none")
        assert sorted(os.path.realpath(item.path).decode() for item in found) == [str(tmp_path / name) for name in names], kind


def test_what_systems_put_among_images_is_passed_over(tmp_path: Path) -> None:
    folder_of(
        tmp_path,
        "a/1.png",
        "@eaDir/a/1.png",
        "a/@eaDir/2.png",
        "#recycle/3.png",
        "$RECYCLE.BIN/4.png",
        "$Recycle.Bin/4.png",
        "__MACOSX/5.png",
    )
    messages: list[str] = []
    assert [Path(item.name).name for item in find_inputs([tmp_path], "none", note=messages.append)] == ["1.png"]
    assert len(messages) == 1 and messages[0].startswith("skipped 6 system folders, such as ")


def test_what_is_excluded_is_left_out(tmp_path: Path, tiny: Path) -> None:
    folder_of(tmp_path, "a/1.png", "a/2.png", "thumbs/1.png", "b/old-3.png")
    assert len(find_inputs([tmp_path], "none", [tmp_path.name])) == 4  # what is above the folder that was given is not asked
    assert [item.name[len(str(tmp_path)) :] for item in find_inputs([tmp_path], "none", ["thumbs", "old-*"])] == [
        "/a/1.png",
        "/a/2.png",
    ]
    done = sslfeat("embed", tmp_path, "--encoder", tiny, "--out", tmp_path / "f", "--exclude", "thumbs", "--exclude", "*/old-*")
    assert done.returncode == 0, done.stderr
    assert "2 images" in done.stderr and "excluded by --exclude: 2 images" in done.stderr
    done = sslfeat("index", tmp_path / "a", "--exclude", "1.*", "--encoder", tiny, "--out", tmp_path / "index")
    assert done.returncode == 0 and "1 image, encoder tiny" in done.stderr, done.stderr
    done = sslfeat("index", tmp_path / "f", "--exclude", "1.*", "--out", tmp_path / "other")
    assert done.returncode == 2 and "--exclude applies to images" in done.stderr


def test_a_loose_image_beside_class_folders_takes_no_labels_away(tmp_path: Path, tiny: Path) -> None:
    folder_of(tmp_path / "p", *(f"{name}/{number}.png" for name in ("cat", "dog") for number in range(10)), "loose.png")
    labels = {Path(item.name).name: item.label for item in find_inputs([tmp_path / "p"])}
    assert labels["loose.png"] is None
    assert [item.label for item in find_inputs([tmp_path / "p"])].count("cat") == 10
    done = sslfeat("embed", tmp_path / "p", "--encoder", tiny, "--out", tmp_path / "f")
    assert "2 classes; without a label: 1 image " in done.stderr
    folder_of(tmp_path / "p", "cat/old/1.png", *(f"loose{number}.png" for number in range(3)))
    again = [item.label for item in find_inputs([tmp_path / "p"])]
    assert (again.count("cat"), again.count("dog"), again.count(None)) == (10, 10, 5)
    folder_of(tmp_path / "q", *(f"{depth}/{number}.png" for depth in ("a", "b/c", "d/e/f") for number in range(4)))
    assert all(item.label is None for item in find_inputs([tmp_path / "q"]))
    done = sslfeat("embed", tmp_path / "q", "--encoder", tiny, "--out", tmp_path / "g")
    assert "do not look like classes" in done.stderr


def test_one_name_is_one_class_however_its_accents_are_written(tmp_path: Path) -> None:
    folder_of(tmp_path, "cafe\u0301/1.png", "caf\u00e9/2.png", "dog/1.png", "dog/2.png")
    assert {item.label for item in find_inputs([tmp_path])} == {"caf\u00e9", "dog"}


def test_what_runs_out_of_memory_names_the_option() -> None:
    from sslfeat.data.transforms import reason

    assert "--max-memory" in reason(MemoryError())
