"""Files that belong to a features folder, and their replacement by an updated version."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from sslfeat.data.manifest import MANIFEST_NAME
from sslfeat.errors import FeaturesError
from sslfeat.features.commits import commit_path
from sslfeat.features.failures import FAILURES_NAME
from sslfeat.features.formats import FOLDERS, OWN_NAME
from sslfeat.features.metadata import META_FOLDER, RAN, RUN_NAME, FeaturesMetadata, files_of, part_count, read_run
from sslfeat.storage import atomic, staged

COMMIT_NAME, PART_NUMBER = re.compile(r"part-(\d{5,})\.json"), re.compile(r"(\d{4,})\.")
INPUTS_NAME, FAILED_NAME = f"{META_FOLDER}/{MANIFEST_NAME}", f"{META_FOLDER}/{FAILURES_NAME}"
ENCODERS = tuple(f"{META_FOLDER}/encoder-{ran}.onnx" for ran in RAN)  # quantized encoder, stored with its features


def encoder_name(run: FeaturesMetadata) -> str:
    """Name of the quantized encoder within the folder."""
    return f"{META_FOLDER}/encoder-{run.precision['ran']}.onnx"


def commit_numbers(folder: Path) -> list[int]:
    """Numbers of the parts that have a commit record (not checked)."""
    return sorted(int(name[1]) for path in _commits(folder) if (name := COMMIT_NAME.fullmatch(path.name)))


def _commits(folder: Path) -> Iterator[Path]:
    return (path for path in (folder / META_FOLDER).glob("part-*.json") if COMMIT_NAME.fullmatch(path.name))


class FeaturesContents:
    """Implements ``staged.Contents``; the record is ``features.json``."""

    record, withdraws = RUN_NAME, True
    folders: tuple[str, ...] = (*FOLDERS, META_FOLDER)

    def files(self, folder: Path) -> Iterator[Path]:
        """Commit records first, so that no record refers to a deleted file; ``features.json`` last."""
        yield from sorted(_commits(folder))
        for pattern in ("part-*", *(f"{name}/*" for name in FOLDERS)):
            found = (path for path in folder.glob(pattern) if OWN_NAME.fullmatch(path.relative_to(folder).as_posix()))
            yield from sorted(found)
        yield from (path for name in (*ENCODERS, FAILED_NAME, INPUTS_NAME, RUN_NAME) if (path := folder / name).exists())

    def kept(self, new: Path) -> Callable[[str], bool]:
        """Predicate for the files of the new run that were moved by an interrupted exchange."""
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
    """Replace the contents of ``out`` by the complete ``out/.update``. The lock must be held."""
    staged.exchange(out, CONTENTS, FeaturesError)


def finish_exchange(out: Path) -> None:
    """Complete an interrupted exchange, if any. Raises FeaturesError if it was tampered with."""
    if staged.is_marked(out):
        atomic.remove_temporaries(out)
    staged.finish(out, CONTENTS, FeaturesError)
