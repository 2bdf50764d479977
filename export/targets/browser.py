"""Serve a page, open it in a browser, and receive its results."""

from __future__ import annotations

import functools
import http.server
import json
import queue
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sslfeat.errors import ExportError

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
TIMEOUT = 300  # seconds


def find_browser() -> str:
    """Path of the browser. Raises ExportError if there is none."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise ExportError("the page is tested in a browser, but none was found: install chromium")
    return found


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Serve a folder, and receive the page's results."""

    def __init__(self, *arguments: Any, heard: queue.Queue[Any], **options: Any) -> None:
        self._heard = heard
        self.extensions_map = {**self.extensions_map, ".mjs": "text/javascript", ".wasm": "application/wasm"}
        super().__init__(*arguments, **options)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()
        self._heard.put(json.loads(body))

    def log_message(self, format: str, *arguments: Any) -> None:
        """Disable logging."""


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, queue.Queue[Any]]]:
    """Serve a folder on a local address; yields it and the queue of results posted to ``found``."""
    heard: queue.Queue[Any] = queue.Queue()
    handler = functools.partial(_Handler, directory=str(folder), heard=heard)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", heard
        finally:
            server.shutdown()
            thread.join()


def open_page(address: str, heard: queue.Queue[Any], profile: Path) -> npt.NDArray[np.float32]:
    """Open a page in a headless browser, and wait for the rows (N, D) that it posts. Raises ExportError."""
    browser = find_browser()
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
    running = subprocess.Popen(
        [*command, "--remote-debugging-port=0", address], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        found = heard.get(timeout=TIMEOUT)
    except queue.Empty:
        raise ExportError(f"the page returned no features within {TIMEOUT} s") from None
    finally:
        running.terminate()
        running.wait()
    if isinstance(found, str):
        raise ExportError(f"the page failed in the browser: {found}")
    return np.array(found, np.float32)
