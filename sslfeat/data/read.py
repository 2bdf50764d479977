"""Read images by path: files, members of containers, objects in remote stores, and frames of videos.

A path (bytes) is that of a file; of a container, ``/`` and the name of a member; a URL; or of a video, ``#t=`` and seconds.
"""

from __future__ import annotations

import os
import re
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from sslfeat.data.containers.files import FileFacts, facts_of
from sslfeat.data.containers.registry import member_of, open_file, split
from sslfeat.data.containers.remote import read_remote, remote_facts
from sslfeat.data.containers.video import read_local, split_frame
from sslfeat.data.names import possible_paths
from sslfeat.errors import ImageError
from sslfeat.storage.retry import GIVE_UP
from sslfeat.storage.urls import is_remote

ELSEWHERE = re.compile(rb"(?i)\A[a-z][a-z0-9+.-]+://|\.(?:tar|zip|parquet|arrow)(?:/|\Z)")
__all__ = ["Coming", "Fetcher", "absolute", "exists", "facts_of_image", "find_image", "is_plain", "open_file", "read_image"]
T = TypeVar("T")
AT_ONCE = 16  # concurrent requests to remote stores


def is_plain(path: bytes) -> bool:
    """Whether the path is a file or a frame of a video, which the decoding process can read."""
    return ELSEWHERE.search(path) is None or (not is_remote(path) and split(path) is None)


def read_image(path: str | bytes | os.PathLike[str]) -> bytes:
    """Read an image file. Raises ImageError with a reason that is identical in every run."""
    path = os.fsencode(path)
    if ELSEWHERE.search(path) is None:
        return read_local(path)
    place = member_of(path)
    if place is None:
        return read_remote(path) if is_remote(path) else read_local(path)
    container, _, member = place
    if not member:
        raise ImageError(container.fault or "a container, not an image")
    return container.read(member)


def facts_of_image(path: bytes) -> FileFacts:
    """Size (0: unknown) and times, for members those of the container. Raises OSError, ValueError, ImageError."""
    if ELSEWHERE.search(path) is None:
        return facts_of(os.stat(_file_of(path)))
    place = member_of(path)
    if place is None:
        return remote_facts(path) if is_remote(path) else facts_of(os.stat(_file_of(path)))
    container, outer, member = place
    return FileFacts(container.size(member) if member else outer.size, outer.modified, outer.changed)


def exists(path: bytes) -> bool:
    """Whether an image exists; True for all remote paths, which are not checked."""
    if is_remote(path):
        return True
    try:
        place = None if ELSEWHERE.search(path) is None else member_of(path)
        if place is None:
            return os.path.lexists(_file_of(path))
        return not place[2] or place[0].size(place[2]) >= 0
    except ImageError:
        return False


def find_image(name: str) -> bytes:
    """Path of a name in a features folder: the first possible path that exists, else the name itself."""
    return next(filter(exists, possible_paths(name)), os.fsencode(name))


def absolute(spec: str | os.PathLike[str]) -> str:
    """Convert to an absolute path; URLs are returned unchanged."""
    return os.fspath(spec) if is_remote(os.fsencode(spec)) else os.path.abspath(spec)


@dataclass(frozen=True)
class Coming:
    """An image that is being downloaded from a remote store."""

    path: bytes
    data: Future[bytes]


class Fetcher:
    """Prefetches images in remote stores."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._closed = threading.Event()

    def begin(self, source: T) -> T | Coming:
        """Start reading a remote image; return any other ``source`` unchanged."""
        if not isinstance(source, bytes) or ELSEWHERE.search(source) is None or not is_remote(source):
            return source
        if self._pool is None:
            self._pool = ThreadPoolExecutor(AT_ONCE, "sslfeat-fetch", initializer=GIVE_UP.set, initargs=(self._check,))
        return Coming(source, self._pool.submit(read_image, source))

    def close(self) -> None:
        """Cancel all requests, without waiting for unreachable stores."""
        self._closed.set()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _check(self) -> None:
        if self._closed.is_set():
            raise ImageError("stopped")


def _file_of(path: bytes) -> bytes:
    """Video file of a frame; any other path unchanged."""
    frame = split_frame(path)
    return path if frame is None else frame[0]
