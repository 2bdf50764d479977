"""Gates: bounds on the difference between an artifact's features and the reference's, and the limits set by its target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sslfeat.data.holdout import FEWEST_FOR_NEIGHBORS
from sslfeat.errors import ExportError
from sslfeat.evaluation.probing import knn as neighbors
from sslfeat.evaluation.probing.labels import Labeled
from sslfeat.evaluation.probing.probe import run_probe
from sslfeat.export.targets.base import Gate
from sslfeat.numerics.arrays import FloatArray
from sslfeat.numerics.bounds import least, lost_between, shared_at_least
from sslfeat.numerics.similarity import NEIGHBORS, cosines, nearest, overlaps

FEWEST = 8  # minimum number of images for a comparison
FOLDS = 3
KNN, TEMPERATURE = 20, 0.07
ALIKE = 0.01  # spread below which nearly all embeddings are considered to point in one direction


@dataclass(frozen=True)
class Agreement:
    """Comparison on ``images`` at every batch size: the worst values, the mean ``overlap``, and bounds for unseen images.

    ``scale``: largest component of the reference's embeddings. ``spread``: 1 - the mean cosine between images. With 95 %
    confidence, the fraction ``share`` of unseen images has at least the cosine ``cosine_bound``, and among as many unseen images
    at least the fraction ``overlap_bound`` of the neighbors is preserved; None: unknown.
    """

    images: int
    cosine: float
    max_abs_diff: float
    scale: float
    overlap: float
    share: float = 1.0
    cosine_bound: float | None = None
    overlap_bound: float | None = None
    spread: float = 1.0


@dataclass(frozen=True)
class Drop:
    """Loss of kNN and linear probe accuracy in points on ``test`` images, with 95 % intervals (None: unknown)."""

    knn: float
    linear: float
    test: int
    knn_interval: tuple[float, float] | None = None
    linear_interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class GateResult:
    """A figure and its limit; ``about`` describes what the figure refers to."""

    figure: str
    value: float
    limit: float
    passed: bool
    about: str = ""

    def __str__(self) -> str:
        of = f" {self.about}" if self.about else ""
        value, limit = f"{self.value:.6g}", f"{self.limit:.6g}"
        if value == limit and not self.passed:
            value, limit = f"{self.value:.15g}", f"{self.limit:.15g}"
        return f"{self.figure}{of} {value} ({'within' if self.passed else 'beyond'} {limit})"


def likeness(reference: FloatArray, found: Sequence[FloatArray]) -> Agreement:
    """Compare embeddings ``found``, each (N, D), with those of the ``reference``.

    Raises ExportError for embeddings that are not finite or of another shape, or for too few images.
    """
    check_enough(len(reference))
    for rows in found:
        if rows.shape != reference.shape:
            raise ExportError(f"the artifact returned embeddings of shape {rows.shape} instead of {reference.shape}")
        if not np.isfinite(rows).all():
            raise ExportError("the artifact returned embeddings that are not finite")
    cosine = np.min([cosines(reference, rows) for rows in found], axis=0)
    shared = min((overlaps(reference, rows, NEIGHBORS) for rows in found), key=lambda values: float(values.mean()))
    bound = least(cosine)
    return Agreement(
        images=len(reference),
        cosine=float(cosine.min()),
        max_abs_diff=max(float(np.abs(rows - reference).max()) for rows in found),
        scale=float(np.abs(reference).max()),
        overlap=float(shared.mean()),
        share=bound.share,
        cosine_bound=bound.value,
        overlap_bound=shared_at_least(shared),
        spread=spread(reference),
    )


def spread(rows: FloatArray) -> float:
    """1 - the mean cosine between different rows (N, D): 0 if all point in one direction, 1 for random directions.

    In float64, because the difference may be below the precision of float32.
    """
    exact = rows.astype(np.float64)
    units = exact / np.maximum(np.linalg.norm(exact, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    far = units - units.mean(0)
    return float((far * far).sum() / max(1, len(rows) - 1))


def check_enough(images: int, gate: Gate | None = None) -> None:
    """Raises ExportError if there are too few ``images`` for a comparison, or for the neighbors that the ``gate`` limits."""
    if images < FEWEST:
        raise ExportError(
            f"{images} images are too few for a comparison: {FEWEST} different readable images are needed, in addition to the "
            "calibration images, which are a fifth of all",
            "give more with --images",
        )
    if gate is not None and gate.overlap is not None and images < FEWEST_FOR_NEIGHBORS:
        raise ExportError(
            f"{images} images are too few to compare neighbors, after setting aside calibration images: give "
            f"{FEWEST_FOR_NEIGHBORS * 5 // 4 + 1} or more (--images), or 364 for a bound on 99 % of unseen images"
        )


def check_classes(labels: Sequence[str]) -> None:
    """Raises ExportError for labels with which no classifier can be fitted and tested."""
    _, counts = np.unique(np.array(labels, str), return_counts=True)
    if np.count_nonzero(counts >= FOLDS) < 2:
        raise ExportError(f"classifiers need at least two classes with {FOLDS} images each (--probe-data)")


def judge(gate: Gate, like: Agreement, drop: Drop | None) -> list[GateResult]:
    """Every figure that the gate limits. Raises ExportError if there are too few images to compare neighbors.

    If only the cosine is limited, the tolerance is that fraction of the images' own ``spread``: for an encoder whose embeddings
    all point nearly in one direction, neighbors may not be preserved even at a cosine of 0.9995.
    """
    cosine = like.cosine if like.cosine_bound is None else like.cosine_bound
    alone = gate.max_abs_diff is None and gate.overlap is None
    limit = 1 - (1 - gate.cosine) * min(1.0, like.spread) if alone else gate.cosine
    about = f"of {100 * like.share:.4g} % of images"
    if alone and like.spread < ALIKE:
        about += f", two of which have {1 - like.spread:.9g} on average,"
    found = [GateResult("cosine", cosine, limit, cosine >= limit, about)]
    if gate.max_abs_diff is not None:
        limit = gate.max_abs_diff * like.scale
        found.append(GateResult("max abs diff", like.max_abs_diff, limit, like.max_abs_diff <= limit))
    if gate.overlap is not None:
        check_enough(like.images, gate)
        kept = like.overlap if like.overlap_bound is None else like.overlap_bound
        about = f"among {like.images} images at least"
        found.append(GateResult("overlap@10", kept, gate.overlap, kept >= gate.overlap, about))
    if gate.drop is not None and drop is not None:
        for name, points, ends in (("kNN", drop.knn, drop.knn_interval), ("linear probe", drop.linear, drop.linear_interval)):
            most = points if ends is None else ends[1]
            found.append(GateResult(f"{name} drop", most, gate.drop, most <= gate.drop, f"on {drop.test} images at most"))
    return found


def drop_of(reference: FloatArray, found: FloatArray, labels: list[str]) -> Drop:
    """Loss in accuracy, in points, of classifiers tested on every labeled row and fitted to the other two thirds.

    Raises ExportError for fewer than two classes of three rows each.
    """
    check_classes(labels)
    names, counts = np.unique(labels, return_counts=True)
    kept = [row for row, label in enumerate(labels) if label in set(names[counts >= FOLDS].tolist())]
    y = [labels[row] for row in kept]
    fold = _folds(y)
    before, after = (_right(rows[kept], y, fold) for rows in (reference, found))
    knn, linear = (was.astype(float) - now for was, now in zip(before, after, strict=True))
    return Drop(_points(knn.mean()), _points(linear.mean()), len(y), _interval(knn), _interval(linear))


def _points(share: float) -> float:
    return round(100 * float(share), 3)


def _interval(lost: npt.NDArray[np.float64]) -> tuple[float, float]:
    low, high = lost_between(lost)
    return _points(low), _points(high)


def _folds(labels: list[str]) -> npt.NDArray[np.int64]:
    """Fold of each row, (N,); every class is in every fold."""
    order = np.random.default_rng(0).permutation(len(labels))
    fold, met = np.zeros(len(labels), np.int64), dict.fromkeys(labels, 0)
    for row in order.tolist():
        fold[row] = met[labels[row]] % FOLDS
        met[labels[row]] += 1
    return fold


def _right(
    rows: FloatArray, labels: list[str], fold: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Whether kNN and the linear probe classify each row correctly."""
    every = Labeled(rows, labels)
    y = every.numbers(every.classes)
    knn, linear = np.zeros(len(y), bool), np.zeros(len(y), bool)
    for number in range(FOLDS):
        rest, held_out = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        linear[held_out] = run_probe(every.take(rest), every.take(held_out)).correct
        near, which = nearest(rows[rest], rows[held_out], min(KNN, len(rest)))
        voted = neighbors.vote(near, y[rest][which], min(KNN, len(rest)), TEMPERATURE, len(every.classes))
        knn[held_out] = voted == y[held_out]
    return knn, linear
