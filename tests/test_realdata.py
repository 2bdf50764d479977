"""Real photographs: a thousand of them among odd and broken files, and parity on images nobody drew.

SSLFEAT_REALDATA names a folder that holds ``fullsize250/``, some hundred full-size photographs.
"""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sslfeat.features.reader import Features
from tests.conftest import sslfeat

ROOT = os.environ.get("SSLFEAT_REALDATA", "")
PHOTOS = Path(ROOT) / "fullsize250"
pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not (ROOT and PHOTOS.is_dir()), reason="SSLFEAT_REALDATA does not name a folder with fullsize250/"),
]
UNREADABLE = {"empty.jpg", "truncated.jpg", "text.jpg", "noise.png", "half.png", "pdf.gif", "zeros.tif"}


def add_odd_files(folder: Path, photo: Path) -> int:
    """Twenty odd files, seven of them unreadable. Returns how many."""
    data = photo.read_bytes()
    with Image.open(photo) as opened:
        image = opened.convert("RGB").resize((320, 240))
    image.convert("CMYK").save(folder / "cmyk.jpg")
    deep = (np.asarray(image.convert("L")).astype(np.uint16)) * 257
    Image.fromarray(deep).save(folder / "deep.png")
    image.convert("RGBA").rotate(30, expand=True).save(folder / "rgba.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(folder / "turned.jpg", exif=exif)
    frames = [image.convert("P"), image.rotate(90).convert("P")]
    frames[0].save(folder / "animated.gif", save_all=True, append_images=frames[1:])
    image.convert("LA").save(folder / "la.png")
    image.convert("P").save(folder / "palette.png", transparency=0)
    image.convert("1").save(folder / "bits.png")
    image.resize((1, 1)).save(folder / "dot.png")
    image.resize((5000, 1)).save(folder / "strip.png")
    (folder / "a name with spaces.JPG").write_bytes(data)
    (folder / "a\nnewline.jpg").write_bytes(data)
    with open(os.fsencode(folder) + b"/bad\xffbyte.jpg", "wb") as file:
        file.write(data)
    (folder / "empty.jpg").touch()
    (folder / "truncated.jpg").write_bytes(data[: len(data) // 2])
    (folder / "text.jpg").write_text("this is no image")
    (folder / "noise.png").write_bytes(np.random.default_rng(0).bytes(5000))
    (folder / "half.png").write_bytes((folder / "rgba.png").read_bytes()[:2000])
    (folder / "pdf.gif").write_bytes(b"%PDF-1.7\n" + b"0" * 100)
    (folder / "zeros.tif").write_bytes(bytes(4096))
    return len(list(folder.iterdir()))


def test_a_thousand_photographs_and_twenty_odd_files(tmp_path: Path) -> None:
    photos = sorted(PHOTOS.rglob("*.*"))[:250]
    for copy in range(4):
        (tmp_path / "photos" / str(copy)).mkdir(parents=True)
        for photo in photos:
            (tmp_path / "photos" / str(copy) / photo.name).symlink_to(photo)
    (tmp_path / "photos" / "odd").mkdir()
    assert add_odd_files(tmp_path / "photos" / "odd", photos[0]) == 20
    finished = sslfeat("embed", tmp_path / "photos", "--out", tmp_path / "features", "--json", timeout=600)
    assert finished.returncode == 3, finished.stderr
    summary = json.loads(finished.stdout)
    assert (summary["embedded"], summary["failed"]) == (4 * len(photos) + 13, 7)
    with (tmp_path / "features" / "__sslfeat__/failures.csv").open(newline="") as file:
        assert {Path(row["path"]).name for row in csv.DictReader(file)} == UNREADABLE
    features = Features.load(tmp_path / "features")
    assert np.isfinite(features.embeddings).all()
    assert sum("odd" in path for path in features.paths) == 13
    assert sslfeat("verify", tmp_path / "features").returncode == 0


def test_parity_on_photographs(tmp_path: Path) -> None:
    out = tmp_path / "random.onnx"
    finished = sslfeat("export", "--random-init", "resnet18", "--image-size", "96", "--images", PHOTOS, "--out", out, "--json")
    assert finished.returncode == 0, finished.stderr
    figures = json.loads(finished.stdout)
    assert figures["images"] == 64
    assert figures["max_abs_diff"] <= 1e-4 * figures["scale"]
    assert figures["min_cosine"] >= 0.99999
