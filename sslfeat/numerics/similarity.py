"""Rows of unit length, their nearest neighbors by cosine, and how much alike two encoders' embeddings of the same images are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sslfeat.numerics.arrays import FloatArray, IntArray

NEIGHBORS = 10
SHORT, LONGEST = 1e-17, 1.3e19  # lengths whose squares float32 holds
BLOCK = 65_536  # rows at a time


def unit(rows: npt.ArrayLike) -> FloatArray:
    """Contiguous copies of rows (N, D), float32 of length 1; a row of zeros stays one."""
    array = np.ascontiguousarray(rows, np.float32)
    lengths = np.sqrt(np.einsum("ij,ij->i", array, array))
    if len(array) and lengths.min() > SHORT and lengths.max() < LONGEST:  # as nearly always, and soon seen
        usual: FloatArray = array / lengths[:, None]
        return usual
    with np.errstate(over="ignore", under="ignore"):
        norms = np.linalg.norm(array, axis=1, keepdims=True)
    odd = np.flatnonzero(((norms < SHORT) | (norms > LONGEST)) & array.any(1, keepdims=True))
    units: FloatArray = array / (norms + (norms == 0))
    if odd.size:
        exact: npt.NDArray[np.float64] = array[odd].astype(np.float64)
        units[odd] = (exact / np.linalg.norm(exact, axis=1, keepdims=True)).astype(np.float32)
    return units


def nearest(x: FloatArray, queries: FloatArray, k: int) -> tuple[FloatArray, IntArray]:
    """Cosines and numbers, (Q, k), of the ``k`` rows of ``x`` nearest to each query, nearest first; exact."""
    import faiss

    queries = unit(queries)
    best = np.empty((len(queries), 0), np.float32)
    rows = np.empty((len(queries), 0), np.int64)
    for start in range(0, len(x), BLOCK):
        block = unit(x[start : start + BLOCK])
        scores, found = faiss.knn(queries, block, min(k, len(block)), metric=faiss.METRIC_INNER_PRODUCT)
        best, rows = np.hstack([best, scores]), np.hstack([rows, found + start])
        if best.shape[1] > k:
            best, rows = first_of(best, rows, k)
    return best, rows


def first_of(scores: FloatArray, rows: IntArray, k: int) -> tuple[FloatArray, IntArray]:
    """Of each line the ``k`` greatest scores with their rows, greatest first; of equal ones those that come first."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)


def cosines(a: FloatArray, b: FloatArray) -> npt.NDArray[np.float64]:
    """Cosine of each row of ``a`` (N, D) with the same row of ``b``, (N,)."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    result: npt.NDArray[np.float64] = (x * y).sum(1) / np.maximum(norms, np.finfo(np.float64).tiny)
    return result


def neighbor_overlap(a: FloatArray, b: FloatArray, k: int = NEIGHBORS) -> float:
    """Mean share of each image's ``k`` nearest others, by cosine, that ``a`` and ``b`` agree on."""
    return float(overlaps(a, b, k).mean())


def overlaps(a: FloatArray, b: FloatArray, k: int = NEIGHBORS) -> npt.NDArray[np.float64]:
    """That share for each row, (N,), of ``a`` (N, D) and ``b`` (N, E)."""
    k = min(k, len(a) - 1)
    pairs = zip(_others(a, k), _others(b, k), strict=True)
    return np.array([len(set(x) & set(y)) / k for x, y in pairs])


def linear_cka(a: FloatArray, b: FloatArray) -> float:
    """Linear centered kernel alignment (Kornblith et al. 2019) of ``a`` (N, D) and ``b`` (N, E): 0 to 1.

    1 for embeddings that are the same up to rotation, scale and an offset; NaN where either does not vary.
    """
    x, y = (rows.astype(np.float64) - rows.mean(0, dtype=np.float64) for rows in (a, b))
    own = float(np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
    return float(np.square(np.linalg.norm(x.T @ y)) / own) if own else float("nan")


def rank_correlation(a: FloatArray, b: FloatArray) -> float:
    """Spearman's, of the cosines of all pairs of rows of ``a`` (N, D) with those of ``b`` (N, E): -1 to 1.

    Kriegeskorte et al. 2008 compare representations so. NaN where either sees all pairs alike. Memory is quadratic in N.
    """
    pairs = np.triu_indices(len(a), 1)
    ranks = []
    for rows in (a, b):
        units = unit(rows)
        values, place, tied = np.unique((units @ units.T)[pairs], return_inverse=True, return_counts=True)
        ranks.append((tied.cumsum() - (tied - 1) / 2)[place])  # of equal ones the mean rank
        if len(values) < 2:
            return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])


def _others(embeddings: FloatArray, k: int) -> IntArray:
    """Of equally near ones the first, in whatever order the rows were multiplied."""
    rows = unit(embeddings)
    similarity = rows @ rows.T
    np.fill_diagonal(similarity, -np.inf)
    found: IntArray = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return found
