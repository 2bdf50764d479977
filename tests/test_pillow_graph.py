"""Resizing inside the graph: the same pixels as Pillow's, all of them."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from sslfeat.data.transforms import Preprocess, resize_crop
from sslfeat.export.targets.pillow_graph import KERNELS, pillow_graph

SHAPES = [(96, 96), (64, 200), (333, 500), (1200, 900), (47, 31), (3, 2), (110, 110), (700, 701)]


@pytest.mark.parametrize(("resize", "size"), [(110, 96), (256, 224), (33, 32)])
@pytest.mark.parametrize("name", KERNELS)
def test_every_pixel_is_pillows(name: str, resize: int, size: int) -> None:
    prep = Preprocess(resize, size, name)
    model = pillow_graph(prep).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    for seed, (height, width) in enumerate(SHAPES):
        noise = np.random.default_rng(seed).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
        (found,) = session.run(None, {"image": noise})
        wanted = np.stack([np.asarray(resize_crop(Image.fromarray(image), prep)) for image in noise])
        np.testing.assert_array_equal(found, wanted)
