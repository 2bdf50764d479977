"""The recall that an index states holds for unseen queries: at any number of hits, and under any condition."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from sslfeat import Index
from sslfeat.numerics.arrays import FloatArray
from sslfeat.retrieval import create as building
from sslfeat.retrieval import growth, recall, tuning
from sslfeat.retrieval.faiss_builder import Builder
from sslfeat.retrieval.ground_truth import Truth
from sslfeat.retrieval.index_types import IndexSpec, parameters
from sslfeat.retrieval.searcher import Searcher
from sslfeat.retrieval.vectors import prepare
from tests.clouds import APPROXIMATE, DIM, ROWS, clouds, found, named, small

__all__ = ["small"]


@pytest.fixture(scope="module", params=APPROXIMATE)
def built(request: pytest.FixtureRequest) -> tuple[Index, FloatArray]:
    """Read only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "LAP_SECONDS", 0.001)
        patch.setattr(building, "SMALL", 2000)
        rows, labels = clouds(ROWS, 0)
        return Index.build(named(rows, labels), kind=request.param), rows


def test_stated_recall_holds_at_any_number_of_hits(built: tuple[Index, FloatArray]) -> None:
    index, rows = built
    queries, _ = clouds(600, 1)
    figures = index.meta["figures"]
    assert set(figures["recall_at"]) == {"1", "10", "100"}
    assert figures["recall"] == figures["recall_at"]["10"]
    for k in (1, 2, 5, 10, 11, 30, 50, 100, 250, 1000, 3000, ROWS):
        # among 600 queries chance makes .015 of one neighbor
        least = figures["recall_at"].get(str(k), figures["recall"]) - (0.02 if k > 2 else 0.035)
        assert found(index, queries, rows, k) >= least, k


def test_rows_are_numbers_of_the_vectors_given(built: tuple[Index, FloatArray]) -> None:
    index, rows = built
    np.testing.assert_allclose(index.vectors(range(ROWS)), prepare(rows, "cosine"), atol=1e-6)
    hits = index.search(rows[:300], top=1)
    assert np.mean(hits.rows[:, 0] == np.arange(300)) > 0.97
    assert [hit.path for hit in hits.of(7)] == [str(hits.rows[7, 0])]


def test_a_condition_that_goes_with_the_query_is_met(built: tuple[Index, FloatArray]) -> None:
    """Asked from one cloud for another: none of the allowed is among the nearest."""
    index, rows = built
    queries, _ = clouds(100, 3, only=(0,))
    _, labels = clouds(ROWS, 0)
    for where, allowed in (
        (["label=c1"], labels == 1),
        (["label!=c0"], labels != 0),
        (["path~*7"], np.arange(ROWS) % 10 == 7),
        (["path!~*7"], np.arange(ROWS) % 10 != 7),
        (["label=c1", "path=" + str(np.flatnonzero(labels == 1)[5])], np.arange(ROWS) == np.flatnonzero(labels == 1)[5]),
    ):
        k = min(10, int(allowed.sum()))
        hits = index.search(queries, top=k, where=where)
        assert allowed[hits.rows].all(), where
        assert found(index, queries, rows[allowed], k, where=where) >= index.meta["figures"]["recall"] - 0.02, where
    assert (index.search(queries, where=["label=c99"]).rows == -1).all()


def test_excluded_rows_and_least_scores_go_together(built: tuple[Index, FloatArray]) -> None:
    index, rows = built
    own = np.arange(200)
    hits = index.search(rows[own], top=10, exclude=own)
    assert not (hits.rows == own[:, None]).any()
    assert hits.rows.shape == (200, 10)
    assert hits.rows.min() >= 0
    least = float(np.median(hits.scores[:, 4]))
    bounded = index.search(rows[own], top=10, exclude=own, min_score=least)
    np.testing.assert_array_equal(bounded.rows, np.where(hits.scores >= least, hits.rows, -1))
    assert (np.isneginf(bounded.scores) == (bounded.rows < 0)).all()
    with_condition = index.search(rows[own], top=10, exclude=own, min_score=least, where=["path~*1"])
    assert not (with_condition.rows == own[:, None]).any()
    assert set(np.unique(with_condition.rows[with_condition.rows >= 0] % 10)) <= {1}


