"""sha256 of files; cheap compared with decoding and inference."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from sslfeat.data.batching import batched
from sslfeat.data.containers.video import split_frame
from sslfeat.data.read import is_plain, read_image
from sslfeat.errors import ImageError
from sslfeat.system.cores import available_cores

Digests: TypeAlias = npt.NDArray[np.bytes_]  # S32
DIGEST = np.dtype("S32")
NONE = b""  # for unreadable files; different from any sha256
AT_ONCE = 256
WITHOUT_WAITING = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # a pipe without a writer would block forever


def hash_files(paths: Sequence[bytes], check: Callable[[], None] = lambda: None) -> Digests:
    """sha256 of all files, S32 (N,), NONE for unreadable ones; ``check`` may raise to stop."""
    digests = np.zeros(len(paths), DIGEST)
    start = 0
    with ThreadPoolExecutor(available_cores()) as pool:
        for chunk in batched(paths, AT_ONCE):
            check()
            digests[start : start + len(chunk)] = list(pool.map(_hash_file, chunk))
            start += len(chunk)
    return digests


def parse_digests(texts: Sequence[str]) -> Digests:
    """Convert hexadecimal sha256s to S32 (N,). Raises ValueError for invalid ones."""
    joined = bytes.fromhex("".join(texts))
    if any(len(text) != 64 for text in texts):
        raise ValueError("a sha256 must have 64 digits")
    return np.frombuffer(joined, DIGEST)


def hash_image(path: bytes) -> str:
    """Hexadecimal sha256 of an image file from any source. Raises OSError, ValueError, ImageError."""
    if not is_plain(path) or split_frame(path) is not None:
        return hashlib.sha256(read_image(path)).hexdigest()
    descriptor = os.open(path, os.O_RDONLY | WITHOUT_WAITING)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ImageError("not a regular file")
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash_file(path: bytes) -> bytes:
    try:
        return bytes.fromhex(hash_image(path))
    except (OSError, ValueError, ImageError):  # ValueError: a NUL in a listed name
        return NONE
