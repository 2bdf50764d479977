"""Tar files, including WebDataset: headers are scanned once, then members are read by offset.
Supports POSIX ustar and pax, GNU long names and large sizes, and pre-POSIX tar (POSIX.1-2017, pax; manual of GNU tar,
"Basic Tar Format"). After a damaged header, scanning continues at the next valid one.
"""

from __future__ import annotations

import json
import posixpath
import zlib
from collections.abc import Iterator
from typing import Any

from sslfeat.data.containers.base import LABEL_NAMES, Member, MemberIndex, absent, described, text_of
from sslfeat.data.containers.files import RandomFile
from sslfeat.data.names import is_listed
from sslfeat.data.transforms import MAX_FILE_BYTES
from sslfeat.errors import ImageError

BLOCK = 512
ADLER = 65521
AHEAD = 1 << 16  # bytes per read while scanning headers
LARGEST_HEADER = 1 << 20  # bytes of a long name or of extended fields
LARGEST_SIDECAR = 1 << 20
SIDECARS = (b".cls", b".json", b".txt")
FILE, HARD_LINK, LINK, EXTENDED, GLOBAL, LONG_NAME, LONG_LINK, SPARSE = b"0", b"1", b"2", b"x", b"g", b"L", b"K", b"S"
NO_CONTENTS = (b"3", b"4", b"5", b"6")  # devices, folders, pipes


class TarContainer:
    """See ``Container``. Names are those in the tar, without a leading ``./``."""

    def __init__(self, file: RandomFile) -> None:
        scan = _Scan(file)
        self._file, self._index = file, MemberIndex(scan.run())
        self.fault, self._refused = scan.fault, scan.refused
        self._sidecars = [ending for ending in SIDECARS if any(name.endswith(ending) for name in self._index.names)]

    def members(self) -> Iterator[Member]:
        """See ``Container``; labels are read from ``.cls`` and ``.json``, metadata from ``.json`` and ``.txt``."""
        for name in self._index.names:
            if is_listed(name):
                yield self._member(name) if self._sidecars else Member(name)

    def size(self, name: bytes) -> int:
        """See ``Container``."""
        return self._find(name)[1]

    def read(self, name: bytes) -> bytes:
        """See ``Container``."""
        if reason := self._refused.get(name):
            raise ImageError(reason)
        offset, size = self._find(name)
        if size > MAX_FILE_BYTES:
            raise ImageError(f"the file is larger than {MAX_FILE_BYTES >> 20} MiB")
        if offset + size > self._file.facts.size:
            raise ImageError("the tar is truncated before the end of this file")
        data = self._file.read(offset, size)
        if not data:
            raise ImageError("the file is empty")
        return data

    def _find(self, name: bytes) -> tuple[int, int]:
        found = self._index.find(name)
        if found is None:
            raise absent()
        return found

    def _member(self, name: bytes) -> Member:
        folder, _, base = name.rpartition(b"/")
        stem = (folder + b"/" if folder else b"") + base.split(b".", 1)[0]
        texts = {ending: text for ending in self._sidecars if (text := self._text(stem + ending)) is not None}
        if not texts:
            return Member(name)
        fields: dict[str, Any] = {}
        if b".json" in texts:
            try:
                fields = {str(key): value for key, value in dict(json.loads(texts[b".json"])).items()}
            except (ValueError, TypeError, RecursionError):
                fields = {}
        label = text_of(texts.get(b".cls"))
        called = next((key for key in LABEL_NAMES if text_of(fields.get(key))), None) if label is None else None
        label = text_of(fields.pop(called)) if called else label
        facts = described([*fields.items(), ("txt", texts.get(b".txt"))])
        return Member(name, label, facts or None, called)

    def _text(self, name: bytes) -> str | None:
        place = self._index.find(name)
        if place is None or place[1] > LARGEST_SIDECAR:
            return None
        return self._file.read(*place).decode("utf-8", "replace").strip()


