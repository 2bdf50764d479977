"""Images that are alike, put together: k-means, or HDBSCAN and agglomerative clustering on principal components."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from sslfeat.errors import FeaturesError, UsageError, needs
from sslfeat.evaluation.clustering.metrics import SAMPLE, LabelAgreement, agreement, silhouette, stability
from sslfeat.evaluation.projection import pca
from sslfeat.numerics.arrays import FloatArray, IntArray
from sslfeat.numerics.kmeans import assign, kmeans
from sslfeat.numerics.sampling import sample
from sslfeat.numerics.similarity import unit
from sslfeat.system.plurals import counted

METHODS = ("kmeans", "hdbscan", "agglomerative")
NOISE = -1
MOST_NOISE = 0.5  # share of images in no cluster beyond which the others' silhouette says little of the whole
LARGEST = 15_000  # rows that HDBSCAN and agglomerative clustering look at: memory and time are quadratic
BLOCK = 16_384
Step = Callable[[float, str], None]
A_SILHOUETTE = 20  # clusters more that one silhouette costs, in time
TRIED = (2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 70, 100, 150, 200)


@dataclass(frozen=True)
class ClusterOptions:
    """``k`` clusters (None: the k of TRIED whose silhouette is greatest); ``restarts`` of k-means, ``spherical`` or not.

    ``reduce`` principal components for the other methods; ``min_size`` is HDBSCAN's least cluster.
    """

    method: str = "kmeans"
    k: int | None = None
    spherical: bool = False
    restarts: int = 3
    reduce: int = 32
    min_size: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(f"method {self.method!r} is not known: {', '.join(METHODS)}")
        if self.k is not None and self.k < 2:
            raise UsageError(f"k is {self.k}: it takes two clusters or more")
        if min(self.restarts, self.reduce) < 1 or self.min_size < 2:
            raise UsageError(
                f"restarts {self.restarts} and reduce {self.reduce} must be at least 1, min size {self.min_size} at least 2"
            )
        if self.spherical and self.method != "kmeans":
            raise UsageError("spherical is for kmeans")

    def check(self, images: int) -> None:
        """Raise FeaturesError if so many images are too few, MissingExtraError for packages that are not installed."""
        needed = self.k or 2
        if images <= needed:
            raise FeaturesError(f"{counted(images, 'image')}: {needed} clusters take more images than that")
        if self.method != "kmeans":
            with needs("probe", "scikit-learn"):
                import sklearn.cluster  # noqa: F401 - so that it is missed before any work is done


@dataclass(frozen=True)
class Clustering:
    """Each row's cluster (N,), -1 for none, and the centers (k, D); ``distances`` (N,) to the own center (NaN: none) and
    to the nearest ``other`` (N,).

    Clusters are numbered by falling size. ``silhouette`` is NaN where more than half of the rows are in no cluster. ``tried``
    has the silhouette of each k where k was sought; ``sampled`` says how many rows were looked at, if not all: the others
    went with the nearest of those.
    """

    assignments: IntArray
    centers: FloatArray
    distances: FloatArray
    other: FloatArray
    silhouette: float
    stability: float
    inertia: float
    tried: dict[int, float] = field(default_factory=dict)
    sampled: int | None = None

    @property
    def sizes(self) -> list[int]:
        """Images of each cluster."""
        counts = np.bincount(self.assignments[self.assignments >= 0], minlength=len(self.centers))
        return [int(count) for count in counts]

    @property
    def noise(self) -> int:
        """Images in no cluster."""
        return int((self.assignments == NOISE).sum())

    def agreement(self, labels: Sequence[str | None]) -> LabelAgreement | None:
        """With ``labels``; None if no image has one."""
        return agreement(self.assignments, labels)

    def figures(self, labels: Sequence[str | None] | None = None) -> dict[str, Any]:
        """All that is known of it, for JSON; with ``labels`` the agreement with them."""
        judged = None if labels is None else self.agreement(labels)
        return {
            "clusters": len(self.centers),
            "noise": self.noise,
            "sizes": self.sizes,
            "silhouette": self.silhouette,
            "stability": self.stability,
            "inertia": self.inertia,
            "tried": self.tried,
            "sampled": self.sampled,
            "labels": None if judged is None else asdict(judged),
        }


def cluster(x: FloatArray, options: ClusterOptions | None = None, step: Step = lambda share, detail: None) -> Clustering:
    """Cluster features (N, D). ``step`` is told the share of the work that is done, where k is sought, and what it is.

    Raises FeaturesError for rows that are too few, not finite, or all alike,
    MissingExtraError for hdbscan and agglomerative without scikit-learn.
    """
    options = options or ClusterOptions()
    if x.ndim != 2:
        raise FeaturesError(f"features of shape {x.shape}: clusters are of features (N, D)")
    options.check(len(x))
    pca(x, 1)  # raises for rows that cannot be told apart
    rows = unit(x) if options.spherical else np.ascontiguousarray(x, np.float32)
    if options.method == "kmeans":
        return _by_kmeans(rows, options, step)
    return _by_density(rows, options, step)


def _by_kmeans(x: FloatArray, options: ClusterOptions, step: Step) -> Clustering:
    tried: dict[int, float] = {}
    k = options.k
    if k is None:
        some = np.ascontiguousarray(x[sample(len(x), 4 * SAMPLE)])
        numbers = [n for n in TRIED if n <= max(2, len(some) // 10)]
        for place, number in enumerate(numbers):
            step(_effort(numbers[:place]) / _effort(numbers), f"trying {number} clusters")
            run = kmeans(some, number, options.restarts, options.seed, options.spherical, roughly=True)
            tried[number] = silhouette(some, run.assignments)
        k = max(tried, key=lambda number: np.nan_to_num(tried[number], nan=-1))
    found = kmeans(x, k, options.restarts, options.seed, options.spherical)
    some = np.ascontiguousarray(x[sample(len(x), SAMPLE)])
    return _numbered(
        x, found.assignments,
        stability=stability([assign(some, centers)[0] for centers in found.others]),
        inertia=found.inertia, tried=tried, centers=found.centers,
    )  # fmt: skip


def _effort(numbers: Sequence[int]) -> int:
    """Of trying so many clusters: k-means costs as many distances a row as there are centers, the silhouette the same always."""
    return sum(A_SILHOUETTE + number for number in numbers)


def _by_density(x: FloatArray, options: ClusterOptions, step: Step) -> Clustering:
    """HDBSCAN (Campello et al. 2013) or Ward's agglomerative clustering, on principal components."""
    with needs("probe", "scikit-learn"):
        from sklearn.cluster import HDBSCAN, AgglomerativeClustering
    reduced = pca(x, options.reduce).project(x)
    seen = np.ascontiguousarray(reduced[sample(len(x), LARGEST)])
    step(0, f"{options.method} of {len(seen)} rows")
    if options.method == "hdbscan":
        found = HDBSCAN(min_cluster_size=min(options.min_size, len(seen)), copy=True).fit_predict(seen)
    else:
        found = AgglomerativeClustering(n_clusters=_clusters(seen, options, step)).fit_predict(seen)
    assignments = np.asarray(found, np.int64)
    if len(seen) < len(x):
        assignments = assignments[assign(reduced, seen)[0]]
    return _numbered(x, assignments, sampled=len(seen) if len(seen) < len(x) else None)


