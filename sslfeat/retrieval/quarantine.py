"""Copies are moved aside, never deleted, and can be put back.

The plan of all moves is written first and done second: killed anywhere, the same call goes on, and undoing works from
whatever was reached. A picture is moved only if its file, and the kept one's, are still those that were embedded.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sslfeat import store
from sslfeat.errors import InputError, RetrievalError
from sslfeat.inputs import possible_paths
from sslfeat.retrieval.duplicates import Copy, Duplicates

PLAN_NAME = "moved.json"
FORMAT = 1


@dataclass(frozen=True)
class Move:
    """From one absolute path to another."""

    source: Path
    target: Path


@dataclass(frozen=True)
class Moved:
    """Pictures that were moved, and (path, reason) of those that were not."""

    moved: int
    failures: tuple[tuple[str, str], ...]


def apply(duplicates: Duplicates, folder: Path) -> Moved:
    """Move all copies but the kept ones into ``folder``, below it as they lay below their common folder.

    Raises RetrievalError if ``folder`` holds anything, but for what an interrupted call with the same plan left.
    """
    with _locked(folder):
        recorded = _read(folder) if (folder / PLAN_NAME).exists() else []
        plan, failures = _plan(duplicates, folder, {move.source for move in recorded if _there(move.target)})
        if recorded:
            if {move.source for move in plan} - {move.source for move in recorded}:
                raise RetrievalError(
                    f"{folder} holds copies that were moved before: choose another folder, or undo that first"
                )
        else:
            others = [path.name for path in folder.iterdir() if path.name != store.LOCK_NAME]
            if others:
                raise RetrievalError(f"{folder} holds other files ({others[0]}, ...): choose one that is new or empty")
            store.write_atomic(folder / PLAN_NAME, _bytes(plan))
        wanted = {move.source for move in plan}
        for move in recorded or plan:
            if move.source in wanted:
                failures += _do(move.source, move.target)
        return Moved(sum(_there(move.target) for move in recorded or plan), tuple(failures))


def undo(folder: Path) -> Moved:
    """Put everything back that ``apply`` moved to ``folder``. What cannot be put back stays there, and is named."""
    if not (folder / PLAN_NAME).is_file():
        raise InputError(f"{folder} holds no {PLAN_NAME}: nothing was moved there by 'sslfeat dedupe --apply'")
    with _locked(folder):
        failures: list[tuple[str, str]] = []
        back = 0
        for move in _read(folder):
            if _there(move.target):
                problem = _do(move.target, move.source)
                failures += problem
                back += not problem
        if not failures:
            (folder / PLAN_NAME).unlink()
            for below in sorted(filter(Path.is_dir, folder.rglob("*")), reverse=True):  # the deepest first
                if not any(below.iterdir()):
                    below.rmdir()
        return Moved(back, tuple(failures))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with store.exclusive(folder, RetrievalError):
        store.remove_temporaries(folder)
        yield


def _plan(duplicates: Duplicates, folder: Path, moved: set[Path]) -> tuple[list[Move], list[tuple[str, str]]]:
    """The moves that are left, and what stays where it is and why."""
    sources: list[Path] = []
    failures: list[tuple[str, str]] = []
    for group in duplicates.groups:
        kept = _unchanged(group.kept)
        for copy in group.copies:
            if any(path in moved for path in _paths(copy)):
                continue
            source = _unchanged(copy)
            if source is None:
                failures.append((copy.path, "it is gone, or not the file that was embedded"))
            elif kept is None:
                failures.append((copy.path, f"left there: the kept {group.kept.path} is gone, or changed"))
            elif source.samefile(kept):
                failures.append((copy.path, f"it is the same file as the kept {group.kept.path}, by another name"))
            else:
                sources.append(source)
    if not sources:
        return [], failures
    root = os.path.commonpath([source.parent for source in sources])
    return [Move(source, folder.absolute() / source.relative_to(root)) for source in sources], failures


def _paths(copy: Copy) -> list[Path]:
    return [Path(os.path.abspath(os.fsdecode(path))) for path in possible_paths(copy.path)]


def _unchanged(copy: Copy) -> Path | None:
    """The path of a picture whose file is the one that was embedded."""
    for path in _paths(copy):
        with contextlib.suppress(OSError):
            if store.sha256_file(path) == copy.sha256:
                return path
    return None


def _there(path: Path) -> bool:
    return os.path.lexists(path)


def _do(source: Path, target: Path) -> list[tuple[str, str]]:
    """Move one file, whole or not at all; a failure in a list, or an empty one."""
    if not _there(source):
        return [] if _there(target) else [(shown(source), "it is gone")]
    if _there(target):
        return [(shown(source), f"{shown(target)} is there already")]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            source.rename(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            _copy_over(source, target)
        store.sync_folder(target.parent)
    except OSError as error:
        return [(shown(source), f"cannot be moved: {error.strerror}")]
    return []


def _copy_over(source: Path, target: Path) -> None:
    """To another file system: the copy is whole and durable under its name before the original goes."""
    temporary = target.with_name(
        f".{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]}{store.TEMPORARY_SUFFIX}"
    )
    shutil.copy2(source, temporary)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.rename(target)
    store.sync_folder(target.parent)
    source.unlink()


def shown(path: Path) -> str:
    """A path as text, as features folders write it."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _bytes(plan: list[Move]) -> bytes:
    moves = [
        {"from": os.fsencode(move.source).hex(), "to": os.fsencode(move.target).hex(), "name": shown(move.source)}
        for move in plan
    ]
    return store.json_bytes({"format": FORMAT, "moves": moves})


def _read(folder: Path) -> list[Move]:
    path = folder / PLAN_NAME
    try:
        value = json.loads(path.read_bytes())
        return [
            Move(*(Path(os.fsdecode(bytes.fromhex(move[end]))) for end in ("from", "to"))) for move in value["moves"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RetrievalError(f"{path} is damaged: move the pictures back by hand") from error
