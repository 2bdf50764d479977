"""Files that survive a crash: written whole or not at all, hashed, and guarded by one lock a folder, which some may share."""

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
TEMPORARY_SUFFIX = ".sslfeat.tmp"  # nobody else's, for what is left over is deleted
PATIENCE, PAUSE = 60.0, 0.1  # seconds to wait for a lock that may be shared, and between two attempts


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` so that a reader, or a crash, sees the old file or the new one, never a part."""
    temporary = path.with_name(f".{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")  # two who write the same file have two
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
        elif isinstance(error, OSError) and error.filename is None:  # as when the disk is full
            error.filename = str(path)
        raise
    sync_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Create a folder, durably, unless it is there."""
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable (a rename is only safe once its folder is)."""
    if os.name == "nt":  # Windows cannot open a folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_temporaries(folder: Path) -> None:
    """Delete what a killed ``write_atomic`` left behind. Call it with the folder's lock held."""
    for leftover in folder.rglob(f".*{TEMPORARY_SUFFIX}"):
        if leftover.is_file():
            leftover.unlink()


def sha256_file(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_bytes(value: Any) -> bytes:
    """Readable JSON with a fixed key order, so that equal values give equal bytes; NaN and infinity are null."""
    return (json.dumps(finite(value), indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def finite(value: Any) -> Any:
    """``value`` with None for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _make_folders(folder: Path) -> None:
    """Create a folder and those above it, durably, as far as they are not there."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing or [folder]:  # who made it may have died before this
        with contextlib.suppress(PermissionError):  # a folder that may be entered but not read
            sync_folder(path.parent)


@contextlib.contextmanager
def exclusive(folder: Path, error: type[SslfeatError]) -> Iterator[None]:
    """Hold the folder's lock, or raise ``error`` at once if another process has it. A killed holder frees it."""
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
    """Hold the folder's lock together with others who share it, while nobody has it ``exclusive``.

    The first of them calls ``prepare`` while it has the lock alone, and the last to leave removes what killed ones left over.
    Raises ``error`` if another process keeps the lock to itself for ``patience`` seconds.
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
    return _locked(lock, alone=False)  # not for sure even after the other: flock gives one up before it takes the other


def _locked(lock: int, alone: bool) -> bool:
    """Whether the lock on this descriptor could be had, or changed, at once. It is the one that FileLock takes on POSIX."""
    import fcntl

    try:
        fcntl.flock(lock, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # a file system that has no locks
        error.filename = f"the lock {LOCK_NAME}"
        raise
    return True


def _busy(folder: Path, error: type[SslfeatError]) -> SslfeatError:
    return error(f"{folder} is being written by another process", "wait for it, or choose another folder")
