"""Join labels of a table to images: by path as written, absolute path, or an unambiguous path suffix."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from sslfeat.errors import InputError
from sslfeat.evaluation.probing.label_tables import Label, LabelTable, one_name


def join(table: LabelTable, paths: Sequence[str]) -> tuple[list[Label], list[str]]:
    """Label of each of ``paths`` (None: no label), and the names in the table that match no image.

    A name may be absolute, relative to the working folder or to the folder of the table, or a suffix of a path (such as the
    file name), or have a path as suffix; ``\\`` is accepted as separator. Raises InputError for an image with two labels, or if
    no image has one.
    """
    rows: list[int | None] = []
    for names in (table.names, [name.replace("\\", "/") for name in table.names]):
        for match in (_by_path, _by_end):
            rows = match(table, [_form(name) for name in names], [_form(path) for path in paths])
            if any(row is not None for row in rows):
                used = set(rows)
                strangers = [name for row, name in enumerate(table.names) if row not in used]
                return [None if row is None else table.labels[row] for row in rows], strangers
    raise InputError(
        f"{table.file} has no label for any of the {len(paths)} images, such as {paths[0] if paths else '-'}; it contains "
        f"{table.names[0] if table.names else 'nothing'}: use the paths that were embedded, or file names"
    )


def _form(path: str) -> str:
    return os.path.normpath(one_name(path.strip()))


def _by_path(table: LabelTable, names: Sequence[str], paths: Sequence[str]) -> list[int | None]:
    here, there = Path.cwd(), table.file.resolve().parent
    written = _rows(table, names)
    absolute = _rows(table, [os.path.normpath(here / name) for name in names])
    beside = _rows(table, [os.path.normpath(there / name) for name in names])
    found: list[int | None] = []
    for path in paths:
        whole = os.path.normpath(here / path)
        places = [row for row in (written.get(path), absolute.get(whole)) if row is not None]
        for row in places:
            _agree(table, places[0], row)
        found.append(places[0] if places else beside.get(whole))
    return found


def _by_end(table: LabelTable, names: Sequence[str], paths: Sequence[str]) -> list[int | None]:
    known = _rows(table, names)
    ours = {path: place for place, path in enumerate(paths)}
    pairs = {(place, known[end]) for path, place in ours.items() for end in _ends(path) if end in known}
    pairs |= {(ours[end], row) for name, row in known.items() for end in _ends(name) if end in ours}
    found: list[int | None] = [None] * len(paths)
    taken: dict[int, int] = {}
    for place, row in sorted(pairs):
        if found[place] is not None or row in taken:
            raise InputError(
                f"{table.file}: {table.names[row]} matches {paths[taken.get(row, place)]} and another image: "
                "give more of its path"
            )
        found[place], taken[row] = row, place
    return found


def _ends(path: str) -> Iterator[str]:
    """Proper suffixes of the path, down to the file name."""
    while "/" in path:
        path = path.partition("/")[2]
        yield path


def _rows(table: LabelTable, names: Sequence[str]) -> dict[str, int]:
    """Row of each name; duplicates must have the same label."""
    known: dict[str, int] = {}
    for row, name in enumerate(names):
        _agree(table, known.setdefault(name, row), row)
    return known


def _agree(table: LabelTable, first: int, second: int) -> None:
    if table.labels[first] != table.labels[second]:
        raise InputError(
            f"{table.file}: {table.names[first]} has two labels, {table.labels[first]!r} and {table.labels[second]!r}: "
            "give one row per image"
        )
