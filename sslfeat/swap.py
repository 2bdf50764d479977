"""A features folder that was made anew takes the place of the old one: all of it or nothing, whatever happens.

The new one is built in ``.update`` inside the old. Once it is whole, a mark in it says so, and from then on the exchange is
carried through: by whoever comes next, if this process does not. While it lasts there is no ``run.json``, so nobody takes
a mixture for features.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sslfeat import store
from sslfeat.failures import FAILURES_NAME
from sslfeat.features import RUN_NAME, commit_path, files_of, part_count, read_run
from sslfeat.layouts import FOLDERS
from sslfeat.stock import STOCK_NAME

UPDATE_NAME = ".update"
MARK_NAME = "complete"
ENCODERS = "encoder-*.onnx"  # a quantised encoder, kept beside the features that it made


def encoder_name(run: dict[str, Any]) -> str:
    """The name of the quantised encoder, if the run keeps one."""
    return f"encoder-{run['precision']['ran']}.onnx"


def own_files(folder: Path) -> Iterator[Path]:
    """The files of a features folder, ``run.json`` last: interrupted, a deletion is begun again."""
    yield from sorted(folder.glob("part-*.json"))
    yield from sorted(folder.glob("part-*.parquet"))
    for name in FOLDERS:
        yield from sorted((folder / name).glob("*"))
    yield from sorted(folder.glob(ENCODERS))
    yield from (path for name in (FAILURES_NAME, STOCK_NAME, RUN_NAME) if (path := folder / name).exists())


def swap(out: Path) -> None:
    """Put ``out/.update``, which is whole, in the place of what ``out`` holds. Call it with the lock held."""
    store.write_atomic(out / UPDATE_NAME / MARK_NAME, b"")
    finish_swap(out)


def finish_swap(out: Path) -> None:
    """Carry an exchange through that was begun; nothing to do if none was."""
    new = out / UPDATE_NAME
    if not (new / MARK_NAME).exists():
        return
    store.remove_temporaries(out)
    if (new / RUN_NAME).exists():  # so what is in the old one's place is not the new one yet
        _exchange(new, out)
    store.sync_folder(new)
    for item in new.iterdir():
        if item.is_dir():
            shutil.rmtree(item)
        elif item.name != MARK_NAME:
            item.unlink()
    (new / MARK_NAME).unlink()  # the last, so that nothing is left over for ever
    new.rmdir()
    store.sync_folder(out)


def _exchange(new: Path, out: Path) -> None:
    (out / RUN_NAME).unlink(missing_ok=True)
    store.sync_folder(out)
    wanted = list(_names(read_run(new)))
    kept = set(wanted)
    for path in own_files(out):
        if path.relative_to(out).as_posix() not in kept:
            path.unlink()
    folders = [out, *(out / name for name in FOLDERS if (new / name).is_dir())]
    for folder in folders[1:]:
        store.make_folder(folder)
    for name in wanted:
        if name == RUN_NAME:  # the last: all others must have arrived for good
            for folder in folders:
                store.sync_folder(folder)
        if (new / name).exists():  # or it was moved before this process came to finish
            (new / name).replace(out / name)
    store.sync_folder(out)


def _names(run: dict[str, Any]) -> Iterator[str]:
    """Every file of a complete run, ``run.json`` last."""
    for number in range(part_count(run)):
        yield from files_of(run, number)
        yield commit_path(Path(), number).name
    yield from (encoder_name(run), FAILURES_NAME, STOCK_NAME, RUN_NAME)
