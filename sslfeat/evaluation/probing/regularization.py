"""How strongly to hold a logistic regression back, and on which scale: chosen on rows that it was not fitted to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sslfeat.errors import UsageError
from sslfeat.evaluation.probing.logistic import SCALINGS, IntArray, Linear, Regression, Targets
from sslfeat.numerics.arrays import FloatArray

BoolArray = npt.NDArray[np.bool_]
Judge = Callable[[FloatArray, BoolArray], float]  # logits (n, K) and the rows they are of, a mask (N,): how good, 1 is best
STRENGTHS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0)
LEAST, GREATEST = 1e-8, 1e5  # how far the grid extends by itself
PATIENCE = 3  # values of c in a row that are worse than the best: larger ones, which cost most, are not tried
UNJUDGED = 1.0  # c where no row can be held out
MANY = 1000  # classes: of more, c and scaling are chosen on so many, since the time of a fit grows with rows times classes


@dataclass(frozen=True)
class Choice:
    """The ``model`` of all rows, its ``c`` and ``scaling``, how good each c was on rows held out (``validation``, of that
    scaling), and what the best c of each scaling reached (``scalings``). Both are empty where no row was held out."""

    model: Linear
    c: float
    scaling: str
    validation: dict[float, float]
    scalings: dict[str, float]


def best_fit(
    x: FloatArray, targets: Targets, weight: FloatArray, held: Sequence[BoolArray], judge: Judge,
    strengths: Sequence[float] = STRENGTHS,
) -> Choice:  # fmt: skip
    """Fit all rows with the c and the scaling that are best, on average, for the rows ``held`` out (one mask, or one a fold).

    Where the best c is the least or the greatest of three or more, others beyond it are tried; none once three in a row
    were worse. Of equals the strongest restraint is taken, and ``unit`` scaling. Of more than MANY classes, which a row has
    one of, so many are chosen at random, and c and scaling for them. Raises UsageError for strengths that are not positive.
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
    """Numbers of MANY classes of which rows are held out; None: all."""
    if targets.several or targets.classes <= MANY:
        return None
    judged = np.unique(targets.y[np.logical_and.reduce([np.isin(targets.y, targets.y[out]) for out in held])])
    return np.sort(np.random.default_rng(0).permutation(judged)[:MANY])


class _Trial:
    """Fits that have not seen the rows ``out``, each c starting from the nearest before, and how good they are for those."""

    def __init__(
        self, x: FloatArray, targets: Targets, weight: FloatArray, out: BoolArray, judge: Judge, scaling: str,
        some: IntArray | None,
    ) -> None:  # fmt: skip
        """``some`` are the numbers of the classes that it is about; None: all."""
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
    """How good each c is, in rising order, the grid extended as long as an end of it is better than all others."""

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
