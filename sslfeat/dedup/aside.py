"""Folders for moved copies: outside the folders that are embedded."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from sslfeat.data.read import exists, is_plain
from sslfeat.errors import UsageError


def check_aside(folder: Path, images: Iterable[bytes], given: Iterable[str] = ()) -> None:
    """Raises UsageError if ``folder`` is inside a folder of the ``images`` (paths), their common parent, or
    one of the folders ``given`` on the command line.
    """
    around = _around(os.fsencode(folder), _folders(images, given))
    if around is not None:
        name = os.fsdecode(around)
        raise UsageError(
            f"--apply {folder} is inside {name}, whose images are embedded: moved images would be embedded again",
            f"choose a folder outside, such as {name}-duplicates",
        )


def beside(images: Iterable[bytes], given: Iterable[str] = ()) -> str:
    """Suggested folder for copies of ``images`` (paths): next to their common parent, or in the working directory."""
    folders = _folders(images, given)
    common = _common(folders)
    name = f"{os.fsdecode(common)}-duplicates" if common.strip(b"./") else "duplicates"
    around = _around(os.fsencode(name), folders)
    return name if around is None else f"{os.fsdecode(around)}-duplicates"


def _folders(images: Iterable[bytes], given: Iterable[str]) -> set[bytes]:
    """Folders as written, of existing images only."""
    folders = {os.fsencode(name).rstrip(b"/") for name in given if os.path.isdir(name)}
    for path in images:
        if (name := os.path.dirname(path)) not in folders and is_plain(path) and exists(path):
            folders.add(name)
    return folders


def _around(place: bytes, folders: set[bytes]) -> bytes | None:
    """The folder, or common parent, that contains or equals ``place``."""
    common = _common(folders)
    inside = {os.path.realpath(name or b".") for name in (*folders, *([common] if common else []))} - {b"", b"/"}
    around = os.path.realpath(place)
    while around not in inside and around != os.path.dirname(around):
        around = os.path.dirname(around)
    return around if around in inside else None


def _common(folders: set[bytes]) -> bytes:
    """Common parent of the folders as written; a/ and b/ have none."""
    return b"/".join(os.path.commonprefix([name.split(b"/") for name in folders]))  # noqa: RUF071 -- of lists
