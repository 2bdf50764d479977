"""What an index folder says of itself, what is done where, and what stays as it was found."""

from __future__ import annotations

import copy
import os
import pickle
import random
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sslfeat import Index
from sslfeat.errors import InputError, RetrievalError, SslfeatError
from sslfeat.retrieval import create as building
from sslfeat.retrieval import storage as files
from sslfeat.retrieval import tuning
from sslfeat.retrieval.faiss_io import read_faiss
from sslfeat.retrieval.index_types import KINDS
from sslfeat.storage import atomic, staged
from sslfeat.storage.records import signed_bytes


@pytest.fixture(autouse=True)
def short_laps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "LAP_SECONDS", 0.001)


def rows(count: int, dim: int = 8, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)


def sign(folder: Path, meta: dict[str, Any]) -> None:
    """Written with a valid hash, as by somebody who means it."""
    (folder / files.META).write_bytes(signed_bytes(meta))


LIES: list[tuple[str, Any]] = [
    ("spec", {}), ("spec", {"kind": "lsh", "nlist": 0, "pq_m": 0, "hnsw_m": 0}), ("spec.kind", "flat"),
    ("spec.nlist", 0), ("spec.nlist", 7), ("spec.nlist", "4"), ("spec.nlist", -4), ("spec.pq_m", 10**30),
    ("factory", "Flat"), ("metric", "hamming"), ("metric", "l2"), ("metric", None), ("settings", {"10": {}}),
    ("settings", {"ten": {"nprobe": 1}}), ("settings", {"10": {"nprobe": 0}}), ("settings", {"10": {"nprobe": 1.5}}),
    ("settings", {"10": {"efSearch": 8}}), ("settings", []), ("dim", 0), ("dim", 9), ("dim", True), ("rows", 0),
    ("rows", 299), ("rows", -1), ("removed", 1), ("removed", 301), ("built_rows", 0), ("figures", None),
    ("figures.recall", 1.5), ("figures.recall", "high"), ("figures.recall_at", {"10": -1}), ("figures.memory", -1),
    ("figures.measured_rows", None), ("figures.why", 3), ("encoder", {"name": "x"}), ("encoder", "x"), ("origin", None),
    ("versions", {"faiss": 1}), ("files", {}), ("files", {"index.faiss": {}}), ("more", 1),
]  # fmt: skip


def test_fields_that_lie_are_refused_by_name_behind_a_valid_hash(tmp_path: Path) -> None:
    index = tmp_path / "index"
    Index.build(rows(300), kind="ivf").save(index)
    good = files.read_metadata(index).plain()
    for place, value in LIES:
        meta = copy.deepcopy(good)
        holder = meta
        for name in place.split(".")[:-1]:
            holder = holder[name]
        holder[place.split(".")[-1]] = value
        sign(index, meta)
        with pytest.raises(RetrievalError) as refused:
            Index.load(index)
        assert str(index) in str(refused.value), place
    for place in [*good, "figures.recall", "spec.nlist", "files.index.faiss.sha256"]:
        meta = copy.deepcopy(good)
        holder, *names = [meta, *(["files", "index.faiss", "sha256"] if place.startswith("files.") else place.split("."))]
        for name in names[:-1]:
            holder = holder[name]
        del holder[names[-1]]
        sign(index, meta)
        with pytest.raises(RetrievalError, match=names[-1].replace(".", r"\.")):
            Index.load(index)
    for data in (b"[" * 100_000, b'{"format": 3, "x": ' + b"[" * 900 + b"]" * 900 + b"}", b"[]", b"{}", b"\xff", b'"x"'):
        (index / files.META).write_bytes(data)
        with pytest.raises(RetrievalError, match=r"index\.json"):
            Index.load(index)
    sign(index, good)
    assert len(Index.load(index)) == 300


def test_any_damage_to_a_field_behind_a_valid_hash_is_named_or_harmless(tmp_path: Path) -> None:
    index = tmp_path / "index"
    Index.build(rows(300), kind="hnsw").save(index)
    good, rng, refused = files.read_metadata(index).plain(), random.Random(0), 0
    for _ in range(400):
        meta = copy.deepcopy(good)
        holder: Any = meta
        while True:
            key = rng.choice(sorted(holder) if isinstance(holder, dict) else range(len(holder)))
            if isinstance(holder[key], dict | list) and len(holder[key]) and rng.random() < 0.8:
                holder = holder[key]
                continue
            break
        holder[key] = rng.choice([None, -1, 0, 1, 10**40, 1e300, "", "x", [], {}, [[]], True, {"x": 1}])
        sign(index, meta)
        try:
            loaded = Index.load(index)
            loaded.search(rows(3), top=5)
            str(loaded.meta["figures"]["recall"])
        except SslfeatError as error:
            refused += 1
            assert str(index) in str(error)
    assert refused > 200


