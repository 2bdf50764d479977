"""Image encoder: computes embeddings of images with onnxruntime."""

from __future__ import annotations

import copy
import ctypes
import logging
import os
from collections.abc import Iterable, Iterator
from typing import IO, Any, Literal, TypeAlias, overload

import numpy as np
from PIL import Image

from sslfeat.data.batching import batched
from sslfeat.data.decode import Content, Pixels, Source
from sslfeat.data.results import Failed
from sslfeat.errors import EncoderFileError, ImageError, InputError, ProviderError, UsageError
from sslfeat.inference.backends import PROVIDERS, OnnxRuntimeBackend, Session
from sslfeat.inference.model_card import Card, Identity
from sslfeat.inference.onnx_model import EncoderFile, check_encoder, read_encoder_file
from sslfeat.inference.pipeline import embed_batches
from sslfeat.inference.registry import find_encoder, resolve
from sslfeat.numerics.arrays import FloatArray
from sslfeat.system.cores import available_cores

MAX_THREADS = 1024
Images: TypeAlias = "Iterable[Source | IO[bytes]] | Source | IO[bytes]"
ON_ERROR = ("raise", "skip", "return")
IMAGES = "images are paths, bytes or binary files, PIL images, or uint8 arrays (H, W), (H, W, 3) or (H, W, 4)"


