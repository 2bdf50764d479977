"""File names: supported extensions, skipped folders, and conversion of displayed names to paths."""

from __future__ import annotations

import os
import re

JPEG_ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".jp2", ".j2k", ".jpx")
OTHER_ENDINGS = (
    ".png", ".apng", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".avif", ".ppm", ".pgm", ".pbm", ".pnm", ".ico", ".heic",
    ".heif",
)  # fmt: skip
ENDINGS = frozenset((*JPEG_ENDINGS, *OTHER_ENDINGS))
RAW_ENDINGS = frozenset(map(os.fsencode, ENDINGS))
LIST_ENDINGS = frozenset((b".txt", b".lst"))
TABLE_ENDINGS = frozenset((b".csv", b".tsv"))
SHEET_ENDINGS = frozenset((b".xlsx", b".xlsm", b".xls", b".ods"))
CONTAINER_ENDINGS = frozenset((b".tar", b".zip", b".parquet", b".arrow"))
VIDEO_ENDINGS = frozenset((b".mp4", b".m4v", b".mov", b".mkv", b".webm", b".avi", b".mpg", b".mpeg", b".wmv", b".flv", b".ts"))
COMPRESSED_TAR = re.compile(rb"\.(tar\.(gz|bz2|xz|zst|lz4|z)|tgz|tbz2?|txz|tzst)$", re.IGNORECASE)
SYSTEM_FOLDERS = frozenset(
    (b"@eadir", b"#recycle", b"#snapshot", b"$recycle.bin", b"system volume information", b"__macosx", b"lost+found")
)
"""Folders created by network drives, Windows, macOS and file systems, for example for thumbnails; in lower case."""


def ending(name: bytes) -> bytes:
    """Extension of a path in lower case, with the dot; empty if there is none."""
    base = name[name.rfind(b"/") + 1 :]
    dot = base.rfind(b".")
    return base[dot:].lower() if dot > 0 else b""


def is_image(name: bytes) -> bool:
    """Whether a path has the extension of an image and is not hidden."""
    return ending(name) in RAW_ENDINGS and not name[name.rfind(b"/") + 1 :].startswith(b".")


def is_listed(name: bytes) -> bool:
    """Whether a path below a folder or in a container is an image, and not in a hidden or system folder."""
    folders = name.lower().split(b"/")[:-1]
    hidden = any(folder in SYSTEM_FOLDERS or (folder.startswith(b".") and folder not in (b".", b"..")) for folder in folders)
    return is_image(name) and not hidden


def possible_paths(name: str) -> list[bytes]:
    """Possible paths of an ``ImageRecord.name``: as written, and with each ``\\xNN`` replaced by a byte."""
    written = name.encode()
    return [written, re.sub(rb"\\x([89a-f][0-9a-f])", lambda escape: bytes.fromhex(escape[1].decode()), written)]
