"""Detection of URLs."""

from __future__ import annotations

import os
import re

SCHEME = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]+://")  # at least two letters, since C: is a drive


def is_remote(place: str | bytes | os.PathLike[str]) -> bool:
    """Whether it is a URL (``s3://bucket/features``), not a local path."""
    return SCHEME.match(os.fsencode(place)) is not None
