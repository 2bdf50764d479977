"""Limits of a service: sizes, times and memory."""

from __future__ import annotations

from dataclasses import dataclass

from sslfeat.data.decode_worker import Limits
from sslfeat.errors import UsageError
from sslfeat.serving.answers import Refusal

DECODING = Limits(seconds=10.0)


@dataclass(frozen=True)
class ServiceLimits:
    """Sizes in bytes or images, times in seconds.

    At most ``queue`` images are queued or in progress; ``deadline`` is the time from the complete body to the response.
    ``first_byte``, ``headers``, ``body`` and ``write`` are time limits for clients. At most ``buffered`` bytes of bodies are
    in memory. After SIGTERM, connections are refused after ``notice``, and requests are cancelled after ``drain``.
    """

    max_bytes: int = 20 << 20
    max_images: int = 32
    max_top: int = 1000
    batch_size: int = 4
    batch_delay: float = 0.0
    queue: int = 256
    deadline: float = 10.0
    first_byte: float = 10.0
    headers: float = 10.0
    body: float = 60.0
    write: float = 30.0
    keep_alive: int = 30
    connections: int = 1000
    buffered: int = 256 << 20
    notice: float = 1.0
    drain: float = 30.0
    decoding: Limits = DECODING

    def __post_init__(self) -> None:
        for name, least in (
            ("max_bytes", 1024),
            ("max_images", 1),
            ("max_top", 1),
            ("batch_size", 1),
            ("connections", 1),
        ):
            if getattr(self, name) < least:
                raise UsageError(f"{name.replace('_', '-')} is {getattr(self, name)}: it must be at least {least}")
        for name in ("deadline", "first_byte", "headers", "body", "write"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name.replace('_', '-')} is {getattr(self, name)}: it must be more than 0 seconds")
        if min(self.batch_delay, self.notice, self.drain) < 0:
            raise UsageError("batch-delay, notice and drain must be 0 seconds or more")
        if self.queue < self.max_images:
            raise UsageError(f"queue is {self.queue}: it must be at least max-images, {self.max_images}")
        if self.buffered < self.max_bytes:
            raise UsageError(f"buffered is {self.buffered}: it must be at least max-bytes, {self.max_bytes}")


class Buffers:
    """Number of bytes of all request bodies in memory."""

    def __init__(self, limit: int) -> None:
        self.limit, self.held = limit, 0


class Hold:
    """Bytes of ``Buffers`` used by a request, until released."""

    def __init__(self, buffers: Buffers) -> None:
        self._buffers, self._held = buffers, 0

    def take(self, count: int) -> None:
        """Reserve ``count`` bytes. Raises Refusal, 503, if all requests together exceed the limit."""
        if self._buffers.held + count > self._buffers.limit:
            raise Refusal(503, "too many large concurrent requests", "retry later", retry_after=1)
        self._buffers.held += count
        self._held += count

    def release(self) -> None:
        """Release all bytes."""
        self._buffers.held -= self._held
        self._held = 0
