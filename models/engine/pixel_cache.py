"""Decoded images on disk, written once and memory-mapped by all processes and later runs with the same images.

They are stored in the cache for remote data, within its size limit; the key depends on the files, the size and the versions of
the decoders. If the state of a file does not identify its content, decoded images may only be used by this run and are stored
in the run folder. The process that holds the lock writes; if it dies, the lock is released and the next process writes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import PIL
from filelock import FileLock, Timeout

from sslfeat import __version__
from sslfeat.data.manifest import UNKNOWN, Manifest
from sslfeat.errors import TrainingError
from sslfeat.storage import atomic, cache

PREFIX = "pixels-"  # of names in a run folder
PIXELS_NAME, LINES_NAME = "pixels.u8", "images.json"  # the second is written last
LONGEST_WAIT = 12 * 3600.0  # seconds
CURE = f"choose a smaller --cache-size (0: none), or set {cache.FOLDER} to another folder"


def cached(
    manifest: Manifest,
    image_size: int,
    count: int,
    run: Path,
    write: Callable[[BinaryIO], list[str]],
    holds: Callable[[list[str]], bool] = lambda lines: True,
    waiting: Callable[[], None] = lambda: None,
    decoding: str = "",
) -> tuple[npt.NDArray[np.uint8], list[str]]:
    """Pixels uint8 (K, S, S, 3) of the first K <= ``count`` readable files in ``manifest``, and the return value of ``write``.

    ``write`` appends the pixels to a file and returns a line per input. It is called by one process only, unless the pixels exist
    already and the previous lines still ``holds``. Other processes call ``waiting``, which may raise, every second, and give up
    after LONGEST_WAIT. ``decoding`` describes a non-default preprocessing and is part of the key.
    The array is writable, the file is not.
    """
    key = f"{manifest.sha256} {image_size} {count} sslfeat {__version__} Pillow {PIL.__version__}{decoding}"
    unsure = bool((manifest.changed == UNKNOWN).any())
    place = run / f"{PREFIX}{hashlib.sha256(key.encode()).hexdigest()[:16]}" if unsure else cache.place_of(cache.PIXELS, key)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = _acquire(Path(f"{place}.lock"), waiting)
        try:
            place.mkdir(exist_ok=True)
            lines = _known(place)
            if lines is None or not holds(lines):
                _check_free(place, count * 3 * image_size**2)
                lines = _fill(place, write)
            (place / cache.USED).touch()
            cache.make_room(place)
            kept = (place / PIXELS_NAME).stat().st_size // (3 * image_size**2)
            shape = (kept, image_size, image_size, 3)
            return np.memmap(place / PIXELS_NAME, np.uint8, "c", shape=shape) if kept else np.empty(shape, np.uint8), lines
        finally:
            lock.release()
    except OSError as error:
        raise TrainingError(f"cannot store decoded images in {place}: {error.strerror or error}; {CURE}") from error


def remove_caches(run: Path) -> None:
    """Delete what ``cached`` left in a run folder; mapped arrays stay readable if the system permits deleting them."""
    for path in run.glob(f"{PREFIX}{'[0-9a-f]' * 16}*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _known(place: Path) -> list[str] | None:
    """Return value of ``write`` when the pixels were written; None if they are missing or incomplete."""
    try:
        written = json.loads((place / LINES_NAME).read_bytes())
        whole = (place / PIXELS_NAME).stat().st_size == written["bytes"]
        return list(map(str, written["lines"])) if whole else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _fill(place: Path, write: Callable[[BinaryIO], list[str]]) -> list[str]:
    part = place / f"{PIXELS_NAME}.part"  # the file that it replaces may be mapped by another run
    with part.open("wb") as file:
        lines = write(file)
        file.flush()
        os.fsync(file.fileno())
        size = file.tell()
    part.replace(place / PIXELS_NAME)
    atomic.write_atomic(place / LINES_NAME, json.dumps({"bytes": size, "lines": lines}).encode())
    return lines


def _check_free(place: Path, needed: int) -> None:
    free = shutil.disk_usage(place).free
    if needed > free:
        raise TrainingError(
            f"the decoded images need {needed / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free in {place.parent}: {CURE}"
        )


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
