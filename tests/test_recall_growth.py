"""The recall that an index states after rows were added: measured again, or the index is rebuilt."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sslfeat import Index
from sslfeat.retrieval import create as building
from sslfeat.retrieval import growth, recall, tuning
from sslfeat.retrieval.ground_truth import Truth
from sslfeat.retrieval.index_types import IndexSpec
from sslfeat.retrieval.vectors import prepare
from tests.clouds import APPROXIMATE, DIM, clouds, found, named, small

__all__ = ["small"]


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
