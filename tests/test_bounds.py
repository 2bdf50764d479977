"""Bounds on unseen images hold as often as they say, for values of any distribution."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from sslfeat.numerics.bounds import least, lost_between, rank, share_of, shared_at_least

Values = npt.NDArray[np.float64]
LAWS: dict[str, Callable[[np.random.Generator, int], Values]] = {
    "flat": lambda rng, n: rng.random(n),
    "tail": lambda rng, n: 1 - rng.pareto(1.2, n),
    "two kinds": lambda rng, n: np.where(rng.random(n) < 0.008, 0.0, 1.0) + rng.random(n) / 10,
}


@pytest.mark.parametrize(
    ("count", "share", "place"), [(59, 0.95, 1), (298, 0.989, 1), (299, 0.99, 1), (472, 0.99, 1), (473, 0.99, 2), (640, 0.99, 3)]
)
def test_ranks_are_those_of_the_tables(count: int, share: float, place: int) -> None:
    """Sample sizes for one-sided tolerance limits of 95 % confidence: 59 for 95 %; 299, 473 and 628 for 99 %."""
    assert share_of(count) == pytest.approx(share)
    assert rank(count, share) == place


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("count", [50, 299, 640])
def test_the_stated_share_is_found_on_unseen_values(law: str, count: int) -> None:
    rng = np.random.default_rng(0)
    unseen = LAWS[law](rng, 200_000)
    held = []
    for _ in range(600):
        bound = least(LAWS[law](rng, count))
        held.append(float((unseen >= bound.value).mean()) >= bound.share)
    assert np.mean(held) > 0.93  # 95 % are stated
    assert np.mean(held) < 0.999  # and no more than that: the bound is not idle


@pytest.mark.parametrize("often", [0.002, 0.02, 0.3])
def test_a_mean_of_shares_is_bounded_from_below(often: float) -> None:
    rng = np.random.default_rng(0)
    true = 1 - 0.1 * often
    held = [shared_at_least(np.where(rng.random(256) < often, 0.9, 1.0)) <= true for _ in range(1000)]
    assert np.mean(held) > 0.93


@pytest.mark.parametrize(("worse", "better"), [(0.001, 0.0), (0.01, 0.01), (0.2, 0.1)])
def test_what_is_lost_is_inside_its_interval(worse: float, better: float) -> None:
    rng = np.random.default_rng(0)
    held = []
    for _ in range(1000):
        dice = rng.random(400)
        low, high = lost_between(np.where(dice < worse, 1, np.where(dice > 1 - better, -1, 0)))
        held.append(low <= worse - better <= high)
    assert np.mean(held) > 0.93
