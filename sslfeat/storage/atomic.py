"""Crash-safe files: atomic writes, hashes, and an exclusive or shared lock per folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sslfeat.errors import SslfeatError

LOCK_NAME = ".lock"
TEMPORARY_SUFFIX = ".sslfeat.tmp"  # unique prefix, since leftovers are deleted
PATIENCE, PAUSE = 60.0, 0.1  # seconds to wait for a shared lock, and between attempts


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically: readers see the old or the new file, also after a crash."""
    temporary = path.with_name(f".{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")  # unique per writer
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, FileNotFoundError) and not path.parent.is_dir():
            error.filename = str(path.parent)
        elif isinstance(error, OSError) and error.filename is None:  # e.g. disk full
            error.filename = str(path)
        raise
    sync_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Create a folder durably, unless it exists."""
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Sync the entries of ``folder`` to disk (needed for a durable rename)."""
    if os.name == "nt":  # Windows cannot open a folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_temporaries(folder: Path) -> None:
    """Delete temporary files of a killed ``write_atomic``. Requires the folder's lock."""
    for leftover in folder.rglob(f".*{TEMPORARY_SUFFIX}"):
        if leftover.is_file():
            leftover.unlink()


def sha256_file(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_bytes(value: Any) -> bytes:
    """Indented JSON in fixed key order, so equal values give equal bytes; NaN and infinity become null."""
    return (json.dumps(finite(value), indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def finite(value: Any) -> Any:
    """``value`` with None in place of NaN and infinity."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _make_folders(folder: Path) -> None:
    """Create a folder and its missing parents durably."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing or [folder]:  # its creator may have been killed before syncing
        with contextlib.suppress(PermissionError):  # a folder without read permission
            sync_folder(path.parent)


@contextlib.contextmanager
def exclusive(folder: Path, error: type[SslfeatError]) -> Iterator[None]:
    """Hold the folder's lock, or raise ``error`` at once if another process holds it. Killed processes release it."""
    try:
        _make_folders(folder)
        lock = FileLock(folder / LOCK_NAME, timeout=0)
        lock.acquire()
    except Timeout:
        raise _busy(folder, error) from None
    except OSError as cause:
        raise error(f"cannot write to {folder}: {cause.strerror or cause}") from cause
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def shared(folder: Path, error: type[SslfeatError], prepare: Callable[[], None], patience: float = PATIENCE) -> Iterator[None]:
    """Hold the folder's lock, shared with other processes and excluding ``exclusive``.

    The first process calls ``prepare`` while it holds the lock alone, and the last one removes temporary files of killed ones.
    Raises ``error`` if another process holds the lock exclusively for ``patience`` seconds.
    """
    if os.name == "nt":
        raise error("Windows has no locks that processes share: write with one process there")
    try:
        _make_folders(folder)
        lock = (folder / LOCK_NAME).open("a+b")
    except OSError as cause:
        raise error(f"cannot write to {folder}: {cause.strerror or cause}") from cause
    with lock:
        deadline = time.monotonic() + patience
        while not _joined(lock.fileno(), prepare):
            if time.monotonic() > deadline:
                raise _busy(folder, error)
            time.sleep(PAUSE)
        try:
            yield
        finally:
            if _locked(lock.fileno(), alone=True):
                remove_temporaries(folder)


def _joined(lock: int, prepare: Callable[[], None]) -> bool:
    if _locked(lock, alone=True):
        prepare()
    return _locked(lock, alone=False)  # can fail: flock releases one lock before it takes the other


def _locked(lock: int, alone: bool) -> bool:
    """Acquire or change the lock of this descriptor without waiting; the same lock as FileLock's on POSIX."""
    import fcntl

    try:
        fcntl.flock(lock, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # file system without locks
        error.filename = f"the lock {LOCK_NAME}"
        raise
    return True


def _busy(folder: Path, error: type[SslfeatError]) -> SslfeatError:
    return error(f"{folder} is being written by another process", "wait for it, or choose another folder")
