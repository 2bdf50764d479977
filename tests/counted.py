"""Features of a folder of images, by an encoder that counts the images it is shown, for tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sslfeat.data.dataset import find_inputs
from sslfeat.features.writer import Options, Summary, embed_to_folder
from sslfeat.inference.encoder import Encoder


class Counting(Encoder):
    """An encoder that knows how many images it was shown."""

    shown = 0

    def run(self, pixels: np.ndarray) -> np.ndarray:
        Counting.shown += len(pixels)
        return super().run(pixels)


def load(tiny: Path) -> Encoder:
    Counting.shown = 0
    return Counting.load(tiny, "cpu")


@pytest.fixture
def images(image_folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(image_folder, tmp_path / "images")
    (tmp_path / "images" / "circles" / "broken.jpg").write_bytes(b"nothing")
    return tmp_path / "images"


def options(layout: str = "parquet") -> Options:
    return Options(batch_size=3, part_size=7, layout=layout)


def begin(tiny: Path, images: Path, out: Path, layout: str = "parquet") -> Summary:
    return embed_to_folder(load(tiny), find_inputs([images]), out, options(layout))


def change(images: Path) -> None:
    """Two new, three removed, one modified."""
    for index in range(2):
        Image.effect_noise((30, 30), 50).convert("RGB").save(images / "circles" / f"0-new-{index}.png")
    for path in sorted(images.rglob("squares*.jpg"))[:3]:
        path.unlink()
    Image.effect_noise((50, 30), 50).save(sorted(images.rglob("circles-*.jpg"))[2])
