"""Verification of features folders and of their source images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from sslfeat.data.hashing import hash_image
from sslfeat.data.names import possible_paths
from sslfeat.data.read import exists
from sslfeat.errors import FeaturesError, ImageError
from sslfeat.features.commits import check_commit
from sslfeat.features.failures import failures_bytes
from sslfeat.features.files import FAILED_NAME, commit_numbers, encoder_name
from sslfeat.features.formats import read_columns, read_embeddings
from sslfeat.features.metadata import FeaturesMetadata, files_of, load_manifest, part_count
from sslfeat.features.reader import Watched


def verify(folder: Path, sources: bool = False) -> Iterator[str]:
    """Yield the faults of a features folder, one line each.

    Checks the hash and rows of every part against its record, and ``failures.csv`` against the records. With ``sources``,
    the images are read and hashed as well, and changed or missing ones are reported. Raises FeaturesError if
    ``features.json`` is damaged, or the folder is replaced in the meantime.
    """
    watched = Watched(folder)
    for fault in _faults(folder, watched.run, sources):
        watched.check()
        yield fault
    watched.check()


def _faults(folder: Path, run: FeaturesMetadata, sources: bool) -> Iterator[str]:
    try:
        load_manifest(folder, run)
    except FeaturesError as error:
        yield str(error)
        if (there := len(commit_numbers(folder))) < part_count(run):  # the count may be anything
            yield f"{folder}: {part_count(run)} parts are to be there, {there} are"
            return
    failures: list[tuple[str, str]] = []
    for number in range(part_count(run)):
        files = files_of(run, number)
        try:
            commit = check_commit(folder, run, number)
            table = read_columns(folder, files)
            embeddings = read_embeddings(folder, files, run.encoder.card.dim)
        except FeaturesError as error:
            yield str(error)
            continue
        if not table.num_rows == len(embeddings) == commit.rows:
            yield f"{folder / files[0]}: {table.num_rows} rows, {len(embeddings)} embeddings, expected {commit.rows}"
        failures += commit.failures
        if sources:
            yield from _changed_sources(table)
    if "sha256" in run.precision:
        kept = encoder_name(run)
        if hashlib.sha256(_bytes(folder / kept) or b"").hexdigest() != run.precision["sha256"]:
            yield f"{folder / kept}: missing, or its sha256 differs from the record"
    if _bytes(folder / FAILED_NAME) != failures_bytes(failures):
        yield f"{folder / FAILED_NAME}: differs from the recorded failures"


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _changed_sources(table: pa.Table) -> Iterator[str]:
    for path, sha256 in zip(table["path"].to_pylist(), table["sha256"].to_pylist(), strict=True):
        candidates = possible_paths(path)
        try:
            found = [candidate for candidate in candidates if exists(candidate)] or candidates[:1]
            if sha256 not in map(hash_image, found):
                yield f"{path}: changed since it was embedded"
        except (OSError, ImageError) as error:
            yield f"{path}: {getattr(error, 'strerror', None) or error}"
