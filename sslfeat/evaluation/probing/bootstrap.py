"""Bootstrap confidence intervals over test images (Efron 1979), and a paired test of two classifiers.

Resampling images with replacement gives multinomial counts of outcomes (class, correct or not), so counts are drawn instead
of images.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import numpy as np
import numpy.typing as npt

from sslfeat.numerics.arrays import IntArray

BoolArray = npt.NDArray[np.bool_]
RESAMPLES = 10_000
CELLS = 4_000_000  # maximum number of counts drawn; fewer resamples for many classes
LEVELS = (0.025, 0.975)


@dataclass(frozen=True)
class Accuracy:
    """Top-1 accuracy in [0, 1] with its 95% bootstrap confidence interval over the test images."""

    top1: float
    low: float
    high: float


@dataclass(frozen=True)
class Paired:
    """Difference in accuracy (second minus first) on the same images, its 95% confidence interval, and the p-value of McNemar's
    exact test.

    ``only_first``, ``only_second``: number of images for which only one of them is correct.
    """

    difference: float
    low: float
    high: float
    only_first: int
    only_second: int
    p: float


def accuracy(correct: BoolArray, rng: np.random.Generator) -> Accuracy:
    """Accuracy of answers ``correct`` (N,)."""
    n, top1 = len(correct), float(correct.mean())
    low, high = np.quantile(rng.binomial(n, top1, RESAMPLES) / n, LEVELS)
    return Accuracy(top1, float(low), float(high))


def balanced(correct: BoolArray, y: IntArray, classes: int, rng: np.random.Generator) -> Accuracy:
    """Balanced accuracy: mean recall over the classes that occur (Brodersen et al. 2010)."""
    right = np.bincount(y, correct, classes)
    wrong = np.bincount(y, ~correct, classes)
    used = right + wrong > 0
    right, wrong = right[used], wrong[used]
    resamples = max(200, min(RESAMPLES, CELLS // (2 * len(right))))
    counts = rng.multinomial(len(y), np.concatenate([right, wrong]) / len(y), resamples)
    rights, all_ = counts[:, : len(right)], counts[:, : len(right)] + counts[:, len(right) :]
    with np.errstate(invalid="ignore"):
        drawn = np.nanmean(np.where(all_ > 0, rights / all_, np.nan), axis=1)
    low, high = np.quantile(drawn, LEVELS)
    return Accuracy(float((right / (right + wrong)).mean()), float(low), float(high))


def paired(first: BoolArray, second: BoolArray, rng: np.random.Generator) -> Paired:
    """Compare correct answers (N,) of two classifiers on the same images (McNemar 1947; exact, two-sided)."""
    n = len(first)
    one, other = int((first & ~second).sum()), int((second & ~first).sum())
    counts = rng.multinomial(n, [one / n, other / n, (n - one - other) / n], RESAMPLES)
    low, high = np.quantile((counts[:, 1] - counts[:, 0]) / n, LEVELS)
    return Paired((other - one) / n, float(low), float(high), one, other, mcnemar(one, other))


def mcnemar(one: int, other: int) -> float:
    """Two-sided p-value of McNemar's test for ``one`` and ``other`` discordant pairs (exact up to 1,000)."""
    n, few = one + other, min(one, other)
    tail = sum(comb(n, k) for k in range(few + 1))
    return min(1.0, float(2 * tail / 2**n)) if n <= 1000 else _normal(n, few)


def _normal(n: int, few: int) -> float:
    """Normal approximation with continuity correction, for more than 1,000 pairs."""
    from math import erfc, sqrt

    return min(1.0, erfc(max(0.0, n / 2 - few - 0.5) / sqrt(n / 4) / sqrt(2)))
