"""What images that judge say of images that nobody has seen yet: bounds with a stated confidence, not the worst of a sample.

Both hold for images drawn as the judges were, and say nothing of other kinds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95
SHARE = 0.99  # of unseen images that a bound speaks for, where there are judges enough: 299 are
Z_ONE, Z_TWO = 1.6449, 1.96  # of the normal distribution: one-sided and two-sided 95 %


@dataclass(frozen=True)
class Bound:
    """With 95 % confidence at least ``share`` of unseen images are at or above ``value``."""

    value: float
    share: float


def least(values: npt.NDArray[Any]) -> Bound:
    """The lower bound that ``values`` (N,) of N images give for others, whatever their distribution.

    Source: S. S. Wilks, Determination of sample sizes for setting tolerance limits, 1941; the ranks by the binomial. With fewer
    than 299 values the least of them is the bound, for the share of 0.05^(1/N).
    """
    count = len(values)
    share = share_of(count)
    return Bound(float(np.sort(values)[rank(count, share) - 1]), share)


def share_of(count: int) -> float:
    """Of how many unseen images ``count`` judges can speak, rounded down to a thousandth; SHARE at the most."""
    whole: float = math.floor(1000 * (1 - CONFIDENCE) ** (1 / count)) / 1000
    return min(SHARE, whole)


def rank(count: int, share: float) -> int:
    """The k of the k-th smallest of ``count`` values that bounds ``share`` of others from below, 1 at the least.

    It does not if fewer than k of the values are among the lowest 1 - share of all: a binomial chance, kept to 5 %.
    """
    found, below, chance = 0, 0.0, math.exp(count * math.log(share))  # of no value among the lowest
    while found < count and below + chance <= 1 - CONFIDENCE:
        below += chance
        chance *= (count - found) / (found + 1) * (1 - share) / share
        found += 1
    return max(found, 1)


def shared_at_least(shared: npt.NDArray[Any], step: float = 0.1) -> float:
    """The lower end, with 95 % confidence, of the mean that ``shared`` (N,), values up to 1, are drawn from.

    By the normal distribution, after three images that lose a ``step`` more than the mean: where none of N differs, 3 / N of
    others still may (the rule of three).
    """
    mean = float(shared.mean())
    values = np.append(shared, [max(0.0, mean - step)] * 3)
    return float(values.mean()) - Z_ONE * _error(values)


def lost_between(lost: npt.NDArray[Any]) -> tuple[float, float]:
    """Both ends of the 95 % interval of the mean of ``lost`` (N,): -1, 0 or 1 where an answer came right, stayed or went wrong.

    By the normal distribution, after one image of either kind: where no answer changed, others still may.
    Source: A. Agresti, Y. Min, Simple improved confidence intervals for comparing matched proportions, 2005; they add half of it.
    """
    values = np.append(lost, [-1, 1])
    reach = Z_TWO * _error(values)
    return float(values.mean()) - reach, float(values.mean()) + reach


def _error(values: npt.NDArray[Any]) -> float:
    return float(values.std(ddof=1)) / math.sqrt(len(values))
