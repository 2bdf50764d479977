"""Features in coordinates in which their Gram matrix is diagonal: correlated units then cost a solver no iterations.

Of many rows the features stay where they are and weights are turned, a block of rows at a time; of few and wide ones
a turned copy is kept, in the row space where rows are fewer than units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from sslfeat.numerics.arrays import FloatArray

DoubleArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Losses = Callable[[FloatArray, npt.NDArray[np.intp]], float]  # of logits and their rows; the logits become the gradient
SCALINGS = ("unit", "common")  # each unit by its own deviation, or all by one: units that are mostly 0 stay small
BLOCK = 4096  # rows at once: logits and the centered rows stay in the cache
CONSTANT = 1e-6  # of the largest deviation: a unit that varies less says nothing
FEW = 8  # rows a unit up to which a turned copy pays
WIDE = 1024  # units from which single precision finds the axes: they need not be exact
NOTHING = 1e-10  # of the greatest value: a direction without extent


class Coordinates:
    """The rows of ``x`` float32 (N, D) that are ``used`` (N,), centered and scaled, along axes of extent ``values`` (r,).

    ``mean`` and ``deviation`` are (D,); weights in these coordinates are (r, K).
    """

    def __init__(self, x: FloatArray, used: BoolArray, scaling: str = "unit", like: Coordinates | None = None) -> None:
        """``like`` has the axes of most of these rows: along them the Gram matrix is nearly diagonal here, too."""
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
        some = self.x[rows[0] : rows[-1] + 1] if self.whole else self.x[rows]  # a view, where nothing is left out
        return np.subtract(some, self.mean.astype(np.float32), dtype=np.float32)

    def _scaled(self, rows: npt.NDArray[np.intp]) -> FloatArray:
        return np.divide(self._centered(rows), self.deviation.astype(np.float32), dtype=np.float32)

    def to_weights(self, w: DoubleArray) -> DoubleArray:
        """Weights (D, K) of centered features, float64."""
        return (self.axes @ w.astype(np.float32)) / self.deviation[:, None]

    def from_weights(self, weights: npt.NDArray[np.floating]) -> DoubleArray:
        """The inverse, where the rows have an extent."""
        return self.axes.T @ (weights * self.deviation[:, None])

    def sweep(self, w: DoubleArray, bias: DoubleArray, losses: Losses) -> tuple[float, DoubleArray, DoubleArray]:
        """The loss over all rows, and its gradients to ``w`` (r, K) and ``bias`` (K,)."""
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
