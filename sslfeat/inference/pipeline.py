"""Embedding pipeline: each worker decodes a batch and then runs inference on it; batches are returned in order.

Each worker keeps one core busy, first in Pillow, then in onnxruntime, which both release the GIL; cores neither wait for each
other nor are oversubscribed. The caller defines the batches: their composition does not depend on timing, so the same
inputs give the same bytes.
"""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sslfeat.data.decode import Decoded, Decoding, Pixels, Source, decode
from sslfeat.data.read import Fetcher
from sslfeat.data.results import Batch, Embedded, Failed
from sslfeat.data.transforms import EXACT, Preprocess
from sslfeat.errors import ImageError
from sslfeat.inference.model_card import Card

AHEAD = 8  # batches per worker that are computed in advance, while the caller writes a part
PULSE = 0.25  # seconds between two calls of ``pulse`` while waiting


class Runs(Protocol):
    """Encoder interface of the pipeline."""

    card: Card

    def run(self, pixels: Pixels) -> npt.NDArray[np.float32]: ...


class ImageDecoder(Protocol):
    """Decodes images into the rows of ``pixels``, uint8 (N, S, S, 3)."""

    def decode(self, sources: Sequence[Source], pixels: Pixels) -> list[Decoded | Failed]: ...

    def abort(self) -> None: ...

    def close(self) -> None: ...


class ThreadDecoder:
    """Decodes in the calling thread, for sources in memory and trusted files."""

    def __init__(self, preprocess: Preprocess, decoding: Decoding = EXACT) -> None:
        decoding.require()
        self._preprocess, self._decoding = preprocess, decoding

    def decode(self, sources: Sequence[Source], pixels: Pixels) -> list[Decoded | Failed]:
        """See ``ImageDecoder``; rows of failed images are black."""
        outcomes: list[Decoded | Failed] = []
        for source, place in zip(sources, pixels, strict=True):
            try:
                decoded = decode(source, self._preprocess, self._decoding)
                place[:] = decoded.pixels
                outcomes.append(decoded)
            except ImageError as error:
                place[:] = 0
                outcomes.append(Failed(str(error)))
        return outcomes

    def abort(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def embed_batches(
    encoder: Runs,
    batches: Iterable[Sequence[Source]],
    workers: int,
    make_decoder: Callable[[], ImageDecoder] | None = None,
    pulse: Callable[[], None] = lambda: None,
) -> Generator[Batch]:
    """Decode and embed batches with ``workers`` workers; failures keep their position.

    ``make_decoder`` creates the decoder of each worker (default: ThreadDecoder). ``pulse`` is called often while
    the caller waits, and may raise to stop. Remote files are prefetched.
    """
    decoders: queue.SimpleQueue[ImageDecoder] = queue.SimpleQueue()
    made = [make_decoder() if make_decoder else ThreadDecoder(encoder.card.preprocess) for _ in range(workers)]
    for decoder in made:
        decoders.put(decoder)

    def work(sources: Sequence[Source]) -> Batch:
        decoder = decoders.get()
        try:
            return embed_batch(encoder, decoder, sources)
        finally:
            decoders.put(decoder)

    pool = ThreadPoolExecutor(workers, thread_name_prefix="sslfeat-worker")
    pending: deque[Future[Batch]] = deque()
    fetcher = Fetcher()
    try:
        for sources in batches:
            pending.append(pool.submit(work, [fetcher.begin(source) for source in sources]))
            if len(pending) > AHEAD * workers:
                yield _await(pending.popleft(), pulse)
        while pending:
            yield _await(pending.popleft(), pulse)
    finally:
        for future in pending:
            future.cancel()
        fetcher.close()
        for decoder in made:
            decoder.abort()
        pool.shutdown(wait=True)
        for decoder in made:
            decoder.close()


def _await(future: Future[Batch], pulse: Callable[[], None]) -> Batch:
    pulse()
    while not wait([future], PULSE).done:
        pulse()
    return future.result()


def embed_batch(encoder: Runs, decoder: ImageDecoder, sources: Sequence[Source]) -> Batch:
    """Decode and embed one batch. Failed images are black rows, so that batches keep their size."""
    size = encoder.card.preprocess.size
    pixels = np.empty((len(sources), size, size, 3), np.uint8)
    began = time.perf_counter()
    decoded = decoder.decode(sources, pixels)
    between = time.perf_counter()
    failed = [image for image in decoded if isinstance(image, Failed)]
    if len(failed) == len(decoded):
        return Batch(sources, failed, between - began, 0.0)
    outcomes = [
        image if isinstance(image, Failed) else Embedded(embedding, image.sha256, image.width, image.height)
        for image, embedding in zip(decoded, encoder.run(pixels), strict=True)
    ]
    return Batch(sources, outcomes, between - began, time.perf_counter() - between)
