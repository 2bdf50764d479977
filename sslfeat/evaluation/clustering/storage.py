"""Storage of a clustering: table of assignments, centers, metrics; and folders of links to the images."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from sslfeat.data.read import exists, find_image, read_image
from sslfeat.errors import FeaturesError, InputError
from sslfeat.evaluation.clustering.clustering import NOISE, Clustering
from sslfeat.storage import atomic
from sslfeat.storage.arrow import numbers, strings

TABLE, CENTERS, FIGURES = "clusters.parquet", "centers.npy", "clusters.json"


def check_free(folder: Path, overwrite: bool) -> None:
    """Raise FeaturesError if ``folder`` contains files that must not be replaced."""
    if folder.exists() and not folder.is_dir():
        raise FeaturesError(f"{folder} is a file: choose another folder")
    if folder.exists() and any(folder.iterdir()) and not (overwrite and (folder / TABLE).exists()):
        cure = "replace it with --overwrite, or choose another folder" if (folder / TABLE).exists() else "choose another folder"
        raise FeaturesError(f"{folder} is not empty: {cure}")


def save(folder: Path, found: Clustering, paths: Sequence[str], labels: Sequence[str | None], figures: dict[str, Any]) -> None:
    """Write the three files, with the metrics last."""
    columns = {
        "path": strings(paths),
        "cluster": numbers(found.assignments, np.int32),
        "distance": numbers(found.distances, np.float32),
        "other": numbers(found.other, np.float32),
        "label": strings(labels),
    }
    buffer, centers = io.BytesIO(), io.BytesIO()
    parquet.write_table(pa.table(columns), buffer)
    np.save(centers, found.centers)
    folder.mkdir(parents=True, exist_ok=True)
    atomic.write_atomic(folder / TABLE, buffer.getvalue())
    atomic.write_atomic(folder / CENTERS, centers.getvalue())
    atomic.write_atomic(folder / FIGURES, atomic.json_bytes(figures))


def read_clusters(file: Path, paths: Sequence[str]) -> list[str]:
    """Cluster of each of ``paths``, as text, from a table written by ``save`` (or its folder). Raises InputError."""
    known = clusters_by_path(file)
    missing = [path for path in paths if path not in known]
    if missing:
        raise InputError(f"{file} has no cluster for {len(missing)} of {len(paths)} images, for example {missing[0]}")
    return [known[path] for path in paths]


def clusters_by_path(file: Path) -> dict[str, str]:
    """Cluster of each image, as text; ``none`` for noise. Raises InputError."""
    file = file / TABLE if file.is_dir() else file
    try:
        table = parquet.read_table(file, columns=["path", "cluster"])
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{file} is not a cluster table made by 'sslfeat cluster': {error}") from error
    fields = [table.schema.field(name) for name in ("path", "cluster")]
    kinds = pa.types.is_string(fields[0].type), pa.types.is_integer(fields[1].type)
    for field, fine in zip(fields, kinds, strict=True):
        if not fine or table[field.name].null_count:
            raise InputError(f"{file} is not a cluster table: column {field.name!r} is {field.type}, or has missing values")
    if len(table) and pc.min(table["cluster"]).as_py() < NOISE:
        raise InputError(f"{file} is not a cluster table: a cluster number is less than {NOISE}")
    names = ["none" if number == NOISE else f"{number:03d}" for number in table["cluster"].to_pylist()]
    return dict(zip(table["path"].to_pylist(), names, strict=True))


def link(folder: Path, found: Clustering, paths: Sequence[str]) -> list[str]:
    """Make a folder of links to the images of each cluster; returns the missing images. ``folder`` must be new.

    Images in containers and remote stores are copied.
    Raises InputError if it exists.
    """
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:
        raise InputError(f"{folder} exists: links need a new folder") from error
    missing = []
    for number in sorted(set(found.assignments.tolist())):
        place = folder / ("none" if number == NOISE else f"cluster-{number:03d}")
        place.mkdir()
        taken: set[bytes] = set()
        for row in np.flatnonzero(found.assignments == number).tolist():
            target = find_image(paths[row])
            if not exists(target):
                missing.append(paths[row])
                continue
            name = os.path.basename(target)
            if name in taken:  # same file name in two folders
                name = b"%d-%s" % (row, name)
            taken.add(name)
            link_name = os.path.join(os.fsencode(place), name)
            if os.path.lexists(target):
                os.symlink(os.path.abspath(target), link_name)
            else:  # in a container or a remote store, which cannot be linked to
                Path(os.fsdecode(link_name)).write_bytes(read_image(target))
    return missing
