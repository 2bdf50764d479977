"""Thumbnails of indexed files, decoded in separate processes, and only if the file is unchanged since indexing."""

from __future__ import annotations

import asyncio
import functools
import io
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from sslfeat.data.decode import Decoded
from sslfeat.data.decode_worker import Limits
from sslfeat.data.read import find_image
from sslfeat.data.results import Failed
from sslfeat.data.subprocess_decoder import SubprocessDecoder
from sslfeat.data.transforms import FIT, REDUCED, Decoding, Preprocess, fitted
from sslfeat.serving.answers import Refusal

SIDES = (256, 1024)  # decoded sizes; other sizes are scaled from the next larger
SMALLEST, LARGEST = 16, SIDES[-1]
QUALITY = 85
CACHE_BYTES = 64 << 20
WORKERS, MOST_WAITING = 2, 256
SMALL = Decoding(REDUCED)


class ThumbnailCache:
    """LRU cache of JPEGs, up to ``limit`` bytes."""

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self._limit, self._bytes = limit, 0
        self._kept: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[str, int]) -> bytes | None:
        """The cached JPEG, or None."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: tuple[str, int], data: bytes) -> None:
        """Add a JPEG."""
        with self._lock:
            self._bytes += len(data) - len(self._kept.pop(key, b""))
            self._kept[key] = data
            while self._bytes > self._limit:
                self._bytes -= len(self._kept.popitem(last=False)[1])


class ThumbnailMaker:
    """Creates and caches thumbnails."""

    def __init__(self, limits: Limits) -> None:
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="sslfeat-thumbnails")
        self._decoders: dict[int, queue.SimpleQueue[SubprocessDecoder]] = {}
        self._made: list[SubprocessDecoder] = []
        for side in SIDES:
            self._decoders[side] = queue.SimpleQueue()
            for _ in range(WORKERS):
                decoder = SubprocessDecoder(Preprocess(side, side, "bilinear", crop=FIT), SMALL, limits)
                self._made.append(decoder)
                self._decoders[side].put(decoder)
        self._cache = ThumbnailCache()
        self._waiting = 0

    async def get(self, name: str, sha256: str | None, size: int) -> bytes:
        """JPEG of at most ``size`` x ``size`` px of the indexed file ``name`` with contents ``sha256``.

        Raises Refusal: 404 if the file is missing, changed, or unreadable; 429 if there are too many requests at once.
        """
        key = (sha256 or name, size)
        if (kept := self._cache.get(key)) is not None:
            return kept
        if self._waiting >= MOST_WAITING:
            raise Refusal(429, "too many concurrent requests for thumbnails", "retry later", retry_after=1)
        self._waiting += 1
        try:
            make: Callable[[], bytes] = functools.partial(self._make, name, sha256, size)
            data = await asyncio.get_running_loop().run_in_executor(self._pool, make)
        finally:
            self._waiting -= 1
        self._cache.put(key, data)
        return data

    def close(self) -> None:
        """Stop the decoders."""
        for decoder in self._made:
            decoder.abort()
        self._pool.shutdown(wait=True, cancel_futures=True)
        for decoder in self._made:
            decoder.close()

    def _make(self, name: str, sha256: str | None, size: int) -> bytes:
        path = find_image(name)
        side = next(side for side in SIDES if side >= size)
        decoder = self._decoders[side].get()
        try:
            canvas = np.empty((1, side, side, 3), np.uint8)
            (outcome,) = decoder.decode([path], canvas)
        finally:
            self._decoders[side].put(decoder)
        if isinstance(outcome, Failed):
            raise Refusal(404, f"the image cannot be shown: {outcome.reason}", "update the index")
        return _jpeg(outcome, canvas[0], sha256, size)


def _jpeg(decoded: Decoded, canvas: np.ndarray, sha256: str | None, size: int) -> bytes:
    if sha256 is not None and decoded.sha256 != sha256:
        raise Refusal(404, "the file has changed since it was indexed", "update the index")
    width, height = fitted(decoded.width, decoded.height, canvas.shape[0])
    image = Image.fromarray(canvas[:height, :width])
    wanted = fitted(decoded.width, decoded.height, size)
    if wanted != image.size:
        image = image.resize(wanted, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
