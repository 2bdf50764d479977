"""How strongly to hold a logistic regression back: c is chosen on rows that it was not fitted to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from sslfeat.errors import FeaturesError, InputError
from sslfeat.evaluation.logistic import FloatArray, Linear, Regression, Targets

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Judge = Callable[
    [FloatArray, BoolArray], float
]  # logits (n, K) and the rows they are of, a mask (N,): how good, 1 is best
STRENGTHS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0)


def best_fit(
    x: FloatArray, targets: Targets, weight: FloatArray, held: Sequence[BoolArray], judge: Judge,
    strengths: Sequence[float] = STRENGTHS,
) -> tuple[Linear, float, list[float]]:  # fmt: skip
    """Fit all rows with the c that is best, on average, for the rows ``held`` out (one mask, or one a fold).

    Returns the fit, c, and how good each of ``strengths`` was; of equals the strongest restraint is taken.
    """
    if not strengths or min(strengths) <= 0 or not np.isfinite(strengths).all():
        raise InputError(f"strengths C {list(strengths)} must be positive numbers")
    strengths = sorted(strengths)
    found = np.zeros((len(held), len(strengths)))
    fits: list[Linear] = []
    for fold, out in enumerate(held):
        fits = list(Regression(x, targets, np.where(out, 0, weight)).path(strengths))
        found[fold] = [judge(fitted.scores(x[out]), out) for fitted in fits]
    means = found.mean(0)
    best = int(means.argmax())
    return Regression(x, targets, weight).fit(strengths[best], fits[best]), strengths[best], means.tolist()


def folds(y: IntArray, classes: Sequence[str], count: int, seed: int) -> list[BoolArray]:
    """``count`` masks (N,) that share the rows of each class among them evenly. Raises FeaturesError."""
    sizes = np.bincount(y, minlength=len(classes))
    few = int(sizes.argmin())
    if count < 2 or sizes[few] < count:
        raise FeaturesError(
            f"{count} folds need two or more, and as many rows of each class: {classes[few]!r} has {sizes[few]}; "
            "leave small classes out with --min-images"
        )
    order = np.lexsort((np.random.default_rng(seed).random(len(y)), y))
    place = np.empty(len(y), np.int64)
    place[order] = np.arange(len(y)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return [place % count == fold for fold in range(count)]
