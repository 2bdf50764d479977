"""A service in a process of its own, as a user starts it, on a free port of this machine."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import pytest

from sslfeat import Index
from sslfeat.evaluation.probing.checkpoint import SavedProbe
from sslfeat.evaluation.probing.logistic import Linear
from sslfeat.inference.model_card import Identity
from tests.conftest import TINY_DIM

COMMAND = (sys.executable, "-c", "from sslfeat.cli.app import main; main()", "serve", "--port", "0")
STARTED = re.compile(r"serving .* on (http://\S+)")


@dataclass
class Running:
    """A service that runs: its address, and what it has written to its log."""

    process: subprocess.Popen[str]
    url: str = ""
    log: list[str] = field(default_factory=list)

    def client(self, **options: object) -> httpx.Client:
        """A client of it, which takes no proxy."""
        return httpx.Client(base_url=self.url, timeout=60, trust_env=False, **options)  # type: ignore[arg-type]

    def connect(self) -> socket.socket:
        """A bare connection."""
        host, port = self.url.removeprefix("http://").split(":")
        return socket.create_connection((host, int(port)), timeout=60)


@contextlib.contextmanager
def running(*options: str | Path, environment: dict[str, str] | None = None) -> Iterator[Running]:
    """Start ``sslfeat serve`` with options; it is ended, if it still runs, when the block is left."""
    process = subprocess.Popen(
        [*COMMAND, *map(str, options)], stderr=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})}
    )
    found = Running(process)
    started = threading.Event()

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            found.log.append(line)
            if match := STARTED.match(line):
                found.url = match[1]
                started.set()
        started.set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert started.wait(60), found.log
        assert found.url, found.log
        yield found
    finally:
        process.terminate()
        process.wait(60)
        reader.join(60)
        if process.stderr is not None:
            process.stderr.close()


@pytest.fixture(scope="module")
def images(image_folder: Path) -> list[Path]:
    return sorted(image_folder.rglob("*.jpg"))


def make_index(features: Path, folder: Path) -> Path:
    """An index of a features folder."""
    Index.build(features).save(folder)
    return folder


def make_classifier(fingerprint: str, folder: Path) -> Path:
    """A classifier that tells three names apart, somehow."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(TINY_DIM, 3)).astype(np.float32)
    model = Linear(np.zeros(TINY_DIM, np.float32), weights, np.zeros(3, np.float32))
    folder.mkdir()
    SavedProbe(model, ["a", "b", "c"], Identity("tiny", fingerprint), False, {}).save(folder)
    return folder


def ask(connection: socket.socket, request: bytes) -> bytes:
    """Send a request as it is, and read until the service closes."""
    connection.sendall(request)
    return read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    """All that comes until the service closes, however it does."""
    parts = []
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)
