"""A frozen image encoder: pictures in, embeddings out, on onnxruntime alone."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from sslfeat.card import Card
from sslfeat.encoder_file import INPUT_NAME, OUTPUT_NAME, EncoderFile, read_encoder_file
from sslfeat.errors import EncoderFileError, ImageError, InputError, ProviderError
from sslfeat.images import Pixels, Source
from sslfeat.pipeline import Failed, batched, embed_batches
from sslfeat.zoo import resolve

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class Encoder:
    """An encoder file, checked and loaded.

    >>> encoder = Encoder.load("encoder.onnx")              # doctest: +SKIP
    >>> for row in encoder.embed(["a.jpg", "b.png"]):       # doctest: +SKIP
    ...     print(row.shape, row.dtype)
    """

    def __init__(self, file: EncoderFile, provider: str = "auto", threads: int | None = None) -> None:
        """Prefer ``Encoder.load``. ``threads`` are onnxruntime's per batch; default: the usable cores."""
        self.card: Card = file.card
        self.fingerprint: str = file.fingerprint
        self.threads = threads or available_cores()
        self.provider = _choose_provider(provider)
        self._session = _open_session(file, self.provider, self.threads)

    @classmethod
    def load(cls, path_or_name: str | os.PathLike[str], provider: str = "auto", threads: int | None = None) -> Encoder:
        """Load an encoder file, or a shipped encoder by name (``sslfeat models`` lists them).

        ``provider`` is ``cpu``, ``cuda`` (an error where it cannot run) or ``auto`` (cuda where there is a GPU); what
        was taken is ``encoder.provider``. Raises EncoderFileError, ProviderError.
        """
        return cls(read_encoder_file(resolve(path_or_name)), provider, threads)

    @property
    def dim(self) -> int:
        """Length D of an embedding."""
        return self.card.dim

    def embed(
        self, images: Iterable[Source] | Source, batch_size: int = 32, workers: int | None = None
    ) -> Iterator[npt.NDArray[np.float32]]:
        """Embeddings, float32 (D,), one for each picture, in order.

        ``images`` are paths, PIL images or uint8 arrays (H, W[, 3 or 4]) of any size; a 4-D uint8 array is a batch.
        Decoding (``workers`` threads) overlaps with inference. Raises ImageError at the first picture that cannot
        be read; ``sslfeat embed`` is the way to go on past such pictures.
        """
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}: it must be at least 1")
        sources: Iterable[Source] = [images] if _is_single(images) else images  # type: ignore[list-item,assignment]
        for batch in embed_batches(self, batched(sources, batch_size), workers or self.threads):
            for source, outcome in zip(batch.sources, batch.outcomes, strict=True):
                if isinstance(outcome, Failed):
                    name = source if isinstance(source, str | bytes | os.PathLike) else type(source).__name__
                    raise ImageError(f"{os.fsdecode(name)}: {outcome.reason}")
                yield outcome.embedding

    def run(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        """Embed pictures that are already at the encoder's size: uint8 (N, S, S, 3) to float32 (N, D)."""
        try:
            (embedding,) = self._session.run([OUTPUT_NAME], {INPUT_NAME: pixels})
        except Exception as error:  # onnxruntime's own exceptions share no public base
            raise EncoderFileError(f"the encoder {self.card.name!r} failed to run: {_brief(error)}") from error
        result: npt.NDArray[np.float32] = embedding
        if result.shape != (len(pixels), self.dim):
            raise EncoderFileError(f"the encoder gave {result.shape} for {len(pixels)} pictures of dim {self.dim}")
        return result


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _is_single(images: object) -> bool:
    """Whether ``images`` is one picture: a path, a PIL image, or an array of fewer than four axes."""
    if isinstance(images, np.ndarray):
        return images.ndim < 4
    return isinstance(images, str | bytes | os.PathLike) or hasattr(images, "getexif")


def _choose_provider(asked: str) -> str:
    if asked == "auto":
        return "cuda" if _gpu_count() and PROVIDERS["cuda"] in onnxruntime.get_available_providers() else "cpu"
    if asked not in PROVIDERS:
        raise ProviderError(f"provider {asked!r} is unknown: auto, {', '.join(PROVIDERS)}")
    if asked == "cuda" and not _gpu_count():
        raise ProviderError("provider cuda: no NVIDIA GPU is visible here; use --provider cpu")
    return asked


def _gpu_count() -> int:
    """NVIDIA GPUs the driver reports; onnxruntime lists CUDA as available even where there are none."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    return count.value if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0


def _open_session(file: EncoderFile, provider: str, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # faults reach the user as our errors
    if provider == "cuda" and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
    try:
        session = onnxruntime.InferenceSession(file.data, options, providers=[PROVIDERS[provider]])
    except Exception as error:  # as above: no public base class
        raise EncoderFileError(f"onnxruntime cannot load the encoder: {_brief(error)}") from error
    if session.get_providers()[0] != PROVIDERS[provider]:
        raise ProviderError(
            f"provider {provider} was asked for, but onnxruntime fell back to {session.get_providers()[0]}: check that "
            "onnxruntime-gpu and its CUDA libraries are installed, or use --provider cpu"
        )
    return session


def _brief(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:300]
