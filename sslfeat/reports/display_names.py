"""Names of images for pages that leave this machine: without the folders that all of them share."""

from __future__ import annotations

import os
from collections.abc import Sequence


def short_names(paths: Sequence[str]) -> list[str]:
    """Each path from the deepest folder that all have in common; absolute ones and others each have their own."""
    prefixes: dict[bool, str] = {}
    for absolute in (False, True):
        folders = {path.rpartition("/")[0] or "/" * absolute for path in paths if path.startswith("/") == absolute}
        prefixes[absolute] = os.path.join(os.path.commonpath(folders), "") if folders else ""
    return [path.removeprefix(prefixes[path.startswith("/")]) for path in paths]
