"""Local cache of remote files, limited in size; least recently used copies are deleted first.

``SSLFEAT_CACHE`` names the folder (default: ``sslfeat`` in ``XDG_CACHE_HOME`` or ``~/.cache``), ``SSLFEAT_CACHE_GIB`` how
its maximum size (default: 20), and with ``SSLFEAT_OFFLINE=1`` only cached files are used.
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
WRITING = "writing"  # contains work not stored elsewhere; never deleted
IN_USE = 3600.0  # minimum seconds since last use before deletion, as a process may be reading
USED = ".used"  # its mtime is the time of last use


def root() -> Path:
    """Folder of the cache, which may not exist yet."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(FOLDER) or Path(home) / "sslfeat").absolute()


def limit() -> int:
    """Maximum size in bytes. Raises UsageError if the environment variable is not a number."""
    text = os.environ.get(LIMIT, "20")
    try:
        return int(float(text) * (1 << 30))
    except ValueError:
        raise UsageError(f"{LIMIT} is {text!r}, but must be a number of GiB, such as 20") from None


def is_offline() -> bool:
    """Whether downloads are disabled."""
    return os.environ.get(OFFLINE, "0") not in ("", "0")


def place_of(kind: str, url: str) -> Path:
    """Folder of a copy of ``url`` of ``kind`` READING, WRITING, ENCODERS or PIXELS; may not exist."""
    return root() / kind / hashlib.sha256(url.encode()).hexdigest()[:20]


@contextlib.contextmanager
def locked(place: Path, url: str, seconds: float = 0.0) -> Iterator[None]:
    """Hold the lock of a copy, creating its folder. Raises RemoteError if it cannot be acquired in time."""
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{place}.lock", timeout=seconds):
            place.mkdir(exist_ok=True)
            (place / USED).touch()
            yield
    except Timeout:
        raise RemoteError(f"{url} is in use by another process here: wait for it, or choose another location") from None


def free_place(kind: str, url: str) -> tuple[Path, contextlib.ExitStack]:
    """A folder not used by another local process, and its lock; there are as many as concurrent processes."""
    for number in itertools.count():
        place, lock = place_of(kind, f"{url}#process-{number}"), contextlib.ExitStack()
        with contextlib.suppress(RemoteError):
            lock.enter_context(locked(place, url))
            break
    return place, lock


def replace(made: Path, old: Path) -> None:
    """Replace the copy ``old`` by ``made``. Requires the locks of both."""
    shutil.rmtree(old)
    made.rename(old)
    atomic.sync_folder(old.parent)


def make_room(keep: Path) -> None:
    """Delete least recently used copies until the rest fits ``limit``, except ``keep`` and those in use."""
    copies = [place for kind in (READING, ENCODERS, PIXELS) for place in (root() / kind).glob("*") if place.is_dir()]
    sizes = {place: _size(place) for place in copies}
    excess = sum(sizes.values()) - limit()
    for place in sorted(copies, key=_last_used):
        if excess <= 0:
            return
        if place != keep and time.time() - _last_used(place) > IN_USE:
            with contextlib.suppress(RemoteError, PermissionError), locked(place, str(place)):  # Windows locks mapped files
                shutil.rmtree(place)
                excess -= sizes[place]


def _last_used(place: Path) -> float:
    used = place / USED
    return used.stat().st_mtime if used.exists() else 0.0


def _size(place: Path) -> int:
    return sum(path.stat().st_size for path in place.rglob("*") if path.is_file() and not path.is_symlink())
