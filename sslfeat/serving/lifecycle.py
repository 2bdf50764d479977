"""Listening and graceful shutdown: accepted requests are completed after SIGTERM.

First ``/ready`` fails and responses close their connections, while requests are still served; after ``notice`` seconds
no connections are accepted, and running requests are completed. Ctrl-C skips ``notice``. A second signal stops immediately.
"""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn

from sslfeat.errors import ServeError
from sslfeat.serving.app import make_app
from sslfeat.serving.connections import connection_class
from sslfeat.serving.service import Service

BACKLOG = 2048
FILES_BESIDE = 256  # file descriptors not used for connections
SIGNALS = (signal.SIGTERM, signal.SIGINT)
logger = logging.getLogger(__name__)


class DrainingServer(uvicorn.Server):
    """uvicorn server with graceful shutdown. ``announce`` is called when it listens."""

    def __init__(self, config: uvicorn.Config, service: Service, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._service, self._announce = service, announce
        self._closing_at = math.inf

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        await super().startup(sockets)
        if self.started:
            self._announce()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals while serving; uvicorn would raise them again afterwards, which would kill the process."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        wakeup = signal.set_wakeup_fd(-1)  # used elsewhere to stop slow processes; restored below
        before = {number: signal.signal(number, self.handle_exit) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(wakeup)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start the shutdown; at the second signal, stop immediately."""
        if self._service.draining:
            self.should_exit = self.force_exit = True
            return
        self._service.draining = True
        self._closing_at = time.monotonic() + (self._service.limits.notice if sig == signal.SIGTERM else 0)

    async def on_tick(self, counter: int) -> bool:
        """See uvicorn: called ten times per second; returns whether to stop."""
        if time.monotonic() >= self._closing_at:
            self.should_exit = self._service.closing = True
        return await super().on_tick(counter)


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket. Raises ServeError."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=BACKLOG)
    except OSError as error:
        raise ServeError(
            f"{host}, port {port}, is not available: {error.strerror or error}; choose another --host or --port"
        ) from error


def serve(service: Service, listener: socket.socket, announce: Callable[[], None] = lambda: None) -> None:
    """Serve until a signal arrives. Raises ServeError if the service cannot start."""
    limits = service.limits
    _allow_files(limits.connections + FILES_BESIDE)
    config = uvicorn.Config(
        make_app(service), http=connection_class(limits), ws="none", lifespan="on", log_config=None, access_log=False,
        proxy_headers=False, server_header=False, backlog=BACKLOG, timeout_keep_alive=limits.keep_alive,
        timeout_graceful_shutdown=math.ceil(limits.drain),
    )  # fmt: skip
    try:
        DrainingServer(config, service, announce).run(sockets=[listener])
    except SystemExit as error:
        raise ServeError("the service could not start: see its log") from error


def _allow_files(wanted: int) -> None:
    """Raise the limit on open files as the connections require, if the system allows it."""
    try:
        import resource
    except ImportError:  # no such limit on Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < wanted:
        raised = wanted if hard < 0 else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
        if raised < wanted:
            logger.warning("the limit of %d open files allows fewer connections than %d", raised, wanted - FILES_BESIDE)
