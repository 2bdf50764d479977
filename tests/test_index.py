"""Indexes: what they state against exact search done apart, every row by its own name, kinds chosen within the means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from sslfeat import Index
from sslfeat.errors import InputError, RetrievalError
from sslfeat.numerics.arrays import FloatArray
from sslfeat.retrieval import create as building
from sslfeat.retrieval import selection as choosing
from sslfeat.retrieval import tuning
from sslfeat.retrieval.faiss_io import FlatFile
from sslfeat.retrieval.ground_truth import Truth
from sslfeat.retrieval.index_types import KINDS, IndexSpec, specs_for
from sslfeat.retrieval.selection import IndexRequirements
from sslfeat.retrieval.vectors import prepare


@pytest.fixture(autouse=True)
def short_laps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Speeds decide nothing here, so they need not be measured well; and few rows make an approximate index."""
    monkeypatch.setattr(tuning, "LAP_SECONDS", 0.001)
    monkeypatch.setattr(building, "SMALL", 1000)


def clustered(count: int, dim: int = 32, seed: int = 0) -> FloatArray:
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(99).normal(size=(40, dim))
    return (centers[rng.integers(0, 40, count)] + 0.6 * rng.normal(size=(count, dim))).astype(np.float32)


def exact(queries: FloatArray, rows: FloatArray, metric: str, k: int) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """Naively, in float64."""
    q, x = queries.astype(np.float64), rows.astype(np.float64)
    if metric == "cosine":
        scores = (q @ x.T) / np.linalg.norm(q, axis=1)[:, None] / np.linalg.norm(x, axis=1)
    elif metric == "ip":
        scores = q @ x.T
    else:
        scores = -np.linalg.norm(q[:, None] - x[None], axis=2)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, 1).astype(np.float32), order


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_stated_recall_is_what_other_queries_find(kind: str, metric: str) -> None:
    rows, queries = clustered(6000), clustered(400, seed=1)
    index = Index.build(rows, metric=metric, kind=kind, recall=0.9)
    hits = index.search(queries, top=10)
    scores, order = exact(queries, rows, metric, 10)
    names = np.array(index.columns["path"].to_pylist()).astype(int)  # rows are named by their numbers
    found = np.mean([len({*names[got]} & {*true}) / 10 for got, true in zip(hits.rows, order, strict=True)])
    assert found == pytest.approx(index.meta["figures"]["recall"], abs=0.03)
    assert found >= 0.88
    same = names[hits.rows] == order
    assert np.abs(hits.scores - scores)[same].max() < 1e-3 * max(1, np.abs(scores).max())
    np.testing.assert_allclose(np.sort(-hits.scores), -hits.scores)


@pytest.mark.parametrize("kind", KINDS)
def test_every_row_is_found_by_its_own_vector(kind: str) -> None:
    rows = clustered(3000)
    index = Index.build(rows, [f"image {number}" for number in range(len(rows))], kind=kind, recall=0.99)
    hits = index.search(rows, top=1)
    names = [index.columns["path"][int(row)].as_py() for row in hits.rows[:, 0]]
    right = np.mean([name == f"image {number}" for number, name in enumerate(names)])
    assert right > (0.999 if kind == "flat" else 0.97)
    stored = index.vectors(list(range(20)))
    numbers = [int(index.columns["path"][row].as_py().split()[1]) for row in range(20)]
    np.testing.assert_allclose(stored, prepare(rows[numbers], "cosine"), atol=1e-6)


def test_flat_files_are_those_that_faiss_writes(tmp_path: Path) -> None:
    import faiss

    rows = clustered(300)
    for metric, kind in (("ip", faiss.METRIC_INNER_PRODUCT), ("l2", faiss.METRIC_L2)):
        file = FlatFile(tmp_path / metric, 32, metric)
        for block in np.array_split(rows, 7):
            file.add(block)
        index = faiss.IndexFlat(32, kind)
        index.add(rows)
        assert (tmp_path / metric).read_bytes() == faiss.serialize_index(index).tobytes()
        np.testing.assert_array_equal(file.open().reconstruct_n(0, 300), rows)


def test_truth_is_the_naive_one_by_blocks_and_counts_ties() -> None:
    rows, queries = clustered(500), clustered(30, seed=1)
    for metric in ("ip", "l2"):
        truth = Truth(queries, metric)
        for start in range(0, 500, 77):
            truth.see(rows[start : start + 77], start)
        np.testing.assert_array_equal(truth.rows, exact(queries, rows, metric, 10)[1])
    twice = np.concatenate([rows, rows])
    truth = Truth(queries, "ip")
    truth.see(twice, 0)
    assert truth.recall(truth.scores, (truth.rows + 500) % 1000) == 1  # the other copies are as near
    assert truth.recall(truth.scores, np.full_like(truth.rows, -1)) == 0


def test_the_fastest_kind_that_finds_enough_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said: list[str] = []
    rows = clustered(4000)
    monkeypatch.setattr(choosing, "SMALL", 100)
    trials = choosing.choose(rows, clustered(200, seed=1), 4000, "cosine", IndexRequirements(), tmp_path, said.append)
    assert not list(tmp_path.iterdir())
    rates = [trial.per_second for trial in trials if trial.per_second is not None]
    assert len(rates) >= 3
    assert rates == sorted(rates, reverse=True)
    assert {line.split()[0] for line in said} == set(KINDS)


