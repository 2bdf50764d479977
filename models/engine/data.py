"""Training images: decoded once to small uint8 squares, then drawn from memory batch by batch."""

from __future__ import annotations

import dataclasses
import os
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sslfeat.data.batching import batched
from sslfeat.data.dataset import ImageRecord
from sslfeat.data.decode import Decoded, Preprocess, decode, read_size
from sslfeat.data.hashing import DIGEST
from sslfeat.data.manifest import Manifest
from sslfeat.errors import ImageError, TrainingError
from sslfeat.models.engine.pixel_cache import cached
from sslfeat.system.cores import available_cores

MEMORY_LIMIT = 4 << 30  # bytes of pixels kept in memory; more are kept in a file of the run folder
FAILED = "!"
CHUNK = 256  # images decoded at once
SIZES = (32, 64, 96, 128, 160, 224)
SAMPLE = 200


@dataclass(frozen=True)
class Images:
    """``pixels`` uint8 (N, S, S, 3) of the readable ``inputs``; ``failures`` are (path, reason) of the others.

    ``manifest``: all inputs, with the sha256 of what was decoded. ``folder``: the run's, where what takes long may be kept.
    """

    pixels: npt.NDArray[np.uint8]
    inputs: tuple[ImageRecord, ...]
    failures: tuple[tuple[str, str], ...]
    manifest: Manifest | None = None
    folder: Path | None = None

    @property
    def contents(self) -> list[bytes]:
        """sha256 of the files of the readable inputs, 32 bytes each. Raises TrainingError if they were not decoded here."""
        if self.manifest is None or self.manifest.contents is None:
            raise TrainingError("it is not known which files these images are of")
        return [content.ljust(32, b"\0") for content in self.manifest.contents.tolist() if content]

    @property
    def known(self) -> Manifest:
        """All inputs, with contents as far as they are known."""
        return Manifest.take(self.inputs) if self.manifest is None else self.manifest

    @property
    def identity(self) -> str:
        """sha256 of the images wherever they are: their names from their common folder, and what they hold."""
        return self.known.identity


def load_images(
    inputs: Sequence[ImageRecord], image_size: int, cache_folder: Path, advance: Callable[[int], None] = lambda count: None
) -> Images:
    """Decode every input at ``image_size`` px, in order, with the preprocessing that serving uses.

    ``advance`` is told how many inputs each step dealt with. Raises TrainingError if fewer than two are readable.
    """
    manifest = Manifest.take(inputs)
    shape = (len(inputs), image_size, image_size, 3)
    if int(np.prod(shape)) <= MEMORY_LIMIT:
        pixels = np.empty(shape, np.uint8)
        lines = _decode(inputs, image_size, _filler(pixels), advance)
    else:
        pixels, lines = cached(
            cache_folder,
            manifest,
            image_size,
            lambda file: _decode(inputs, image_size, lambda rows: file.write(rows.data), advance),
            lambda: advance(0),
        )
    readable = tuple(item for item, line in zip(inputs, lines, strict=True) if not line.startswith(FAILED))
    failures = [(item.name, line[1:]) for item, line in zip(inputs, lines, strict=True) if line.startswith(FAILED)]
    if len(readable) < 2:
        raise TrainingError(f"{len(readable)} of {len(inputs)} images are readable; training needs at least 2")
    digests = np.array([b"" if line.startswith(FAILED) else bytes.fromhex(line) for line in lines], DIGEST)
    manifest = dataclasses.replace(manifest, contents=digests)
    return Images(pixels[: len(readable)], readable, tuple(failures), manifest, cache_folder)


def _decode(
    inputs: Sequence[ImageRecord],
    image_size: int,
    take: Callable[[npt.NDArray[np.uint8]], object],
    advance: Callable[[int], None],
) -> list[str]:
    """``take`` gets the pixels (n, S, S, 3) of the readable inputs, in order. Returns a line for each input: the sha256
    of its file, or FAILED and the reason."""
    preprocess = Preprocess(resize=image_size, size=image_size)
    lines: list[str] = []

    def attempt(item: ImageRecord) -> Decoded | str:
        try:
            return decode(item.path, preprocess)
        except ImageError as error:
            return FAILED + str(error)

    with ThreadPoolExecutor(available_cores()) as pool:
        for chunk in batched(inputs, CHUNK):
            results = list(pool.map(attempt, chunk))
            good = [result.pixels for result in results if not isinstance(result, str)]
            if good:
                take(np.stack(good))
            lines += [result if isinstance(result, str) else result.sha256 for result in results]
            advance(len(chunk))
    return lines