def test_faiss_limits_are_what_they_were(tmp_path: Path) -> None:
    import faiss

    def limits() -> tuple[int, int]:
        return faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()

    before = limits()
    try:
        faiss.set_deserialization_vector_byte_limit(123_456_789)
        faiss.set_deserialization_loop_limit(987_654)
        index = tmp_path / "index"
        Index.build(rows(300), kind="ivf").save(index)
        threads = [threading.Thread(target=Index.load, args=(index,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert limits() == (123_456_789, 987_654)
        (index / files.VECTORS).write_bytes(b"no index")
        with pytest.raises(RuntimeError):
            read_faiss(index / files.VECTORS)
        assert limits() == (123_456_789, 987_654)
    finally:
        faiss.set_deserialization_vector_byte_limit(before[0])
        faiss.set_deserialization_loop_limit(before[1])


def test_names_are_durable_before_the_mark_of_an_exchange_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a power cut could leave some of the old files beside some of the new, and nothing that says so."""
    index = tmp_path / "index"
    Index.build(rows(50)).save(index)
    done: list[str] = []
    replace, unlink, sync = Path.replace, Path.unlink, atomic.sync_folder

    def replaced(path: Path, target: Any) -> Path:
        if Path(target).parent == index:
            done.append("exchange")
        return replace(path, target)

    def unlinked(path: Path, missing_ok: bool = False) -> None:
        if path.name == staged.MARK:
            done.append("mark goes")
        unlink(path, missing_ok)

    def synced(folder: Path) -> None:
        if folder == index:
            done.append("durable")
        sync(folder)

    monkeypatch.setattr(Path, "replace", replaced)
    monkeypatch.setattr(Path, "unlink", unlinked)
    monkeypatch.setattr(atomic, "sync_folder", synced)
    Index.load(index).remove(["3"])
    last = len(done) - 1 - done[::-1].index("exchange")
    assert "durable" in done[last : done.index("mark goes")]
    assert done[done.index("mark goes") :].count("durable") == 1


def test_an_index_is_pickled_by_its_place_or_whole(tmp_path: Path) -> None:
    index = Index.build(rows(100))
    index.save(tmp_path / "index")
    saved = Index.load(tmp_path / "index")
    kept = pickle.dumps(saved)
    assert len(kept) < 2000
    again = pickle.loads(kept)  # noqa: S301 - our own
    np.testing.assert_array_equal(again.search(rows(5), 3).rows, saved.search(rows(5), 3).rows)
    whole = pickle.dumps(index)
    folder = index.folder
    del index
    assert not folder.exists()
    out_of_nothing = pickle.loads(whole)  # noqa: S301 - our own
    np.testing.assert_array_equal(out_of_nothing.search(rows(5), 3).rows, saved.search(rows(5), 3).rows)
    assert copy.deepcopy(saved).folder == saved.folder.resolve()
    saved.remove(["7"])
    with pytest.raises(RetrievalError, match="changed since"):
        pickle.loads(kept)  # noqa: S301 - our own
    folder = out_of_nothing.folder
    del out_of_nothing
    assert not folder.exists()


def test_a_graph_whose_numbers_are_not_those_of_rows_is_refused_behind_a_valid_hash(tmp_path: Path) -> None:
    """They say where in the exact vectors to read."""
    import faiss

    index = tmp_path / "index"
    Index.build(rows(300), kind="hnswsq").save(index)
    assert len(Index.load(index)) == 300
    for wrong in ([300], [-1], [0, 0]):
        opened = read_faiss(index / files.VECTORS, mapped=False)
        inner = faiss.downcast_index(opened.base_index)
        numbers = np.concatenate([np.arange(299), wrong])
        faiss.copy_array_to_vector(numbers, inner.id_map)
        faiss.write_index(opened, str(tmp_path / "wrong"))
        shutil.copytree(index, tmp_path / "copy")
        (tmp_path / "wrong").replace(tmp_path / "copy" / files.VECTORS)
        metadata = files.read_metadata(index)
        stored = {**metadata.files, files.VECTORS: files.hashes(tmp_path / "copy" / files.VECTORS)}
        sign(tmp_path / "copy", replace(metadata, files=stored).plain())
        with pytest.raises(RetrievalError, match=r"numbers are not those of rows|cannot be read by FAISS"):
            Index.load(tmp_path / "copy")
        shutil.rmtree(tmp_path / "copy")


def test_queries_are_lists_as_well_as_arrays() -> None:
    index = Index.build(rows(100))
    queries = rows(4, seed=1)
    expected = index.search(queries, 3).rows
    for given in (queries.tolist(), tuple(map(tuple, queries.tolist())), list(queries), queries.astype(np.float64)):
        np.testing.assert_array_equal(index.search(given, 3).rows, expected)
    np.testing.assert_array_equal(index.search(queries[0].tolist(), 3).rows, expected[:1])
    assert index.search(np.zeros((1, 8), int), 3).rows.shape == (1, 3)
    assert index.search([], 3).rows.shape == (0, 3)
    wrong: Any
    for wrong in ([[1.0, 2.0]], [[1.0] * 8, [2.0]], [["a"] * 8, [1.0] * 8], [[float("nan")] * 8]):
        with pytest.raises(SslfeatError):
            index.search(wrong, 3)
    with pytest.raises(InputError, match="exclude"):
        index.search(queries, 3, exclude=[1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_few_odd_rows_are_searched_exactly_by_any_kind(kind: str, metric: str) -> None:
    for count, dim, what in ((1, 1, "equal"), (2, 3, "zero"), (15, 7, "huge"), (17, 1, "random"), (40, 37, "zero")):
        given = rows(count, dim)
        if what == "equal":
            given[:] = given[0]
        elif what == "zero":
            given[::2] = 0
        elif what == "huge":
            given *= 1e18
        index = Index.build(given, kind=kind, metric=metric)
        assert index.spec.kind == kind
        hits = index.search(given, top=count + 5)
        exact = given.astype(np.float64)
        if metric == "cosine":
            exact /= np.maximum(np.linalg.norm(exact, axis=1, keepdims=True), 1e-38)
        scores = -np.linalg.norm(exact[:, None] - exact, axis=2) if metric == "l2" else exact @ exact.T
        scores = -np.sort(-scores, axis=1)
        assert hits.rows.min() >= 0
        np.testing.assert_allclose(hits.scores, scores, atol=1e-3 * max(np.abs(scores).max(), 1e-30))
        assert (np.sort(hits.rows, axis=1) == np.arange(count)).all()


def test_lengths_that_float32_cannot_square() -> None:
    given = rows(30) * np.float32(1e30)
    index = Index.build(given)
    np.testing.assert_allclose(index.search(given, 1).scores, 1, atol=1e-5)
    tiny = Index.build(rows(30) * np.float32(1e-30))
    np.testing.assert_allclose(tiny.search(given, 1).scores, 1, atol=1e-5)
    for metric in ("ip", "l2"):
        with pytest.raises(InputError, match="rescale the vectors"):
            Index.build(given, metric=metric)


FULL = """
import os, sys, tempfile
tempfile.mkdtemp = tempfile.mkstemp = tempfile.NamedTemporaryFile = None  # a TMPDIR that takes nothing
os.environ["TMPDIR"] = "/nowhere"
from sslfeat.retrieval import create as build, selection as choose, tuning
tuning.LAP_SECONDS = 0.001
build.SMALL = choose.SMALL = 1000
from pathlib import Path
import numpy as np
from sslfeat.retrieval.create import build_into, requirements_of
from sslfeat.retrieval.vectors import ArrayVectors
rows = np.random.default_rng(0).normal(size=(3000, 8)).astype(np.float32)
meta = build_into(Path(sys.argv[1]), ArrayVectors.of(rows), "cosine", requirements_of(0.8, None, "auto"), build.Events(print))
print(sorted(os.listdir(sys.argv[1])))
"""


def test_kinds_are_tried_beside_the_index_and_not_in_the_temporary_folder(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "index")],
        capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "ivfpq on 2626 rows" in done.stdout
    assert "'.update'" not in done.stdout


def test_rows_before_and_after_being_built_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Removed rows keep their numbers until the index is built anew; those that stay keep their order."""
    monkeypatch.setattr(building, "SMALL", 100)
    given = rows(1000)
    index = Index.build(given, kind="hnsw", recall=0.8)
    index.remove([str(number) for number in range(300)])
    assert index.search(given[500], 1).rows[0, 0] == 500
    index.remove([str(number) for number in range(300, 400)])
    assert index.meta["rows"] == 600
    assert index.search(given[500], 1).rows[0, 0] == 100
    assert index.spec.kind == "hnsw"