class _Scan:
    """Scan of the headers."""

    def __init__(self, file: RandomFile) -> None:
        self._file, self._end = file, file.facts.size
        self._chunk, self._chunk_at = b"", 0
        self.fault: str | None = None
        self.refused: dict[bytes, str] = {}
        self.places: dict[bytes, tuple[int, int]] = {}

    def run(self) -> dict[bytes, tuple[int, int]]:
        """Offset and size of all regular files; of files with the same name, the last one, as in unpacking."""
        place, given = 0, _Given()
        while place + BLOCK <= self._end:
            header = self._block(place)
            if header.count(0) == BLOCK:
                return self.places
            if not _is_whole(header):
                place = self._next(place)
                given = _Given()
                continue
            size = given.size if given.size is not None else _number(header[124:136])
            place, given = self._take(header, place + BLOCK, size, given)
        self._note("it is truncated: the end marker is missing, and images may be missing")
        return self.places

    def _take(self, header: bytes, data: int, size: int, given: _Given) -> tuple[int, _Given]:
        """Process the entry whose contents begin at ``data``; return the offset of the next, and fields given for it."""
        kind = header[156:157]
        after = data + -(-size // BLOCK) * BLOCK
        if kind in (EXTENDED, GLOBAL, LONG_NAME, LONG_LINK):
            contents = self._file.read(data, min(size, LARGEST_HEADER))
            return after, given if kind == GLOBAL else given.with_header(kind, contents)
        if kind == SPARSE and header[482:483] == b"\1":  # the sparse map continues in further blocks
            while self._block(data)[504:505] == b"\1":
                data, after = data + BLOCK, after + BLOCK
            after += BLOCK
        name = _plain(given.name or _joined(header))
        if kind in (HARD_LINK, LINK):
            self._link(name, _plain(given.link or _text(header[157:257])), kind)
            return data, _Given()
        if kind in NO_CONTENTS:
            return data, _Given()
        if kind in (FILE, b"\0", b"7", SPARSE) and name and not name.endswith(b"/"):
            self.places[name] = data, min(size, self._end)
            self.refused.pop(name, None)
            if b".." in name.split(b"/"):
                self.refused[name] = "its name points outside the container"
            if kind == SPARSE:
                self.refused[name] = "it is stored as a sparse file: create the tar again without --sparse"
        return after, _Given()

    def _link(self, name: bytes, target: bytes, kind: bytes) -> None:
        if kind == LINK:
            target = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
        if target in self.places:
            self.places[name] = self.places[target]
        else:
            self.places[name] = 0, 0
            self.refused[name] = "it is a link to a file that does not precede it in the tar"

    def _block(self, place: int) -> bytes:
        """The BLOCK at ``place``, from a buffered larger read."""
        start = place - self._chunk_at
        if not 0 <= start <= len(self._chunk) - BLOCK:
            near = 0 <= start <= 2 * AHEAD  # skip the contents of large files
            self._chunk, self._chunk_at, start = self._file.read(place, AHEAD if near else 2 * BLOCK), place, 0
        return self._chunk[start : start + BLOCK]

    def _next(self, damaged: int) -> int:
        """Offset of the next valid header after a damaged one."""
        place = damaged + BLOCK
        while place + BLOCK <= self._end and not (b"ustar" in (block := self._block(place)) and _is_whole(block)):
            place += BLOCK
        self._note(f"{place - damaged} bytes from {damaged} on are damaged: images in them are missing")
        return place

    def _note(self, fault: str) -> None:
        self.fault = self.fault or fault


class _Given:
    """Fields of an entry that are given by extended headers before it."""

    def __init__(self, name: bytes = b"", link: bytes = b"", size: int | None = None) -> None:
        self.name, self.link, self.size = name, link, size

    def with_header(self, kind: bytes, contents: bytes) -> _Given:
        if kind == LONG_NAME:
            return _Given(contents.rstrip(b"\0"), self.link, self.size)
        if kind == LONG_LINK:
            return _Given(self.name, contents.rstrip(b"\0"), self.size)
        fields = dict(_fields(contents))
        size = fields.get(b"size", b"")
        number = int(size) if size.isdigit() and len(size) < 19 else self.size
        return _Given(fields.get(b"path", self.name), fields.get(b"linkpath", self.link), number)


def _fields(contents: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the valid fields of a pax header, "LENGTH NAME=VALUE\\n"."""
    place = 0
    while space := contents.find(b" ", place, place + 20) + 1:
        digits = contents[place : space - 1]
        if not digits.isdigit() or (end := place + int(digits)) > len(contents) or end <= space:
            return
        name, _, value = contents[space : end - 1].partition(b"=")
        yield name, value
        place = end


def _is_whole(header: bytes) -> bool:
    """Whether the checksum is valid: the sum of all bytes, with its own eight counted as spaces.

    The lower half of Adler-32 is this sum plus 1, modulo ADLER: thirty times as fast as summing in Python.
    """
    field = header[148:156]
    try:
        expected = int(field.strip(b" \0"), 8) + sum(field) - 8 * ord(" ")
    except ValueError:
        return False
    return (zlib.adler32(header) & 0xFFFF) == (expected + 1) % ADLER


def _number(field: bytes) -> int:
    """Parse an octal or GNU binary number; 0 if invalid."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    try:
        return max(0, int(field.strip(b" \0") or b"0", 8))
    except ValueError:
        return 0


def _joined(header: bytes) -> bytes:
    name, prefix = _text(header[:100]), _text(header[345:500])
    return prefix + b"/" + name if prefix and header[257:263] == b"ustar\0" else name


def _text(field: bytes) -> bytes:
    return field.split(b"\0", 1)[0]


def _plain(name: bytes) -> bytes:
    """Remove leading ``./`` and ``/``."""
    while name.startswith((b"./", b"/")):
        name = name[name.index(b"/") + 1 :]
    return name
