"""What a report is made of: the rows of a features folder, or a random choice of them, with all that is known of each."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sslfeat.errors import FeaturesError
from sslfeat.evaluation.probing.labels import Labels, LabelSource, check_finite
from sslfeat.features.files import FAILED_NAME
from sslfeat.features.reader import Features, FeaturesFolder, contents_of
from sslfeat.numerics.arrays import FloatArray
from sslfeat.numerics.sampling import sample


@dataclass(frozen=True)
class Material:
    """``features`` of the chosen rows, their ``columns`` (path, sha256, width, height, label) and ``labels`` as asked for;
    ``total`` rows the folder has; ``failures`` are (path, reason)."""

    features: Features
    columns: pa.Table
    labels: Labels
    total: int
    failures: list[tuple[str, str]]

    @property
    def x(self) -> FloatArray:
        """Float32 (N, D)."""
        return self.features.embeddings

    @property
    def paths(self) -> list[str]:
        """Of the chosen rows."""
        return self.features.paths

    @property
    def names(self) -> list[str | None]:
        """The labels as text, several of an image joined."""
        return [", ".join(label) if isinstance(label, tuple) else label for label in self.labels]

    @property
    def classes(self) -> int:
        """Different labels."""
        return len({name for name in self.names if name is not None})


def read_material(folder: Path, source: LabelSource, limit: int, seed: int) -> Material:
    """Read a features folder a part at a time, keeping ``limit`` rows. Raises FeaturesError: damaged, empty, not finite."""
    opened = FeaturesFolder(folder)
    total = opened.rows()
    chosen = sample(total, limit, seed)
    x = np.empty((len(chosen), opened.dim), np.float32)
    tables, start, kept = [], 0, 0
    for part in opened.parts():
        end = start + len(part.embeddings)
        rows = chosen[np.searchsorted(chosen, start) : np.searchsorted(chosen, end)] - start
        x[kept : kept + len(rows)] = part.embeddings[rows]
        tables.append(part.columns.take(pa.array(rows)))
        start, kept = end, kept + len(rows)
    columns = pa.concat_tables(tables)
    features = Features(x, columns["path"].to_pylist(), columns["label"].to_pylist(), opened.run, contents_of(columns["sha256"]))
    check_finite(x, features.paths)
    return Material(features, columns, source.of(features), total, _failures(folder))


def _failures(folder: Path) -> list[tuple[str, str]]:
    try:
        text = (folder / FAILED_NAME).read_text(encoding="utf-8", errors="replace")
        rows: list[dict[str, Any]] = list(csv.DictReader(io.StringIO(text, newline="")))
    except OSError as error:
        raise FeaturesError(f"{folder / FAILED_NAME} cannot be read: {error.strerror}") from error
    except csv.Error as error:
        raise FeaturesError(f"{folder / FAILED_NAME} is damaged ({error}): embed the images again") from error
    return [(str(row.get("path")), str(row.get("reason"))) for row in rows]
