"""What the pixels say of two images: the same image, the same scene, or neither.

Features of images that are merely alike can be as near as those of copies, so no threshold on features can tell: the images
themselves are witnesses. Both are laid over one another (``alignment.py``) and compared block by block in their detail. A
copy, however compressed, resized, cropped, mirrored or recolored, agrees in nearly all blocks that have any; text laid over it
spoils a few; another photograph of the same kind of thing agrees in few, however alike the whole.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from sslfeat.data.decode import Pixels
from sslfeat.dedup.alignment import SIDE, aligned, coarse_windows, correlation, finest_window
from sslfeat.numerics.arrays import FloatArray, IntArray
from sslfeat.system.cores import available_cores

SAME_FILE, SAME_IMAGE, SAME_SCENE = "same file", "same image", "same scene"
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
PAIRS = 256  # laid over one another at a time
LEAST_COARSE = 0.84  # correlation of the coarse thumbnails, below which no closer look is taken
COMPARED, BLOCK = 48, 8  # sides of the aligned images and of their blocks, px
DETAIL, NOISE = 4.0, 0.25  # variance of a block that has detail, and what is added to both
AGREES = 0.6  # correlation of a block's detail
COPIES = ((0.9, 0.8), (0.75, 0.9))  # least share of blocks that agree, and least median: of crops, and of what is written on
SCENE_WHOLE, SCENE_SHARE = 0.85, 0.5
COLORLESS = 3.0  # mean spread of red, green and blue of a gray image
RECOLORED = 10.0  # difference of red, green or blue, of 255, from which a copy must be a recolored one
OBJECT = 80  # percentile of the blocks' differences in color: of a fifth of the image an object is made, of less a caption
FINE, TEXTURE = (1.5, 0.62)  # levels of detail that are texture; share of pixels with it, from which colors need not agree
EQUAL, EQUAL_BLOCK = 1.5, 6.0  # mean difference of all pixels, and of the worst block, of thumbnails that are the same


@dataclass(frozen=True)
class Evidence:
    """What two aligned images have in common.

    ``whole``: correlation of their gray values. ``share``, ``median``: of the ``detailed`` blocks, how many agree, and their
    median correlation. ``color``: the OBJECT percentile of the differences of the blocks' colors, of 255. ``texture``: share
    of pixels with detail, which flat drawings and product photographs on white have at their edges alone.
    """

    whole: float
    share: float
    median: float
    detailed: int
    color: float
    texture: float

    @property
    def verdict(self) -> str | None:
        """SAME_IMAGE, SAME_SCENE or None."""
        alike = any(self.share >= share and self.median >= median for share, median in COPIES) and self.detailed > 0
        if alike and (self.color < RECOLORED or self.texture >= TEXTURE):
            return SAME_IMAGE
        if self.whole >= SCENE_WHOLE and self.share >= SCENE_SHARE and self.texture >= TEXTURE:
            return SAME_SCENE
        return None


def judge(first: Pixels, second: Pixels) -> list[str | None]:
    """The verdict on each pair of thumbnails, uint8 (P, SIDE, SIDE, 3)."""
    starts = range(0, len(first), PAIRS)
    with ThreadPoolExecutor(available_cores()) as pool:
        parts = pool.map(lambda start: _judge(first[start : start + PAIRS], second[start : start + PAIRS]), starts)
        return [verdict for part in parts for verdict in part]


def examine(first: Pixels, second: Pixels, coarse: IntArray) -> Evidence:
    """The evidence of one pair of thumbnails, uint8 (SIDE, SIDE, 3), from its coarse window."""
    window = finest_window(first @ LUMA, second @ LUMA, coarse)
    planes = [aligned(first[..., k].astype(np.float32), second[..., k].astype(np.float32), window, COMPARED) for k in range(3)]
    one, other = (np.stack([pair[place] for pair in planes], 2) for place in (0, 1))
    grays = one @ LUMA, other @ LUMA
    details = [_detail(gray) for gray in grays]
    share, median, detailed = _blocks(*details)
    gray = min(float((image.max(2) - image.min(2)).mean()) for image in (one, other)) < COLORLESS  # then lightness must agree
    colors = np.abs(_means(grays[0] - grays[1]) if gray else _means(one - other)).max(-1)
    color = np.percentile(colors, OBJECT)
    texture = min(float((np.abs(detail) > FINE).mean()) for detail in details)
    return Evidence(correlation(*grays), share, median, detailed, float(color), texture)


def _judge(first: Pixels, second: Pixels) -> list[str | None]:
    difference = np.abs(first.astype(np.int16) - second).mean(3)
    blocks = difference.reshape(len(first), SIDE // BLOCK, BLOCK, SIDE // BLOCK, BLOCK).mean((2, 4))
    equal = (blocks.mean((1, 2)) <= EQUAL) & (blocks.max((1, 2)) <= EQUAL_BLOCK)
    score, windows = coarse_windows(first @ LUMA, second @ LUMA)
    found: list[str | None] = []
    for number in range(len(first)):
        if equal[number]:
            found.append(SAME_IMAGE)
        elif score[number] < LEAST_COARSE:
            found.append(None)
        else:
            found.append(examine(first[number], second[number], windows[number]).verdict)
    return found


def _blocks(first: FloatArray, second: FloatArray) -> tuple[float, float, int]:
    """Of the blocks with detail: the share that agree, the median correlation, and how many there are."""
    energies = [(blocks * blocks).mean(1) for blocks in (first, second)]
    agreement = (first * second).mean(1) / np.sqrt((energies[0] + NOISE) * (energies[1] + NOISE))
    detailed = np.maximum(*energies) > DETAIL
    if not detailed.any():
        return 0.0, 0.0, 0
    agreement = agreement[detailed]
    return float((agreement > AGREES).mean()), float(np.median(agreement)), int(detailed.sum())


def _means(image: FloatArray) -> FloatArray:
    """Of the blocks of an image (n, n, ...)."""
    count = len(image) // BLOCK
    means: FloatArray = image.reshape(count, BLOCK, count, BLOCK, -1).mean((1, 3))
    return means


def _detail(image: FloatArray) -> FloatArray:
    """The image (n, n) less its blurred self, in blocks (n / BLOCK squared, BLOCK squared) of mean zero."""
    fine = image - _blur(_blur(image))
    count = len(fine) // BLOCK
    blocks = fine.reshape(count, BLOCK, count, BLOCK).transpose(0, 2, 1, 3).reshape(count * count, -1)
    centered: FloatArray = blocks - blocks.mean(1, keepdims=True)
    return centered


def _blur(image: FloatArray) -> FloatArray:
    weights = np.array([1, 4, 6, 4, 1], np.float32) / 16
    height, width = image.shape
    padded = np.pad(image, 2, mode="edge")
    rows = sum(weight * padded[k : k + height] for k, weight in enumerate(weights))
    return np.asarray(sum(weight * rows[:, k : k + width] for k, weight in enumerate(weights)), np.float32)
