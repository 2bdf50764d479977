"""Suggestions for paths that do not exist."""

from __future__ import annotations

import os
from pathlib import Path

from sslfeat.errors import InputError, did_you_mean


def near_path(path: str | os.PathLike[str]) -> str:
    """Suggest a file or folder with a similar name in the same folder; empty if there is none."""
    folder, name = os.path.split(os.fspath(path).rstrip("/"))
    try:
        return did_you_mean(name, (other.name for other in Path(folder or ".").iterdir()), 0.75)
    except OSError:
        return ""


def missing(path: str | os.PathLike[str], cure: str = "") -> InputError:
    """Error for a path that does not exist, with a suggested name or else the ``cure``."""
    return InputError(f"{os.fspath(path)} does not exist", near_path(path) or cure)
