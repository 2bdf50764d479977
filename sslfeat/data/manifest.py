"""Manifest: the list of inputs, with sizes and times of their files, stored with the features.

It is used to detect new, removed and modified images, and to recompute parts without listing the inputs again.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sslfeat.data.dataset import ImageRecord
from sslfeat.data.hashing import DIGEST, Digests, hash_files
from sslfeat.data.read import facts_of_image
from sslfeat.errors import FeaturesError, ImageError
from sslfeat.storage.arrow import binaries, fixed, numbers, strings

MANIFEST_NAME = "inputs.arrow"
MISSING = -1
UNKNOWN = int(np.iinfo(np.int64).min)  # a time out of the range of int64 nanoseconds (before 1678, after 2262)
COLUMNS = {"path": pa.large_binary(), "label": pa.string(), "size": pa.int64(), "modified": pa.int64()}
LATER_COLUMNS = {"changed": pa.int64(), "sha256": pa.binary(32)}
DESCRIBES = "metadata."  # prefix of metadata columns (strings)
Numbers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Manifest:
    """``inputs`` in order, with size and times of their files, int64 (N,).

    ``sizes`` (bytes) and ``modified`` (ns) are MISSING for missing files. ``changed`` (ns) is the change time, which
    programs cannot set: if all three are equal, so is the content. A time out of range is UNKNOWN. ``contents`` are the
    sha256 of the files, S32 (N,), if requested.
    """

    inputs: Sequence[ImageRecord]
    sizes: Numbers
    modified: Numbers
    changed: Numbers
    contents: Digests | None = None

    @classmethod
    def take(cls, inputs: Sequence[ImageRecord], hashed: bool = False, check: Callable[[], None] = lambda: None) -> Manifest:
        """Collect size and times of all files; with ``hashed``, also sha256. ``check`` is called often, and may raise to stop."""
        facts = np.full((3, len(inputs)), MISSING, np.int64)
        for index, record in enumerate(inputs):
            try:
                found = facts_of_image(record.path)
            except (OSError, ValueError, ImageError):
                continue  # reported when it is read
            facts[:, index] = found.size, _time(found.modified), _time(found.changed)
        contents = hash_files([record.path for record in inputs], check) if hashed else None
        return cls(inputs, facts[0], facts[1], facts[2], contents)

    @classmethod
    def load(cls, folder: Path, sha256: str) -> Manifest:
        """Read ``inputs.arrow`` of a folder. Raises FeaturesError if it is invalid or does not match the recorded hash."""
        path = folder / MANIFEST_NAME
        try:
            data = path.read_bytes()
        except OSError as error:
            raise FeaturesError(f"{path} cannot be read: {error.strerror}") from error
        if hashlib.sha256(data).hexdigest() != sha256:
            raise FeaturesError(f"{path} is damaged: embed the images again with --overwrite")
        try:
            table = pa.ipc.open_file(pa.BufferReader(data)).read_all().combine_chunks()
            table.validate(full=True)
        except (pa.ArrowException, OSError) as error:
            raise FeaturesError(f"{path} is not a list of images: {error}") from error
        kinds = dict(zip(table.schema.names, table.schema.types, strict=True))
        later = {name: kind for name, kind in LATER_COLUMNS.items() if name in kinds}
        later |= {name: pa.string() for name in kinds if name.startswith(DESCRIBES)}
        whole = [name for name in kinds if name != "label" and not name.startswith(DESCRIBES)]
        if kinds != {**COLUMNS, **later} or any(table[name].null_count for name in whole):
            raise FeaturesError(f"{path} is not a list of images: it has the columns {table.schema.names}")
        changed = _numbers(table, "changed") if "changed" in kinds else np.full(table.num_rows, UNKNOWN)
        contents = np.frombuffer(b"".join(table["sha256"].to_pylist()), DIGEST) if "sha256" in kinds else None
        texts = {name.removeprefix(DESCRIBES): _column(table, name) for name in kinds if name.startswith(DESCRIBES)}
        inputs = _Stored(_column(table, "path"), _column(table, "label"), texts)
        return cls(inputs, _numbers(table, "size"), _numbers(table, "modified"), changed, contents)

    @functools.cached_property
    def sha256(self) -> str:
        """sha256 of ``to_bytes()``; equal for the same files in the same place."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @functools.cached_property
    def identity(self) -> str:
        """sha256 of the inputs independent of their location: paths relative to the root, labels, and contents.

        Contents are compared by sha256 if ``hashed``, else by size and time.
        """
        sha, root = hashlib.sha256(), len(self.root)
        for index, record in enumerate(self.inputs):
            fact = (int(self.sizes[index]), int(self.modified[index]))
            content = self.contents[index].hex() if self.contents is not None else repr(fact)
            sha.update(b"\0".join((record.path[root:], (record.label or "").encode(), content.encode(), b"")))
        return sha.hexdigest()

    @functools.cached_property
    def root(self) -> bytes:
        """Common folder of all inputs, with a trailing separator; empty if there is none."""
        if not len(self.inputs):
            return b""
        paths = (record.path for record in self.inputs)
        first, last = (min(paths), max(record.path for record in self.inputs))
        try:
            shared = os.path.commonpath([os.path.dirname(first), os.path.dirname(last)])
        except ValueError:  # some are relative, some absolute
            return b""
        return os.path.join(shared, b"") if shared and first.startswith(os.path.join(shared, b"")) else b""

    @functools.cached_property
    def paths(self) -> pa.Array:
        """The paths, large_binary."""
        return self.inputs.paths if isinstance(self.inputs, _Stored) else binaries([record.path for record in self.inputs])

    @functools.cached_property
    def labels(self) -> pa.Array:
        """The labels, string; null for unlabeled inputs."""
        return self.inputs.labels if isinstance(self.inputs, _Stored) else strings([i.label for i in self.inputs])

    @functools.cached_property
    def metadata(self) -> dict[str, pa.Array]:
        """Metadata columns of lists and containers by name, string (N,), sorted by name; null where missing."""
        if isinstance(self.inputs, _Stored):
            return self.inputs.metadata
        names = sorted({name for record in self.inputs for name in record.metadata or ()})
        return {name: strings([(record.metadata or {}).get(name) for record in self.inputs]) for name in names}

    def to_bytes(self) -> bytes:
        """Serialize in Arrow's file format; equal manifests give equal bytes."""
        facts = {"size": self.sizes, "modified": self.modified, "changed": self.changed}
        columns: dict[str, Any] = {"path": self.paths, "label": self.labels}
        columns |= {name: numbers(values, np.int64) for name, values in facts.items()}
        columns |= {f"{DESCRIBES}{name}": texts for name, texts in self.metadata.items()}
        if self.contents is not None:
            columns["sha256"] = fixed(self.contents.tobytes(), DIGEST.itemsize)
        table = pa.table(columns)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
            writer.write_table(table)
        data: bytes = sink.getvalue().to_pybytes()
        return data

    def counterparts(self, since: Manifest) -> Numbers:
        """Number in ``since`` of each input, else MISSING, int64 (N,).

        Inputs are matched by path, or if no path is equal, by the path relative to the root.
        """
        numbers = _index(self.paths, since.paths)
        if (numbers == MISSING).all() and self.root != since.root:
            numbers = _index(_below(self), _below(since))
        return numbers

    def unchanged(self, since: Manifest) -> Numbers:
        """Number in ``since`` of each input whose size and both times are known and equal, else MISSING."""
        numbers = self.counterparts(since)
        known = (self.modified != UNKNOWN) & (self.changed != UNKNOWN) & (self.sizes != MISSING)
        return np.where((numbers != MISSING) & known & self.looks_like(since, numbers), numbers, MISSING)

    def looks_like(self, since: Manifest, numbers: Numbers) -> Mask:
        """Whether input i has the same size and times as input ``numbers[i]`` of ``since``, bool (N,)."""
        if not len(since.sizes):
            return np.zeros(len(self.sizes), bool)
        facts = ((self.sizes, since.sizes), (self.modified, since.modified), (self.changed, since.changed))
        alike: Mask = np.logical_and.reduce([now == then[numbers] for now, then in facts])
        return alike


