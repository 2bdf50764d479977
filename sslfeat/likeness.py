"""How much alike two encoders' embeddings of the same pictures are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

NEIGHBOURS = 10


def cosines(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Cosine of each row of ``a`` (N, D) with the same row of ``b``, (N,)."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    result: npt.NDArray[np.float64] = (x * y).sum(1) / np.maximum(norms, np.finfo(np.float64).tiny)
    return result


def neighbour_overlap(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32], k: int = NEIGHBOURS) -> float:
    """Mean share of each picture's ``k`` nearest others, by cosine, that ``a`` and ``b`` agree on."""
    return float(overlaps(a, b, k).mean())


def overlaps(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32], k: int = NEIGHBOURS) -> npt.NDArray[np.float64]:
    """That share for each row, (N,), of ``a`` (N, D) and ``b`` (N, E)."""
    k = min(k, len(a) - 1)
    pairs = zip(_nearest(a, k), _nearest(b, k), strict=True)
    return np.array([len(set(x) & set(y)) / k for x, y in pairs])


def _nearest(embeddings: npt.NDArray[np.float32], k: int) -> npt.NDArray[np.int64]:
    unit = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-30)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    nearest: npt.NDArray[np.int64] = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return nearest
