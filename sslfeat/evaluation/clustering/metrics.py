"""Clustering metrics, with and without labels. The accuracy requires SciPy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sslfeat.numerics.arrays import FloatArray, IntArray
from sslfeat.numerics.sampling import sample

SAMPLE = 5_000  # sample size for silhouette and stability, whose time is quadratic
BLOCK = 1024


@dataclass(frozen=True)
class LabelAgreement:
    """Agreement of clusters and labels over ``images``: NMI (arithmetic mean), ARI, ``accuracy`` of the best one-to-one
    matching (Kuhn 1955), and ``purity``, the share of images with the most frequent label of their cluster."""

    images: int
    nmi: float
    ari: float
    accuracy: float
    purity: float


def agreement(assignments: IntArray, labels: Sequence[str | None]) -> LabelAgreement | None:
    """Computed for rows with a label and a cluster (not -1); None if there are none. ``accuracy`` is NaN without SciPy."""
    rows = [row for row, label in enumerate(labels) if label is not None and assignments[row] >= 0]
    if not rows:
        return None
    y = np.unique([str(labels[row]) for row in rows], return_inverse=True)[1]
    counts = contingency(assignments[rows], y)
    return LabelAgreement(
        images=len(rows),
        nmi=nmi(counts),
        ari=ari(counts),
        accuracy=_matched(counts) / len(rows),
        purity=float(counts.max(1).sum() / len(rows)),
    )


def silhouette(x: FloatArray, assignments: IntArray) -> float:
    """Mean silhouette (Rousseeuw 1987) over up to SAMPLE random clustered rows; NaN for fewer than 2 clusters.

    Clusters of a single row count as 0.
    """
    rows = np.flatnonzero(assignments >= 0)
    rows = rows[sample(len(rows), SAMPLE)]
    numbers, sizes = np.unique(assignments[rows], return_inverse=True, return_counts=True)[1:]
    if not 2 <= len(sizes) < len(rows):
        return float("nan")
    members = np.eye(len(sizes), dtype=np.float32)[numbers]
    points = x[rows] - x[rows].mean(0)  # for numerical precision
    lengths = np.square(points).sum(1)
    total = 0.0
    for start in range(0, len(rows), BLOCK):
        some = np.arange(start, min(start + BLOCK, len(rows)))
        squares = lengths[some, None] + lengths - 2 * points[some] @ points.T
        squares[np.arange(len(some)), some] = 0
        sums = (np.sqrt(np.maximum(squares, 0)) @ members).astype(np.float64)  # of the distances to each cluster
        own, here = numbers[some], np.arange(len(some))
        within = sums[here, own] / np.maximum(sizes[own] - 1, 1)
        means = sums / sizes
        means[here, own] = np.inf
        other = means.min(1)
        values = (other - within) / np.maximum(np.maximum(other, within), np.finfo(np.float64).tiny)
        total += float(values[sizes[own] > 1].sum())
    return total / len(rows)


def stability(runs: Sequence[IntArray]) -> float:
    """Mean ARI of all pairs of assignments of the same rows; NaN for a single assignment."""
    pairs = [(a, b) for i, a in enumerate(runs) for b in runs[:i]]
    return float(np.mean([ari(contingency(a, b)) for a, b in pairs])) if pairs else float("nan")


def nmi(counts: IntArray, average: str = "arithmetic") -> float:
    """Mutual information of a table (K, L), normalized by the ``arithmetic`` or ``geometric`` mean of both entropies.

    1 if both sides have one cluster, 0 if one of them has. For unrelated clusterings it is not 0 but about
    (k - 1)^2 / (2 N log k).
    """
    shares = counts / counts.sum()
    rows, columns = shares.sum(1), shares.sum(0)
    entropies = [-float((side[side > 0] * np.log(side[side > 0])).sum()) for side in (rows, columns)]
    there = shares > 0
    shared = float((shares[there] * np.log(shares[there] / np.outer(rows, columns)[there])).sum())
    if min(entropies) <= 0:
        return float(max(entropies) <= 0)
    mean = sum(entropies) / 2 if average == "arithmetic" else math.sqrt(entropies[0] * entropies[1])
    return max(0.0, shared) / mean


def ari(counts: IntArray) -> float:
    """Adjusted Rand index of a table (K, L) (Hubert, Arabie 1985); 1 if both sides are identical."""
    both, rows, columns, every = (
        float((n * (n - 1.0) / 2).sum()) for n in (counts, counts.sum(1), counts.sum(0), counts.sum(keepdims=True))
    )
    chance, most = rows * columns / every if every else 0.0, (rows + columns) / 2
    return (both - chance) / (most - chance) if most != chance else 1.0


def contingency(first: IntArray, second: IntArray) -> IntArray:
    """Contingency table (K, L): number of rows with the k-th value of ``first`` and the l-th of ``second``."""
    rows, r = np.unique(first, return_inverse=True)
    columns, c = np.unique(second, return_inverse=True)
    counts: IntArray = np.bincount(r * len(columns) + c, minlength=len(rows) * len(columns)).reshape(len(rows), -1)
    return counts


def _matched(counts: IntArray) -> float:
    """Number of rows that agree under the best one-to-one matching of clusters and labels."""
    try:
        return float(counts[match(counts)].sum())
    except ModuleNotFoundError:
        return float("nan")


def match(counts: IntArray) -> tuple[IntArray, IntArray]:
    """One-to-one matching of rows and columns with the greatest sum (Kuhn 1955). Requires SciPy."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(counts, maximize=True)
    return rows, columns
