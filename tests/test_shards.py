"""Indexes in shards: the answers of one index, whatever the number of files, built within memory and living on."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sslfeat.errors import InputError, RetrievalError, UsageError
from sslfeat.numerics.similarity import unit
from sslfeat.retrieval import storage as files
from sslfeat.retrieval import tuning
from sslfeat.retrieval.create import requirements_of
from sslfeat.retrieval.faiss_builder import Builder
from sslfeat.retrieval.index import Index
from sslfeat.retrieval.index_builder import IndexBuilder
from sslfeat.retrieval.index_types import IndexSpec, parameters
from sslfeat.retrieval.maintenance import change, remove
from sslfeat.retrieval.metadata import vector_names
from sslfeat.retrieval.selection import IndexRequirements
from sslfeat.retrieval.shards import Shards
from sslfeat.retrieval.vectors import ArrayVectors
from sslfeat.storage.records import signed_bytes

DIM = 16
SPECS = (
    IndexSpec("ivf", nlist=8), IndexSpec("hnsw", hnsw_m=32), IndexSpec("hnswsq", hnsw_m=32), IndexSpec("ivfpq", nlist=4, pq_m=8),
    IndexSpec("flat"),
)  # fmt: skip


@pytest.fixture(autouse=True)
def short_laps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "LAP_SECONDS", 0.001)
    monkeypatch.setattr("sslfeat.retrieval.create.SMALL", 100)  # so that rows are held out


def clouds(count: int, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(99).normal(size=(30, DIM))
    return unit(centers[rng.integers(30, size=count)] + 0.4 * rng.normal(size=(count, DIM)))


def built(spec: IndexSpec, rows: Any, work: Path, shard_rows: int | None, lots: Any = None) -> IndexBuilder:
    builder = IndexBuilder(spec, DIM, "cosine", work, rows, shard_rows)
    for start in range(0, len(rows), 70):  # blocks that end within shards
        builder.add(rows[start : start + 70], None if lots is None else lots[start : start + 70])
    return builder


def opened(paths: list[Path], spec: IndexSpec, work: Path) -> Any:
    parts = [Builder.resting(path, spec, DIM, "cosine", work).open() for path in paths]
    for part in parts:
        if spec.kind == "ivf":
            part.make_direct_map()
    return Shards(parts)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.kind)
def test_rows_kept_out_of_shards_that_are_full_come_in_under_their_own_numbers(tmp_path: Path, spec: IndexSpec) -> None:
    rows = clouds(500)
    lots = np.where(np.arange(500) % 5 == 0, np.random.default_rng(0).random(500), np.nan)
    builder = built(spec, rows, tmp_path, 150, lots)
    assert builder.count == 500
    if spec.kind != "flat":
        kept = rows[np.argsort(lots)[:100]]
        np.testing.assert_array_equal(builder.kept_out, kept)
        assert set(map(bytes, np.concatenate(list(builder.inside())))) == set(map(bytes, rows[np.isnan(lots)]))
        let_in = builder.let_in(but=30)
        assert 0 < len(let_in) < 70  # those of the last shard
        assert sum(map(len, builder.inside())) == 400 + len(let_in)
        assert len(builder.kept_out) == 100 - len(let_in)
    builder.open().search(rows[:5], 3)
    builder.write()
    assert sorted(path.name for path in tmp_path.iterdir()) == vector_names(4)
    index = opened([tmp_path / name for name in vector_names(4)], spec, tmp_path)
    assert [part.ntotal for part in index.parts] == [150, 150, 150, 50]
    np.testing.assert_allclose(index.reconstruct_batch(np.arange(500)[::-1]), rows[::-1], atol=1e-6)


def test_shards_answer_as_one_index_does(tmp_path: Path) -> None:
    """The same lists in every shard: the very rows that one index finds, and what is exact stays exact."""
    rows, queries = clouds(600), clouds(40, 1)
    for spec in (IndexSpec("ivf", nlist=16), IndexSpec("flat")):
        (tmp_path / spec.kind).mkdir()
        one = built(spec, rows, tmp_path, None).open()
        many = built(spec, rows, tmp_path / spec.kind, 130).open()
        settings = parameters(spec, {"nprobe": 2}, 10)
        for few in (queries[:1], queries):
            expected, got = one.search(few, 10, params=settings), many.search(few, 10, params=settings)
            np.testing.assert_allclose(got[0], expected[0], atol=1e-6)
            np.testing.assert_array_equal(got[1], expected[1])
    assert (many.search(queries, 700)[1][:, 600:] == -1).all()


def test_of_distances_the_least_are_nearest() -> None:
    import faiss

    rows, queries = clouds(100), clouds(5, 1)
    parts = [faiss.IndexFlatL2(DIM) for _ in range(3)]
    for part, some in zip(parts, np.split(rows, [20, 60]), strict=True):
        part.add(some)
    true = np.square(queries[:, None] - rows).sum(2)
    distances, found = Shards(parts).search(queries, 7)
    np.testing.assert_array_equal(found, np.argsort(true, axis=1)[:, :7])
    np.testing.assert_allclose(distances, np.sort(true, axis=1)[:, :7], atol=1e-5)


def of(count: int, seed: int = 0, first: int = 0) -> ArrayVectors:
    return ArrayVectors.of(clouds(count, seed), [f"{number:05d}" for number in range(first, first + count)])


@pytest.mark.parametrize("kind", ["ivf", "hnsw", "hnswsq", "ivfpq"])
def test_a_sharded_index_finds_what_it_states_filters_and_lives_on(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "index"
    Index.build(of(4000), kind=kind, shards=3, recall=0.9).save(folder)
    assert sorted(path.name for path in folder.glob("*.faiss")) == vector_names(3)
    index, queries = Index.load(folder), clouds(300, 1)
    figures = index.metadata.figures
    assert figures.recall_queries > 0
    true = np.sort(queries @ clouds(4000).T, axis=1)[:, ::-1]
    for k in (1, 10, 100):
        scores = index.search(queries, k).scores
        assert np.mean(scores >= true[:, k - 1 : k] - 1e-6) >= min(0.9, figures.recall_at[str(k)]) - 0.04
    some = index.search(queries[:20], 5, where=["path~*7"]).rows
    allowed = np.arange(7, 4000, 10)
    np.testing.assert_array_equal(np.sort(some), np.sort(allowed[np.argsort(-(queries[:20] @ clouds(4000)[allowed].T))[:, :5]]))
    before = {name: (folder / name).read_bytes() for name in vector_names(3)}
    change(folder, of(100, 2, first=4000))
    after = {name: (folder / name).read_bytes() for name in vector_names(3)}
    assert [before[name] == after[name] for name in vector_names(3)] == [True, True, False]  # only the last is written anew
    grown = Index.load(folder)
    assert len(grown) == 4100
    assert grown.search(clouds(100, 2)[:1], 1).of(0)[0].path == "04000"
    np.testing.assert_allclose(
        grown.vectors([0, 2000, 4050]), np.concatenate([clouds(4000), clouds(100, 2)])[[0, 2000, 4050]], atol=1e-6
    )
    assert remove(folder, {"00005"}).removed == 1
    with pytest.raises(InputError, match="00005"):
        Index.load(folder).row_of("00005")
    change(folder, of(400, 4, first=5000))  # by so many that recall is measured again, or the index built anew
    assert Index.load(folder).metadata.figures.measured_rows >= 4499


def test_what_takes_its_place_leaves_no_shard_behind(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    Index.build(of(2000), kind="ivf", shards=4).save(folder)
    Index.build(of(2000), kind="ivf").save(folder, overwrite=True)
    assert [path.name for path in folder.glob("*.faiss")] == [files.VECTORS]
    Index.build(of(2000), kind="flat", shards=2).save(folder, overwrite=True)
    assert sorted(path.name for path in folder.glob("*.faiss")) == vector_names(2)
    change(folder, of(2500, 3), drop_missing=True)  # outgrown: built anew, in one file
    assert [path.name for path in folder.glob("*.faiss")] == [files.VECTORS]
    np.testing.assert_allclose(Index.load(folder).vectors([7]), clouds(2500, 3)[7:8], atol=1e-6)


def test_memory_decides_how_many_shards_there_are() -> None:
    spec, mib = IndexSpec("ivf", nlist=4096), 1 << 20
    within = [IndexRequirements(max_memory=memory * mib).shards_of(spec, 5_000_000, 128) for memory in (16_000, 4000, 1024)]
    assert within[0] == 1 < within[1] < within[2]
    requirements = IndexRequirements(memory=512 * mib, max_memory=1024 * mib)
    assert requirements.memory_of(spec, 5_000_000, 128) == 4096 * 128 * 4  # the centers: lists are on disk
    assert IndexRequirements(memory=512 * mib).memory_of(spec, 5_000_000, 128) > 2000 * mib
    assert IndexRequirements(shards=7).shards_of(spec, 3, 128) == 3
    assert requirements_of(0.9, None, "auto", max_memory=1024 * mib).memory == 512 * mib
    for wrong in ({"max_memory": 100 * mib}, {"shards": 0}):
        with pytest.raises(UsageError):
            requirements_of(0.9, None, "auto", **wrong)  # type: ignore[arg-type]


def test_a_damaged_exchanged_or_missing_shard_is_refused_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    Index.build(of(900), kind="ivf", shards=3).save(folder)
    good = {name: (folder / name).read_bytes() for name in vector_names(3)}
    rng = random.Random(0)
    for name in vector_names(3):
        data = bytearray(good[name])
        data[rng.randrange(len(data))] ^= 1
        (folder / name).write_bytes(data)
        with pytest.raises(RetrievalError, match=name):
            Index.load(folder)
        (folder / name).unlink()
        with pytest.raises(RetrievalError, match=name):
            Index.load(folder)
        (folder / name).write_bytes(good[name])
    (folder / "index-00000.faiss").write_bytes(good["index-00001.faiss"])
    with pytest.raises(RetrievalError, match="index-00000"):
        Index.load(folder)
    meta = files.read_metadata(folder).plain()
    meta["files"]["index-00007.faiss"] = meta["files"].pop("index-00001.faiss")
    (folder / files.META).write_bytes(signed_bytes(meta))
    with pytest.raises(RetrievalError, match="files are"):
        Index.load(folder)


KILLED = """
import os, sys
from pathlib import Path
from sslfeat.retrieval import index_builder, storage
from sslfeat.retrieval.index import Index
from sslfeat.storage import staged
sys.path.insert(0, sys.argv[3])
from test_shards import of
from sslfeat.retrieval.create import Events, build_into, requirements_of

