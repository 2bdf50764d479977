"""State of a service: the encoder, optional index and classifier, and their workers."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import hashlib
import hmac
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from starlette.requests import Request

from sslfeat.data.decode import Content, Source
from sslfeat.data.subprocess_decoder import SubprocessDecoder
from sslfeat.data.transforms import EXACT
from sslfeat.errors import RetrievalError, ServeError, UsageError
from sslfeat.evaluation.clustering.storage import clusters_by_path
from sslfeat.evaluation.probing.checkpoint import SavedProbe
from sslfeat.inference.backends import give_memory_back
from sslfeat.inference.encoder import Encoder
from sslfeat.inference.pipeline import ImageDecoder
from sslfeat.inference.registry import DEFAULT, find_encoder
from sslfeat.retrieval.storage import read_metadata
from sslfeat.serving.answers import Outcome, Refusal
from sslfeat.serving.batching import Batcher, BatchEvents
from sslfeat.serving.collection import Collection, Generation
from sslfeat.serving.limits import Buffers, ServiceLimits
from sslfeat.serving.metrics import Metrics
from sslfeat.serving.points import Drawn, read_map
from sslfeat.serving.thumbnails import ThumbnailMaker
from sslfeat.system.cores import available_cores

SHORTEST_KEY = 16  # characters
GPU_BATCH = 32
TIDY = 5.0  # seconds
T = TypeVar("T")


@dataclass(frozen=True)
class ServiceSources:
    """Sources: an encoder by file or name, an index and a classifier by folder, a map and duplicates by file. None:
    not given."""

    encoder: str | None = None
    index: Path | None = None
    classifier: Path | None = None
    map: Path | None = None
    clusters: Path | None = None
    duplicates: Path | None = None
    provider: str = "auto"
    threads: int = 1


class Service:
    """The service behind the routes. ``draining`` is set when shutdown starts, ``closing`` when no requests are accepted."""

    def __init__(
        self, sources: ServiceSources, limits: ServiceLimits | None = None, key: str = "",
        hosts: frozenset[str] | None = None, gpu_batches: bool = False,
    ) -> None:  # fmt: skip
        """Load everything. ``key``: required API key; ``hosts``: allowed Host names (None: any).
        ``gpu_batches``: use batches of GPU_BATCH images on a GPU, regardless of the limits.

        Raises RetrievalError or FeaturesError if index or classifier are of another encoder, EncoderFileError,
        ProviderError, UsageError.
        """
        if key and len(key) < SHORTEST_KEY:
            raise UsageError(f"the API key has {len(key)} characters, at least {SHORTEST_KEY} are required")
        if sources.index is None and not sources.map is sources.clusters is sources.duplicates is None:
            raise UsageError("--map, --clusters and --duplicates require --index")
        self.duplicates = sources.duplicates
        self.limits = limits or ServiceLimits()
        self.hosts = hosts
        self._key = hashlib.sha256(key.encode()).digest() if key else None
        self.metrics, self.buffers = Metrics(), Buffers(self.limits.buffered)
        self.classifier = None if sources.classifier is None else SavedProbe.load(sources.classifier)
        self.encoder = _load(sources, self.classifier)
        card = self.encoder.card
        self.identity = self.encoder.identity
        if self.classifier is not None:
            self.classifier.check(self.identity, "the encoder that is served")
        self.about_encoder = {
            **dataclasses.asdict(self.identity), "dim": card.dim, "image_size": card.preprocess.size, "license": card.license,
        }  # fmt: skip
        self.collection: Collection | None = None
        self.thumbnails: ThumbnailMaker | None = None
        if sources.index is not None:
            drawn = Drawn(
                None if sources.map is None else read_map(sources.map),
                None if sources.clusters is None else clusters_by_path(sources.clusters),
            )
            reloaded = self._reloaded
            self.collection = Collection(sources.index, self.identity, drawn, reloaded)
            self.thumbnails = ThumbnailMaker(self.limits.decoding)
            self.metrics.rows.set_function(lambda: len(self.generation().index))
        events = BatchEvents(lambda seconds: self.metrics.stage("wait", seconds), self.metrics.batch, self.metrics.dropped)
        workers = max(1, available_cores() // self.encoder.threads)
        size, delay = self.limits.batch_size, self.limits.batch_delay
        if gpu_batches and self.encoder.provider == "cuda":
            size = GPU_BATCH
        self.batcher = Batcher(self.encoder, self._decoder, workers, size, delay, self.limits.queue, events)
        self.metrics.queue.set_function(lambda: self.batcher.held)
        self.metrics.buffered.set_function(lambda: self.buffers.held)
        self.draining = self.closing = False
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start the workers, in the event loop."""
        await self.batcher.start()
        gc.collect()
        gc.freeze()  # exclude loaded objects from garbage collection
        self._tasks.append(asyncio.create_task(_tidy()))
        if self.collection is not None:
            self._tasks.append(asyncio.create_task(self.collection.follow()))

    async def stop(self) -> None:
        """Stop; running work is completed."""
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        loop = asyncio.get_running_loop()
        for part in (self.batcher, self.thumbnails, self.collection):
            if part is not None:
                await loop.run_in_executor(None, part.close)

    @property
    def ready(self) -> bool:
        """Whether the service accepts requests."""
        return not self.draining and self.batcher.alive

    def knows(self, key: str) -> bool:
        """Whether this is the API key, compared in constant time."""
        given = hashlib.sha256(key.encode("utf-8", "replace")).digest()
        return self._key is None or hmac.compare_digest(given, self._key)

    @property
    def locked(self) -> bool:
        """Whether there is an API key."""
        return self._key is not None

    def generation(self, request: Request | None = None) -> Generation:
        """The current index. Raises Refusal: 404 if none is served, 409 if the request has another ``revision``."""
        if self.collection is None:
            raise Refusal(404, "no index is served", "start the service with --index INDEX")
        now = self.collection.now
        if request is not None and request.query_params.get("revision", now.revision) != now.revision:
            message = "the index has been updated, and ids of its earlier revision are no longer valid"
            raise Refusal(409, message, "reload the page, or search again")
        return now

    def probe(self) -> SavedProbe:
        """The classifier. Raises Refusal, 404, if none is served."""
        if self.classifier is None:
            raise Refusal(404, "no classifier is served", "start the service with --classifier PROBE")
        return self.classifier

    async def embed(self, images: Sequence[Source]) -> list[Outcome]:
        """Embeddings or failures, within the deadline. Raises like ``Batcher.embed``."""
        return await self.batcher.embed(images, self.limits.deadline)

    async def in_pool(self, call: Callable[[], T]) -> T:
        """Result of ``call`` in a thread of the index."""
        pool = None if self.collection is None else self.collection.pool
        return await asyncio.get_running_loop().run_in_executor(pool, call)

    def info(self) -> dict[str, Any]:
        """Content of ``/v1/info``."""
        limits = {name: getattr(self.limits, name) for name in ("max_bytes", "max_images", "max_top")}
        return {
            "encoder": self.about_encoder,
            "index": None if self.collection is None else self.collection.now.info(),
            "classifier": None if self.classifier is None else {"classes": self.classifier.names},
            "duplicates": self.duplicates is not None,
            "limits": limits,
        }

    def about(self) -> str:
        """One-line description of the service."""
        parts = [f"{self.identity.name} ({self.encoder.dim}-d, {self.encoder.provider})"]
        if self.collection is not None:
            parts.append(f"an index of {len(self.collection.now.index)} images")
        if self.classifier is not None:
            parts.append(f"a classifier of {len(self.classifier.names)} names")
        return ", ".join(parts)

    def _decoder(self) -> ImageDecoder:
        decoder = SubprocessDecoder(self.encoder.card.preprocess, EXACT, self.limits.decoding)
        side = self.encoder.card.preprocess.size
        pixels = np.zeros((self.batcher.size, side, side, 3), np.uint8)
        for _ in range(2):  # starts the process; the second run allocates its memory
            decoder.decode([Content(_photograph())], pixels[:1])
        self.encoder.run(pixels)  # a full batch, also to allocate memory
        return decoder

    def _reloaded(self, outcome: str) -> None:
        self.metrics.reloads.labels(outcome).inc()


