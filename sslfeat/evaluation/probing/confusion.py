"""Which classes are right, and which are taken for which."""

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
    """One class: ``test`` images, ``recall`` with its 95% interval, ``precision``, ``f1``, and what it is taken for most.

    Recall and its bounds are NaN for a class without test images, precision for one that is never named.
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
    """Counts (K, K): rows are what images are, columns what they are taken for."""
    counts: IntArray = np.bincount(y * classes + named, minlength=classes * classes).reshape(classes, classes)
    return counts


def class_figures(counts: IntArray, names: Sequence[str], rng: np.random.Generator) -> list[ClassFigures]:
    """The figures of each class of a confusion matrix."""
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
    """The figures as CSV."""
    return _csv(list(map(asdict, classes)))


def matrix(counts: IntArray, names: Sequence[str]) -> bytes:
    """A confusion matrix as CSV, its rows what images are."""
    return _csv(
        [{"class": name, **dict(zip(names, map(int, row), strict=True))} for name, row in zip(names, counts, strict=True)]
    )


def _csv(rows: list[dict[str, object]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode("utf-8", "backslashreplace")
