"""Where copies may be moved: not to where the next embedding would find them again."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from sslfeat.data.read import is_plain
from sslfeat.errors import UsageError


def check_aside(folder: Path, images: Iterable[bytes]) -> None:
    """Raises UsageError if ``folder`` lies in a folder of the ``images`` (paths), or in the one that all of them lie below."""
    folders = {os.path.dirname(path) for path in images if is_plain(path)}
    common = _common(folders)
    inside = {os.path.realpath(name or b".") for name in (*folders, *([common] if common else []))} - {b"", b"/"}
    place = os.path.realpath(os.fsencode(folder))
    around = place
    while around not in inside and around != os.path.dirname(around):
        around = os.path.dirname(around)
    if around in inside:
        name = os.fsdecode(around)
        raise UsageError(
            f"--apply {folder} lies in {name}, whose images were embedded: embedded again, they would all come back",
            f"choose a folder beside it, such as {name}-duplicates",
        )


def beside(images: Iterable[bytes]) -> str:
    """A folder to propose for copies of the ``images`` (paths): beside the one that all of them lie below, or right here."""
    common = _common({os.path.dirname(path) for path in images if is_plain(path)})
    return f"{os.fsdecode(common)}-duplicates" if common.strip(b"./") else "duplicates"


def _common(folders: set[bytes]) -> bytes:
    """What their names begin with, as written: a/ and b/ have nothing in common."""
    return b"/".join(os.path.commonprefix([name.split(b"/") for name in folders]))  # noqa: RUF071 -- of lists
