"""Clustering for DeepCluster: k-means without empty clusters, matching of clusters, and sampling uniform over clusters.

All computations use numpy and FAISS on the CPU; features are (N, D), assignments int64 (N,) of cluster indices below k, or -1
for images that were not clustered.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from sslfeat.errors import TrainingError
from sslfeat.evaluation.clustering.metrics import match
from sslfeat.numerics.kmeans import assign, centers

Floats = npt.NDArray[np.float32]
Assignments = npt.NDArray[np.int64]
ITERATIONS = 20


def balanced_kmeans(points: Floats, k: int, seed: int) -> tuple[Assignments, int]:
    """Assignments of k-means without empty clusters, and the number of clusters that were empty before being filled.

    Raises TrainingError for fewer points than clusters, and for points that are not finite.
    """
    if len(points) < k:
        raise TrainingError(f"{len(points)} images cannot fill {k} clusters: set a smaller number (--set clusters=...)")
    if not np.isfinite(points).all():
        raise TrainingError("the features to be clustered are not finite: try a lower --lr, or --precision fp32")
    if not points.shape[1]:
        raise TrainingError("the features to be clustered are the same for all images")
    found = centers(points, k, seed % 2**31, iterations=ITERATIONS, points_a_center=1024)
    return fill_empty(points, assign(points, found)[0], k)


def fill_empty(points: Floats, assignments: Assignments, k: int) -> tuple[Assignments, int]:
    """Give each empty cluster half of the currently largest cluster; also returns the number of empty clusters.

    The largest cluster is split at the median along its first principal direction, so neither half is empty.
    """
    filled = assignments.copy()
    empty = np.flatnonzero(np.bincount(assignments, minlength=k) == 0)
    for cluster in empty:
        members = np.flatnonzero(filled == np.bincount(filled, minlength=k).argmax())
        centered = points[members] - points[members].mean(0)
        direction = np.linalg.eigh(centered.T @ centered)[1][:, -1]
        order = np.argsort(centered @ direction, kind="stable")
        filled[members[order[len(order) // 2 :]]] = cluster
    return filled, len(empty)


def renamed(after: Assignments, before: Assignments, k: int) -> Assignments:
    """Relabel the clusters of ``after`` so that as many images as possible keep their label in ``before``."""
    overlap = np.zeros((k, k), np.int64)
    common = (before >= 0) & (after >= 0)
    np.add.at(overlap, (after[common], before[common]), 1)
    old, new = match(overlap)
    names = np.empty(k, np.int64)
    names[old] = new
    return np.where(after >= 0, names[after], after)


def uniform_over_clusters(assignments: Assignments, count: int, generator: torch.Generator) -> npt.NDArray[np.int64]:
    """Sorted image indices (count,), with repetition: a random cluster, then a random image of it."""
    order = np.argsort(assignments, kind="stable")[np.count_nonzero(assignments < 0) :]
    starts, sizes = np.unique(assignments[order], return_index=True, return_counts=True)[1:]
    u, v = torch.rand((2, count), generator=generator, device=generator.device).double().cpu().numpy()
    cluster = (u * len(sizes)).astype(np.int64)
    return np.sort(order[starts[cluster] + (v * sizes[cluster]).astype(np.int64)])


def half_anew(present: npt.NDArray[np.bool_], limit: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Sorted indices of the images to cluster next, at most ``limit``: half of those ``present`` are kept, so that successive
    clusterings can be compared; the others are sampled."""
    count = min(len(present), limit)
    kept = rng.permutation(np.flatnonzero(present))[: count if count == len(present) else count // 2]
    others = rng.permutation(np.setdiff1d(np.arange(len(present)), kept))[: count - len(kept)]
    return np.sort(np.concatenate([kept, others]))
