"""Zip files. Members that are too large after decompression are rejected before it."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator

from sslfeat.data.containers.base import Member, absent
from sslfeat.data.containers.files import RandomFile, Stream
from sslfeat.data.names import is_listed
from sslfeat.data.transforms import MAX_FILE_BYTES
from sslfeat.errors import ImageError

ENCRYPTED = 1
MOST_UNPACKED = 256 << 20  # bytes of a decompressed member
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError, IndexError)


class ZipContainer:
    """See ``Container``."""

    def __init__(self, file: RandomFile) -> None:
        self.fault: str | None = None
        self._members: dict[bytes, zipfile.ZipInfo] = {}
        try:
            self._zip = zipfile.ZipFile(io.BufferedReader(Stream(file), 1 << 16))
        except (*DAMAGED, MemoryError) as error:
            reason = str(error) or type(error).__name__
            self.fault = f"its directory cannot be read ({reason}): it is truncated or not a zip file; 'zip -FF' may repair it"
            return
        for info in self._zip.infolist():
            if not info.is_dir():
                self._members[info.filename.encode("utf-8", "surrogateescape")] = info

    def members(self) -> Iterator[Member]:
        """See ``Container``."""
        return (Member(name) for name in self._members if is_listed(name))

    def size(self, name: bytes) -> int:
        """See ``Container``."""
        return self._find(name).file_size

    def read(self, name: bytes) -> bytes:
        """See ``Container``."""
        info = self._find(name)
        if b".." in name.split(b"/"):
            raise ImageError("its name points outside the container")
        if info.flag_bits & ENCRYPTED:
            raise ImageError("it is encrypted: unpack it with the password, and embed the files")
        most = MAX_FILE_BYTES if info.compress_type == zipfile.ZIP_STORED else MOST_UNPACKED
        if info.file_size > most:
            raise ImageError(f"the file is larger than {most >> 20} MiB")
        try:
            with self._zip.open(info) as member:
                data = member.read(most + 1)  # the directory is untrusted
        except ImageError:
            raise
        except DAMAGED as error:
            raise ImageError(f"it is damaged in the zip: {error or type(error).__name__}") from error
        if len(data) > most:
            raise ImageError(f"the file is larger than {most >> 20} MiB")
        if not data:
            raise ImageError("the file is empty")
        return data

    def _find(self, name: bytes) -> zipfile.ZipInfo:
        if name not in self._members:
            raise absent()
        return self._members[name]
