"""Does an artefact give the reference's features? Figures, and the limits that its target sets them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sslfeat.errors import ExportError
from sslfeat.evaluation.labels import Labelled, split
from sslfeat.evaluation.probe import TEST_SHARE, ProbeResult, run_probe
from sslfeat.export.measure import FloatArray
from sslfeat.export.targets.target import Gate
from sslfeat.likeness import cosines, neighbour_overlap

FEWEST = 8  # pictures to judge by
FEWEST_FOR_NEIGHBOURS = 50


@dataclass(frozen=True)
class Likeness:
    """The worst over all pictures and batch sizes; ``scale`` is the largest component of the reference's embeddings."""

    images: int
    cosine: float
    max_abs_diff: float
    scale: float
    overlap: float


@dataclass(frozen=True)
class Drop:
    """Points of accuracy that kNN and the linear probe lose, on ``test`` labelled pictures."""

    knn: float
    linear: float
    test: int


@dataclass(frozen=True)
class Verdict:
    """A figure beside its limit."""

    figure: str
    value: float
    limit: float
    passed: bool

    def __str__(self) -> str:
        return f"{self.figure} {self.value:.6g} ({'within' if self.passed else 'beyond'} {self.limit:.6g})"


def likeness(wanted: FloatArray, found: Sequence[FloatArray]) -> Likeness:
    """Of embeddings ``found``, each (N, D), with those ``wanted``.

    Raises ExportError for embeddings that are not finite, of another length, or too few pictures.
    """
    if len(wanted) < FEWEST:
        raise ExportError(f"{len(wanted)} readable pictures are too few to judge by: {FEWEST} are needed (--images)")
    for rows in found:
        if rows.shape != wanted.shape:
            raise ExportError(f"it gave embeddings of shape {rows.shape} instead of {wanted.shape}")
        if not np.isfinite(rows).all():
            raise ExportError("it gave embeddings that are not finite")
    return Likeness(
        images=len(wanted),
        cosine=min(float(cosines(wanted, rows).min()) for rows in found),
        max_abs_diff=max(float(np.abs(rows - wanted).max()) for rows in found),
        scale=float(np.abs(wanted).max()),
        overlap=min(neighbour_overlap(wanted, rows) for rows in found),
    )


def judge(gate: Gate, like: Likeness, drop: Drop | None) -> list[Verdict]:
    """Every figure that the gate limits. Raises ExportError if neighbours are to be judged on too few pictures."""
    found = [Verdict("cosine", like.cosine, gate.cosine, like.cosine >= gate.cosine)]
    if gate.max_abs_diff is not None:
        limit = gate.max_abs_diff * like.scale
        found.append(Verdict("max abs diff", like.max_abs_diff, limit, like.max_abs_diff <= limit))
    if gate.overlap is not None:
        if like.images < FEWEST_FOR_NEIGHBOURS:
            raise ExportError(
                f"{like.images} pictures are too few to judge neighbours by: give {FEWEST_FOR_NEIGHBOURS} or more (--images)"
            )
        found.append(Verdict("overlap@10", like.overlap, gate.overlap, like.overlap >= gate.overlap))
    if gate.drop is not None and drop is not None:
        found += [
            Verdict(f"{name} drop", points, gate.drop, points <= gate.drop)
            for name, points in (("kNN", drop.knn), ("linear probe", drop.linear))
        ]
    return found


def drop_of(reference: FloatArray, found: FloatArray, labels: list[str]) -> Drop:
    """Points lost on a fifth of the labelled rows, by classifiers of the rest. Raises FeaturesError."""
    before, after = (_probe(rows, labels) for rows in (reference, found))
    knn = 100 * (before.knn_best.accuracy.top1 - after.knn_best.accuracy.top1)
    return Drop(round(knn, 3), round(100 * (before.linear.top1 - after.linear.top1), 3), before.test)


def _probe(rows: FloatArray, labels: list[str]) -> ProbeResult:
    return run_probe(*split(Labelled(rows, labels), TEST_SHARE, 0)).result
