"""Stores to test on: one in memory that can die at any operation, and a small S3 server."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from sslfeat.storage.claim import is_claim

OPERATIONS = ("pipe_file", "put_file", "cat_file", "info", "ls", "find", "rm_file")


class Killed(BaseException):
    """The process is dead: nothing in it goes on, clean-up included."""


class Memory:
    """The store behind ``memory://``: its operations are counted, and may fail or end everything."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.operations = 0
        self.kill_at: int | None = None
        self.failures: list[Exception] = []
        self.meanwhile: tuple[int, Callable[[], object]] | None = None  # before this operation, somebody else does this
        self._depth = threading.local()
        for name in OPERATIONS:
            monkeypatch.setattr(MemoryFileSystem, name, self._counted(getattr(MemoryFileSystem, name)))
        self.clear()

    def _counted(self, operation: Any) -> Any:
        @functools.wraps(operation)
        def counted(*args: Any, **kwargs: Any) -> Any:
            if getattr(self._depth, "inside", False):  # one operation uses another
                return operation(*args, **kwargs)
            self.operations += 1
            if self.kill_at is not None and self.operations >= self.kill_at:
                raise Killed
            if self.meanwhile and self.operations == self.meanwhile[0]:
                _, act = self.meanwhile
                self.meanwhile = None
                act()
            if self.failures:
                raise self.failures.pop(0)
            self._depth.inside = True
            try:
                return operation(*args, **kwargs)
            finally:
                self._depth.inside = False

        return counted

    def live(self, kill_at: int | None = None) -> None:
        """A new process: it dies at this operation (None: at none)."""
        self.operations, self.kill_at = 0, kill_at

    def clear(self) -> None:
        """Forget everything."""
        MemoryFileSystem.store.clear()
        MemoryFileSystem.pseudo_dirs[:] = [""]

    def contents(self, url: str) -> dict[str, bytes]:
        """What is below ``url``, by name, but for claims."""
        root = url.removeprefix("memory:/") + "/"
        found = {key.removeprefix(root): file.getvalue() for key, file in MemoryFileSystem.store.items() if key.startswith(root)}
        return {name: data for name, data in found.items() if not is_claim(name)}


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Memory:
    """An empty store, and an empty cache."""
    monkeypatch.setenv("SSLFEAT_CACHE", str(tmp_path / "cache"))
    fsspec.filesystem("memory")
    return Memory(monkeypatch)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder behind ``s3://bucket``; the environment has what leads there."""
    import localbucket

    class Quiet(localbucket.S3Handler):  # type: ignore[misc]
        def log_message(self, format: str, *args: object) -> None:
            """Print nothing."""

    Quiet.data_root = tmp_path_factory.mktemp("buckets")
    (Quiet.data_root / "bucket").mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_DEFAULT_REGION": "us-east-1",
        "SSLFEAT_CACHE": str(tmp_path_factory.mktemp("cache")),
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    yield Quiet.data_root / "bucket"
    server.shutdown()
    server.server_close()
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value
