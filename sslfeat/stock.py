"""What was to be embedded: every input with the size and time its file had, kept beside the features.

So a later run can say which pictures are new, gone or modified, and parts can be made again without listing anew.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sslfeat.columns import binaries, numbers, strings
from sslfeat.errors import FeaturesError
from sslfeat.inputs import Input

STOCK_NAME = "inputs.arrow"
MISSING = -1


@dataclass(frozen=True)
class Stock:
    """``inputs`` in order; ``sizes`` (bytes) and ``modified`` (ns) int64 (N,), MISSING for files that are not there."""

    inputs: Sequence[Input]
    sizes: npt.NDArray[np.int64]
    modified: npt.NDArray[np.int64]

    @classmethod
    def take(cls, inputs: Sequence[Input]) -> Stock:
        """Look at every file once."""
        sizes = np.full(len(inputs), MISSING, np.int64)
        modified = np.full(len(inputs), MISSING, np.int64)
        for index, item in enumerate(inputs):
            try:
                status = os.stat(item.raw)
            except OSError:
                continue  # it will fail when it is read, with the reason
            sizes[index], modified[index] = status.st_size, status.st_mtime_ns
        return cls(inputs, sizes, modified)

    @classmethod
    def load(cls, folder: Path, sha256: str) -> Stock:
        """Read ``inputs.arrow`` of a features folder. Raises FeaturesError if it is not what ``run.json`` recorded."""
        path = folder / STOCK_NAME
        try:
            data = path.read_bytes()
        except OSError as error:
            raise FeaturesError(f"{path} cannot be read: {error.strerror}") from error
        if hashlib.sha256(data).hexdigest() != sha256:
            raise FeaturesError(f"{path} is damaged: embed the pictures again with --overwrite")
        table = pa.ipc.open_file(pa.BufferReader(data)).read_all()
        inputs = list(map(Input, table["path"].to_pylist(), table["label"].to_pylist()))
        return cls(inputs, table["size"].to_numpy(), table["modified"].to_numpy())

    @functools.cached_property
    def sha256(self) -> str:
        """Of ``to_bytes()``: two runs over the same files have the same."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def to_bytes(self) -> bytes:
        """Arrow's file format; equal stocks give equal bytes."""
        table = pa.table(
            {
                "path": binaries([item.raw for item in self.inputs]),
                "label": strings([item.label for item in self.inputs]),
                "size": numbers(self.sizes, np.int64),
                "modified": numbers(self.modified, np.int64),
            }
        )
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
            writer.write_table(table)
        data: bytes = sink.getvalue().to_pybytes()
        return data

    def unchanged(self, since: Stock) -> npt.NDArray[np.int64]:
        """For each input its number in ``since`` if path, size and time are the same there, else MISSING, int64 (N,)."""
        before = {item.raw: number for number, item in enumerate(since.inputs)}
        numbers = np.fromiter((before.get(item.raw, MISSING) for item in self.inputs), np.int64, len(self.inputs))
        same = (self.sizes == since.sizes[numbers]) & (self.modified == since.modified[numbers])
        return np.where((numbers != MISSING) & same, numbers, MISSING)


@dataclass(frozen=True)
class Changes:
    """How many pictures are new, removed and modified since, with one of them as an example; ``labels``: relabelled."""

    new: int
    removed: int
    modified: int
    labels: int
    example: str

    @classmethod
    def between(cls, before: Stock, now: Stock) -> Changes:
        """Compare two stocks by path, then size and time, then label."""
        old = {item.raw: number for number, item in enumerate(before.inputs)}
        kept = [(old[item.raw], number) for number, item in enumerate(now.inputs) if item.raw in old]
        modified = [
            number for was, number in kept
            if before.sizes[was] != now.sizes[number] or before.modified[was] != now.modified[number]
        ]  # fmt: skip
        relabelled = [number for was, number in kept if before.inputs[was].label != now.inputs[number].label]
        current = {item.raw for item in now.inputs}
        new = [item.name for item in now.inputs if item.raw not in old]
        removed = [item.name for item in before.inputs if item.raw not in current]
        names = [*new, *removed, *(now.inputs[number].name for number in [*modified, *relabelled])]
        return cls(len(new), len(removed), len(modified), len(relabelled), names[0] if names else "")

    def __str__(self) -> str:
        counts = {"new": self.new, "removed": self.removed, "modified": self.modified, "relabelled": self.labels}
        said = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
        return f"{said or 'the same pictures'}{f', such as {self.example}' if self.example else ''}"
