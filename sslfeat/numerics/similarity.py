"""Unit rows, nearest neighbors by cosine, and similarity of two encoders' embeddings of the same images."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sslfeat.numerics.arrays import FloatArray, IntArray

NEIGHBORS = 10
SHORT, LONGEST = 1e-17, 1.3e19  # lengths whose squares fit float32
BLOCK = 65_536  # rows at a time


def unit(rows: npt.ArrayLike) -> FloatArray:
    """Contiguous copies of rows (N, D), float32 of length 1; a row of zeros stays one."""
    array = np.ascontiguousarray(rows, np.float32)
    lengths = np.sqrt(np.einsum("ij,ij->i", array, array))
    if len(array) and lengths.min() > SHORT and lengths.max() < LONGEST:  # common case, quickly checked
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
    """The ``k`` highest scores of each line and their rows, descending; ties by row number."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)


def cosines(a: FloatArray, b: FloatArray) -> npt.NDArray[np.float64]:
    """Cosine of each row of ``a`` (N, D) with the same row of ``b``, (N,)."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    result: npt.NDArray[np.float64] = (x * y).sum(1) / np.maximum(norms, np.finfo(np.float64).tiny)
    return result


def neighbor_overlap(a: FloatArray, b: FloatArray, k: int = NEIGHBORS) -> float:
    """Mean share of the ``k`` nearest neighbors by cosine that ``a`` and ``b`` have in common."""
    return float(overlaps(a, b, k).mean())


def overlaps(a: FloatArray, b: FloatArray, k: int = NEIGHBORS) -> npt.NDArray[np.float64]:
    """Neighbor overlap of each row, (N,), of ``a`` (N, D) and ``b`` (N, E)."""
    k = min(k, len(a) - 1)
    pairs = zip(_others(a, k), _others(b, k), strict=True)
    return np.array([len(set(x) & set(y)) / k for x, y in pairs])


def linear_cka(a: FloatArray, b: FloatArray) -> float:
    """Linear centered kernel alignment (Kornblith et al. 2019) of ``a`` (N, D) and ``b`` (N, E): 0 to 1.

    1 for embeddings that are equal up to rotation, scale and offset; NaN if either is constant.
    """
    x, y = (rows.astype(np.float64) - rows.mean(0, dtype=np.float64) for rows in (a, b))
    own = float(np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
    return float(np.square(np.linalg.norm(x.T @ y)) / own) if own else float("nan")


def rank_correlation(a: FloatArray, b: FloatArray) -> float:
    """Spearman correlation of the cosines of all pairs of rows of ``a`` (N, D) and ``b`` (N, E): -1 to 1.

    Source: Kriegeskorte et al. 2008. NaN if all cosines of either are equal. Memory is quadratic in N.
    """
    pairs = np.triu_indices(len(a), 1)
    ranks = []
    for rows in (a, b):
        units = unit(rows)
        values, place, tied = np.unique((units @ units.T)[pairs], return_inverse=True, return_counts=True)
        ranks.append((tied.cumsum() - (tied - 1) / 2)[place])  # mean rank for ties
        if len(values) < 2:
            return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])


def _others(embeddings: FloatArray, k: int) -> IntArray:
    """Deterministic ties: the first of equally near rows, independent of the order of multiplication."""
    rows = unit(embeddings)
    similarity = rows @ rows.T
    np.fill_diagonal(similarity, -np.inf)
    found: IntArray = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return found
