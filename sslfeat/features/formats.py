"""File layouts of a part: ``parquet``, one file per part, or ``npy``, the layout of clip-retrieval."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from sslfeat.data.dataset import ImageRecord
from sslfeat.data.results import Embedded
from sslfeat.errors import FeaturesError, InputError
from sslfeat.storage.arrow import numbers, strings, vectors

LAYOUTS = ("parquet", "npy")
EMBEDDINGS_FOLDER, METADATA_FOLDER = "img_emb", "metadata"  # names used by clip-retrieval
FOLDERS = (EMBEDDINGS_FOLDER, METADATA_FOLDER)
OWN_NAME = re.compile(r"part-\d{5,}\.parquet|img_emb/img_emb_\d{4,}\.npy|metadata/metadata_\d{4,}\.parquet")
COLUMNS = {"path": pa.string(), "sha256": pa.string(), "width": pa.int32(), "height": pa.int32(), "label": pa.string()}


def part_files(layout: str, number: int, parts: int) -> tuple[str, ...]:
    """File names of part ``number`` of ``parts``, relative to the features folder."""
    if layout == "parquet":
        return (f"part-{number:05d}.parquet",)
    if layout == "npy":
        tag = str(number).zfill(max(4, len(str(parts - 1))))  # readers sort by name
        return f"{EMBEDDINGS_FOLDER}/img_emb_{tag}.npy", f"{METADATA_FOLDER}/metadata_{tag}.parquet"
    raise InputError(f"unknown format {layout!r}: use {' or '.join(LAYOUTS)}")


def encode_part(layout: str, rows: Sequence[tuple[ImageRecord, Embedded]], dim: int) -> list[bytes]:
    """Serialize rows to the contents of ``part_files``, in the same order."""
    embeddings = np.stack([image.embedding for _, image in rows]) if rows else np.empty((0, dim), np.float32)
    columns = {
        "image_path" if layout == "npy" else "path": strings([record.name for record, _ in rows]),
        "sha256": strings([image.sha256 for _, image in rows]),
        "width": numbers([image.width for _, image in rows], np.int32),
        "height": numbers([image.height for _, image in rows], np.int32),
        "label": strings([record.label for record, _ in rows]),
    }
    if layout == "npy":
        return [_npy(embeddings), _parquet(columns)]
    return [_parquet({**columns, "embedding": vectors(embeddings)})]


def read_columns(folder: Path, files: Sequence[str]) -> pa.Table:
    """Read ``path``, ``sha256``, ``width``, ``height`` and ``label`` of a part of either layout.

    Raises FeaturesError if columns are missing or have other types, or the file cannot be read.
    """
    path, first = folder / files[-1], "image_path" if len(files) == 2 else "path"
    table = _read_parquet(path, [first, *list(COLUMNS)[1:]]).rename_columns(list(COLUMNS))
    wrong = [name for name, kind in COLUMNS.items() if table[name].type != kind]
    wrong += [name for name in COLUMNS if name != "label" and table[name].null_count]
    if wrong:
        raise FeaturesError(f"{path}: column {wrong[0]} is {table[wrong[0]].type}, expected {COLUMNS[wrong[0]]} without nulls")
    return table


def read_embeddings(folder: Path, files: Sequence[str], dim: int) -> npt.NDArray[np.float32]:
    """Read the embeddings of a part, float32 (N, ``dim``). Raises FeaturesError for another type or an unreadable file."""
    path = folder / files[0]
    if len(files) == 2:
        return _read_npy(path, dim)
    column = _read_parquet(path, ["embedding"])["embedding"]
    kind, expected = column.type, pa.list_(pa.float32(), dim)
    if not (pa.types.is_fixed_size_list(kind) and kind.list_size == dim and kind.value_type == pa.float32()):
        raise FeaturesError(f"{path} contains {kind}, expected {expected}")
    pieces = [chunk.flatten() for chunk in column.chunks]
    if column.null_count or any(piece.null_count for piece in pieces):
        raise FeaturesError(f"{path}: an embedding contains nulls")
    rows = [piece.to_numpy().reshape(-1, dim) for piece in pieces] or [np.empty((0, dim), np.float32)]
    result: npt.NDArray[np.float32] = rows[0] if len(rows) == 1 else np.concatenate(rows)
    return result


def _read_npy(path: Path, dim: int) -> npt.NDArray[np.float32]:
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)  # so that a forged header cannot request too much memory
    except (OSError, ValueError, EOFError) as error:
        raise FeaturesError(f"{path} cannot be read: {error}") from error
    if mapped.dtype != np.float32 or mapped.ndim != 2 or mapped.shape[1] != dim:
        raise FeaturesError(f"{path} contains {mapped.dtype} {mapped.shape}, expected float32 of dimension {dim}")
    return np.array(mapped)


def _read_parquet(path: Path, names: list[str]) -> pa.Table:
    try:
        with pq.ParquetFile(path) as file:
            missing = sorted(set(names) - set(file.schema_arrow.names))
            if missing:
                raise FeaturesError(f"{path} has no column {missing[0]}")
            return file.read(names).select(names)
    except (OSError, pa.ArrowException) as error:
        raise FeaturesError(f"{path} cannot be read: {error}") from error


def _npy(embeddings: npt.NDArray[np.float32]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(embeddings), allow_pickle=False)
    return buffer.getvalue()


def _parquet(columns: dict[str, pa.Array]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, use_dictionary=["label"])
    return buffer.getvalue()
