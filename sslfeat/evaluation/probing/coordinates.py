"""Coordinates in which the Gram matrix of features is diagonal, so that correlated units do not slow down a solver.

For many rows the weights are rotated, and features are read in blocks of rows. For few rows a rotated copy of the features is
kept, in the row space if there are fewer rows than units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from sslfeat.numerics.arrays import FloatArray

DoubleArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Losses = Callable[[FloatArray, npt.NDArray[np.intp]], float]  # of logits and their rows; replaces the logits by the gradient
SCALINGS = ("unit", "common")  # divide each unit by its own deviation, or all by a common one: units that are mostly 0 stay small
BLOCK = 4096  # rows per block: logits and centered rows stay in the cache
CONSTANT = 1e-6  # relative to the largest deviation: units below are constant
FEW = 8  # rows per unit up to which a rotated copy is faster
WIDE = 1024  # number of units from which axes are computed in single precision: they need not be exact
NOTHING = 1e-10  # relative to the largest eigenvalue: directions below have no extent


class Coordinates:
    """The ``used`` (N,) rows of ``x`` float32 (N, D), centered and scaled, along axes with eigenvalues ``values`` (r,).

    ``mean`` and ``deviation`` are (D,); weights in these coordinates are (r, K).
    """

    def __init__(self, x: FloatArray, used: BoolArray, scaling: str = "unit", like: Coordinates | None = None) -> None:
        """``like``: coordinates of most of these rows, whose axes are reused: the Gram matrix is nearly diagonal."""
        self.x, self.numbers = x, np.flatnonzero(used)
        self.values: DoubleArray
        self.axes: FloatArray
        self.whole = len(self.numbers) == len(x)
        self.mean, self.deviation = self._moments(scaling)
        self.turned: FloatArray | None = None
        if len(self.numbers) < x.shape[1]:
            self._row_space()
            return
        if like is not None and len(like.values) == x.shape[1]:
            self.axes, self.values = like.axes, like.values * (len(self.numbers) / max(1, len(like.numbers)))
        else:
            gram = sum(np.asarray(rows.T @ rows, np.float64) for rows in map(self._scaled, self._blocks()))
            values, axes = np.linalg.eigh(np.asarray(gram, np.float64 if x.shape[1] < WIDE else np.float32))
            self.values, self.axes = np.maximum(values, 0).astype(np.float64), axes.astype(np.float32)
        if len(self.numbers) <= FEW * x.shape[1]:
            self.turned = np.concatenate([self._scaled(rows) @ self.axes for rows in self._blocks()])

    def _row_space(self) -> None:
        rows = self._scaled(self.numbers).astype(np.float64)
        values, sides = np.linalg.eigh(rows @ rows.T)
        kept = values > NOTHING * max(float(values[-1]), 1e-30)
        self.values, sides = values[kept], sides[:, kept]
        extents = np.sqrt(self.values)
        self.axes = np.asarray(rows.T @ (sides / extents), np.float32)
        self.turned = np.asarray(sides * extents, np.float32)

    def _moments(self, scaling: str) -> tuple[DoubleArray, DoubleArray]:
        count, zero = max(1, len(self.numbers)), np.zeros(self.x.shape[1])
        mean = sum((self.x[rows].sum(0, dtype=np.float64) for rows in self._blocks()), zero) / count
        squares = (np.square(self.x[rows] - mean).sum(0) for rows in self._blocks())
        deviation = np.sqrt(sum(squares, zero) / count)
        if scaling == "common":
            common = np.sqrt(np.square(deviation).mean())
            return mean, np.full_like(deviation, common if common > 1e-30 else 1)
        return mean, np.where(deviation > CONSTANT * max(float(deviation.max()), 1e-30), deviation, 1)

    def _blocks(self) -> Iterator[npt.NDArray[np.intp]]:
        return (self.numbers[start : start + BLOCK] for start in range(0, len(self.numbers), BLOCK))

    def _centered(self, rows: npt.NDArray[np.intp]) -> FloatArray:
        some = self.x[rows[0] : rows[-1] + 1] if self.whole else self.x[rows]  # a view if all rows are used
        return np.subtract(some, self.mean.astype(np.float32), dtype=np.float32)

    def _scaled(self, rows: npt.NDArray[np.intp]) -> FloatArray:
        return np.divide(self._centered(rows), self.deviation.astype(np.float32), dtype=np.float32)

    def to_weights(self, w: DoubleArray) -> DoubleArray:
        """Convert to weights (D, K) of centered features, float64."""
        return (self.axes @ w.astype(np.float32)) / self.deviation[:, None]

    def from_weights(self, weights: npt.NDArray[np.floating]) -> DoubleArray:
        """Inverse of ``to_weights``, within the span of the rows."""
        return self.axes.T @ (weights * self.deviation[:, None])

    def sweep(self, w: DoubleArray, bias: DoubleArray, losses: Losses) -> tuple[float, DoubleArray, DoubleArray]:
        """Loss over all rows, and its gradients with respect to ``w`` (r, K) and ``bias`` (K,)."""
        single = (w if self.turned is not None else self.to_weights(w)).astype(np.float32)
        total, slope_bias = 0.0, np.zeros_like(bias)
        slope: DoubleArray = np.zeros(single.shape, np.float64)
        for number, rows in enumerate(self._blocks()):
            part = self._centered(rows) if self.turned is None else self.turned[number * BLOCK : (number + 1) * BLOCK]
            z: FloatArray = np.add(part @ single, bias, dtype=np.float32)
            total += losses(z, rows)
            slope += part.T @ z
            slope_bias += z.sum(0, dtype=np.float64)
        if self.turned is None:
            slope = np.asarray(self.axes.T @ (slope / self.deviation[:, None]).astype(np.float32), np.float64)
        return total, slope, slope_bias

    def logits(self, w: DoubleArray, bias: DoubleArray, places: npt.NDArray[np.intp]) -> FloatArray:
        """Logits (n, K) of the used rows at ``places`` (n,)."""
        if self.turned is not None:
            return np.add(self.turned[places] @ w.astype(np.float32), bias, dtype=np.float32)
        part = self.x[self.numbers[places]] - self.mean.astype(np.float32)
        return np.add(part @ self.to_weights(w).astype(np.float32), bias, dtype=np.float32)
