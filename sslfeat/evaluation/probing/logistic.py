"""Logistic regression on scaled features, multinomial or one-vs-rest, with the same optimum as scikit-learn.

Minimizes, over weights W (D, K) of the scaled features and intercepts b (K,), the sum of the log losses plus
``|W|^2 / (2 c)``; the intercepts are not penalized. Scaling is folded into W, so ``Linear`` needs unscaled features.

The solver is L-BFGS (Liu, Nocedal 1989) along the axes of the Gram matrix (``coordinates.py``), preconditioned so that the
initial Hessian is approximately the identity. The Hessian is approximated by the Gram matrix times the mean of p (1 - p) of
each class (bounded by a half in Böhning 1992, "Multinomial logistic regression algorithm"), plus the penalty.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sslfeat.evaluation.probing.coordinates import BLOCK, SCALINGS, Coordinates, DoubleArray
from sslfeat.numerics.arrays import FloatArray
from sslfeat.numerics.sampling import sample

__all__ = ["SCALINGS", "FloatArray", "Linear", "Regression", "Targets", "minimize"]

IntArray = npt.NDArray[np.intp]
Function = Callable[[DoubleArray], tuple[float, DoubleArray]]
Pairs = deque[tuple[DoubleArray, DoubleArray, float]]
MEMORY = 10  # number of pairs of L-BFGS
TOLERANCE = 3e-7  # nats per row: minimum expected improvement of an iteration
QUIET = 2  # number of consecutive iterations below the tolerance
MAX_ITERATIONS = 1000
SMALLEST_STEP = 1e-8
LOOKED_AT = 4096  # number of random rows for estimating the curvature
FLATTEST = 1e-6  # minimum of the mean of p (1 - p)


@dataclass(frozen=True)
class Linear:
    """``scores(x) = (x - mean) @ weights + bias``: mean (D,), weights (D, K), bias (K,), all float32."""

    mean: FloatArray
    weights: FloatArray
    bias: FloatArray

    def scores(self, x: FloatArray) -> FloatArray:
        """Logits (N, K) of features (N, D)."""
        out = np.empty((len(x), len(self.bias)), np.float32)
        for start in range(0, len(x), BLOCK):
            part = slice(start, start + BLOCK)
            np.matmul(x[part] - self.mean, self.weights, out=out[part])
        out += self.bias
        return out


class Targets:
    """Targets ``y``: int64 (N,) class numbers, or bool (N, K) for multi-label rows."""

    def __init__(self, y: npt.NDArray[np.int64] | npt.NDArray[np.bool_], classes: int) -> None:
        self.y, self.classes, self.several = y, classes, y.ndim == 2

    def loss(self, z: FloatArray, rows: IntArray, weight: FloatArray) -> float:
        """Weighted sum of losses for logits ``z`` of ``rows``; ``z`` is replaced by the gradient."""
        return self._several(z, rows, weight) if self.several else self._one(z, rows, weight)

    def _one(self, z: FloatArray, rows: IntArray, weight: FloatArray) -> float:
        here = np.arange(len(z)), self.y[rows]
        z -= z.max(1, keepdims=True)
        own = z[here]
        np.exp(z, out=z)
        total = z.sum(1)
        loss = np.dot(np.log(total) - own, weight)
        z *= (weight / total)[:, None]
        z[here] -= weight
        return float(loss)

    def _several(self, z: FloatArray, rows: IntArray, weight: FloatArray) -> float:
        t = self.y[rows]
        losses = np.logaddexp(0, z) - np.where(t, z, 0)
        np.subtract(1 / (1 + np.exp(-np.clip(z, -80, 80))), t, out=z)
        z *= weight[:, None]
        return float(np.dot(losses.sum(1, dtype=np.float64), weight))

    def curvature(self, z: FloatArray, weight: FloatArray) -> DoubleArray:
        """Approximate curvature of the loss along each logit (K,): mean of p (1 - p) over rows with logits ``z``."""
        if self.several:
            p = 1 / (1 + np.exp(-np.clip(z, -80, 80)))
        else:
            p = np.exp(z - z.max(1, keepdims=True))
            p /= p.sum(1, keepdims=True)
        bend = np.average(p * (1 - p), axis=0, weights=weight)
        if not self.several:
            bend *= self.classes / max(1, self.classes - 1)  # adding a constant to all logits has no effect
        return np.maximum(bend, FLATTEST).astype(np.float64)


class Regression:
    """Features ``x`` float32 (N, D) with ``targets``; rows with weight 0 are excluded. ``scaling``: see SCALINGS.

    ``like``: a regression on most of the same rows, whose axes are reused for speed. The optimum is the same.
    """

    def __init__(
        self, x: FloatArray, targets: Targets, weight: npt.ArrayLike | None = None, scaling: str = "unit",
        like: Regression | None = None,
    ) -> None:  # fmt: skip
        self.targets = targets
        self.weight = np.ones(len(x), np.float32) if weight is None else np.asarray(weight, np.float32)
        self.total = float(self.weight.sum(dtype=np.float64))
        self.rows: Coordinates = Coordinates(x, self.weight > 0, scaling, None if like is None else like.rows)
        count = len(self.rows.numbers)
        self.values = self.rows.values * (self.total / max(1, count))
        self.some = sample(count, LOOKED_AT)
        self.some_weight = self.weight[self.rows.numbers[self.some]]

    @property
    def deviation(self) -> DoubleArray:
        """Scale of the features, (D,)."""
        return self.rows.deviation

    def path(self, strengths: Sequence[float]) -> Iterator[Linear]:
        """Fit for each c of ``strengths`` (preferably in ascending order), with warm start."""
        start: Linear | None = None
        for c in strengths:
            start = self.fit(c, start)
            yield start

    def fit(self, c: float, start: Linear | None = None) -> Linear:
        """Fit with inverse regularization strength ``c``, starting from ``start``."""
        w, bias = np.zeros((len(self.values), self.targets.classes)), np.zeros(self.targets.classes)
        if start is not None:
            w = self.rows.from_weights(start.weights)
            bias = start.bias + (self.rows.mean - start.mean) @ start.weights
        bend = self.targets.curvature(self.rows.logits(w, bias, self.some), self.some_weight)
        shrink = np.vstack([1 / np.sqrt(np.outer(self.values, bend) + 1 / c), 1 / np.sqrt(bend * self.total)])

        def loss(point: DoubleArray) -> tuple[float, DoubleArray]:
            point = shrink * point
            value, slope, slope_bias = self.rows.sweep(point[:-1], point[-1], self._losses)
            slopes = shrink * np.vstack([slope + point[:-1] / c, slope_bias])
            return value + float(np.square(point[:-1]).sum()) / (2 * c), slopes

        point = shrink * minimize(loss, np.vstack([w, bias]) / shrink, TOLERANCE * self.total)
        weights = self.rows.to_weights(point[:-1])
        return Linear(*(np.asarray(a, np.float32) for a in (self.rows.mean, weights, point[-1])))

    def _losses(self, z: FloatArray, rows: IntArray) -> float:
        return self.targets.loss(z, rows, self.weight[rows])


def minimize(function: Function, point: DoubleArray, tolerance: float) -> DoubleArray:
    """Minimize ``function``, which returns its value and gradient, by L-BFGS with backtracking (Armijo)."""
    pairs: Pairs = deque(maxlen=MEMORY)
    value, slope = function(point)
    quiet = 0
    for _ in range(MAX_ITERATIONS):
        way = _direction(slope, pairs)
        expected, step = float(np.vdot(slope, way)), 1.0
        while True:
            reached, new_slope = function(point - step * way)
            if reached <= value - 1e-4 * step * expected or step < SMALLEST_STEP:
                break
            step /= 2
        if step < SMALLEST_STEP:  # converged to rounding error
            break
        moved, turned = -step * way, new_slope - slope
        curvature = float(np.vdot(moved, turned))
        if curvature > 1e-10 * float(np.vdot(turned, turned)):
            pairs.append((moved, turned, 1 / curvature))
        quiet = quiet + 1 if max(value - reached, expected / 2) < tolerance else 0
        point, value, slope = point + moved, reached, new_slope
        if quiet == QUIET:
            break
    return point


def _direction(slope: DoubleArray, pairs: Pairs) -> DoubleArray:
    """Approximate inverse Hessian times ``slope`` (Nocedal 1980, two-loop recursion)."""
    way = slope.copy()
    shares = []
    for moved, turned, rho in reversed(pairs):
        shares.append(rho * float(np.vdot(moved, way)))
        way -= shares[-1] * turned
    if pairs:
        _, turned, rho = pairs[-1]
        way *= 1 / (rho * float(np.vdot(turned, turned)))
    for (moved, turned, rho), share in zip(pairs, reversed(shares), strict=True):
        way += moved * (share - rho * float(np.vdot(turned, way)))
    return way
