"""Connections with deadlines for clients, since uvicorn does not time out incomplete requests.

There are time limits for the first byte, the headers and the body of a request, and for receiving the response, and a
size limit for headers. When a client disconnects, its request is cancelled.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from sslfeat.serving.limits import ServiceLimits

MAX_HEADER_BYTES = 64 << 10  # in addition to the data received with the first header
LINGER = 5.0  # seconds to discard the rest of a body, so that the client receives an early response
LATE = {"first_byte": 0, "headers": 408, "body": 408}


class WatchedConnection(HttpToolsProtocol):
    """A connection. ``running`` is the task of the current request; ``lost`` whether the client disconnected."""

    limits = ServiceLimits()  # set in the subclass created by ``connection_class``

    running: asyncio.Task[Any] | None = None
    lost = False
    _stage = "first_byte"
    _timer: asyncio.TimerHandle | None = None
    _writing: asyncio.TimerHandle | None = None
    _header_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio.Protocol."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._give_up(503, "too many connections")
            return
        self._enter("first_byte", self.limits.first_byte)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self.lost = True
        self._disarm()
        self._stop_writing_timer()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        if self.running is not None and not self.running.done():
            self.running.cancel()
        self.running = None
        self.pipeline.clear()
        if self.cycle is not None:
            self.cycle.body = bytearray()  # breaks a reference cycle, which would delay freeing it

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self.lost or self.transport.is_closing():
            return
        begun = self._stage == "headers"
        if self._stage in ("first_byte", "idle"):
            self._enter("headers", self.limits.headers)
        super().data_received(data)
        if begun and self._stage == "headers":  # the data may begin with the end of another request's body
            self._header_bytes += len(data)
            if self._header_bytes > MAX_HEADER_BYTES:
                self._give_up(431, f"headers are larger than {MAX_HEADER_BYTES} bytes")

    def on_message_begin(self) -> None:
        """First byte of a request."""
        super().on_message_begin()
        self.scope["state"]["connection"] = self
        self._enter("headers", self.limits.headers)

    def on_headers_complete(self) -> None:
        """Headers are complete."""
        self._enter("body", self.limits.body)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is complete."""
        self._enter("idle")
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The response was written; the rest of an unread body is discarded for a moment."""
        if self._stage == "body":
            self._enter("body", min(LINGER, self.limits.body))
        super().on_response_complete()

    def pause_writing(self) -> None:
        """The client is not receiving."""
        super().pause_writing()
        self._stop_writing_timer()
        self._writing = self.loop.call_later(self.limits.write, self.transport.abort)

    def resume_writing(self) -> None:
        """The client is receiving again."""
        self._stop_writing_timer()
        super().resume_writing()

    def _enter(self, stage: str, seconds: float | None = None) -> None:
        self._disarm()
        self._stage, self._header_bytes = stage, 0
        if seconds is not None:
            self._timer = self.loop.call_later(seconds, self._late)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_writing_timer(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None

    def _late(self) -> None:
        self._timer = None
        if status := LATE[self._stage]:
            self._give_up(status, f"the {self._stage} took too long")
        else:
            self.transport.abort()

    def _give_up(self, status: int, message: str) -> None:
        """Close, with an error response if none was started."""
        if not self.transport.is_closing() and (self.cycle is None or self._between_answers()):
            body = f'{{"error":"{message}"}}'.encode()
            head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
            self.transport.write(STATUS_LINE[status] + head.encode() + body)
            if self.cycle is not None:
                self.cycle.disconnected = True  # the application can no longer respond
                self.cycle.message_event.set()
        self.transport.close()
        self.loop.call_later(LINGER, self.transport.abort)

    def _between_answers(self) -> bool:
        cycle = self.cycle
        return cycle.response_complete if self._stage != "body" else not cycle.response_started


def connection_class(limits: ServiceLimits) -> type[WatchedConnection]:
    """Connection class with these limits."""
    return type("LimitedConnection", (WatchedConnection,), {"limits": limits})
