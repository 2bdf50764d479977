"""Lists of images: a path a line, or a table with a column of paths, a label and whatever else is known of each image."""

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
MOST_LETTERS = 1 << 20  # of a field of a table


class Found(NamedTuple):
    """An image that was found, ``depth`` folders below what named it, with what is said of it there.

    ``missed``: where else a list's path was looked for, if no such file is there. ``called``: the column that the label is of.
    """

    path: bytes
    depth: int = 0
    label: str | None = None
    metadata: Mapping[str, str] | None = None
    missed: bytes | None = None
    called: str | None = None


def read_list(path: str) -> Iterator[Found]:
    """The images of a list file. Raises InputError if it is none."""
    folder, kind = os.fsencode(path.rpartition("/")[0] if is_remote(path) else os.path.dirname(path)), ending(os.fsencode(path))
    if kind == b".parquet":
        return _rows(_parquet_rows(path), path, folder)
    try:
        data = read_remote(os.fsencode(path)) if is_remote(path) else Path(path).read_bytes()
    except (OSError, ImageError) as error:
        raise InputError(f"the list {path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return _rows(_csv_rows(data, kind, path), path, folder) if kind in TABLE_ENDINGS else read_lines(data, folder)


def read_lines(data: bytes, folder: bytes) -> Iterator[Found]:
    """The paths of a list as people and programs write it: with a byte order mark, in UTF-16, quoted, as file:// URLs.

    A relative path that does not exist here is taken from the list's ``folder``, if it exists there.
    """
    data = _in_utf8(data)
    lines = data.split(b"\0") if b"\0" in data else data.splitlines()
    return (_listed(line, folder) for line in lines if line.strip())


def _in_utf8(data: bytes) -> bytes:
    """Text as UTF-8 without a mark, or as it is if it is in an encoding that cannot be told."""
    if (encoding := _utf16(data)) is not None:
        try:
            data = data.decode(encoding).encode("utf-8", "surrogatepass")
        except UnicodeDecodeError as error:
            raise InputError(f"a list begins as UTF-16 and is none: {error.reason}") from error
    return data.removeprefix(codecs.BOM_UTF8)


def _utf16(data: bytes) -> str | None:
    """The kind of UTF-16 that ``data`` is in: by its byte order mark, or by every other byte being zero."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    for encoding, zeros, others in (("utf-16-le", data[1::2], data[::2]), ("utf-16-be", data[::2], data[1::2])):
        if len(zeros) > 1 and 2 * zeros.count(0) > len(zeros) and not others.count(0):
            return encoding
    return None


def _listed(line: bytes, folder: bytes) -> Found:
    """What a line of a list stands for: the path as it is written, if there is such a file."""
    bare = line.strip()
    quoted = bare[1:-1] if len(bare) > 2 and bare[:1] == bare[-1:] and bare[:1] in (b'"', b"'") else bare
    readings = [line, bare, quoted]
    if quoted.lower().startswith(b"file://"):
        path = quoted[len(b"file://") :]
        path = path[path.find(b"/") :]  # behind the host, which is empty or localhost
        readings += [path, unquote_to_bytes(path)]  # '#' and '?' are written bare by many programs
        readings = [path for path in readings if not is_remote(path)]
    elif is_remote(quoted):
        return Found(quoted)
    every = [*readings, *(os.path.join(folder, path) for path in readings)]
    there = next(filter(exists, every), None)
    return Found(readings[-1], missed=every[-1]) if there is None else Found(there)


def _rows(rows: Iterable[dict[str, Any]], source: str, folder: bytes) -> Iterator[Found]:
    """The images of a table's rows."""
    path_name, label_name = None, None
    for number, row in enumerate(rows):
        if path_name is None:
            lower = {name.lower(): name for name in reversed(row)}
            path_name = next((lower[name] for name in PATH_NAMES if name in lower), None)
            label_name = next((lower[name] for name in LABEL_NAMES if name in lower), None)
            if path_name is None:
                raise InputError(f"{source} has no column of paths ({', '.join(PATH_NAMES)}): its columns are {', '.join(row)}")
        if row[path_name] is None or not (path := str(row[path_name])).strip():
            raise InputError(f"{source}: row {number + 1} has no path in the column {path_name!r}")
        facts = described((name, value) for name, value in row.items() if name not in (path_name, label_name))
        label = text_of(row[label_name]) if label_name else None
        try:  # a path may hold any bytes, as a file's name may
            "".join((label or "", *facts, *facts.values(), *(row if not number else ()))).encode()
        except UnicodeEncodeError as error:
            raise InputError(not_utf8(source, f"row {number + 1}")) from error
        yield _listed(path.encode("utf-8", "surrogateescape"), folder)._replace(
            label=label, metadata=facts or None, called=label_name
        )
    if path_name is None:
        raise InputError(f"{source} has no rows, at most a header: it needs one an image")


def not_utf8(source: str, place: str) -> str:
    """What to say of a table that is in another encoding."""
    return (
        f"{source} is not UTF-8 ({place}): save it as 'CSV UTF-8', or convert it, as by "
        f"'iconv -f WINDOWS-1252 -t UTF-8 {os.path.basename(source)} > utf8.csv' if it is from a Western European Windows"
    )


def _csv_rows(data: bytes, kind: bytes, source: str) -> Iterator[dict[str, Any]]:
    if not data.strip():
        raise InputError(f"{source} is empty: it needs a line 'path,label', and one an image")
    text = io.StringIO(_in_utf8(data).decode("utf-8", "surrogateescape"), newline="")
    first = text.readline()
    text.seek(0)
    separator = "\t" if kind == b".tsv" else max(",;\t", key=first.count)
    csv.field_size_limit(MOST_LETTERS)
    try:
        for row in csv.DictReader(text, delimiter=separator, restkey="", strict=True):
            if "" in row and isinstance(row[""], list):
                raise InputError(f"{source}: a row has more fields than there are columns: {list(row.values())[:3]}")
            yield {name.strip(): value for name, value in row.items() if name}
    except csv.Error as error:
        raise InputError(f"{source} cannot be read as a table: {error}") from error


def _parquet_rows(path: str) -> Iterator[dict[str, Any]]:
    from sslfeat.data.containers.tables import plain_rows

    try:
        yield from plain_rows(open_file(os.fsencode(path)))
    except ImageError as error:
        raise InputError(f"{path}: {error}") from error
