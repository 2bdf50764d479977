"""Indexes on disk and in use: limits of FAISS, durable exchanges, pickling, queries of any type, and vectors of any length."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sslfeat import Index
from sslfeat.errors import InputError, RetrievalError, SslfeatError
from sslfeat.retrieval import create as building
from sslfeat.retrieval import storage as files
from sslfeat.retrieval.faiss_io import read_faiss
from sslfeat.retrieval.index_types import KINDS
from sslfeat.storage import atomic, staged
from tests.small_index import rows, short_laps

__all__ = ["short_laps"]


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