place, number = sys.argv[2], 0
def dying(real):
    def call(*arguments):
        global number
        number += 1
        if number == 3:
            os._exit(9)
        return real(*arguments)
    return call
if place == "shard":
    index_builder.IndexBuilder._path = dying(index_builder.IndexBuilder._path)
else:
    Path.replace = dying(Path.replace) if place == "replace" else Path.replace
    Path.unlink = dying(Path.unlink) if place == "unlink" else Path.unlink
requirements = requirements_of(0.9, None, "ivf", shards=3)
build_into(Path(sys.argv[1]), of(900, 5), "cosine", requirements, Events(), overwrite=True)
"""


@pytest.mark.parametrize("place", ["shard", "replace", "unlink"])
def test_killed_while_it_is_built_the_old_index_or_the_new_is_there(tmp_path: Path, place: str) -> None:
    folder = tmp_path / "index"
    Index.build(of(900), kind="ivf", shards=5).save(folder)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder), place, os.path.dirname(__file__)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 9, done.stderr
    index = Index.load(folder)
    seed = 5 if len(index.metadata.vector_files) == 3 else 0
    np.testing.assert_allclose(index.vectors([0, 450, 899]), clouds(900, seed)[[0, 450, 899]], atol=1e-6)
    assert (seed == 0) or place != "shard"


def test_command_line_says_and_records_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from sslfeat.cli.app import app
    from sslfeat.retrieval import vectors

    monkeypatch.setattr(vectors, "FolderVectors", lambda folder, encoder=None: of(900))
    monkeypatch.setattr("sslfeat.cli.index._features", lambda *arguments: (Path("features"), 0))
    out = tmp_path / "index"
    run = CliRunner().invoke(app, ["index", "features", "--out", str(out), "--shards", "2", "--build-memory", "1G", "--json"])
    assert run.exit_code == 0, run.output
    told = json.loads(run.stdout[run.stdout.index("{") :])
    assert told["figures"]["max_memory"] == 1 << 30
    assert told["bytes"] == sum((out / name).stat().st_size for name in (*vector_names(2), files.IDS, files.META))
    run = CliRunner().invoke(app, ["verify", str(out)])
    assert run.exit_code == 0, run.output
    assert CliRunner().invoke(app, ["index", "features", "--out", str(tmp_path / "x"), "--build-memory", "100M"]).exit_code != 0
