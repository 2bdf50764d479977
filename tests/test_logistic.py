"""Logistic regression: the optimum of scikit-learn, with one label a row and with several."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

from sslfeat.errors import FeaturesError
from sslfeat.evaluation.probing import multilabel
from sslfeat.evaluation.probing.logistic import Linear, Regression, Targets
from sslfeat.evaluation.probing.multilabel import MultiLabeled, average_precisions, probe_several
from sslfeat.features.reader import Features
from sslfeat.numerics.arrays import FloatArray
from tests.conftest import run_of

STRENGTHS = (1e-3, 1e-1, 10.0)


def rows(n: int = 600, classes: int = 5, dim: int = 20) -> tuple[FloatArray, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Overlapping classes; correlated units of very different scales, one of them constant."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, classes, n)
    x = rng.normal(size=(classes, dim))[y] + rng.normal(0, 2, (n, dim)) @ rng.normal(size=(dim, dim)) / 3
    x = 5 + x * np.logspace(-3, 2, dim)
    x[:, 3] = 7
    return x.astype(np.float32), y


def log_loss(fitted: Linear, x: FloatArray, y: np.ndarray[tuple[int], np.dtype[np.int64]]) -> float:
    z = (x.astype(np.float64) - fitted.mean) @ fitted.weights + fitted.bias
    z -= z.max(1, keepdims=True)
    return float((np.log(np.exp(z).sum(1)) - z[np.arange(len(y)), y]).sum())


def test_the_path_has_the_optima_of_scikit_learn() -> None:
    x, y = rows()
    deviation = x.std(0)
    scale = np.where(deviation > 1e-5, deviation, 1)
    standard = ((x - x.mean(0)) / scale).astype(np.float64)
    regression = Regression(x, Targets(y, 5))
    for c, fitted in zip(STRENGTHS, regression.path(STRENGTHS), strict=True):
        model = LogisticRegression(C=c, tol=1e-8, max_iter=10_000).fit(standard, y)
        z = standard @ model.coef_.T + model.intercept_
        theirs = (np.log(np.exp(z).sum(1)) - z[np.arange(len(y)), y]).sum() + (model.coef_**2).sum() / (2 * c)
        ours = log_loss(fitted, x, y) + float(((fitted.weights * scale[:, None]) ** 2).sum()) / (2 * c)
        assert ours / len(y) == pytest.approx(theirs / len(y), abs=1e-5)
        assert objective(regression, fitted, c) == pytest.approx(ours, rel=1e-5)
        assert (fitted.scores(x).argmax(1) == model.predict(standard)).mean() > 0.995


def objective(regression: Regression, fitted: Linear, c: float) -> float:
    """What ``fit`` minimizes."""
    rows = regression.rows.numbers
    weights = fitted.weights.astype(np.float64) * regression.deviation[:, None]
    return regression._losses(fitted.scores(regression.rows.x[rows]), rows) + float((weights**2).sum()) / (2 * c)


def test_rows_of_weight_zero_are_not_there_and_weights_are_repetitions() -> None:
    x, y = rows()
    weight = np.arange(600) % 3
    ours = Regression(x, Targets(y, 5), weight > 0).fit(0.1)
    without = Regression(x[weight > 0], Targets(y[weight > 0], 5)).fit(0.1)
    assert ours.scores(x) == pytest.approx(without.scores(x), abs=0.02)
    regression = Regression(x, Targets(y, 5), weight)
    fitted = regression.fit(1.0)
    index = np.repeat(np.arange(600), weight)
    penalty = float(((fitted.weights * regression.deviation[:, None]) ** 2).sum()) / 2
    assert objective(regression, fitted, 1.0) == pytest.approx(log_loss(fitted, x[index], y[index]) + penalty, rel=1e-4)


def test_several_labels_are_as_many_regressions() -> None:
    x, y = rows()
    several = np.stack([y == 1, (y == 1) | (y == 2)], axis=1)
    fitted = Regression(x, Targets(several, 2)).fit(0.1)
    deviation = x.std(0)
    standard = (x - x.mean(0)) / np.where(deviation > 1e-5, deviation, 1)
    for k in range(2):
        model = LogisticRegression(C=0.1, tol=1e-8, max_iter=10_000).fit(standard, several[:, k])
        assert fitted.scores(x)[:, k] == pytest.approx(model.decision_function(standard), abs=0.02)


def test_average_precision_is_scikit_learns_with_ties_too() -> None:
    rng = np.random.default_rng(0)
    y = rng.random((200, 4)) < 0.2
    y[:, 3] = False
    scores = np.round(rng.normal(size=(200, 4)) + y, 1).astype(np.float32)
    found = average_precisions(scores, y)
    assert found[:3] == pytest.approx([average_precision_score(y[:, k], scores[:, k]) for k in range(3)])
    assert np.isnan(found[3])
    low, high = multilabel.interval(scores, y, np.random.default_rng(0))
    naive = []
    for _ in range(500):
        drawn = rng.integers(0, 200, 200)
        naive.append(np.mean([average_precision_score(y[drawn, k], scores[drawn, k]) for k in range(3)]))
    assert (low, high) == pytest.approx(np.quantile(naive, (0.025, 0.975)), abs=0.025)


def test_a_probe_of_several_labels() -> None:
    x, y = rows(900)
    sets: list[tuple[str, ...] | None] = [("a",) if c == 0 else ("a", "b") if c == 1 else () for c in y]
    sets[0], sets[1] = None, ("once",)
    found = multilabel.multi_labeled(Features(x, [str(i) for i in range(900)], [], run_of()), sets)
    assert found.names == ["a", "b"]  # a label that one image carries cannot be learnt and tested
    assert len(found.x) == 899
    result = probe_several(found).result
    assert result.low < result.mean < result.high
    assert result.mean > 2 * result.chance
    none = MultiLabeled(x[:50], np.zeros((50, 2), bool), found.names, [])
    with pytest.raises(FeaturesError, match="none of the labels of the training rows"):
        probe_several(found, none)
    with pytest.raises(FeaturesError, match="no label occurs in at least 2"):
        multilabel.multi_labeled(Features(x[:2], ["a", "b"], [], run_of()), [("x",), ("y",)])
