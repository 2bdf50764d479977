"""A frozen image encoder: images in, embeddings out, on onnxruntime alone."""

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
    """An encoder file, checked and loaded.

    >>> encoder = Encoder.load("encoder.onnx")              # doctest: +SKIP
    >>> for row in encoder.embed(["a.jpg", "b.png"]):       # doctest: +SKIP
    ...     print(row.shape, row.dtype)
    """

    def __init__(self, file: EncoderFile, provider: str = "auto", threads: int = 1) -> None:
        """Prefer ``Encoder.load``."""
        if not 1 <= threads <= MAX_THREADS:
            raise UsageError(f"threads is {threads}: it must be from 1 to {MAX_THREADS}")
        self.card: Card = file.card
        self.fingerprint: str = file.fingerprint
        self.threads = threads
        self.precision: dict[str, Any] = {"asked": "fp32", "ran": "fp32"}
        self.files: dict[str, bytes] = {}
        model = file.data or os.fspath(file.path or "")
        self._place = model if file.path is None else os.path.abspath(file.path)
        self._lower: Session | None = None  # of another precision
        self.provider, self._session = open_session(model, provider, threads)
        file.check_same()

    @classmethod
    def load(cls, path_or_name: str | os.PathLike[str], provider: str = "auto", threads: int = 1) -> Encoder:
        """Load an encoder file, or a shipped encoder by name (``sslfeat models`` lists them).

        ``provider`` is ``cpu``, ``cuda`` (an error where it cannot run) or ``auto`` (cuda where it runs, and a warning
        where there is a GPU but it does not); what was taken is ``encoder.provider``. ``threads`` work on one inference:
        more of them answer a single image sooner; many images are done soonest by many workers with one each.
        The encoder can be pickled, copied, and used in threads and in forked processes: what travels is the file's path,
        and the fingerprint, which the file must still have. Raises EncoderFileError, ProviderError, UsageError.
        """
        return cls(read_encoder_file(resolve(path_or_name)).without_data(), provider, threads)

    def in_precision(
        self, record: dict[str, Any], session: Session | None = None, files: dict[str, bytes] | None = None
    ) -> Encoder:
        """This encoder, run by another ``session`` (None: its own). ``record`` says why, for ``features.json``.

        ``files`` are what the session was made from, to be kept beside the features.
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
        """Nothing in it changes, so that copies share what is loaded."""
        return copy.copy(self)

    def __reduce__(self) -> tuple[Any, ...]:
        made = (self._place, self.card.name, self.fingerprint, self.provider, self.threads)
        return _restored, (*made, self.precision, self._lower, self.files)

    def __repr__(self) -> str:
        return f"Encoder({self.card.name!r}, {self.dim}-d, {self.card.preprocess.size} px, {self.provider})"

    @property
    def identity(self) -> Identity:
        """Its name and fingerprint."""
        return Identity(self.card.name, self.fingerprint)

    @property
    def dim(self) -> int:
        """Length D of an embedding."""
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
        """Embeddings, float32 (D,), one for each image, in order.

        ``images`` are paths (str, pathlib), the contents of image files (bytes, binary file objects), PIL images or uint8
        arrays (H, W[, 3 or 4]) of any size; a 4-D uint8 array is a batch. ``workers`` decode and infer at the same time
        (default: one for each core). An image that cannot be read raises ImageError; with ``on_error="skip"`` it is left
        out, with ``"return"`` the ImageError comes in its place. Raises InputError for what is no image.
        """
        if on_error not in ON_ERROR:
            raise UsageError(f"on_error is {on_error!r}: {', '.join(ON_ERROR)}")
        if batch_size < 1:
            raise UsageError(f"batch_size is {batch_size}: it must be at least 1")
        if workers is not None and workers < 1:
            raise UsageError(f"workers is {workers}: it must be at least 1")
        if not _is_single(images) and not isinstance(images, Iterable):
            raise InputError(f"{_kind(images)} was given: {IMAGES}")
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
        """Embed images that are already at the encoder's size: uint8 (N, S, S, 3) to float32 (N, D)."""
        try:
            embeddings = self._session.run(pixels)
        except EncoderFileError as error:
            raise EncoderFileError(f"the encoder {self.card.name!r}: {error}") from error
        if embeddings.shape != (len(pixels), self.dim):
            raise EncoderFileError(f"the encoder gave {embeddings.shape} for {len(pixels)} images of dim {self.dim}")
        return embeddings


def _is_single(images: object) -> bool:
    """Whether ``images`` is one image: a path, contents, a PIL image, or an array of fewer than four axes."""
    if isinstance(images, np.ndarray):
        return images.ndim < 4
    return isinstance(images, str | bytes | bytearray | memoryview | os.PathLike | Image.Image) or hasattr(images, "read")


def _checked(source: object) -> Source:
    if isinstance(source, bytes | bytearray | memoryview):
        return Content(bytes(source))
    if hasattr(source, "read"):
        data = source.read()
        if not isinstance(data, bytes):
            raise InputError("a file that was opened as text was given: open image files in binary mode, 'rb'")
        return Content(data, str(getattr(source, "name", Content.name)))
    if not isinstance(source, str | os.PathLike | Image.Image | np.ndarray):
        raise InputError(f"{_kind(source)} was given: {IMAGES}")
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
    """The encoder that was pickled. Raises EncoderFileError if its file is another by now."""
    if isinstance(place, bytes):
        file = check_encoder(place)
    else:
        file = find_encoder(name, fingerprint, [place], os.path.exists(place), EncoderFileError).without_data()
    return Encoder(file, provider, threads).in_precision(precision, lower, files)


def open_session(model: bytes | str, provider: str, threads: int) -> tuple[str, Session]:
    """The provider that runs, and the graph in it. Raises EncoderFileError, ProviderError, UsageError."""
    if provider not in ("auto", *PROVIDERS):
        raise UsageError(f"provider {provider!r} is unknown: auto, {', '.join(PROVIDERS)}")
    if provider == "auto":
        return _open_best(model, threads)
    if provider == "cuda" and not gpu_count():
        raise ProviderError("provider cuda: no NVIDIA GPU is visible here", "use --provider cpu (provider='cpu' in Python)")
    return provider, OnnxRuntimeBackend(model, provider, threads, "ONNX")


def _open_best(model: bytes | str, threads: int) -> tuple[str, Session]:
    if gpu_count():
        try:
            session = OnnxRuntimeBackend(model, "cuda", threads, "ONNX")
            session.try_out()  # libraries of another version, or for other GPUs, fail here
            return "cuda", session
        except (ProviderError, EncoderFileError) as error:  # the second: of the file or of CUDA, the CPU will tell
            message = str(error)
        session = OnnxRuntimeBackend(model, "cpu", threads, "ONNX")
        logging.getLogger(__name__).warning("provider auto: the GPU is left idle, the CPU works: %s", message)
        return "cpu", session
    return "cpu", OnnxRuntimeBackend(model, "cpu", threads, "ONNX")


def gpu_count() -> int:
    """NVIDIA GPUs the driver reports; onnxruntime lists CUDA as available even where there are none."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    return count.value if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0
