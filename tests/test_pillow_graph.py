"""Resizing inside the graph: the same pixels as Pillow's, all of them."""

from __future__ import annotations

import numpy as np
import onnxruntime
import PIL
import pytest
from PIL import Image

from sslfeat.data.decode import Pixels
from sslfeat.data.transforms import Preprocess, resize_crop
from sslfeat.export.targets.pillow_graph import pillow_graph

CASES = [("bicubic", "center"), ("bilinear", "center"), ("bicubic", "squash"), ("bicubic", "border")]
SHAPES = [(96, 96), (64, 200), (333, 500), (1200, 900), (47, 31), (3, 2), (110, 110), (700, 701)]
# by the order of the passes, which Pillow chooses by shape, and of strips, of which just the middle is resized
EXTREMES = [(600, 300), (1211, 600), (600, 1211), (4000, 500), (481, 30), (480, 30), (30, 481), (3000, 40), (40, 3000)]


def run(prep: Preprocess, image: Pixels, pillow: str = PIL.__version__) -> Pixels:
    """The graph's pixels of a batch of images."""
    model = pillow_graph(prep, pillow).SerializeToString()
    (found,) = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"image": image})
    pixels: Pixels = found
    return pixels


def noise(seed: int, count: int, shape: tuple[int, int]) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape, 3), dtype=np.uint8)


@pytest.mark.parametrize(("resize", "size"), [(110, 96), (256, 224), (33, 32)])
@pytest.mark.parametrize(("name", "crop"), CASES)
def test_every_pixel_is_pillows(name: str, crop: str, resize: int, size: int) -> None:
    prep = Preprocess(resize, size, name, crop=crop, fill="#7c7468" if crop == "border" else "")
    for seed, shape in enumerate([*SHAPES, *(EXTREMES if resize == 110 else EXTREMES[:3])]):
        images = noise(seed, 2, shape)
        wanted = np.stack([np.asarray(resize_crop(Image.fromarray(image), prep)) for image in images])
        np.testing.assert_array_equal(run(prep, images), wanted)


@pytest.mark.parametrize(("pillow", "shape", "columns_first"), [
    ("13.0.0", (1211, 600), True), ("13.0.0", (600, 300), False), ("13.0.0", (1211, 1100), False),
    ("12.2.0", (1211, 600), False), ("12.2.0", (640, 320), False),
])  # fmt: skip
def test_the_order_of_the_passes_is_that_of_the_pillow_that_is_installed(
    pillow: str, shape: tuple[int, int], columns_first: bool
) -> None:
    """Pillow 13 begins with columns where the height loses more than twice as many pixels as the width does."""
    prep, (images, (height, width)) = Preprocess(110, 96), (noise(0, 1, shape), shape)
    shorter = min(shape)
    new = (110 * width // shorter, 110 * height // shorter)
    between = (width, new[1]) if columns_first else (new[0], height)
    bicubic = Image.Resampling.BICUBIC
    resized = Image.fromarray(images[0]).resize(between, bicubic).resize(new, bicubic)  # one axis at a time, in any Pillow
    left, top = round((new[0] - 96) / 2), round((new[1] - 96) / 2)
    np.testing.assert_array_equal(run(prep, images, pillow)[0], np.asarray(resized)[top : top + 96, left : left + 96])
