"""Data of a report: the rows of a features folder, or a random sample, with their columns and labels."""

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
    """``features`` of the sampled rows, their ``columns`` (path, sha256, width, height, label) and requested ``labels``.
    ``total``: number of rows in the folder. ``failures``: (path, reason)."""

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
        """Paths of the sampled rows."""
        return self.features.paths

    @property
    def names(self) -> list[str | None]:
        """Labels as text; multiple labels of an image are joined."""
        return [", ".join(label) if isinstance(label, tuple) else label for label in self.labels]

    @property
    def classes(self) -> int:
        """Number of different labels."""
        return len({name for name in self.names if name is not None})


def read_material(folder: Path, source: LabelSource, limit: int, seed: int) -> Material:
    """Read a features folder part by part, keeping ``limit`` rows. Raises FeaturesError if damaged, empty, or not finite."""
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
