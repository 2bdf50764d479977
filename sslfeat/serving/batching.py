"""Batching across requests: images of all requests are decoded and embedded together, in order of arrival.

A free worker takes the waiting images, up to a batch, so an idle service answers immediately and a busy one has full
batches. Images past their deadline, or of disconnected clients, are dropped before they are decoded.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from sslfeat.data.decode import Decoded, Pixels, Source
from sslfeat.data.results import Batch, Failed
from sslfeat.inference.pipeline import ImageDecoder, Runs, embed_batch
from sslfeat.numerics.arrays import FloatArray
from sslfeat.serving.answers import Outcome, Refusal

LONGEST_WAIT = 60  # maximum Retry-After in seconds
SHARE = 0.1  # weight of the latest batch in the running mean of the rate


@dataclass
class BatchEvents:
    """Callbacks of the worker threads for each batch: seconds waited by each image, the batch, dropped images."""

    waited: Callable[[float], None] = lambda seconds: None
    ran: Callable[[Batch], None] = lambda batch: None
    dropped: Callable[[int], None] = lambda count: None


@dataclass(eq=False)
class Ticket:
    """Images of a request: ``outcomes`` so far, number ``left``, the waiting future, and the start time."""

    future: asyncio.Future[list[Outcome]]
    outcomes: list[Outcome | None]
    left: int
    entered: float


@dataclass(frozen=True, eq=False)
class Job:
    """An image of a ticket."""

    ticket: Ticket
    place: int
    source: Source


class ReadyDecoder:
    """Passes through arrays that already have the encoder's input size; other images are decoded by ``inner``."""

    def __init__(self, inner: ImageDecoder) -> None:
        self._inner = inner

    def decode(self, sources: Sequence[Source], pixels: Pixels) -> list[Decoded | Failed]:
        """See ``ImageDecoder``."""
        ready = {place: source for place, source in enumerate(sources) if isinstance(source, np.ndarray)}
        if not ready:
            return self._inner.decode(sources, pixels)
        rest = [place for place in range(len(sources)) if place not in ready]
        found = np.empty((len(rest), *pixels.shape[1:]), np.uint8)
        outcomes = dict(zip(rest, self._inner.decode([sources[place] for place in rest], found), strict=True))
        for place, row in zip(rest, found, strict=True):
            pixels[place] = row
        for place, source in ready.items():
            pixels[place] = source
            outcomes[place] = Decoded(pixels[place], pixels.shape[2], pixels.shape[1], "")
        return [outcomes[place] for place in range(len(sources))]

    def abort(self) -> None:
        """See ``ImageDecoder``."""
        self._inner.abort()

    def close(self) -> None:
        """See ``ImageDecoder``."""
        self._inner.close()