def test_what_is_stated_was_tuned_on_other_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tuned, measured, and in the index: no vector is in two of them while a figure is made."""
    seen: dict[str, FloatArray] = {}
    rows, labels = clouds(3000, 0)

    def spy(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def called(index: Any, spec: IndexSpec, *arguments: Any) -> Any:
            seen[name] = next(argument for argument in arguments if isinstance(argument, Truth)).queries
            seen[f"inside {name}"] = index.storage.reconstruct_n(0, index.ntotal)
            return real(index, spec, *arguments)

        return called

    monkeypatch.setattr(building, "tune_all", spy("tuned", tuning.tune_all))
    monkeypatch.setattr(growth, "least_recall", spy("tuned", tuning.least_recall))
    for module in (building, growth):
        monkeypatch.setattr(module, "measure", spy("measured", recall.measure))
    index = Index.build(named(rows, labels), kind="hnsw", recall=0.9)
    _check_apart(seen, 150)
    before = index.meta
    seen.clear()
    more, more_labels = clouds(1200, 5)
    index.add(named(more, more_labels, 3000))
    _check_apart(seen, 300)
    assert index.meta["figures"]["measured_rows"] == 4200
    assert len(seen["inside tuned"]) == 3600  # half of what is new is in, as all of it will be
    assert index.meta["settings"] == before["settings"]


def _check_apart(seen: dict[str, FloatArray], least: int) -> None:
    sets = {name: set(map(bytes, rows)) for name, rows in seen.items()}
    assert len(sets["measured"]) >= least
    assert len(sets["tuned"]) >= least
    assert not sets["measured"] & sets["tuned"]
    assert not sets["tuned"] & sets["inside tuned"]
    assert not sets["measured"] & sets["inside measured"]
    assert sets["tuned"] <= sets["inside measured"]


def test_more_thorough_settings_for_more_neighbors() -> None:
    """Those of ten neighbors find too few of a hundred, so those of a hundred are others."""
    rows, _ = clouds(3000, 0)
    queries, _ = clouds(200, 1)
    truth = Truth(prepare(queries, "cosine"), "cosine", 1000)
    truth.see(prepare(rows, "cosine"), 0)
    spec = IndexSpec("ivf", nlist=128)
    builder = Builder(spec, DIM, "cosine", Path(), prepare(rows, "cosine"))
    builder.add(prepare(rows, "cosine"))
    levels, _ = tuning.tune_all(builder.open(), spec, truth, 0.9)
    depths = [settings["nprobe"] for settings in levels.values()]
    assert depths == sorted(depths)
    assert depths[-1] > depths[0]
    for depth, settings in levels.items():
        assert tuning.least_recall(builder.open(), spec, settings, truth, depth) >= 0.9


def test_rows_kept_out_come_in_under_their_own_numbers(tmp_path: Path) -> None:
    rows = prepare(clouds(500, 0)[0], "cosine")
    lots = np.where(np.arange(500) % 5 == 0, np.random.default_rng(0).random(500), np.nan)
    graphs = (IndexSpec(kind, hnsw_m=32) for kind in ("hnsw", "hnswsq"))
    for spec in (IndexSpec("ivf", nlist=4), *graphs, IndexSpec("ivfpq", nlist=1, pq_m=8), IndexSpec("flat")):
        builder = Builder(spec, DIM, "cosine", tmp_path, rows)
        for part in range(0, 500, 100):
            builder.add(rows[part : part + 100], lots[part : part + 100])
        if spec.kind != "flat":
            inside = np.concatenate(list(builder.inside()))
            assert set(map(bytes, inside)) == set(map(bytes, rows[np.isnan(lots)]))
            by_lot = np.argsort(lots)[:100]
            np.testing.assert_array_equal(builder.kept_out, rows[by_lot])
            builder.let_in(but=30)
            np.testing.assert_array_equal(builder.kept_out, rows[by_lot[:30]])
            assert sum(map(len, builder.inside())) == 470
        builder.write(tmp_path / "index.faiss")
        index = Builder.of(tmp_path / "index.faiss", spec, DIM, "cosine", tmp_path).open()
        if spec.kind == "ivf":
            index.make_direct_map()
        np.testing.assert_allclose(index.reconstruct_n(0, 500), rows, atol=1e-6)
        if spec.kind == "hnswsq":  # its codes find the rows that its exact vectors compare
            found = index.search(rows, 1, params=parameters(spec, {"efSearch": 64, "candidates": 2}, 1))[1][:, 0]
            assert np.mean(found == np.arange(500)) > 0.98
        for file in tmp_path.iterdir():
            file.unlink()


def test_the_nearest_missed_by_all_is_seen_though_ten_are_found() -> None:
    """Recall is looked at for every number of neighbors up to the depth."""
    rows, queries = prepare(clouds(100, 0)[0], "cosine"), prepare(clouds(20, 1)[0], "cosine")
    truth = Truth(queries, "cosine", 30)
    truth.see(rows, 0)

    class Blind:
        def search(self, queries: FloatArray, k: int, params: Any) -> tuple[FloatArray, npt.NDArray[np.int64]]:
            return truth.scores[:, 1 : k + 1], truth.rows[:, 1 : k + 1]

    assert tuning.least_recall(Blind(), IndexSpec("flat"), {}, truth, 10) == 0
    assert truth.recall(truth.scores[:, 1:12], truth.rows[:, 1:12], 10) == pytest.approx(0.9)


def test_a_short_answer_is_asked_again_until_it_is_whole() -> None:
    """Lists of a few rows each, of which one is looked at."""
    rows, queries = prepare(clouds(1000, 0)[0], "cosine"), prepare(clouds(50, 1)[0], "cosine")
    spec = IndexSpec("ivf", nlist=200)
    builder = Builder(spec, DIM, "cosine", Path(), rows)
    builder.add(rows)
    index = builder.open()
    lookup = Searcher(index, spec, {10: {"nprobe": 1}, 30: {"nprobe": 2}}, "cosine")
    assert (index.search(queries, 10, params=parameters(spec, {"nprobe": 1}, 10))[1] < 0).any()
    scores, found = lookup.nearest(queries, 10)
    assert found.min() >= 0
    np.testing.assert_allclose(scores, np.take_along_axis(queries @ rows.T, found, 1), atol=1e-5)
    short = (index.search(queries, 10, params=parameters(spec, {"nprobe": 2}, 10))[1] < 0).any(1)
    assert short.any()
    np.testing.assert_allclose(scores[short], -np.sort(-(queries[short] @ rows.T))[:, :10], atol=1e-5)  # exact at last


def test_ladders_reach_as_deep_as_they_are_for() -> None:
    for depth in tuning.DEPTHS:
        graphs = [("efSearch", IndexSpec(kind, hnsw_m=32)) for kind in ("hnsw", "hnswsq")]
        for name, spec in (*graphs, ("candidates", IndexSpec("ivfpq", nlist=64, pq_m=8))):
            tried = [settings for ladder in spec.ladders(depth) for settings in ladder]
            assert min(settings[name] for settings in tried) >= min(depth, 1000)
            assert max(settings[name] for settings in tried) >= 6 * depth
            if spec.kind == "hnswsq":  # what a walk does not look at cannot be compared
                assert all(settings["efSearch"] >= settings["candidates"] for settings in tried)
        assert spec.ladders(depth)[-1][-1]["nprobe"] == 64
