"""How good is a clustering? Against labels where there are any, and by itself. Needs scikit-learn and SciPy (``probe``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sslfeat.errors import MissingExtraError

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
SAMPLE = 5_000  # rows that silhouette and stability are measured on: their cost is quadratic


@dataclass(frozen=True)
class Agreement:
    """Of clusters with labels, over ``pictures``: NMI (arithmetic mean), ARI, ``accuracy`` of the best one-to-one match
    of clusters and labels (Kuhn 1955), and ``purity``, the share that has its cluster's commonest label."""

    pictures: int
    nmi: float
    ari: float
    accuracy: float
    purity: float


def agreement(assignments: IntArray, labels: Sequence[str | None]) -> Agreement | None:
    """Over the rows with a label and a cluster (not -1); None if there are none."""
    metrics = _metrics()
    rows = [row for row, label in enumerate(labels) if label is not None and assignments[row] >= 0]
    if not rows:
        return None
    from scipy.optimize import linear_sum_assignment

    names, y = np.unique([str(labels[row]) for row in rows], return_inverse=True)
    clusters, found = np.unique(assignments[rows], return_inverse=True)
    counts = np.bincount(found * len(names) + y, minlength=len(names) * len(clusters)).reshape(
        len(clusters), len(names)
    )
    matched = counts[linear_sum_assignment(-counts)].sum()
    return Agreement(
        pictures=len(rows),
        nmi=float(metrics.normalized_mutual_info_score(y, found)),
        ari=float(metrics.adjusted_rand_score(y, found)),
        accuracy=float(matched / len(rows)),
        purity=float(counts.max(1).sum() / len(rows)),
    )


def silhouette(x: FloatArray, assignments: IntArray) -> float:
    """Mean silhouette (Rousseeuw 1987) over up to SAMPLE clustered rows, evenly spread; NaN for fewer than 2 clusters."""
    metrics = _metrics()
    rows = np.flatnonzero(assignments >= 0)
    rows = rows[:: max(1, -(-len(rows) // SAMPLE))]
    present = len(np.unique(assignments[rows]))
    if not 2 <= present < len(rows):
        return float("nan")
    return float(metrics.silhouette_score(x[rows], assignments[rows]))


def stability(runs: Sequence[IntArray]) -> float:
    """Mean ARI of every two assignments of the same rows; NaN for a single one."""
    metrics = _metrics()
    pairs = [(a, b) for i, a in enumerate(runs) for b in runs[:i]]
    return float(np.mean([metrics.adjusted_rand_score(a, b) for a, b in pairs])) if pairs else float("nan")


def _metrics() -> Any:
    try:
        from sklearn import metrics
    except ModuleNotFoundError as error:
        raise MissingExtraError("probe", "scikit-learn") from error
    return metrics
