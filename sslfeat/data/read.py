"""Images by their paths, wherever they are: files, members of containers, objects in remote stores, frames of videos.

A path is bytes: a file's; a container's, ``/`` and a member's name; a URL; or a video's with ``#t=`` and seconds.
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
AT_ONCE = 16  # requests to remote stores that are under way


def is_plain(path: bytes) -> bool:
    """Whether a process that knows nothing of containers and stores can read it: a file, or a frame of a video."""
    return ELSEWHERE.search(path) is None or (not is_remote(path) and split(path) is None)


def read_image(path: str | bytes | os.PathLike[str]) -> bytes:
    """The contents of an image file. Raises ImageError with a reason that is the same on every run."""
    path = os.fsencode(path)
    if ELSEWHERE.search(path) is None:
        return read_local(path)
    place = member_of(path)
    if place is None:
        return read_remote(path) if is_remote(path) else read_local(path)
    container, _, member = place
    if not member:
        raise ImageError(container.fault or "it is a container, not an image")
    return container.read(member)


def facts_of_image(path: bytes) -> FileFacts:
    """Size and times: of a member its size (0: unknown) and its container's times. Raises OSError, ValueError, ImageError."""
    if ELSEWHERE.search(path) is None:
        return facts_of(os.stat(_file_of(path)))
    place = member_of(path)
    if place is None:
        return remote_facts(path) if is_remote(path) else facts_of(os.stat(_file_of(path)))
    container, outer, member = place
    return FileFacts(container.size(member) if member else outer.size, outer.modified, outer.changed)


def exists(path: bytes) -> bool:
    """Whether there is such an image, or may be: remote stores are not asked."""
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
    """The path that a name in a features folder stands for: the first that exists, else as it is written."""
    return next(filter(exists, possible_paths(name)), os.fsencode(name))


def absolute(spec: str | os.PathLike[str]) -> str:
    """The same images from any working folder; a URL is so already."""
    return os.fspath(spec) if is_remote(os.fsencode(spec)) else os.path.abspath(spec)


@dataclass(frozen=True)
class Coming:
    """An image that is being fetched from a remote store."""

    path: bytes
    data: Future[bytes]


class Fetcher:
    """Reads what is in remote stores ahead of those who decode it."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._closed = threading.Event()

    def begin(self, source: T) -> T | Coming:
        """``source``, or where it is the path of a remote image, the beginning of its reading."""
        if not isinstance(source, bytes) or ELSEWHERE.search(source) is None or not is_remote(source):
            return source
        if self._pool is None:
            self._pool = ThreadPoolExecutor(AT_ONCE, "sslfeat-fetch", initializer=GIVE_UP.set, initargs=(self._check,))
        return Coming(source, self._pool.submit(read_image, source))

    def close(self) -> None:
        """Leave off, whatever is under way: a store that is away is not waited for any more."""
        self._closed.set()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _check(self) -> None:
        if self._closed.is_set():
            raise ImageError("stopped")


def _file_of(path: bytes) -> bytes:
    """The file of a frame; any other path as it is."""
    frame = split_frame(path)
    return path if frame is None else frame[0]
