"""Thousands of damaged files and a few bombs: every one is embedded or listed as failed, none takes long."""

from __future__ import annotations

import os
import struct
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sslfeat.data.dataset import find_inputs
from sslfeat.data.decode import Preprocess, decode
from sslfeat.errors import ImageError
from sslfeat.features.reader import Features
from sslfeat.features.verify import verify
from sslfeat.features.writer import Options, embed_to_folder
from sslfeat.inference.encoder import Encoder
from tests.corpus import FORMATS, RGB, encoded, png, png_chunk
from tests.mutate import MUTATIONS, mutants, originals

COUNT = int(os.environ.get("SSLFEAT_MUTANTS", "2000"))
SECONDS = 10.0
EXACT = Preprocess(resize=16, size=16)
# Pillow warns of much damage that it can live with; what becomes of the image is what counts here.
pytestmark = pytest.mark.filterwarnings("ignore")


def reason_of(path: Path) -> str | None:
    """None for an image; anything that is not an ImageError goes through and fails the test."""
    try:
        assert decode(path, EXACT).pixels.shape == (16, 16, 3)
    except ImageError as error:
        return str(error)
    return None


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of mutants. Read only."""
    folder = tmp_path_factory.mktemp("mutants") / "images"
    folder.mkdir()
    for name, data in mutants(COUNT):
        (folder / name).write_bytes(data)
    return folder


def test_mutants_are_the_same_for_a_seed_and_others_for_another() -> None:
    assert list(mutants(300)) == list(mutants(300))
    assert {data for _, data in mutants(300)} != {data for _, data in mutants(300, seed=1)}
    whole = [data for _, data in originals()]
    kinds = {kind for kind, _ in originals()}
    assert kinds == set(FORMATS)
    changed = [data != whole[number % len(whole)] for number, (_, data) in enumerate(mutants(len(whole) * len(MUTATIONS)))]
    assert np.mean(changed) > 0.9


def test_the_files_that_are_mutated_are_images_before(tmp_path: Path) -> None:
    for kind, data in originals():
        (tmp_path / "image").write_bytes(data)
        assert reason_of(tmp_path / "image") is None, kind


def test_every_mutant_is_embedded_or_listed_as_failed(tiny: Path, damaged: Path, tmp_path: Path) -> None:
    inputs = find_inputs([damaged])
    summary = embed_to_folder(Encoder.load(tiny, "cpu", 1), inputs, tmp_path / "f", Options(workers=2))
    assert len(inputs) == COUNT
    assert summary.embedded + summary.failed == len(inputs)
    features = Features.load(tmp_path / "f")
    assert len(features.paths) == summary.embedded
    assert np.isfinite(features.embeddings).all()
    assert list(verify(tmp_path / "f")) == []
    done, whole = (Counter(kind_of(Path(name)) for name in names) for names in (features.paths, [i.name for i in inputs]))
    print("\nembedded, failed: ", *(f"{kind} {done[kind]}, {whole[kind] - done[kind]};" for kind in FORMATS))


def kind_of(path: Path) -> str:
    return path.name.partition("-")[0]


def test_no_mutant_takes_long_and_each_reason_is_the_same_twice(damaged: Path) -> None:
    slowest = 0.0
    for path in sorted(damaged.iterdir()):
        began = time.monotonic()
        reason = reason_of(path)
        seconds = time.monotonic() - began
        assert seconds < SECONDS, path.name
        slowest = max(slowest, seconds)
        if reason is not None:
            assert reason == reason_of(path), path.name
            assert str(damaged) not in reason
    print(f"\nslowest decoding: {slowest:.2f} s")


def test_mutants_of_every_format_are_both_read_and_refused(damaged: Path) -> None:
    """Damage that no file survives, or that none minds, would test nothing."""
    survived: dict[str, set[bool]] = {}
    for path in damaged.iterdir():
        survived.setdefault(kind_of(path), set()).add(reason_of(path) is None)
    assert all(both == {True, False} for both in survived.values()), survived


def declared(width: int, height: int) -> dict[str, bytes]:
    """Small files that say they are ``width`` x ``height``."""
    size = struct.pack(">II", width, height)
    head = png_chunk(b"IHDR", size + bytes([8, 2, 0, 0, 0]))
    one_line = zlib.compress(bytes(width * 3 + 1))
    image = b"\x89PNG\r\n\x1a\n" + head + png_chunk(b"IDAT", one_line) + png_chunk(b"IEND", b"")
    jpeg = encoded(RGB, "JPEG").replace(struct.pack(">HH", 36, 48), struct.pack(">HH", height, width))
    gif = encoded(RGB, "GIF").replace(struct.pack("<HH", 48, 36), struct.pack("<HH", width, height))
    icon = struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(image), 22) + image
    bmp = encoded(RGB, "BMP").replace(struct.pack("<ii", 48, 36), struct.pack("<ii", width, height))
    return {
        "a.png": image,
        "b.jpg": jpeg,
        "c.gif": gif,
        "d.ico": icon,
        "e.bmp": bmp,
        "f.ppm": f"P6 {width} {height} 255\n".encode(),
    }


def bombs() -> Iterator[tuple[str, bytes]]:
    for sides in ((65_500, 65_500), (9_000, 9_000), (65_500, 1), (1, 65_500)):
        yield from ((f"declared-{sides[0]}x{sides[1]}-{name}", data) for name, data in declared(*sides).items())
    text = zlib.compress(b"a" * (100 << 20))
    yield "ztxt.png", png(RGB, 2, extra=png_chunk(b"zTXt", b"Comment\0\0" + text))
    yield "itxt.png", png(RGB, 2, extra=png_chunk(b"iTXt", b"Comment\0\1\0\0\0" + text))
    yield "many-ztxt.png", png(RGB, 2, extra=png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * (1 << 20))) * 200)
    yield "iccp.png", png(RGB, 2, extra=png_chunk(b"iCCP", b"profile\0\0" + text))
    frame = b",\0\0\0\0\1\0\1\0\0\x02\x02D\x01\0"
    yield "5000-frames.gif", b"GIF89a\1\0\1\0\x80\0\0" + bytes([0, 0, 0, 255, 255, 255]) + frame * 5000 + b";"
    yield "eps.jpg", encoded(RGB, "EPS")
    cards = ("SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 2", "NAXIS1  = 48", "NAXIS2  = 36", "END")
    yield "fits.jpg", "".join(card.ljust(80) for card in cards).encode().ljust(2880) + bytes(2880)
    yield "many-entries.ico", struct.pack("<HHH", 0, 1, 65_535) + bytes([16, 16, 0, 0, 1, 0, 32, 0]) * 2 * 65_535
    yield "endless-directories.tif", b"II*\0\x08\0\0\0" + struct.pack("<H", 0) + struct.pack("<I", 8)


FAILING = ("65500x65500", "eps", "fits", "many-entries", "endless")


def test_bombs_are_refused_or_decoded_soon(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bombs"
    folder.mkdir()
    for name, data in bombs():
        (folder / name).write_bytes(data)
    for path in sorted(folder.iterdir()):
        began = time.monotonic()
        reason = reason_of(path)
        seconds = time.monotonic() - began
        print(f"\n{path.name}: {seconds:.2f} s, {reason}", end="")
        assert seconds < SECONDS, path.name
        if any(word in path.name for word in FAILING):
            assert reason, path.name
    inputs = find_inputs([folder])
    summary = embed_to_folder(Encoder.load(tiny, "cpu", 1), inputs, tmp_path / "f", Options(workers=2))
    assert summary.embedded + summary.failed == len(inputs) == len(list(folder.iterdir()))


def test_a_gif_of_many_frames_costs_its_first(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(dict(bombs())["5000-frames.gif"])
    assert reason_of(tmp_path / "image") is None
