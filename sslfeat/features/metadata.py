"""What a features folder says of itself: ``features.json``, what made it of what, and a commit record for every part.

Both come from disk, where anybody may have written them: their hashes tell accidents, their types and limits lies.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sslfeat.data.manifest import Manifest
from sslfeat.data.transforms import Decoding
from sslfeat.errors import FeaturesError
from sslfeat.features.formats import LAYOUTS, part_files
from sslfeat.inference.model_card import Card
from sslfeat.storage import atomic, staged
from sslfeat.storage.records import build_record, parse_json, parse_record

FORMAT = 3
META_FOLDER = "__sslfeat__"  # Arrow and datasets, given the folder, pass over names that begin so
RUN_NAME = f"{META_FOLDER}/features.json"
CHECK = "check"  # the field of features.json that holds the hash of the others
RAN = ("fp32", "int8", "bf16")
GREATEST = {"part_size": 1 << 31, "batch_size": 1 << 20, "threads": 4096}
WIDEST = 1 << 20  # embeddings; the widest that are known have some thousands of numbers
SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Encoded:
    """By what: the encoder's fingerprint and card."""

    fingerprint: str
    card: dict[str, Any]

    def __post_init__(self) -> None:
        dim = Card.from_json(json.dumps(self.card)).dim
        if dim > WIDEST:
            raise ValueError(f"card: dim is {dim}")


@dataclass(frozen=True)
class Inputs:
    """Of what: how many, the sha256 of ``inputs.arrow``, and whether any has a label."""

    count: int
    sha256: str
    labeled: bool

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"count is {self.count}")
        if not SHA256.fullmatch(self.sha256):
            raise ValueError(f"sha256 is {self.sha256[:60]!r}")


@dataclass(frozen=True)
class FeaturesMetadata:
    """The fields of ``features.json``: all that decides the folder's bytes. ``precision`` is ``auto_precision.py``'s to fill."""

    encoder: Encoded
    inputs: Inputs
    layout: str
    decode: Decoding
    part_size: int
    batch_size: int
    provider: str
    threads: int
    precision: dict[str, Any]
    versions: dict[str, str]
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise ValueError(f"layout is {self.layout!r}, not {' or '.join(LAYOUTS)}")
        for name, greatest in GREATEST.items():
            if not 1 <= getattr(self, name) <= greatest:
                raise ValueError(f"{name} is {getattr(self, name)}, not 1 to {greatest}")
        ran, sha256 = self.precision.get("ran"), self.precision.get("sha256", "0" * 64)
        if ran not in RAN or not isinstance(self.precision.get("asked"), str):
            raise ValueError(f"precision: ran is {str(ran)[:60]!r}, not one of {RAN}, or what was asked is missing")
        if not isinstance(sha256, str) or not SHA256.fullmatch(sha256):
            raise ValueError("precision: sha256 is none")
        if not isinstance(self.precision.get("runtime", ""), str):
            raise ValueError("precision: runtime is no text")


@dataclass(frozen=True)
class CommitRecord:
    """A part that counts: its ``files`` with their sha256, its rows, and (path, reason) of the inputs that gave none."""

    files: dict[str, str]
    rows: int
    failures: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, files: dict[str, bytes], rows: int, failures: tuple[tuple[str, str], ...]) -> CommitRecord:
        """The record for files of these names and contents."""
        return cls({name: hashlib.sha256(data).hexdigest() for name, data in files.items()}, rows, failures)

    def to_json(self) -> bytes:
        """The record's bytes."""
        return atomic.json_bytes({"files": self.files, "rows": self.rows, "failures": self.failures})


def run_bytes(run: dict[str, Any]) -> bytes:
    """``features.json`` for these fields, with their own hash, so that a flipped bit is noticed."""
    return atomic.json_bytes({**run, CHECK: _hash(run)})


def _hash(run: dict[str, Any]) -> str | None:
    try:
        return hashlib.sha256(atomic.json_bytes(run)).hexdigest()
    except (RecursionError, ValueError):  # nested beyond measure, or half a character: nothing that we write
        return None


