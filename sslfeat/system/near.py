"""Paths that do not exist: what may have been meant."""

from __future__ import annotations

import os
from pathlib import Path

from sslfeat.errors import InputError, did_you_mean


def near_path(path: str | os.PathLike[str]) -> str:
    """The question whether another file or folder beside it, of nearly this name, is meant; empty if there is none."""
    folder, name = os.path.split(os.fspath(path).rstrip("/"))
    try:
        return did_you_mean(name, (other.name for other in Path(folder or ".").iterdir()), 0.75)
    except OSError:
        return ""


def missing(path: str | os.PathLike[str], cure: str = "") -> InputError:
    """The error for a path that does not exist, with the name that was meant or else the ``cure``."""
    return InputError(f"{os.fspath(path)} does not exist", near_path(path) or cure)
