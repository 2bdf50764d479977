"""The files of a features folder: which are its own, and how a new state takes their place."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sslfeat.data.manifest import MANIFEST_NAME
from sslfeat.errors import FeaturesError
from sslfeat.features.failures import FAILURES_NAME
from sslfeat.features.formats import FOLDERS, OWN_NAME
from sslfeat.features.metadata import META_FOLDER, RAN, RUN_NAME, commit_path, files_of, part_count, read_run
from sslfeat.storage import atomic, staged

COMMIT_NAME, PART_NUMBER = re.compile(r"part-(\d{5,})\.json"), re.compile(r"(\d{4,})\.")
INPUTS_NAME, FAILED_NAME = f"{META_FOLDER}/{MANIFEST_NAME}", f"{META_FOLDER}/{FAILURES_NAME}"
ENCODERS = tuple(f"{META_FOLDER}/encoder-{ran}.onnx" for ran in RAN)  # a quantized encoder, kept beside the features that it made


def encoder_name(run: dict[str, Any]) -> str:
    """The name of the quantized encoder within the folder, if the run keeps one."""
    return f"{META_FOLDER}/encoder-{run['precision']['ran']}.onnx"


def commit_numbers(folder: Path) -> list[int]:
    """The numbers of the parts that have a commit record, whatever it holds."""
    return sorted(int(name[1]) for path in _commits(folder) if (name := COMMIT_NAME.fullmatch(path.name)))


def _commits(folder: Path) -> Iterator[Path]:
    return (path for path in (folder / META_FOLDER).glob("part-*.json") if COMMIT_NAME.fullmatch(path.name))


class FeaturesContents:
    """See ``staged.Contents``: ``features.json`` is the record."""

    record, withdraws = RUN_NAME, True
    folders: tuple[str, ...] = (*FOLDERS, META_FOLDER)

    def files(self, folder: Path) -> Iterator[Path]:
        """Commit records first, so that no part counts whose file is gone; ``features.json`` last."""
        yield from sorted(_commits(folder))
        for pattern in ("part-*", *(f"{name}/*" for name in FOLDERS)):
            found = (path for path in folder.glob(pattern) if OWN_NAME.fullmatch(path.relative_to(folder).as_posix()))
            yield from sorted(found)
        yield from (path for name in (*ENCODERS, FAILED_NAME, INPUTS_NAME, RUN_NAME) if (path := folder / name).exists())

    def kept(self, new: Path) -> Callable[[str], bool]:
        """What the complete new run has, which was moved before this process came to finish."""
        run = read_run(new)

        def belongs(name: str) -> bool:
            number = PART_NUMBER.search(name)
            if number is None:
                return name in (encoder_name(run), FAILED_NAME, INPUTS_NAME)
            part = int(number[1])
            return part < part_count(run) and name in (*files_of(run, part), commit_path(Path(), part).as_posix())

        return belongs


CONTENTS = FeaturesContents()


def exchange(out: Path) -> None:
    """Put ``out/.update``, which is whole, in the place of what ``out`` holds. Call it with the lock held."""
    staged.exchange(out, CONTENTS, FeaturesError)


def finish_exchange(out: Path) -> None:
    """Carry an exchange through that was begun; nothing to do if none was. Raises FeaturesError if it was tampered with."""
    if staged.is_marked(out):
        atomic.remove_temporaries(out)
    staged.finish(out, CONTENTS, FeaturesError)
