"""``target.json``, the record written by ``sslfeat export --target``; a folder is checked against it before it is run.

Every recorded file must be in the folder, must not be a link, and must have the recorded sha256. Which files the runtime
reads is determined by the target's name, not by the record.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from sslfeat.errors import EncoderFileError
from sslfeat.export.gates import Agreement, Drop
from sslfeat.export.targets.registry import TARGETS
from sslfeat.inference.model_card import Card
from sslfeat.inference.onnx_model import MAX_BYTES, TARGET_RECORD, check_encoder, parse_model
from sslfeat.storage.records import parse_record

ABOUT, CARD = TARGET_RECORD, "card.json"
TARGET_KEY = "sslfeat.target"  # metadata key of the same record in an encoder file
AGAIN = "copy the folder again, or export again"
ORT_MARK = b"ORTM"  # magic number of onnxruntime's own format, at byte 4


@dataclass(frozen=True)
class Artifact:
    """The target, the encoder it was made ``of`` (a fingerprint), and the comparison. ``files``: relative paths and sha256.

    ``runtime`` runs ``main``; None: it was not run, for the reason ``unrun``. ``gates``: verdicts. ``overridden``: gates that
    failed and were allowed.
    """

    target: str
    runtime: str | None
    main: str
    of: str
    files: dict[str, str]
    unrun: str = ""
    images: str = ""
    remark: str = ""
    likeness: Agreement | None = None
    drop: Drop | None = None
    gates: tuple[str, ...] = ()
    overridden: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    format: int = 2

    def __post_init__(self) -> None:
        """Raises ValueError for an unknown target, or a runtime or main file that is not that of the target."""
        if self.target not in TARGETS:
            raise ValueError(f"target {self.target!r} is not known")
        known = TARGETS[self.target]
        if self.runtime != known.runtime:
            raise ValueError(f"runtime {self.runtime!r} is not that of target {self.target}, {known.runtime!r}")
        if self.main != known.main:
            raise ValueError(f"main {self.main!r} is not that of target {self.target}, {known.main!r}")


def hash_folder(folder: Path) -> dict[str, str]:
    """Relative path and sha256 of every file of a folder except its record."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / ABOUT)
    return {path.relative_to(folder).as_posix(): _sha256(path) for path in found}


def read_artifact(folder: Path) -> tuple[Artifact, Card]:
    """Record and card of a folder whose files are complete and unmodified. Raises EncoderFileError."""
    about = read_record(folder)
    for fault in file_faults(folder, about):
        raise fault
    return about, Card.from_json(_inside(folder, CARD).read_bytes())


def read_record(folder: Path) -> Artifact:
    """The record of a folder; its other files are not read. Raises EncoderFileError."""
    if not os.path.lexists(folder / ABOUT):
        raise EncoderFileError(
            f"{folder} was not made by 'sslfeat export --target': it has no {ABOUT}",
            "give an encoder file, the name of a shipped encoder, or such a folder",
        )
    try:
        return _parsed(_inside(folder, ABOUT).read_bytes(), folder / ABOUT)
    except OSError as error:
        raise EncoderFileError(f"{folder} was not made by 'sslfeat export --target': {error.strerror}") from error


def file_faults(folder: Path, about: Artifact) -> Iterator[EncoderFileError]:
    """Every recorded file that is missing, modified, a link, or unreadable, and every file that is not recorded."""
    for name, sha256 in about.files.items():
        try:
            if _sha256(_inside(folder, name)) != sha256:
                yield _altered(folder / name)
        except EncoderFileError as error:
            yield error
        except OSError as error:
            yield EncoderFileError(f"{folder / name} cannot be read: {error.strerror}", AGAIN)
    for name in (CARD, *_read_by_runtime(folder, about.main)):
        if name not in about.files:
            yield EncoderFileError(f"{folder / ABOUT}: files does not list {name}")


def _parsed(data: bytes, path: Path) -> Artifact:
    try:
        return parse_record(Artifact, data, str(path), EncoderFileError)
    except EncoderFileError as error:
        raise EncoderFileError(str(error), AGAIN) from error


def target_of(data: bytes) -> Artifact | None:
    """The record in an encoder file's bytes, written by ``sslfeat export --target``; None if there is none.

    Raises EncoderFileError for a damaged record.
    """
    found = [entry.value for entry in parse_model(data).metadata_props if entry.key == TARGET_KEY]
    return parse_record(Artifact, found[0], TARGET_KEY, EncoderFileError) if found else None


def read_onnx(folder: Path, about: Artifact) -> bytes:
    """``main`` for onnxruntime: an encoder file, checked as any other, or onnxruntime's own format. Raises EncoderFileError."""
    data = _inside(folder, about.main).read_bytes()
    if hashlib.sha256(data).hexdigest() != about.files[about.main]:
        raise _altered(folder / about.main)
    if data[4:8] == ORT_MARK:
        return data
    try:
        file = check_encoder(data)
    except EncoderFileError as error:
        raise EncoderFileError(f"{folder / about.main}: {error}") from error
    if file.fingerprint != about.of:
        raise EncoderFileError(f"{folder / about.main} is not the encoder recorded in {ABOUT} (of: {about.of[:12]})")
    return data


def _read_by_runtime(folder: Path, main: str) -> list[str]:
    """``main``, and the files that runtimes read implicitly with it."""
    beside = PurePosixPath(main).with_suffix(".bin").as_posix()
    return [name for name in (main, beside) if (folder / name).is_file() or (name == main and not (folder / main).is_dir())]


def _inside(folder: Path, name: str) -> Path:
    """Path of a file or folder inside ``folder``. Raises EncoderFileError if it is outside, a link, or missing."""
    parts = PurePosixPath(name).parts
    if not parts or PurePosixPath(name).is_absolute() or ".." in parts or "\\" in name or ":" in name or "\0" in name:
        raise EncoderFileError(f"{folder / ABOUT}: {name!r} is not a path inside the folder")
    path = folder
    for part in parts:
        path = path / part
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError as error:
            raise EncoderFileError(f"{path} is missing", AGAIN) from error
        if stat.S_ISLNK(mode) or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise EncoderFileError(f"{path} is a link or a device: only regular files are allowed")
    return path


def _altered(path: Path) -> EncoderFileError:
    size = path.stat().st_size
    return EncoderFileError(f"{path} was modified since it was exported, or truncated ({size} bytes)", AGAIN)


def _sha256(path: Path) -> str:
    if path.stat().st_size > MAX_BYTES:
        raise EncoderFileError(f"{path} is too large: the limit is {MAX_BYTES} bytes")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