async def _tidy() -> None:
    """Periodically return fragmented memory of request bodies to the system, until cancelled."""
    while True:
        await asyncio.sleep(TIDY)
        gc.collect()  # closed connections have reference cycles
        await asyncio.get_running_loop().run_in_executor(None, give_memory_back)


def _load(sources: ServiceSources, classifier: SavedProbe | None) -> Encoder:
    """Load the given encoder, or that of the index, or that of the classifier, or the shipped encoder."""
    maker = None if classifier is None else classifier.encoder
    hints: list[str] = []
    if sources.index is not None:
        indexed = read_metadata(sources.index).encoder
        maker, hints = indexed, [indexed.path] if indexed is not None and indexed.path else []
        if maker is None:
            raise RetrievalError("the index was built from plain vectors: a service needs an index of an encoder's features")
    if sources.encoder is not None or maker is None:
        return Encoder.load(sources.encoder or DEFAULT, sources.provider, sources.threads)
    file = find_encoder(maker.name, maker.fingerprint, hints, only_hints=False, error=ServeError)
    return Encoder(file.without_data(), sources.provider, sources.threads)


def _photograph() -> bytes:
    """A JPEG with typical decoding cost, for warm-up."""
    buffer = io.BytesIO()
    Image.effect_noise((1600, 1200), 64).convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()
