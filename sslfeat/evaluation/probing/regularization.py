"""Choice of regularization strength and feature scaling of a logistic regression on held-out rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sslfeat.errors import UsageError
from sslfeat.evaluation.probing.logistic import SCALINGS, IntArray, Linear, Regression, Targets
from sslfeat.numerics.arrays import FloatArray

BoolArray = npt.NDArray[np.bool_]
Judge = Callable[[FloatArray, BoolArray], float]  # logits (n, K) and mask (N,) of their rows -> score, at most 1
STRENGTHS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0)
LEAST, GREATEST = 1e-8, 1e5  # limits of the extension of the grid
PATIENCE = 3  # after this many consecutive values of c worse than the best, larger ones (the slowest) are not tried
UNJUDGED = 1.0  # c if no row can be held out
MANY = 1000  # maximum number of classes for choosing c and scaling: time is proportional to rows times classes


@dataclass(frozen=True)
class Choice:
    """``model`` fitted to all rows, its ``c`` and ``scaling``, the score of each c on held-out rows (``validation``, for that
    scaling), and the best score of each scaling (``scalings``). Both are empty if no row was held out."""

    model: Linear
    c: float
    scaling: str
    validation: dict[float, float]
    scalings: dict[str, float]


def best_fit(
    x: FloatArray, targets: Targets, weight: FloatArray, held: Sequence[BoolArray], judge: Judge,
    strengths: Sequence[float] = STRENGTHS,
) -> Choice:  # fmt: skip
    """Fit all rows with the c and scaling with the best mean score on the ``held`` out rows (one mask, or one per fold).

    If the best c is at an end of a grid of three or more, the grid is extended; larger values are skipped after three
    consecutive worse ones. Ties are resolved in favor of the smallest c and ``unit`` scaling. For more than MANY classes (not
    multi-label), c and scaling are chosen on a random sample of classes. Raises UsageError for strengths that are not positive.
    """
    if not strengths or min(strengths) <= 0 or not np.isfinite(strengths).all():
        raise UsageError(f"strengths C {list(strengths)} must be positive numbers")
    held = [out for out in held if out.any()]
    if not held:
        return Choice(Regression(x, targets, weight).fit(UNJUDGED), UNJUDGED, SCALINGS[0], {}, {})
    found: dict[str, tuple[float, dict[float, float], _Trial]] = {}
    some = _some_classes(targets, held)
    for scaling in SCALINGS:
        trials = [_Trial(x, targets, weight, out, judge, scaling, some) for out in held]
        tried = _tried(trials, sorted(set(strengths)))
        c = max(tried, key=lambda c: (tried[c], -c))
        found[scaling] = c, tried, trials[-1]
    scaling = max(SCALINGS, key=lambda name: max(found[name][1].values()))
    c, tried, trial = found[scaling]
    if some is None:
        model = Regression(x, targets, weight, scaling, trial.regression).fit(c, trial.fits[c])
    else:
        model = Regression(x, targets, weight, scaling).fit(c)
    return Choice(model, c, scaling, tried, {name: max(row[1].values()) for name, row in found.items()})


def _some_classes(targets: Targets, held: Sequence[BoolArray]) -> IntArray | None:
    """Sample of MANY classes with held-out rows; None: all."""
    if targets.several or targets.classes <= MANY:
        return None
    judged = np.unique(targets.y[np.logical_and.reduce([np.isin(targets.y, targets.y[out]) for out in held])])
    return np.sort(np.random.default_rng(0).permutation(judged)[:MANY])


class _Trial:
    """Fits without the rows ``out``, warm-started from the nearest c, and their scores on these rows."""

    def __init__(
        self, x: FloatArray, targets: Targets, weight: FloatArray, out: BoolArray, judge: Judge, scaling: str,
        some: IntArray | None,
    ) -> None:  # fmt: skip
        """``some``: class numbers to use; None: all."""
        self.x, self.judge, self.classes, self.some = x, judge, targets.classes, some
        if some is None:
            self.out, fitted = out, np.where(out, 0, weight)
        else:
            inside = np.isin(targets.y, some)
            self.out, fitted = out & inside, np.where(out | ~inside, 0, weight)
            targets = Targets(np.searchsorted(some, targets.y).clip(max=len(some) - 1), len(some))
        self.regression = Regression(x, targets, fitted, scaling)
        self.fits: dict[float, Linear] = {}

    def reached(self, c: float) -> float:
        near = min(self.fits, key=lambda other: abs(np.log(other / c)), default=None)
        self.fits[c] = self.regression.fit(c, None if near is None else self.fits[near])
        scores = self.fits[c].scores(self.x[self.out])
        if self.some is not None:
            of_some, scores = scores, np.full((len(scores), self.classes), -np.inf, np.float32)
            scores[:, self.some] = of_some
        return self.judge(scores, self.out)


def _tried(trials: Sequence[_Trial], strengths: Sequence[float]) -> dict[float, float]:
    """Score of each c in ascending order; the grid is extended while one of its ends is the best."""

    def mean(c: float) -> float:
        return float(np.mean([trial.reached(c) for trial in trials]))

    tried: dict[float, float] = {}
    for c in strengths:
        tried[c] = mean(c)
        if len(tried) > PATIENCE and max(list(tried.values())[-PATIENCE:]) < max(tried.values()):
            break
    for place, step in ((-1, -1), (0, 1)):  # above, then below
        while len(tried) > 2:
            grid = sorted(tried)
            best = max(value for c, value in tried.items() if c != grid[place])
            beyond = grid[place] * grid[place + step] / grid[place + 2 * step]  # as 1, 3, 10, 30
            if tried[grid[place]] <= best or not LEAST <= beyond <= GREATEST:
                break
            beyond = float(f"{beyond:.4g}")
            tried[beyond] = mean(beyond)
    return dict(sorted(tried.items()))
