"""Export a map for Embedding Atlas, a viewer for millions of points, and start the viewer."""

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

from sslfeat.errors import InputError
from sslfeat.evaluation.embedding_map import Map
from sslfeat.numerics.arrays import FloatArray
from sslfeat.numerics.similarity import nearest
from sslfeat.reports.thumbnails import pixels
from sslfeat.storage import atomic
from sslfeat.storage.arrow import strings

SIDE, NEIGHBORS = 96, 10
COLUMNS = ("--x", "x", "--y", "y", "--image", "image", "--neighbors", "neighbors")


def write_table(file: Path, found: Map, x: FloatArray) -> None:
    """Write path, label, x, y, thumbnail and nearest neighbors (in features ``x`` (N, D)) of each image of the map.

    ``neighbors``: row numbers in the table and cosine distances, starting with the image itself. ``image``: JPEG and path.
    """
    rows = x[found.rows]
    cosines, near = nearest(rows, rows, min(NEIGHBORS + 1, len(rows)))
    cells, readable = pixels(found.paths, SIDE)
    images = [
        {"bytes": _jpeg(cell), "path": path} if fine else None
        for cell, path, fine in zip(cells, found.paths, readable, strict=True)
    ]
    neighbors = [
        {"ids": ids, "distances": distances}
        for ids, distances in zip(near.tolist(), np.maximum(1 - cosines, 0).tolist(), strict=True)
    ]
    table = pa.table(
        {
            "path": strings(found.paths),
            "label": strings(found.labels),
            "x": pa.array(found.points[:, 0]),
            "y": pa.array(found.points[:, 1]),
            "image": pa.array(images, pa.struct({"bytes": pa.binary(), "path": pa.string()})),
            "neighbors": pa.array(neighbors),
        }
    )
    buffer = io.BytesIO()
    parquet.write_table(table, buffer)
    atomic.write_atomic(file, buffer.getvalue())


def find_atlas() -> str:
    """Path of the program. Raises InputError if it is not installed."""
    program = shutil.which("embedding-atlas")
    if program is None:
        raise InputError("embedding-atlas is not installed", "pip install embedding-atlas")
    return program


def open_atlas(program: str, file: Path) -> int:
    """Run Embedding Atlas with the table until it is stopped; returns its exit status."""
    return subprocess.run([program, str(file), *COLUMNS], check=False).returncode


def _jpeg(cell: npt.NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(cell).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
