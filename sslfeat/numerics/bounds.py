"""Confidence bounds for unseen images from a sample of held-out images.

The bounds hold for images from the same distribution as the sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95
SHARE = 0.99  # share of unseen images covered by a bound, if there are at least 299 samples
Z_ONE, Z_TWO = 1.6449, 1.96  # normal quantiles: one-sided and two-sided 95 %


@dataclass(frozen=True)
class Bound:
    """With 95 % confidence at least ``share`` of unseen images are at or above ``value``."""

    value: float
    share: float


def least(values: npt.NDArray[Any]) -> Bound:
    """Distribution-free lower tolerance bound from ``values`` (N,) of N images.

    Source: S. S. Wilks, Determination of sample sizes for setting tolerance limits, 1941; the ranks by the binomial. With fewer
    than 299 values the minimum is the bound, for a share of 0.05^(1/N).
    """
    count = len(values)
    share = share_of(count)
    return Bound(float(np.sort(values)[rank(count, share) - 1]), share)


def share_of(count: int) -> float:
    """Share of unseen images covered with ``count`` samples, rounded down to a thousandth; at most SHARE."""
    whole: float = math.floor(1000 * (1 - CONFIDENCE) ** (1 / count)) / 1000
    return min(SHARE, whole)


def rank(count: int, share: float) -> int:
    """The k for which the k-th smallest of ``count`` values bounds ``share`` of others from below; at least 1.

    The bound fails if fewer than k values are among the lowest 1 - share of all: a binomial probability, at most 5 %.
    """
    found, below, chance = 0, 0.0, math.exp(count * math.log(share))  # probability of no value among the lowest
    while found < count and below + chance <= 1 - CONFIDENCE:
        below += chance
        chance *= (count - found) / (found + 1) * (1 - share) / share
        found += 1
    return max(found, 1)


def shared_at_least(shared: npt.NDArray[Any], step: float = 0.1) -> float:
    """Lower 95 % confidence bound of the mean of the distribution of ``shared`` (N,), values up to 1.

    Normal approximation, with three added images that lose a ``step`` more than the mean: if none of N differs, 3 / N of
    others still may (the rule of three).
    """
    mean = float(shared.mean())
    values = np.append(shared, [max(0.0, mean - step)] * 3)
    return float(values.mean()) - Z_ONE * _error(values)


def lost_between(lost: npt.NDArray[Any]) -> tuple[float, float]:
    """95 % confidence interval of the mean of ``lost`` (N,): -1, 0 or 1 if an answer became right, did not change, became wrong.

    Normal approximation, with one added image of either kind: if no answer changed, others still may.
    Source: A. Agresti, Y. Min, Simple improved confidence intervals for comparing matched proportions, 2005; they add half of it.
    """
    values = np.append(lost, [-1, 1])
    reach = Z_TWO * _error(values)
    return float(values.mean()) - reach, float(values.mean()) + reach


def _error(values: npt.NDArray[Any]) -> float:
    return float(values.std(ddof=1)) / math.sqrt(len(values))
