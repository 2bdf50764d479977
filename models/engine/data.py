"""Training images: decoded once to small uint8 squares, cached as far as possible, and read batch by batch."""

from __future__ import annotations

import dataclasses
import os
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sslfeat.data.batching import batched
from sslfeat.data.dataset import ImageRecord
from sslfeat.data.decode import Decoded, read_size
from sslfeat.data.hashing import DIGEST
from sslfeat.data.manifest import Manifest
from sslfeat.errors import ImageError, TrainingError
from sslfeat.models.engine.distributed import process_count
from sslfeat.models.engine.pixel_cache import cached
from sslfeat.models.engine.pixels import Numbers, Pixels, Reader, StreamedPixels
from sslfeat.storage import cache

MEMORY_LIMIT = 4 << 30  # bytes of pixels in the memory of a process that trains alone; larger sets are stored on disk
FAILED = "!"
CHUNK = 256  # images decoded at once
SIZES = (32, 64, 96, 128, 160, 224)
SAMPLE = 200


@dataclass(frozen=True)
class Images:
    """``pixels`` (N, S, S, 3) of the readable ``inputs``; ``failures`` are (path, reason) of the others.

    ``manifest``: all inputs, with the sha256 of the decoded files. ``folder``: the run folder, for storing expensive results.
    ``shapes``: width / height of each image, float32 (N,), if pixels are whole images squashed to squares; None if they are
    centered squares.
    ``tell``: progress callback: description, number done, total.
    """

    pixels: Pixels
    inputs: tuple[ImageRecord, ...]
    failures: tuple[tuple[str, str], ...]
    manifest: Manifest | None = None
    folder: Path | None = None
    shapes: npt.NDArray[np.float32] | None = None
    tell: Callable[[str, int, int], None] = lambda what, done, total: None

    @property
    def contents(self) -> list[bytes]:
        """sha256 of the files of the readable inputs, 32 bytes each. Raises TrainingError if they were not decoded here."""
        if self.manifest is None or self.manifest.contents is None:
            raise TrainingError("the files of these images are not known")
        return [content.ljust(32, b"\0") for content in self.manifest.contents.tolist() if content]

    @property
    def known(self) -> Manifest:
        """All inputs, with content hashes as far as they are known."""
        return Manifest.take(self.inputs) if self.manifest is None else self.manifest

    @property
    def streamed(self) -> int:
        """Number of images that are read whenever they are sampled."""
        return self.pixels.streamed if isinstance(self.pixels, StreamedPixels) else 0

    def close(self) -> None:
        """Stop reading images that are not cached."""
        if isinstance(self.pixels, StreamedPixels):
            self.pixels.close()

    @property
    def identity(self) -> str:
        """sha256 of the images independent of location: names relative to their common folder, and contents."""
        return self.known.identity


