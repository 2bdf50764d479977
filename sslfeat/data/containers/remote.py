"""Objects in remote stores, by any fsspec URL: listed once, read whole or in ranges, asked for again while a store is away."""

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

UNKNOWN = int.from_bytes(b"\x80" + bytes(7), "big", signed=True)  # as ``manifest.UNKNOWN``: what tells nothing
VERSIONS = ("ETag", "etag", "md5Hash", "blob_id", "content_md5", "checksum", "version_id", "generation")
TIMES = ("LastModified", "last_modified", "mtime", "updated", "modified", "created", "Last-Modified")
KNOWN: dict[bytes, FileFacts] = {}
"""Of every object that was listed: a request each would take as long as reading them."""


def is_pattern(spec: str) -> bool:
    """Whether a URL is a glob pattern; web addresses are none, whose queries begin with ``?``."""
    return not spec.lower().startswith(("http://", "https://")) and any(letter in spec for letter in "*?[")


def read_remote(path: bytes) -> bytes:
    """The whole object. Raises ImageError if it is not there or too large, InputError if the store is away for too long."""
    if remote_facts(path).size > MAX_FILE_BYTES:
        raise ImageError(f"the file is larger than {MAX_FILE_BYTES >> 20} MiB")
    fs, name = filesystem(path)
    data: bytes = _asked(path, lambda: fs.cat_file(name))
    if not data:
        raise ImageError("the file is empty")
    return data


def remote_facts(path: bytes) -> FileFacts:
    """Size and version of an object. Raises as ``read_remote``."""
    if path not in KNOWN:
        fs, name = filesystem(path)
        KNOWN[path] = _facts(_asked(path, lambda: fs.info(name)))
    return KNOWN[path]


def list_remote(spec: str) -> list[bytes]:
    """The objects below a prefix, of a glob, or the one of this name, as URLs. Raises InputError if there is none."""
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
        raise InputError(f"{spec} does not exist in its store") from error
    except Exception as error:  # each store raises errors of its own
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
    """An object that is read in ranges."""

    def __init__(self, path: bytes) -> None:
        """Raises as ``read_remote``."""
        self.path, self.facts = path, remote_facts(path)

    def read(self, offset: int, length: int) -> bytes:
        """As ``RandomFile`` says."""
        stop = min(offset + length, self.facts.size)
        if stop <= offset:
            return b""
        fs, name = filesystem(self.path)
        data: bytes = _asked(self.path, lambda: fs.cat_file(name, start=offset, end=stop))
        if len(data) == self.facts.size:  # the server knows no ranges
            data = data[offset:stop]
        if len(data) != stop - offset:
            raise ImageError("it was changed while it was read")
        return data


def filesystem(path: bytes) -> tuple[Any, str]:
    """The file system of a URL, and the object's name there. Raises MissingExtraError, InputError."""
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
            raise InputError(f"{scheme}:// is no scheme that fsspec knows: {error}") from error


def _asked(path: bytes, action: Any) -> Any:
    try:
        return retrying(f"reading {path.decode('utf-8', 'backslashreplace')}", action)
    except FileNotFoundError as error:
        raise ImageError("it is not there any more") from error
    except PermissionError as error:
        raise ImageError("the store does not allow to read it") from error


def _facts(info: dict[str, Any]) -> FileFacts:
    size = info.get("size")
    version = next((str(info[name]) for name in VERSIONS if info.get(name)), "")
    modified = next((time for name in TIMES if (time := _nanoseconds(info.get(name))) is not None), None)
    changed = UNKNOWN if not version and modified is None else _number(f"{version} {modified}")
    return FileFacts(0 if size is None else int(size), UNKNOWN if modified is None and not version else modified or 0, changed)


def _number(text: str) -> int:
    """A number of 63 bits that stands for a version."""
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
