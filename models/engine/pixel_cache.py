"""Decoded images that do not fit in memory: a file in the run folder, written once and mapped by every process.

Its name follows from which files they are of, at which size, so a training set and a probe set never meet; a run that was
killed finds its own again. Whoever has the lock writes; a lock dies with its holder, and then the next one writes.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

from sslfeat.data.manifest import Manifest
from sslfeat.errors import TrainingError
from sslfeat.storage import atomic

PREFIX = "pixels-"
LONGEST_WAIT = 12 * 3600.0  # seconds


def cached(
    folder: Path,
    manifest: Manifest,
    image_size: int,
    write: Callable[[BinaryIO], list[str]],
    waiting: Callable[[], None] = lambda: None,
) -> tuple[npt.NDArray[np.uint8], list[str]]:
    """Pixels uint8 (N, S, S, 3) of the files in ``manifest`` that can be read, and what ``write`` returned.

    ``write`` appends the pixels to a file and returns a line for each input; it is called by one process alone, unless
    the file is there already. Others call ``waiting`` every second, which may raise, and give up after LONGEST_WAIT.
    The array may be written to, the file is not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(f"{manifest.sha256} {image_size}".encode()).hexdigest()[:16]
    path = folder / f"{PREFIX}{name}.cache"
    lines_path = path.with_suffix(".json")
    lock = _acquire(path.with_suffix(".lock"), waiting)
    try:
        if not path.exists():
            part = path.with_suffix(".part")
            with part.open("wb") as file:
                lines = write(file)
                file.flush()
                os.fsync(file.fileno())
            atomic.write_atomic(lines_path, json.dumps(lines).encode())
            part.replace(path)
        lines = json.loads(lines_path.read_bytes())
    except OSError as error:
        raise TrainingError(f"the decoded images cannot be kept in {folder}: {error.strerror or error}") from error
    finally:
        lock.release()
    count = path.stat().st_size // (3 * image_size**2)
    if not count:
        return np.empty((0, image_size, image_size, 3), np.uint8), lines
    return np.memmap(path, np.uint8, "c", shape=(count, image_size, image_size, 3)), lines


def remove_caches(folder: Path) -> None:
    """Delete the files of ``cached``; what is mapped stays readable where the system allows to delete it."""
    for suffix in (".cache", ".json", ".part", ".lock"):
        for path in folder.glob(f"{PREFIX}{'[0-9a-f]' * 16}{suffix}"):
            path.unlink(missing_ok=True)


def _acquire(path: Path, waiting: Callable[[], None]) -> FileLock:
    lock, last = FileLock(path), time.monotonic() + LONGEST_WAIT
    while True:
        try:
            lock.acquire(timeout=1)
            return lock
        except Timeout:
            waiting()
            if time.monotonic() > last:
                raise TrainingError(f"another process has been decoding for {LONGEST_WAIT / 3600:.0f} hours") from None