def load_images(
    inputs: Sequence[ImageRecord],
    image_size: int,
    run: Path,
    advance: Callable[[int], None] = lambda count: None,
    cache_size: int | None = None,
    whole: bool = False,
) -> Images:
    """Decode every input at ``image_size`` px, in order, with the preprocessing used for serving.

    ``cache_size``: bytes of cached pixels, by default the size limit of the cache; other images are decoded whenever they are
    sampled. ``advance``: called with the number of inputs processed by each step. ``whole``: squash each whole image to a square
    instead of cropping its center, and store its shape. Raises TrainingError if fewer than two images are readable, RemoteError.
    """
    manifest = Manifest.take(inputs)
    row = 3 * image_size**2
    count = min(len(inputs), (cache.limit() if cache_size is None else cache_size) // row)
    if count == len(inputs) and count * row <= MEMORY_LIMIT and process_count() == 1:
        pixels = np.empty((count, image_size, image_size, 3), np.uint8)
        lines = _decode(inputs, image_size, count, _filler(pixels), advance, whole)
    else:
        pixels, lines = cached(
            manifest,
            image_size,
            count,
            run,
            lambda file: _decode(inputs, image_size, count, lambda rows: file.write(rows.data), advance, whole),
            lambda lines: _fail_still(inputs, image_size, lines),
            lambda: advance(0),
            " whole" if whole else "",
        )
    readable = tuple(item for item, line in zip(inputs, lines, strict=True) if not line.startswith(FAILED))
    failures = [(item.name, line[1:]) for item, line in zip(inputs, lines, strict=True) if line.startswith(FAILED)]
    if len(readable) < 2:
        raise TrainingError(f"{len(readable)} of {len(inputs)} images are readable; training needs at least 2")
    good = [line.split() for line in lines if not line.startswith(FAILED)]
    shapes = np.array([int(width) / int(height) for _, width, height in good], np.float32) if whole else None
    digests = np.array([b"" if line.startswith(FAILED) else bytes.fromhex(line.split()[0]) for line in lines], DIGEST)
    manifest = dataclasses.replace(manifest, contents=digests)
    kept: Pixels = pixels[: len(readable)]
    if len(kept) < len(readable):
        kept = StreamedPixels(pixels, [item.path for item in readable], [line[0] for line in good], whole)
    return Images(kept, readable, tuple(failures), manifest, run, shapes)


def _decode(
    inputs: Sequence[ImageRecord],
    image_size: int,
    count: int,
    take: Callable[[npt.NDArray[np.uint8]], object],
    advance: Callable[[int], None],
    whole: bool = False,
) -> list[str]:
    """Pass the pixels (n, S, S, 3) of the first ``count`` readable inputs to ``take``, in order. Returns a line for each input:
    the sha256 of its file, followed by width and height if ``whole``, or FAILED and the reason."""
    lines: list[str] = []
    with closing(Reader(image_size, whole)) as reader:
        for chunk in batched(inputs, CHUNK):
            results = reader.read([item.path for item in chunk])
            good = [result.pixels for result in results if isinstance(result, Decoded)][:count]
            if good:
                take(np.stack(good))
            count -= len(good)
            lines += [_line(result, whole) if isinstance(result, Decoded) else f"{FAILED}{result}" for result in results]
            advance(len(chunk))
    return lines


def _line(image: Decoded, whole: bool) -> str:
    return f"{image.sha256} {image.width} {image.height}" if whole else image.sha256


def _fail_still(inputs: Sequence[ImageRecord], image_size: int, lines: list[str]) -> bool:
    """Whether all images that were unreadable according to ``lines`` still are (a package or a file may have been added)."""
    failed = [item.path for item, line in zip(inputs, lines, strict=True) if line.startswith(FAILED)]
    with closing(Reader(image_size)) as reader:
        return not any(isinstance(result, Decoded) for chunk in batched(failed, CHUNK) for result in reader.read(chunk))


def _filler(pixels: npt.NDArray[np.uint8]) -> Callable[[npt.NDArray[np.uint8]], None]:
    filled = 0

    def take(rows: npt.NDArray[np.uint8]) -> None:
        nonlocal filled
        pixels[filled : filled + len(rows)] = rows
        filled += len(rows)

    return take


def typical_size(inputs: Sequence[ImageRecord]) -> int:
    """Largest of SIZES that most images fill, from the median shorter side of a sample."""
    shorter: list[int] = []
    broken: list[str] = []
    for item in inputs[:: max(1, len(inputs) // SAMPLE)]:
        try:
            shorter.append(min(read_size(item.path)))
        except ImageError as error:  # damaged files are counted when they are decoded
            broken.append(f"{item.name}: {error}")
    if not shorter:
        raise TrainingError(f"none of the images can be opened, for example {broken[0]}")
    median = statistics.median(shorter)
    return max((size for size in SIZES if size <= median), default=SIZES[0])


def load_arrays(paths: list[bytes]) -> npt.NDArray[np.float32]:
    """The arrays in these files, flattened and standardized, (N, D). Raises TrainingError naming the file that fails."""
    rows: list[npt.NDArray[np.float32]] = []
    shape: tuple[int, ...] | None = None
    for path in paths:
        name = os.fsdecode(path)
        try:
            array = np.load(name, allow_pickle=False)
            rows.append(np.asarray(array, np.float32).reshape(-1))
        except (OSError, ValueError, EOFError) as error:
            raise TrainingError(f"{name} is not a NumPy array of numbers: {error}") from error
        shape = array.shape if shape is None else shape
        if array.shape != shape or not array.size or not np.isfinite(rows[-1]).all():
            raise TrainingError(
                f"{name} has shape {array.shape} or values that are not finite: the first array has shape {shape}"
            )
    stacked = np.stack(rows)
    return np.asarray((stacked - stacked.mean(0)) / np.maximum(stacked.std(0), 1e-6), np.float32)


class Order:
    """Images of each step: a new permutation per epoch, determined by the seed.

    An incomplete batch at the end of an epoch is dropped (batch normalization and contrastive losses need full batches).
    """

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self.steps_per_epoch = count // batch_size
        self._count, self._batch_size, self._seed = count, batch_size, seed
        self._epoch, self._permutation = -1, np.empty(0, np.int64)

    def indices(self, step: int) -> Numbers:
        """Sorted image indices (batch_size,) of this step."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._permutation = np.random.default_rng([self._seed, epoch]).permutation(self._count)
        start = position * self._batch_size
        return np.sort(self._permutation[start : start + self._batch_size])  # sorted for sequential access to a file on disk


def pieces_of(numbers: Numbers, count: int, rank: int, world: int) -> list[Numbers]:
    """The part of one process of ``world`` in each of the ``count`` pieces of a batch; all parts have the same size.

    A piece contains the same images for any number of processes, if they can be divided evenly.
    """
    if len(numbers) % (count * world) == 0:
        return [numbers[piece::count][rank::world] for piece in range(count)]
    return [numbers[rank::world][piece::count] for piece in range(count)]


def to_batch(pixels: Pixels, numbers: Numbers, device: torch.device) -> Tensor:
    """The images with these indices, as uint8 (B, 3, S, S) on the device, in channels-last memory format."""
    return on_device(pixels[numbers], device)


def on_device(rows: npt.NDArray[np.uint8], device: torch.device) -> Tensor:
    """Images uint8 (B, S, S, 3) as (B, 3, S, S) on the device, in channels-last memory format."""
    batch = torch.from_numpy(rows)
    if device.type == "cuda":  # asynchronous copy from pinned memory
        batch = batch.pin_memory()
    return batch.to(device, non_blocking=True).permute(0, 3, 1, 2)


class Ahead:
    """Prefetch batches: the next batch is read, and decoded if not cached, during the current step."""

    def __init__(self, pixels: Pixels, device: torch.device) -> None:
        self._pixels, self._device = pixels, device
        self._thread = ThreadPoolExecutor(1, "sslfeat-ahead")
        self._next: tuple[Numbers, Future[npt.NDArray[np.uint8]]] | None = None

    def take(self, numbers: Numbers) -> Tensor:
        """The batch of these image indices (B,). Raises like the pixels, but never for prefetched images that are not used."""
        ready, self._next = self._next, None
        if ready is not None and np.array_equal(ready[0], numbers):
            return on_device(ready[1].result(), self._device)
        return to_batch(self._pixels, numbers, self._device)

    def expect(self, numbers: Numbers) -> None:
        """Prefetch these images."""
        self._next = numbers, self._thread.submit(self._pixels.__getitem__, numbers)