def read_run(folder: Path) -> dict[str, Any]:
    """``features.json`` of a features folder. Raises FeaturesError if it is missing, damaged, of another format, or lies."""
    path = folder / RUN_NAME
    try:
        data = path.read_bytes()
    except OSError as error:
        if exchanging(folder):
            raise FeaturesError(
                f"{folder} is being exchanged for an updated one; if no update is running, give the last command "
                "again: it carries the exchange through"
            ) from error
        raise FeaturesError(f"{folder} is not a features folder: {path.name} cannot be read ({error.strerror})") from error
    run = parse_json(data, str(path), FeaturesError)
    if not isinstance(run, dict) or "format" not in run:
        raise FeaturesError(f"{path} is damaged: embed the images again with --overwrite")
    if run["format"] != FORMAT:
        raise FeaturesError(f"{path} has format {str(run['format'])[:60]!r}; this sslfeat reads {FORMAT}: embed the images again")
    if run.pop(CHECK, None) != _hash(run):
        raise FeaturesError(f"{path} was altered: embed the images again with --overwrite")
    build_record(FeaturesMetadata, run, str(path), FeaturesError)
    return run


def exchanging(folder: Path) -> bool:
    """Whether the folder is being exchanged for an updated one, or was when somebody died of it."""
    return staged.is_marked(folder) and (folder / staged.UPDATE / RUN_NAME).exists()


def part_count(run: dict[str, Any]) -> int:
    """How many parts a run has when it is complete."""
    return -(-int(run["inputs"]["count"]) // int(run["part_size"]))


def files_of(run: dict[str, Any], number: int) -> tuple[str, ...]:
    """The names of the files of a part of this run."""
    return part_files(run["layout"], number, part_count(run))


def slice_of(run: dict[str, Any], number: int) -> range:
    """The numbers of the inputs that part ``number`` is of."""
    size = int(run["part_size"])
    return range(number * size, min((number + 1) * size, int(run["inputs"]["count"])))


def commit_path(folder: Path, number: int) -> Path:
    """Where the commit record of part ``number`` is."""
    return folder / META_FOLDER / f"part-{number:05d}.json"


def check_record(folder: Path, run: dict[str, Any], number: int) -> CommitRecord:
    """The commit record of a part, whose files are not looked at. Raises FeaturesError if it is missing or lies."""
    path, files = commit_path(folder, number), files_of(run, number)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FeaturesError(f"{folder / files[0]} is not committed: {path.name}: {error.strerror}") from error
    commit = parse_record(CommitRecord, data, str(path), FeaturesError)
    if sorted(commit.files) != sorted(files):
        raise FeaturesError(f"{path}: files are not {' and '.join(files)}")
    if commit.rows < 0 or commit.rows + len(commit.failures) != len(slice_of(run, number)):
        raise FeaturesError(
            f"{path}: {commit.rows} rows and {len(commit.failures)} failures are not its {len(slice_of(run, number))} inputs"
        )
    return commit


def check_commit(folder: Path, run: dict[str, Any], number: int) -> CommitRecord:
    """The same, with its files rehashed. Raises FeaturesError naming what is missing or differs."""
    commit = check_record(folder, run, number)
    for name, sha256 in commit.files.items():
        try:
            found = atomic.sha256_file(folder / name)
        except OSError as error:
            raise FeaturesError(f"{folder / name} is missing or cannot be read: {error.strerror}") from error
        if found != sha256:
            raise FeaturesError(f"{folder / name} is damaged: its sha256 differs from the record")
    return commit


def read_commit(folder: Path, run: dict[str, Any], number: int) -> CommitRecord | None:
    """The same; None for a part that does not count and is to be made again."""
    try:
        return check_commit(folder, run, number)
    except FeaturesError:
        return None


def load_manifest(folder: Path, run: dict[str, Any]) -> Manifest:
    """The inputs that a features folder is of. Raises FeaturesError if they are not those of ``features.json``."""
    manifest = Manifest.load(folder / META_FOLDER, run["inputs"]["sha256"])
    if len(manifest.inputs) != run["inputs"]["count"]:
        raise FeaturesError(
            f"{folder / RUN_NAME}: inputs: count is {run['inputs']['count']}, but {len(manifest.inputs)} are listed"
        )
    return manifest
