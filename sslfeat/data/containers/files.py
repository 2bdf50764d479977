"""Random access to files from several threads, with a bounded number of open files."""

from __future__ import annotations

import io
import os
import stat
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol

from sslfeat.errors import ImageError

MOST_OPEN = 64


@dataclass(frozen=True)
class FileFacts:
    """Size in bytes, modification time in ns, and a number that changes with the content (locally the change time in ns)."""

    size: int
    modified: int
    changed: int


class RandomFile(Protocol):
    """A file of ``facts.size`` bytes."""

    facts: FileFacts

    def read(self, offset: int, length: int) -> bytes:
        """Read ``length`` bytes, fewer at the end of the file. Raises ImageError."""
        ...


class LocalFile:
    """A local regular file. It must not change while it is in use."""

    def __init__(self, path: bytes) -> None:
        """Raises ImageError."""
        self.path = path
        try:
            status = os.stat(path)
        except (OSError, ValueError) as error:
            raise ImageError(f"cannot be opened: {getattr(error, 'strerror', None) or error}") from error
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("not a regular file")
        self.facts = facts_of(status)

    def read(self, offset: int, length: int) -> bytes:
        """See ``RandomFile``."""
        try:
            opened = DESCRIPTORS.get(self.path, self.facts)
            data = os.pread(opened.number, length, offset)
            while 0 < len(data) < length and offset + len(data) < self.facts.size:  # at most 2 GiB per call
                more = os.pread(opened.number, length - len(data), offset + len(data))
                if not more:
                    break
                data += more
            return data
        except OSError as error:
            raise ImageError(f"cannot be read: {error.strerror}") from error


def facts_of(status: os.stat_result) -> FileFacts:
    """Facts of a local file."""
    return FileFacts(status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class Descriptor:
    """An open file, closed with the last reference, since another thread may still be reading."""

    def __init__(self, path: bytes) -> None:
        self.number = -1
        self.number = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))

    def __del__(self) -> None:
        if self.number >= 0:
            os.close(self.number)


class _Descriptors:
    """Cache of the MOST_OPEN most recently used files."""

    def __init__(self) -> None:
        self._open: OrderedDict[tuple[bytes, FileFacts], Descriptor] = OrderedDict()
        self._lock = threading.Lock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew)

    def get(self, path: bytes, facts: FileFacts) -> Descriptor:
        """Open a file that must have these ``facts``. Raises OSError, ImageError."""
        key = (path, facts)
        with self._lock:
            if key in self._open:
                self._open.move_to_end(key)
                return self._open[key]
        opened = Descriptor(path)
        if facts_of(os.fstat(opened.number)) != facts:
            raise ImageError("it changed while it was read")
        with self._lock:
            self._open[key] = opened
            while len(self._open) > MOST_OPEN:
                self._open.popitem(last=False)
        return opened

    def _renew(self) -> None:
        self._lock = threading.Lock()  # another thread may have held it


DESCRIPTORS = _Descriptors()


class Stream(io.RawIOBase):
    """File object with a position over a ``RandomFile``. Not thread-safe."""

    def __init__(self, file: RandomFile) -> None:
        self._file, self._place = file, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """The position."""
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the position. Raises ValueError before the start."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._file.facts.size}[whence]
        if base + offset < 0:
            raise ValueError(f"negative position {base + offset}")
        self._place = base + offset
        return self._place

    def read(self, size: int = -1) -> bytes:
        """Read up to ``size`` bytes, limited by the size of the file."""
        rest = max(0, self._file.facts.size - self._place)
        data = self._file.read(self._place, rest if size < 0 else min(size, rest))
        self._place += len(data)
        return data

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read into ``buffer``."""
        data = self._file.read(self._place, len(buffer))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)
