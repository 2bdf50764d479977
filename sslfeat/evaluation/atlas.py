"""Handing a map to Embedding Atlas, a viewer for millions of points: a table it reads, and starting it."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image
from pyarrow import parquet

from sslfeat import store
from sslfeat.columns import strings
from sslfeat.errors import InputError
from sslfeat.evaluation.mapping import Map
from sslfeat.evaluation.neighbours import nearest
from sslfeat.evaluation.projection import FloatArray
from sslfeat.pages.thumbnails import pixels

SIDE, NEIGHBOURS = 96, 10
COLUMNS = ("--x", "x", "--y", "y", "--image", "image", "--neighbors", "neighbors")


def write_table(file: Path, found: Map, x: FloatArray) -> None:
    """Path, label, x and y of each picture of the map, a thumbnail, and its nearest in features ``x`` (N, D).

    ``neighbors`` holds row numbers of the table and cosine distances, itself first; ``image`` a JPEG and its path.
    """
    rows = x[found.rows]
    cosines, near = nearest(rows, rows, min(NEIGHBOURS + 1, len(rows)))
    cells, readable = pixels(found.paths, SIDE)
    pictures = [
        {"bytes": _jpeg(cell), "path": path} if fine else None
        for cell, path, fine in zip(cells, found.paths, readable, strict=True)
    ]
    neighbours = [
        {"ids": ids, "distances": distances}
        for ids, distances in zip(near.tolist(), np.maximum(1 - cosines, 0).tolist(), strict=True)
    ]
    table = pa.table(
        {
            "path": strings(found.paths),
            "label": strings(found.labels),
            "x": pa.array(found.points[:, 0]),
            "y": pa.array(found.points[:, 1]),
            "image": pa.array(pictures, pa.struct({"bytes": pa.binary(), "path": pa.string()})),
            "neighbors": pa.array(neighbours),
        }
    )
    buffer = io.BytesIO()
    parquet.write_table(table, buffer)
    store.write_atomic(file, buffer.getvalue())


def open_atlas(file: Path) -> int:
    """Serve the table with Embedding Atlas until it is stopped; its exit status. Raises InputError if it is not there."""
    program = shutil.which("embedding-atlas")
    if program is None:
        raise InputError(
            f"embedding-atlas is not installed: 'pip install embedding-atlas', then 'embedding-atlas {file} "
            f"{' '.join(COLUMNS)}'"
        )
    return subprocess.run([program, str(file), *COLUMNS], check=False).returncode


def _jpeg(cell: npt.NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(cell).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
