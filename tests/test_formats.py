"""Features folders as other programs read them."""

from __future__ import annotations

import glob
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from embedding_reader import EmbeddingReader

from sslfeat.data.dataset import find_inputs
from sslfeat.errors import InputError
from sslfeat.features.reader import Features
from sslfeat.features.writer import Options, embed_to_folder
from sslfeat.inference.encoder import Encoder
from tests.conftest import TINY_DIM, contents


@pytest.fixture(scope="module")
def folders(tiny: Path, image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = {layout: tmp_path_factory.mktemp("layouts") / layout for layout in ("parquet", "npy")}
    for layout, folder in out.items():
        options = Options(part_size=15, layout=layout)
        embed_to_folder(Encoder.load(tiny, "cpu"), find_inputs([image_folder]), folder, options)
    return out


@pytest.fixture(scope="module")
def wanted(folders: dict[str, Path]) -> Features:
    return Features.load(folders["parquet"])


def test_both_layouts_hold_the_same(folders: dict[str, Path], wanted: Features) -> None:
    found = Features.load(folders["npy"])
    assert found.paths == wanted.paths
    assert found.labels == wanted.labels
    np.testing.assert_array_equal(found.embeddings, wanted.embeddings)


def test_pandas(folders: dict[str, Path], wanted: Features) -> None:
    frame = pd.read_parquet(folders["parquet"])
    np.testing.assert_array_equal(np.stack(list(frame["embedding"])), wanted.embeddings)
    assert list(frame["path"]) == wanted.paths


def test_polars(folders: dict[str, Path], wanted: Features) -> None:
    frame = pl.read_parquet(folders["parquet"] / "part-*.parquet").sort("path")
    np.testing.assert_array_equal(frame["embedding"].to_numpy(), wanted.embeddings)
    assert frame["label"].to_list() == wanted.labels


def test_duckdb(folders: dict[str, Path], wanted: Features) -> None:
    query = f"select path, embedding from '{folders['parquet']}/part-*.parquet' order by path"
    found = duckdb.execute(query).fetchall()
    assert [path for path, _ in found] == wanted.paths
    np.testing.assert_array_equal(np.array([row for _, row in found], np.float32), wanted.embeddings)


def test_pyarrow_datasets(folders: dict[str, Path], wanted: Features) -> None:
    table = ds.dataset(folders["parquet"]).to_table()
    assert pq.read_table(folders["parquet"]).equals(table)
    assert table["path"].to_pylist() == wanted.paths


def test_the_patterns_that_the_documentation_gives(folders: dict[str, Path], wanted: Features) -> None:
    """As README and docs/embed.md write them; polars takes a pattern alone."""
    pattern = f"{folders['parquet']}/*.parquet"
    files = sorted(glob.glob(pattern))
    assert pl.read_parquet(pattern).sort("path")["path"].to_list() == wanted.paths
    assert duckdb.execute(f"select path from '{pattern}' order by path").fetchall() == [(path,) for path in wanted.paths]
    assert list(pd.read_parquet(files)["path"]) == wanted.paths  # type: ignore[call-overload]  # its stubs know one path
    assert pq.read_table(files)["path"].to_pylist() == wanted.paths
    assert (folders["parquet"] / "__sslfeat__/failures.csv").exists()


def test_the_reader_of_autofaiss_and_clip_retrieval(folders: dict[str, Path], wanted: Features) -> None:
    """autofaiss and clip-retrieval read embeddings through embedding-reader: npy, npy with metadata, and parquet."""
    npy = folders["npy"]
    readers = {
        "npy": EmbeddingReader(str(npy / "img_emb"), file_format="npy"),
        "parquet_npy": EmbeddingReader(
            str(npy / "img_emb"), metadata_folder=str(npy / "metadata"), meta_columns=["image_path"],
            file_format="parquet_npy",
        ),
        "parquet": EmbeddingReader(
            str(folders["parquet"]), file_format="parquet", embedding_column="embedding", meta_columns=["path"]
        ),
    }  # fmt: skip
    for name, reader in readers.items():
        assert (reader.count, reader.dimension) == (40, TINY_DIM), name
        batches = list(reader(batch_size=16, show_progress=False))
        np.testing.assert_array_equal(np.concatenate([batch for batch, _ in batches]), wanted.embeddings, name)
        if name != "npy":
            column = "image_path" if name == "parquet_npy" else "path"
            assert [path for _, meta in batches for path in meta[column]] == wanted.paths, name


def test_an_unknown_layout_is_refused() -> None:
    with pytest.raises(InputError, match=r"csv.*parquet or npy"):
        Options(layout="csv")


def test_overwriting_leaves_nothing_of_the_other_layout(tiny: Path, image_folder: Path, tmp_path: Path) -> None:
    encoder, inputs = Encoder.load(tiny, "cpu"), find_inputs([image_folder])
    embed_to_folder(encoder, inputs, tmp_path / "f", Options(layout="npy"))
    embed_to_folder(encoder, inputs, tmp_path / "f", Options(), overwrite=True)
    names = sorted(contents(tmp_path / "f"))
    inside = ("failures.csv", "features.json", "inputs.arrow", "part-00000.json")
    assert names == [".lock", *(f"__sslfeat__/{name}" for name in inside), "part-00000.parquet"]