class Encoder:
    """A loaded encoder file.

    >>> encoder = Encoder.load("encoder.onnx")              # doctest: +SKIP
    >>> for row in encoder.embed(["a.jpg", "b.png"]):       # doctest: +SKIP
    ...     print(row.shape, row.dtype)
    """

    def __init__(self, file: EncoderFile, provider: str = "auto", threads: int = 1) -> None:
        """Use ``Encoder.load`` instead."""
        if not 1 <= threads <= MAX_THREADS:
            raise UsageError(f"threads is {threads}: it must be from 1 to {MAX_THREADS}")
        self.card: Card = file.card
        self.fingerprint: str = file.fingerprint
        self.threads = threads
        self.precision: dict[str, Any] = {"asked": "fp32", "ran": "fp32"}
        self.files: dict[str, bytes] = {}
        model = file.data or os.fspath(file.path or "")
        self._place = model if file.path is None else os.path.abspath(file.path)
        self._lower: Session | None = None  # session in a lower precision
        self.provider, self._session = open_session(model, provider, threads)
        file.check_same()

    @classmethod
    def load(cls, path_or_name: str | os.PathLike[str], provider: str = "auto", threads: int = 1) -> Encoder:
        """Load an encoder file, or a shipped encoder by name (``sslfeat models`` lists them).

        ``provider`` is ``cpu``, ``cuda`` (an error if it cannot run) or ``auto`` (cuda if it runs; a warning if there is a
        GPU that cannot be used); ``encoder.provider`` is the selected one. ``threads`` is the number of threads per inference:
        more threads reduce the latency of single images; for many images, one thread and many workers are fastest.
        Encoders can be pickled, copied, and used in threads and in forked processes. A pickle contains the path and the
        fingerprint, which the file must still have when loaded. Raises EncoderFileError, ProviderError, UsageError.
        """
        return cls(read_encoder_file(resolve(path_or_name)).without_data(), provider, threads)

    def in_precision(
        self, record: dict[str, Any], session: Session | None = None, files: dict[str, bytes] | None = None
    ) -> Encoder:
        """Return this encoder with another ``session`` (None: its own) and the precision ``record`` of ``features.json``.

        ``files`` are the files that the session was created from, to be stored with the features.
        """
        other = copy.copy(self)
        other.precision, other.files = record, files or {}
        if session is not None:
            other._session = other._lower = session
        return other

    def __copy__(self) -> Encoder:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other

    def __deepcopy__(self, memo: object) -> Encoder:
        """Encoders are immutable: copies share the session."""
        return copy.copy(self)

    def __reduce__(self) -> tuple[Any, ...]:
        made = (self._place, self.card.name, self.fingerprint, self.provider, self.threads)
        return _restored, (*made, self.precision, self._lower, self.files)

    def __repr__(self) -> str:
        return f"Encoder({self.card.name!r}, {self.dim}-d, {self.card.preprocess.size} px, {self.provider})"

    @property
    def identity(self) -> Identity:
        """Name and fingerprint."""
        return Identity(self.card.name, self.fingerprint)

    @property
    def dim(self) -> int:
        """Dimension D of an embedding."""
        return self.card.dim

    @overload
    def embed(
        self, images: Images, batch_size: int = 4, workers: int | None = None, *, on_error: Literal["raise", "skip"] = "raise"
    ) -> Iterator[FloatArray]: ...

    @overload
    def embed(
        self, images: Images, batch_size: int = 4, workers: int | None = None, *, on_error: Literal["return"]
    ) -> Iterator[FloatArray | ImageError]: ...

    def embed(self, images: Images, batch_size: int = 4, workers: int | None = None, *, on_error: str = "raise") -> Iterator[Any]:
        """Yield an embedding, float32 (D,), for each image, in order.

        ``images`` are paths (str, pathlib), the contents of image files (bytes, binary file objects), PIL images or uint8
        arrays (H, W[, 3 or 4]) of any size; a 4-D uint8 array is a batch. ``workers`` is the number of threads that decode
        and infer (default: one per core). An image that cannot be read raises ImageError; with ``on_error="skip"`` it is
        skipped, with ``"return"`` the ImageError is yielded in its place. Raises InputError for objects of another type.
        """
        if on_error not in ON_ERROR:
            raise UsageError(f"on_error is {on_error!r}: it must be one of {', '.join(ON_ERROR)}")
        if batch_size < 1:
            raise UsageError(f"batch_size is {batch_size}: it must be at least 1")
        if workers is not None and workers < 1:
            raise UsageError(f"workers is {workers}: it must be at least 1")
        if not _is_single(images) and not isinstance(images, Iterable):
            raise InputError(f"{_kind(images)} was passed: {IMAGES}")
        given: Iterable[Any] = [images] if _is_single(images) else images  # type: ignore[assignment]
        sources = (_checked(source) for source in given)
        workers = workers or max(1, available_cores() // self.threads)
        for batch in embed_batches(self, batched(sources, batch_size), workers):
            for source, outcome in zip(batch.sources, batch.outcomes, strict=True):
                if not isinstance(outcome, Failed):
                    yield outcome.embedding
                elif on_error != "skip":
                    error = ImageError(f"{_name(source)}: {outcome.reason}")
                    if on_error == "raise":
                        raise error
                    yield error

    def run(self, pixels: Pixels) -> FloatArray:
        """Embed preprocessed images: uint8 (N, S, S, 3) to float32 (N, D)."""
        try:
            embeddings = self._session.run(pixels)
        except EncoderFileError as error:
            raise EncoderFileError(f"the encoder {self.card.name!r}: {error}") from error
        if embeddings.shape != (len(pixels), self.dim):
            raise EncoderFileError(f"the encoder returned {embeddings.shape} for {len(pixels)} images of dim {self.dim}")
        return embeddings


def _is_single(images: object) -> bool:
    """Whether ``images`` is a single image: a path, contents, a PIL image, or an array with fewer than four axes."""
    if isinstance(images, np.ndarray):
        return images.ndim < 4
    return isinstance(images, str | bytes | bytearray | memoryview | os.PathLike | Image.Image) or hasattr(images, "read")


def _checked(source: object) -> Source:
    if isinstance(source, bytes | bytearray | memoryview):
        return Content(bytes(source))
    if hasattr(source, "read"):
        data = source.read()
        if not isinstance(data, bytes):
            raise InputError("a file opened in text mode was passed: open image files in binary mode, 'rb'")
        return Content(data, str(getattr(source, "name", Content.name)))
    if not isinstance(source, str | os.PathLike | Image.Image | np.ndarray):
        raise InputError(f"{_kind(source)} was passed: {IMAGES}")
    return source


def _name(source: Source) -> str:
    if isinstance(source, Content):
        return source.name
    return os.fsdecode(source) if isinstance(source, str | bytes | os.PathLike) else type(source).__name__


def _kind(source: object) -> str:
    return f"a {type(source).__module__}.{type(source).__qualname__}".replace("builtins.", "")


def _restored(
    place: str | bytes, name: str, fingerprint: str, provider: str, threads: int,
    precision: dict[str, Any], lower: Session | None, files: dict[str, bytes],
) -> Encoder:  # fmt: skip
    """Restore a pickled encoder. Raises EncoderFileError if its file has changed."""
    if isinstance(place, bytes):
        file = check_encoder(place)
    else:
        file = find_encoder(name, fingerprint, [place], os.path.exists(place), EncoderFileError).without_data()
    return Encoder(file, provider, threads).in_precision(precision, lower, files)


def open_session(model: bytes | str, provider: str, threads: int) -> tuple[str, Session]:
    """Return the selected provider and its session. Raises EncoderFileError, ProviderError, UsageError."""
    if provider not in ("auto", *PROVIDERS):
        raise UsageError(f"unknown provider {provider!r}: use auto, {', '.join(PROVIDERS)}")
    if provider == "auto":
        return _open_best(model, threads)
    if provider == "cuda" and not gpu_count():
        raise ProviderError("provider cuda: no NVIDIA GPU is visible here", "use --provider cpu (provider='cpu' in Python)")
    return provider, OnnxRuntimeBackend(model, provider, threads, "ONNX")


def _open_best(model: bytes | str, threads: int) -> tuple[str, Session]:
    if gpu_count():
        try:
            session = OnnxRuntimeBackend(model, "cuda", threads, "ONNX")
            session.try_out()  # incompatible libraries or GPUs fail here
            return "cuda", session
        except (ProviderError, EncoderFileError) as error:  # the CPU session shows whether the file is at fault
            message = str(error)
        session = OnnxRuntimeBackend(model, "cpu", threads, "ONNX")
        logging.getLogger(__name__).warning("provider auto: using the CPU, because the GPU cannot be used: %s", message)
        return "cpu", session
    return "cpu", OnnxRuntimeBackend(model, "cpu", threads, "ONNX")


def gpu_count() -> int:
    """Number of NVIDIA GPUs reported by the driver (onnxruntime lists CUDA as available even without a GPU)."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    return count.value if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0
