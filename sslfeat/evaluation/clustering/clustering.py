"""Clustering: k-means, or HDBSCAN and agglomerative clustering on principal components."""

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
MOST_NOISE = 0.5  # maximum share of noise for which the silhouette of the other images is reported
LARGEST = 15_000  # sample size for HDBSCAN and agglomerative clustering, whose memory and time are quadratic
BLOCK = 16_384
Step = Callable[[float, str], None]
A_SILHOUETTE = 20  # time of one silhouette, in clusters of k-means
TRIED = (2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 70, 100, 150, 200)


@dataclass(frozen=True)
class ClusterOptions:
    """``k`` clusters (None: the k of TRIED with the best silhouette); ``restarts`` of k-means, ``spherical`` or not.

    ``reduce``: number of principal components for the other methods. ``min_size``: minimum cluster size of HDBSCAN.
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
            raise UsageError(f"unknown method {self.method!r}: choose one of {', '.join(METHODS)}")
        if self.k is not None and self.k < 2:
            raise UsageError(f"k is {self.k}, but must be at least 2")
        if min(self.restarts, self.reduce) < 1 or self.min_size < 2:
            raise UsageError(
                f"restarts {self.restarts} and reduce {self.reduce} must be at least 1, min size {self.min_size} at least 2"
            )
        if self.spherical and self.method != "kmeans":
            raise UsageError("spherical requires method kmeans")

    def check(self, images: int) -> None:
        """Raise FeaturesError if there are too few images, MissingExtraError for packages that are not installed."""
        needed = self.k or 2
        if images <= needed:
            raise FeaturesError(f"{counted(images, 'image')}: too few for {needed} clusters")
        if self.method != "kmeans":
            with needs("probe", "scikit-learn"):
                import sklearn.cluster  # noqa: F401 - fail before any work is done


@dataclass(frozen=True)
class Clustering:
    """``assignments`` (N,) of rows to clusters (-1: noise), and ``centers`` (k, D); ``distances`` (N,) to the assigned center
    (NaN: none), and to the nearest ``other`` center (N,).

    Clusters are numbered by decreasing size. ``silhouette`` is NaN if more than half of the rows are noise. ``tried``: the
    silhouette of each k that was tried. ``sampled``: number of rows that were clustered, if not all; the other rows are in
    the cluster of the nearest sampled row.
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
        """Number of images of each cluster."""
        counts = np.bincount(self.assignments[self.assignments >= 0], minlength=len(self.centers))
        return [int(count) for count in counts]

    @property
    def noise(self) -> int:
        """Number of images in no cluster."""
        return int((self.assignments == NOISE).sum())

    def agreement(self, labels: Sequence[str | None]) -> LabelAgreement | None:
        """Agreement with ``labels``; None if no image has one."""
        return agreement(self.assignments, labels)

    def figures(self, labels: Sequence[str | None] | None = None) -> dict[str, Any]:
        """All metrics, for JSON; with ``labels`` including the agreement."""
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
    """Cluster features (N, D). ``step`` is called with the share that is done (while k is selected), and the current stage.

    Raises FeaturesError for too few rows, rows that are not finite, or identical rows,
    MissingExtraError for hdbscan and agglomerative without scikit-learn.
    """
    options = options or ClusterOptions()
    if x.ndim != 2:
        raise FeaturesError(f"features of shape {x.shape}: expected (N, D)")
    options.check(len(x))
    pca(x, 1)  # raises if all rows are identical
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
    """Relative time of trying these numbers of clusters: k-means is linear in the number, the silhouette constant."""
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
    """Number of clusters to cut the tree into: k, or the best number for k-means on the same rows."""
    if options.k is not None:
        return options.k
    return len(_by_kmeans(rows, ClusterOptions(restarts=options.restarts, seed=options.seed), step).centers)


def _numbered(
    x: FloatArray, assignments: IntArray, *, stability: float = float("nan"), inertia: float | None = None,
    tried: dict[int, float] | None = None, sampled: int | None = None, centers: FloatArray | None = None,
) -> Clustering:  # fmt: skip
    """Renumber clusters by decreasing size; computes centers (default: means) and distances."""
    sizes = np.bincount(assignments[assignments >= 0], minlength=0 if centers is None else len(centers))
    order = np.argsort(-sizes, kind="stable")
    order = order[sizes[order] > 0]
    rank = np.full(len(sizes) + 1, NOISE)  # the last entry is for -1
    rank[order] = np.arange(len(order))
    numbers = rank[assignments]
    centers = _means(x, numbers, len(order)) if centers is None else centers[order]
    distances, other = _distances(x, numbers, centers)
    if inertia is None:
        inertia = float(np.square(distances[numbers >= 0], dtype=np.float64).sum())
    judged = silhouette(x, numbers) if (numbers == NOISE).mean() <= MOST_NOISE else float("nan")
    return Clustering(numbers, centers, distances, other, judged, stability, inertia, tried or {}, sampled)


def _distances(x: FloatArray, numbers: IntArray, centers: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Distance of each row to its center, and to the nearest other center; NaN if there is none."""
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
    other[~np.isfinite(other)] = np.nan  # only one cluster
    return own, other


def _means(x: FloatArray, numbers: IntArray, count: int) -> FloatArray:
    means = [x[numbers == number].mean(0, dtype=np.float64) for number in range(count)]
    return np.array(means, np.float32).reshape(count, x.shape[1])
