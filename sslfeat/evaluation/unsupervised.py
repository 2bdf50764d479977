"""Figures of an encoder's features that need no labels. Numpy and FAISS only.

Each sees one way in which features can be poor; none knows what they are for.
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

FIRST_RANK, LAST_RANK = 5, 100  # eigenvalues that the power law is fitted to, where there are as many
NEIGHBORS = 10
TEMPERATURE = 2.0
BLOCK = 2048

MEANING = {
    "rank_me": "directions in use: exp of the entropy of the singular values (RankMe, Garrido et al. 2023, section 3)",
    "alpha": "decay of the covariance's eigenvalues, i ** -alpha; near 1 is best (alpha-ReQ, Agrawal et al. 2022)",
    "uniformity": "log of the mean of exp(-2 d^2) over pairs, unit vectors; less is more even (Wang, Isola 2020, section 4)",
    "correlation": "mean |correlation| of two units; 0 for a code without redundancy (Barlow 1989)",
    "total_correlation": "nats that the units share, as if Gaussian: -1/2 log det R (Barlow 1989)",
    "predictability": "R^2 of a unit given all others, linearly; 0 for a code without redundancy (Barlow 1989)",
    "dead": "units that never change",
    "hubness": "skewness of how often an image is among others' 10 nearest; 0 is even (Radovanovic et al. 2010)",
}


@dataclass(frozen=True)
class Score:
    """See MEANING; ``images`` were measured, of ``dim`` units."""

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
    """Raise FeaturesError if there are no more images than units."""
    if images <= dim:
        raise FeaturesError(f"{counted(images, 'image')} for {dim} units: it takes more images than units")


def score(features: FloatArray) -> Score:
    """Measure features (N, D). Raises FeaturesError for no more images than units, or features that are not finite."""
    count, dim = features.shape if features.ndim == 2 else (len(features), len(features))
    check_enough(count, dim)
    if not np.isfinite(features).all():
        raise FeaturesError("some features are not finite: the encoder is broken, or overflows in a low precision")
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
    """Of several encoders' scores on the same images, each one's mean rank, 1 predicted best, over four figures.

    As their authors read them: much RankMe, alpha near 1, little uniformity and hubness. Equals share their ranks' mean.
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
    shares = shares[shares > 1e-7]  # below is rounding
    return float(np.exp(-(shares * np.log(shares)).sum()))


def alpha(features: npt.NDArray[np.floating]) -> float:
    """Exponent of the power law through eigenvalues FIRST_RANK to LAST_RANK of the covariance (Agrawal et al. 2022)."""
    values = np.linalg.eigvalsh(np.atleast_2d(np.cov(features.astype(np.float64), rowvar=False)))[::-1]
    values = values[values > 1e-12 * max(float(values[0]), np.finfo(np.float64).tiny)]
    first = min(FIRST_RANK, max(1, len(values) // 4))
    used = values[first - 1 : LAST_RANK]
    if len(used) < 2:
        return float("inf")
    ranks = np.arange(first, first + len(used))
    return float(-np.polyfit(np.log(ranks), np.log(used), 1)[0])


def uniformity(features: FloatArray) -> float:
    """Over all pairs of different images, by blocks; 0 if all are alike (Wang, Isola 2020, section 4.1.2)."""
    rows = unit(features)
    total = 0.0
    for start in range(0, len(rows), BLOCK):
        squares = 2 - 2 * (rows[start : start + BLOCK] @ rows.T)
        total += float(np.exp(-TEMPERATURE * squares).sum(dtype=np.float64))
    pairs = len(rows) * (len(rows) - 1)
    return float(np.log((total - len(rows)) / pairs))  # each image with itself counts exp(0)


def hubness(features: FloatArray, k: int = NEIGHBORS) -> float:
    """Skewness of the k-occurrence under the cosine (Radovanovic et al. 2010, section 2)."""
    found = nearest(features, features, k + 1)[1]
    others = found != np.arange(len(found))[:, None]
    others &= np.cumsum(others, axis=1) <= k
    counts = np.bincount(found[others], minlength=len(found)).astype(np.float64)
    deviation = counts.std()
    return float(((counts - counts.mean()) ** 3).mean() / deviation**3) if deviation else 0.0
