"""A frozen image encoder: pictures in, embeddings out, on onnxruntime alone."""

from __future__ import annotations

import copy
import ctypes
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from sslfeat.card import Card
from sslfeat.cores import available_cores
from sslfeat.encoder_file import EncoderFile, read_encoder_file
from sslfeat.errors import EncoderFileError, ImageError, InputError, ProviderError
from sslfeat.images import Pixels, Source
from sslfeat.outcomes import Failed
from sslfeat.pipeline import batched, embed_batches
from sslfeat.sessions import PROVIDERS, OnnxSession, Session
from sslfeat.zoo import resolve


class Encoder:
    """An encoder file, checked and loaded.

    >>> encoder = Encoder.load("encoder.onnx")              # doctest: +SKIP
    >>> for row in encoder.embed(["a.jpg", "b.png"]):       # doctest: +SKIP
    ...     print(row.shape, row.dtype)
    """

    def __init__(self, file: EncoderFile, provider: str = "auto", threads: int = 1) -> None:
        """Prefer ``Encoder.load``."""
        if threads < 1:
            raise InputError(f"threads is {threads}: it must be at least 1")
        self.card: Card = file.card
        self.fingerprint: str = file.fingerprint
        self.threads = threads
        self.provider = _choose_provider(provider)
        self.precision: dict[str, Any] = {"asked": "fp32", "ran": "fp32"}
        self.files: dict[str, bytes] = {}
        self._session: Session = OnnxSession(file.data or os.fspath(file.path or ""), self.provider, threads)
        file.check_same()

    @classmethod
    def load(cls, path_or_name: str | os.PathLike[str], provider: str = "auto", threads: int = 1) -> Encoder:
        """Load an encoder file, or a shipped encoder by name (``sslfeat models`` lists them).

        ``provider`` is ``cpu``, ``cuda`` (an error where it cannot run) or ``auto`` (cuda where there is a GPU); what
        was taken is ``encoder.provider``. ``threads`` work on one inference: more of them answer a single picture
        sooner; many pictures are done soonest by many workers with one each. Raises EncoderFileError, ProviderError.
        """
        return cls(read_encoder_file(resolve(path_or_name)).without_data(), provider, threads)

    def in_precision(
        self, record: dict[str, Any], session: Session | None = None, files: dict[str, bytes] | None = None
    ) -> Encoder:
        """This encoder, run by another ``session`` (None: its own). ``record`` says why, for ``run.json``.

        ``files`` are what the session was made from, to be kept beside the features.
        """
        other = copy.copy(self)
        other.precision, other.files, other._session = record, files or {}, session or self._session
        return other

    @property
    def dim(self) -> int:
        """Length D of an embedding."""
        return self.card.dim

    def embed(
        self, images: Iterable[Source] | Source, batch_size: int = 4, workers: int | None = None
    ) -> Iterator[npt.NDArray[np.float32]]:
        """Embeddings, float32 (D,), one for each picture, in order.

        ``images`` are paths, PIL images or uint8 arrays (H, W[, 3 or 4]) of any size; a 4-D uint8 array is a batch.
        ``workers`` decode and infer at the same time (default: one for each core). Raises ImageError at the first
        picture that cannot be read; ``sslfeat embed`` is the way to go on past such pictures.
        """
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}: it must be at least 1")
        sources: Iterable[Source] = [images] if _is_single(images) else images  # type: ignore[list-item,assignment]
        workers = workers or max(1, available_cores() // self.threads)
        for batch in embed_batches(self, batched(sources, batch_size), workers):
            for source, outcome in zip(batch.sources, batch.outcomes, strict=True):
                if isinstance(outcome, Failed):
                    name = source if isinstance(source, str | bytes | os.PathLike) else type(source).__name__
                    raise ImageError(f"{os.fsdecode(name)}: {outcome.reason}")
                yield outcome.embedding

    def run(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        """Embed pictures that are already at the encoder's size: uint8 (N, S, S, 3) to float32 (N, D)."""
        try:
            result = self._session.run(pixels)
        except EncoderFileError as error:
            raise EncoderFileError(f"the encoder {self.card.name!r}: {error}") from error
        if result.shape != (len(pixels), self.dim):
            raise EncoderFileError(f"the encoder gave {result.shape} for {len(pixels)} pictures of dim {self.dim}")
        return result


def _is_single(images: object) -> bool:
    """Whether ``images`` is one picture: a path, a PIL image, or an array of fewer than four axes."""
    if isinstance(images, np.ndarray):
        return images.ndim < 4
    return isinstance(images, str | bytes | os.PathLike) or hasattr(images, "getexif")


def _choose_provider(asked: str) -> str:
    if asked == "auto":
        return "cuda" if gpu_count() and PROVIDERS["cuda"] in onnxruntime.get_available_providers() else "cpu"
    if asked not in PROVIDERS:
        raise ProviderError(f"provider {asked!r} is unknown: auto, {', '.join(PROVIDERS)}")
    if asked == "cuda" and not gpu_count():
        raise ProviderError("provider cuda: no NVIDIA GPU is visible here; use --provider cpu")
    return asked


def gpu_count() -> int:
    """NVIDIA GPUs the driver reports; onnxruntime lists CUDA as available even where there are none."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    return count.value if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0
