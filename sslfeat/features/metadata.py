"""Metadata of a features folder: ``features.json`` records the encoder, the inputs and all settings.

The file is untrusted: its hash detects corruption, its types and limits reject forged values.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from sslfeat.data.fast_resize import PACKAGE as RESIZER
from sslfeat.data.manifest import Manifest
from sslfeat.data.transforms import FAST, REDUCED, Decoding
from sslfeat.errors import FeaturesError
from sslfeat.features.formats import LAYOUTS, part_files
from sslfeat.features.given import Given
from sslfeat.inference.model_card import Card, Identity
from sslfeat.storage import staged
from sslfeat.storage.records import SignedRecord

FORMAT = 4
META_FOLDER = "__sslfeat__"  # Arrow and datasets ignore names with this prefix
RUN_NAME = f"{META_FOLDER}/features.json"
RAN = ("fp32", "int8", "bf16")
GREATEST = {"part_size": 1 << 31, "batch_size": 1 << 20, "threads": 4096}
WIDEST = 1 << 20  # dimensions of an embedding; known encoders have some thousands
SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Encoded:
    """Fingerprint and card of the encoder."""

    fingerprint: str
    card: Card

    def __post_init__(self) -> None:
        Card.from_json(self.card.to_json())  # untrusted
        if self.card.dim > WIDEST:
            raise ValueError(f"card: dim is {self.card.dim}")

    @property
    def identity(self) -> Identity:
        """Name and fingerprint of the encoder."""
        return Identity(self.card.name, self.fingerprint)


@dataclass(frozen=True)
class Inputs:
    """Number of inputs, the sha256 of ``inputs.arrow``, and whether any input has a label."""

    count: int
    sha256: str
    labeled: bool

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"count is {self.count}")
        if not SHA256.fullmatch(self.sha256):
            raise ValueError(f"sha256 is {self.sha256[:60]!r}")

    @classmethod
    def of(cls, manifest: Manifest) -> Inputs:
        """Summarize a manifest."""
        labeled = any(record.label is not None for record in manifest.inputs)
        return cls(len(manifest.inputs), manifest.sha256, labeled)


@dataclass(frozen=True)
class FeaturesMetadata(SignedRecord):
    """The fields of ``features.json``: all settings that determine the contents. ``precision`` is set by ``auto_precision.py``.

    ``given`` has no effect on the contents; None if unknown, as in folders of format 3.
    """

    EARLIER: ClassVar[tuple[int, ...]] = (3,)

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
    processor: str = ""  # CPU model; affects the last bits
    given: Given | None = None
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise ValueError(f"layout is {self.layout!r}, not {' or '.join(LAYOUTS)}")
        for name, greatest in GREATEST.items():
            if not 1 <= getattr(self, name) <= greatest:
                raise ValueError(f"{name} is {getattr(self, name)}, not 1 to {greatest}")
        ran, sha256 = self.precision.get("ran"), self.precision.get("sha256", "0" * 64)
        if ran not in RAN or not isinstance(self.precision.get("asked"), str):
            raise ValueError(f"precision: ran is {str(ran)[:60]!r}, not one of {RAN}, or asked is missing")
        if not isinstance(sha256, str) or not SHA256.fullmatch(sha256):
            raise ValueError("precision: sha256 is invalid")
        if not isinstance(self.precision.get("runtime", ""), str):
            raise ValueError("precision: runtime is not a string")


def read_run(folder: Path) -> FeaturesMetadata:
    """Read ``features.json`` of a features folder. Raises FeaturesError if it is missing, damaged, or of another format."""
    path = folder / RUN_NAME
    try:
        data = path.read_bytes()
    except OSError as error:
        if exchanging(folder):
            raise FeaturesError(
                f"{folder} is being replaced by an updated version; if no update is running, run the last command "
                "again to complete it"
            ) from error
        raise FeaturesError(f"{folder} is not a features folder: {path.name} cannot be read ({error.strerror})") from error
    run = FeaturesMetadata.parse(data, str(path), FeaturesError, "embed the images again")
    if run.decode.mode == FAST and RESIZER not in run.versions:  # the former meaning of FAST
        return replace(run, decode=replace(run.decode, mode=REDUCED))
    return run


def exchanging(folder: Path) -> bool:
    """Whether the folder is being replaced by an updated version, or such a replacement was interrupted."""
    return staged.is_marked(folder) and (folder / staged.UPDATE / RUN_NAME).exists()


def part_count(run: FeaturesMetadata) -> int:
    """Number of parts of a complete run."""
    return -(-run.inputs.count // run.part_size)


def files_of(run: FeaturesMetadata, number: int) -> tuple[str, ...]:
    """File names of a part of this run."""
    return part_files(run.layout, number, part_count(run))


def slice_of(run: FeaturesMetadata, number: int) -> range:
    """Input numbers of part ``number``."""
    return range(number * run.part_size, min((number + 1) * run.part_size, run.inputs.count))


def load_manifest(folder: Path, run: FeaturesMetadata) -> Manifest:
    """Load the inputs of a features folder. Raises FeaturesError if they do not match ``features.json``."""
    manifest = Manifest.load(folder / META_FOLDER, run.inputs.sha256)
    if len(manifest.inputs) != run.inputs.count:
        raise FeaturesError(f"{folder / RUN_NAME}: inputs: count is {run.inputs.count}, but {len(manifest.inputs)} are listed")
    return manifest
