"""k-means by FAISS: restarts on samples, each from another start, then the best of them refined on all rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
SAMPLE, A_CENTRE = 5_000, 32  # rows of a restart: so many, or so many a centre
STARTERS = 2_500  # of them are considered as first centres
ROUNDS, ROUGH, FINE = 100, 3e-3, 5e-4  # iterations at most; relative gain at which restarts, and the end, stop
FEW, FINEST = 20_000, 1e-5  # rows up to which going on costs nothing


@dataclass(frozen=True)
class KMeans:
    """``centres`` float32 (k, D), each row's centre (N,) and squared distance (N,), and what other restarts found.

    ``others`` are the centres of every restart, before the best was refined.
    """

    centres: FloatArray
    assignments: IntArray
    squares: FloatArray
    others: list[FloatArray]

    @property
    def inertia(self) -> float:
        """Sum of squared distances to the own centre."""
        return float(self.squares.sum(dtype=np.float64))


def kmeans(x: FloatArray, k: int, restarts: int = 3, seed: int = 0, spherical: bool = False) -> KMeans:
    """``k`` clusters of contiguous rows (N, D), of unit length if ``spherical``: then centres are too.

    Greedy k-means++ (Arthur, Vassilvitskii 2007, section 7) and Lloyd's iterations (1957).
    """
    rng = np.random.default_rng(seed)
    rough, fine = (ROUGH, FINE) if len(x) > FEW else (FINEST, FINEST)
    found = []
    for _ in range(restarts):
        rows = rng.permutation(len(x))[: max(SAMPLE, A_CENTRE * k)]
        start = _spread(x[rows[: max(STARTERS, 2 * k)]], k, rng)
        found.append(_lloyd(x[np.sort(rows)] if len(rows) < len(x) else x, start, rough, spherical))
    best = min(found, key=lambda run: run[1])[0]
    centres, _ = _lloyd(x, best, fine, spherical)
    assignments, squares = assign(x, centres)
    return KMeans(centres, assignments, squares, [run[0] for run in found])


def _spread(rows: FloatArray, k: int, rng: np.random.Generator) -> FloatArray:
    """``k`` of the rows, far from one another: each the best of a few drawn by their squared distance to those before."""
    lengths = np.square(rows).sum(1)
    trials = 2 + int(np.log(k))
    chosen = [int(rng.integers(len(rows)))]
    nearest = np.maximum(lengths + lengths[chosen[0]] - 2 * rows @ rows[chosen[0]], 0)
    for _ in range(k - 1):
        total = nearest.cumsum(dtype=np.float64)
        drawn = np.minimum(np.searchsorted(total, rng.random(trials) * total[-1]), len(rows) - 1)
        squares = lengths[drawn, None] + lengths - 2 * rows[drawn] @ rows.T
        after = np.clip(squares, 0, nearest)
        best = int(after.sum(1).argmin())
        chosen.append(int(drawn[best]))
        nearest = after[best]
    return rows[chosen]


def assign(x: FloatArray, centres: FloatArray) -> tuple[IntArray, FloatArray]:
    """The nearest centre of each row, (N,), and the squared distance to it, (N,)."""
    import faiss

    squares, numbers = faiss.knn(x, centres, 1)
    return numbers[:, 0], np.maximum(squares[:, 0], 0)


def _lloyd(x: FloatArray, start: FloatArray, gain: float, spherical: bool) -> tuple[FloatArray, float]:
    """Centres, and the mean squared distance in the last iteration."""
    import faiss

    k, dim = start.shape
    settings = faiss.ClusteringParameters()
    settings.niter, settings.early_stop_threshold, settings.spherical = ROUNDS, gain, spherical
    settings.min_points_per_centroid, settings.max_points_per_centroid = 1, len(x)
    clustering = faiss.Clustering(dim, k, settings)
    faiss.copy_array_to_vector(np.ascontiguousarray(start, np.float32).ravel(), clustering.centroids)
    clustering.train(x, faiss.IndexFlatL2(dim))
    stats = clustering.iteration_stats
    centres = faiss.vector_to_array(clustering.centroids).reshape(k, dim)
    return centres, float(stats.at(stats.size() - 1).obj) / len(x)
