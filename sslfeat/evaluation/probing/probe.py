"""Probe: accuracy of a linear classifier, nearest neighbors, nearest class mean and few-shot on labeled images.

Linear: multinomial logistic regression; C and the scaling of the features are chosen on a validation split of the training
rows (or by cross-validation), then the model is fitted to all training rows. For the others, see ``knn.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sslfeat.errors import FeaturesError, UsageError
from sslfeat.evaluation.probing import knn as neighbors
from sslfeat.evaluation.probing.bootstrap import Accuracy, accuracy, balanced
from sslfeat.evaluation.probing.confusion import ClassFigures, class_figures, confusion
from sslfeat.evaluation.probing.knn import TEMPERATURE, FewShot
from sslfeat.evaluation.probing.labels import Labeled, Labeling
from sslfeat.evaluation.probing.logistic import SCALINGS, Linear, Targets
from sslfeat.evaluation.probing.regularization import STRENGTHS, Choice, best_fit
from sslfeat.evaluation.probing.splits import folds, held_out
from sslfeat.numerics.arrays import FloatArray, IntArray
from sslfeat.numerics.similarity import nearest

NEIGHBORS = (20, 200)
VALIDATION_SHARE = 0.1
TEST_SHARE = 0.2


@dataclass(frozen=True)
class ProbeOptions:
    """``strengths``: candidates for C, chosen by cross-validation with ``folds``, or (0) a validation split; see ``best_fit``.

    ``class_weight``: None, or ``balanced`` for equal weight of all classes.
    """

    strengths: Sequence[float] = STRENGTHS
    folds: int = 0
    class_weight: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.class_weight not in (None, "balanced"):
            raise UsageError(f"unknown class weight {self.class_weight!r}: choose balanced or none")
        if self.folds < 0 or self.folds == 1:
            raise UsageError(f"{self.folds} folds: cross-validation needs at least two (0: no cross-validation)")


@dataclass(frozen=True)
class KnnBest:
    """k and temperature chosen on training rows, and their accuracy on the test rows."""

    k: int
    temperature: float
    accuracy: Accuracy


@dataclass(frozen=True)
class Unseen:
    """Accuracy on the ``test`` rows whose files are not among the training rows; ``seen``: number of other test rows."""

    seen: int
    test: int
    linear: Accuracy | None
    knn_best: Accuracy | None


@dataclass(frozen=True)
class ProbeResult:
    """Results of a probe.

    ``linear``: with the chosen ``c`` and ``scaling``, accuracy of each C on held-out rows (``validation``), and the best of each
    scaling (``scalings``); ``balanced``: its mean recall over classes. ``knn`` (by k, T = 0.07), ``knn_best`` (chosen k and T),
    ``nearest_mean`` and ``few_shot`` use ``asked`` of the test rows. ``majority``: accuracy of predicting the most frequent
    class. ``unseen`` is set if test images are also training images.
    """

    linear: Accuracy
    c: float
    validation: dict[float, float]
    balanced: Accuracy
    knn: dict[int, Accuracy]
    knn_best: KnnBest
    nearest_mean: Accuracy
    few_shot: list[FewShot]
    asked: int
    classes: int
    train: int
    test: int
    majority: float
    per_class: list[ClassFigures]
    scaling: str = SCALINGS[0]
    scalings: dict[str, float] = field(default_factory=dict)
    unseen: Unseen | None = None


@dataclass(frozen=True)
class Probed:
    """A probe with its fitted ``model``, class ``names``, ``correct`` (N,) answers for ``test``, confusion matrix ``counts``, and
    label sources of train and test."""

    result: ProbeResult
    model: Linear
    names: list[str]
    test: Labeled
    correct: npt.NDArray[np.bool_]
    counts: IntArray = field(repr=False)
    label_source: list[Labeling] = field(default_factory=list, repr=False)


def probe(train: Labeled, test: Labeled, options: ProbeOptions | None = None) -> ProbeResult:
    """Probe ``train`` features on ``test``. Raises FeaturesError if the test rows have a class that is not in ``train``."""
    return run_probe(train, test, options).result


def run_probe(train: Labeled, test: Labeled, options: ProbeOptions | None = None) -> Probed:
    """As ``probe``, with the model and the answers for single images."""
    options = options or ProbeOptions()
    names = train.classes
    strangers = sorted(set(test.y).difference(names))
    if strangers:
        raise FeaturesError(
            f"test has classes that are not in train: {', '.join(strangers[:5])}: use the same labels, or leave these "
            "classes out with --min-images 2"
        )
    y, y_test = train.numbers(names), test.numbers(names)
    rng = np.random.default_rng(options.seed)
    chosen = _linear(train, y, names, options)
    named = chosen.model.scores(test.x).argmax(1)
    counts = confusion(y_test, named, len(names))
    sampled = np.sort(rng.permutation(len(y_test))[: neighbors.QUERIES])
    queries, expected = test.x[sampled], y_test[sampled]
    knn, best, right = _neighbors(train, y, queries, expected, len(names), rng)
    result = ProbeResult(
        linear=accuracy(named == y_test, rng),
        c=chosen.c,
        validation=chosen.validation,
        balanced=balanced(named == y_test, y_test, len(names), rng),
        knn=knn,
        knn_best=best,
        nearest_mean=accuracy(neighbors.nearest_mean(train.x, y, queries, len(names)) == expected, rng),
        few_shot=neighbors.few_shot(train.x, y, queries, expected, len(names), rng),
        asked=len(sampled),
        classes=len(names),
        train=len(y),
        test=len(y_test),
        majority=float(np.mean(y_test == np.bincount(y).argmax())),
        per_class=class_figures(counts, names, rng),
        scaling=chosen.scaling,
        scalings=chosen.scalings,
        unseen=_unseen(train, test, named == y_test, sampled, right, rng),
    )
    return Probed(result, chosen.model, names, test, named == y_test, counts)


def _linear(train: Labeled, y: IntArray, names: Sequence[str], options: ProbeOptions) -> Choice:
    if options.folds:
        held = folds(y, names, options.folds, options.seed, train.contents)
    else:
        held = [held_out(y, names, VALIDATION_SHARE, options.seed, train.contents, whole=False)]
    weight = np.ones(len(y), np.float32)
    if options.class_weight:
        weight = (len(y) / (len(names) * np.bincount(y)))[y].astype(np.float32)

    def judge(scores: FloatArray, rows: npt.NDArray[np.bool_]) -> float:
        right = scores.argmax(1) == y[rows]
        return float(np.average(right, weights=weight[rows]))

    return best_fit(train.x, Targets(y, len(names)), weight, held, judge, options.strengths)


def _neighbors(
    train: Labeled, y: IntArray, queries: FloatArray, expected: IntArray, classes: int, rng: np.random.Generator
) -> tuple[dict[int, Accuracy], KnnBest, npt.NDArray[np.bool_]]:
    """kNN accuracies, and the correct answers of the best k and temperature."""
    k, temperature = neighbors.choose(train.x, y, classes, rng, train.contents)
    ks = [k for k in NEIGHBORS if k <= len(y)] or [len(y)]
    cosines, found = nearest(train.x, queries, max([*ks, k]))

    def judged(k: int, temperature: float) -> npt.NDArray[np.bool_]:
        right: npt.NDArray[np.bool_] = neighbors.vote(cosines, y[found], k, temperature, classes) == expected
        return right

    right = judged(k, temperature)
    every = {n: accuracy(judged(n, TEMPERATURE), rng) for n in ks}
    return every, KnnBest(k, temperature, accuracy(right, rng)), right


def _unseen(
    train: Labeled, test: Labeled, correct: npt.NDArray[np.bool_], sampled: IntArray, right: npt.NDArray[np.bool_],
    rng: np.random.Generator,
) -> Unseen | None:  # fmt: skip
    """``correct`` (N,): answers of the linear probe; ``right``: answers of kNN for the rows ``sampled``."""
    if train.contents is None or test.contents is None:
        return None
    new = ~np.isin(test.contents, train.contents)
    if new.all():
        return None
    linear, knn = correct[new], right[new[sampled]]
    figures = [accuracy(answers, rng) if len(answers) else None for answers in (linear, knn)]
    return Unseen(int((~new).sum()), int(new.sum()), *figures)
