"""Folders on object stores, through fsspec: whole objects are uploaded, downloaded and listed, never renamed or appended to.

All operations are idempotent, and retried while a store cannot be reached (``retry``).
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sslfeat.errors import InputError, RemoteError, SslfeatError, needs
from sslfeat.storage import atomic
from sslfeat.storage.retry import is_final, retrying

TOKENS = ("ETag", "etag", "generation", "blob_id", "md5Hash", "last_modified", "LastModified", "mtime", "created")
MD5 = re.compile("[0-9a-f]{32}")
BLOCK = 16 << 20  # bytes per download request
T = TypeVar("T")
log = logging.getLogger(__name__)
logging.getLogger("asyncio").addFilter(lambda record: "exception was never retrieved" not in record.getMessage())  # nor needed


@dataclass(frozen=True)
class RemoteObject:
    """Size of an object in bytes, and a ``token`` that changes with its content (empty: not supported)."""

    size: int
    token: str

    def is_copy_of(self, size: int, md5: Callable[[], str]) -> bool | None:
        """Whether it has this content by its ETag; None if unknown, e.g. for encrypted objects, whose ETag is not an MD5."""
        if self.size != size:
            return False
        return (MD5.fullmatch(self.token) and self.token == md5()) or None


class RemoteFolder:
    """Objects below a URL. Names are relative to it, with slashes."""

    def __init__(self, url: str) -> None:
        """Raises InputError for a scheme unknown to fsspec, RemoteError if its package is not installed."""
        self.url = url.rstrip("/")
        with needs("remote", "fsspec"):
            import fsspec
        try:
            self._fs: Any
            self._fs, root = fsspec.core.url_to_fs(self.url)
        except ImportError as error:
            raise RemoteError(f"{self.url} needs a package that is not installed: {error}") from error
        except ValueError as error:
            raise InputError(f"{self.url} cannot be accessed: {error}") from error
        self._root = str(root).rstrip("/")

    def list(self, below: str = "") -> dict[str, RemoteObject]:
        """All objects in the folder ``below``, by name; empty if there is no such folder.

        Raises RemoteError for a name that points outside the folder.
        """

        def find() -> dict[str, Any]:
            self._fs.invalidate_cache()
            try:
                return dict(self._fs.find(self._key(below), detail=True))
            except FileNotFoundError:
                return {}

        found = {}
        for key, info in self._try("listing", below, find).items():
            name = str(key).removeprefix(f"{self._root}/")
            if name == str(key) or name.endswith("/"):  # next to the folder, or a folder marker
                continue
            if set(name.split("/")) & {"", ".", ".."} or "\\" in name or "\0" in name:
                raise RemoteError(f"{self.url} contains an object {name!r}, which is not a valid file name")
            found[name] = _object(info)
        return dict(sorted(found.items()))

    def is_empty(self) -> bool:
        """Whether the folder is empty; lists one level only, since there may be millions of objects."""

        def look() -> bool:
            self._fs.invalidate_cache()
            try:
                return not [entry for entry in self._fs.ls(self._root, detail=False) if str(entry).rstrip("/") != self._root]
            except FileNotFoundError:
                return True

        return self._try("listing", "", look)

    def object(self, name: str = "") -> RemoteObject | None:
        """Properties of an object, of the URL itself without a name; None if it does not exist."""

        def look() -> RemoteObject | None:
            self._fs.invalidate_cache()
            try:
                info = self._fs.info(self._key(name))
            except FileNotFoundError:
                return None
            return None if info.get("type") == "directory" else _object(info)

        return self._try("looking for", name, look)

    def get(self, name: str) -> bytes | None:
        """Content of a small object; None if it does not exist."""

        def read() -> bytes | None:
            try:
                return bytes(self._fs.cat_file(self._key(name)))
            except FileNotFoundError:
                return None

        return self._try("reading", name, read)

    def put(self, name: str, data: bytes) -> RemoteObject:
        """Write a small object, and verify it by its ETag or by reading it back."""

        def write() -> RemoteObject:
            self._fs.pipe_file(self._key(name), data)
            found = self.object(name)
            same = found and found.is_copy_of(len(data), lambda: _md5(data))
            if found is None or same is False or (same is None and self.get(name) != data):
                raise OSError(f"{name} is missing or differs after writing")
            return found

        return self._try("writing", name, write)

    def put_file(self, name: str, path: Path) -> RemoteObject:
        """Upload a file, and verify it by its ETag, or by reading it back and comparing the sha256."""

        def write() -> RemoteObject:
            self._fs.put_file(os.fspath(path), self._key(name))
            found = self.object(name)
            if found is None or not self.is_same(name, found, path):
                raise OSError(f"{name} is missing or differs after writing")
            return found

        return self._try("writing", name, write)

    def is_same(self, name: str, known: RemoteObject, path: Path) -> bool:
        """Whether object and file have the same content; the object is read if its ETag is not conclusive."""
        same = known.is_copy_of(path.stat().st_size, lambda: _md5_file(path))
        if same is not None:
            return same
        digest = hashlib.sha256()
        for start in range(0, known.size, BLOCK):
            digest.update(self._block(name, start, min(start + BLOCK, known.size)))
        return digest.hexdigest() == atomic.sha256_file(path)

    def create(self, name: str, data: bytes) -> bool:
        """Create an object; False if it exists, possibly from an own attempt whose response was lost."""

        def write() -> bool:
            try:
                self._fs.pipe_file(self._key(name), data, mode="create")
            except OSError as error:  # some servers report a failed precondition as a generic error
                if isinstance(error, FileExistsError) or (error.errno == errno.EINVAL and self.object(name) is not None):
                    return False
                raise
            return True

        return self._try("creating", name, write)

    def fetch(self, name: str, path: Path, known: RemoteObject, step: Callable[[int], None] = lambda done: None) -> None:
        """Download an object to ``path`` atomically; resumes a partial download of the same version.

        ``step`` is called with the number of bytes. Raises RemoteError if the object changes during the download.
        """
        version = hashlib.sha256(known.token.encode()).hexdigest()[:12]
        unfinished = path.with_name(f".{path.name}.{version}{atomic.TEMPORARY_SUFFIX}")
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("ab" if known.token else "wb") as file:
            if file.tell() > known.size:
                file.truncate(0)
            while (start := file.tell()) < known.size:
                file.write(self._try("reading", name, partial(self._block, name, start, min(start + BLOCK, known.size))))
                step(file.tell())
            file.flush()
            os.fsync(file.fileno())
        now = self.object(name)
        if now != known:
            unfinished.unlink()
            raise RemoteError(f"{self.url}/{name} was modified while it was read: repeat the command")
        unfinished.replace(path)

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects in this order; missing ones are ignored."""

        def remove(name: str) -> None:
            try:
                self._fs.rm_file(self._key(name))
            except FileNotFoundError:
                return

        for name in names:
            self._try("deleting", name, partial(remove, name))

    def _block(self, name: str, start: int, stop: int) -> bytes:
        data = bytes(self._fs.cat_file(self._key(name), start=start, end=stop))
        if len(data) != stop - start:
            raise OSError(f"received {len(data)} of {stop - start} bytes")
        return data

    def _key(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _try(self, doing: str, name: str, operation: Callable[[], T]) -> T:
        what = f"{doing} {self.url}{'/' if name else ''}{name}"
        try:
            return retrying(what, operation)
        except SslfeatError:
            raise
        except Exception as error:
            if not is_final(error):
                raise
            raise RemoteError(f"{what}: {type(error).__name__}: {str(error)[:300] or 'refused'}") from error


def _object(info: dict[str, Any]) -> RemoteObject:
    token = next((info[key] for key in TOKENS if info.get(key)), "")
    if isinstance(token, datetime):  # listings may round it to seconds
        token = token.timestamp()
    text = f"{token:.6f}" if isinstance(token, float) else str(token)
    return RemoteObject(int(info.get("size") or 0), text.strip('"'))


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _md5_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
