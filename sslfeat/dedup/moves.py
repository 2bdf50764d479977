"""Moving copies to another folder, and undoing it; nothing is deleted.

All moves are written to a plan before they are performed: after an interruption the same call resumes, and undo works from
any state. An image is moved only if its file and the kept file are those that were embedded, and moved back
only if it is unchanged since.

A plan is untrusted input: it can only name images below one folder, with paths that stay inside that folder and the plan's
folder. ``apply`` leaves a receipt in the image folder; a plan without receipt is undone
only after confirmation.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sslfeat.data.names import ENDINGS, possible_paths
from sslfeat.data.read import is_plain
from sslfeat.dedup.near_duplicates import Copy, Duplicates
from sslfeat.dedup.verify import SAME_SCENE
from sslfeat.errors import InputError, RetrievalError
from sslfeat.storage import atomic
from sslfeat.storage.records import parse_record
from sslfeat.system.near import missing

PLAN_NAME = "moved.json"
RECEIPT = ".sslfeat-moved-"  # followed by digits of the plan's sha256; a hidden name that is never read as an image
FORMAT = 2
GONE = "it is gone"
_there = os.path.lexists


@dataclass(frozen=True)
class Move:
    """One image: path relative to the plan's root, path relative to the plan's folder, and sha256 of the file."""

    source: str  # paths as hexadecimal bytes
    target: str
    sha256: str
    name: str  # informative only

    def __post_init__(self) -> None:
        for path in (self.source, self.target):
            parts = Path(_path(path)).parts
            if not parts or Path(_path(path)).is_absolute() or ".." in parts:
                raise ValueError(f"{_path(path)!r} leads out of its folder")
        if os.path.splitext(_path(self.source))[1].lower() not in ENDINGS:
            raise ValueError(f"{_path(self.source)!r} is no image")


@dataclass(frozen=True)
class MovePlan:
    """All moves; ``root`` is the absolute common folder of the images."""

    root: str
    moves: tuple[Move, ...]
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.moves and not Path(_path(self.root)).is_absolute():
            raise ValueError("root is not absolute")

    def to_json(self) -> bytes:
        """The bytes of ``moved.json``."""
        return atomic.json_bytes(dataclasses.asdict(self))

    def sources(self) -> list[Path]:
        """Original paths of the images."""
        return [Path(_path(self.root), _path(move.source)) for move in self.moves]

    def receipt(self) -> Path:
        """Path of the receipt that ``apply`` writes for this plan."""
        return Path(_path(self.root), RECEIPT + hashlib.sha256(self.to_json()).hexdigest()[:32])


@dataclass(frozen=True)
class Moved:
    """Number of moved images, and (path, reason) of failures; ``before``: number moved by an earlier call.

    ``gone``: number of copies if none exists at its path, for example after a call with another folder; else 0.
    """

    moved: int
    failures: tuple[tuple[str, str], ...]
    before: int = 0
    gone: int = 0


def apply(duplicates: Duplicates, folder: Path, scenes: bool = False) -> Moved:
    """Move all images but the kept ones into ``folder``, with their paths relative to the common folder.

    With ``scenes`` other shots of the same scene are moved, too. Raises RetrievalError if ``folder`` contains anything but the
    output of an interrupted call with the same plan.
    """
    with _locked(folder):
        recorded = _read(folder) if (folder / PLAN_NAME).exists() else None
        done = _moved(recorded, folder) if recorded else set()
        plan, failures = _plan(duplicates, done, scenes)
        if recorded is not None:
            if set(plan.sources()) - set(recorded.sources()):
                raise RetrievalError(f"{folder} contains copies moved earlier: choose another folder, or undo that first")
        else:
            others = [path.name for path in folder.iterdir() if path.name != atomic.LOCK_NAME]
            if others:
                raise RetrievalError(f"{folder} contains other files ({others[0]}, ...): choose a new or empty folder")
        if failures and not plan.moves and not done and all(reason == GONE for _, reason in failures):
            _drop(folder)
            return Moved(0, (), gone=len(failures))
        sources, plan = set(plan.sources()), recorded or plan
        if plan.moves:
            with contextlib.suppress(PermissionError):  # without a receipt, undo needs confirmation
                atomic.write_atomic(plan.receipt(), b"")
        if recorded is None:  # after the receipt, so that there is never a plan without one
            atomic.write_atomic(folder / PLAN_NAME, plan.to_json())
        for move, source in zip(plan.moves, plan.sources(), strict=True):
            if source in sources:
                failures += _do(source, folder / _path(move.target))
        return Moved(len(_moved(plan, folder)), tuple(failures), len(done))


def undo(folder: Path, trusted: bool = False) -> Moved:
    """Move everything back that ``apply`` moved to ``folder``, which may have been renamed.

    Images that cannot be moved back stay and are reported; the folder is removed at the end. Raises RetrievalError for a plan
    without receipt, unless ``trusted``.
    """
    if not os.path.lexists(folder):
        raise missing(folder, "nothing was moved there, or everything was moved back")
    if not (folder / PLAN_NAME).is_file():
        raise InputError(f"{folder} contains no {PLAN_NAME}: nothing was moved there, or everything was moved back")
    with _locked(folder):
        plan = _read(folder)
        if plan.moves and not trusted and not plan.receipt().is_file():
            raise RetrievalError(
                f"{folder / PLAN_NAME} would move {len(plan.moves)} files to {shown(Path(_path(plan.root)))}, but there is no "
                "evidence that they came from there: check it, and add --yes if it is correct"
            )
        failures: list[tuple[str, str]] = []
        back = 0
        for move, source in zip(plan.moves, plan.sources(), strict=True):
            problem = _put_back(folder, move, source)
            back += problem is None
            failures += [] if problem in (None, "") else [(shown(source), str(problem))]
        if not failures:
            (folder / PLAN_NAME).unlink()
            plan.receipt().unlink(missing_ok=True)
            for below in sorted(filter(Path.is_dir, folder.rglob("*")), reverse=True):  # the deepest first
                if not any(below.iterdir()):
                    below.rmdir()
    if not failures and [path.name for path in folder.iterdir()] == [atomic.LOCK_NAME]:
        _drop(folder)
    return Moved(back, tuple(failures))


def _drop(folder: Path) -> None:
    """Remove a folder that contains only its lock."""
    (folder / atomic.LOCK_NAME).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # may be in use
        folder.rmdir()


def moved_before(folder: Path, names: Iterable[str]) -> set[str]:
    """The ``names`` (paths, as in features) whose images ``apply`` moved to ``folder``."""
    done = _moved(_read(folder), folder) if (folder / PLAN_NAME).exists() else set()
    return {name for name in names if done and not done.isdisjoint(_paths(name))}


def _put_back(folder: Path, move: Move, source: Path) -> str | None:
    """Move one file back: None on success, "" if it was moved back earlier, or the reason of a failure."""
    target = folder / _path(move.target)
    if not _there(target):
        return "" if _is_file(source, move.sha256) else f"it is not in {folder} any more"
    if target.is_symlink() or not target.resolve().is_relative_to(folder.resolve()):
        return f"{shown(target)} is a link"
    if not _is_file(target, move.sha256):
        return f"{shown(target)} is not the file that was moved"
    if not source.parent.is_dir():
        return f"the folder {shown(source.parent)} is gone"
    problem = _do(target, source)
    return problem[0][1] if problem else None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with atomic.exclusive(folder, RetrievalError):
        atomic.remove_temporaries(folder)
        yield


def _plan(duplicates: Duplicates, moved: set[Path], scenes: bool) -> tuple[MovePlan, list[tuple[str, str]]]:
    """Remaining moves, and images that are not moved with the reason."""
    sources: list[tuple[Path, str]] = []
    failures: list[tuple[str, str]] = []
    for group in duplicates.groups:
        kept = _unchanged(group.kept)
        for copy in group.copies:
            if any(path in moved for path in _paths(copy.path)) or (copy.verdict == SAME_SCENE and not scenes):
                continue
            source = _unchanged(copy)
            if source is None:
                inside = not is_plain(os.fsencode(copy.path))
                changed = "it is not the file that was embedded" if any(map(_there, _paths(copy.path))) else GONE
                failures.append((copy.path, "left there: it is no file of its own" if inside else changed))
            elif kept is None:
                failures.append((copy.path, f"left there: the kept {group.kept.path} is gone, or changed"))
            elif source.suffix.lower() not in ENDINGS:
                failures.append((copy.path, "left there: its name does not end like an image's"))
            elif source.samefile(kept):
                failures.append((copy.path, f"it is the same file as the kept {group.kept.path}, by another name"))
            else:
                sources.append((source, str(copy.sha256)))
    root = os.path.commonpath([source.parent for source, _ in sources]) if sources else ""
    moves = []
    for source, sha256 in sources:
        below = os.fsencode(source.relative_to(root)).hex()
        moves.append(Move(below, below, sha256, shown(source)))
    return MovePlan(os.fsencode(root).hex(), tuple(moves)), failures


def _moved(plan: MovePlan, folder: Path) -> set[Path]:
    """Images of a plan in its folder, by original path."""
    there = (_there(folder / _path(move.target)) for move in plan.moves)
    return {source for source, moved in zip(plan.sources(), there, strict=True) if moved}


def _paths(name: str) -> list[Path]:
    return [Path(os.path.abspath(os.fsdecode(path))) for path in possible_paths(name)]


def _unchanged(copy: Copy) -> Path | None:
    """Path of an image whose file is unchanged since it was embedded."""
    for path in _paths(copy.path):
        with contextlib.suppress(OSError):
            if atomic.sha256_file(path) == copy.sha256:
                return path
    return None


def _do(source: Path, target: Path) -> list[tuple[str, str]]:
    """Move one file atomically; returns a list with the failure, or an empty list."""
    if not _there(source):
        return [] if _there(target) else [(shown(source), GONE)]
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
        atomic.sync_folder(target.parent)
    except OSError as error:
        return [(shown(source), f"cannot be moved: {error.strerror}")]
    return []


def _copy_over(source: Path, target: Path) -> None:
    """Move to another file system: the original is deleted after the copy is durable."""
    temporary = target.with_name(f".{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]}{atomic.TEMPORARY_SUFFIX}")
    shutil.copy2(source, temporary)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.rename(target)
    atomic.sync_folder(target.parent)
    source.unlink()


def shown(path: Path) -> str:
    """A path as text, as in features folders."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _read(folder: Path) -> MovePlan:
    path = folder / PLAN_NAME
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RetrievalError(f"{path} cannot be read: {error.strerror}") from error
    return parse_record(MovePlan, data, str(path), RetrievalError)


def _path(digits: str) -> str:
    return os.fsdecode(bytes.fromhex(digits))


def _is_file(path: Path, sha256: str) -> bool:
    with contextlib.suppress(OSError):
        return atomic.sha256_file(path) == sha256
    return False
