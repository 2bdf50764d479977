"""Clusters of features: PCA-whitening, k-means that leaves no cluster empty, and how far two clusterings agree.

All of it is numpy and FAISS on the CPU; features are (N, D), assignments int64 (N,) of cluster numbers below k, or -1
for pictures that were not clustered.
"""

from __future__ import annotations

import faiss
import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linear_sum_assignment

from sslfeat.errors import TrainingError

Floats = npt.NDArray[np.float32]
Assignments = npt.NDArray[np.int64]
ITERATIONS = 20
LEAST_VARIANCE = 1e-6  # of the largest: directions below it are dead units and rounding, not to be blown up to 1


def whiten(features: npt.NDArray[np.floating], dims: int) -> Floats:
    """The first ``dims`` principal components (fewer if the features span fewer), each of variance 1, rows of length 1."""
    centred = features.astype(np.float64) - features.mean(0, dtype=np.float64)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    values, vectors = values[::-1][:dims], vectors[:, ::-1][:, :dims]
    kept = values > LEAST_VARIANCE * max(values[0], np.finfo(np.float64).tiny)
    points = centred @ (vectors[:, kept] / np.sqrt(values[kept]))
    return np.asarray(points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12), np.float32)


def kmeans(points: Floats, k: int, seed: int) -> tuple[Assignments, int]:
    """Assignments of k-means, every cluster with at least one point, and how many were empty before that was made so.

    Raises TrainingError for fewer points than clusters, and for points that are no numbers.
    """
    if len(points) < k:
        raise TrainingError(f"{len(points)} pictures cannot fill {k} clusters: choose fewer (--set clusters=...)")
    if not np.isfinite(points).all():
        raise TrainingError("the features to be clustered are not finite: try a lower --lr, or --precision 32-true")
    if not points.shape[1]:
        raise TrainingError("the features to be clustered are the same for all pictures")
    model = faiss.Kmeans(
        points.shape[1], k, niter=ITERATIONS, seed=seed % 2**31, min_points_per_centroid=1, max_points_per_centroid=1024
    )
    model.train(points)
    nearest: Assignments = model.index.search(points, 1)[1][:, 0].astype(np.int64)
    return fill_empty(points, nearest, k)


def fill_empty(points: Floats, assignments: Assignments, k: int) -> tuple[Assignments, int]:
    """Give each empty cluster half of the cluster that is then the largest; also returns how many there were.

    The halves are cut at the median along the cluster's first principal direction, so neither is ever empty.
    """
    filled = assignments.copy()
    empty = np.flatnonzero(np.bincount(assignments, minlength=k) == 0)
    for cluster in empty:
        members = np.flatnonzero(filled == np.bincount(filled, minlength=k).argmax())
        centred = points[members] - points[members].mean(0)
        direction = np.linalg.eigh(centred.T @ centred)[1][:, -1]
        order = np.argsort(centred @ direction, kind="stable")
        filled[members[order[len(order) // 2 :]]] = cluster
    return filled, len(empty)


def nmi(a: Assignments, b: Assignments) -> float:
    """Normalised mutual information I(a; b) / sqrt(H(a) H(b)): 1 for the same clusters under any names.

    For unrelated clusterings it is not 0 but about (k - 1)^2 / (2 N log k).
    """
    names_a, names_b = np.unique(a, return_inverse=True)[1], np.unique(b, return_inverse=True)[1]
    joint = np.zeros((names_a.max() + 1, names_b.max() + 1))
    np.add.at(joint, (names_a, names_b), 1 / len(a))
    rows, columns = joint.sum(1), joint.sum(0)
    if len(rows) == 1 or len(columns) == 1:
        return float(len(rows) == len(columns))
    seen = joint > 0
    information = (joint[seen] * np.log(joint[seen] / np.outer(rows, columns)[seen])).sum()
    return float(information / np.sqrt((rows * np.log(rows)).sum() * (columns * np.log(columns)).sum()))


def renamed(after: Assignments, before: Assignments, k: int) -> Assignments:
    """``after`` with its clusters named so that as many pictures as can keep the name they had in ``before``."""
    overlap = np.zeros((k, k), np.int64)
    common = (before >= 0) & (after >= 0)
    np.add.at(overlap, (after[common], before[common]), 1)
    old, new = linear_sum_assignment(overlap, maximize=True)
    names = np.empty(k, np.int64)
    names[old] = new
    return np.where(after >= 0, names[after], after)


def uniform_over_clusters(assignments: Assignments, count: int, generator: torch.Generator) -> npt.NDArray[np.int64]:
    """Sorted picture numbers (count,), with repetition: a cluster at random, then a picture of it at random."""
    order = np.argsort(assignments, kind="stable")[np.count_nonzero(assignments < 0) :]
    starts, sizes = np.unique(assignments[order], return_index=True, return_counts=True)[1:]
    u, v = torch.rand((2, count), generator=generator, device=generator.device).double().cpu().numpy()
    cluster = (u * len(sizes)).astype(np.int64)
    return np.sort(order[starts[cluster] + (v * sizes[cluster]).astype(np.int64)])


def half_anew(present: npt.NDArray[np.bool_], limit: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Sorted picture numbers to cluster next, at most ``limit``: half of those ``present`` stay, so that this clustering
    can be compared with the last, the others are drawn."""
    wanted = min(len(present), limit)
    kept = rng.permutation(np.flatnonzero(present))[: wanted if wanted == len(present) else wanted // 2]
    others = rng.permutation(np.setdiff1d(np.arange(len(present)), kept))[: wanted - len(kept)]
    return np.sort(np.concatenate([kept, others]))
