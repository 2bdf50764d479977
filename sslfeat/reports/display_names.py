"""Image names for pages that are shared: paths without their common parent folder."""

from __future__ import annotations

import os
from collections.abc import Sequence


def short_names(paths: Sequence[str]) -> list[str]:
    """Paths relative to their deepest common folder, determined separately for absolute and relative paths."""
    prefixes: dict[bool, str] = {}
    for absolute in (False, True):
        folders = {path.rpartition("/")[0] or "/" * absolute for path in paths if path.startswith("/") == absolute}
        prefixes[absolute] = os.path.join(os.path.commonpath(folders), "") if folders else ""
    return [path.removeprefix(prefixes[path.startswith("/")]) for path in paths]
