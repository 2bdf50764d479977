"""The recall that an index states is what queries find that it never saw: at any number of hits, under any condition, grown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from sslfeat import Index
from sslfeat.numerics.arrays import FloatArray
from sslfeat.retrieval import create as building
from sslfeat.retrieval import growth, recall, tuning
from sslfeat.retrieval.faiss_builder import Builder
from sslfeat.retrieval.ground_truth import Truth
from sslfeat.retrieval.index_types import IndexSpec, parameters
from sslfeat.retrieval.searcher import Searcher
from sslfeat.retrieval.vectors import ArrayVectors, prepare, table

ROWS, DIM, CLOUDS = 9000, 16, 12
APPROXIMATE = ("ivf", "hnsw", "hnswsq", "ivfpq")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Indexes are approximate from 2,000 rows on; speeds decide nothing here, so they need not be measured well."""
    monkeypatch.setattr(tuning, "LAP_SECONDS", 0.001)
    monkeypatch.setattr(building, "SMALL", 2000)


def clouds(count: int, seed: int, only: tuple[int, ...] = tuple(range(CLOUDS))) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    centers = 2 * np.random.default_rng(99).normal(size=(CLOUDS, DIM))
    members = np.array(only)[rng.integers(0, len(only), count)]
    return (centers[members] + rng.normal(size=(count, DIM))).astype(np.float32), members


def named(rows: FloatArray, labels: npt.NDArray[np.int64], first: int = 0) -> ArrayVectors:
    columns = table([str(first + number) for number in range(len(rows))])
    place = columns.schema.get_field_index("label")
    return ArrayVectors(rows, columns.set_column(place, "label", pa.array([f"c{label}" for label in labels])))


def found(index: Index, queries: FloatArray, rows: FloatArray, k: int, **how: Any) -> float:
    """Share of the ``k`` nearest of ``rows``, by exact search done apart; every hit exists, and is as far as it is said."""
    hits = index.search(queries, top=k, **how)
    scores = -np.sort(-(prepare(queries, "cosine") @ prepare(rows, "cosine").T), axis=1)[:, :k]
    assert hits.rows.min() >= 0, "fewer came back than there are"
    assert np.all(np.diff(np.sort(hits.rows, axis=1), axis=1) > 0), "a row came twice"
    stored = index.vectors(hits.rows[0])
    np.testing.assert_allclose(hits.scores[0], stored @ prepare(queries[:1], "cosine")[0], atol=1e-5)
    return float((hits.scores >= scores[:, -1:] - 1e-5).mean())


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


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_grown_it_states_what_unseen_queries_find(kind: str) -> None:
    """What is added lies elsewhere, so is found otherwise; then a third of the index goes."""
    rows, labels = clouds(6000, 0, only=tuple(range(8)))
    index = Index.build(named(rows, labels), kind=kind, recall=0.9)
    before = index.meta
    more, more_labels = clouds(3000, 1, only=(8, 9, 10, 11))
    index.add(named(more, more_labels, 6000))
    figures = index.meta["figures"]
    assert figures["measured_rows"] == 9000
    assert index.spec.kind == kind
    if index.meta["built_rows"] == 6000:
        assert index.meta["settings"] == before["settings"]
    everything = np.concatenate([rows, more])
    queries = np.concatenate([clouds(500, 2, only=tuple(range(8)))[0], clouds(250, 3, only=(8, 9, 10, 11))[0]])
    for k in (1, 10, 100):
        assert found(index, queries, everything, k) >= figures["recall_at"][str(k)] - (0.02 if k > 1 else 0.035)
    np.testing.assert_allclose(index.vectors(range(9000)), prepare(everything, "cosine"), atol=1e-6)
    gone = [str(number) for number in np.flatnonzero(np.concatenate([labels, more_labels]) == 2)]
    index.remove(gone)
    kept = np.ones(9000, bool)
    kept[[int(path) for path in gone]] = False
    for k in (1, 10, 100):  # from where the removed ones were, too
        assert found(index, queries, everything[kept], k) >= figures["recall_at"][str(k)] - (0.02 if k > 1 else 0.035)


def test_codes_learned_on_other_rows_do_not_flatter_the_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found of new clouds depends on how many of their rows there are: to keep some out would be to ask of fewer."""
    settings = {10: {"nprobe": 1, "candidates": 320}}
    monkeypatch.setattr("sslfeat.retrieval.selection.specs_for", lambda count, dim: [IndexSpec("ivfpq", 1, 8)])
    monkeypatch.setattr(building, "tune_all", lambda *arguments: (settings, 1.0))
    rows, labels = clouds(6000, 0, only=tuple(range(8)))
    index = Index.build(named(rows, labels), kind="ivfpq", recall=0.8)
    more, more_labels = clouds(3000, 1, only=(8, 9, 10, 11))
    index.add(named(more, more_labels, 6000))
    assert index.meta["built_rows"] == 6000
    queries = np.concatenate([clouds(3000, 2, only=tuple(range(8)))[0], clouds(1500, 3, only=(8, 9, 10, 11))[0]])
    true = found(index, queries, np.concatenate([rows, more]), 10)
    assert index.meta["figures"]["recall"] == pytest.approx(true, abs=0.015)


def test_grown_by_too_few_at_once_it_is_built_anew() -> None:
    rows, labels = clouds(4000, 0)
    index = Index.build(named(rows, labels), kind="hnsw", recall=0.9)
    figures = index.meta["figures"]
    index.add(named(*clouds(150, 1), first=4000))
    assert index.meta["figures"] == figures  # by less than a twentieth
    index.add(named(*clouds(150, 2), first=4150))
    assert index.meta["built_rows"] == 4300
    assert index.spec.kind == "hnsw"
    np.testing.assert_allclose(index.vectors(range(4000)), prepare(rows, "cosine"), atol=1e-6)


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


def test_after_growth_what_was_measured_before_keeps_its_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, labels = clouds(3000, 0)
    index = Index.build(named(rows, labels), kind="hnsw", recall=0.9)
    before = index.meta["figures"]["recall_at"]

    def measured(index: Any, spec: IndexSpec, levels: tuning.Levels, truth: Truth) -> dict[str, Any]:
        return {**recall.measure(index, spec, levels, truth), "recall_at": {"1": 0.5, "10": 0.4, "100": 0.3}}

    monkeypatch.setattr(growth, "measure", measured)
    index.add(named(*clouds(1000, 1), first=3000))
    figures = index.meta["figures"]
    expected = {k: 0.75 * before[k] + 0.25 * new for k, new in (("1", 0.5), ("10", 0.4), ("100", 0.3))}
    assert figures["recall_at"] == pytest.approx(expected, abs=1e-3)
    assert figures["recall"] == figures["recall_at"]["10"]


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


def test_new_rows_that_are_not_found_well_have_the_index_built_anew() -> None:
    """Few lists are looked at: enough for clouds apart, not for rows strewn among them."""
    rows, labels = clouds(4000, 0)
    index = Index.build(named(rows, labels), kind="ivf", recall=0.9)
    before = index.meta["settings"]["10"]["nprobe"]
    strewn = np.random.default_rng(3).normal(size=(2000, DIM)).astype(np.float32)
    index.add(named(strewn, np.zeros(2000, np.int64), 4000))
    assert index.meta["built_rows"] == 6000
    assert index.meta["settings"]["10"]["nprobe"] > before
    queries = np.concatenate([np.random.default_rng(4).normal(size=(300, DIM)).astype(np.float32), clouds(600, 5)[0]])
    assert found(index, queries, np.concatenate([rows, strewn]), 10) >= index.meta["figures"]["recall"] - 0.02


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
