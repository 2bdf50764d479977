"""Dimensionality reduction: PCA, t-SNE and UMAP."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import numpy.typing as npt

from sslfeat.errors import FeaturesError, InputError, MissingExtraError, needs
from sslfeat.numerics.arrays import FloatArray
from sslfeat.numerics.pca import principal_axes
from sslfeat.numerics.similarity import BLOCK

METHODS = ("pca", "tsne", "umap")
BEFORE = 50  # number of principal components before t-SNE and UMAP
LEAST = 3  # minimum number of rows
PACKAGES = {"tsne": ("sklearn", "probe", "scikit-learn"), "umap": ("umap", "umap", "umap-learn")}  # module, extra, package
ITERATIONS = 1000  # maximum for t-SNE
Step = Callable[[float, str], None]


@dataclass(frozen=True)
class Pca:
    """``mean`` (D,), unit ``axes`` (D, d) by decreasing variance, and the ``share`` (d,) of explained variance."""

    mean: FloatArray
    axes: FloatArray
    share: npt.NDArray[np.float64]

    def project(self, x: FloatArray) -> FloatArray:
        """Coordinates (N, d) of features (N, D)."""
        out = np.empty((len(x), self.axes.shape[1]), np.float32)
        for start in range(0, len(x), BLOCK):
            np.matmul(x[start : start + BLOCK] - self.mean, self.axes, out=out[start : start + BLOCK])
        return out


def pca(x: FloatArray, dim: int) -> Pca:
    """Up to ``dim`` components of features (N, D). The largest weight of each axis is positive, for reproducible signs.

    Raises FeaturesError for fewer than 3 rows, rows that are not finite, or identical rows.
    """
    if x.ndim != 2 or len(x) < LEAST:
        raise FeaturesError(f"features of shape {x.shape}: at least {LEAST} images are needed")
    if not np.isfinite(x).all():
        raise FeaturesError("some features are not finite: the encoder is broken, or overflows in low precision")
    found = principal_axes(x)
    if found.variances[0] <= 1e-12 * max(float(np.square(found.mean).sum()), 1e-30):
        raise FeaturesError("all features are identical")
    share = found.variances[:dim] / found.variances.sum()
    return Pca(found.mean.astype(np.float32), found.axes[:, :dim].astype(np.float32), share)


def check_method(method: str) -> None:
    """Raise InputError for an unknown method, MissingExtraError if its package is not installed."""
    if method not in METHODS:
        raise InputError(f"unknown method {method!r}: choose one of {', '.join(METHODS)}")
    module, extra, package = PACKAGES.get(method, ("numpy", "", ""))
    if find_spec(module) is None:
        raise MissingExtraError(extra, package)


def project(x: FloatArray, method: str = "pca", seed: int = 0, step: Step = lambda share, what: None) -> FloatArray:
    """A map (N, 2) float32 of features (N, D). t-SNE: van der Maaten, Hinton 2008; UMAP: McInnes et al. 2018.

    ``step`` is called with the share that is done (known for t-SNE only), and the current stage.

    Raises InputError for an unknown method, MissingExtraError if its package is not installed, FeaturesError as ``pca``.
    """
    check_method(method)
    if method == "pca":
        points = pca(x, 2).project(x)
        return points if points.shape[1] == 2 else np.hstack([points, np.zeros_like(points)])
    reduced = pca(x, BEFORE).project(x)
    return _tsne(reduced, seed, step) if method == "tsne" else _umap(reduced, seed, step)


def _tsne(rows: FloatArray, seed: int, step: Step) -> FloatArray:
    with needs("probe", "scikit-learn"):
        from sklearn.manifold import TSNE
    perplexity = min(30.0, (len(rows) - 1) / 3)
    found = TSNE(perplexity=perplexity, init="pca", random_state=seed, n_jobs=-1, max_iter=ITERATIONS, verbose=2)
    step(0, f"t-SNE of {len(rows)} images: nearest neighbors")
    with contextlib.redirect_stdout(_Iterations(step)):
        points = found.fit_transform(rows)
    return np.asarray(points, np.float32)


class _Iterations(io.TextIOBase):
    """Parses the output of t-SNE, its only progress report: "Iteration 50: ..."."""

    def __init__(self, step: Step) -> None:
        self.step = step

    def write(self, text: str) -> int:
        if found := re.search(r"Iteration (\d+)", text):
            self.step(int(found[1]) / ITERATIONS, f"t-SNE: iteration {found[1]} of at most {ITERATIONS}")
        return len(text)


def _umap(rows: FloatArray, seed: int, step: Step) -> FloatArray:
    with needs("umap", "umap-learn"):
        from umap import UMAP
    step(0, f"UMAP of {len(rows)} images (no progress information)")
    points = UMAP(n_neighbors=min(15, len(rows) - 1), random_state=seed, n_jobs=1).fit_transform(rows)
    return np.asarray(points, np.float32)
