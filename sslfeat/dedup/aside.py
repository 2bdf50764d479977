"""Where copies may be moved: not to where the next embedding would find them again."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from sslfeat.data.read import exists, is_plain
from sslfeat.errors import UsageError


def check_aside(folder: Path, images: Iterable[bytes], given: Iterable[str] = ()) -> None:
    """Raises UsageError if ``folder`` lies in a folder of the ``images`` (paths), in the one that all of them lie below, or in
    one of those that were ``given``, beside whatever else was.
    """
    around = _around(os.fsencode(folder), _folders(images, given))
    if around is not None:
        name = os.fsdecode(around)
        raise UsageError(
            f"--apply {folder} is inside {name}, whose images are embedded: moved images would be embedded again",
            f"choose a folder outside, such as {name}-duplicates",
        )


def beside(images: Iterable[bytes], given: Iterable[str] = ()) -> str:
    """A folder to propose for copies of the ``images`` (paths): beside the one that all of them lie below, or right here."""
    folders = _folders(images, given)
    common = _common(folders)
    name = f"{os.fsdecode(common)}-duplicates" if common.strip(b"./") else "duplicates"
    around = _around(os.fsencode(name), folders)
    return name if around is None else f"{os.fsdecode(around)}-duplicates"


def _folders(images: Iterable[bytes], given: Iterable[str]) -> set[bytes]:
    """As written; an image that is not there, such as a list's that has no file, lies nowhere."""
    folders = {os.fsencode(name).rstrip(b"/") for name in given if os.path.isdir(name)}
    for path in images:
        if (name := os.path.dirname(path)) not in folders and is_plain(path) and exists(path):
            folders.add(name)
    return folders


def _around(place: bytes, folders: set[bytes]) -> bytes | None:
    """Which of the folders, or the one that all of them lie below, ``place`` lies in, or is."""
    common = _common(folders)
    inside = {os.path.realpath(name or b".") for name in (*folders, *([common] if common else []))} - {b"", b"/"}
    around = os.path.realpath(place)
    while around not in inside and around != os.path.dirname(around):
        around = os.path.dirname(around)
    return around if around in inside else None


def _common(folders: set[bytes]) -> bytes:
    """What their names begin with, as written: a/ and b/ have nothing in common."""
    return b"/".join(os.path.commonprefix([name.split(b"/") for name in folders]))  # noqa: RUF071 -- of lists