def is_manifest(path: Path) -> bool:
    """Whether ``path`` is a manifest, by the names of its columns."""
    return set(COLUMNS) <= _names(path)


def is_described(path: Path) -> bool:
    """Whether a manifest has metadata columns."""
    return any(name.startswith(DESCRIBES) for name in _names(path))


def _names(path: Path) -> set[str]:
    try:
        with pa.memory_map(str(path)) as file:
            return set(pa.ipc.open_file(file).schema.names)
    except (OSError, pa.ArrowException):
        return set()


class _Stored(Sequence[ImageRecord]):
    """Inputs in Arrow columns, converted on demand: a million objects take 300 MB."""

    def __init__(self, paths: pa.Array, labels: pa.Array, metadata: dict[str, pa.Array]) -> None:
        self.paths, self.labels, self.metadata = paths, labels, metadata

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> ImageRecord: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ImageRecord]: ...
    def __getitem__(self, index: int | slice) -> ImageRecord | Sequence[ImageRecord]:
        if isinstance(index, slice):
            return _Stored(self.paths[index], self.labels[index], {name: texts[index] for name, texts in self.metadata.items()})
        return ImageRecord(self.paths[index].as_py(), self.labels[index].as_py())  # metadata are read as columns


def _time(nanoseconds: int) -> int:
    return nanoseconds if UNKNOWN < nanoseconds < 2**63 else UNKNOWN


def _column(table: pa.Table, name: str) -> pa.Array:
    column = table[name]
    return column.chunk(0) if column.num_chunks else pa.array([], column.type)


def _numbers(table: pa.Table, name: str) -> Numbers:
    values: Numbers = table[name].to_numpy()
    return values


def _index(paths: pa.Array, among: pa.Array) -> Numbers:
    found = pc.index_in(paths, value_set=among)
    numbers: Numbers = pc.fill_null(found, MISSING).to_numpy(zero_copy_only=False).astype(np.int64)
    return numbers


def _below(manifest: Manifest) -> pa.Array:
    root = len(manifest.root)
    return binaries([record.path[root:] for record in manifest.inputs])
