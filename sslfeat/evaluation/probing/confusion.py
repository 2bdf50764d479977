"""Confusion matrix and metrics per class."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from sslfeat.evaluation.probing.bootstrap import LEVELS, RESAMPLES
from sslfeat.numerics.arrays import IntArray


@dataclass(frozen=True)
class ClassFigures:
    """Metrics of one class: number of ``test`` images, ``recall`` with its 95% confidence interval, ``precision``, ``f1``, and
    the class it is most often confused with, ``taken_for``.

    Recall and its bounds are NaN for a class without test images, precision for a class that is never predicted.
    """

    name: str
    test: int
    recall: float
    low: float
    high: float
    precision: float
    f1: float
    taken_for: str


def confusion(y: IntArray, named: IntArray, classes: int) -> IntArray:
    """Counts (K, K): rows are true classes, columns predicted classes."""
    counts: IntArray = np.bincount(y * classes + named, minlength=classes * classes).reshape(classes, classes)
    return counts


def class_figures(counts: IntArray, names: Sequence[str], rng: np.random.Generator) -> list[ClassFigures]:
    """Metrics of each class of a confusion matrix."""
    found = []
    for number, name in enumerate(names):
        total, right, named = int(counts[number].sum()), int(counts[number, number]), int(counts[:, number].sum())
        recall = right / total if total else float("nan")
        low, high = np.quantile(rng.binomial(total, recall, RESAMPLES) / total, LEVELS) if total else (recall, recall)
        wrong = counts[number].copy()
        wrong[number] = 0
        found.append(
            ClassFigures(
                name=name,
                test=total,
                recall=recall,
                low=float(low),
                high=float(high),
                precision=right / named if named else float("nan"),
                f1=2 * right / (total + named) if total + named else float("nan"),
                taken_for=names[int(wrong.argmax())] if wrong.any() else "",
            )
        )
    return found


def table(classes: Sequence[ClassFigures]) -> bytes:
    """Metrics per class as CSV."""
    return _csv(list(map(asdict, classes)))


def matrix(counts: IntArray, names: Sequence[str]) -> bytes:
    """Confusion matrix as CSV; rows are true classes."""
    return _csv(
        [{"class": name, **dict(zip(names, map(int, row), strict=True))} for name, row in zip(names, counts, strict=True)]
    )


def _csv(rows: list[dict[str, object]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode("utf-8", "backslashreplace")
