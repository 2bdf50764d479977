"""How good are features? A linear probe and nearest neighbours, judged on labelled pictures.

Linear: multinomial logistic regression on standardised features, its strength C chosen on a validation split of the
training rows, then fitted to all of them. kNN: cosine similarity, votes weighted by exp(similarity / 0.07) (Wu et al.
2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", section 3.4).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sslfeat.errors import FeaturesError, MissingExtraError
from sslfeat.features import Features

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

TEMPERATURE = 0.07
NEIGHBOURS = (20, 200)
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)
MAX_ITERATIONS = 300
VALIDATION_SHARE = 0.1
TEST_SHARE = 0.2
RESAMPLES = 10_000


@dataclass(frozen=True)
class Accuracy:
    """Top-1 accuracy in [0, 1] with the bounds of its 95% bootstrap interval over the test pictures."""

    top1: float
    low: float
    high: float


@dataclass(frozen=True)
class ProbeResult:
    """``linear`` with its chosen ``c``; ``knn`` by k; ``majority`` is the accuracy of always naming the commonest class."""

    linear: Accuracy
    c: float
    knn: dict[int, Accuracy]
    classes: int
    train: int
    test: int
    majority: float


@dataclass(frozen=True)
class Labelled:
    """Rows with labels: ``x`` float32 (N, D), ``y`` the class names."""

    x: FloatArray
    y: list[str]


def labelled(features: Features) -> Labelled:
    """The rows that carry a label. Raises FeaturesError for no labels, fewer than two classes, or rows not finite."""
    rows = [index for index, label in enumerate(features.labels) if label is not None]
    names = [label for label in features.labels if label is not None]
    if len(set(names)) < 2:
        raise FeaturesError(
            f"{len(set(names))} classes among {len(features.labels)} rows: a probe needs two or more; labels come from "
            "folder names (sslfeat embed --labels folder)"
        )
    x = features.embeddings[rows]
    if not np.isfinite(x).all():
        raise FeaturesError("some features are not finite: the encoder is broken")
    return Labelled(x, names)


def check_same_encoder(train: Features, test: Features) -> None:
    """Raise FeaturesError, naming both, if two features folders come from different encoders."""
    ours, theirs = (part.run["encoder"] for part in (train, test))
    if ours["fingerprint"] != theirs["fingerprint"]:
        first, second = (f"{e['card']['name']} ({e['fingerprint'][:12]})" for e in (ours, theirs))
        raise FeaturesError(f"train and test come from different encoders, {first} and {second}: embed both with one")


def split(rows: Labelled, share: float, seed: int) -> tuple[Labelled, Labelled]:
    """Split by class: ``share`` of each class (at least one row) goes to the second part. Raises FeaturesError."""
    names = np.array(rows.y)
    second: list[int] = []
    rng = np.random.default_rng(seed)
    for name in sorted(set(rows.y)):
        members = rng.permutation(np.flatnonzero(names == name))
        if len(members) < 2:
            raise FeaturesError(f"class {name!r} has a single row: it cannot be split into train and test")
        second += members[: max(1, round(share * len(members)))].tolist()
    mask = np.zeros(len(names), bool)
    mask[second] = True
    return _take(rows, np.flatnonzero(~mask)), _take(rows, np.flatnonzero(mask))


def probe(train: Labelled, test: Labelled, seed: int = 0) -> ProbeResult:
    """Judge ``train`` features on ``test``. Raises FeaturesError if the test rows have a class that training lacks."""
    classes = sorted(set(train.y))
    strangers = sorted(set(test.y).difference(classes))
    if strangers:
        raise FeaturesError(f"test has classes that train lacks: {', '.join(strangers[:5])}")
    number = {name: index for index, name in enumerate(classes)}
    y, y_test = (np.array([number[name] for name in part.y], np.int64) for part in (train, test))
    c, correct = _linear(train, test, y, y_test, seed)
    rng = np.random.default_rng(seed)
    neighbours = _knn(train.x, y, test.x, y_test, [k for k in NEIGHBOURS if k <= len(y)] or [len(y)], len(classes))
    return ProbeResult(
        linear=_accuracy(correct, rng),
        c=c,
        knn={k: _accuracy(hits, rng) for k, hits in neighbours.items()},
        classes=len(classes),
        train=len(y),
        test=len(y_test),
        majority=float(np.mean(y_test == np.bincount(y).argmax())),
    )


def _linear(
    train: Labelled, test: Labelled, y: IntArray, y_test: IntArray, seed: int
) -> tuple[float, npt.NDArray[np.bool_]]:
    """The chosen C, and which test rows the final classifier gets right."""
    mean, deviation = train.x.mean(0), train.x.std(0)
    scale = np.where(deviation > 1e-6 * max(float(deviation.max()), 1e-30), deviation, 1).astype(np.float32)
    x, x_test = (train.x - mean) / scale, (test.x - mean) / scale
    numbered = Labelled(x, [str(value) for value in y])
    fit_part, check_part = split(numbered, VALIDATION_SHARE, seed)
    fit_y, check_y = (np.array(part.y).astype(np.int64) for part in (fit_part, check_part))
    model = _regression()
    scores = [float((_fit(model, c, fit_part.x, fit_y).predict(check_part.x) == check_y).mean()) for c in STRENGTHS]
    best = STRENGTHS[int(np.argmax(scores))]
    right: npt.NDArray[np.bool_] = _fit(_regression(), best, x, y).predict(x_test) == y_test
    return best, right


def _regression() -> Any:
    try:
        from sklearn.linear_model import LogisticRegression
    except ModuleNotFoundError as error:
        raise MissingExtraError("probe", "scikit-learn") from error
    return LogisticRegression(max_iter=MAX_ITERATIONS, warm_start=True)


def _fit(model: Any, c: float, x: FloatArray, y: IntArray) -> Any:
    """Fit with strength ``c``, starting from the last fit; stopping at the iteration limit is early stopping, no fault."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*failed to converge.*")
        return model.set_params(C=c).fit(x, y)


