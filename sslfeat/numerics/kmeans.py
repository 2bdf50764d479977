"""k-means by FAISS. ``kmeans`` is for meaningful clusters: restarts on samples, the best one refined on all rows;
``centers`` is for many well-spread centers: one run from random rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sslfeat.numerics.arrays import FloatArray, IntArray

SAMPLE, A_CENTER = 5_000, 32  # rows of a restart: in total, or per center
STARTERS = 2_500  # rows considered as initial centers
AT_ONCE = 5_000  # rows per matrix product: one large product is much faster than many small ones
ROUNDS, ROUGH, FINE = 100, 3e-3, 5e-4  # maximum iterations; relative gain at which restarts, and the refinement, stop
FEW, FINEST = 20_000, 1e-5  # rows up to which more iterations are cheap


@dataclass(frozen=True)
class KMeans:
    """``centers`` float32 (k, D), each row's center (N,) and squared distance (N,), and results of other restarts.

    ``others`` are the centers of all restarts, before refinement of the best.
    """

    centers: FloatArray
    assignments: IntArray
    squares: FloatArray
    others: list[FloatArray]

    @property
    def inertia(self) -> float:
        """Sum of squared distances to the assigned centers."""
        return float(self.squares.sum(dtype=np.float64))


def kmeans(x: FloatArray, k: int, restarts: int = 3, seed: int = 0, spherical: bool = False, roughly: bool = False) -> KMeans:
    """``k`` clusters of contiguous rows (N, D); with ``spherical``, rows and centers have unit length.

    Greedy k-means++ (Arthur, Vassilvitskii 2007, section 7) and Lloyd's iterations (1957). ``roughly``: they stop early
    regardless of the number of rows, for scanning many ``k``.
    """
    rng = np.random.default_rng(seed)
    rough, fine = (ROUGH, ROUGH) if roughly else (ROUGH, FINE) if len(x) > FEW else (FINEST, FINEST)
    found = []
    for _ in range(restarts):
        rows = rng.permutation(len(x))[: max(SAMPLE, A_CENTER * k)]
        start = _spread(x[rows[: max(STARTERS, 2 * k)]], k, rng)
        found.append(_lloyd(x[np.sort(rows)] if len(rows) < len(x) else x, start, rough, spherical))
    best = min(found, key=lambda run: run[1])[0]
    centers, _ = _lloyd(x, best, fine, spherical)
    assignments, squares = assign(x, centers)
    return KMeans(centers, assignments, squares, [run[0] for run in found])


def _spread(rows: FloatArray, k: int, rng: np.random.Generator) -> FloatArray:
    """Greedy k-means++: ``k`` rows, each the best of a few drawn by squared distance to the previous ones."""
    lengths = np.square(rows).sum(1)
    trials = 2 + int(np.log(k))
    known = rows @ rows.T if len(rows) <= AT_ONCE else None
    chosen = [int(rng.integers(len(rows)))]
    nearest = np.maximum(lengths + lengths[chosen[0]] - 2 * rows @ rows[chosen[0]], 0)
    for _ in range(k - 1):
        total = nearest.cumsum(dtype=np.float64)
        drawn = np.minimum(np.searchsorted(total, rng.random(trials) * total[-1]), len(rows) - 1)
        products = rows[drawn] @ rows.T if known is None else known[drawn]
        squares = lengths[drawn, None] + lengths - 2 * products
        after = np.clip(squares, 0, nearest)
        best = int(after.sum(1).argmin())
        chosen.append(int(drawn[best]))
        nearest = after[best]
    return rows[chosen]


def centers(x: FloatArray, k: int, seed: int, *, iterations: int, points_a_center: int, spherical: bool = False) -> FloatArray:
    """``k`` centers (k, D) of rows (N, D), at most ``points_a_center`` rows for each."""
    import faiss

    means = faiss.Kmeans(
        x.shape[1], k, niter=iterations, seed=seed, spherical=spherical, min_points_per_centroid=1,
        max_points_per_centroid=points_a_center,
    )  # fmt: skip
    means.train(x)
    found: FloatArray = np.ascontiguousarray(means.centroids)
    return found


def assign(x: FloatArray, centers: FloatArray) -> tuple[IntArray, FloatArray]:
    """The nearest center of each row, (N,), and the squared distance to it, (N,)."""
    import faiss

    squares, numbers = faiss.knn(x, centers, 1)
    return numbers[:, 0], np.maximum(squares[:, 0], 0)


def _lloyd(x: FloatArray, start: FloatArray, gain: float, spherical: bool) -> tuple[FloatArray, float]:
    """Centers, and the mean squared distance in the last iteration."""
    import faiss

    k, dim = start.shape
    settings = faiss.ClusteringParameters()
    settings.niter, settings.early_stop_threshold, settings.spherical = ROUNDS, gain, spherical
    settings.min_points_per_centroid, settings.max_points_per_centroid = 1, len(x)
    clustering = faiss.Clustering(dim, k, settings)
    faiss.copy_array_to_vector(np.ascontiguousarray(start, np.float32).ravel(), clustering.centroids)
    clustering.train(x, faiss.IndexFlatL2(dim))
    stats = clustering.iteration_stats
    centers = faiss.vector_to_array(clustering.centroids).reshape(k, dim)
    return centers, float(stats.at(stats.size() - 1).obj) / len(x)
