"""Squash and border beside timm's own evaluation transforms, on cards, in fingerprints, and by the fast resizer."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sslfeat.data.decode import Pixels, decode
from sslfeat.data.fast_resize import FILTERS
from sslfeat.data.transforms import FAST, Decoding, Preprocess
from sslfeat.errors import EncoderFileError
from sslfeat.export.adopt.preprocessor_config import border_color, timm_preprocess
from sslfeat.export.parity import reference_pixels
from sslfeat.inference.model_card import Card
from sslfeat.inference.onnx_model import read_encoder_file
from sslfeat.inference.registry import names, resolve

MEAN = (0.48, 0.46, 0.41)
SHAPES = [(90, 60), (60, 90), (61, 61), (7, 33), (333, 500), (1, 1), (40, 41), (480, 31)]
SHIPPED = {  # before cards had a fill
    "sslfeat-small": "0f60df6c7199",
    "sslfeat-tiny": "7f9da99f2642",
}


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8))


def rule(crop: str, resize: int = 36, size: int = 32) -> Preprocess:
    return Preprocess(resize, size, crop=crop, fill=border_color(crop, MEAN))


@pytest.mark.parametrize("crop_pct", [1.0, 0.9])
@pytest.mark.parametrize("crop", ["center", "squash", "border"])
def test_crops_are_timms(crop: str, crop_pct: float) -> None:
    transforms_factory = pytest.importorskip("timm.data.transforms_factory")
    config = {"input_size": (3, 64, 64), "crop_pct": crop_pct, "crop_mode": crop, "interpolation": "bicubic", "mean": MEAN}
    theirs = transforms_factory.transforms_imagenet_eval(
        64, crop_pct=crop_pct, crop_mode=crop, interpolation="bicubic", mean=MEAN, use_prefetcher=True
    )
    preprocess = timm_preprocess(config)
    for width, height in SHAPES:
        image = noise(width, height)
        wanted = np.asarray(theirs(image)).transpose(1, 2, 0).astype(int)
        differ = np.abs(decode(image, preprocess).pixels - wanted)
        if crop == "squash":  # Pillow 13 starts with the height where that shrinks far more, and rounds in between
            assert differ.mean() < 1
        else:
            assert differ.max() == 0


@pytest.mark.parametrize("crop", ["center", "squash", "border"])
def test_the_reference_of_the_parity_check_crops_alike(crop: str, tmp_path: Any) -> None:
    for width, height in SHAPES:
        noise(width, height).save(tmp_path / "a.png")
        for resize in (32, 37):
            preprocess = rule(crop, resize)
            np.testing.assert_array_equal(
                decode(tmp_path / "a.png", preprocess).pixels, reference_pixels(tmp_path / "a.png", preprocess)
            )


def by_hand(image: Image.Image, preprocess: Preprocess) -> Pixels:
    """A border written out for images that are wider than high, at a resize that is the size."""
    height = round(image.height / (image.width / preprocess.size))
    canvas = Image.new("RGB", (preprocess.size, preprocess.size), preprocess.fill)
    canvas.paste(image.resize((preprocess.size, height), Image.Resampling.BICUBIC), (0, (preprocess.size - height) // 2))
    return np.asarray(canvas)


def test_a_border_has_the_color_of_the_mean() -> None:
    preprocess = rule("border", 32)
    assert preprocess.fill == "#7a7569"
    for height in (3, 20, 41, 99):
        image = noise(100, height)
        np.testing.assert_array_equal(decode(image, preprocess).pixels, by_hand(image, preprocess))


def test_cards_and_fingerprints_without_a_border_are_those_of_before() -> None:
    assert "fill" not in rule("squash").fields()
    for name, fingerprint in SHIPPED.items():
        file = read_encoder_file(resolve(name))
        assert file.fingerprint.startswith(fingerprint)
        assert "fill" not in file.card.to_json()


@pytest.mark.parametrize(
    ("crop", "fill"), [("center", "#000000"), ("squash", "#000000"), ("border", ""), ("border", "gray"), ("fit", "")]
)
def test_a_card_with_another_crop_is_refused(crop: str, fill: str) -> None:
    card = read_encoder_file(resolve(names()[0])).card
    fields = json.loads(card.to_json())
    fields["preprocess"] |= {"crop": crop, "fill": fill}
    with pytest.raises(EncoderFileError, match="preprocess"):
        Card.from_json(json.dumps(fields))
    fine = dataclasses.replace(card, preprocess=dataclasses.replace(card.preprocess, crop="border", fill="#0a0b0c"))
    assert Card.from_json(fine.to_json()) == fine


@pytest.mark.parametrize("filter_", FILTERS)
@pytest.mark.parametrize("crop", ["center", "squash", "border"])
def test_fast_resizing_is_near_pillows(crop: str, filter_: str) -> None:
    pytest.importorskip("cykooz_resizer")
    preprocess = dataclasses.replace(rule(crop), filter=filter_)
    for width, height in [(300, 200), (200, 333), (97, 96), (20, 30), (5000, 8)]:
        columns, rows = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 200, height))
        image = Image.fromarray(np.stack([columns, rows, 255 - columns], 2).astype(np.uint8))
        exact = decode(image, preprocess)
        fast = decode(image, preprocess, Decoding(FAST))
        assert (fast.width, fast.height) == (width, height)
        differ = np.abs(fast.pixels.astype(int) - exact.pixels)
        assert differ.mean() < 0.5
        assert differ.max() <= (2 if filter_ != "box" else 60)  # a box has no soft edge: another rounding takes another pixel