def _knn(
    x: FloatArray, y: IntArray, x_test: FloatArray, y_test: IntArray, ks: Sequence[int], classes: int
) -> dict[int, npt.NDArray[np.bool_]]:
    """For each k, which test rows the weighted vote of the k nearest training rows gets right."""
    import faiss

    index = faiss.IndexFlatIP(x.shape[1])
    index.add(_unit(x))
    similarity, found = index.search(_unit(x_test), max(ks))
    weight = np.exp((similarity - 1) / TEMPERATURE).astype(np.float64)  # -1: the same vote, no overflow
    row = np.arange(len(x_test))[:, None]
    result = {}
    for k in ks:
        votes = np.zeros((len(x_test), classes))
        np.add.at(votes, (row, y[found[:, :k]]), weight[:, :k])
        result[k] = votes.argmax(1) == y_test
    return result


def _unit(x: FloatArray) -> FloatArray:
    unit: FloatArray = np.ascontiguousarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30), np.float32)
    return unit


def _accuracy(correct: npt.NDArray[np.bool_], rng: np.random.Generator) -> Accuracy:
    """Resampling n right-or-wrong answers with replacement draws a binomial number of right ones: no loop is needed."""
    n, top1 = len(correct), float(correct.mean())
    low, high = np.quantile(rng.binomial(n, top1, RESAMPLES) / n, (0.025, 0.975))
    return Accuracy(top1, float(low), float(high))


def _take(rows: Labelled, index: npt.NDArray[np.intp]) -> Labelled:
    return Labelled(rows.x[index], [rows.y[i] for i in index])


def probe_folders(train: Features, test: Features | None, seed: int = 0) -> ProbeResult:
    """Probe one features folder on a stratified split of its rows, or train on one and test on another."""
    if test is None:
        return probe(*split(labelled(train), TEST_SHARE, seed), seed)
    check_same_encoder(train, test)
    return probe(labelled(train), labelled(test), seed)
