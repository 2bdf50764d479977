"""A frozen image encoder: pictures in, embeddings out, on onnxruntime alone."""

from __future__ import annotations

import copy
import ctypes
import logging
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from sslfeat.card import Card
from sslfeat.cores import available_cores
from sslfeat.encoder_file import EncoderFile, check_encoder, read_encoder_file
from sslfeat.errors import EncoderFileError, ImageError, InputError, ProviderError, UsageError
from sslfeat.images import Pixels, Source
from sslfeat.outcomes import Failed
from sslfeat.pipeline import batched, embed_batches
from sslfeat.sessions import PROVIDERS, OnnxSession, Session
from sslfeat.zoo import find_encoder, resolve

MAX_THREADS = 1024
LONGEST_PATH = 4096  # bytes, on Linux
PICTURES = "pictures are paths, PIL images, or uint8 arrays (H, W), (H, W, 3) or (H, W, 4)"


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
        self.provider, self._session = _open(model, provider, threads)
        file.check_same()

    @classmethod
    def load(cls, path_or_name: str | os.PathLike[str], provider: str = "auto", threads: int = 1) -> Encoder:
        """Load an encoder file, or a shipped encoder by name (``sslfeat models`` lists them).

        ``provider`` is ``cpu``, ``cuda`` (an error where it cannot run) or ``auto`` (cuda where it runs, and a warning
        where there is a GPU but it does not); what was taken is ``encoder.provider``. ``threads`` work on one inference:
        more of them answer a single picture sooner; many pictures are done soonest by many workers with one each.
        The encoder can be pickled, copied, and used in threads and in forked processes: what travels is the file's path,
        and the fingerprint, which the file must still have. Raises EncoderFileError, ProviderError, UsageError.
        """
        return cls(read_encoder_file(resolve(path_or_name)).without_data(), provider, threads)

    def in_precision(
        self, record: dict[str, Any], session: Session | None = None, files: dict[str, bytes] | None = None
    ) -> Encoder:
        """This encoder, run by another ``session`` (None: its own). ``record`` says why, for ``run.json``.

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

    @property
    def dim(self) -> int:
        """Length D of an embedding."""
        return self.card.dim

    def embed(
        self, images: Iterable[Source] | Source, batch_size: int = 4, workers: int | None = None
    ) -> Iterator[npt.NDArray[np.float32]]:
        """Embeddings, float32 (D,), one for each picture, in order.

        ``images`` are paths (str, bytes, pathlib), PIL images or uint8 arrays (H, W[, 3 or 4]) of any size; a 4-D uint8
        array is a batch. ``workers`` decode and infer at the same time (default: one for each core). Raises ImageError at
        the first picture that cannot be read (``sslfeat embed`` is the way to go on past such pictures), InputError for
        what is no picture.
        """
        if batch_size < 1:
            raise UsageError(f"batch_size is {batch_size}: it must be at least 1")
        if workers is not None and workers < 1:
            raise UsageError(f"workers is {workers}: it must be at least 1")
        if not _is_single(images) and not isinstance(images, Iterable):
            raise InputError(f"{_kind(images)} was given: {PICTURES}")
        given: Iterable[Any] = [images] if _is_single(images) else images  # type: ignore[assignment]
        sources = (_checked(source) for source in given)
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
    return isinstance(images, str | bytes | os.PathLike | Image.Image)


def _checked(source: object) -> Source:
    if isinstance(source, bytes) and (b"\0" in source or len(source) > LONGEST_PATH):
        raise InputError(
            "bytes that are no path were given: open a picture's content with PIL.Image.open(io.BytesIO(...))"
        )
    if not isinstance(source, str | bytes | os.PathLike | Image.Image | np.ndarray):
        cure = ", or PIL.Image.open of it" if hasattr(source, "read") else ""
        raise InputError(f"{_kind(source)} was given: {PICTURES}{cure}")
    return source


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


def _open(model: bytes | str, asked: str, threads: int) -> tuple[str, Session]:
    """The provider that runs, and the graph in it. Raises EncoderFileError, ProviderError, UsageError."""
    if asked not in ("auto", *PROVIDERS):
        raise UsageError(f"provider {asked!r} is unknown: auto, {', '.join(PROVIDERS)}")
    if asked == "auto":
        return _open_best(model, threads)
    if asked == "cuda" and not gpu_count():
        raise ProviderError("provider cuda: no NVIDIA GPU is visible here; use --provider cpu")
    return asked, OnnxSession(model, asked, threads, "ONNX")


def _open_best(model: bytes | str, threads: int) -> tuple[str, Session]:
    if gpu_count():
        try:
            session = OnnxSession(model, "cuda", threads, "ONNX")
            session.try_out()  # libraries of another version, or for other GPUs, fail here
            return "cuda", session
        except (ProviderError, EncoderFileError) as error:  # the second: of the file or of CUDA, the CPU will tell
            told = str(error)
        session = OnnxSession(model, "cpu", threads, "ONNX")
        logging.getLogger(__name__).warning("provider auto: the GPU is left idle, the CPU works: %s", told)
        return "cpu", session
    return "cpu", OnnxSession(model, "cpu", threads, "ONNX")


def gpu_count() -> int:
    """NVIDIA GPUs the driver reports; onnxruntime lists CUDA as available even where there are none."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    return count.value if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0
