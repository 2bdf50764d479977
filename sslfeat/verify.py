"""Proving that a features folder is what was written, and that the pictures are what was embedded."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from sslfeat import store
from sslfeat.errors import FeaturesError
from sslfeat.failures import FAILURES_NAME, failures_bytes
from sslfeat.features import files_of, part_count, read_commit, read_run
from sslfeat.inputs import possible_paths
from sslfeat.layouts import read_columns
from sslfeat.stock import Stock
from sslfeat.swap import encoder_name


def verify(folder: Path, sources: bool = False) -> Iterator[str]:
    """Faults of a features folder, one line each; none means that it is whole and unaltered.

    Rehashes every part, compares its rows with its record and ``failures.csv`` with the records. With ``sources``
    the pictures are read again too, and those that changed or vanished are named. Raises FeaturesError if
    ``run.json`` itself is damaged.
    """
    run = read_run(folder)
    failures: list[tuple[str, str]] = []
    inputs = 0
    for number in range(part_count(run)):
        files = files_of(run, number)
        commit = read_commit(folder, number, files)
        if commit is None:
            yield f"{folder / files[0]}: missing, uncommitted, or its sha256 differs from the record"
            continue
        table = read_columns(folder, files)
        if table.num_rows != commit.rows:
            yield f"{folder / files[0]}: {table.num_rows} rows, {commit.rows} were recorded"
        failures += commit.failures
        inputs += commit.rows + len(commit.failures)
        if sources:
            yield from _changed_sources(table)
    try:
        Stock.load(folder, run["inputs"]["sha256"])
    except FeaturesError as error:
        yield str(error)
    if "sha256" in run["precision"]:
        kept = encoder_name(run)
        if hashlib.sha256(_bytes(folder / kept) or b"").hexdigest() != run["precision"]["sha256"]:
            yield f"{folder / kept}: missing, or its sha256 differs from the record"
    if inputs != run["inputs"]["count"]:
        yield f"{folder}: {inputs} inputs are accounted for, {run['inputs']['count']} were given"
    if _bytes(folder / FAILURES_NAME) != failures_bytes(failures):
        yield f"{folder / FAILURES_NAME}: differs from the failures on record"


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
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
