"""A features folder that was made anew takes the place of the old one: all of it or nothing, whatever happens.

The new one is built in ``.update`` inside the old. Once it is whole, a mark in it says so, and from then on the exchange is
carried through: by whoever comes next, if this process does not. While it lasts there is no ``run.json``, so nobody takes
a mixture for features.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sslfeat import store
from sslfeat.errors import FeaturesError
from sslfeat.failures import FAILURES_NAME
from sslfeat.layouts import FOLDERS, OWN_NAME
from sslfeat.run_record import MARK_NAME, RAN, RUN_NAME, UPDATE_NAME, commit_path, files_of, part_count, read_run
from sslfeat.stock import STOCK_NAME

COMMIT_NAME, PART_NUMBER = re.compile(r"part-(\d{5,})\.json"), re.compile(r"(\d{4,})\.")
ENCODERS = tuple(f"encoder-{ran}.onnx" for ran in RAN)  # a quantised encoder, kept beside the features that it made


def encoder_name(run: dict[str, Any]) -> str:
    """The name of the quantised encoder, if the run keeps one."""
    return f"encoder-{run['precision']['ran']}.onnx"


def own_files(folder: Path) -> Iterator[Path]:
    """The files of a features folder, ``run.json`` last: interrupted, a deletion is begun again."""
    yield from sorted(path for path in folder.glob("part-*.json") if COMMIT_NAME.fullmatch(path.name))
    for pattern in ("part-*", *(f"{name}/*" for name in FOLDERS)):
        found = (path for path in folder.glob(pattern) if OWN_NAME.fullmatch(path.relative_to(folder).as_posix()))
        yield from sorted(found)
    yield from (path for name in (*ENCODERS, FAILURES_NAME, STOCK_NAME, RUN_NAME) if (path := folder / name).exists())


def commit_numbers(folder: Path) -> list[int]:
    """The numbers of the parts that have a commit record, whatever it holds."""
    return sorted(int(name[1]) for path in folder.glob("part-*.json") if (name := COMMIT_NAME.fullmatch(path.name)))


def remove_folders(folder: Path) -> None:
    """Remove the folders that a layout made, unless they hold something else."""
    for path in (folder / name for name in FOLDERS):
        with contextlib.suppress(OSError):  # not there, not empty, or a link
            path.rmdir()


def update_place(out: Path) -> Path:
    """Where the new one is built. Raises FeaturesError if that leads elsewhere."""
    new = out / UPDATE_NAME
    if new.is_symlink():
        raise FeaturesError(f"{new} is a link: remove it, for an update would write and delete where it points")
    return new


def swap(out: Path) -> None:
    """Put ``out/.update``, which is whole, in the place of what ``out`` holds. Call it with the lock held."""
    store.write_atomic(out / UPDATE_NAME / MARK_NAME, b"")
    finish_swap(out)


def finish_swap(out: Path) -> None:
    """Carry an exchange through that was begun; nothing to do if none was. Raises FeaturesError if it was tampered with."""
    new = update_place(out)
    if not (new / MARK_NAME).exists() or not any((place / RUN_NAME).exists() for place in (new, out)):
        return
    store.remove_temporaries(out)
    if (new / RUN_NAME).exists():  # so what is in the old one's place is not the new one yet
        _exchange(new, out)
    store.sync_folder(new)
    for item in own_files(new):
        item.unlink()
    remove_folders(new)
    (new / MARK_NAME).unlink()  # the last, so that nothing is left over for ever
    with contextlib.suppress(OSError):  # somebody keeps other things in it
        new.rmdir()
    store.sync_folder(out)


def _exchange(new: Path, out: Path) -> None:
    run = read_run(new)
    (out / RUN_NAME).unlink(missing_ok=True)
    store.sync_folder(out)
    arrived = [path.relative_to(new).as_posix() for path in own_files(new)]
    for path in own_files(out):
        name = path.relative_to(out).as_posix()
        if name not in arrived and not _belongs(name, run):
            path.unlink()
    folders = [out, *(out / name for name in FOLDERS if (new / name).is_dir())]
    for folder in folders[1:]:
        store.make_folder(folder)
    for name in arrived:
        if name == RUN_NAME:  # the last: all others must have arrived for good
            for folder in folders:
                store.sync_folder(folder)
        (new / name).replace(out / name)
    store.sync_folder(out)


def _belongs(name: str, run: dict[str, Any]) -> bool:
    """Whether a complete run has a file of this name, which was moved before this process came to finish."""
    number = PART_NUMBER.search(name)
    if number is None:
        return name in (encoder_name(run), FAILURES_NAME, STOCK_NAME)
    part = int(number[1])
    return part < part_count(run) and name in (*files_of(run, part), commit_path(Path(), part).name)
