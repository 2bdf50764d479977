"""A page is served and opened in a real browser, and says what it found."""

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
    """The program. Raises ExportError without one."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise ExportError("the page is looked at in a browser before it is given out: install chromium")
    return found


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, and takes what the page found."""

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
        """Nothing: it is not the user's server."""


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, queue.Queue[Any]]]:
    """A folder on a local address, and the queue of what its pages post to ``found``."""
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
    """Open a page without a window, and wait for the rows (N, D) that it posts. Raises ExportError."""
    browser = find_browser()
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
    running = subprocess.Popen(
        [*command, "--remote-debugging-port=0", address], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        found = heard.get(timeout=TIMEOUT)
    except queue.Empty:
        raise ExportError(f"the page gave no features in {TIMEOUT} s") from None
    finally:
        running.terminate()
        running.wait()
    if isinstance(found, str):
        raise ExportError(f"the page failed in the browser: {found}")
    return np.array(found, np.float32)