def _clusters(rows: FloatArray, options: ClusterOptions, step: Step) -> int:
    """How many clusters to cut the tree into: k, or the best number for k-means of the same rows."""
    if options.k is not None:
        return options.k
    return len(_by_kmeans(rows, ClusterOptions(restarts=options.restarts, seed=options.seed), step).centers)


def _numbered(
    x: FloatArray, assignments: IntArray, *, stability: float = float("nan"), inertia: float | None = None,
    tried: dict[int, float] | None = None, sampled: int | None = None, centers: FloatArray | None = None,
) -> Clustering:  # fmt: skip
    """Clusters by falling size, with their centers (default: means) and each row's distance to its own."""
    sizes = np.bincount(assignments[assignments >= 0], minlength=0 if centers is None else len(centers))
    order = np.argsort(-sizes, kind="stable")
    order = order[sizes[order] > 0]
    rank = np.full(len(sizes) + 1, NOISE)  # the last place is where -1 looks
    rank[order] = np.arange(len(order))
    numbers = rank[assignments]
    centers = _means(x, numbers, len(order)) if centers is None else centers[order]
    distances, other = _distances(x, numbers, centers)
    if inertia is None:
        inertia = float(np.square(distances[numbers >= 0], dtype=np.float64).sum())
    judged = silhouette(x, numbers) if (numbers == NOISE).mean() <= MOST_NOISE else float("nan")
    return Clustering(numbers, centers, distances, other, judged, stability, inertia, tried or {}, sampled)


def _distances(x: FloatArray, numbers: IntArray, centers: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Of each row to its own center, and to the nearest other one; NaN where there is none."""
    own = np.full(len(x), np.nan, np.float32)
    other = own.copy()
    inside = np.flatnonzero(numbers >= 0)
    lengths = np.square(centers).sum(1)
    for start in range(0, len(inside), BLOCK):
        rows = inside[start : start + BLOCK]
        own[rows] = np.linalg.norm(x[rows] - centers[numbers[rows]], axis=1)
        squares = lengths - 2 * x[rows] @ centers.T
        squares[np.arange(len(rows)), numbers[rows]] = np.inf
        other[rows] = np.sqrt(np.maximum(squares.min(1) + np.square(x[rows]).sum(1), 0))
    other[~np.isfinite(other)] = np.nan  # a single cluster has no other
    return own, other


def _means(x: FloatArray, numbers: IntArray, count: int) -> FloatArray:
    means = [x[numbers == number].mean(0, dtype=np.float64) for number in range(count)]
    return np.array(means, np.float32).reshape(count, x.shape[1])
