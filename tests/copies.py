"""Folders with copies of drawn images."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import sslfeat


@pytest.fixture
def doubled(image_folder: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Six drawn images, each also smaller and, under the same name elsewhere, as the same file; and their features."""
    images = tmp_path / "my images"
    for path in sorted(image_folder.rglob("*.jpg"))[::7]:
        for name in ("one", "two", "small"):
            (images / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, images / "one" / path.name)
        shutil.copy(path, images / "two" / path.name)
        image = Image.open(path)
        image.resize((image.width * 3 // 4, image.height * 3 // 4)).save(images / "small" / path.name, quality=95)
    assert sslfeat("embed", images, "--out", tmp_path / "features").returncode == 0
    return images, tmp_path / "features"


def saved(image: Image.Image, path: Path, quality: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=quality)
    return path


def photo(seed: int, size: tuple[int, int] = (240, 180)) -> Image.Image:
    """Something with detail everywhere, as photographs have: noise at several scales, in color."""
    rng = np.random.default_rng(seed)
    total = np.zeros((size[1], size[0], 3))
    for cells, weight in ((3, 1.0), (8, 0.7), (24, 0.5), (70, 0.3)):
        low = Image.fromarray((rng.random((cells, cells, 3)) * 255).astype(np.uint8))
        total += weight * np.asarray(low.resize(size, Image.Resampling.BICUBIC), float)
    total = (total - total.min()) / (total.max() - total.min())
    return Image.fromarray((255 * total).astype(np.uint8))
