"""Decoded training images: an array, or partly cached images of which the rest is decoded whenever it is sampled."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sslfeat.data.decode import Content, Decoded, Preprocess, decode
from sslfeat.data.read import Coming, Fetcher
from sslfeat.data.transforms import CENTER, SQUASH
from sslfeat.errors import ImageError, RemoteError, TrainingError
from sslfeat.system.cores import available_cores

Numbers = npt.NDArray[np.int64]


class Pixels(Protocol):
    """uint8 (N, S, S, 3), indexed by image indices (n,) in any order and with repetition. Arrays satisfy this protocol."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, numbers: Numbers, /) -> npt.NDArray[np.uint8]: ...


class Reader:
    """Read and decode images with the preprocessing used for serving, one thread per core; fetch many remote images at once.

    ``whole``: squash the whole image to a square instead of cropping its center.
    """

    def __init__(self, image_size: int, whole: bool = False) -> None:
        self._preprocess = Preprocess(resize=image_size, size=image_size, crop=SQUASH if whole else CENTER)
        self._fetcher, self._threads = Fetcher(), ThreadPoolExecutor(available_cores(), "sslfeat-decode")

    def read(self, paths: Sequence[bytes]) -> list[Decoded | ImageError]:
        """Result for each image. Raises RemoteError if a store cannot be reached for too long."""
        return list(self._threads.map(self._attempt, [self._fetcher.begin(path) for path in paths]))

    def close(self) -> None:
        """Stop all pending work."""
        self._fetcher.close()
        self._threads.shutdown(cancel_futures=True)

    def _attempt(self, source: bytes | Coming) -> Decoded | ImageError:
        try:
            # an unreachable store is not an error of the image, as it would be inside ``decode``
            return decode(Content(source.data.result()) if isinstance(source, Coming) else source, self._preprocess)
        except ImageError as error:
            return error


class StreamedPixels:
    """Like ``Pixels``, where the first K images are cached, ``kept`` uint8 (K, S, S, 3), and the others are read on demand.

    ``hashes``: sha256 of all N files, in hex; an image that is missing or has changed ends the run.
    """

    def __init__(self, kept: npt.NDArray[np.uint8], paths: Sequence[bytes], hashes: Sequence[str], whole: bool = False) -> None:
        self._kept, self._paths, self._hashes = kept, paths, hashes
        self._reader = Reader(kept.shape[1], whole)

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self._paths), *self._kept.shape[1:]

    @property
    def streamed(self) -> int:
        """Number of images that are not cached."""
        return len(self) - len(self._kept)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, numbers: Numbers, /) -> npt.NDArray[np.uint8]:
        """Raises TrainingError naming an image that can no longer be read."""
        pixels = np.empty((len(numbers), *self.shape[1:]), np.uint8)
        kept = numbers < len(self._kept)
        pixels[kept] = self._kept[numbers[kept]]
        if not kept.all():
            drawn, places = np.unique(numbers[~kept], return_inverse=True)
            pixels[~kept] = self._decoded(drawn)[places]
        return pixels

    def close(self) -> None:
        """Stop reading."""
        self._reader.close()

    def _decoded(self, numbers: Numbers) -> npt.NDArray[np.uint8]:
        try:
            results = self._reader.read([self._paths[number] for number in numbers])
        except RemoteError as error:
            raise TrainingError(f"an image can no longer be read; once it can, continue with --resume: {error}") from error
        for number, result in zip(numbers, results, strict=True):
            name = self._paths[number].decode("utf-8", "backslashreplace")
            if isinstance(result, ImageError):
                raise TrainingError(f"{name} can no longer be read: {result}; restore it and continue with --resume")
            if result.sha256 != self._hashes[number]:
                raise TrainingError(f"{name} has changed since the run was started: restore it and continue with --resume")
        return np.stack([result.pixels for result in results if isinstance(result, Decoded)])
