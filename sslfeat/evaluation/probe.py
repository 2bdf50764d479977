"""How good are features? A linear probe, nearest neighbours, class means and few shots, judged on labelled pictures.

Linear: multinomial logistic regression on standardised features, its strength C chosen on a validation split of the
training rows (or by cross-validation), then fitted to all of them. The others: see ``neighbours.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sslfeat.errors import FeaturesError, InputError
from sslfeat.evaluation import neighbours
from sslfeat.evaluation.bootstrap import Accuracy, accuracy, balanced
from sslfeat.evaluation.classes import ClassFigures, class_figures, confusion
from sslfeat.evaluation.labels import Labelled, held_out
from sslfeat.evaluation.logistic import FloatArray, Linear, Targets
from sslfeat.evaluation.neighbours import TEMPERATURE, FewShot
from sslfeat.evaluation.strength import STRENGTHS, best_fit, folds

IntArray = npt.NDArray[np.int64]
NEIGHBOURS = (20, 200)
VALIDATION_SHARE = 0.1
TEST_SHARE = 0.2


@dataclass(frozen=True)
class ProbeOptions:
    """``strengths`` to choose C from, by ``folds`` of cross-validation or (0) one validation split.

    ``class_weight`` None, or ``balanced``: every class counts alike, however many pictures it has.
    """

    strengths: Sequence[float] = STRENGTHS
    folds: int = 0
    class_weight: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.class_weight not in (None, "balanced"):
            raise InputError(f"class weight {self.class_weight!r} is not known: balanced, or none")


@dataclass(frozen=True)
class KnnBest:
    """The k and temperature that training rows chose, and how they do on the test rows."""

    k: int
    temperature: float
    accuracy: Accuracy


@dataclass(frozen=True)
class ProbeResult:
    """Figures of a probe.

    ``linear`` with its chosen ``c`` and what each C reached on rows held out (``validation``); ``balanced`` is its mean
    recall over classes. ``knn`` by k at T = 0.07, ``knn_best`` with k and T chosen, ``nearest_mean`` of class, and
    ``few_shot`` were asked ``asked`` of the test rows. ``majority`` is the accuracy of always naming the commonest class.
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


@dataclass(frozen=True)
class Probed:
    """A probe with what it judged: the fitted ``model``, class ``names``, ``correct`` (N,) of ``test``, and ``counts``."""

    result: ProbeResult
    model: Linear
    names: list[str]
    test: Labelled
    correct: npt.NDArray[np.bool_]
    counts: IntArray = field(repr=False)


def probe(train: Labelled, test: Labelled, options: ProbeOptions | None = None) -> ProbeResult:
    """Judge ``train`` features on ``test``. Raises FeaturesError if the test rows have a class that training lacks."""
    return run_probe(train, test, options).result


def run_probe(train: Labelled, test: Labelled, options: ProbeOptions | None = None) -> Probed:
    """As ``probe``, with the model and the answers to single pictures."""
    options = options or ProbeOptions()
    names = train.classes
    strangers = sorted(set(test.y).difference(names))
    if strangers:
        raise FeaturesError(f"test has classes that train lacks: {', '.join(strangers[:5])}")
    y, y_test = train.numbers(names), test.numbers(names)
    rng = np.random.default_rng(options.seed)
    model, c, reached = _linear(train.x, y, names, options)
    named = model.scores(test.x).argmax(1)
    counts = confusion(y_test, named, len(names))
    asked = np.sort(rng.permutation(len(y_test))[: neighbours.QUERIES])
    queries, wanted = test.x[asked], y_test[asked]
    knn, best = _neighbours(train.x, y, queries, wanted, len(names), rng)
    result = ProbeResult(
        linear=accuracy(named == y_test, rng),
        c=c,
        validation=dict(zip(sorted(options.strengths), reached, strict=True)),
        balanced=balanced(named == y_test, y_test, len(names), rng),
        knn=knn,
        knn_best=best,
        nearest_mean=accuracy(neighbours.nearest_mean(train.x, y, queries, len(names)) == wanted, rng),
        few_shot=neighbours.few_shot(train.x, y, queries, wanted, len(names), rng),
        asked=len(asked),
        classes=len(names),
        train=len(y),
        test=len(y_test),
        majority=float(np.mean(y_test == np.bincount(y).argmax())),
        per_class=class_figures(counts, names, rng),
    )
    return Probed(result, model, names, test, named == y_test, counts)


def _linear(
    x: FloatArray, y: IntArray, names: Sequence[str], options: ProbeOptions
) -> tuple[Linear, float, list[float]]:
    one = [] if options.folds else [held_out(y, names, VALIDATION_SHARE, options.seed)]
    held = one or folds(y, names, options.folds, options.seed)
    weight = np.ones(len(y), np.float32)
    if options.class_weight:
        weight = (len(y) / (len(names) * np.bincount(y)))[y].astype(np.float32)

    def judge(scores: FloatArray, rows: npt.NDArray[np.bool_]) -> float:
        right = scores.argmax(1) == y[rows]
        return float(np.average(right, weights=weight[rows]))

    return best_fit(x, Targets(y, len(names)), weight, held, judge, options.strengths)


def _neighbours(
    x: FloatArray, y: IntArray, queries: FloatArray, wanted: IntArray, classes: int, rng: np.random.Generator
) -> tuple[dict[int, Accuracy], KnnBest]:
    k, temperature = neighbours.choose(x, y, classes, rng)
    ks = [k for k in NEIGHBOURS if k <= len(y)] or [len(y)]
    cosines, found = neighbours.nearest(x, queries, max([*ks, k]))

    def judged(k: int, temperature: float) -> Accuracy:
        return accuracy(neighbours.vote(cosines, y[found], k, temperature, classes) == wanted, rng)

    return {n: judged(n, TEMPERATURE) for n in ks}, KnnBest(k, temperature, judged(k, temperature))
