"""How the rows of a part are laid out in files: ``parquet``, one file a part, or ``npy``, as clip-retrieval keeps them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from sslfeat.columns import numbers, strings, vectors
from sslfeat.errors import FeaturesError, InputError
from sslfeat.inputs import Input
from sslfeat.outcomes import Embedded

LAYOUTS = ("parquet", "npy")
EMBEDDINGS_FOLDER, METADATA_FOLDER = "img_emb", "metadata"  # clip-retrieval's names
FOLDERS = (EMBEDDINGS_FOLDER, METADATA_FOLDER)


def part_files(layout: str, number: int, parts: int) -> tuple[str, ...]:
    """Names of the files of part ``number`` of ``parts``, relative to the features folder."""
    if layout == "parquet":
        return (f"part-{number:05d}.parquet",)
    if layout == "npy":
        tag = str(number).zfill(max(4, len(str(parts - 1))))  # readers sort by name
        return f"{EMBEDDINGS_FOLDER}/img_emb_{tag}.npy", f"{METADATA_FOLDER}/metadata_{tag}.parquet"
    raise InputError(f"format {layout!r} is unknown: {' or '.join(LAYOUTS)}")


def encode_part(layout: str, rows: Sequence[tuple[Input, Embedded]], dim: int) -> list[bytes]:
    """The contents of ``part_files``, in their order."""
    embeddings = np.stack([row.embedding for _, row in rows]) if rows else np.empty((0, dim), np.float32)
    columns = {
        "image_path" if layout == "npy" else "path": strings([item.name for item, _ in rows]),
        "sha256": strings([row.sha256 for _, row in rows]),
        "width": numbers([row.width for _, row in rows], np.int32),
        "height": numbers([row.height for _, row in rows], np.int32),
        "label": strings([item.label for item, _ in rows]),
    }
    if layout == "npy":
        return [_npy(embeddings), _parquet(columns)]
    return [_parquet({**columns, "embedding": vectors(embeddings)})]


def read_columns(folder: Path, files: Sequence[str]) -> pa.Table:
    """``path``, ``sha256``, ``width``, ``height`` and ``label`` of a part, whatever its layout."""
    names = pq.read_schema(folder / files[-1]).names
    table = pq.read_table(folder / files[-1], columns=[name for name in names if name != "embedding"])
    return table.rename_columns(["path" if name == "image_path" else name for name in table.column_names])


def read_embeddings(folder: Path, files: Sequence[str], dim: int) -> npt.NDArray[np.float32]:
    """Embeddings of a part, float32 (N, ``dim``)."""
    if len(files) == 2:
        embeddings = np.load(folder / files[0], allow_pickle=False)
    else:
        column = pq.read_table(folder / files[0], columns=["embedding"])["embedding"].combine_chunks()
        flat = column.flatten() if not isinstance(column, pa.ChunkedArray) else numbers([], np.float32)
        embeddings = flat.to_numpy(zero_copy_only=False).reshape(-1, dim)
    if embeddings.ndim != 2 or embeddings.shape[1] != dim:
        raise FeaturesError(f"{folder / files[0]} holds {embeddings.shape}: embeddings of {dim} were recorded")
    result: npt.NDArray[np.float32] = embeddings
    return result


def _npy(embeddings: npt.NDArray[np.float32]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(embeddings), allow_pickle=False)
    return buffer.getvalue()


def _parquet(columns: dict[str, pa.Array]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, use_dictionary=["label"])
    return buffer.getvalue()
