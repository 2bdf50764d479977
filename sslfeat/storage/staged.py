"""Atomic replacement of a folder's contents.

The new state is written to ``.update`` inside the folder. A mark in it is written when it is complete; from then on, the
replacement is always completed, by the next process if this one is killed.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from sslfeat.errors import SslfeatError
from sslfeat.storage import atomic

UPDATE, MARK = ".update", "complete"


class Contents(Protocol):
    """Contents of a kind of folder. ``record`` is its defining file, which is moved last.

    With ``withdraws`` the old record is removed first, so that a mixture is never read; without, readers wait
    while there is a mark. ``folders`` are the names of its subfolders.
    """

    record: str
    withdraws: bool
    folders: tuple[str, ...]

    def files(self, folder: Path) -> Iterable[Path]:
        """Existing files, the record last, so that an interrupted deletion can be repeated."""
        ...

    def kept(self, new: Path) -> Callable[[str], bool]:
        """Old files to keep although they are not in ``new``."""
        ...


def place(out: Path, error: type[SslfeatError]) -> Path:
    """Folder for the new state. Raises ``error`` if it is a link."""
    new = out / UPDATE
    if new.is_symlink():
        raise error(f"{new} is a link: remove it, for an update would write and delete where it points")
    return new


def is_marked(out: Path) -> bool:
    """Whether a replacement was started and not completed."""
    return (out / UPDATE / MARK).exists()


def exchange(out: Path, contents: Contents, error: type[SslfeatError]) -> None:
    """Replace the contents of ``out`` by the complete ``out/.update``. Requires the lock."""
    atomic.write_atomic(out / UPDATE / MARK, b"")
    finish(out, contents, error)


def finish(out: Path, contents: Contents, error: type[SslfeatError]) -> None:
    """Complete a started replacement, if any. Requires the lock."""
    new = place(out, error)
    if not is_marked(out) or not any((folder / contents.record).exists() for folder in (new, out)):
        return
    if (new / contents.record).exists():  # so the file in place is still the old one
        _move(new, out, contents)
    atomic.sync_folder(new)
    for item in contents.files(new):
        item.unlink()
    remove_folders(new, contents)
    (new / MARK).unlink()  # last, so that nothing is left behind
    with contextlib.suppress(OSError):  # contains other files
        new.rmdir()
    atomic.sync_folder(out)


def remove_folders(folder: Path, contents: Contents) -> None:
    """Remove subfolders unless they contain other files."""
    for name in contents.folders:
        with contextlib.suppress(OSError):  # missing, not empty, or a link
            (folder / name).rmdir()


def _move(new: Path, out: Path, contents: Contents) -> None:
    kept = contents.kept(new)
    if contents.withdraws:
        record = out / contents.record
        if record.exists():
            record.unlink()
            atomic.sync_folder(record.parent)
    arriving = [path.relative_to(new).as_posix() for path in contents.files(new)]
    for path in contents.files(out):
        name = path.relative_to(out).as_posix()
        if name not in arriving and not kept(name):
            path.unlink()
    folders = [out, *(out / name for name in contents.folders if (new / name).is_dir())]
    for folder in folders[1:]:
        atomic.make_folder(folder)
    for name in arriving:
        if name == contents.record:  # all other files must be durable first
            for folder in folders:
                atomic.sync_folder(folder)
        (new / name).replace(out / name)
    for folder in folders:
        atomic.sync_folder(folder)


def replace(made: Path, out: Path) -> None:
    """Replace ``out`` by ``made``, both files or both folders; an old folder is then deleted."""
    old = made.parent / f"old-{out.name}"
    replaced = out.is_dir()
    if replaced:
        out.rename(old)
    try:
        made.rename(out)
    except OSError:
        if replaced:
            old.rename(out)
        raise
    if replaced:
        shutil.rmtree(old, ignore_errors=True)
