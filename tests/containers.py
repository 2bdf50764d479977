"""The drawn images in every kind of container, for tests."""

from __future__ import annotations

import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sslfeat.data.dataset import find_inputs


def files_of(folder: Path) -> dict[str, bytes]:
    """Name below the folder -> contents, sorted as ``find_inputs`` sorts them."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.jpg"))}


def names(spec: Path | str) -> list[str]:
    return [record.name for record in find_inputs([spec])]


def write_tar(path: Path, files: dict[str, bytes], kind: int = tarfile.PAX_FORMAT) -> Path:
    import io

    with tarfile.open(path, "w", format=kind) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_zip(path: Path, files: dict[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def table_of(files: dict[str, bytes]) -> pa.Table:
    """As Hugging Face datasets has it: image structs, and a label that is the number of a class."""
    classes = sorted({name.split("/")[0] for name in files})
    images = [{"bytes": data, "path": name.split("/")[-1]} for name, data in files.items()]
    labels = [classes.index(name.split("/")[0]) for name in files]
    features: dict[str, Any] = {"image": {"_type": "Image"}, "label": {"names": classes, "_type": "ClassLabel"}}
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(images, kind), "label": pa.array(labels, pa.int64())})
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def write_parquet(path: Path, files: dict[str, bytes], group: int = 16) -> Path:
    pq.write_table(table_of(files), path, row_group_size=group)
    return path


def write_arrow(path: Path, table: pa.Table, rows: int = 16) -> Path:
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        for batch in table.to_batches(max_chunksize=rows):
            writer.write_batch(batch)
    return path


def save_to_disk(folder: Path, files: dict[str, bytes]) -> Path:
    """A folder as ``Dataset.save_to_disk`` leaves it, with a cache of ``map`` beside the shards, which is no part of it."""
    folder.mkdir(parents=True)
    table, half = table_of(files), len(files) // 2
    shards = {f"data-{n:05d}-of-00002.arrow": part for n, part in enumerate((table.slice(0, half), table.slice(half)))}
    for name, part in shards.items():
        write_arrow(folder / name, part)
    write_arrow(folder / "cache-1234.arrow", table.slice(0, 3))
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in shards]}))
    (folder / "dataset_info.json").write_text("{}")
    return folder
