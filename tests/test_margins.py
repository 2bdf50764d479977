"""Crops from the whole of oblong images, in their own proportions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sslfeat.data.dataset import find_inputs
from sslfeat.errors import UsageError
from sslfeat.models.backbones.registry import build_backbone
from sslfeat.models.engine.config import TrainConfig
from sslfeat.models.engine.data import Images, load_images
from sslfeat.models.engine.trainer import train
from sslfeat.models.methods.simclr import SimCLR
from sslfeat.models.ops.augment import draw_crops

SIZE = 32


@pytest.fixture
def banners(tmp_path: Path) -> Path:
    """Ten images three times as wide as high, and ten three times as high, with red ends and black centers; one is broken."""
    folder = tmp_path / "banners"
    folder.mkdir()
    for number in range(20):
        pixels = np.zeros((40, 120, 3), np.uint8)
        pixels[:, :40, 0] = pixels[:, 80:, 0] = 255
        Image.fromarray(pixels if number % 2 else pixels.transpose(1, 0, 2)).save(folder / f"{number:02}.png")
    (folder / "05.png").write_bytes(b"\x89PNG cut off")
    return folder


def loaded(folder: Path, run: Path, whole: bool, cache_size: int | None = None) -> Images:
    return load_images(find_inputs([folder]), SIZE, run, cache_size=cache_size, whole=whole)


@pytest.mark.parametrize("kept", [None, 7 * 3 * SIZE**2, 0])
def test_margins_are_there_and_shapes_are_known(banners: Path, tmp_path: Path, kept: int | None) -> None:
    """Kept or streamed, and never mistaken for the centers in the cache; a second time from there, too."""
    centers = loaded(banners, tmp_path, False, kept)
    assert centers.shapes is None
    assert centers.pixels[np.arange(19)].max() < 60
    for _ in range(2):
        images = loaded(banners, tmp_path, True, kept)
        assert images.shapes is not None
        np.testing.assert_allclose(images.shapes, [3.0 if int(item.name[-6:-4]) % 2 else 1 / 3 for item in images.inputs])
        assert (images.pixels[np.arange(19)].max((1, 2, 3)) > 240).all()
        assert images.identity == centers.identity


def test_parts_are_as_large_as_in_the_centered_square_and_lie_anywhere() -> None:
    def drawn(shape: float | None) -> torch.Tensor:
        shapes = None if shape is None else torch.full((2000,), shape)
        return draw_crops(2000, torch.Generator().manual_seed(0), shapes=shapes)

    square, wide, high = drawn(None), drawn(3.0), drawn(1 / 3)
    torch.testing.assert_close(drawn(1.0), square, rtol=0, atol=0)
    torch.testing.assert_close(wide[:, 0, 0] * 3, square[:, 0, 0])
    torch.testing.assert_close(wide[:, 1], square[:, 1])
    torch.testing.assert_close(high[:, 1, 1] * 3, square[:, 1, 1])
    torch.testing.assert_close(high[:, 0], square[:, 0])
    ends = wide[:, 0, 2].abs() + wide[:, 0, 0].abs()
    assert 0.9 < float(ends.max()) <= 1 + 1e-6


def test_views_show_the_margins(banners: Path, tmp_path: Path) -> None:
    images = loaded(banners, tmp_path, True)
    method = SimCLR(build_backbone("resnet10_w8", SIZE), SimCLR.Config(margins=True, jitter=0.0, gray=0.0, local_views=1))
    method.prepare(images)
    method.numbers = torch.arange(19)
    batch = torch.from_numpy(images.pixels[np.arange(19)]).permute(0, 3, 1, 2)
    views = method.views(batch, torch.Generator().manual_seed(0))
    assert (views.whole[:, 0].amax((1, 2)) > 0.5).float().mean() > 0.5
    method.numbers = None
    with pytest.raises(UsageError, match="indices of the images in a batch"):
        method.views(batch, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("method", ["moco", "byol"])
def test_a_run_learns_from_them_and_goes_on(method: str, banners: Path, tmp_path: Path) -> None:
    options = {"margins": "true", "queue": "8"} if method == "moco" else {"margins": "true"}
    config = TrainConfig(method, (str(banners),), "resnet10_w8", SIZE, 8, steps=4, accelerator="cpu", options=options)
    assert train(config, tmp_path / "run").steps == 4
    assert train(config, tmp_path / "run", resume=True).steps == 4


def test_squares_train_as_ever(image_folder: Path, tmp_path: Path) -> None:
    """To the same weights, for images that are square."""
    squares = tmp_path / "squares"
    squares.mkdir()
    for path in sorted(image_folder.rglob("*.jpg"))[:16]:
        Image.open(path).convert("RGB").resize((SIZE, SIZE)).save(squares / f"{path.stem}.png")
    weights = []
    for margins in ("false", "true"):
        settings = {"steps": 3, "accelerator": "cpu", "precision": "32-true", "options": {"margins": margins}}
        train(TrainConfig("simclr", (str(squares),), "resnet10_w8", SIZE, 8, **settings), tmp_path / margins)  # type: ignore[arg-type]
        weights.append((tmp_path / margins / "encoder.safetensors").read_bytes())
    assert weights[0] == weights[1]
