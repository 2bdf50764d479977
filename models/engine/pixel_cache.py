"""Decoded images on disk, written once and mapped by every process and every later run that learns from the same images.

They are in the cache for what lies elsewhere, under its bound, by a name that follows from which files they are of, at which
size, and by which version they were decoded. Where a file's state tells nothing of its content, only this run may trust what
it decoded: that stays in the run folder. Whoever has the lock writes; a lock dies with its holder, and then the next one writes.
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

PREFIX = "pixels-"  # of what is in a run folder
PIXELS_NAME, LINES_NAME = "pixels.u8", "images.json"  # the second is written last
LONGEST_WAIT = 12 * 3600.0  # seconds
CURE = f"choose a smaller --cache-size, 0 for none, or set {cache.FOLDER} to another folder"


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
    """Pixels uint8 (K, S, S, 3) of the first K <= ``count`` files in ``manifest`` that can be read, and what ``write`` returned.

    ``write`` appends the pixels to a file and returns a line for each input; it is called by one process alone, unless
    they are there already and what it returned then still ``holds``. Others call ``waiting`` every second, which may raise,
    and give up after LONGEST_WAIT.
    ``decoding`` says how, where that is not as ever: pixels of another are others.
    The array may be written to, the file is not.
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
        raise TrainingError(f"decoded images cannot be kept in {place}: {error.strerror or error}; {CURE}") from error


def remove_caches(run: Path) -> None:
    """Delete what ``cached`` left in a run folder; what is mapped stays readable where the system allows to delete it."""
    for path in run.glob(f"{PREFIX}{'[0-9a-f]' * 16}*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _known(place: Path) -> list[str] | None:
    """What was returned when the pixels were written; None if they were not, or not all of them are there."""
    try:
        written = json.loads((place / LINES_NAME).read_bytes())
        whole = (place / PIXELS_NAME).stat().st_size == written["bytes"]
        return list(map(str, written["lines"])) if whole else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _fill(place: Path, write: Callable[[BinaryIO], list[str]]) -> list[str]:
    part = place / f"{PIXELS_NAME}.part"  # the file that it takes the place of may be mapped by another run
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
            f"decoded, the images take {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free for {place.parent}: {CURE}"
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
