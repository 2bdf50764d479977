"""Commit records of the parts of a features folder. A part is valid if its record exists and matches its files."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from sslfeat.errors import FeaturesError
from sslfeat.features.metadata import META_FOLDER, FeaturesMetadata, files_of, slice_of
from sslfeat.storage import atomic
from sslfeat.storage.records import parse_record


@dataclass(frozen=True)
class CommitRecord:
    """A committed part: its ``files`` with their sha256, number of rows, and (path, reason) of failed inputs.

    ``processor`` is the CPU model that computed it, if it differs from that in ``features.json``.
    """

    files: dict[str, str]
    rows: int
    failures: tuple[tuple[str, str], ...]
    processor: str | None = None

    @classmethod
    def of(
        cls, files: dict[str, bytes], rows: int, failures: tuple[tuple[str, str], ...], processor: str | None = None
    ) -> CommitRecord:
        """Create the record of files with these names and contents."""
        return cls({name: hashlib.sha256(data).hexdigest() for name, data in files.items()}, rows, failures, processor)

    def to_json(self) -> bytes:
        """Serialize the record."""
        fields = {"files": self.files, "rows": self.rows, "failures": self.failures}
        return atomic.json_bytes({**fields, "processor": self.processor} if self.processor else fields)


def commit_path(folder: Path, number: int) -> Path:
    """Path of the commit record of part ``number``."""
    return folder / META_FOLDER / f"part-{number:05d}.json"


def check_record(folder: Path, run: FeaturesMetadata, number: int) -> CommitRecord:
    """Read the commit record of a part without checking its files. Raises FeaturesError if it is missing or inconsistent."""
    path, files = commit_path(folder, number), files_of(run, number)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FeaturesError(f"{folder / files[0]} is not committed: {path.name}: {error.strerror}") from error
    commit = parse_record(CommitRecord, data, str(path), FeaturesError)
    if sorted(commit.files) != sorted(files):
        raise FeaturesError(f"{path}: the files must be {' and '.join(files)}")
    if commit.rows < 0 or commit.rows + len(commit.failures) != len(slice_of(run, number)):
        raise FeaturesError(
            f"{path}: {commit.rows} rows and {len(commit.failures)} failures do not add up to {len(slice_of(run, number))} inputs"
        )
    return commit


def check_commit(folder: Path, run: FeaturesMetadata, number: int) -> CommitRecord:
    """Like ``check_record``, and verify the hashes of the files. Raises FeaturesError naming a missing or damaged file."""
    commit = check_record(folder, run, number)
    for name, sha256 in commit.files.items():
        try:
            found = atomic.sha256_file(folder / name)
        except OSError as error:
            raise FeaturesError(f"{folder / name} is missing or cannot be read: {error.strerror}") from error
        if found != sha256:
            raise FeaturesError(f"{folder / name} is damaged: its sha256 differs from the record")
    return commit


def read_commit(folder: Path, run: FeaturesMetadata, number: int) -> CommitRecord | None:
    """Like ``check_commit``; None for an invalid part, which must be recomputed."""
    try:
        return check_commit(folder, run, number)
    except FeaturesError:
        return None
