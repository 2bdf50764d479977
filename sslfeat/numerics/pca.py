"""Principal components, shared by projection, whitening and visual words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sslfeat.numerics.arrays import FloatArray
from sslfeat.numerics.similarity import BLOCK

LEAST_VARIANCE = 1e-6  # of the largest variance: smaller ones are dead units and rounding errors


@dataclass(frozen=True)
class PrincipalAxes:
    """``mean`` (D,), ``variances`` (D,) descending, and unit ``axes`` (D, D) as columns, double precision."""

    mean: npt.NDArray[np.float64]
    variances: npt.NDArray[np.float64]
    axes: npt.NDArray[np.float64]


def principal_axes(x: npt.NDArray[np.floating]) -> PrincipalAxes:
    """Principal axes of rows (N, D), in blocks; the largest weight of each axis is positive, for reproducibility."""
    blocks = [x[start : start + BLOCK] for start in range(0, len(x), BLOCK)]
    mean = np.sum([block.sum(0, dtype=np.float64) for block in blocks], axis=0) / len(x)
    covariance = np.zeros((x.shape[1],) * 2)
    for block in blocks:
        rows = block - mean
        covariance += rows.T @ rows
    values, axes = np.linalg.eigh(covariance / len(x))
    axes = axes[:, ::-1]
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])
    return PrincipalAxes(mean, np.maximum(values[::-1], 0), axes)


def whiten(x: npt.NDArray[np.floating], dims: int, shrinkage: float = 0.0) -> FloatArray:
    """The first ``dims`` components of rows (N, D), each of variance 1: fewer if the rows span fewer.

    With ``shrinkage``, that share of the mean variance is added to each (Coates, Ng 2012, section 2.2), and none is
    omitted: directions of low variance stay small.
    """
    found = principal_axes(x)
    kept = np.arange(len(found.variances)) < dims
    floor = shrinkage * float(found.variances.mean()) + np.finfo(np.float64).tiny
    if not shrinkage:
        kept &= found.variances > LEAST_VARIANCE * max(float(found.variances[0]), np.finfo(np.float64).tiny)
    scaled = found.axes[:, kept] / np.sqrt(found.variances[kept] + floor)
    out = np.empty((len(x), scaled.shape[1]), np.float32)
    for start in range(0, len(x), BLOCK):
        out[start : start + BLOCK] = (x[start : start + BLOCK] - found.mean) @ scaled
    return out