@dataclass
class Batcher:
    """``workers`` threads, each with its own decoder, that embed up to ``size`` images at a time.

    A partial batch waits until its first image is ``delay`` seconds old. At most ``capacity`` images are queued or in
    progress.
    """

    encoder: Runs
    make_decoder: Callable[[], ImageDecoder]
    workers: int
    size: int
    delay: float
    capacity: int
    events: BatchEvents = field(default_factory=BatchEvents)

    def __post_init__(self) -> None:
        self.held = 0
        self._waiting: deque[Job] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._rate = 0.0  # images per second, all workers
        self._threads: list[threading.Thread] = []

    async def start(self) -> None:
        """Start the workers, in the event loop of ``embed``. Raises errors of the decoder's constructor."""
        self._loop = asyncio.get_running_loop()
        started: list[asyncio.Future[None]] = [self._loop.create_future() for _ in range(self.workers)]
        for number, future in enumerate(started):
            name = f"sslfeat-serve-{number}"
            self._threads.append(threading.Thread(target=self._work, args=(future,), name=name, daemon=True))
            self._threads[-1].start()
        await asyncio.gather(*started)

    @property
    def alive(self) -> bool:
        """Whether all workers are running."""
        return bool(self._threads) and all(thread.is_alive() for thread in self._threads)

    def close(self) -> None:
        """Stop the workers after their current batches; waiting images are dropped."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        for thread in self._threads:
            thread.join()

    def check_room(self, count: int = 1) -> None:
        """Raise Refusal, 429, if there is no room for ``count`` more images."""
        if self.held + count > self.capacity:
            seconds = math.ceil(self.held / self._rate) if self._rate else 1
            raise Refusal(429, "the queue is full", "retry later", retry_after=min(max(1, seconds), LONGEST_WAIT))

    async def embed(self, images: Sequence[Source], deadline: float) -> list[Outcome]:
        """Return the outcome of each image within ``deadline`` seconds; cancel if the client disconnects.

        Images are ``Content``, or uint8 (S, S, 3) at the encoder's input size. Raises Refusal: 429 if the queue is full, 503
        after the deadline; and errors of the encoder.
        """
        ticket = Ticket(self._loop.create_future(), [None] * len(images), len(images), time.monotonic())
        with self._wake:
            self.check_room(len(images))
            self.held += len(images)
            self._waiting.extend(Job(ticket, place, image) for place, image in enumerate(images))
            self._wake.notify(-(-len(images) // self.size))
        try:
            async with asyncio.timeout(deadline):
                return await ticket.future
        except TimeoutError as error:
            raise Refusal(
                503, f"deadline of {deadline:g} s exceeded", "send fewer images, or retry later", retry_after=1
            ) from error
        finally:
            if ticket.left:
                self._drop(ticket)

    def _drop(self, ticket: Ticket) -> None:
        """Drop the images of an abandoned ticket, except those in progress."""
        with self._wake:
            before = len(self._waiting)
            self._waiting = deque(job for job in self._waiting if job.ticket is not ticket)
            dropped = before - len(self._waiting)
            self.held -= dropped
        if dropped:
            self.events.dropped(dropped)

    def _work(self, started: asyncio.Future[None]) -> None:
        try:
            decoder = ReadyDecoder(self.make_decoder())
        except Exception as error:  # any error is raised by ``start``
            self._loop.call_soon_threadsafe(started.set_exception, error)
            return
        self._loop.call_soon_threadsafe(started.set_result, None)
        try:
            while jobs := self._take():
                self._run(decoder, jobs)
        finally:
            decoder.abort()
            decoder.close()

    def _take(self) -> list[Job]:
        """The next batch; empty when closed."""
        with self._wake:
            self._await_batch()
            return [] if self._closed else [self._waiting.popleft() for _ in range(min(self.size, len(self._waiting)))]

    def _await_batch(self) -> None:
        """Wait, holding the lock, until a batch is full or old enough, or the batcher is closed."""
        while not self._closed:
            if not self._waiting:
                self._wake.wait()
                continue
            left = self._waiting[0].ticket.entered + self.delay - time.monotonic()
            if len(self._waiting) >= self.size or left <= 0:
                return
            self._wake.wait(left)

    def _run(self, decoder: ImageDecoder, jobs: list[Job]) -> None:
        began = time.monotonic()
        error: Exception | None = None
        outcomes: list[Outcome] = []
        for job in jobs:
            self.events.waited(began - job.ticket.entered)
        try:
            batch = embed_batch(self.encoder, decoder, [job.source for job in jobs])
            outcomes = [item if isinstance(item, Failed) else _finite(item.embedding) for item in batch.outcomes]
            self.events.ran(batch)
        except Exception as cause:  # any error belongs to these requests; the worker continues
            logging.getLogger(__name__).exception("a batch failed")
            error = cause
        rate = self.workers * len(jobs) / max(time.monotonic() - began, 1e-6)
        with self._wake:
            self.held -= len(jobs)
            self._rate += (rate - self._rate) * (SHARE if self._rate else 1)
        self._loop.call_soon_threadsafe(_deliver, jobs, outcomes, error)


def _finite(embedding: FloatArray) -> Outcome:
    """The embedding, or a failure if it is not finite, which JSON cannot represent."""
    if np.isfinite(embedding).all():
        return embedding
    return Failed("the encoder returned non-finite values")


def _deliver(jobs: list[Job], outcomes: list[Outcome], error: Exception | None) -> None:
    """Deliver the outcomes of a batch, in the event loop."""
    for number, job in enumerate(jobs):
        ticket = job.ticket
        if ticket.future.done():
            continue
        if error is not None:
            ticket.future.set_exception(error)
            continue
        ticket.outcomes[job.place] = outcomes[number]
        ticket.left -= 1
        if not ticket.left:
            ticket.future.set_result([item for item in ticket.outcomes if item is not None])
