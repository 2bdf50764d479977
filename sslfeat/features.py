"""Features folders: what is in them, reading them, and proving that they are what was written.

``run.json`` says what made the folder, ``part-NNNNN.parquet`` hold the rows, ``part-NNNNN.json`` commit them,
``failures.csv`` lists the pictures that gave none.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from sslfeat import store
from sslfeat.errors import FeaturesError
from sslfeat.failures import FAILURES_NAME
from sslfeat.inputs import possible_paths

FORMAT = 1
RUN_NAME = "run.json"


def part_path(folder: Path, number: int) -> Path:
    """Where the rows of part ``number`` are."""
    return folder / f"part-{number:05d}.parquet"


def commit_path(folder: Path, number: int) -> Path:
    """Where the commit record of part ``number`` is."""
    return folder / f"part-{number:05d}.json"


@dataclass(frozen=True)
class Commit:
    """A part that counts: its file's sha256, its rows, and (path, reason) of the inputs that gave none."""

    sha256: str
    rows: int
    failures: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, data: bytes, rows: int, failures: tuple[tuple[str, str], ...]) -> Commit:
        """The record for a part's bytes."""
        return cls(hashlib.sha256(data).hexdigest(), rows, failures)

    def to_json(self) -> bytes:
        """The record's bytes."""
        return store.json_bytes({"sha256": self.sha256, "rows": self.rows, "failures": self.failures})


def read_commit(folder: Path, number: int) -> Commit | None:
    """The commit record of a part whose file has the recorded hash; None if either is missing or differs."""
    try:
        value = json.loads(commit_path(folder, number).read_bytes())
        commit = Commit(value["sha256"], value["rows"], tuple((path, reason) for path, reason in value["failures"]))
        intact = store.sha256_file(part_path(folder, number)) == commit.sha256
    except (OSError, ValueError, KeyError, TypeError):  # a record that cannot be read commits nothing
        return None
    return commit if intact else None


def read_run(folder: Path) -> dict[str, Any]:
    """``run.json`` of a features folder. Raises FeaturesError if it is missing, damaged, or of another format."""
    path = folder / RUN_NAME
    try:
        value = json.loads(path.read_bytes())
        found = value["format"]
    except OSError as error:
        raise FeaturesError(
            f"{folder} is not a features folder: {path.name} cannot be read ({error.strerror})"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise FeaturesError(f"{path} is damaged: embed the images again with --overwrite") from error
    if found != FORMAT:
        raise FeaturesError(f"{path} has format {found!r}; this sslfeat reads format {FORMAT}: upgrade sslfeat")
    run: dict[str, Any] = value
    return run


@dataclass(frozen=True)
class Features:
    """A features folder in memory: ``embeddings`` float32 (N, D), with ``paths`` and ``labels`` (None: no label)."""

    embeddings: npt.NDArray[np.float32]
    paths: list[str]
    labels: list[str | None]
    run: dict[str, Any]

    @classmethod
    def load(cls, folder: str | Path) -> Features:
        """Read a complete features folder. Raises FeaturesError if a part is missing or its hash differs."""
        folder = Path(folder)
        run = read_run(folder)
        tables = []
        for number in range(part_count(run)):
            if read_commit(folder, number) is None:
                raise FeaturesError(
                    f"{part_path(folder, number)} is missing or damaged: run the same 'sslfeat embed' again to complete it"
                )
            tables.append(pq.read_table(part_path(folder, number)))
        table = pa.concat_tables(tables).combine_chunks()
        dim = run["encoder"]["card"]["dim"]
        column = table["embedding"].combine_chunks()
        flat = column.flatten() if not isinstance(column, pa.ChunkedArray) else pa.array([], pa.float32())
        embeddings: npt.NDArray[np.float32] = flat.to_numpy(zero_copy_only=False).reshape(-1, dim)
        return cls(embeddings, table["path"].to_pylist(), table["label"].to_pylist(), run)


def part_count(run: dict[str, Any]) -> int:
    """How many parts a run has when it is complete."""
    return -(-int(run["inputs"]["count"]) // int(run["part_size"]))


def verify(folder: Path, sources: bool = False) -> Iterator[str]:
    """Faults of a features folder, one line each; none means that it is whole and unaltered.

    Rehashes every part, compares its rows with its record and ``failures.csv`` with the records. With ``sources``
    the pictures are read again too, and those that changed or vanished are named.
    """
    run = read_run(folder)
    failures: list[tuple[str, str]] = []
    inputs = 0
    for number in range(part_count(run)):
        commit = read_commit(folder, number)
        if commit is None:
            yield f"{part_path(folder, number)}: missing, uncommitted, or its sha256 differs from the record"
            continue
        table = pq.read_table(part_path(folder, number), columns=["path", "sha256"])
        if table.num_rows != commit.rows:
            yield f"{part_path(folder, number)}: {table.num_rows} rows, {commit.rows} were recorded"
        failures += commit.failures
        inputs += commit.rows + len(commit.failures)
        if sources:
            yield from _changed_sources(table)
    if inputs != run["inputs"]["count"]:
        yield f"{folder}: {inputs} inputs are accounted for, {run['inputs']['count']} were given"
    if _read_failures(folder) != [list(failure) for failure in failures]:
        yield f"{folder / FAILURES_NAME}: differs from the failures on record"


def _read_failures(folder: Path) -> list[list[str]] | None:
    try:
        return list(csv.reader(io.StringIO((folder / FAILURES_NAME).read_bytes().decode(), newline="")))[1:]
    except (OSError, UnicodeDecodeError, csv.Error):
        return None


def _changed_sources(table: pa.Table) -> Iterator[str]:
    for path, sha256 in zip(table["path"].to_pylist(), table["sha256"].to_pylist(), strict=True):
        candidates = [Path(os.fsdecode(raw)) for raw in possible_paths(path)]
        try:
            found = [candidate for candidate in candidates if os.path.lexists(candidate)] or candidates[:1]
            if sha256 not in map(store.sha256_file, found):
                yield f"{path}: changed since it was embedded"
        except OSError as error:
            yield f"{path}: {error.strerror}"
