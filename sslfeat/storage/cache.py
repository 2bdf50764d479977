"""Where sslfeat keeps copies of what lies elsewhere: bounded, the least recently used goes first.

``SSLFEAT_CACHE`` names the folder (default: ``sslfeat`` in ``XDG_CACHE_HOME`` or ``~/.cache``), ``SSLFEAT_CACHE_GIB`` how
much it may hold (default: 20), ``SSLFEAT_OFFLINE=1`` that only what is in it is used.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from sslfeat.errors import RemoteError, UsageError
from sslfeat.storage import atomic

FOLDER, LIMIT, OFFLINE = "SSLFEAT_CACHE", "SSLFEAT_CACHE_GIB", "SSLFEAT_OFFLINE"
READING, ENCODERS, PIXELS = "reading", "encoders", "pixels"
WRITING = "writing"  # holds work that is nowhere else: it is never deleted
IN_USE = 3600.0  # seconds since a copy was last opened during which it stays, for a process may be reading it
USED = ".used"  # its time is when the copy was last opened


def root() -> Path:
    """The cache's folder, which need not exist yet."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(FOLDER) or Path(home) / "sslfeat").absolute()


def limit() -> int:
    """Bytes that copies may take. Raises UsageError if the environment holds no number."""
    text = os.environ.get(LIMIT, "20")
    try:
        return int(float(text) * (1 << 30))
    except ValueError:
        raise UsageError(f"{LIMIT} is {text!r}, but must be a number of GiB, such as 20") from None


def is_offline() -> bool:
    """Whether nothing may be fetched."""
    return os.environ.get(OFFLINE, "0") not in ("", "0")


def place_of(kind: str, url: str) -> Path:
    """The folder for a copy of ``url``, of ``kind`` READING, WRITING, ENCODERS or PIXELS; it need not exist."""
    return root() / kind / hashlib.sha256(url.encode()).hexdigest()[:20]


@contextlib.contextmanager
def locked(place: Path, url: str, seconds: float = 0.0) -> Iterator[None]:
    """Hold the lock of a copy, which is made if need be. Raises RemoteError if another process has it for so long."""
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{place}.lock", timeout=seconds):
            place.mkdir(exist_ok=True)
            (place / USED).touch()
            yield
    except Timeout:
        raise RemoteError(f"{url} is in use by another process here: wait for it, or choose another location") from None


def free_place(kind: str, url: str) -> tuple[Path, contextlib.ExitStack]:
    """A folder that no other process here has, and what holds its lock: as few are used as there are processes at a time."""
    for number in itertools.count():
        place, lock = place_of(kind, f"{url}#process-{number}"), contextlib.ExitStack()
        with contextlib.suppress(RemoteError):
            lock.enter_context(locked(place, url))
            break
    return place, lock


def replace(made: Path, old: Path) -> None:
    """Put the copy ``made`` in the place of ``old``. Call it with the locks of both held."""
    shutil.rmtree(old)
    made.rename(old)
    atomic.sync_folder(old.parent)


def make_room(keep: Path) -> None:
    """Delete the copies that were not opened for longest until the rest fits ``limit``; ``keep`` and those in use stay."""
    copies = [place for kind in (READING, ENCODERS, PIXELS) for place in (root() / kind).glob("*") if place.is_dir()]
    sizes = {place: _size(place) for place in copies}
    excess = sum(sizes.values()) - limit()
    for place in sorted(copies, key=_last_used):
        if excess <= 0:
            return
        if place != keep and time.time() - _last_used(place) > IN_USE:
            with contextlib.suppress(RemoteError, PermissionError), locked(place, str(place)):  # Windows keeps what is mapped
                shutil.rmtree(place)
                excess -= sizes[place]


def _last_used(place: Path) -> float:
    used = place / USED
    return used.stat().st_mtime if used.exists() else 0.0


def _size(place: Path) -> int:
    return sum(path.stat().st_size for path in place.rglob("*") if path.is_file() and not path.is_symlink())
