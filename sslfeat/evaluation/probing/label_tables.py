"""Read label tables (CSV, parquet)."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any
from unicodedata import normalize

from sslfeat.data.lists import not_utf8
from sslfeat.data.names import ENDINGS
from sslfeat.errors import InputError

PATH_COLUMNS = ("path", "image", "file", "filename", "file_name", "name")
LABEL_COLUMNS = ("label", "labels", "class", "category", "target")
DELIMITERS = (",", ";", "\t")
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
UTF_32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
PARQUET_ENDINGS = (".parquet", ".pq")

Label = str | tuple[str, ...] | None


@dataclass(frozen=True)
class LabelTable:
    """Image names, as written, and labels: text, a tuple for multi-label tables, None for empty cells."""

    file: Path
    names: list[str]
    labels: list[Label]


def read_table(file: Path, column: str | None = None, path_column: str | None = None, separator: str = "") -> LabelTable:
    """Read a CSV (comma, semicolon or tab; UTF-8, or UTF-16 with BOM) or parquet table.

    Column names are case-insensitive. ``separator`` separates multiple labels in a cell. Raises InputError.
    """
    try:
        if file.suffix.lower() in PARQUET_ENDINGS:
            names, cells = _parquet(file, column, path_column)
        else:
            names, cells = _text(file, column, path_column)
    except OSError as error:
        raise InputError(f"{file} cannot be read as a label table: {error.strerror or error}") from error
    return LabelTable(file, names, [_label(file, cell, separator) for cell in cells])


def one_name(text: str) -> str:
    """Text in Unicode normalization form NFC, because file systems and keyboards differ."""
    return text if text.isascii() else normalize("NFC", text)


def _text(file: Path, column: str | None, path_column: str | None) -> tuple[list[str], list[Any]]:
    text = _decoded(file, file.read_bytes())
    first, _, rest = text.partition("\n")
    if first.strip().lower().removeprefix("sep=") in DELIMITERS and first.lower().startswith("sep="):
        text = rest  # written by spreadsheet programs
    rows = _rows(file, text, _delimiter(file, text, column, path_column))
    if not rows:
        raise InputError(f"{file} is empty: it needs a header 'path,label' and one line per image")
    (_, header), body = rows[0], rows[1:]
    image = next((cell for cell in header if Path(cell).suffix.lower() in ENDINGS), None)
    if image is not None:
        raise InputError(f"{file} has no header, its first line is {image}: add the header 'path,label'")
    ours = _place(file, header, path_column, PATH_COLUMNS, "--path-column")
    theirs = _place(file, header, column, LABEL_COLUMNS, "--column")
    for line, row in body:
        if any(cell.strip() for cell in row[len(header) :]):
            raise InputError(
                f"{file}, line {line}: {len(row)} cells, but {len(header)} columns: quote cells that contain the delimiter"
            )
    kept = [row for _, row in body if len(row) > ours and row[ours].strip()]
    return [row[ours] for row in kept], [row[theirs] if len(row) > theirs else None for row in kept]


def _decoded(file: Path, data: bytes) -> str:
    if data.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0", b"PAR1")):
        raise InputError(f"{file} is a spreadsheet, archive or parquet, not text: save it as CSV (UTF-8) or as .parquet")
    sort = "utf-16" if data.startswith(UTF_16) and not data.startswith(UTF_32) else "utf-8-sig"
    try:
        text = data.decode(sort)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(not_utf8(str(file), f"line {line}")) from error
    if "\0" in text:
        raise InputError(f"{file} contains NUL characters: save it as 'CSV UTF-8' (UTF-16 is supported with a BOM)")
    return text


def _delimiter(file: Path, text: str, column: str | None, path_column: str | None) -> str:
    """The delimiter with which the header has both columns, else the one with the most columns."""

    def fit(delimiter: str) -> tuple[int, int]:
        header = next(iter(_rows(file, text.lstrip().partition("\n")[0], delimiter, strict=False)), (1, [""]))[1]
        expected = ([path_column] if path_column else PATH_COLUMNS, [column] if column else LABEL_COLUMNS)
        return sum(bool(_matching(header, names)) for names in expected), len(header)

    return max(DELIMITERS, key=fit)


def _rows(file: Path, text: str, delimiter: str, strict: bool = True) -> list[tuple[int, list[str]]]:
    """Rows that are not empty, with the number of their last line."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=strict)
    try:
        return [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise InputError(f"{file}, line {reader.line_num}: {error}: check for unbalanced quotes") from error


def _matching(header: Sequence[str], names: Sequence[str]) -> list[int]:
    """Positions of the first of ``names`` that occurs in the header, case-sensitive or else case-insensitive."""
    written = [one_name(cell).strip() for cell in header]
    folded = [cell.casefold() for cell in written]
    for name in map(one_name, names):
        for forms, expected in ((written, name.strip()), (folded, name.strip().casefold())):
            places = [place for place, form in enumerate(forms) if form == expected]
            if places:
                return places
    return []


def _place(file: Path, header: Sequence[str], requested: str | None, usual: Sequence[str], option: str) -> int:
    places = _matching(header, [requested] if requested else usual)
    if len(places) == 1:
        return places[0]
    expected = repr(requested) if requested else " or ".join(map(repr, usual))
    if places:
        raise InputError(f"{file} has {len(places)} columns named {header[places[0]]!r}: rename all but one")
    raise InputError(f"{file} has no column {expected} (columns: {', '.join(header)}): choose one with {option}")


def _parquet(file: Path, column: str | None, path_column: str | None) -> tuple[list[str], list[Any]]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        header = parquet.read_schema(file).names
        places = (_place(file, header, path_column, PATH_COLUMNS, "--path-column"),
                  _place(file, header, column, LABEL_COLUMNS, "--column"))  # fmt: skip
        table = parquet.read_table(file, columns=[header[place] for place in places])
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{file} cannot be read as parquet: {error}") from error
    names, cells = (table[header[place]].to_pylist() for place in places)
    kept = [(name, cell) for name, cell in zip_longest(names, cells) if name is not None]
    return [_plain(file, name) for name, _ in kept], [cell for _, cell in kept]


def _label(file: Path, cell: Any, separator: str) -> Label:
    if isinstance(cell, list):
        return tuple(sorted({text for item in cell if (text := _plain(file, item).strip())}))
    text = _plain(file, cell).strip()
    if separator:
        return tuple(sorted({item.strip() for item in text.split(separator) if item.strip()}))
    return text or None


def _plain(file: Path, cell: Any) -> str:
    """A cell as text; empty for missing values and NaN."""
    if cell is None or cell != cell:
        return ""
    if isinstance(cell, bytes):
        try:
            cell = cell.decode()
        except UnicodeDecodeError as error:
            raise InputError(f"{file} contains bytes that are not UTF-8, {cell[:20]!r}: store its columns as text") from error
    return one_name(str(cell))
