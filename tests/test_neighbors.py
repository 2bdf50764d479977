"""The nearest rows of many rows: what is found within lists is what comparing with all finds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sslfeat.dedup import neighbors
from sslfeat.dedup.candidates import candidate_pairs
from sslfeat.numerics.similarity import unit

DIM = 24


def clouds(count: int, seed: int = 0) -> Any:
    """Of sizes that differ a lot, with a tenth of the rows copied with a little noise."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, 61)
    rows = rng.normal(size=(60, DIM))[rng.choice(60, count, p=share / share.sum())] + 0.7 * rng.normal(size=(count, DIM))
    rows[: count // 10] = rows[count // 2 : count // 2 + count // 10] + 0.05 * rng.normal(size=(count // 10, DIM))
    return rows.astype(np.float32)


def all_of(blocks: Any) -> tuple[Any, Any]:
    parts = list(blocks)
    assert [first for first, _, _ in parts] == np.cumsum([0, *(len(rows) for _, rows, _ in parts)])[:-1].tolist()
    return np.concatenate([rows for _, rows, _ in parts]), np.concatenate([cosines for _, _, cosines in parts])


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"MANY": 500, "QUERIES": 300, "BLOCK": 700, "SAMPLE": 300}.items():
        monkeypatch.setattr(neighbors, name, value)


def test_in_all_lists_is_what_is_found_exactly(few: None) -> None:
    """Blocks, lists and empty lists change nothing; equal scores may change places."""
    units = unit(clouds(1500))
    lists = np.concatenate([units[:40], unit(-units[:2])])
    found, cosines = all_of(neighbors.within_lists(units, lists, len(lists), 6))
    expected = -np.sort(-(units @ units.T), axis=1)[:, :6]
    np.testing.assert_allclose(cosines, expected, atol=1e-5)
    np.testing.assert_allclose((units[:, None] * units[found]).sum(2), cosines, atol=1e-5)
    assert all(len(set(row)) == 6 for row in found.tolist())


def test_so_many_lists_are_looked_in_as_hold_what_is_near(few: None) -> None:
    """By a loop: the nearer centers are counted for each near pair."""
    units, sample = unit(clouds(1200)), np.arange(0, 1200, 4)
    lists = units[:60]
    needed = []
    for row in sample:
        cosines = units @ units[row]
        for other in np.argsort(-cosines)[:6]:
            if other != row and cosines[other] >= 0.6:
                home = np.argmax(lists @ units[other])
                needed.append(int((lists @ units[row] > (lists @ units[row])[home]).sum()) + 1)
    got = neighbors.lists_needed(units, lists, sample, 6, 0.6)
    assert np.mean(np.array(needed) <= got - 1) < neighbors.FOUND <= np.mean(np.array(needed) <= got)  # no list more than that
    assert neighbors.lists_needed(units, lists, sample, 6, 1.1) == neighbors.FEWEST  # nothing is near


def test_candidates_of_many_rows_are_those_of_comparing_all(few: None, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = clouds(3000)
    steps: list[tuple[int, int]] = []
    used: list[int] = []
    real = neighbors.within_lists

    def noted(*arguments: Any) -> Any:
        used.append(arguments[2])
        return real(*arguments)

    monkeypatch.setattr(neighbors, "within_lists", noted)
    monkeypatch.setattr(neighbors, "TOO_MANY", 0.6)
    within = {*map(tuple, candidate_pairs(rows, 0.8, lambda stage, done, total: steps.append((done, total))).tolist())}
    assert len(used) == 2
    assert steps[-1] == (6000, 6000)
    monkeypatch.setattr(neighbors, "MANY", 10_000)
    exact = {*map(tuple, candidate_pairs(rows, 0.8, lambda stage, done, total: None).tolist())}
    assert len(within & exact) >= neighbors.FOUND * len(exact) > 0
    assert len(within - exact) <= (1 - neighbors.FOUND) * len(exact)  # nearest of those that were found
    assert {(row, row + 1500) for row in range(300)} & exact <= within  # every copy


def test_where_lists_would_save_nothing_all_are_compared(few: None, monkeypatch: pytest.MonkeyPatch) -> None:
    units = unit(np.random.default_rng(0).normal(size=(1000, 64)))
    monkeypatch.setattr(neighbors, "within_lists", None)
    found, cosines = all_of(neighbors.nearest(units, 3, 0.0))
    np.testing.assert_array_equal(found, np.argsort(-(units @ units.T), axis=1)[:, :4])
    assert found.shape == cosines.shape == (1000, 4)
