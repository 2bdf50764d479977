"""Label-free metrics of features. Numpy and FAISS only.

Each metric detects one kind of defect; none depends on a downstream task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sslfeat.errors import FeaturesError
from sslfeat.evaluation.redundancy import redundancy
from sslfeat.numerics.arrays import FloatArray
from sslfeat.numerics.similarity import nearest, unit
from sslfeat.system.plurals import counted

FIRST_RANK, LAST_RANK = 5, 100  # range of eigenvalues for the power law fit, if there are enough
NEIGHBORS = 10
TEMPERATURE = 2.0
BLOCK = 2048

MEANING = {
    "rank_me": "effective rank: exp of the entropy of the singular values (RankMe, Garrido et al. 2023, section 3)",
    "alpha": "decay of the covariance eigenvalues, i ** -alpha; near 1 is best (alpha-ReQ, Agrawal et al. 2022)",
    "uniformity": "log mean of exp(-2 d^2) over pairs of unit vectors; lower is more uniform (Wang, Isola 2020, section 4)",
    "correlation": "mean |correlation| of two units; 0 without redundancy (Barlow 1989)",
    "total_correlation": "total correlation of the units in nats, for a Gaussian: -1/2 log det R (Barlow 1989)",
    "predictability": "R^2 of a unit predicted linearly from all others; 0 without redundancy (Barlow 1989)",
    "dead": "constant units",
    "hubness": "skewness of how often an image is among the 10 nearest of others; 0 is even (Radovanovic et al. 2010)",
}


@dataclass(frozen=True)
class Score:
    """Metrics as described in MEANING, of ``images`` with ``dim`` units."""

    images: int
    dim: int
    rank_me: float
    alpha: float
    uniformity: float
    correlation: float
    total_correlation: float
    predictability: float
    dead: int
    hubness: float


def check_enough(images: int, dim: int) -> None:
    """Raise FeaturesError unless there are more images than units."""
    if images <= dim:
        raise FeaturesError(f"{counted(images, 'image')} for {dim} units: more images than units are needed")


def score(features: FloatArray) -> Score:
    """Measure features (N, D). Raises FeaturesError unless there are more images than units, and features are finite."""
    count, dim = features.shape if features.ndim == 2 else (len(features), len(features))
    check_enough(count, dim)
    if not np.isfinite(features).all():
        raise FeaturesError("some features are not finite: the encoder is broken, or overflows in low precision")
    shared = redundancy(features)
    return Score(
        images=len(features),
        dim=features.shape[1],
        rank_me=rank_me(features),
        alpha=alpha(features),
        uniformity=uniformity(features),
        correlation=shared.correlation,
        total_correlation=shared.total_correlation,
        predictability=shared.predictability,
        dead=shared.dead,
        hubness=hubness(features),
    )


def mean_ranks(scores: Sequence[Score]) -> list[float]:
    """Mean rank of each encoder over four metrics on the same images; 1 is the predicted best.

    As in the papers, high RankMe, alpha near 1, low uniformity and low hubness are better. Ties get their mean rank.
    """
    readings = np.array([[-s.rank_me, abs(s.alpha - 1), s.uniformity, s.hubness] for s in scores])
    below = (readings[None] < readings[:, None]).sum(1)
    equal = (readings[None] == readings[:, None]).sum(1)
    means: list[float] = (below + (equal + 1) / 2).mean(1).tolist()
    return means


def rank_me(features: npt.NDArray[np.floating]) -> float:
    """exp of the entropy of the singular values, not centered; 1 to D (Garrido et al. 2023, equations 1 and 2)."""
    rows = features.astype(np.float64)
    values = np.sqrt(np.maximum(np.linalg.eigvalsh(rows.T @ rows), 0))
    shares = values / max(values.sum(), np.finfo(np.float64).tiny)
    shares = shares[shares > 1e-7]  # rounding errors
    return float(np.exp(-(shares * np.log(shares)).sum()))


def alpha(features: npt.NDArray[np.floating]) -> float:
    """Exponent of the power law fitted to eigenvalues FIRST_RANK to LAST_RANK of the covariance (Agrawal et al. 2022)."""
    values = np.linalg.eigvalsh(np.atleast_2d(np.cov(features.astype(np.float64), rowvar=False)))[::-1]
    values = values[values > 1e-12 * max(float(values[0]), np.finfo(np.float64).tiny)]
    first = min(FIRST_RANK, max(1, len(values) // 4))
    used = values[first - 1 : LAST_RANK]
    if len(used) < 2:
        return float("inf")
    ranks = np.arange(first, first + len(used))
    return float(-np.polyfit(np.log(ranks), np.log(used), 1)[0])


def uniformity(features: FloatArray) -> float:
    """Over all pairs of different images, by blocks; 0 if all are identical (Wang, Isola 2020, section 4.1.2)."""
    rows = unit(features)
    total = 0.0
    for start in range(0, len(rows), BLOCK):
        squares = 2 - 2 * (rows[start : start + BLOCK] @ rows.T)
        total += float(np.exp(-TEMPERATURE * squares).sum(dtype=np.float64))
    pairs = len(rows) * (len(rows) - 1)
    return float(np.log((total - len(rows)) / pairs))  # without pairs of an image with itself, exp(0)


def hubness(features: FloatArray, k: int = NEIGHBORS) -> float:
    """Skewness of the k-occurrence by cosine similarity (Radovanovic et al. 2010, section 2)."""
    found = nearest(features, features, k + 1)[1]
    others = found != np.arange(len(found))[:, None]
    others &= np.cumsum(others, axis=1) <= k
    counts = np.bincount(found[others], minlength=len(found)).astype(np.float64)
    deviation = counts.std()
    return float(((counts - counts.mean()) ** 3).mean() / deviation**3) if deviation else 0.0
