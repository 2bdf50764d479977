"""Redundancy between the units of features (N, D), by linear correlation. Numpy only.

Barlow 1989 ("Unsupervised learning") proposes codes with independent units. These metrics depend on correlations only, that
is, on the dependence in a Gaussian with the same correlation matrix R.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

DEAD = 1e-6  # units are dead below this multiple of the largest standard deviation


@dataclass(frozen=True)
class Redundancy:
    """``live``: number of measured units. ``dead``: number of excluded units, constant over all inputs.

    ``correlation``: mean |off-diagonal| of R, 0 to 1. ``total_correlation``: -1/2 log det R in nats, 0 for uncorrelated
    units. ``predictability``: mean over units of R^2 for linear prediction from all others, 1 - 1 / (R^-1)_ii.
    ``effective_rank``: see the function; at most ``live``.
    """

    live: int
    dead: int
    correlation: float
    total_correlation: float
    predictability: float
    effective_rank: float


def redundancy(features: npt.NDArray[np.floating], shrinkage: float = 1e-3) -> Redundancy:
    """Measure features (N, D); N must be greater than D, and should be much greater.

    ``shrinkage`` s replaces R by (1 - s) R + s I in ``total_correlation`` and ``predictability``, so that identical units
    give large instead of infinite values. The expected values for independent units are about D (D - 1) / 4N nats and
    an R^2 of (D - 1) / (N - 1): compare encoders at the same N and D. Raises ValueError.
    """
    rows = np.asarray(features, np.float64)
    if rows.ndim != 2 or len(rows) <= rows.shape[1]:
        raise ValueError(f"features of shape {rows.shape}: expected (N, D) with more inputs N than units D")
    if not np.isfinite(rows).all():
        raise ValueError("features are not finite")
    deviations = rows.std(0)
    scale = max(float(np.abs(rows).max(initial=0.0)), np.finfo(np.float64).tiny)
    alive = deviations > DEAD * max(float(deviations.max(initial=0.0)), DEAD * scale)
    live = int(alive.sum())
    rank = effective_rank(rows)
    if live < 2:
        return Redundancy(live, rows.shape[1] - live, 0.0, 0.0, 0.0, rank)
    correlations = np.asarray(np.corrcoef(rows[:, alive], rowvar=False)).reshape(live, live)
    off_diagonal = np.abs(correlations[~np.eye(live, dtype=bool)])
    shrunk = (1 - shrinkage) * correlations + shrinkage * np.eye(live)
    sign, log_det = np.linalg.slogdet(shrunk)
    if sign <= 0:  # identical units, no shrinkage
        return Redundancy(live, rows.shape[1] - live, float(off_diagonal.mean()), float("inf"), 1.0, rank)
    explained = 1 - 1 / np.diag(np.linalg.inv(shrunk))
    return Redundancy(live, rows.shape[1] - live, float(off_diagonal.mean()), float(-log_det / 2), float(explained.mean()), rank)


def effective_rank(features: npt.NDArray[np.floating]) -> float:
    """exp of the entropy of the normalized singular values of the centered features (Roy, Vetterli 2007).

    1 for a line or a point, at most min(N - 1, D).
    """
    centered = features.astype(np.float64) - features.mean(0, dtype=np.float64)
    values = np.linalg.svd(centered, compute_uv=False)
    shares = values[values > 1e-12] / values.sum() if values.sum() > 1e-12 else np.ones(1)
    return float(np.exp(-(shares * np.log(shares)).sum()))
