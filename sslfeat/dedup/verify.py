"""Verification of image pairs by their pixels: same image, same scene, or neither.

Features of similar images can be as near as those of copies, so no threshold on features can separate them. Instead, the
images are aligned (``alignment.py``) and the details of their blocks compared. A
compressed, resized, cropped, mirrored or recolored copy agrees in nearly all blocks with detail; overlaid text
affects a few; a different photograph of a similar object agrees in few, however similar it is as a whole.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sslfeat.data.decode import Pixels
from sslfeat.dedup.alignment import SIDE, coarse_windows, correlations, finest_windows
from sslfeat.numerics.arrays import FloatArray, IntArray
from sslfeat.system.cores import available_cores

SAME_FILE, SAME_IMAGE, SAME_SCENE = "same file", "same image", "same scene"
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
PAIRS = 256  # pairs aligned at a time
LEAST_COARSE = 0.84  # minimum correlation of coarse thumbnails for a closer comparison
COMPARED, BLOCK = 48, 8  # sides of the aligned images and of their blocks, px
DETAIL, NOISE = 4.0, 0.25  # minimum variance of a block with detail, and constant added to both variances
AGREES = 0.6  # correlation of a block's detail
COPIES = ((0.9, 0.8), (0.75, 0.9))  # minimum share of agreeing blocks, and minimum median: for crops, and for overlaid text
SCENE_WHOLE, SCENE_SHARE = 0.85, 0.5
COLORLESS = 3.0  # maximum mean spread of red, green and blue of a gray image
RECOLORED = 10.0  # difference of red, green or blue (0-255) above which a copy is recolored
OBJECT = 80  # percentile of blocks' color differences: objects cover a fifth of the image, captions less
FINE, TEXTURE = (1.5, 0.62)  # minimum detail of texture (0-255); share of textured pixels above which colors may differ
EQUAL, EQUAL_BLOCK = 1.5, 6.0  # maximum mean difference of all pixels, and of the worst block, of equal thumbnails


@dataclass(frozen=True)
class Evidence:
    """Measured similarity of P aligned pairs, each (P,).

    ``whole``: correlation of gray values. ``share``, ``median``: fraction of agreeing ``detailed`` blocks, and their
    median correlation. ``color``: OBJECT percentile of the color differences of blocks, 0-255. ``texture``: share
    of pixels with detail, low for flat drawings and product photographs on white.
    """

    whole: FloatArray
    share: FloatArray
    median: FloatArray
    detailed: IntArray
    color: FloatArray
    texture: FloatArray

    @property
    def same_image(self) -> npt.NDArray[np.bool_]:
        alike: npt.NDArray[np.bool_] = np.any(
            [(self.share >= share) & (self.median >= median) for share, median in COPIES], axis=0
        )
        same: npt.NDArray[np.bool_] = alike & (self.detailed > 0) & ((self.color < RECOLORED) | (self.texture >= TEXTURE))
        return same

    @property
    def same_scene(self) -> npt.NDArray[np.bool_]:
        same: npt.NDArray[np.bool_] = (self.whole >= SCENE_WHOLE) & (self.share >= SCENE_SHARE) & (self.texture >= TEXTURE)
        return same


def judge(first: Pixels, second: Pixels) -> list[str | None]:
    """Verdict for each pair of thumbnails, uint8 (P, SIDE, SIDE, 3): SAME_IMAGE, SAME_SCENE or None."""
    starts = range(0, len(first), PAIRS)
    with ThreadPoolExecutor(available_cores()) as pool:
        parts = pool.map(lambda start: _judge(first[start : start + PAIRS], second[start : start + PAIRS]), starts)
        return [verdict for part in parts for verdict in part]


def examine(first: Pixels, second: Pixels, coarse: IntArray) -> Evidence:
    """Evidence for pairs of thumbnails, uint8 (P, SIDE, SIDE, 3), from their coarse windows (P, 5)."""
    windows = finest_windows(first @ LUMA, second @ LUMA, coarse)
    planes = [images.astype(np.float32).transpose(0, 3, 1, 2) for images in (first, second)]
    one, other = (images.transpose(0, 2, 3, 1) for images in windows.aligned(planes[0], planes[1], COMPARED))
    grays = one @ LUMA, other @ LUMA
    details = [_detail(gray) for gray in grays]
    share, median, detailed = _agreement(*details)
    spreads = [(images.max(3) - images.min(3)).mean((1, 2)) for images in (one, other)]
    lightness, colors = np.abs(_means(grays[0] - grays[1])), np.abs(_means(one - other)).max(2)
    gray = np.minimum(*spreads) < COLORLESS  # then compare lightness only
    color = np.percentile(np.where(gray[:, None], lightness, colors), OBJECT, axis=1)
    texture = np.minimum(*((np.abs(detail) > FINE).mean((1, 2)) for detail in details))
    return Evidence(correlations(*grays), share, median, detailed, color, texture)


def _judge(first: Pixels, second: Pixels) -> list[str | None]:
    found = np.full(len(first), None, object)
    equal = _equal(first, second)
    found[equal] = SAME_IMAGE
    rest = np.flatnonzero(~equal)
    score, windows = coarse_windows(first[rest] @ LUMA, second[rest] @ LUMA)
    near = score >= LEAST_COARSE
    closer = rest[near]
    evidence = examine(first[closer], second[closer], windows[near])
    found[closer[evidence.same_scene]] = SAME_SCENE
    found[closer[evidence.same_image]] = SAME_IMAGE
    verdicts: list[str | None] = found.tolist()
    return verdicts


def _equal(first: Pixels, second: Pixels) -> npt.NDArray[np.bool_]:
    difference = (np.maximum(first, second) - np.minimum(first, second)).reshape(-1, SIDE, SIDE * 3).astype(np.float32)
    rows, columns = (np.repeat(np.eye(SIDE // BLOCK, dtype=np.float32), size, 1) for size in (BLOCK, 3 * BLOCK))
    blocks = rows @ difference @ columns.T / (3 * BLOCK**2)
    equal: npt.NDArray[np.bool_] = (blocks.mean((1, 2)) <= EQUAL) & (blocks.max((1, 2)) <= EQUAL_BLOCK)
    return equal


def _agreement(first: FloatArray, second: FloatArray) -> tuple[FloatArray, FloatArray, IntArray]:
    """Share of agreeing blocks with detail, of (P, blocks, pixels), their median correlation, and their number."""
    energies = [(blocks * blocks).mean(2) for blocks in (first, second)]
    agreement = (first * second).mean(2) / np.sqrt((energies[0] + NOISE) * (energies[1] + NOISE))
    detailed = np.maximum(*energies) > DETAIL
    count = detailed.sum(1)
    share = ((agreement > AGREES) & detailed).sum(1) / np.maximum(count, 1)
    ordered = np.sort(np.where(detailed, agreement, np.inf), 1)
    middle = np.stack([np.maximum(count - 1, 0) // 2, count // 2], 1)
    median = np.where(count > 0, np.take_along_axis(ordered, np.minimum(middle, ordered.shape[1] - 1), 1).mean(1), 0.0)
    return share, median, count


def _blocks(images: FloatArray) -> FloatArray:
    """Images (P, n, n, ...) as (P, blocks, pixels, ...)."""
    count = images.shape[1] // BLOCK
    parts = images.reshape(len(images), count, BLOCK, count, BLOCK, *images.shape[3:]).swapaxes(2, 3)
    blocks: FloatArray = parts.reshape(len(images), count * count, BLOCK * BLOCK, *images.shape[3:])
    return blocks


def _means(images: FloatArray) -> FloatArray:
    """Block means of images (P, n, n, ...)."""
    return np.asarray(_blocks(images).mean(2), np.float32)


def _detail(images: FloatArray) -> FloatArray:
    """Images (P, n, n) minus blurred images, in zero-mean blocks (P, blocks, pixels)."""
    blocks = _blocks(images - _blur(_blur(images)))
    centered: FloatArray = blocks - blocks.mean(2, keepdims=True)
    return centered


def _blur(images: FloatArray) -> FloatArray:
    weights = np.array([1, 4, 6, 4, 1], np.float32) / 16
    height, width = images.shape[1:]
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2)), mode="edge")
    rows = sum(weight * padded[:, k : k + height] for k, weight in enumerate(weights))
    return np.asarray(sum(weight * rows[:, :, k : k + width] for k, weight in enumerate(weights)), np.float32)
