"""Objects in remote stores by fsspec URL: list, read whole or in ranges, and retry while a store is unreachable."""

from __future__ import annotations

import datetime
import functools
import hashlib
import os
from email.utils import parsedate_to_datetime
from typing import Any

from sslfeat.data.containers.files import FileFacts
from sslfeat.data.transforms import MAX_FILE_BYTES
from sslfeat.errors import ImageError, InputError, SslfeatError, needs
from sslfeat.storage.retry import retrying
from sslfeat.storage.urls import is_remote

UNKNOWN = int.from_bytes(b"\x80" + bytes(7), "big", signed=True)  # same as ``manifest.UNKNOWN``
VERSIONS = ("ETag", "etag", "md5Hash", "blob_id", "content_md5", "checksum", "version_id", "generation")
TIMES = ("LastModified", "last_modified", "mtime", "updated", "modified", "created", "Last-Modified")
KNOWN: dict[bytes, FileFacts] = {}
"""Facts of all listed objects: one request per object would take as long as reading them."""


def is_pattern(spec: str) -> bool:
    """Whether a URL is a glob pattern; http(s) URLs are not, since queries begin with ``?``."""
    return not spec.lower().startswith(("http://", "https://")) and any(letter in spec for letter in "*?[")


def read_remote(path: bytes) -> bytes:
    """Read an object. Raises ImageError if it is missing or too large, InputError if the store is unreachable too long."""
    if remote_facts(path).size > MAX_FILE_BYTES:
        raise ImageError(f"the file is larger than {MAX_FILE_BYTES >> 20} MiB")
    fs, name = filesystem(path)
    data: bytes = _asked(path, lambda: fs.cat_file(name))
    if not data:
        raise ImageError("the file is empty")
    return data


def remote_facts(path: bytes) -> FileFacts:
    """Size and version of an object. Raises like ``read_remote``."""
    if path not in KNOWN:
        fs, name = filesystem(path)
        KNOWN[path] = _facts(_asked(path, lambda: fs.info(name)))
    return KNOWN[path]


def list_remote(spec: str) -> list[bytes]:
    """URLs of the objects below a prefix, matching a glob, or of this name. Raises InputError if there are none."""
    path = os.fsencode(spec)
    fs, name = filesystem(path)
    prefix = path[: path.index(b"://") + 3]

    def found() -> dict[str, Any]:
        fs.invalidate_cache()
        if is_pattern(spec):
            return dict(fs.glob(name, detail=True))
        info = fs.info(name)
        return {name: info} if info.get("type") == "file" else dict(fs.find(name, detail=True))

    try:
        listed = retrying(f"listing {spec}", found)
    except SslfeatError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{spec} does not exist") from error
    except Exception as error:  # each store has its own exceptions
        raise InputError(f"{spec} cannot be listed: {_reason(error)}") from error
    names = []
    for object_name, info in listed.items():
        if info.get("type", "file") == "file":
            url = os.fsencode(object_name)
            url = url if is_remote(url) else prefix + url.lstrip(b"/")
            KNOWN[url] = _facts(info)
            names.append(url)
    return names


class RemoteFile:
    """An object read in ranges."""

    def __init__(self, path: bytes) -> None:
        """Raises like ``read_remote``."""
        self.path, self.facts = path, remote_facts(path)

    def read(self, offset: int, length: int) -> bytes:
        """See ``RandomFile``."""
        stop = min(offset + length, self.facts.size)
        if stop <= offset:
            return b""
        fs, name = filesystem(self.path)
        data: bytes = _asked(self.path, lambda: fs.cat_file(name, start=offset, end=stop))
        if len(data) == self.facts.size:  # the server does not support ranges
            data = data[offset:stop]
        if len(data) != stop - offset:
            raise ImageError("it changed while it was read")
        return data


def filesystem(path: bytes) -> tuple[Any, str]:
    """fsspec file system and object name of a URL. Raises MissingExtraError, InputError."""
    url = path.decode("utf-8", "surrogateescape")
    scheme = url.split("://", 1)[0].lower()
    fs = _filesystem(scheme)
    return fs, fs._strip_protocol(url)


@functools.lru_cache(64)
def _filesystem(scheme: str) -> Any:
    with needs("remote"):
        import fsspec

        try:
            return fsspec.filesystem(scheme)
        except ValueError as error:
            raise InputError(f"{scheme}:// is not supported by fsspec: {error}") from error


def _asked(path: bytes, action: Any) -> Any:
    try:
        return retrying(f"reading {path.decode('utf-8', 'backslashreplace')}", action)
    except FileNotFoundError as error:
        raise ImageError("it no longer exists") from error
    except PermissionError as error:
        raise ImageError("permission denied by the store") from error


def _facts(info: dict[str, Any]) -> FileFacts:
    size = info.get("size")
    version = next((str(info[name]) for name in VERSIONS if info.get(name)), "")
    modified = next((time for name in TIMES if (time := _nanoseconds(info.get(name))) is not None), None)
    changed = UNKNOWN if not version and modified is None else _number(f"{version} {modified}")
    return FileFacts(0 if size is None else int(size), UNKNOWN if modified is None and not version else modified or 0, changed)


def _number(text: str) -> int:
    """Hash of a version, 63 bits."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def _nanoseconds(value: Any) -> int | None:
    if isinstance(value, str):
        for parse in (datetime.datetime.fromisoformat, parsedate_to_datetime):
            try:
                value = parse(value)
                break
            except (ValueError, TypeError):
                continue
    if isinstance(value, datetime.datetime):
        value = value.timestamp()
    return int(value * 1e9) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
