"""Lists of images: one path per line, or a table with columns for paths, labels and metadata."""

from __future__ import annotations

import codecs
import csv
import io
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

from sslfeat.data.containers.base import LABEL_NAMES, described, text_of
from sslfeat.data.containers.remote import read_remote
from sslfeat.data.names import TABLE_ENDINGS, ending
from sslfeat.data.read import exists, open_file
from sslfeat.errors import ImageError, InputError
from sslfeat.storage.urls import is_remote

PATH_NAMES = (
    "path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "image_file", "img", "img_path",
    "url", "uri",
)  # fmt: skip
MOST_LETTERS = 1 << 20  # maximum characters of a table field


class Found(NamedTuple):
    """An image found ``depth`` folders below its spec, with label and metadata.

    ``missed``: other path that was tried, if no file exists. ``called``: name of the label's column.
    """

    path: bytes
    depth: int = 0
    label: str | None = None
    metadata: Mapping[str, str] | None = None
    missed: bytes | None = None
    called: str | None = None


def read_list(path: str) -> Iterator[Found]:
    """Read the images of a list file. Raises InputError for an invalid list."""
    folder, kind = os.fsencode(path.rpartition("/")[0] if is_remote(path) else os.path.dirname(path)), ending(os.fsencode(path))
    if kind == b".parquet":
        return _rows(_parquet_rows(path), path, folder)
    try:
        data = read_remote(os.fsencode(path)) if is_remote(path) else Path(path).read_bytes()
    except (OSError, ImageError) as error:
        raise InputError(f"the list {path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return _rows(_csv_rows(data, kind, path), path, folder) if kind in TABLE_ENDINGS else read_lines(data, folder)


def read_lines(data: bytes, folder: bytes) -> Iterator[Found]:
    """Parse the paths of a list, which may have a byte order mark, UTF-16, quotes, or file:// URLs.

    Relative paths refer to the working folder or, if they exist only there, to the ``folder`` of the list.
    """
    data = _in_utf8(data)
    lines = data.split(b"\0") if b"\0" in data else data.splitlines()
    return (_listed(line, folder) for line in lines if line.strip())


def _in_utf8(data: bytes) -> bytes:
    """Convert to UTF-8 without byte order mark; return data of unknown encoding unchanged."""
    if (encoding := _utf16(data)) is not None:
        try:
            data = data.decode(encoding).encode("utf-8", "surrogatepass")
        except UnicodeDecodeError as error:
            raise InputError(f"a list is not valid UTF-16: {error.reason}") from error
    return data.removeprefix(codecs.BOM_UTF8)


def _utf16(data: bytes) -> str | None:
    """Detect UTF-16 by its byte order mark, or by zeros in every other byte."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    for encoding, zeros, others in (("utf-16-le", data[1::2], data[::2]), ("utf-16-be", data[::2], data[1::2])):
        if len(zeros) > 1 and 2 * zeros.count(0) > len(zeros) and not others.count(0):
            return encoding
    return None


def _listed(line: bytes, folder: bytes) -> Found:
    """Resolve a line of a list to the first interpretation that exists."""
    bare = line.strip()
    quoted = bare[1:-1] if len(bare) > 2 and bare[:1] == bare[-1:] and bare[:1] in (b'"', b"'") else bare
    readings = [line, bare, quoted]
    if quoted.lower().startswith(b"file://"):
        path = quoted[len(b"file://") :]
        path = path[path.find(b"/") :]  # after the host, which is empty or localhost
        readings += [path, unquote_to_bytes(path)]  # many programs do not escape '#' and '?'
        readings = [path for path in readings if not is_remote(path)]
    elif is_remote(quoted):
        return Found(quoted)
    every = [*readings, *(os.path.join(folder, path) for path in readings)]
    there = next(filter(exists, every), None)
    return Found(readings[-1], missed=every[-1]) if there is None else Found(there)


def _rows(rows: Iterable[dict[str, Any]], source: str, folder: bytes) -> Iterator[Found]:
    """Yield the images of the rows of a table."""
    path_name, label_name = None, None
    for number, row in enumerate(rows):
        if path_name is None:
            lower = {name.lower(): name for name in reversed(row)}
            path_name = next((lower[name] for name in PATH_NAMES if name in lower), None)
            label_name = next((lower[name] for name in LABEL_NAMES if name in lower), None)
            if path_name is None:
                raise InputError(f"{source} has no column of paths ({', '.join(PATH_NAMES)}): its columns are {', '.join(row)}")
        if row[path_name] is None or not (path := str(row[path_name])).strip():
            raise InputError(f"{source}: row {number + 1} has no path in column {path_name!r}")
        facts = described((name, value) for name, value in row.items() if name not in (path_name, label_name))
        label = text_of(row[label_name]) if label_name else None
        try:  # paths may contain any bytes
            "".join((label or "", *facts, *facts.values(), *(row if not number else ()))).encode()
        except UnicodeEncodeError as error:
            raise InputError(not_utf8(source, f"row {number + 1}")) from error
        yield _listed(path.encode("utf-8", "surrogateescape"), folder)._replace(
            label=label, metadata=facts or None, called=label_name
        )
    if path_name is None:
        raise InputError(f"{source} has no rows: one row per image is required")


def not_utf8(source: str, place: str) -> str:
    """Error message for a table with another encoding."""
    return (
        f"{source} is not UTF-8 ({place}): save it as 'CSV UTF-8', or convert it, for example with "
        f"'iconv -f WINDOWS-1252 -t UTF-8 {os.path.basename(source)} > utf8.csv' if it was saved by Western European Windows"
    )


def _csv_rows(data: bytes, kind: bytes, source: str) -> Iterator[dict[str, Any]]:
    if not data.strip():
        raise InputError(f"{source} is empty: a line 'path,label' and one line per image are required")
    text = io.StringIO(_in_utf8(data).decode("utf-8", "surrogateescape"), newline="")
    first = text.readline()
    text.seek(0)
    separator = "\t" if kind == b".tsv" else max(",;\t", key=first.count)
    csv.field_size_limit(MOST_LETTERS)
    try:
        for row in csv.DictReader(text, delimiter=separator, restkey="", strict=True):
            if "" in row and isinstance(row[""], list):
                raise InputError(f"{source}: a row has more fields than columns: {list(row.values())[:3]}")
            yield {name.strip(): value for name, value in row.items() if name}
    except csv.Error as error:
        raise InputError(f"{source} cannot be read as a table: {error}") from error


def _parquet_rows(path: str) -> Iterator[dict[str, Any]]:
    from sslfeat.data.containers.tables import plain_rows

    try:
        yield from plain_rows(open_file(os.fsencode(path)))
    except ImageError as error:
        raise InputError(f"{path}: {error}") from error
