"""Features folders: what is in them, and reading them.

``run.json`` says what made the folder, ``inputs.arrow`` of what; ``part-NNNNN.parquet`` (or what ``layouts.py`` names)
hold the rows, ``part-NNNNN.json`` commit them, ``failures.csv`` lists the pictures that gave none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sslfeat import store
from sslfeat.errors import FeaturesError
from sslfeat.layouts import part_files, read_columns, read_embeddings

FORMAT = 2
RUN_NAME = "run.json"
CHECK = "check"  # the field of run.json that holds the hash of the others


def commit_path(folder: Path, number: int) -> Path:
    """Where the commit record of part ``number`` is."""
    return folder / f"part-{number:05d}.json"


@dataclass(frozen=True)
class Commit:
    """A part that counts: its ``files`` with their sha256, its rows, and (path, reason) of the inputs that gave none."""

    files: dict[str, str]
    rows: int
    failures: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, files: dict[str, bytes], rows: int, failures: tuple[tuple[str, str], ...]) -> Commit:
        """The record for files of these names and contents."""
        return cls({name: hashlib.sha256(data).hexdigest() for name, data in files.items()}, rows, failures)

    def to_json(self) -> bytes:
        """The record's bytes."""
        return store.json_bytes({"files": self.files, "rows": self.rows, "failures": self.failures})


def read_commit(folder: Path, number: int, files: Sequence[str]) -> Commit | None:
    """The commit record of a part whose ``files`` have the recorded hashes; None if one is missing or differs."""
    try:
        value = json.loads(commit_path(folder, number).read_bytes())
        failures = tuple((path, reason) for path, reason in value["failures"])
        commit = Commit(value["files"], int(value["rows"]), failures)
        intact = sorted(commit.files) == sorted(files) and all(
            store.sha256_file(folder / name) == sha256 for name, sha256 in commit.files.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # a record that cannot be read commits nothing
        return None
    return commit if intact else None


def run_bytes(run: dict[str, Any]) -> bytes:
    """``run.json`` for these fields, with their own hash, so that a flipped bit is noticed."""
    return store.json_bytes({**run, CHECK: hashlib.sha256(store.json_bytes(run)).hexdigest()})


def read_run(folder: Path) -> dict[str, Any]:
    """``run.json`` of a features folder. Raises FeaturesError if it is missing, damaged, or of another format."""
    path = folder / RUN_NAME
    try:
        value = json.loads(path.read_bytes())
        found, check = value["format"], value.pop(CHECK, None)
    except OSError as error:
        raise FeaturesError(
            f"{folder} is not a features folder: {path.name} cannot be read ({error.strerror})"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FeaturesError(f"{path} is damaged: embed the pictures again with --overwrite") from error
    if found != FORMAT:
        raise FeaturesError(f"{path} has format {found!r}; this sslfeat reads {FORMAT}: embed the pictures again")
    if check != hashlib.sha256(store.json_bytes(value)).hexdigest():
        raise FeaturesError(f"{path} was altered: embed the pictures again with --overwrite")
    run: dict[str, Any] = value
    return run


def part_count(run: dict[str, Any]) -> int:
    """How many parts a run has when it is complete."""
    return -(-int(run["inputs"]["count"]) // int(run["part_size"]))


def files_of(run: dict[str, Any], number: int) -> tuple[str, ...]:
    """The names of the files of a part of this run."""
    return part_files(run["layout"], number, part_count(run))


@dataclass(frozen=True)
class Part:
    """Some rows: ``columns`` path, sha256, width, height and label; ``embeddings`` float32 (n, D)."""

    columns: pa.Table
    embeddings: npt.NDArray[np.float32]


class FeaturesFolder:
    """A features folder on disk, read a part at a time: it may be larger than memory."""

    def __init__(self, folder: str | Path) -> None:
        """Raises FeaturesError if ``folder`` is no features folder."""
        self.folder = Path(folder)
        self.run = read_run(self.folder)
        self.dim: int = self.run["encoder"]["card"]["dim"]
        self.fingerprint: str = self.run["encoder"]["fingerprint"]

    def rows(self) -> int:
        """How many rows there are, going by the records, whose files are not looked at. Raises FeaturesError."""
        total = 0
        for number in range(part_count(self.run)):
            path = commit_path(self.folder, number)
            try:
                total += int(json.loads(path.read_bytes())["rows"])
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise FeaturesError(f"{path} is missing or damaged: {_cure(self.folder)}") from error
        return total

    def parts(self) -> Iterator[Part]:
        """The parts in order. Raises FeaturesError at one that is missing or whose hash differs."""
        for number in range(part_count(self.run)):
            files = files_of(self.run, number)
            if read_commit(self.folder, number, files) is None:
                raise FeaturesError(f"{self.folder / files[0]} is missing or damaged: {_cure(self.folder)}")
            yield Part(read_columns(self.folder, files), read_embeddings(self.folder, files, self.dim))


def _cure(folder: Path) -> str:
    return f"complete it with 'sslfeat embed' as before, or with 'sslfeat repair {folder}'"


@dataclass(frozen=True)
class Features:
    """A features folder in memory: ``embeddings`` float32 (N, D), with ``paths`` and ``labels`` (None: no label).

    ``contents`` int64 (N,) are equal for pictures whose files are, in this process; None where that is not known.
    """

    embeddings: npt.NDArray[np.float32]
    paths: list[str]
    labels: list[str | None]
    run: dict[str, Any]
    contents: npt.NDArray[np.int64] | None = None

    @classmethod
    def load(cls, folder: str | Path) -> Features:
        """Read a complete features folder. Raises FeaturesError if a part is missing or its hash differs."""
        opened = FeaturesFolder(folder)
        embeddings = np.empty((opened.rows(), opened.dim), np.float32)
        tables, start = [], 0
        for part in opened.parts():
            embeddings[start : start + len(part.embeddings)] = part.embeddings
            tables.append(part.columns.select(("path", "label", "sha256")))
            start += len(part.embeddings)
        table = pa.concat_tables(tables)
        contents = contents_of(table["sha256"])
        return cls(embeddings, table["path"].to_pylist(), table["label"].to_pylist(), opened.run, contents)


def contents_of(sha256: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """A number for each picture, (N,), the same in this process for files of one content."""
    return np.fromiter(map(hash, sha256.to_pylist()), np.int64, len(sha256))
