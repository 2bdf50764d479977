"""HTTP download of a file, with resume and retries."""

from __future__ import annotations

import http.client
import os
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from sslfeat.errors import RemoteError
from sslfeat.storage import atomic
from sslfeat.storage.retry import retrying

BLOCK = 1 << 18  # bytes
TIMEOUT = 20.0  # seconds without a byte
PASSING = {408, 425, 429, 500, 502, 503, 504}  # retryable status codes
RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")
Step = Callable[[int, int | None], None]  # bytes downloaded, and total (None: unknown)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects within HTTP(S), never from https to http."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        allowed = ("https://",) if req.full_url.lower().startswith("https://") else ("http://", "https://")
        if not newurl.lower().startswith(allowed):
            raise RemoteError(f"{req.full_url} redirects to {newurl[:200]}, which is not allowed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@dataclass
class Download:
    """Download of ``url`` to ``path``. A partial file is stored next to it, with its version (ETag).

    ``authorization`` is a header that is not sent to redirect targets.
    """

    url: str
    path: Path
    greatest: int  # bytes
    step: Step = lambda done, total: None
    authorization: str = ""
    version: str = ""  # after ``run``: validator (ETag) of the file
    _furthest: int = field(default=-1, repr=False)
    _met: bool = field(default=False, repr=False)  # whether the server has responded

    def run(self, known: str = "") -> bool:
        """Download the file atomically. Returns False if the server still has the version ``known``.

        Raises RemoteError if the server rejects the request, the file is too large, or there is no progress for as long as
        ``retrying`` retries, which is shorter before the first response of the server.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        outcome = None
        while outcome is None:
            try:
                outcome = retrying(f"downloading {self.url}", lambda: self._attempt(known), _is_final, lambda: self._met)
            except RemoteError:
                raise
            except Exception as error:
                raise RemoteError(f"downloading {self.url}: {_reason(error)}") from error
        if outcome:
            self._partial.replace(self.path)
            self._note.unlink(missing_ok=True)
        return outcome

    def discard(self) -> None:
        """Remove a partial download."""
        for path in (self._partial, self._note):
            path.unlink(missing_ok=True)

    @property
    def _partial(self) -> Path:
        return self.path.with_name(f".{self.path.name}.partial")

    @property
    def _note(self) -> Path:
        return self.path.with_name(f".{self.path.name}.version")

    def _attempt(self, known: str) -> bool | None:
        """True: complete; False: still the ``known`` version; None: interrupted, but with progress."""
        self.version = self._note.read_text() if self._note.exists() else ""
        if not self.version:  # version unknown, so it cannot be resumed
            self.discard()
        begun = self._partial.stat().st_size if self._partial.exists() else 0
        try:
            with _opener().open(self._request(begun, known), timeout=TIMEOUT) as answer:
                self._met = True
                self._receive(answer, begun)
        except urllib.error.HTTPError as error:
            self._met = True
            with error:
                if error.code == 304:
                    return False
                if error.code == 416:  # the partial file is longer than the file
                    self.discard()
            raise
        except (OSError, http.client.HTTPException):
            size = self._partial.stat().st_size if self._partial.exists() else 0
            if size <= self._furthest:
                raise
            self._furthest = size
            return None
        return True

    def _request(self, begun: int, known: str) -> urllib.request.Request:
        request = urllib.request.Request(self.url, headers={"Accept-Encoding": "identity", "User-Agent": "sslfeat"})
        if self.authorization:
            request.add_unredirected_header("Authorization", self.authorization)
        if begun:
            request.add_header("Range", f"bytes={begun}-")
            request.add_header("If-Range", self.version)
        elif known:
            request.add_header("If-None-Match" if known.startswith('"') else "If-Modified-Since", known)
        return request

    def _receive(self, answer: Any, begun: int) -> None:
        place = RANGE.fullmatch(answer.headers.get("Content-Range", "")) if answer.status == 206 else None
        if answer.status == 206 and (place is None or int(place[1]) != begun):
            self.discard()
            raise OSError("the server returned another range than requested")
        length = answer.headers.get("Content-Length")
        total = int(place[2]) if place else int(length) if length and length.isdigit() else None
        etag = answer.headers.get("ETag", "")
        self.version = etag if etag.startswith('"') else answer.headers.get("Last-Modified", "")
        atomic.write_atomic(self._note, self.version.encode())
        with self._partial.open("ab" if place else "wb") as file:
            self._copy(answer, file, total)
        if total is not None and (size := self._partial.stat().st_size) != total:
            raise OSError(f"the response ended after {size} of {total} bytes")

    def _copy(self, answer: Any, file: IO[bytes], total: int | None) -> None:
        try:
            while True:
                if max(total or 0, file.tell()) > self.greatest:
                    self.discard()
                    raise RemoteError(f"{self.url} is larger than {self.greatest} bytes, which is the limit")
                self.step(file.tell(), total)
                block = answer.read(BLOCK)
                if not block:
                    return
                file.write(block)
        finally:
            file.flush()
            os.fsync(file.fileno())


def _opener() -> urllib.request.OpenerDirector:
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(), urllib.request.HTTPHandler(), urllib.request.HTTPSHandler(), _Redirects(),
        urllib.request.HTTPErrorProcessor(), urllib.request.HTTPDefaultErrorHandler(), urllib.request.UnknownHandler(),
    ):  # fmt: skip
        opener.add_handler(handler)
    return opener


def _is_final(error: Exception) -> bool:
    if isinstance(error, urllib.error.HTTPError):
        return error.code not in PASSING and error.code != 416
    if isinstance(error, urllib.error.URLError):
        return isinstance(error.reason, ssl.SSLCertVerificationError) or "unknown url" in str(error.reason)
    return not isinstance(error, OSError | http.client.HTTPException) or isinstance(error, PermissionError)


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answers {error.code} {error.reason}"
    return f"{type(error).__name__}: {error}"
