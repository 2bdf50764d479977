"""A folder's new state takes the place of its old one: all of it or nothing, whatever happens.

It is written into ``.update`` inside the folder. Once it is whole, a mark in it says so, and from then on the exchange is
carried through: by whoever comes next, if this process does not.
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
    """What a kind of folder holds. ``record`` is the file that makes it one: it arrives last.

    With ``withdraws`` the old record goes first, so that nobody takes a mixture for either state; without, readers wait
    while there is a mark. ``folders`` are the names of its subfolders.
    """

    record: str
    withdraws: bool
    folders: tuple[str, ...]

    def files(self, folder: Path) -> Iterable[Path]:
        """Its files as far as they are there, the record last: interrupted, a deletion is begun again."""
        ...

    def kept(self, new: Path) -> Callable[[str], bool]:
        """Which old files stay although ``new`` has none of that name."""
        ...


def place(out: Path, error: type[SslfeatError]) -> Path:
    """Where the new state is written. Raises ``error`` if that leads elsewhere."""
    new = out / UPDATE
    if new.is_symlink():
        raise error(f"{new} is a link: remove it, for an update would write and delete where it points")
    return new


def is_marked(out: Path) -> bool:
    """Whether an exchange has begun that was not carried through yet."""
    return (out / UPDATE / MARK).exists()


def exchange(out: Path, contents: Contents, error: type[SslfeatError]) -> None:
    """Put ``out/.update``, which is whole, in the place of what ``out`` holds. Call it with the lock held."""
    atomic.write_atomic(out / UPDATE / MARK, b"")
    finish(out, contents, error)


def finish(out: Path, contents: Contents, error: type[SslfeatError]) -> None:
    """Carry an exchange through that was begun; nothing to do if none was. Call it with the lock held."""
    new = place(out, error)
    if not is_marked(out) or not any((folder / contents.record).exists() for folder in (new, out)):
        return
    if (new / contents.record).exists():  # so what is in the old one's place is not the new one yet
        _move(new, out, contents)
    atomic.sync_folder(new)
    for item in contents.files(new):
        item.unlink()
    remove_folders(new, contents)
    (new / MARK).unlink()  # the last, so that nothing is left over for ever
    with contextlib.suppress(OSError):  # somebody keeps other things in it
        new.rmdir()
    atomic.sync_folder(out)


def remove_folders(folder: Path, contents: Contents) -> None:
    """Remove its subfolders, unless they hold something else."""
    for name in contents.folders:
        with contextlib.suppress(OSError):  # not there, not empty, or a link
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
        if name == contents.record:  # all others must have arrived for good
            for folder in folders:
                atomic.sync_folder(folder)
        (new / name).replace(out / name)
    for folder in folders:
        atomic.sync_folder(folder)


def replace(made: Path, out: Path) -> None:
    """Put the file or folder ``made`` in the place of ``out``, which is the same; an old folder is deleted then."""
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