def test_memory_decides_and_what_cannot_be_met_says_which_of_the_two_to_give() -> None:
    rows = clustered(5000)
    whole = IndexSpec("flat").memory(5000, 32)
    small = Index.build(rows, memory=whole // 2, recall=0.8)
    assert small.spec.kind == "ivfpq"
    assert small.meta["figures"]["memory"] <= whole // 2
    hard = np.random.default_rng(0).normal(size=(20_000, 64))
    with pytest.raises(RetrievalError, match=r"within 0 MiB.*--recall 0\.\d+.*or --memory 5M"):
        Index.build(hard, memory=300_000, recall=0.999)
    with pytest.raises(RetrievalError, match=r"within 0 MiB. Give --memory"):
        Index.build(rows, memory=1000)


def test_plans_suit_any_dimension() -> None:
    for dim in (1, 2, 7, 97, 320, 384, 1000):
        for spec in specs_for(50_000, dim):
            assert spec.kind != "ivfpq" or dim % spec.pq_m == 0
    index = Index.build(clustered(2000, 7), kind="ivfpq", recall=0.7)
    assert index.search(clustered(3, 7), top=5).rows.shape == (3, 5)


def test_wrong_input_is_named(tmp_path: Path) -> None:
    rows = clustered(50)
    rows[7] = np.nan
    with pytest.raises(RetrievalError, match=r"features of 7 are not finite \(1 rows\)"):
        Index.build(rows)
    with pytest.raises(InputError, match="no vectors"):
        Index.build(np.empty((0, 4), np.float32))
    with pytest.raises(InputError, match="metric 'hamming' is unknown"):
        Index.build(clustered(5), metric="hamming")
    with pytest.raises(InputError, match="as many unique names"):
        Index.build(clustered(5), ["a"] * 5)
    index = Index.build(clustered(50))
    with pytest.raises(InputError, match=r"queries have shape \(2, 5\).*dimension 32"):
        index.search(np.zeros((2, 5), np.float32))
    with pytest.raises(InputError, match="non-finite"):
        index.search(np.full(32, np.inf))
    with pytest.raises(RetrievalError, match="plain vectors"):
        index.search(["a.jpg"])
    for arguments in ({"recall": 0.0}, {"recall": 1.5}, {"kind": "lsh"}):
        with pytest.raises(InputError):
            Index.build(clustered(5), **arguments)


def test_no_cosine_is_beyond_one() -> None:
    x = np.random.default_rng(0).normal(size=(500, 64)).astype(np.float32)
    index = Index.build(np.concatenate([x, -x]))
    scores = index.search(x, 1000).scores
    assert scores.max() == 1 and scores.min() == -1
    assert index.search(x, 1, min_score=1.0).scores.max() == 1


def test_few_rows_and_more_asked_for_than_there_are() -> None:
    index = Index.build(clustered(3), ["a", "b", "c"])
    hits = index.search(clustered(1, seed=5)[0], top=10)
    assert len(hits.of(0)) == 3
    assert index.search(clustered(2), top=2, min_score=2.0).of(0) == []
    assert [hit.path for hit in index.search(clustered(3), top=2, exclude=[0, 1, 2]).of(0)] != ["a"]


@pytest.mark.parametrize("kind", KINDS)
def test_conditions_are_exact_where_few_rows_meet_them(kind: str) -> None:
    rows, queries = clustered(4000), clustered(50, seed=1)
    index = Index.build(rows, [f"{number % 50}/{number}.jpg" for number in range(4000)], kind=kind)
    for pattern, members in (("7/*", np.arange(4000) % 50 == 7), ("[0-3]?/*", np.isin(np.arange(4000) % 50, range(10, 40)))):
        hits = index.search(queries, top=10, where=[f"path~{pattern}"])
        truth = exact(queries, rows[members], "cosine", 10)[0]
        found = np.mean(hits.scores >= truth[:, -1:] - 1e-5)
        assert found > (0.9999 if members.mean() < 0.05 or kind == "flat" else 0.9)
        assert all(hit.path.split("/")[0] in {str(n % 50) for n in np.flatnonzero(members)} for hit in hits.of(0))
    assert index.search(queries, where=["path=nowhere"]).of(0) == []
    alone, listed = (index.search(queries, where=where).rows for where in ("path=7/7.jpg", ["path=7/7.jpg"]))
    assert alone.tolist() == listed.tolist()
    with pytest.raises(InputError, match="is invalid"):
        index.search(queries, where=["size>3"])


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_a_small_index_opened_before_does_not_limit_a_large_one(kind: str, tmp_path: Path) -> None:
    """FAISS's limits are the process's; they must be those of the file at hand."""
    Index.build(clustered(100))
    large = np.random.default_rng(0).normal(size=(12_000, 64))
    index = Index.build(large, kind=kind, recall=0.5)
    index.save(tmp_path / "index")
    Index.build(clustered(100))
    loaded = Index.load(tmp_path / "index")
    Index.build(clustered(100))
    loaded.add(np.random.default_rng(1).normal(size=(3000, 64)), [f"new {number}" for number in range(3000)])
    assert len(loaded) == 15_000
    loaded.remove([f"new {number}" for number in range(10)])
    assert len(Index.load(tmp_path / "index")) == 14_990
