"""Map of an index: a point per image, from the first two principal components or from ``sslfeat map``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from sslfeat.errors import InputError
from sslfeat.evaluation.projection import LEAST, pca
from sslfeat.numerics.arrays import FloatArray, IntArray
from sslfeat.retrieval.index import Index

MOST = 100_000  # points
AXES_FROM = 20_000  # number of points used to compute the components
BLOCK = 8192
DIGITS = 4


@dataclass(frozen=True)
class Drawn:
    """Precomputed coordinates (``placed``) and ``clusters`` by path; None if not given."""

    placed: dict[str, tuple[float, float]] | None = None
    clusters: dict[str, str] | None = None


def map_json(index: Index, paths: Sequence[str], labels: Sequence[str | None], drawn: Drawn) -> bytes:
    """``{"ids", "x", "y", "label", "labels", "cluster", "clusters"}`` for up to MOST images, evenly spaced if there are more.

    ``label`` are indices into ``labels``, most frequent first, or -1; ``cluster`` likewise into ``clusters``, empty if not
    given. With given coordinates, images without them are omitted. Raises FeaturesError if all vectors are the same.
    """
    placed = drawn.placed
    rows = np.flatnonzero(~index.removed)
    if placed is not None:
        rows = np.array([row for row in rows.tolist() if paths[row] in placed], np.int64)
    rows = spread(rows, MOST)
    if placed is not None:
        points = np.array([placed[paths[row]] for row in rows.tolist()], np.float32).reshape(-1, 2)
    else:
        points = components(index, rows)
    label, names = coded([labels[row] for row in rows.tolist()])
    clusters = drawn.clusters or {}
    cluster, cluster_names = coded([clusters.get(paths[row]) for row in rows.tolist()])
    return json.dumps(
        {
            "ids": rows.tolist(),
            "x": np.round(points[:, 0].astype(np.float64), DIGITS).tolist(),
            "y": np.round(points[:, 1].astype(np.float64), DIGITS).tolist(),
            "label": label,
            "labels": names,
            "cluster": cluster if drawn.clusters else [],
            "clusters": cluster_names,
        },
        allow_nan=False,
        separators=(",", ":"),
    ).encode()


def coded(names: Sequence[str | None]) -> tuple[list[int], list[str]]:
    """Index of each name, or -1 for none, in the list of distinct names, most frequent first."""
    different = [name for name, _ in Counter(name for name in names if name is not None).most_common()]
    places = {name: place for place, name in enumerate(different)}
    return [-1 if name is None else places[name] for name in names], different


def spread(rows: IntArray, most: int) -> IntArray:
    """At most ``most`` rows, evenly spaced."""
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).round().astype(np.int64)]


def components(index: Index, rows: IntArray) -> FloatArray:
    """Coordinates (n, 2) in the first two principal components; zeros for fewer than three rows."""
    if len(rows) < LEAST:
        return np.zeros((len(rows), 2), np.float32)
    axes = pca(index.vectors(spread(rows, AXES_FROM)), 2)
    blocks = [axes.project(index.vectors(rows[start : start + BLOCK])) for start in range(0, len(rows), BLOCK)]
    points = np.concatenate(blocks)
    return points if points.shape[1] == 2 else np.pad(points, ((0, 0), (0, 1)))


def read_map(file: Path) -> dict[str, tuple[float, float]]:
    """Coordinates by path from the table of ``sslfeat map --out map.parquet``. Raises InputError."""
    try:
        table = parquet.read_table(file, columns=["path", "x", "y"])
        columns = [table[name].to_pylist() for name in ("path", "x", "y")]
        finite = np.isfinite(np.array(columns[1:], np.float64)).all()
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file} is not a map: {str(error)[:200]}; create one with 'sslfeat map --out map.parquet'") from error
    if not finite:
        raise InputError(
            f"{file} is not a valid map: coordinates are not finite; create one with 'sslfeat map --out map.parquet'"
        )
    return {path: (x, y) for path, x, y in zip(*columns, strict=True)}