def _filler(pixels: npt.NDArray[np.uint8]) -> Callable[[npt.NDArray[np.uint8]], None]:
    filled = 0

    def take(rows: npt.NDArray[np.uint8]) -> None:
        nonlocal filled
        pixels[filled : filled + len(rows)] = rows
        filled += len(rows)

    return take


def typical_size(inputs: Sequence[ImageRecord]) -> int:
    """The largest of SIZES that most images fill: from the median shorter side of a sample."""
    shorter: list[int] = []
    broken: list[str] = []
    for item in inputs[:: max(1, len(inputs) // SAMPLE)]:
        try:
            shorter.append(min(read_size(item.path)))
        except ImageError as error:  # a broken file is counted when it is decoded
            broken.append(f"{item.name}: {error}")
    if not shorter:
        raise TrainingError(f"none of the images can be opened, such as {broken[0]}")
    median = statistics.median(shorter)
    return max((size for size in SIZES if size <= median), default=SIZES[0])


def load_arrays(paths: list[bytes]) -> npt.NDArray[np.float32]:
    """The arrays of these files, flattened and standardized, (N, D). Raises TrainingError naming the one that fails."""
    rows: list[npt.NDArray[np.float32]] = []
    shape: tuple[int, ...] | None = None
    for path in paths:
        name = os.fsdecode(path)
        try:
            array = np.load(name, allow_pickle=False)
            rows.append(np.asarray(array, np.float32).reshape(-1))
        except (OSError, ValueError, EOFError) as error:
            raise TrainingError(f"{name} is no NumPy array of numbers: {error}") from error
        shape = array.shape if shape is None else shape
        if array.shape != shape or not array.size or not np.isfinite(rows[-1]).all():
            raise TrainingError(f"{name} has shape {array.shape}, or values that are not finite: the first has {shape}")
    stacked = np.stack(rows)
    return np.asarray((stacked - stacked.mean(0)) / np.maximum(stacked.std(0), 1e-6), np.float32)


class Order:
    """Which images make up step ``step``: a fresh permutation each epoch, a function of the seed alone.

    An incomplete batch at an epoch's end is dropped (batch normalization and contrast need full ones).
    """

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self.steps_per_epoch = count // batch_size
        self._count, self._batch_size, self._seed = count, batch_size, seed
        self._epoch, self._permutation = -1, np.empty(0, np.int64)

    def indices(self, step: int) -> npt.NDArray[np.int64]:
        """Sorted image numbers (batch_size,) of this step."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._permutation = np.random.default_rng([self._seed, epoch]).permutation(self._count)
        start = position * self._batch_size
        return np.sort(self._permutation[start : start + self._batch_size])  # sorted: kinder to a file on disk


def to_batch(pixels: npt.NDArray[np.uint8], indices: npt.NDArray[np.int64], device: torch.device) -> Tensor:
    """Those images as uint8 (B, 3, S, S) on the device, in channels-last memory order."""
    batch = torch.from_numpy(pixels[indices])
    if device.type == "cuda":  # from pinned memory the copy waits for nothing and nothing waits for it
        batch = batch.pin_memory()
    return batch.to(device, non_blocking=True).permute(0, 3, 1, 2)


class Ahead:
    """Batches one step ahead: the next one is read and copied while the device is busy with the one before."""

    def __init__(self, load: Callable[[npt.NDArray[np.int64]], Tensor]) -> None:
        self._load = load
        self._next: tuple[npt.NDArray[np.int64], Tensor] | None = None

    def take(self, numbers: npt.NDArray[np.int64]) -> Tensor:
        """The batch of these image numbers (B,)."""
        ready, self._next = self._next, None
        return ready[1] if ready is not None and np.array_equal(ready[0], numbers) else self._load(numbers)

    def expect(self, numbers: npt.NDArray[np.int64]) -> None:
        """These are likely to be taken next."""
        self._next = numbers, self._load(numbers)
