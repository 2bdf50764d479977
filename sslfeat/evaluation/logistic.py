"""Logistic regression on standardised features, multinomial or one against the rest, at the optimum scikit-learn finds.

Minimises, over weights W (D, K) of the standardised features and intercepts b (K,), the sum of the rows' log losses
plus ``|W|^2 / (2 c)``; the intercepts are not penalised. Standardising is folded into W, so the features are only read.

The solver is L-BFGS (Liu, Nocedal 1989) in the coordinates in which Böhning's bound of the Hessian (1992, "Multinomial
logistic regression algorithm", section 2: half the Gram matrix for every class) is the identity. One eigendecomposition
of the Gram matrix serves every ``c``. In these coordinates correlated features cost no iterations.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
DoubleArray = npt.NDArray[np.float64]
Function = Callable[[DoubleArray], tuple[float, DoubleArray]]
Pairs = deque[tuple[DoubleArray, DoubleArray, float]]
BLOCK = 4096  # rows at once: logits and the centred rows stay in the cache
MEMORY = 10  # pairs that L-BFGS keeps
TOLERANCE = 3e-7  # nats a row: what another iteration must be expected to gain
QUIET = 2  # iterations in a row that gained less
MAX_ITERATIONS = 1000
SMALLEST_STEP = 1e-8
CONSTANT = 1e-6  # of the largest deviation: a unit that varies less says nothing


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
    """What the rows are: ``y`` is int64 (N,) of class numbers, or bool (N, K) where a row may have several labels."""

    def __init__(self, y: npt.NDArray[np.int64] | npt.NDArray[np.bool_], classes: int) -> None:
        self.y, self.classes, self.several = y, classes, y.ndim == 2
        self.curvature = 0.25 if self.several else 0.5  # Böhning's bound of the Hessian, in Gram matrices

    def loss(self, z: FloatArray, part: slice, weight: FloatArray) -> float:
        """The weighted losses of logits ``z`` of the rows ``part``, summed; ``z`` becomes their gradient."""
        return self._several(z, part, weight) if self.several else self._one(z, part, weight)

    def _one(self, z: FloatArray, part: slice, weight: FloatArray) -> float:
        here = np.arange(len(z)), self.y[part]
        z -= z.max(1, keepdims=True)
        own = z[here]
        np.exp(z, out=z)
        total = z.sum(1)
        loss = np.dot(np.log(total) - own, weight)
        z *= (weight / total)[:, None]
        z[here] -= weight
        return float(loss)

    def _several(self, z: FloatArray, part: slice, weight: FloatArray) -> float:
        t = self.y[part]
        losses = np.logaddexp(0, z) - np.where(t, z, 0)
        np.subtract(1 / (1 + np.exp(-np.clip(z, -80, 80))), t, out=z)
        z *= weight[:, None]
        return float(np.dot(losses.sum(1, dtype=np.float64), weight))


class Regression:
    """Features ``x`` float32 (N, D) with ``targets``, read a block at a time; rows of weight 0 are left out."""

    def __init__(self, x: FloatArray, targets: Targets, weight: npt.ArrayLike | None = None) -> None:
        self.x, self.targets = x, targets
        self.weight = np.ones(len(x), np.float32) if weight is None else np.asarray(weight, np.float32)
        self.total = float(self.weight.sum(dtype=np.float64))
        self.mean, self.deviation, gram = _moments(x, self.weight > 0)
        values, self.axes = np.linalg.eigh(gram / np.outer(self.deviation, self.deviation))
        self.values = np.maximum(values, 0) * (self.total / max(1, int((self.weight > 0).sum())))

    def path(self, strengths: Sequence[float]) -> Iterator[Linear]:
        """A fit for each c of ``strengths`` (best in rising order), each starting from the last."""
        start: Linear | None = None
        for c in strengths:
            start = self.fit(c, start)
            yield start

    def fit(self, c: float, start: Linear | None = None) -> Linear:
        """The optimum for strength ``c``, sought from ``start``."""
        shrink = 1 / np.sqrt(self.targets.curvature * self.values + 1 / c)
        axes, step = self.axes * shrink, 1 / np.sqrt(self.targets.curvature * self.total)
        deviation = self.deviation[:, None]

        def loss(point: DoubleArray) -> tuple[float, DoubleArray]:
            weights = axes @ point[:-1]
            value, slope, slope_bias = self._loss(weights / deviation, point[-1] * step)
            slope = axes.T @ (slope / deviation + weights / c)
            return value + float(np.square(weights).sum()) / (2 * c), np.vstack([slope, slope_bias * step])

        point = np.zeros((len(axes) + 1, self.targets.classes))
        if start is not None:
            point[:-1] = (self.axes.T @ (start.weights * deviation)) / shrink[:, None]
            point[-1] = (start.bias + (self.mean - start.mean) @ start.weights) / step
        point = minimise(loss, point, TOLERANCE * self.total)
        weights = (axes @ point[:-1]) / deviation
        return Linear(*(np.asarray(a, np.float32) for a in (self.mean, weights, point[-1] * step)))

    def objective(self, fitted: Linear, c: float) -> float:
        """What ``fit`` minimises."""
        weights = fitted.weights.astype(np.float64)
        penalty = float(np.square(weights * self.deviation[:, None]).sum()) / (2 * c)
        return self._loss(weights, fitted.bias.astype(np.float64))[0] + penalty

    def _loss(self, weights: DoubleArray, bias: DoubleArray) -> tuple[float, DoubleArray, DoubleArray]:
        """Loss, and its gradients to weights (D, K) of centred features and to the bias (K,)."""
        w, b, mean = weights.astype(np.float32), bias.astype(np.float32), self.mean.astype(np.float32)
        total, slope, slope_bias = 0.0, np.zeros_like(weights), np.zeros_like(bias)
        for start in range(0, len(self.x), BLOCK):
            part = slice(start, start + BLOCK)
            rows = self.x[part] - mean
            z: FloatArray = np.add(rows @ w, b, dtype=np.float32)
            total += self.targets.loss(z, part, self.weight[part])
            slope += rows.T @ z
            slope_bias += z.sum(0, dtype=np.float64)
        return total, slope, slope_bias


def _moments(x: FloatArray, used: npt.NDArray[np.bool_]) -> tuple[DoubleArray, DoubleArray, DoubleArray]:
    """Mean (D,), standard deviation (D,) and centred Gram matrix (D, D) of the ``used`` rows."""
    blocks = [slice(start, start + BLOCK) for start in range(0, len(x), BLOCK)]
    mean = sum(x[part].sum(0, where=used[part, None], dtype=np.float64) for part in blocks) / used.sum()
    gram = np.zeros((x.shape[1],) * 2)
    for part in blocks:
        rows = np.where(used[part, None], x[part] - mean.astype(np.float32), np.float32(0))
        gram += rows.T @ rows
    deviation = np.sqrt(np.diag(gram) / used.sum())
    return mean, np.where(deviation > CONSTANT * max(float(deviation.max()), 1e-30), deviation, 1), gram


def minimise(function: Function, point: DoubleArray, tolerance: float) -> DoubleArray:
    """Where ``function``, which gives its value and gradient, is least: L-BFGS with backtracking (Armijo)."""
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
        if step < SMALLEST_STEP:  # rounding hides what is left to gain
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
    """The inverse Hessian, as far as ``pairs`` tell it, times ``slope`` (Nocedal 1980, the two-loop recursion)."""
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
