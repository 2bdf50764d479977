"""Classifiers without training: weighted nearest neighbors, nearest class mean, and few-shot.

kNN: cosine similarity, votes weighted by exp(similarity / T) (Wu et al. 2018, "Unsupervised Feature Learning via
Non-Parametric Instance Discrimination", section 3.4). Class means and few shots: centered on the training mean, unit
length, nearest mean by cosine (Wang et al. 2019, "SimpleShot", section 3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sslfeat.evaluation.probing.bootstrap import LEVELS
from sslfeat.numerics.arrays import FloatArray, IntArray
from sslfeat.numerics.similarity import BLOCK, nearest, unit

TEMPERATURE = 0.07
TEMPERATURES = (0.02, 0.04, 0.07, 0.1, 0.2, 0.5)
KS = (1, 5, 10, 20, 50, 100, 200)
TUNING = 5_000  # number of training rows for choosing k and T, each searched among all others
QUERIES = 10_000  # maximum number of test rows: exact search of more would take hours with a million rows
SHOTS = (1, 5, 10)
DRAWS = 20


@dataclass(frozen=True)
class FewShot:
    """Mean top-1 over ``draws`` of ``shots`` training images per class, with 95% interval [low, high] for single draws."""

    shots: int
    draws: int
    top1: float
    low: float
    high: float


def vote(cosines: FloatArray, labels: IntArray, k: int, temperature: float, classes: int) -> IntArray:
    """Predicted class (Q,) by weighted vote of the first ``k`` neighbors, with ``labels`` (Q, K)."""
    weight = np.exp((cosines[:, :k] - 1) / temperature).astype(np.float64)  # -1 avoids overflow
    cells = np.arange(len(cosines))[:, None] * classes + labels[:, :k]
    votes = np.bincount(cells.ravel(), weight.ravel(), len(cosines) * classes).reshape(-1, classes)
    winner: IntArray = votes.argmax(1)
    return winner


def choose(
    x: FloatArray, y: IntArray, classes: int, rng: np.random.Generator, contents: IntArray | None = None
) -> tuple[int, float]:
    """Best k and temperature for training rows, leave-one-out, without copies of the query."""
    rows = np.sort(rng.permutation(len(x))[:TUNING])
    k = min(max(KS), len(x) - 1)
    cosines, found = nearest(x, x[rows], k + 1)
    same = found == rows[:, None] if contents is None else contents[found] == contents[rows][:, None]
    others = np.argsort(same, axis=1, kind="stable")[:, :k]
    cosines = np.take_along_axis(np.where(same, -np.inf, cosines), others, 1)
    labels = y[np.take_along_axis(found, others, 1)]
    grid = [(n, t) for n in KS if n <= k for t in TEMPERATURES]
    right = [float((vote(cosines, labels, n, t, classes) == y[rows]).mean()) for n, t in grid]
    return grid[int(np.argmax(right))]


def class_means(x: FloatArray, y: IntArray, classes: int, mean: FloatArray) -> FloatArray:
    """Normalized class means (K, D) of the centered (by ``mean``), normalized rows ``x`` (N, D); zeros for empty classes."""
    sums = np.zeros((classes, x.shape[1]))
    for start in range(0, len(x), BLOCK):
        labels = y[start : start + BLOCK]
        order = np.argsort(labels, kind="stable")
        present, starts = np.unique(labels[order], return_index=True)
        sums[present] += np.add.reduceat(unit(x[start : start + BLOCK][order] - mean), starts, axis=0)
    return unit(sums.astype(np.float32))


def nearest_mean(x: FloatArray, y: IntArray, x_test: FloatArray, classes: int) -> IntArray:
    """Class (Q,) with the nearest mean for each test row."""
    mean = x.mean(0, dtype=np.float64).astype(np.float32)
    winner: IntArray = (unit(x_test - mean) @ class_means(x, y, classes, mean).T).argmax(1)
    return winner


def few_shot(
    x: FloatArray, y: IntArray, x_test: FloatArray, y_test: IntArray, classes: int, rng: np.random.Generator
) -> list[FewShot]:
    """Few-shot accuracy for each of SHOTS for which all classes have enough images: nearest mean, over DRAWS random draws.

    Features are centered by the mean of all training rows, which needs no labels.
    """
    mean = x.mean(0, dtype=np.float64).astype(np.float32)
    queries = unit(x_test - mean)
    counts = np.bincount(y, minlength=classes)
    starts = np.cumsum(counts) - counts
    found = []
    for shots in (n for n in SHOTS if n <= counts.min()):
        tops = []
        for _ in range(DRAWS):
            order = np.lexsort((rng.random(len(y)), y))
            rows = order[(starts[:, None] + np.arange(shots)).ravel()]
            means = class_means(x[rows], y[rows], classes, mean)
            tops.append(float(((queries @ means.T).argmax(1) == y_test).mean()))
        drawn = rng.binomial(len(y_test), np.repeat(tops, 500)) / len(y_test)  # variation over draws and test images
        low, high = np.quantile(drawn, LEVELS)
        found.append(FewShot(shots, DRAWS, float(np.mean(tops)), float(low), float(high)))
    return found
