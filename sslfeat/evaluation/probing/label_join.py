"""A table's labels find their images: by the path as written, made absolute, or by its end where that leaves no doubt."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from sslfeat.errors import InputError
from sslfeat.evaluation.probing.label_tables import Label, LabelTable, one_name


def join(table: LabelTable, paths: Sequence[str]) -> tuple[list[Label], list[str]]:
    """The label of each of ``paths`` (None: it has none), and the table's names that are no image's.

    A name may be absolute, relative to the working folder or to the table's, or be the end of a path (a bare file name),
    or a path its end; ``\\`` may divide its folders. Raises InputError for an image with two labels, or if none is known.
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
        f"{table.file} has no label for any of the {len(paths)} images, such as {paths[0] if paths else '-'}; it names "
        f"{table.names[0] if table.names else 'nothing'}: write the paths that were embedded, or file names"
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
                f"{table.file}: {table.names[row]} may be {paths[taken.get(row, place)]} or another image of that name: "
                "write more of its path"
            )
        found[place], taken[row] = row, place
    return found


def _ends(path: str) -> Iterator[str]:
    """The path without its first folders: all but itself, down to the file name."""
    while "/" in path:
        path = path.partition("/")[2]
        yield path


def _rows(table: LabelTable, names: Sequence[str]) -> dict[str, int]:
    """Where each name is; one that is there twice must have one label."""
    known: dict[str, int] = {}
    for row, name in enumerate(names):
        _agree(table, known.setdefault(name, row), row)
    return known


def _agree(table: LabelTable, first: int, second: int) -> None:
    if table.labels[first] != table.labels[second]:
        raise InputError(
            f"{table.file}: {table.names[first]} has two labels, {table.labels[first]!r} and {table.labels[second]!r}: "
            "give one row an image"
        )
