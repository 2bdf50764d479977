"""Which changes of an image leave it the same, and where a crop was cut."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps

from sslfeat.data.decode import Pixels
from sslfeat.dedup.alignment import SIDE, coarse_windows, finest_windows, window_correlations
from sslfeat.dedup.verify import LUMA, SAME_IMAGE, judge
from tests.copies import photo


def shirt(color: tuple[int, int, int]) -> Image.Image:
    """A flat product on white."""
    image = Image.new("RGB", (200, 200), "white")
    draw = ImageDraw.Draw(image)
    draw.polygon(
        [(60, 40), (140, 40), (180, 80), (155, 100), (145, 85), (145, 170), (55, 170), (55, 85), (45, 100), (20, 80)], color
    )
    return image


def text_over(image: Image.Image) -> Image.Image:
    image = image.copy()
    ImageDraw.Draw(image).text((30, 80), "SAMPLE 2024", fill="white", font_size=22)
    return image


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "compressed": lambda image: image,
    "half": lambda image: image.resize((image.width // 2, image.height // 2)),
    "cropped": lambda image: image.crop((24, 18, 216, 162)),
    "gray": lambda image: image.convert("L").convert("RGB"),
    "mirrored": ImageOps.mirror,
    "written on": text_over,
    "tinted": lambda image: Image.fromarray((np.asarray(image) * [1.0, 0.9, 0.7]).astype(np.uint8)),
}


def thumbnail(image: Image.Image) -> Pixels:
    return np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR))


@pytest.mark.parametrize("change", COPIES)
def test_copies_of_a_photograph_are_the_same_image(change: str) -> None:
    originals = [photo(seed) for seed in range(8)]
    copies = [COPIES[change](image) for image in originals]
    first, second = (np.stack([thumbnail(image) for image in images]) for images in (originals, copies))
    assert judge(first, second) == [SAME_IMAGE] * 8
    assert judge(second, first) == [SAME_IMAGE] * 8
    assert SAME_IMAGE not in judge(first, np.roll(second, 1, 0))


def test_products_of_one_shape_and_pages_of_one_layout_are_different() -> None:
    orange, pink, again = (thumbnail(shirt(color)) for color in ((240, 140, 20), (240, 90, 160), (240, 140, 20)))
    assert judge(orange[None], again[None]) == [SAME_IMAGE]
    assert judge(orange[None], pink[None])[0] != SAME_IMAGE
    colors = [Image.new("HSV", (1, 1), (hue, 200, 220)).convert("RGB").getpixel((0, 0)) for hue in range(0, 255, 7)]
    shirts = np.stack([thumbnail(shirt(color)) for color in colors])  # type: ignore[arg-type]
    assert SAME_IMAGE not in judge(shirts, np.roll(shirts, 1, 0))
    pages = []
    for seed in (0, 1):
        rng = np.random.default_rng(seed)
        page = Image.new("RGB", (300, 400), "white")
        for line in range(20):
            words = "".join(rng.choice(list("abcdefghijkl mnopq"), 34))
            ImageDraw.Draw(page).text((20, 15 + 18 * line), words, fill="black", font_size=14)
        pages.append(thumbnail(page))
    assert judge(pages[0][None], pages[1][None])[0] != SAME_IMAGE


def test_a_crop_is_found_where_it_was_cut() -> None:
    image = photo(3, (256, 256))
    part = image.crop((26, 51, 26 + 205, 51 + 205))
    gray = [thumbnail(each) @ LUMA for each in (image, part)]
    for first, second, swapped in ((0, 1, False), (1, 0, True)):
        score, windows = coarse_windows(gray[first][None], gray[second][None])
        finest = finest_windows(gray[first][None], gray[second][None], windows)
        assert score[0] > 0.8
        assert (finest.swapped.tolist(), finest.mirrored.tolist()) == ([swapped], [False])
        np.testing.assert_allclose(finest.places[0] * 256, [51, 256, 26, 231], atol=1)


def test_correlations_are_those_of_every_window_by_itself() -> None:
    rng = np.random.default_rng(0)
    images, templates = rng.random((3, 16, 16)).astype(np.float32), rng.random((3, 13, 13)).astype(np.float32)
    found = window_correlations(images, templates).reshape(3, 2, 4, 4)
    for number, mirrored, y, x in np.ndindex(found.shape):
        template = templates[number][:, ::-1] if mirrored else templates[number]
        alone = np.corrcoef(images[number, y : y + 13, x : x + 13].ravel(), template.ravel())[0, 1]
        assert found[number, mirrored, y, x] == pytest.approx(alone, abs=1e-4)


@pytest.mark.parametrize("box", [(0, 0, 180, 256), (76, 60, 256, 256), (20, 30, 220, 230), (0, 0, 256, 256)])
@pytest.mark.parametrize("mirrored", [False, True])
def test_crops_of_any_shape_and_at_edges_come_to_lie_where_they_were(box: tuple[int, int, int, int], mirrored: bool) -> None:
    """What is moved by steps stays within the image, and an edge that is reached keeps no other from moving."""
    image = photo(5, (256, 256))
    part = image.crop(box)
    gray = [thumbnail(each) @ LUMA for each in (image, ImageOps.mirror(part) if mirrored else part)]
    finest = finest_windows(gray[0][None], gray[1][None], coarse_windows(gray[0][None], gray[1][None])[1])
    left, top, right, bottom = box
    np.testing.assert_allclose(finest.places[0] * 256, [top, bottom, left, right], atol=2)
